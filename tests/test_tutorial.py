"""The tutorial's commands, as they stand there, on few problems and a small random model."""

import re
import runpy
import shlex

import pytest
from conftest import ROOT
from test_real_recipes import chat_model

from neuralese.data.loading import load_problems
from neuralese.pipeline.cli.app import main

PAGE = ROOT / "docs" / "tutorial.md"
SMALL = [
    "model.dtype=float32", "data.train.limit=60", "data.eval.limit=20", "evaluate.bootstrap=20",
    "evaluate.max_new_tokens=80",
    "curriculum.eval_every=1", "curriculum.eval_problems=4", "curriculum.trainer.max_steps=1",
    "curriculum.trainer.per_device_train_batch_size=2", "curriculum.last_level_trainer.max_steps=1",
]  # fmt: skip
OF_STAGES = {
    "text": ["sft.trainer.max_steps=1", "sft.trainer.per_device_train_batch_size=2"],
    "rl": [
        "rl.trainer.max_steps=1",
        "rl.trainer.per_device_train_batch_size=8",
        "rl.trainer.max_completion_length=12",
        "rl.eval_problems=4",
    ],
}


def commands():
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("neuralese ")]


def test_its_commands_run(tmp_path, monkeypatch):
    for file in (ROOT / "docs" / "tutorial").iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    monkeypatch.chdir(tmp_path)
    runpy.run_path("problems.py", run_name="__main__")
    chat_model("smollm2")(tmp_path / "model", [])
    done = []
    for command, *arguments in commands():
        name = next((word.removeprefix("name=") for word in arguments if word.startswith("name=")), None)
        if command in ("train", "check"):
            given = [word for word in SMALL if not (name in ("text", "rl") and word.startswith("curriculum."))]
            arguments = [*arguments, *given, *OF_STAGES.get(name, [])]
            if not any(word.startswith("model.name_or_path=") for word in arguments):
                arguments.append(f"model.name_or_path={tmp_path / 'model'}")
        with pytest.raises(SystemExit) as ended:
            main([command, *arguments])
        assert ended.value.code == 0, (command, arguments)
        done.append(name or command)
    assert done == ["check", "text", "no_cot", "latent", "audit", "pause", "audit", "think", "rl"]


def test_its_problems_are_solved_by_their_steps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "docs" / "tutorial" / "problems.py"), run_name="__main__")
    problems = load_problems(path="eval.jsonl")
    assert len(problems) == 200
    for problem in problems:
        ball = re.search(r"under the (\w+) cup", problem.question)[1]
        for (one, other), step in zip(
            re.findall(r"Swap (\w+) and (\w+)", problem.question), problem.steps, strict=True
        ):
            ball = {one: other, other: one}.get(ball, ball)
            assert ball == step
        assert ball == problem.answer
