"""A plugin: prints at which step stages begin; a job at its first start waits SLOW_AT_FIRST seconds at each step."""

import os
import time

from neuralese.pipeline.train.callbacks import ProgressCallback

usual = ProgressCallback.on_train_begin


def on_train_begin(self, args, state, control, **kwargs):
    if state.is_world_process_zero:
        print(f"{self.title} begins after step {state.global_step}", flush=True)
    usual(self, args, state, control, **kwargs)


def on_step_begin(self, args, state, control, **kwargs):
    time.sleep(float(os.environ["SLOW_AT_FIRST"]))


ProgressCallback.on_train_begin = on_train_begin
if "SLURM_RESTART_COUNT" not in os.environ and os.environ.get("SLOW_AT_FIRST"):
    ProgressCallback.on_step_begin = on_step_begin
