"""Recipes and command lines with mistakes."""

from .day import TINY, BadDay

DAYS = [
    BadDay("a mistyped key", ["check", TINY, "sft.trainr={}"], "unknown key 'sft.trainr', did you mean 'trainer'?"),
    BadDay("a recipe file that is not there", ["check", "quikstart.yaml"], "No recipe at quikstart.yaml"),
    BadDay(
        "an override without a value",
        ["check", TINY, "seed=1", "name="],
        "name: Input should be a valid string",
    ),
    *(
        BadDay(
            f"`{key}={value}`", ["check", TINY, f"{key}={value}"], f"{key}={shown or value}: {says}. Change the value."
        )
        for key, value, shown, says in (
            ("sft.trainer.learning_rate", "-1", None, "Input should be greater than or equal to 0"),
            ("sft.trainer.learning_rate", "fast", "'fast'", "Input should be a valid number"),
            ("sft.trainer.per_device_train_batch_size", "0", None, "Input should be greater than or equal to 1"),
            ("sft.trainer.gradient_accumulation_steps", "0", None, "Input should be greater than or equal to 1"),
            ("curriculum.trainer.max_steps", "0", None, "Input should be greater than or equal to 1"),
            ("curriculum.trainer.max_steps", "-5", None, "Input should be greater than or equal to 1"),
            ("curriculum.trainer.num_train_epochs", "0", None, "Input should be greater than 0"),
            ("curriculum.trainer.save_steps", "0", None, "Input should be greater than 0"),
            ("curriculum.trainer.adam_beta1", "1.0", None, "Input should be less than 1"),
            ("curriculum.trainer.warmup_steps", "-1", None, "Input should be greater than or equal to 0"),
            ("rl.trainer.top_p", "2", None, "Input should be less than or equal to 1"),
            ("rl.trainer.max_completion_length", "0", None, "Input should be greater than or equal to 1"),
            (
                "rl.trainer.loss_type",
                "ppo",
                "'ppo'",
                "Input should be 'grpo', 'bnpo', 'dr_grpo', 'dapo', 'luspo', 'cispo', 'sapo' or 'vespo'",
            ),
        )
    ),
    BadDay(
        "`rl.trainer.num_generations=1`",
        ["check", TINY, "rl.trainer.num_generations=1"],
        "rl.trainer: GRPOConfig refuses these values: GRPO requires at least 2 generations per prompt",
    ),
    BadDay(
        "`sft.trainer.packing=true`",
        ["check", TINY, "sft.trainer.packing=true"],
        "sft.trainer.packing=True does not work here: the pipeline makes rows of question and answer itself, one "
        "problem each. Remove it, or set it to False.",
    ),
    BadDay(
        "an optimizer whose library is not installed",
        ["check", TINY, "sft.trainer.optim=lomo"],
        "sft.trainer: the optimizer lomo cannot be used: ImportError: You need to install `lomo_optim`",
    ),
    BadDay(
        "an optimizer that nobody knows",
        ["check", TINY, "sft.trainer.optim=adamw9"],
        "sft.trainer: SFTConfig refuses these values: adamw9 is not a valid OptimizerNames",
    ),
    BadDay(
        "a learning-rate schedule without what it needs",
        ["check", TINY, "curriculum.trainer.lr_scheduler_type=cosine_with_min_lr"],
        "curriculum.trainer: the schedule cosine_with_min_lr cannot be used: ValueError: One of min_lr or min_lr_rate "
        "should be set through the `lr_scheduler_kwargs`",
    ),
    BadDay(
        "a DeepSpeed config that is not there",
        ["check", TINY, "sft.trainer.deepspeed=none.json"],
        "sft.trainer.deepspeed='none.json': there is no such file. Give the path of a DeepSpeed config.",
    ),
    BadDay(
        "a `report_to` of one's own",
        ["check", TINY, "sft.trainer.report_to=tensorboard"],
        "sft.trainer.report_to is set by the tracking section. Remove the key.",
    ),
    BadDay("`seed=-1`", ["check", TINY, "seed=-1"], "seed: Input should be greater than or equal to 0 (received -1)"),
    BadDay(
        "`seed=4294967296`", ["check", TINY, "seed=4294967296"], "seed: Input should be less than 4294967296 (received"
    ),
    BadDay(
        "a `hub_token` in a recipe",
        ["check", TINY, "sft.trainer.hub_token=hf_secret"],
        "sft.trainer.hub_token does not work here: tracking.push_to_hub=OWNER/NAME sends what a run ends with",
    ),
    BadDay(
        "checkpoints of RL between two draws of rollouts",
        ["check", TINY, "rl.trainer.num_iterations=3"],
        "Rollouts are drawn every 3 steps (rl.trainer: steps_per_generation, num_iterations) and are not saved",
    ),
    BadDay(
        "`rl.rollout_batch_tokens` below one rollout",
        ["check", TINY, "rl.rollout_batch_tokens=10"],
        "rl.rollout_batch_tokens=10 is less than one row takes: 8 of the longest question with its latents + 4 new "
        "tokens = 12. Set it to 12 or more, or remove it, which chooses it from the free memory.",
    ),
    BadDay(
        "`evaluate.batch_tokens` below one answer",
        ["check", TINY, "evaluate.batch_tokens=10"],
        "evaluate.batch_tokens=10 is less than one row takes: 8 of the longest question with its latents + 8 new "
        "tokens = 16. Set it to 16 or more, or remove it, which chooses it from the free memory.",
    ),
]
