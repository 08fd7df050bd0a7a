"""`neuralese train` that waits or dies once a stage's third step is done: `paused_run.py FILE ARGUMENTS...`.

It waits until FILE is there; with the word die in place of FILE it dies as under SIGKILL.
"""

import os
import sys
import time
from pathlib import Path

from neuralese.pipeline.cli.app import main
from neuralese.pipeline.cli.terminal import quiet

quiet()  # before libraries are loaded, as commands do
from neuralese.pipeline.train import callbacks  # noqa: E402

file = sys.argv[1]


def stop_after_three(self, args, state, control, **kwargs):
    while state.global_step == 3 and not Path(file).exists():
        if file == "die":
            os._exit(9)
        time.sleep(0.05)


callbacks.ProgressCallback.on_step_end = stop_after_three
main(sys.argv[2:])
