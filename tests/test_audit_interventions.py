"""Each intervention against a naive computation; gates on models of which the truth is known."""

import numpy as np
import pytest
import torch
from audit_models import SETTINGS, WORDS, Ignoring, copying, next_word, word_problem, word_problems
from reference import thought

from neuralese.pipeline.evaluate.audit.counterfactual import Counterfactual, Transplant, measure_counterfactual
from neuralese.pipeline.evaluate.audit.gates import ControlComparison, Gate, judge, verdict
from neuralese.pipeline.evaluate.audit.interventions import (
    Effect,
    alone,
    answer,
    interventions,
    mean_of_places,
    measure_effect,
    norm_matched_noise,
    shuffled,
)
from neuralese.pipeline.evaluate.audit.readings import lens
from neuralese.pipeline.latent.noise import Replacement
from neuralese.pipeline.model.reading import text_as_latents
from neuralese.pipeline.problems.donors import derange
from neuralese.pipeline.statistics.intervals import Mean

LATENTS = torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(1))
COUNTS = torch.tensor([3, 2, 3, 1, 3])
LATENTS[torch.arange(3) >= COUNTS[:, None]] = 0.0


def test_a_derangement_gives_every_problem_another_answer_once():
    answers, counts = list("aaabbcdda") + list("xyzx"), [2] * 9 + [1] * 4
    for seed in range(20):
        rows, donors = derange(answers, counts, seed)
        assert sorted(rows) == sorted(donors) == list(range(13))
        assert all(answers[r] != answers[d] and counts[r] == counts[d] for r, d in zip(rows, donors, strict=True))
    assert not np.array_equal(derange(answers, counts, 0)[1], derange(answers, counts, 1)[1])


def test_problems_of_too_common_an_answer_are_left_out():
    rows, donors = derange(list("aaaab"), [1] * 5, 0)
    assert len(rows) == 2 and {"aaaab"[r] + "aaaab"[d] for r, d in zip(rows, donors, strict=True)} == {"ab", "ba"}
    assert len(derange(list("aaaa"), [1] * 4, 0)[0]) == 0
    assert len(derange(list("ab"), [1, 2], 0)[0]) == 0


def test_mean_of_places_by_loop():
    mean = mean_of_places(LATENTS, COUNTS)
    for place in range(3):
        having = [row for row in range(5) if COUNTS[row] > place]
        expected = sum(LATENTS[row, place] for row in having) / len(having)
        for row in range(5):
            assert torch.allclose(mean[row, place], expected if row in having else torch.zeros(8), atol=1e-6)


def test_noise_has_the_norm_of_the_latents_and_no_direction_of_theirs():
    noise = norm_matched_noise(LATENTS, 0)
    assert torch.allclose(noise.norm(dim=-1), LATENTS.norm(dim=-1), rtol=1e-5)
    many = torch.randn(2000, 1, 32)
    cosine = torch.cosine_similarity(norm_matched_noise(many, 3), many, dim=-1)
    assert cosine.mean().abs() < 0.02 and cosine.std().item() == pytest.approx(32**-0.5, rel=0.1)
    assert not torch.equal(norm_matched_noise(LATENTS, 1), noise)


def test_shuffled_latents_are_the_same_in_another_order():
    orders = set()
    for seed in range(40):
        result = shuffled(LATENTS[:1], COUNTS[:1], seed)
        order = [next(i for i in range(3) if torch.equal(row, LATENTS[0, i])) for row in result[0]]
        assert sorted(order) == [0, 1, 2] and order != [0, 1, 2]
        orders.add(tuple(order))
    assert len(orders) == 5
    result = shuffled(LATENTS[[1]], COUNTS[[1]], 0)
    assert torch.equal(result[0], LATENTS[1, [1, 0, 2]])  # the third is none


def text_of(reasoner, own):
    return text_as_latents(reasoner, lens(reasoner, own)[0][..., 0])


def planned(reasoner, own):
    text = torch.zeros_like(own.latents) if isinstance(reasoner, Ignoring) else text_of(reasoner, own)
    return interventions(own, 0, text)


