"""Measures Best-of-N: python scripts/best_of_n.py docs/results/best_of_n/plan.yaml [--task NAME] [--seed N] [--render]

For each task, seed and stage of the file this trains a latent reward model on thoughts of training problems and
measures the checkpoint with samples, selectors, beams and trees. A search is as large as the budget of the file allows.
Rows of results are kept beside the file and not measured again. `--render` prints them as Markdown.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import yaml
from accelerate import PartialState
from pydantic import BaseModel, ConfigDict, model_validator
from sweep_cells import current_commit
from sweep_table import interval, interval_of

from neuralese.pipeline.evaluate.audit.interventions import answer
from neuralese.pipeline.evaluate.measure import Measurement, read_results
from neuralese.pipeline.evaluate.settings import SENSITIVE_PROBLEMS, most_sensitive
from neuralese.pipeline.evaluate.table import setting_name
from neuralese.pipeline.model.load import load_reasoner
from neuralese.pipeline.problems.load import draw_training, load_all
from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.recipe.schema import EvaluateSection
from neuralese.pipeline.run.results import evaluate_checkpoint
from neuralese.pipeline.scoring.latent_reward_training import draw_thoughts, train_latent_reward
from neuralese.pipeline.scoring.sampling_setting import Setting
from neuralese.pipeline.scoring.selectors import selector_name

EPOCHS, LEARNING_RATE = 30, 1e-3  # the defaults of `neuralese reward-model`
SELECTORS = ("majority", "likelihood", "latent_weighted", "latent_reward", "agreement")
# Label -> (samples, metric) to compare with the majority of `budget` samples, both under the first noise.
GAINS = {
    "greedy, one answer": ("greedy", "accuracy"),
    "samples, latent weighted": ("{noise}, T 0", "latent_weighted@k"),
    "samples, latent reward": ("{noise}, T 0", "latent_reward@k"),
    "samples, likelihood": ("{noise}, T 0", "likelihood@k"),
    "beam of 8, majority": ("beam of 8, {noise}", "maj@k"),
    "beam of 8, likelihood": ("beam of 8, {noise}", "likelihood@k"),
    "beam of 4, majority": ("beam of 4, {noise}", "maj@k"),
    "beam of 4, likelihood": ("beam of 4, {noise}", "likelihood@k"),
    "tree at the first latent, latent reward": ("tree at the first latent, {noise}", "latent_reward@k"),
    "tree at the most sensitive latent, latent reward": (
        "tree at the most sensitive latent, {noise}",
        "latent_reward@k",
    ),
    "tree at each latent, latent weighted": ("tree at each latent, {noise}", "latent_weighted@k"),
}
CHOSEN = ("maj@k", "likelihood@k", "latent_weighted@k", "latent_reward@k", "pass@k")


class Plan(BaseModel):
    """What to measure: docs/results/best_of_n/plan.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    seeds: list[int]
    budget: int
    noises: list[str]
    num_samples: int
    k: list[int]
    problems: int
    reward_problems: int
    reward_thoughts: int
    tasks: dict[str, str]
    stages: dict[str, str]

    @model_validator(mode="after")
    def _budget_is_measured(self) -> Plan:
        if self.budget not in self.k:
            raise ValueError(f"budget={self.budget} must be one of k={self.k}, at which samples are chosen")
        return self


