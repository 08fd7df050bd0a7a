"""Published curricula as recipe keys. A key that the recipe sets itself overrides the preset.

The schedules are those of the configuration files of facebookresearch/coconut (commit 27273cb), where a level is called
a stage: `epochs_per_stage`, `c_thought`, `max_latent_stage`. The published batch is 128; here it is 32 on each device,
so processes times accumulation should be 4. The published code makes a fresh optimizer for each epoch, here each level
has one. It trains a fixed number of epochs in all: the last level gets those that the levels before it leave.
"""

from __future__ import annotations

from typing import Any

_COCONUT: dict[str, Any] = {
    "promote_at": None,
    "mix_earlier": 0.0,
    "supervision": "none",
    "reset_optimizer": True,
    "trainer": {
        "per_device_train_batch_size": 32,
        "learning_rate": 1e-4,
        "weight_decay": 0.01,
        "lr_scheduler_type": "constant",
    },
}


def _coconut(latents_per_step: int, max_latents: int, epochs: int, last_epochs: int) -> dict[str, Any]:
    """A schedule of Coconut. `epochs` are those of each level but the last, which has `last_epochs`."""
    trainer = {**_COCONUT["trainer"], "num_train_epochs": epochs}
    return {
        "latent": {
            "thought_source": "raw",
            "latents_per_step": latents_per_step,
            "max_latents": max_latents,
            "delimiters": True,
        },
        "curriculum": {**_COCONUT, "trainer": trainer, "last_level_trainer": {"num_train_epochs": last_epochs}},
    }


PRESETS: dict[str, dict[str, Any]] = {
    # 25 epochs from epoch 3 on, after a text checkpoint: 3 levels of 3, then 13 with all steps removed.
    "coconut-gsm8k": _coconut(2, 6, 3, 13),
    # 50 epochs: 5 of text (the section sft), 6 levels of 5, and 15 more of level 6: the longest problem has 6 steps,
    # so level 6 replaces all.
    "coconut-prosqa": _coconut(1, 6, 5, 20),
    # 50 epochs: 5 of text, 6 levels of 5, then 15 with all steps removed.
    "coconut-prontoqa": _coconut(1, 6, 5, 15),
}
