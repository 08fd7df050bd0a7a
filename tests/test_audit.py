"""`neuralese audit` on a run and on checkpoints, and what it refuses."""

import json
import shutil
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from audit_models import SETTINGS, copying, next_word, word_problems
from conftest import ROOT
from runs import tiny
from test_cli import assert_one_paragraph, neuralese

from neuralese.data.tasks import change_one, generate_task
from neuralese.pipeline.evaluate.audit.audit import AuditError, Question, Subject, audit
from neuralese.pipeline.evaluate.audit.interventions import answer
from neuralese.pipeline.evaluate.audit.table import print_audit, write_audit
from neuralese.pipeline.latent import latentize
from neuralese.pipeline.recipe.schema import EvaluateSection
from neuralese.pipeline.run.audit import audit_folder


@pytest.fixture(scope="module")
def whole(finished, tmp_path_factory):
    """The audit of a whole run, and what was printed."""
    folder, _ = finished
    output, printed = tmp_path_factory.mktemp("audit") / "audit.json", StringIO()
    with redirect_stdout(printed):
        audit_folder(folder, [], None, 500, None, output, None)
    return json.loads(output.read_text()), printed.getvalue()


def test_a_run_is_audited_at_its_last_stage_with_latents(finished, whole):
    folder, rows = finished
    found, _ = whole
    greedy = {row.stage: row.value for row in rows if row.metric == "accuracy"}
    assert found["checkpoint"] == str(folder / "rl" / "final") and found["problems"] == 20
    assert found["accuracy"]["value"] == greedy["rl"] and found["accuracy"]["n"] == 20
    # The run's own control, on the same problems; the run's own text.
    assert found["comparison"]["control"] == str(folder / "pause" / "final")
    assert found["comparison"]["accuracy"]["value"] == greedy["pause"]
    assert found["comparison"]["lead"]["value"] == pytest.approx(greedy["rl"] - greedy["pause"])
    assert found["text"]["checkpoint"] == str(folder / "sft" / "final")
    effects = {effect["name"]: effect for effect in found["effects"]}
    assert list(effects) == [
        "put back", "swap", "swap 1 alone", "swap 2 alone", "text of swap", "as text", "zero", "mean", "noise",
        "shuffle", "keep 1",
    ]  # fmt: skip
    assert found["faithful"] == effects["as text"]["unchanged"]
    if effects["as text"]["own"]["value"]:
        shares = effects["as text"]
        assert found["readable"] == pytest.approx(shares["accuracy"]["value"] / shares["own"]["value"])
    assert effects["put back"]["unchanged"]["value"] == 1.0
    assert len(found["places"]) == 2 and found["decoder"] is None and found["written"] >= 0
    task = {"modulus": 5, "num_operations": 2}
    problems = generate_task("chain", task, 20, "eval", 0)
    changed = [change_one("chain", task, problem, 0) for problem in problems]
    # In `… * 5` nothing but the last operand counts modulo 5, and where it stands after 0 not even that.
    assert found["counterfactual"]["every"]["lead"]["n"] == sum(one is not None for one in changed) == 19
    assert [len(reading["lens"]) for reading in found["readings"]] == [2] * 10


def test_a_run_of_four_steps_is_no_latent_reasoner(whole):
    found, printed = whole
    gates = {gate["name"]: gate["passed"] for gate in found["gates"]}
    assert list(gates) == ["swap hurts", "zero hurts", "counterfactual followed", "better than pause"]
    assert gates["swap hurts"] is False and gates["better than pause"] is False
    assert found["verdict"].startswith("This is not shown to be a latent reasoner: it fails “swap hurts”")
    assert found["verdict"] in printed and "FAIL" in printed and "swap 2 alone" in printed


def test_one_checkpoint_is_audited_on_as_many_problems_as_asked(capsys, finished, tmp_path):
    folder, output = finished[0], tmp_path / "one.json"
    pause = folder / "pause" / "final"
    options = ["--problems", 10, "--guess", "0.9", "--output", output, "--control", pause]
    code, out, _ = neuralese(capsys, "audit", folder / "curriculum" / "final", "evaluate.bootstrap=20", *options)
    found = json.loads(output.read_text())
    assert code == 0 and str(output) in out
    assert found["problems"] == found["comparison"]["lead"]["n"] == 10 and found["floor"] == 0.9
    assert found["gates"][3]["because"] == "10 problems are answered by both, 20 are needed"
    assert found["comparison"]["control"] == str(pause)
    again = ["--problems", 10, "--guess", "0.9", "--output", output, "--control", folder]  # a run with a control
    neuralese(capsys, "audit", folder / "curriculum" / "final", "evaluate.bootstrap=20", *again)
    assert json.loads(output.read_text()) == found


def test_models_without_latents_are_refused(capsys, finished):
    folder = finished[0]
    assert_one_paragraph(neuralese(capsys, "audit", folder / "sft" / "final"), "has no latents to audit: it reasons in")
    result = neuralese(capsys, "audit", folder / "pause" / "final")
    assert_one_paragraph(result, "has no latents to audit: its thought source is 'pause'")
    assert_one_paragraph(neuralese(capsys, "audit", folder / "nowhere"), "There is no folder")
    assert not (folder / "audit.json").exists()


