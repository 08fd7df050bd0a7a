"""Models and data that are downloaded from a hub by their ids, with the code that asks the real one."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from hub_server import hub
from text_tokenizers import gpt2_like
from tiny_gguf import write_gguf

MODELS = {
    "gguf": ["model.name_or_path=org/file", "model.gguf_file=tiny.gguf"],
    "folder": ["model.name_or_path=org/folder"],
}
DATA = ["data.train={dataset: org/sums}", "data.eval={dataset: org/sums, split: test, streaming: true, limit: 8}"]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Repositories: org/file, a GGUF file; org/folder, the same model as safetensors; org/sums, problems."""
    repositories = tmp_path_factory.mktemp("repositories")
    models, sums = repositories / "models" / "org", repositories / "datasets" / "org" / "sums"
    (models / "file").mkdir(parents=True)
    model = write_gguf(models / "file" / "tiny.gguf")
    model.save_pretrained(models / "folder")
    gpt2_like().save_pretrained(models / "folder")
    sums.mkdir(parents=True)
    for split, numbers in (("train", range(10, 50)), ("test", range(50, 90))):
        rows = [{"question": f"{n} + 5 =", "steps": [f"{n} + 5"], "answer": str(n + 5)} for n in numbers]
        (sums / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return repositories


def train(folder, *overrides, endpoint="", offline="0"):
    """Trains the recipe of tests by the command line, in a process of its own, without the hub cache of this one."""
    caches = {name: str(folder / name) for name in ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE")}
    environment = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": offline, "NO_PROXY": "127.0.0.1", **caches}
    fixed = ["model.config=null", *DATA, "curriculum=null", "rl=null", "tracking.wandb=false", f"output_dir={folder}"]
    return subprocess.run(
        [sys.executable, "-m", "neuralese.pipeline.cli", "train", "tests/tiny.yaml", *fixed, *overrides],
        env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


def losses(folder, name):
    return [json.loads(row).get("loss") for row in (folder / name / "metrics.jsonl").read_text().splitlines()]


def test_runs_from_hub_ids_and_one_without_the_hub(tmp_path, served):
    with hub(served) as (endpoint, asked):
        for kind, model in MODELS.items():
            done = train(tmp_path, *model, f"name={kind}", endpoint=endpoint)
            assert done.returncode == 0, done.stderr
    got = {path.rsplit("/", 1)[1] for command, path in asked if command == "GET" and "/resolve/" in path}
    assert got >= {"tiny.gguf", "config.json", "model.safetensors", "tokenizer.json", "train.jsonl", "test.jsonl"}
    again = train(tmp_path, *MODELS["folder"], "data.eval.streaming=false", "name=again", offline="1")
    assert again.returncode == 0, again.stderr
    assert losses(tmp_path, "again") == losses(tmp_path, "folder") == losses(tmp_path, "gguf")
    assert any(losses(tmp_path, "again"))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["model.name_or_path=org/file", "model.gguf_file=tyni.gguf"],
            "There are tiny.gguf, did you mean 'tiny.gguf'?",
        ),
        (
            [*MODELS["folder"], "data.train.dataset=org/sum"],
            "Dataset 'org/sum' doesn't exist on the Hub or cannot be accessed. Check the spelling",
        ),
        (["model.name_or_path=gated/folder"], "the hub gives it to those alone whom it has granted access"),
    ],
)
def test_what_the_hub_does_not_give_is_said(tmp_path, served, overrides, expected):
    with hub(served) as (endpoint, _):
        done = train(tmp_path, *overrides, endpoint=endpoint)
    assert done.returncode == 2 and expected in " ".join(done.stderr.split())
