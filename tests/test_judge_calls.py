"""An external judge is asked about each sample once, however many processes there are."""

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from processes import batches, launch

pytestmark = [pytest.mark.launch, pytest.mark.slow]
CLIENT = """
import json, urllib.request

def _ask(kind, prompts, completions):
    body = json.dumps([[kind, *pair] for pair in zip(prompts, completions)]).encode()
    with urllib.request.urlopen("http://127.0.0.1:{port}", body) as answer:
        return json.loads(answer.read())

def scorer(prompts, completions, **_):
    return _ask("scorer", prompts, completions)

def chooser(prompts, completions, **_):
    return _ask("chooser", prompts, completions)

def reward(prompts, completions, **_):
    return _ask("reward", prompts, completions)
"""


class Judge(ThreadingHTTPServer):
    """A service that gives each answer 0 or 1, whatever the question, and keeps what it was asked."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = Counter()

    def take(self):
        """How often each (kind, question, answer) was judged since the last call."""
        taken, self.asked = self.asked, Counter()
        return taken


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.update(map(tuple, rows))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps([sum(text.encode()) % 2 for *_, text in rows]).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def judge(tmp_path):
    """The service, and the file of the rewards that ask it."""
    with Judge() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        (tmp_path / "client.py").write_text(CLIENT.replace("{port}", str(server.server_port)))
        yield server, tmp_path / "client.py"
        server.shutdown()
        thread.join()


def of_kind(asked):
    counts = Counter()
    for (kind, *_), count in asked.items():
        counts[kind] += count
    return counts


def test_an_evaluation_an_audit_and_a_reward_model_judge_each_sample_once(one_process, judge, tmp_path):
    folder, (server, client) = one_process[0], judge
    scored = f"evaluate.scorer={client}:scorer"
    chosen = [f"evaluate.selection_reward={{function: '{client}:chooser'}}", "evaluate.selectors=[reward]"]
    commands = {
        "eval": [scored, *chosen, "evaluate.problems=19"],
        "audit": [scored, "--problems", "12"],
        "reward-model": [scored, "--problems", "20", "--thoughts", "4", "--temperature", "1", "--noise", "gaussian:2"],
    }
    for command, options in commands.items():
        asked = {}
        for config in ("cpu", "ddp"):
            output = tmp_path / f"{command}-{config}"
            launch(config, "--module", "neuralese.pipeline.cli", command, folder, *options, "--output", output)
            assert output.exists()
            asked[config] = server.take()
        assert asked["ddp"] == asked["cpu"] and asked["cpu"], command
        if command == "eval":  # 4 samples in 5 settings: noise where there are latents, and temperature
            assert of_kind(asked["cpu"])["chooser"] == 5 * 4 * 19


def test_training_judges_each_rollout_and_held_out_answer_once(judge, tmp_path):
    server, client = judge
    options = [
        f"evaluate.scorer={client}:scorer", f"rl.rewards=[{{function: '{client}:reward'}}]", "rl.eval_every=2",
        "rl.eval_problems=7", "tracking.report_to=none", "evaluate.problems=5",
    ]  # fmt: skip
    counts = {}
    for config, size, accumulation in (("cpu", 16, 2), ("ddp", 8, 1)):
        sized = [f"rl.trainer.per_device_train_batch_size={size}", *batches(4, accumulation)]
        output = f"output_dir={tmp_path / config}"
        launch(config, "scripts/train.py", "tests/tiny.yaml", output, *options, *sized)
        counts[config] = of_kind(server.take())
    assert counts["ddp"] == counts["cpu"]
    assert counts["ddp"]["reward"] == 4 * 16  # rollouts of all optimizer steps
