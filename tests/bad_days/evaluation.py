"""Measurements on too little, or on what they must not look at."""

import shutil

from .day import TINY, BadDay

RL = "{finished}/rl/final"

DAYS = [
    BadDay(
        "an audit of two problems",
        ["audit", RL, "--problems", "2", "--output", "{folder}/audit.json", "--control", "{finished}/pause/final"],
        "2 problems are answered by both, 20 are needed",
        kept="the audit, whose gates are not measured",
        code=0,
        after=lambda scene: (scene.folder / "audit.json").stat(),
    ),
    BadDay(
        "calibrating on a recipe that holds no problems out",
        ["calibrate", "{folder}/model", "--recipe", TINY, "curriculum=null"],
        "Train with some held out: rl.eval_every=100 rl.eval_problems=256, or curriculum.eval_problems.",
        kept="the checkpoint",
        before=lambda scene: shutil.copytree(scene.finished / "rl" / "final", scene.folder / "model"),
    ),
    BadDay(
        "another order of the curriculum's problems",
        ["check", TINY, "curriculum.trainer.train_sampling_strategy=group_by_length"],
        "curriculum.trainer.train_sampling_strategy=group_by_length would mix the passes over the problems",
    ),
    BadDay(
        "more problems held out than there are",
        ["check", TINY, "curriculum.eval_problems=200"],
        "eval_problems=200 of the curriculum or of rl would hold out all 200 training problems. Lower it.",
    ),
]
