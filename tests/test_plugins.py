"""A noise and a thought source from a user's own file, as CONTRIBUTING.md shows it."""

import json
import re

import pytest
from conftest import ROOT

from neuralese.data.errors import UserError
from neuralese.pipeline.cli.app import main
from neuralese.pipeline.latent.noise import NOISES
from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.run.train import run

TINY = ROOT / "tests" / "tiny.yaml"
SOURCE = """
from neuralese.pipeline.latent.thoughts import Raw, Thought, register_thought_source


@register_thought_source("halved")
class Halved(Raw):
    def forward(self, hidden, model):
        return Thought(hidden / 2)
"""


def test_a_plugin_is_trained_and_sampled_with(tmp_path, capsys, monkeypatch):
    (example,) = re.findall(r"```python\n(from dataclasses.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    plugin = tmp_path / "mine.py"
    plugin.write_text(example + SOURCE)
    options = [f"output_dir={tmp_path}", "tracking.wandb=false", f"plugins=['{plugin}']", "rl.noise=uniform:0.3"]
    options += ["latent.thought_source=halved", "evaluate.sampling=[{noise: 'uniform:0.3'}]", "sft.trainer.max_steps=1"]
    rows = run(load_recipe(TINY, options))
    assert {row.noise for row in rows if row.stage == "rl"} == {None, "uniform:0.3"}
    metrics = [json.loads(line) for line in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()]
    gaps = [row["rollout/replay_gap"] for row in metrics if "rollout/replay_gap" in row]
    assert gaps and max(gaps) < 1e-4
    monkeypatch.delitem(NOISES, "uniform")  # as in a new process
    final = str(tmp_path / "tiny" / "rl" / "final")
    command = ["sample", final, "1 * 3 * 1 =", "-n", "2", "--noise", "uniform:0.3"]
    with pytest.raises(SystemExit) as refused:
        main(command)
    assert refused.value.code == 2 and "Unknown noise 'uniform:0.3'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as fine:
        main([*command, "--plugin", str(plugin)])
    assert not fine.value.code and len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(("text", "message"), [(None, "there is no file"), ("1 / 0", "ZeroDivisionError")])
def test_a_plugin_that_cannot_be_imported_is_named(tmp_path, text, message):
    plugin = tmp_path / "mine.py"
    if text is not None:
        plugin.write_text(text)
    with pytest.raises(UserError, match=rf"Plugin '{plugin}'.*{message}"):
        run(load_recipe(TINY, [f"output_dir={tmp_path}", "tracking.wandb=false", f"plugins=['{plugin}']"]))