def test_all_interventions_are_there_with_their_latents():
    reasoner = copying()
    own = answer(reasoner, word_problems(), SETTINGS)
    text = text_of(reasoner, own)
    found = {one.name: one for one in interventions(own, 0, text)}
    assert list(found) == [
        "put back", "swap", "swap 1 alone", "swap 2 alone", "text of swap", "as text", "zero", "mean", "noise",
        "shuffle", "keep 1",
    ]  # fmt: skip
    assert torch.equal(found["as text"].latents, text) and len(found["as text"].rows) == 36
    assert torch.equal(found["text of swap"].latents, text[found["swap"].donors])
    swap = found["swap"]
    assert len(swap.rows) == 36 and torch.equal(swap.latents, own.latents[swap.donors])
    assert not found["zero"].latents.any() and found["zero"].latents.shape == own.latents.shape
    kept = found["keep 1"].latents
    assert torch.equal(kept[:, 0], own.latents[:, 0]) and torch.allclose(kept[:, 1], own.latents[:, 1].mean(0))
    one = found["swap 2 alone"].latents
    assert one[:, 0].isnan().all() and torch.equal(one[:, 1], own.latents[swap.donors, 1])
    alone_at_one = answer(copying(1), word_problems(), SETTINGS)
    single = {one.name for one in interventions(alone_at_one, 0, text_of(copying(1), alone_at_one))}
    assert single == {"put back", "swap", "text of swap", "as text", "zero", "mean", "noise"}


def test_blocks_are_swapped_and_kept_together():
    reasoner = copying(6)
    own = answer(reasoner, word_problems(), SETTINGS)
    found = {one.name: one for one in interventions(own, 0, text_of(reasoner, own), block=2)}
    swapped = [name for name in found if name.startswith("swap ")]
    assert swapped == ["swap block 1 alone", "swap block 2 alone", "swap block 3 alone"]
    assert [name for name in found if name.startswith("keep ")] == ["keep 1 block", "keep 2 blocks"]
    given = found["swap block 2 alone"].latents.isnan().all(0).all(1)
    assert given.tolist() == [True, True, False, False, True, True]
    kept = found["keep 1 block"].latents
    assert torch.equal(kept[:, :2], own.latents[:, :2]) and not torch.equal(kept[:, 2:], own.latents[:, 2:])


@pytest.mark.parametrize("says_it", [False, True])
def test_how_much_of_a_thought_is_in_what_is_read_of_it(says_it):
    """The head reads a5 in the latents on the axis of q5. Only a head that reads a5 there too can answer from it."""
    reasoner, settings = copying(), SETTINGS.model_copy(update={"max_new_tokens": 1})
    if says_it:
        with torch.no_grad():
            for number in range(12):
                axis = reasoner.tokenizer.convert_tokens_to_ids(f"a{number}")
                reasoner.model.lm_head.weight[axis, axis] = 2.0
    own = answer(reasoner, word_problems(), settings)
    effects = {one.name: measure_effect(reasoner, own, one, settings, 0) for one in planned(reasoner, own)}
    assert own.right.all()
    read, swapped = effects["as text"], effects["text of swap"]
    assert (read.accuracy.value, read.unchanged.value, swapped.donor.value) == ((1, 1, 1) if says_it else (0, 0, 0))


def test_latents_that_are_not_given_are_made_from_those_before(reasoner):
    """Swapping the second of three alone: the first stays, the third is what the model makes after the donor's."""
    questions = ["3 + 4 =", "6 - 5 ="]
    samples = reasoner.generate(questions)
    own = torch.cat([sample.latents for sample in samples])
    given = alone(own.flip(0), slice(1, 2))
    mixed = reasoner.generate(questions, noise=Replacement(latents=given), seeds=[[0], [1]])
    for row, question in enumerate(questions):
        found = mixed[row].latents[0]
        assert torch.allclose(found[0], own[row, 0], atol=1e-5) and torch.equal(found[1], own[1 - row, 1])
        ids = reasoner.prompt_ids(question)
        embeds = list(reasoner.model.get_input_embeddings()(torch.tensor(ids[:-3])))
        prefix = torch.stack([*embeds, found[0], found[1]])[None]
        hidden = reasoner.model.base_model(inputs_embeds=prefix, use_cache=False).last_hidden_state[0, -1]
        assert torch.allclose(found[2], thought(reasoner.model, hidden), atol=1e-4)
        assert not torch.allclose(found[2], own[row, 2], atol=1e-2)