def test_controls_that_are_none_are_refused(capsys, finished, tmp_path):
    folder = finished[0]
    model = folder / "rl" / "final"
    for control, message in (
        (folder / "sft" / "final", "has no latents: it reasons in text"),
        (folder / "curriculum" / "final", "has 2 latents of the source 'norm_matched'. A pause control"),
        (tmp_path / "nowhere", "There is no folder"),
    ):
        assert_one_paragraph(neuralese(capsys, "audit", model, "--control", control), message)
    other = tmp_path / "other"
    shutil.copytree(folder / "pause", other / "pause")
    (other / "recipe.yaml").write_text(tiny(tmp_path, "controls.pause=true", "data.train.size=150").to_yaml())
    result = neuralese(capsys, "audit", model, "--control", other / "pause" / "final")
    assert_one_paragraph(result, "was trained on other data: data.train of")
    (other / "recipe.yaml").write_text(tiny(tmp_path).to_yaml())
    assert_one_paragraph(neuralese(capsys, "audit", model, "--control", other), "has no finished pause control")


def test_a_checkpoint_outside_a_run_needs_a_recipe(capsys, finished, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(finished[0] / "rl" / "final", model)
    assert_one_paragraph(neuralese(capsys, "audit", model), "lies in no run folder")
    options = ["--recipe", ROOT / "tests" / "tiny.yaml", "evaluate.bootstrap=20", "--problems", 8]
    code, _, _ = neuralese(capsys, "audit", model, *options)
    found = json.loads((model / "audit.json").read_text())
    assert code == 0 and found["comparison"] is None and found["text"]["checkpoint"] == str(model)
    assert found["gates"][3]["because"] == "no pause control was given (--control)"
    one = neuralese(capsys, "audit", model, *options[:2], "data.eval.size=1")
    assert_one_paragraph(one, "An audit needs at least 2 evaluation problems")


def arithmetic(start, operand):
    steps = [str((start + operand) % 5), str((start + operand) * 2 % 5)]
    return {"question": f"{start} + {operand} * 2 =", "steps": steps, "answer": steps[-1]}


def audited(capsys, run, tmp_path, rows, *more):
    data, output = tmp_path / "eval.jsonl", tmp_path / "audit.json"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = [f"data.eval={{path: '{data}'}}", "evaluate.bootstrap=20", *more, "--output", output]
    return neuralese(capsys, "audit", run, *options), output


def test_data_of_a_file_has_no_counterfactual_unless_it_gives_one(capsys, finished, tmp_path):
    rows = [arithmetic(a, b) for a in range(5) for b in range(1, 5)]
    (code, *_), output = audited(capsys, finished[0], tmp_path, rows)
    found = json.loads(output.read_text())
    assert code == 0 and found["problems"] == 20
    assert found["counterfactual"] is None and found["gates"][2]["passed"] is None
    assert "the data gives none whose latents differ, and steps are no equations" in found["gates"][2]["because"]
    effects = {effect["name"]: effect for effect in found["effects"]}
    assert effects["swap"]["donor"] is not None  # what stands in for it
    for row, start in zip(rows[:15], range(15), strict=True):
        row["counterfactual"] = arithmetic((start // 4 + 1) % 5, start % 4 + 1)
    (code, *_), output = audited(capsys, finished[0], tmp_path, rows)
    found = json.loads(output.read_text())
    assert code == 0 and found["counterfactual"]["every"]["follow"]["n"] == 15
    rows[3]["counterfactual"]["answer"] = f"{rows[3]['answer']}.0"  # right for the problem, too, says the scorer
    (code, *_), output = audited(capsys, finished[0], tmp_path, rows, "evaluate.scorer=numeric_match")
    assert code == 0 and json.loads(output.read_text())["counterfactual"]["every"]["follow"]["n"] == 14
    rows[3]["counterfactual"]["answer"] = rows[3]["answer"]
    result, _ = audited(capsys, finished[0], tmp_path, rows)
    assert_one_paragraph(result, "eval.jsonl, line 4, counterfactual 1: the answer is that of the problem")


def unchanged(problems):
    return [None] * len(problems)


def subjects():
    control = copying(thought_source="pause_multi")
    return Subject("mine", copying()), Subject("pause", control), Subject("text", copying())


def test_a_model_that_copies_its_latents_is_a_latent_reasoner(capsys, tmp_path):
    problems = word_problems(48)
    asked = Question(problems, word_problems(240), 1 / 12, [*map(next_word, problems)])
    found = audit(*subjects(), asked, SETTINGS, 0)
    assert found.verdict == "This is a latent reasoner on these problems: it passes every gate."
    assert found.written == 2  # no marker before the answer: what is written counts as thought
    # Latent t stands for step t of one word, and says which of 12 questions it is.
    assert found.information == pytest.approx(2 * np.log2(12), abs=0.3)
    assert all(probe.bits.value <= np.log2(12) for probe in found.probes) and len(found.probes) == 4
    write_audit(tmp_path / "audit.json", found)
    assert json.loads((tmp_path / "audit.json").read_text())["verdict"] == found.verdict
    readings = [replace(found.readings[0], question="1>2 [Q] 1 [/R]", decoded=["one", "two"]), *found.readings[1:]]
    print_audit(replace(found, readings=readings))
    printed = capsys.readouterr().out
    assert "  1>2 [Q] 1 [/R]\n" in printed and "decoder    one | two\n" in printed
    assert "pass" in printed and "not measured" not in printed and "step 2" in printed and found.verdict in printed


def test_data_of_other_origin_has_no_counterfactual():
    subject, control, _ = subjects()
    problems = word_problems(24)
    found = audit(subject, control, None, Question(problems, problems, 1 / 12, unchanged(problems)), SETTINGS, 0)
    assert found.counterfactual is None and found.text is None and found.probes == []
    assert [gate.passed for gate in found.gates] == [True, True, None, True]
    assert "“counterfactual followed” is not measured" in found.verdict
    assert found.information is None


def test_the_functions_refuse_what_the_command_refuses():
    subject, _, _ = subjects()
    problems = word_problems(4)
    asked = Question(problems, problems, 0.1, unchanged(problems))
    text = Subject("text", copying(num_latents=0))
    with pytest.raises(AuditError, match="text has no latents to audit: it reasons in text"):
        audit(text, None, None, asked, SETTINGS, 0)
    with pytest.raises(AuditError, match="The control mine has 2 latents of the source 'raw'"):
        audit(subject, subject, None, asked, SETTINGS, 0)


@pytest.mark.parametrize(
    "latent",
    [
        {"stop_head": True},
        {"delimiters": True},
        {"jacobi_sweeps": 2},
        {"loops": 2},
        {"window": 1},
        {"sees_question": False},
        {"latents_per_step": 2},
        {"thought_source": "soft_vocabulary"},
        {"supervision": "decoder"},
    ],
    ids=lambda latent: next(iter(latent)),
)
def test_every_kind_of_latents_can_be_audited(make, latent):
    """A model's own latents put back change nothing, whatever they are made by."""
    reasoner = make(num_latents=4, **latent)
    if "stop_head" in latent:
        reasoner.model.stop_head.bias.data += 0.05
    if "supervision" in latent:
        latentize(reasoner.model, reasoner.config, supervised=True)
    problems = generate_task("chain", {"modulus": 7, "num_operations": 3}, 60, "eval", 0)
    task = {"modulus": 7, "num_operations": 3}
    asked = Question(problems, problems, 0.2, [change_one("chain", task, problem, 0) for problem in problems])
    mine = Subject("mine", reasoner)
    settings = EvaluateSection(max_new_tokens=3, bootstrap=20, batch_size=16)
    found = audit(mine, None, mine, asked, settings, 0)
    effects = {effect.name: effect for effect in found.effects}
    assert effects["put back"].unchanged.value == 1.0 and effects["put back"].accuracy.n == 60
    assert {"swap", "zero", "mean", "noise", "shuffle", "keep 1"} <= effects.keys()
    counts = [len(reading.lens) for reading in found.readings]
    if "stop_head" in latent:
        own = answer(reasoner, problems, settings)
        assert len(set(own.counts.tolist())) > 1  # thoughts of several lengths, or this tests nothing
        assert counts == own.counts[:10].tolist() and len(found.places) == own.counts.max()
    else:
        assert counts == [4] * 10 and len(found.places) == 4
    assert all(place.sensitivity > 0 for place in found.places[:4])
    # Steps 1 to 3 have latents, two of each with `latents_per_step`.
    assert [place.lens is not None for place in found.places[:4]] == [True, True, True, "latents_per_step" in latent]
    assert (found.decoder is not None) == ("supervision" in latent) == (found.readings[0].decoded is not None)
    json.dumps(found.to_dict(), allow_nan=False)


def test_labelled_latents_are_audited_by_blocks(make):
    reasoner = make(num_latents=6, latents_per_step=2, supervision="step_tokens", loops=2)
    problems = generate_task("chain", {"modulus": 7, "num_operations": 3}, 60, "eval", 0)
    mine, asked = Subject("mine", reasoner), Question(problems, problems, 0.2, unchanged(problems))
    found = audit(mine, None, None, asked, EvaluateSection(max_new_tokens=3, bootstrap=20, batch_size=16), 0)
    names = [effect.name for effect in found.effects]
    assert [name for name in names if "block" in name] == [
        "swap block 1 alone", "swap block 2 alone", "swap block 3 alone", "keep 1 block", "keep 2 blocks",
    ]  # fmt: skip
    assert {(probe.latent - 1) // 2 + 1 - probe.step for probe in found.probes} == {0} and len(found.probes) == 6
    # A step is one token, so that the second latent of each block stands for none.
    assert [place.lens is not None for place in found.places] == [True, False] * 3
