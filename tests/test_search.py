"""Search among thoughts: equal to growing every thought anew, what it costs, and what cannot be searched."""

import json

import pytest
import reference
import torch
from runs import tiny
from test_cli import assert_one_paragraph, neuralese

from neuralese.data.errors import UserError
from neuralese.pipeline.evaluate.draw_samples import Effort, draw_samples
from neuralese.pipeline.evaluate.search import _draws, search_thoughts
from neuralese.pipeline.evaluate.settings import most_sensitive, settings_of
from neuralese.pipeline.latent.noise import Replacement, parse_noise
from neuralese.pipeline.latent.sampling.answers import SamplingParams
from neuralese.pipeline.latent.sampling.budget import Budget
from neuralese.pipeline.recipe.schema import EvaluateSection
from neuralese.pipeline.run.train import run
from neuralese.pipeline.scoring.latent_reward import LatentRewardConfig, LatentRewardModel, judge_thoughts
from neuralese.pipeline.scoring.sample_files import SampleFile
from neuralese.pipeline.scoring.sampling_setting import Search, SearchError, Setting

OPTIONS = EvaluateSection(max_new_tokens=4, batch_size=24)
BEAM, TREE, EACH = Search.beam(2, 3, 3), Search.tree(4, 2, 3), Search.tree(2, None, 3)
NOISE = parse_noise("gaussian:0.5")
SEEDS = [5, 6, 7]


def found(reasoner, questions, search, judge, seeds=SEEDS, batch_size=24, temperature=0.0, batch_tokens=None):
    rows = {}
    sampling = SamplingParams(temperature, 4)

    def keep(at, samples, scores):
        rows[at] = samples, scores

    budget = Budget(batch_tokens, batch_size)
    search_thoughts(reasoner, questions, search, NOISE, sampling, seeds, judge, budget, keep)
    return [rows[at] for at in range(len(questions))]


@pytest.mark.parametrize("search", [BEAM, TREE, EACH], ids=lambda search: search.name)
@pytest.mark.parametrize(
    "latent", [{}, {"delimiters": True}, {"window": 1}, {"window": 2, "delimiters": True, "sees_question": False}]
)
def test_a_search_is_the_naive_one(make, problems, judge, search, latent):
    reasoner = make(num_latents=3, **latent)
    questions = [problem.question for problem in problems[:3]]
    draws = _draws(NOISE, torch.tensor(SEEDS), max(search.widths), 3, 32)
    size = reasoner.config.embedding_rms
    with torch.no_grad():
        for at, (drawn, scores) in enumerate(found(reasoner, questions, search, judge)):
            ids = reasoner.prompt_ids(questions[at])
            wanted = reference.search(
                reasoner.model, ids, draws[at], search.children, search.keep, lambda z, e: z + 0.5 * size * e, judge
            )
            torch.testing.assert_close(drawn.latents, torch.stack([z for _, z in wanted]), atol=1e-4, rtol=1e-4)
            assert scores == pytest.approx([score for score, _ in wanted], abs=1e-4)
            assert [scores] == [
                pytest.approx(row, abs=1e-4)
                for row in judge_thoughts(judge, reasoner, [questions[at]], [drawn.latents], batch_size=3)
            ]
            assert len({tuple(row) for row in drawn.latents.flatten(1).tolist()}) == search.thoughts
            if search.keep is not None:
                assert scores == sorted(scores, reverse=True)
            # The answers are those that follow these latents when they are put in place of the model's own.
            again = reasoner.generate(
                [questions[at]], noise=Replacement(latents=drawn.latents), seeds=[list(range(search.thoughts))],
                max_new_tokens=4,
            )  # fmt: skip
            assert again[0].token_ids == drawn.token_ids
            assert drawn.logprobs == pytest.approx(again[0].logprobs, abs=1e-3)


def test_what_is_found_does_not_depend_on_the_batch(reasoner, problems, judge):
    questions = [problem.question for problem in problems[:3]]
    for search in (BEAM, TREE):
        whole = found(reasoner, questions, search, judge, temperature=1.0)
        for at, seed in enumerate(SEEDS):
            ((one, scores),) = found(reasoner, [questions[at]], search, judge, [seed], batch_size=1, temperature=1.0)
            assert (one.texts, one.seeds) == (whole[at][0].texts, whole[at][0].seeds)
            torch.testing.assert_close(one.latents, whole[at][0].latents, atol=1e-5, rtol=1e-4)
            assert scores == pytest.approx(whole[at][1], abs=1e-4)


def test_no_more_thoughts_grow_at_once_than_a_batch_holds(reasoner, problems, judge, monkeypatch):
    original, sizes = reasoner.model.run_latents, []

    def measured(batch, *others, **options):
        sizes.append(len(batch.input_ids))
        return original(batch, *others, **options)

    monkeypatch.setattr(reasoner.model, "run_latents", measured)
    found(reasoner, [problem.question for problem in problems[:3]], BEAM, judge, batch_size=17)
    found(reasoner, [problem.question for problem in problems[:3]], BEAM, judge, batch_size=1)
    assert sizes == [2, 1, 1, 1, 1]  # six thoughts of a question


