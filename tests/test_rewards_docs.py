"""docs/rewards.md: its code is run, its commands are called and its recipes are read, from the page itself."""

import json
import os
import re
import shlex
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from test_cli import neuralese
from test_rewards_model import classifier

from neuralese.pipeline.recipe.schema import RLSection
from neuralese.pipeline.scoring.recipe_rewards import recipe_reward
from neuralese.rewards import BUILTIN, RewardError, check_reward

PAGE = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")


def blocks(kind, part):
    """The code blocks of one kind in the section of the page whose heading begins with `part`."""
    (section,) = [text for text in re.split(r"^##+ ", PAGE, flags=re.M) if text.lstrip("# ").startswith(part)]
    return re.findall(rf"^```{kind}\n(.*?)^```$", section, flags=re.M | re.S)


def write_code(part):
    (code,) = blocks("python", part)
    file = Path(code.splitlines()[0].removeprefix("# "))
    file.write_text(code, encoding="utf-8")
    return file


def recipe_rewards(part):
    (text,) = blocks("yaml", part)
    return RLSection.model_validate(yaml.safe_load(text)["rl"]).rewards


def check_reward_lines(capsys, part):
    """The lines that `neuralese check-reward` of a section prints: rewards as strings."""
    (text,) = blocks("bash", part)
    (command,) = [line for line in text.splitlines() if line.startswith("neuralese check-reward")]
    code, out, error = neuralese(capsys, *shlex.split(command)[1:])
    assert code == 0, error
    return re.findall(r"^ *(\S+)  '", out, flags=re.M)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def service(monkeypatch):
    """A judge on this machine that gives the length of the completion; it refuses the next `fails` requests."""
    state = {"fails": 0, "asked": []}

    class Judge(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state["asked"].append(asked)
            state["fails"] -= 1
            self.send_response(503 if state["fails"] >= 0 else 200)
            self.end_headers()
            self.wfile.write(json.dumps({"score": len(asked["completion"])}).encode())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("JUDGE_URL", f"http://127.0.0.1:{server.server_port}/score")
    yield state
    server.shutdown()
    server.server_close()


def test_a_function_with_a_column_of_its_own(capsys):
    file = write_code("Example: a function")
    assert check_reward_lines(capsys, "Example: a function") == ["1", "0.7"]
    mine, _ = recipe_rewards("Example: a function")
    assert mine.function == f"{file}:close_enough" and mine.weight == 0.5
    logged = []
    rewards = recipe_reward(mine)(
        prompts=["q"] * 4, completions=["### 17", "### 15", "### 15", "none"], answer=["17"] * 4, level=[1, 1, 4, 4],
        log_metric=lambda name, value: logged.append((name, value)),
    )  # fmt: skip
    assert rewards == [1.0, 0.0, 0.75, 0.0] and logged == [("near", 0.5)]


def test_a_service(capsys, service, monkeypatch):
    monkeypatch.setattr("neuralese.rewards.retries.FIRST_PAUSE", 0.01)
    file = write_code("Example: a service")
    assert check_reward_lines(capsys, "Example: a service") == ["5"]
    assert service["asked"] == [{"question": "3 + 4 =", "completion": "### 7"}]
    judge, _ = recipe_rewards("Example: a service")
    reward = recipe_reward(judge)
    completions = ["x" * n for n in range(20)]

    def call():
        return check_reward(reward, completions, {"question": ["q"] * 20}).rewards

    assert call() == [float(n) for n in range(20)]
    service["fails"] = 1  # one request, and so one try
    assert call() == [float(n) for n in range(20)]
    service["fails"] = 10**6
    assert call() == [None] * 20
    with pytest.raises(RewardError, match="failed with HTTPError: HTTP Error 503"):
        check_reward(f"{file}:judge", ["a"], {})


def test_a_reward_model_from_a_folder(capsys, tmp_path):
    file = write_code("Example: a reward model")
    classifier(tmp_path / "base", "pair")
    code = file.read_text()
    assert "distilbert/distilbert-base-uncased" in code
    file.write_text(code.replace("distilbert/distilbert-base-uncased", "base").replace("lr=5e-5", "lr=5e-2"))
    commands = blocks("bash", "Example: a reward model")[0].splitlines()
    assert commands[0] == f"python {file}"
    subprocess.run([sys.executable, file], check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    right, wrong = check_reward_lines(capsys, "Example: a reward model")
    assert float(right) > float(wrong)
    judge, _ = recipe_rewards("Example: a reward model")
    found = recipe_reward(judge)(prompts=["3 + 4 ="], completions=["### 7"])
    assert found == pytest.approx([float(right)], abs=1e-4)


def test_the_rest_of_the_page(capsys):
    assert check_reward_lines(capsys, "Trying a reward") == ["1", "0"]
    assert [reward.weight for reward in recipe_rewards("Rewards")] == [1.0, 0.5, 0.1]
    (table,) = [text for text in re.split(r"^## ", PAGE, flags=re.M) if text.startswith("Built in")]
    assert set(re.findall(r"^\| `(\w+)`", table.partition("\n### ")[0], flags=re.M)) == set(BUILTIN)