def measure(plan: Plan, run: Path, stage: str, output: Path) -> None:
    """Trains the latent reward model of one checkpoint, measures the checkpoint and writes the rows to `output`."""
    recipe, checkpoint = load_recipe(run / "recipe.yaml", []), run / stage / "final"
    data = load_all(recipe)
    reasoner = load_reasoner(checkpoint, dtype=recipe.model.dtype)
    reasoner.model.to(PartialState().device)
    base = recipe.evaluate.model_copy(update={"problems": plan.problems, "num_samples": plan.num_samples, "k": plan.k})
    judged = run / f"latent_reward-{stage}"
    thoughts = draw_thoughts(
        reasoner,
        draw_training(data.train, plan.reward_problems, recipe.seed),
        Setting(plan.reward_thoughts, plan.noises[0]),
        base,
        recipe.seed,
    )
    head, report = train_latent_reward(thoughts, EPOCHS, LEARNING_RATE, recipe.seed)
    head.save_pretrained(judged)
    problems = data.evaluation[: plan.problems]
    found: list[dict[str, Any]] = []
    place: int | None = None
    if reasoner.config.mode == "sequential":  # else no latent is made before another, where a search could branch
        sure = answer(reasoner, problems[:SENSITIVE_PROBLEMS], base)
        place = most_sensitive(reasoner, base, problems)
        found = list(searches(plan, reasoner.config.num_latents, mean(map(len, sure.token_ids)), place))
    section = EvaluateSection.model_validate(
        {
            **base.model_dump(),
            "sampling": [
                *({"noise": noise} for noise in plan.noises),
                {"temperature": 1.0},
                {"noise": plan.noises[0], "temperature": 1.0},
            ],
            "search": found,
            "selectors": SELECTORS,
            "latent_reward": str(judged),
        }
    )
    measured = recipe.model_copy(update={"evaluate": section})
    rows = evaluate_checkpoint(measured, checkpoint, stage, problems)
    output.with_suffix(".reward.json").write_text(
        json.dumps({"commit": current_commit(), "sensitive": place, **asdict(report)})
    )
    # A row a line: there are many.
    output.write_text("[\n" + ",\n".join(json.dumps(asdict(row)) for row in rows) + "\n]\n")


def searches(plan: Plan, num_latents: int, tokens: float, place: int) -> Iterator[dict[str, Any]]:
    """Keys of beams and trees that cost no more latents and tokens than `plan.budget` samples.

    A search has at least 2 children, even where that costs more.

    Args:
        tokens: Mean tokens of an answer.
        place: The latent to which answers are most sensitive, from 1.
    """
    budget = plan.budget * (num_latents + tokens)
    for noise in plan.noises:
        for width in (4, 8):
            children = int((budget - width * tokens) / (width * num_latents))
            yield {"kind": "beam", "noise": noise, "width": width, "children": max(2, children)}
        for at in sorted({1, place}):
            children = int((budget - (at - 1)) / (num_latents - at + 1 + tokens))
            yield {"kind": "tree", "noise": noise, "at": at, "children": max(2, children)}
        yield {"kind": "tree", "noise": noise, "at": "each", "children": 2}


@dataclass(frozen=True)
class Run:
    """One measured checkpoint.

    Attributes:
        named: Rows by the words for how their samples were drawn. A row may have two names.
        commit: Commit of the measurement.
    """

    named: dict[str, list[Measurement]]
    commit: str

    @classmethod
    def read(cls, file: Path) -> Run:
        about = json.loads(file.with_suffix(".reward.json").read_text())
        named: dict[str, list[Measurement]] = {}
        for row in read_results(file):
            for name in names(row, about["sensitive"]):
                named.setdefault(name, []).append(row)
        return cls(named, about["commit"])

    def find(self, name: str, metric: str, k: int | None) -> Measurement | None:
        """The row of a metric at k (None: at any k), or None."""
        rows = self.named.get(name, [])
        return next((row for row in rows if row.metric == metric and k in (None, row.k)), None)


def names(row: Measurement, place: int | None) -> list[str]:
    """Words for how samples were drawn. They leave out the size of a search, which follows from the budget."""
    if row.search is None:
        return [setting_name(row)]
    if row.search.startswith("beam"):
        return [f"beam of {row.search.removeprefix('beam').partition('x')[0]}, {row.noise}"]
    at = row.search.partition("at")[2]
    places = {"": ["each latent"], str(place): ["the most sensitive latent"]}.get(at, [])
    places += ["the first latent"] if at == "1" else []
    return [f"tree at {where}, {row.noise}" for where in places]


def render(plan: Plan, folder: Path) -> str:
    """The tables of what was measured."""
    found: dict[str, list[Run]] = {}
    lines: list[str] = []
    for task in plan.tasks:
        for stage, label in plan.stages.items():
            files = [folder / f"{task}-{stage}-seed{seed}.json" for seed in plan.seeds]
            runs = [Run.read(file) for file in files if file.is_file()]
            if runs:
                found[f"{task}, {label}"] = runs
                seeds = "one seed" if len(runs) == 1 else f"{len(runs)} seeds"
                greedy = _cell(runs, "greedy", "accuracy", 1)
                about = f"{seeds}, {plan.problems} problems, commit {', '.join(sorted({run.commit for run in runs}))}"
                lines += [f"**{task}, {label}** ({about}). Greedy: {greedy}.", ""]
                lines += [*_samples_table(plan, runs), "", *_chosen_table(plan, runs), ""]
    return "\n".join([*_gains_table(plan, found), "", *lines])


