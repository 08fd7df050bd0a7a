"""Imports only go down: data, rewards -> latent -> curriculum, collate -> train, evaluate -> run -> cli."""

import ast
from pathlib import Path

from conftest import ROOT

LAYERS = [
    ["data"],
    ["rewards"],
    ["pipeline.latent"],
    ["pipeline.activity", "pipeline.files", "pipeline.launch", "pipeline.lock", "pipeline.main_process",
     "pipeline.metrics_file", "pipeline.whole", "pipeline.plugins", "pipeline.presets", "pipeline.section",
     "pipeline.rl_sections", "pipeline.evaluate_sections", "pipeline.sections"],
    ["pipeline.recipe", "pipeline.problems", "pipeline.schedule", "pipeline.curriculum", "pipeline.collate",
     "pipeline.reasoner", "pipeline.loading", "pipeline.wandb_run", "pipeline.tracking", "pipeline.build",
     "pipeline.score", "pipeline.swap", "pipeline.golds", "pipeline.text", "pipeline.model_folder"],
    ["pipeline.train", "pipeline.evaluate"],
    ["pipeline.validate"],
    ["pipeline.run_folder"],
    ["pipeline.run", "pipeline.preview"],
    ["pipeline.audit", "pipeline.check", "pipeline.measure"],
    ["pipeline.terminal", "pipeline.terminated"],
    ["pipeline.foreign_errors", "pipeline.border"],
    ["pipeline.cli_measure"],
    ["pipeline.cli"],
]  # fmt: skip


def layer(module: str) -> int | None:
    matches = [i for i, names in enumerate(LAYERS) for name in names if f"{module}.".startswith(f"{name}.")]
    return matches[0] if matches else None


def imported(path: Path) -> list[str]:
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    modules = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            modules += [".".join([*base, *(node.module or "").split("."), alias.name]).replace("..", ".")
                        for alias in node.names]  # fmt: skip
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("neuralese"):
            modules.append(f"absolute import of {node.module}")
    return modules


def test_imports_only_go_down():
    seen = 0
    for folder in ("data", "rewards", "pipeline"):
        for path in (ROOT / folder).rglob("*.py"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            mine = layer(module)
            if mine is None:
                assert path.name == "__init__.py", f"{module} is in no layer of this test"
                continue
            for target in imported(path):
                assert not target.startswith("absolute"), f"{module}: {target}"
                other = layer(target)
                if other is not None:
                    seen += 1
                    assert other <= mine, f"{module} imports {target} from a layer above"
    assert seen > 50


def test_rewards_and_data_do_not_know_torch():
    for folder in ("data", "rewards"):
        for path in (ROOT / folder).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not any(name.split(".")[0] in ("torch", "transformers") for name in names), path