def test_widths_thoughts_and_names():
    assert (BEAM.widths, BEAM.thoughts, BEAM.name) == ([6, 6, 6], 2, "beam2x3")
    assert (TREE.widths, TREE.thoughts, TREE.name) == ([1, 4, 4], 4, "tree-4at2")
    assert (EACH.widths, EACH.thoughts, EACH.name) == ([2, 4, 8], 8, "tree-2each")
    with pytest.raises(SearchError, match="tree-4each grows 16384 thoughts of a question at once, more than 4096"):
        Search.tree(4, None, 7)


def test_beams_keep_better_thoughts_than_samples(reasoner, problems, judge):
    """By the judge's own measure, over many questions, at the same number of latents."""
    few = problems[:40]
    drawn = draw_samples(reasoner, few, Setting(6, "gaussian:0.5"), OPTIONS, 0, judge=judge)
    beams = draw_samples(reasoner, few, Setting(2, "gaussian:0.5", search=BEAM), OPTIONS, 0, judge=judge)
    assert [row.latents_made for row in drawn] == [row.latents_made for row in beams] == [18] * 40
    best, found = (sum(max(row.latent_rewards) for row in rows) / 40 for rows in (drawn, beams))
    assert found > best


def test_a_killed_search_goes_on_where_it_was(reasoner, problems, judge, tmp_path):
    setting = Setting(2, "gaussian:0.5", search=BEAM)
    path = tmp_path / "beam.jsonl"
    whole = draw_samples(reasoner, problems[:6], setting, OPTIONS, 0, SampleFile(path, {}), judge)
    path.write_text("\n".join(path.read_text().splitlines()[:4])[:-9])  # torn in the third problem
    effort = Effort()
    again = draw_samples(reasoner, problems[:6], setting, OPTIONS, 0, SampleFile(path, {}), judge, effort)
    assert effort.reused == 2 and effort.judging == 0
    for one, other in zip(again, whole, strict=True):
        assert (one.question, one.texts, one.seeds) == (other.question, other.texts, other.seeds)
        assert one.latent_rewards == pytest.approx(other.latent_rewards, abs=1e-4)


def test_settings_of_a_checkpoint(reasoner, problems, make, caplog):
    section = EvaluateSection.model_validate(
        {
            "num_samples": 4, "k": [4], "latent_reward": "somewhere", "max_new_tokens": 4,
            "sampling": [{"noise": "gaussian:0.2", "temperature": 1.0, "answers_per_thought": 2}, {"temperature": 1.0}],
            "search": [
                {"kind": "beam", "noise": "gaussian:0.2", "width": 2, "children": 3},
                {"kind": "tree", "noise": "gaussian:0.2", "at": "each", "children": 2},
                {"kind": "tree", "noise": "gaussian:0.2", "at": "sensitive", "children": 4},
                {"kind": "tree", "noise": "gaussian:0.2", "at": 99, "children": 4},
                *({"kind": "tree", "noise": "gaussian:0.2", "at": at, "children": 4} for at in (1, 2, 3)),
            ],
        }
    )  # fmt: skip
    place = most_sensitive(reasoner, section, problems)
    trees = [f"n4-tree-4at{at}-gaussian-0.2-T0" for at in dict.fromkeys((place, 1, 2, 3))]  # each once
    assert [way.name for way in settings_of(reasoner, section, problems, "latent", True)] == [
        "greedy", "n4-m2-gaussian-0.2-T1", "n4-T1", "n2-beam2x3-gaussian-0.2-T0", "n8-tree-2each-gaussian-0.2-T0",
        *trees,
    ]  # fmt: skip
    assert "a tree at latent 99 is left out: the checkpoint makes 3" in caplog.text
    assert [way.name for way in settings_of(make(), section, problems, "text", False)] == ["greedy", "n4-T1"]
    shorter = section.model_copy(update={"search": [], "num_latents": 0})
    assert [way.name for way in settings_of(reasoner, shorter, problems, "latent", False)] == ["greedy-L0", "n4-L0-T1"]


def test_the_most_sensitive_latent_has_the_largest_norm(reasoner, problems, monkeypatch):
    norms = torch.tensor([0.1, 0.3, 0.2])
    monkeypatch.setattr("neuralese.pipeline.evaluate.settings.sensitivity", lambda *_: norms)
    assert most_sensitive(reasoner, OPTIONS, problems) == 2


