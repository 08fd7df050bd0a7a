"""Draws that are cut so that their keys and values fit: where they are cut, and the same samples whatever the parts."""

import pytest
import torch
from budgeted_draws import ROWS, WAYS, drawn, prompts_of
from test_grpo import make_trainer, rollouts
from test_noise import KINDS

from neuralese.pipeline.evaluate.audit.interventions import answer
from neuralese.pipeline.evaluate.draw_samples import draw_samples
from neuralese.pipeline.latent.engine.footprint import Footprint
from neuralese.pipeline.latent.sampling import budget as budgets
from neuralese.pipeline.latent.sampling import generate
from neuralese.pipeline.latent.sampling.budget import Budget, Room
from neuralese.pipeline.recipe.schema import EvaluateSection
from neuralese.pipeline.scoring.sampling_setting import Setting
from neuralese.pipeline.train.rl.rollouts import ROLLOUTS


@pytest.fixture
def sizes(monkeypatch):
    """Rows of every part that is drawn."""
    original, sizes = generate._generate, []

    def measured(model, prompts, rows, *others):
        sizes.append(len(rows))
        return original(model, prompts, rows, *others)

    monkeypatch.setattr(generate, "_generate", measured)
    return sizes


def assert_same(parts, whole):
    assert parts.token_ids == whole.token_ids
    assert parts.num_latents.tolist() == whole.num_latents.tolist() and parts.seeds.tolist() == whole.seeds.tolist()
    torch.testing.assert_close(parts.latents, whole.latents, atol=1e-5, rtol=0)
    torch.testing.assert_close(parts.logprobs, whole.logprobs, atol=1e-5, rtol=0)


def assert_no_split_changes_samples(reasoner, noise, sizes):
    whole = drawn(reasoner, noise)
    footprint = Footprint.of(reasoner.config, prompts_of(reasoner), 6)
    for rows in (1, 2, 5):
        sizes.clear()
        assert_same(drawn(reasoner, noise, rows * footprint.columns()), whole)
        assert sum(sizes) == len(ROWS) and len(sizes) >= (11, 5, 2)[(1, 2, 5).index(rows)]
    return whole


@pytest.mark.parametrize("way", [way for way in WAYS if way != "stop head"])
@pytest.mark.parametrize("kind", KINDS)
def test_samples_do_not_depend_on_the_split(make, sizes, kind, way):
    scale, source = KINDS[kind]
    reasoner = make(num_latents=3, thought_source=source, **WAYS[way])
    whole = assert_no_split_changes_samples(reasoner, f"{kind}:{scale}", sizes)
    # Answers 0 and 3 share a thought, 0 and 6 do not.
    assert whole.latents[0].equal(whole.latents[3]) and not whole.latents[0].allclose(whole.latents[6], atol=1e-3)


@pytest.mark.parametrize("latent", [{"num_latents": 0}, {"thought_source": "pause"}, {}, WAYS["stop head"]])
def test_nor_without_noise(make, sizes, latent):
    whole = assert_no_split_changes_samples(make(**{"num_latents": 3, **latent}), None, sizes)
    assert len({tuple(ids) for ids in whole.token_ids}) > 4


def test_stopped_thoughts_of_different_lengths_are_joined(make, sizes):
    reasoner = make(num_latents=3, stop_head=True)
    with torch.no_grad():
        torch.nn.init.normal_(reasoner.model.stop_head.weight, std=3.0)
    whole = assert_no_split_changes_samples(reasoner, "gaussian:2", sizes)
    assert len(set(whole.num_latents.tolist())) > 1


# The cuts themselves, by hand: rows of 4 columns for prompts 0 and 1, of 6 for prompt 2.


def room(tokens, answers=None):
    footprint = Footprint([[1, 1], [1, 1], [3, 1]], [1, 1, 1], None, None, 2)
    return Room(footprint, Budget(tokens, answers), tokens)


def cuts(room, rows, thought):
    return [part.tolist() for part in room.parts(torch.tensor(rows), torch.tensor(thought))]


def test_prompts_stay_whole_where_they_fit():
    rows, thought = [0, 1, 2, 0, 1, 2], [0, 1, 2, 0, 3, 4]
    assert cuts(room(36), rows, thought) == [[0, 1, 2, 3, 4, 5]]
    assert cuts(room(35), rows, thought) == [[0, 1, 3, 4], [2, 5]]
    assert cuts(room(15), rows, thought) == [[0, 3], [1, 4], [2, 5]]
    assert cuts(room(7), rows, thought) == [[0], [3], [1], [4], [2], [5]]
    assert cuts(room(100, answers=3), rows, thought) == [[0, 3], [1, 4], [2, 5]]


