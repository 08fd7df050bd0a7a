"""Published curricula as recipe keys. What a recipe says itself comes before them.

The schedules are those of the configuration files of facebookresearch/coconut (commit 27273cb): epochs of a stage,
`c_thought`, `max_latent_stage`, effective batch 128 (here: 32 on each device; multiply by processes and accumulation
to come to 128). The published code makes a fresh optimizer for each epoch, here there is one for each level. They train
for a fixed number of epochs; what is left when the last level begins, it trains for.
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
    # 50 epochs: 5 of text (the sft section), 6 levels of 5. The longest problem has 6 steps, so all are gone in level
    # 6, and the 15 epochs that follow it are the same level.
    "coconut-prosqa": _coconut(1, 6, 5, 20),
    # 50 epochs: 5 of text, 6 levels of 5, then 15 with all steps removed.
    "coconut-prontoqa": _coconut(1, 6, 5, 15),
}