def test_a_model_that_copies_its_latents_gives_the_answers_of_the_donors():
    reasoner, problems = copying(), word_problems()
    own = answer(reasoner, problems, SETTINGS)
    assert own.right.all() and own.latents.shape[:2] == (36, 2)
    effects = {one.name: measure_effect(reasoner, own, one, SETTINGS, 0) for one in planned(reasoner, own)}
    assert effects["put back"].unchanged.value == 1 and effects["put back"].loss.value == 0
    for name in ("swap", "swap 1 alone", "swap 2 alone"):  # the first makes the second
        found = effects[name]
        assert (found.accuracy.value, found.donor.value, found.unchanged.value) == (0, 1, 0), name
    assert effects["zero"].accuracy.value <= 1 / WORDS and effects["noise"].accuracy.value < 0.4
    assert effects["shuffle"].accuracy.value == 1  # both latents say the same
    assert effects["zero"].donor is None and effects["swap"].accuracy.n == 36
    assert effects["zero"].loss.value == pytest.approx(1 - effects["zero"].accuracy.value)


def judged(reasoner, control=None):
    own = answer(reasoner, word_problems(), SETTINGS)
    effects = {one.name: measure_effect(reasoner, own, one, SETTINGS, 0) for one in planned(reasoner, own)}
    changed = measure_counterfactual(reasoner, own, [*map(next_word, own.problems)], SETTINGS, 0)
    compared = None
    if control is not None:
        theirs = answer(control, own.problems, SETTINGS).right
        lead = Mean.difference(own.right.astype(float) - theirs, 200)
        compared = ControlComparison("pause", 2, Mean.share(theirs, 200), lead)
    return changed, {gate.name: gate.passed for gate in judge(effects, changed, compared, 1 / WORDS)}


def test_a_model_whose_answers_are_its_latents_passes_every_gate():
    changed, gates = judged(copying(), copying(thought_source="pause_multi"))
    assert gates == dict.fromkeys(["swap hurts", "zero hurts", "counterfactual followed", "better than pause"], True)
    assert changed.known.follow.value == 1 and changed.known.stay.value == 0 and changed.every.neither == 0
    assert changed.original.value == changed.changed.value == 1


def test_a_model_that_ignores_its_latents_fails():
    changed, gates = judged(Ignoring(copying()), copying())
    assert gates == dict.fromkeys(["swap hurts", "zero hurts", "counterfactual followed", "better than pause"], False)
    assert changed.known.follow.value == 0 and changed.known.stay.value == 1


def test_latents_that_hand_nothing_on_fail():
    _, gates = judged(copying(thought_source="pause_multi"))
    assert gates["swap hurts"] is False and gates["zero hurts"] is False and gates["better than pause"] is None


def test_questions_without_a_change_are_left_out():
    reasoner = copying()
    own = answer(reasoner, word_problems(), SETTINGS)

    some = [next_word(problem) if problem.question in ("q0", "q5") else None for problem in own.problems]
    assert measure_counterfactual(reasoner, own, some, SETTINGS, 0).every.lead.n == 6
    assert measure_counterfactual(reasoner, own, [None] * len(some), SETTINGS, 0) is None


def test_pairs_are_known_where_both_questions_are_answered_right():
    reasoner = copying()
    word = reasoner.tokenizer.convert_tokens_to_ids
    with torch.no_grad():  # q4 is answered with a7
        reasoner.model.lm_head.weight[word("a7"), word("q4")] = 2.0
    own = answer(reasoner, [word_problem(number) for number in range(WORDS)], SETTINGS)
    assert own.right.tolist() == [number != 4 for number in range(WORDS)]
    found = measure_counterfactual(reasoner, own, [*map(next_word, own.problems)], SETTINGS, 0)
    assert (found.every.lead.n, found.known.lead.n) == (WORDS, WORDS - 2)  # without q3 -> q4 and q4 -> q5
    assert found.every.follow.value == pytest.approx(11 / 12) and found.every.neither == pytest.approx(1 / 12)
    assert found.changed.value == found.original.value == pytest.approx(11 / 12) and found.known.follow.value == 1


