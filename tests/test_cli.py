"""What a user sees: output of each command, and one paragraph without a stack trace for each mistake."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT
from waiting import LONG

from neuralese.data.problem import Problem
from neuralese.pipeline.cli.app import main
from neuralese.pipeline.cli.check_output import plan_rows
from neuralese.pipeline.cli.preview import render_line
from neuralese.pipeline.cli.recipes import packaged_recipes
from neuralese.pipeline.problems.encode import encode
from neuralese.pipeline.problems.format import Format
from neuralese.pipeline.problems.load import load_all
from neuralese.pipeline.problems.schedule import Level
from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.run.train import run

TINY = str(ROOT / "tests" / "tiny.yaml")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    run(load_recipe(TINY, [f"output_dir={folder}", "tracking.wandb=false"]))
    return folder / "tiny"


def neuralese(capsys, *arguments):
    """Runs the command in this process; returns (exit code, what it printed, what it complained)."""
    try:
        main([str(argument) for argument in arguments])
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def assert_one_paragraph(result, message):
    code, _, error = result
    assert code == 2
    assert message in " ".join(error.split())
    assert "Traceback" not in error and len(error.strip().splitlines()) == 1


def test_a_line_end_in_what_a_decoder_learns_is_a_sign(make, monkeypatch):
    reasoner = make(num_latents=1, supervision="decoder")
    (encoded,) = encode([Problem("1 + 2 =", ("3",), "3")], reasoner.tokenizer, reasoner.config)
    monkeypatch.setattr(reasoner.tokenizer, "decode", lambda ids: "3\n")
    line = render_line(Format(reasoner.config, eos_token_id=0), encoded, Level(1, 1, 1), reasoner.tokenizer)
    assert str(line).splitlines()[1] == "    decoder: [3⏎]"


def test_check_prints_recipe_and_plan_and_trains_nothing(capsys, tmp_path):
    code, out, _ = neuralese(capsys, "check", TINY, f"output_dir={tmp_path}", "controls.pause=true")
    assert code == 0
    assert "promote_at: 0.95" in out  # resolved: a default is shown
    for words in ("sft", "curriculum 1", "curriculum 2", "pause 2", "at most 4", "rl"):
        assert words in out
    assert not (tmp_path / "tiny").exists()
    rows = plan_rows(load_recipe(TINY, ["controls.more_supervised=true", "rl.trainer.max_steps=7"]), None)
    assert rows[-1] == ["more_supervised 1", "7", "8", "all", "1"]


def test_check_shows_examples_of_every_level(capsys, tmp_path):
    """Token by token: what stands where, and what carries loss, for prose split into sentences."""
    path = tmp_path / "prose.jsonl"
    row = {"question": "How many ?", "steps": "Two and two . That is four .", "answer": "4"}
    path.write_text("".join(json.dumps(row | {"question": f"{i} How many ?"}) + "\n" for i in range(40)))
    data = [f"data.{part}={{path: '{path}', step_splitter: sentence}}" for part in ("train", "eval")]
    data.append("data.keep_overlap=true")
    code, out, _ = neuralese(capsys, "check", TINY, *data, "curriculum.supervision=decoder")
    assert code == 0
    lines = [line.strip() for line in out.splitlines()]
    # 16 of the rows are held out by seed, the first three not among them.
    text = "0 How many ? [Two] [and] [two] [.] [That] [is] [four] [.] [###] [4] [<|end|>]"
    assert lines[lines.index("level 0") + 1] == text
    assert lines[lines.index("level 1") + 1] == "0 How many ? ▪ [That] [is] [four] [.] [###] [4] [<|end|>]"
    assert lines[lines.index("level 1") + 2] == "decoder: [Two and two . <|end|>]"
    last = lines.index("level 2")
    assert lines[last + 1] == "0 How many ? ▪ ▪ [###] [4] [<|end|>]"
    assert lines[last + 4].startswith("1 How many ?") and lines[last + 7].startswith("2 How many ?")
    code, out, _ = neuralese(capsys, "check", TINY)
    assert "▪[" in out  # next-step supervision: a latent with the token its state predicts
    distilled = neuralese(capsys, "check", TINY, *data, "curriculum.supervision=distillation")[1]
    lines = [line.strip() for line in distilled.splitlines()]
    assert lines[lines.index("level 1") + 1 :][:3] == [
        "0 How many ? ▪ [That] [is] [four] [.] [###] [4] [<|end|>]",
        f"teacher:  {text}",
        "distillation: [state at ### drawn to the teacher's at ###]",
    ]
    stopping = ["latent.stop_head=true", "curriculum.pad_latents=false", "rl=null"]
    assert "stop head: [go on at every latent, stop at the last]" in neuralese(capsys, "check", TINY, *stopping)[1]


def test_check_finds_what_training_would_refuse(capsys, tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [{"question": f"{i} + 0 =", "steps": [f"{i} + 0"], "answer": str(i)} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = [f"data.{part}={{path: '{path}'}}" for part in ("train", "eval")] + ["data.keep_overlap=true"]
    for overrides, message in (
        (["data.eval={path: nowhere.jsonl}"], "nowhere.jsonl"),
        ([*data, "curriculum.supervision=next_step"], f"Step '0 + 0' of {path}, line 1 has 3 tokens"),
        (["evaluate.max_new_tokens=30"], "context window of 32"),
        (["model.config.n_heads=2"], "did you mean 'n_head'"),
    ):
        assert_one_paragraph(neuralese(capsys, "check", TINY, *overrides), message)


def test_the_plan_without_the_data(tmp_path):
    """A hub dataset is not downloaded, so the plan has the levels that the schedule names."""
    hub = ["data.train={dataset: some/data}", "rl=null", "sft=null", "latent.latents_per_step=2"]
    for overrides, latents in (
        ([], ["2"]),
        (["latent.max_latents=4"], ["2", "4", "4"]),
        (["curriculum.steps_per_level=[1, 2]"], ["2", "6"]),
        (["curriculum.steps_per_level=[1, 2, all]"], ["2", "6", "8"]),
        (["curriculum.steps_per_level=[1, 2]", "latent.max_latents=4"], ["2", "4"]),
        (["curriculum.steps_per_level=[1, 1, 1, 1]", "latent.max_latents=4"], ["2", "4", "4"]),
    ):
        rows = plan_rows(load_recipe(TINY, [*hub, *overrides]), None)
        assert [row[-1] for row in rows] == latents, overrides
    batches = ["curriculum.last_level_trainer={per_device_train_batch_size: 5}", "latent.max_latents=4"]
    rows = plan_rows(load_recipe(TINY, [*hub, *batches]), None)
    assert [row[2] for row in rows] == ["8", "8", "5"]


def test_evaluation_questions_that_are_trained_on_are_warned_of(capsys, caplog, tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [{"question": f"{i} + 0 =", "steps": [str(i)], "answer": str(i)} for i in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *rows]))
    data = [f"data.{part}={{path: '{path}'}}" for part in ("train", "eval")] + ["data.keep_overlap=true"]
    options = ["curriculum.eval_problems=4", "rl=null", f"output_dir={tmp_path}", "tracking.wandb=false"]
    problems = load_all(load_recipe(TINY, [*data, *options]))
    asked, trained = ({problem.question for problem in part} for part in (problems.held_out, problems.train))
    assert len(problems.held_out) == 4 and len(asked) + len(trained) == 9 and not asked & trained
    first = next(f"{i} + 0 =" for i in range(9) if f"{i} + 0 =" in trained)
    count = 2 * len(trained)
    assert f"{count} of 18 evaluation questions are also training questions, the first: '{first}'" in caplog.text


def test_check_takes_several_recipes(capsys):
    code, out, _ = neuralese(capsys, "check", TINY, ROOT / "recipes" / "gsm8k_gpt2.yaml")
    assert code == 0
    assert "curriculum 4" in out and "whynlp/gsm8k-aug from the hub, not downloaded" in " ".join(out.split())


def test_sample_prints_n_answers_and_repeats_them(capsys, finished):
    arguments = ("sample", finished / "rl" / "final", "3 + 4 * 2 =", "-n", 8, "--noise", "gaussian:0.5")
    code, first, _ = neuralese(capsys, *arguments)
    assert code == 0 and len(first.splitlines()) == 8
    assert neuralese(capsys, *arguments)[1] == first
    assert neuralese(capsys, *arguments, "--seed", 1)[1] != first


def test_check_reward_shows_rewards_and_range(capsys, tmp_path):
    code, out, _ = neuralese(capsys, "check-reward", "exact_match")
    assert code == 0 and "'### 72'" in out and "range 0.0 to 1.0" in out
    mine = tmp_path / "mine.py"
    mine.write_text("def longer(prompts, completions, **columns):\n    return [len(c) / 10 for c in completions]\n")
    code, out, _ = neuralese(capsys, "check-reward", f"{mine}:longer", "--completion", "12345", "--completion", "1")
    assert code == 0 and "range 0.1 to 0.5" in out


def test_recipes_are_listed_and_copied_without_overwriting(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = neuralese(capsys, "recipes", "list")
    assert code == 0 and len(out.splitlines()) == len(packaged_recipes()) and "quickstart" in out
    code, out, _ = neuralese(capsys, "recipes", "copy", "quickstart")
    assert code == 0 and load_recipe("quickstart.yaml").name == "quickstart"
    (tmp_path / "quickstart.yaml").write_text("mine")
    assert_one_paragraph(neuralese(capsys, "recipes", "copy", "quickstart"), "exists and was kept")
    # One that extends another is written out, for the path it extends holds only where it lay.
    assert neuralese(capsys, "recipes", "copy", "controls/pause")[0] == 0
    assert load_recipe("pause.yaml") == load_recipe(packaged_recipes()["controls/pause"])
    assert (tmp_path / "quickstart.yaml").read_text() == "mine"
    assert_one_paragraph(neuralese(capsys, "recipes", "copy", "quickstrat"), "did you mean 'quickstart'")


REWARDS = {
    "raises": "def f(prompts, completions, **c):\n    return 1 / 0\n",
    "short": "def f(prompts, completions, **c):\n    return [1.0]\n",
    "nan": "def f(prompts, completions, **c):\n    return [float('nan')] * len(completions)\n",
}


@pytest.mark.parametrize(("kind", "message"), [("raises", "ZeroDivisionError"), ("short", "1 rewards for 8"),
                                               ("nan", "nan")])  # fmt: skip
def test_a_bad_reward_ends_training_with_a_message_and_loses_nothing(capsys, finished, tmp_path, kind, message):
    reward = tmp_path / "bad.py"
    reward.write_text(REWARDS[kind])
    result = neuralese(
        capsys, "train", TINY, f"output_dir={tmp_path}", "tracking.wandb=false", "curriculum=null", "rl.noise=null",
        f"rl.rewards=[{{function: '{reward}:f'}}]",
    )  # fmt: skip
    assert_one_paragraph(result, message)
    assert (tmp_path / "tiny" / "sft" / "final" / "model.safetensors").is_file()
    reward.write_text("def f(prompts, completions, **c):\n    return [0.0] * len(completions)\n")
    code, _, _ = neuralese(
        capsys, "train", TINY, f"output_dir={tmp_path}", "tracking.wandb=false", "curriculum=null", "rl.noise=null",
        f"rl.rewards=[{{function: '{reward}:f'}}]", "--resume",
    )  # fmt: skip
    assert code == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["curiculum.promote_at=0.9"], "unknown key 'curiculum', did you mean 'curriculum'?"),
        (["sft.trainer.max_step=3"], "did you mean 'max_steps'"),
        (["seed=many"], "received 'many'"),
        (["data.train={path: nothing.jsonl}"], "nothing.jsonl"),
        (["model.config.n_head=3"], "model.config"),
        (["model.config.n_heads=2"], "did you mean 'n_head'"),
        (["model={name_or_path: no/such-model}"], "There is no model 'no/such-model': no folder here"),
        (["curriculum.eval_problems=500"], "hold out all 200 training problems"),
        (["rl.trainer.num_generations=3"], "rl.trainer"),
        (["data.train.options.modulus=1"], "modulus"),
        (["data.train.options.moduls=7"], "moduls"),
        (["sft=null", "curriculum=null", "rl=null"], "no stage"),
        (["curriculum=null", "sft=null"], "rl.noise=gaussian:0.3 has no latents to fall on"),
        (["model.lora={rr: 4}"], "did you mean 'r'"),
        (["rl.trainer.temperature=0"], "must be above 0"),
        (["rl.trainer.ds3_gather_for_generation=false"], "is set by model.ds3_gather_for_generation"),
        (["rl.trainer.reward_weights=[1.0]"], "set by the weights of rl.rewards"),
        (["data.eval={path: nowhere.jsonl}"], "nowhere.jsonl"),
        (["evaluate.max_new_tokens=30"], "context window of 32"),
        (["output_dir=/proc/nowhere"], "/proc/nowhere"),
        (["curriculum.supervision=decoder", "curriculum.supervision_options={layers: 2}"], "model's 1"),
        (
            ["curriculum.supervision=distillation", "curriculum.supervision_options={gamma: 0}"],
            "gamma=0 must be above 0",
        ),
        (["curriculum=null"], "rl.noise=gaussian:0.3 has no latents to fall on"),
        (["rl.trainer.max_completion_length=30"], "context window of 32"),
        (["curriculum.steps_per_level=everything"], "'everything' must be a number of at least 1"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_are_one_paragraph(capsys, tmp_path, overrides, message):
    result = neuralese(capsys, "train", TINY, f"output_dir={tmp_path}", "tracking.wandb=false", *overrides)
    assert_one_paragraph(result, message)
    # Whatever could be known before training was said before training.
    assert not list(tmp_path.glob("tiny/*/checkpoint-*")) and not (tmp_path / "tiny" / "sft" / "final").exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"question": "1 =", "steps": [], "answer": "1"}', "{not json"], "line 2"),
        (['{"question": "1 =", "steps": [], "answer": " "}'], "line 1"),
        (['{"question": "1 =", "answer": "1"}'], "steps"),
        ([f'{{"question": "{"1 " * n}", "steps": ["1"], "answer": "1"}}' for n in (60, 61, 62)], "context window"),
        ([f'{{"question": "1 = {n}", "steps": ["1 + 0"], "answer": "1"}}' for n in range(3)], "has 3 tokens"),
    ],
    ids=["malformed", "empty answer", "missing key", "too long", "steps of several tokens"],
)
def test_bad_data_is_named(capsys, tmp_path, lines, message):
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(lines) + "\n")
    data = [*(f"data.{split}={{path: '{path}'}}" for split in ("train", "eval")), "data.keep_overlap=true"]
    options = [f"output_dir={tmp_path}", "tracking.wandb=false", "curriculum.eval_problems=1"]
    result = neuralese(capsys, "train", TINY, *data, *options)
    assert_one_paragraph(result, message)
    assert not (tmp_path / "tiny" / "sft").exists()


def test_eval_and_sample_name_what_is_missing(capsys, tmp_path):
    assert_one_paragraph(neuralese(capsys, "eval", tmp_path / "none"), "There is no folder")
    assert_one_paragraph(neuralese(capsys, "eval", tmp_path), "lies in no run folder")
    assert_one_paragraph(neuralese(capsys, "sample", tmp_path / "none", "1 ="), "There is no folder")


def test_a_finished_run_is_refused_then_resumed(capsys, finished):
    arguments = ["train", TINY, f"output_dir={finished.parent}", "tracking.wandb=false"]
    assert_one_paragraph(neuralese(capsys, *arguments), "already holds a run of this recipe")
    assert_one_paragraph(neuralese(capsys, *arguments, "seed=3"), "another recipe: it differs in seed")
    code, out, _ = neuralese(capsys, *arguments, "--resume")
    assert code == 0 and "report.html" in out


def test_no_wandb_key_means_an_offline_run(tmp_path):
    """In a process of its own, with every W&B setting and key taken away."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "neuralese.pipeline.cli", "train", TINY, f"output_dir={tmp_path}", "rl=null"]
    command += ["curriculum=null"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LONG, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "offline runs" in done.stdout
    assert len(list((tmp_path / "tiny" / "wandb").glob("offline-run-*"))) == 2


def test_help_answers_without_torch():
    code = "import sys; from neuralese.pipeline.cli.app import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