@pytest.mark.parametrize(
    ("noise", "latent", "message"),
    [
        ("gaussian:0.2@first", {"num_latents": 3}, "says itself where noise falls"),
        ("gaussian:0.2", {"num_latents": 3, "stop_head": True}, "as many for all questions"),
        ("gaussian:0.2", {"num_latents": 3, "jacobi_sweeps": 1}, "one after the other"),
        ("gaussian:0.2", {"num_latents": 3, "loops": 2}, "one after the other"),
        ("gaussian:0", {"num_latents": 3}, "noise gaussian:0 makes all thoughts equal"),
        ("svp:0.2", {"num_latents": 3}, "which is all that a latent reward model sees"),
        ("learned:0.2", {"num_latents": 3}, "needs a thought source that gives a std"),
    ],
)
def test_what_cannot_be_searched(make, problems, noise, latent, message):
    tree = {"kind": "tree", "noise": noise, "at": 1, "children": 2}
    section = EvaluateSection.model_validate(
        {"search": [tree], "latent_reward": "somewhere", "selectors": ["latent_reward"]}
    )
    with pytest.raises(UserError, match=message):
        settings_of(make(**latent), section, problems, "latent", True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("{kind: tree, noise: gausian:0.3, at: 1, children: 2}", "Unknown noise 'gausian:0.3'"),
        ("{kind: tree, noise: gaussian:0.3@first, at: 1, children: 2}", "says itself where noise falls"),
        ("{kind: tree, noise: learned:0.3, at: 1, children: 2}", "needs a thought source"),
        ("{kind: tree, noise: gaussian:0.3, at: sensitve, children: 2}", "'sensitve' must be a latent, counted from 1"),
        ("{kind: tree, noise: gaussian:0.3, at: 0, children: 2}", "0 must be a latent, counted from 1"),
    ],
)
def test_a_search_is_checked_before_anything_is_trained(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        run(tiny(tmp_path / "out", f"evaluate.search=[{changes}]"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"search": [{"kind": "beam", "noise": "gaussian:0.2", "children": 2}]}, "a beam needs width"),
        ({"search": [{"kind": "tree", "noise": "gaussian:0.2", "children": 2}]}, "a tree needs at"),
        ({"search": [{"kind": "tree", "noise": "g:1", "children": 2, "at": 1, "width": 2}]}, "a tree has no width"),
        ({"search": [{"kind": "beam", "noise": "g:1", "children": 2, "at": 1, "width": 2}]}, "a beam has no at"),
        ({"search": [{"kind": "beam", "noise": "g:1", "children": 2, "width": 2}]}, "needs latent_reward, the folder"),
        ({"sampling": [{"temperature": 1.0, "answers_per_thought": 2}]}, "needs noise"),
        ({"sampling": [{"noise": "gaussian:0.2", "answers_per_thought": 2}]}, "needs a temperature"),
        (
            {"num_samples": 5, "k": [1], "sampling": [{"noise": "g:1", "temperature": 1, "answers_per_thought": 2}]},
            "must be a multiple",
        ),
        (
            {"num_latents": 1, "search": [{"kind": "tree", "noise": "g:1", "at": 1, "children": 2}]},
            "remove num_latents",
        ),
        ({"selectors": ["latent_weighted"]}, "needs latent_reward, the folder"),
    ],
)
def test_keys_that_do_not_go_together(keys, message):
    with pytest.raises(ValueError, match=message):
        EvaluateSection.model_validate(keys)


def test_eval_searches_a_run_and_says_what_it_cost(tmp_path, capsys):
    run(tiny(tmp_path, "rl=null"))
    folder, output = tmp_path / "tiny", tmp_path / "found.json"
    latents = json.loads((folder / "curriculum" / "final" / "config.json").read_text())["latent"]["num_latents"]
    LatentRewardModel(LatentRewardConfig(state_size=16, num_latents=latents)).save_pretrained(folder / "latent_reward")
    keys = [
        f"evaluate.latent_reward={folder / 'latent_reward'}",
        "evaluate.selectors=[majority, latent_reward, latent_weighted, agreement]",
        "evaluate.search=[{kind: beam, noise: gaussian:0.9, width: 3, children: 2}, "
        "{kind: tree, noise: gaussian:0.9, at: sensitive, children: 4, temperature: 1.0}]",
    ]
    code, out, error = neuralese(capsys, "eval", folder, *keys, "--output", output)
    assert code == 0, error
    rows = [row for row in json.loads(output.read_text()) if row["search"] is not None]
    assert {row["stage"] for row in rows} == {"curriculum"} and {row["k"] for row in rows} == {3, 4}
    assert {row["metric"] for row in rows} >= {"pass@k", "maj@k", "latent_reward@k", "latent_weighted@k"}
    beam = next(row for row in rows if row["search"] == "beam3x2")
    assert beam["latents"] == 6 * latents and beam["seconds"] > 0 and "beam3x2" in out
    neuralese(capsys, "eval", folder, *keys, "--output", output)  # nothing is drawn again
    again = json.loads(output.read_text())
    assert {row["seconds"] for row in again} == {None}
    wrong = "evaluate.search=[{kind: tree, noise: gaussian:0.9@first, at: 1, children: 2}]"
    assert_one_paragraph(neuralese(capsys, "eval", folder, wrong), "Remove @first")