def _gains_table(plan: Plan, found: dict[str, list[Run]]) -> list[str]:
    """Mean difference to the majority of `budget` samples, paired by seed, and its interval over seeds."""
    noise = plan.noises[0]
    lines = _head([f"gain over the majority of {plan.budget}", *found])
    for label, (name, metric) in GAINS.items():
        named = name.format(noise=noise)
        cells = []
        for runs in found.values():
            pairs = [
                (run.find(named, metric, plan.budget if named.endswith("T 0") else None),
                 run.find(f"{noise}, T 0", "maj@k", plan.budget))
                for run in runs
            ]  # fmt: skip
            gains = [row.value - base.value for row, base in pairs if row is not None and base is not None]
            low, high = interval(gains) if len(gains) > 1 else (float("nan"), float("nan"))
            cells.append(f"{mean(gains):+.3f} [{low:+.3f}, {high:+.3f}]" if gains else "")
        lines.append(_line([label, *cells]))
    return lines


def _samples_table(plan: Plan, runs: list[Run]) -> list[str]:
    """pass@k of samples that are drawn apart from each other, and the AUROC of their agreement."""
    lines = _head(["samples", *(f"pass@{k}" for k in plan.k), f"agreement of {plan.num_samples}"])
    for name in _settings(runs, is_search=False):
        cells = [_cell(runs, name, "pass@k", k) for k in plan.k]
        lines.append(_line([name, *cells, _cell(runs, name, "agreement@k", plan.num_samples)]))
    return lines


def _chosen_table(plan: Plan, runs: list[Run]) -> list[str]:
    """What selectors reach on `budget` samples, and on searches that cost no more."""
    lines = _head(["chosen of", "n", *(selector_name(metric) for metric in CHOSEN), "latents", "tokens"])
    for is_search in (False, True):
        k = None if is_search else plan.budget
        for name in _settings(runs, is_search):
            cells = [_cell(runs, name, metric, k) for metric in CHOSEN]
            rows = [row for run in runs if (row := run.find(name, "pass@k", k)) is not None]
            spent = [mean(row.latents or 0 for row in rows), mean(row.tokens or 0 for row in rows)]
            count = ", ".join(map(str, sorted({row.k for row in rows})))
            lines.append(_line([name, count, *cells, *(f"{cost:.0f}" for cost in spent)]))
    return lines


def _settings(runs: list[Run], is_search: bool) -> list[str]:
    found = [name for run in runs for name, rows in run.named.items() if bool(rows[0].search) == is_search]
    return [name for name in dict.fromkeys(found) if name != "greedy"]


def _cell(runs: list[Run], name: str, metric: str, k: int | None) -> str:
    """Mean and 95% interval over seeds, with the number of seeds where some lack the row."""
    rows = [row for run in runs if (row := run.find(name, metric, k)) is not None]
    if not rows:
        return ""
    few = f" ({len(rows)} of {len(runs)} seeds)" if len(rows) < len(runs) else ""
    if len(rows) == 1:
        return f"{rows[0].value:.3f}{few}"
    low, high = interval_of(rows)
    return f"{mean(row.value for row in rows):.3f} [{low:.3f}, {high:.3f}]{few}"


def _head(cells: list[str]) -> list[str]:
    return [_line(cells), "|" + "---|" * len(cells)]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--task")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--render", action="store_true", help="print the tables of what is there")
    given = parser.parse_args()
    plan = Plan.model_validate(yaml.safe_load(given.file.read_text()))
    folder = given.file.parent
    if given.render:
        print(render(plan, folder))
        return
    for task, run in plan.tasks.items():
        for seed in plan.seeds:
            for stage in plan.stages:
                output = folder / f"{task}-{stage}-seed{seed}.json"
                if given.task in (None, task) and given.seed in (None, seed) and not output.is_file():
                    measure(plan, Path(run.format(seed=seed)), stage, output)
                    print(f"Written      {output}")


if __name__ == "__main__":
    main()