def test_a_prompt_too_large_is_cut_between_thoughts_and_a_thought_only_alone():
    rows, thought = [0] * 6 + [1], [0, 0, 1, 1, 1, 2, 3]
    assert cuts(room(12), rows, thought) == [[0, 1, 5], [2, 3, 4], [6]]
    assert cuts(room(16), rows, thought) == [[0, 1, 5], [2, 3, 4, 6]]
    assert cuts(room(8), rows, thought) == [[0, 1], [2, 3], [4, 5], [6]]


def test_prompts_that_are_searched_are_cut_into_runs():
    assert room(36).runs(2) == [slice(0, 3)]
    assert room(35).runs(2) == [slice(0, 2), slice(2, 3)]
    assert room(36, answers=2).runs(4) == [slice(0, 1), slice(1, 2), slice(2, 3)]


# The default


def test_by_default_half_of_the_free_memory_is_filled(make, sizes, monkeypatch):
    reasoner = make(num_latents=3)
    whole = drawn(reasoner, "gaussian:0.3", None)
    assert sizes == [len(ROWS)]
    prompts, columns = prompts_of(reasoner), Footprint.of(reasoner.config, prompts_of(reasoner), 6).columns()
    # Keys and values of 2 layers of 2 heads of 16; 4 vectors a row and 24 a question, 4 questions to 11 rows; logits.
    vocabulary = reasoner.model.config.vocab_size
    per_token = 4 * (2 * 2 * 2 * 16 + (4 + 24 * 4 / 11) * 32 + 6 * vocabulary / columns)
    for tokens in (100, 30, 2):  # a single row is drawn however little is free
        monkeypatch.setattr(budgets, "free_memory", lambda device, n=tokens: 2 * n * per_token + 1)
        assert Room.of(reasoner.model, prompts, len(ROWS), 6, Budget()).tokens == tokens
        sizes.clear()
        assert_same(drawn(reasoner, "gaussian:0.3", None), whole)
        assert sum(sizes) == len(ROWS)
        assert sizes == {100: [5, 4, 2], 2: [1] * 11}.get(tokens, sizes) and len(sizes) > 1


# Through RL and evaluation


@pytest.mark.parametrize("estimator", ["replay", "score_function"])
def test_rollouts_of_rl_do_not_depend_on_the_split(make, problems, tmp_path, sizes, estimator):
    batches = []
    for tokens in (None, 60):
        torch.manual_seed(1)
        how = {"estimator": estimator, "answers_per_thought": 2, "budget": Budget(tokens, key=ROLLOUTS.key)}
        trainer = make_trainer(make(num_latents=3), problems, tmp_path, how=how)
        torch.manual_seed(2)
        batches.append(rollouts(trainer))
    assert sizes[0] == 16 and len(sizes) > 4 and sum(sizes) == 32
    whole, parts = batches
    assert whole.keys() == parts.keys() and len(set(whole["advantages"].tolist())) > 1
    for name, values in whole.items():
        if isinstance(values, torch.Tensor):
            torch.testing.assert_close(parts[name], values, atol=1e-5, rtol=1e-5)


def test_evaluation_audit_and_search_do_not_depend_on_the_split(make, problems, judge, sizes):
    reasoner, few = make(num_latents=3), problems[:6]
    longest = max(len(reasoner.prompt_ids(problem.question)) for problem in few) + 4
    options = EvaluateSection(max_new_tokens=4)
    tight = EvaluateSection(max_new_tokens=4, batch_tokens=2 * longest)
    for setting in (Setting(), Setting(6, "gaussian:0.5", 1.0, answers_per_thought=3), Setting(2, None, 1.0)):
        whole, parts = (draw_samples(reasoner, few, setting, some, 0) for some in (options, tight))
        for one, other in zip(whole, parts, strict=True):
            assert (one.texts, one.seeds, one.tokens) == (other.texts, other.seeds, other.tokens)
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    sizes.clear()
    latents = torch.randn(6, 3, 32)
    assert answer(reasoner, few, tight, latents).texts == answer(reasoner, few, options, latents).texts
    assert sizes[-1] == 6 and len(sizes) > 3 and max(sizes[:-1]) <= 4