@pytest.mark.parametrize(
    ("follow", "stay", "pairs", "passed"),
    [(90, 10, 100, True), (52, 48, 100, False), (45, 5, 100, False), (51, 10, 100, True), (15, 0, 15, None)],
)
def test_most_answers_must_follow_and_more_than_stay(follow, stay, pairs, passed):
    follows, stays = np.arange(pairs) < follow, np.arange(pairs) >= pairs - stay
    lead = Mean.difference(follows.astype(float) - stays, 500)
    transplant = Transplant(Mean.share(follows, 5), Mean.share(stays, 5), lead)
    found = Counterfactual(Mean.share(follows, 5), Mean.share(follows, 5), transplant, transplant)
    gate = judge({}, found, None, 0.0)[2]
    assert gate.passed is passed
    assert passed is not None or gate.because == "15 pairs are answered right on both sides, 20 are needed"
    nothing = Counterfactual(found.original, found.changed, transplant, None)
    assert judge({}, nothing, None, 0.0)[2].passed is None


def effect(own, under, problems=100):
    """An effect on problems of which `own` and then `under` are right."""
    before, after = (np.arange(problems) < right for right in (own, under))
    loss = Mean.difference(before.astype(float) - after, 500)
    return Effect("swap", Mean.share(after, 5), Mean.share(before, 5), loss, Mean.share(before == after, 5), None)


@pytest.mark.parametrize(
    ("own", "under", "passed"),
    [(90, 49, True), (90, 51, False), (90, 90, False), (30, 18, True), (15, 0, False), (30, 40, False)],
)
def test_half_of_what_is_above_a_guess_must_be_lost(own, under, passed):
    """With a guess at 0.1: of 0.9 at least 0.4, of 0.3 at least 0.1. 0.15 of 100 is no better than a guess."""
    gates = judge({"swap": effect(own, under)}, None, None, 0.1)
    assert gates[0].passed is passed
    assert ("no better than a guess" in gates[0].because) == (own == 15)
    assert [gate.passed for gate in gates[1:]] == [None, None, None]


@pytest.mark.parametrize(("lead", "passed"), [(0.04, False), (0.06, True)])
def test_a_lead_over_pause_must_be_more_than_two_seeds_differ_by(lead, passed):
    compared = ControlComparison("pause", 3, Mean(0.5, (0.4, 0.6), 90), Mean(lead, (lead - 0.01, lead + 0.01), 90))
    assert judge({}, None, compared, 0.0)[3].passed is passed
    wide = ControlComparison("pause", 3, Mean(0.5, (0.4, 0.6), 90), Mean(lead, (lead - 0.1, lead + 0.1), 90))
    assert judge({}, None, wide, 0.0)[3].passed is False


@pytest.mark.parametrize(("problems", "passed"), [(2, None), (19, None), (20, True)])
def test_few_problems_are_no_measurement(problems, passed):
    """All are right on their own and none without: as clear as it can be."""
    whole = effect(problems, 0, problems)
    compared = ControlComparison("pause", 3, whole.accuracy, whole.loss)
    gates = judge({"swap": whole, "zero": whole}, None, compared, 0.0)
    assert [gate.passed for gate in gates] == [passed, passed, None, passed]
    if passed is None:
        assert gates[0].because == f"{problems} problems are answered with other latents, 20 are needed"
        assert gates[3].because == f"{problems} problems are answered by both, 20 are needed"
        assert verdict(gates).startswith("Nothing is shown")


def test_only_a_model_that_passes_every_gate_is_called_a_latent_reasoner():
    def said(*passed):
        return verdict([Gate(name, value, "") for name, value in zip("abcd", passed, strict=True)])

    assert said(True, True, True, True) == "This is a latent reasoner on these problems: it passes every gate."
    assert said(True, False, None, False) == "This is not shown to be a latent reasoner: it fails “b” and “d”."
    assert said(True, True, True, None) == (
        "It passes “a”, “b” and “c”, but “d” is not measured, so it is not yet shown to be a latent reasoner."
    )
    assert said(None, None, None, None).startswith("Nothing is shown: “a”, “b”, “c” and “d” are not measured")
