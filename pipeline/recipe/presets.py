"""Published curricula as recipe keys. A key that the recipe sets itself overrides the preset.

The published batch is 128; here it is 32 on each device, so processes times accumulation should be 4. The published
code trains a fixed number of epochs in all: the last level gets those that the levels before it leave.

The schedules of Coconut are those of the configuration files of facebookresearch/coconut (commit 27273cb), where a
level is called a stage: `epochs_per_stage`, `c_thought`, `max_latent_stage`. The published code makes a fresh optimizer
for each epoch, here each level has one.

Those of LOTUS are those of yingfan-bot/lotus (commit eb77e2f). It begins from a text checkpoint (the section sft), and
trains it on text for one more epoch, then a level an epoch. Of its six levels the last leaves text steps beyond the
sixth where they are, while here the last level has no text. For Llama it labels block k in loop k alone; for GPT-2, and
here for both, all blocks are labelled in the last pass.
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


def _lotus(latents_per_step: int, epochs: int) -> dict[str, Any]:
    """A schedule of LOTUS. `epochs` are those of all levels together, without the one on text."""
    return {
        "latent": {
            "mode": "looped",
            "loops": "blocks",
            "thought_source": "raw",
            "latents_per_step": latents_per_step,
            "max_latents": 6 * latents_per_step,
            "delimiters": True,
        },
        "curriculum": {
            **_COCONUT,
            "steps_per_level": [1, 1, 1, 1, 1, "all"],
            "supervision": "step_tokens",
            "supervision_weight": 0.05,
            "reset_optimizer": False,
            "trainer": {**_COCONUT["trainer"], "num_train_epochs": 1},
            "last_level_trainer": {"num_train_epochs": epochs - 5},
        },
    }


PRESETS: dict[str, dict[str, Any]] = {
    # 25 epochs from epoch 3 on, after a text checkpoint: 3 levels of 3, then 13 with all steps removed.
    "coconut-gsm8k": _coconut(2, 6, 3, 13),
    # 50 epochs: 5 of text (the section sft), 6 levels of 5, and 15 more of level 6: the longest problem has 6 steps,
    # so level 6 replaces all.
    "coconut-prosqa": _coconut(1, 6, 5, 20),
    # 50 epochs: 5 of text, 6 levels of 5, then 15 with all steps removed.
    "coconut-prontoqa": _coconut(1, 6, 5, 15),
    # 30 epochs for GPT-2 and 100 for Llama-3.2-1B, the first of them on text.
    "lotus-gsm8k-gpt2": _lotus(13, 29),
    "lotus-gsm8k-llama": _lotus(25, 99),
}
