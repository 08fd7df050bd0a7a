"""One RL step on recorded rollouts, for test_distributed.py: recorded_step.py KIND BASE ROLLOUTS OUTPUT ACCUMULATION

KIND is ppo, looped (a model with looped latents, replayed by GRPO), or an estimator of GRPO.

SGD with learning rate 1 and no clipping, so that the change of the weights is the gradient.
"""

import json
import sys
from pathlib import Path

from datasets import Dataset

from neuralese.pipeline.cli.terminal import quiet

quiet()

from safetensors.torch import load_file
from trl import GRPOConfig

from neuralese.pipeline import load_reasoner
from neuralese.pipeline.latent import parse_noise
from neuralese.pipeline.system.processes import join_processes, leave_processes
from neuralese.pipeline.train.rl.estimators import parse_estimator
from neuralese.pipeline.train.rl.grpo import LatentGRPOTrainer
from neuralese.pipeline.train.rl.ppo import Critic, LatentPPOTrainer
from neuralese.pipeline.train.rl.rollouts import RolloutSettings

ROLLOUTS = 16


class Recorded:
    """Takes its share of recorded rollouts instead of sampling."""

    def _generate_and_score_completions(self, inputs):
        share = ROLLOUTS // self.accelerator.num_processes
        mine = slice(self.accelerator.process_index * share, (self.accelerator.process_index + 1) * share)
        return {key: value if value.dim() == 0 else value[mine] for key, value in recorded.items()}


kind, base, rollouts, output, accumulation = sys.argv[1:]
recorded = load_file(rollouts)
processes = join_processes().num_processes
args = GRPOConfig(
    output_dir=output, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", disable_tqdm=True,
    remove_unused_columns=False, disable_dropout=True, save_strategy="no", max_steps=1, logging_steps=1,
    optim="sgd", learning_rate=1.0, lr_scheduler_type="constant", max_grad_norm=0.0, num_generations=4,
    per_device_train_batch_size=ROLLOUTS // processes // int(accumulation),
    gradient_accumulation_steps=int(accumulation), loss_type=Path(output).suffix.strip("."),
)  # fmt: skip
settings = RolloutSettings(
    parse_noise("gaussian:0.4"), parse_estimator("replay" if kind in ("ppo", "looped") else kind)
)
base_trainer = LatentPPOTrainer if kind == "ppo" else LatentGRPOTrainer
trainer = type("RecordedTrainer", (Recorded, base_trainer), {})(
    load_reasoner(base),
    settings,
    *([Critic()] if kind == "ppo" else []),
    reward_funcs=[lambda completions, **columns: [0.0] * len(completions)],
    args=args,
    train_dataset=Dataset.from_list([{"prompt": "1 + 2 ="}] * ROLLOUTS),
)
trainer.train()
trainer.save_model(output)
if trainer.accelerator.is_main_process:
    loss = next(row["loss"] for row in trainer.state.log_history if "loss" in row)
    report = {"loss": loss, "processes": processes, "type": str(trainer.accelerator.distributed_type)}
    (Path(output) / "report.json").write_text(json.dumps(report))
leave_processes()
