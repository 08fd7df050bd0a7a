"""Rows that begin alike run their question once: same loss, logits and gradients as if each ran its own."""

import pytest
import torch
from batches import L, assert_same_gradients, batch, gradients
from peft import LoraConfig, get_peft_model
from test_architectures import ARCHITECTURES
from test_grpo import make_trainer, rollouts

from neuralese.pipeline.latent import parse_noise
from neuralese.pipeline.latent.batch import Given
from neuralese.pipeline.latent.engine import decoder as engine
from neuralese.pipeline.latent.engine.packed import SharedQuestions
from neuralese.pipeline.train.rl.groups import shuffle_groups

# Two questions of different lengths with three answers each, one asked once, and one with other latents.
ROWS = [
    [6, 7, 8, L, L, L, 9, 10],
    [6, 7, 8, 9, 10, L, L, L, 9, 10, 11, 12],
    [6, 7, 8, L, L, L, 9],
    [6, 7, 8, 9, 10, L, L, L, 13],
    [6, 7, 8, L, L, L, 11, 12, 9, 10],
    [6, 7, 8, 9, 10, L, L, L, 8, 9],
    [11, L, L, L, 7],
    [6, 7, 8, L, L, 7, 7],
]
SEEDS = torch.arange(len(ROWS)) + 5


@pytest.fixture
def widths(monkeypatch):
    """Rows of each call of the decoder."""
    seen, call = [], engine.CachedDecoder.__call__

    def spy(self, embeds, *args, **kwargs):
        seen.append(len(embeds))
        return call(self, embeds, *args, **kwargs)

    monkeypatch.setattr(engine.CachedDecoder, "__call__", spy)
    return seen


def answers(reasoner, side):
    """A batch with labels on the answers alone, as RL has them."""
    inputs = batch(reasoner, side, ROWS)
    seen = (inputs["input_ids"] == reasoner.config.token_ids[1]).cumsum(1)
    is_answer = (seen == seen[:, -1:]) & (inputs["input_ids"] != reasoner.config.token_ids[1])
    is_answer &= inputs["attention_mask"].bool()
    return inputs | {"labels": inputs["input_ids"].masked_fill(~is_answer, -100)}


def assert_shared_is_the_same(reasoner, inputs, tolerance=1e-5, **options):
    found = {}
    for shared in (False, True):
        output = reasoner(**inputs, **options, share_questions=shared)
        found[shared] = (output, gradients(reasoner.model, output.loss))
    (plain, theirs), (shared, ours) = found[False], found[True]
    assert torch.allclose(shared.loss, plain.loss, rtol=tolerance, atol=tolerance)
    assert torch.allclose(shared.logits, plain.logits, rtol=10 * tolerance, atol=10 * tolerance)
    assert_same_gradients(ours, theirs, tolerance)
    return plain, shared


MODES = [
    # Options, passes, rows of the first pass. Where all latents are made at once they belong to it, too.
    ({}, 4, 3),
    ({"jacobi_sweeps": 2}, 3, 4),
    ({"loops": 2}, 3, 4),
    ({"loops": 3, "injection": "replace"}, 4, 4),
    ({"window": 1, "sees_question": False}, 4, 3),
    ({"thought_source": "gaussian_head"}, 4, 3),
]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("noise", [None, "gaussian:0.3", "svp:0.3", "gaussian:0.3@first"])
@pytest.mark.parametrize(("options", "passes", "first"), MODES)
def test_latents_of_shared_questions(make, widths, side, noise, options, passes, first):
    reasoner = make(**options)
    widths.clear()  # a new model is checked
    draw = {"noise": parse_noise(noise), "noise_seeds": SEEDS} if noise else {}
    plain, shared = assert_shared_is_the_same(reasoner, answers(reasoner, side), **draw)
    assert torch.allclose(shared.latents, plain.latents, atol=1e-5)
    assert widths == [8] * passes + [first] + [8] * (passes - 1)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("options", "first"), [({}, 5), ({"loops": 2}, 6)], ids=["passes", "loops"])
def test_perturbed_questions_are_shared_by_rows_of_one_seed(make, widths, side, options, first):
    """Rows 0, 2 and 4 ask alike, and so do 1, 3 and 5; in each three the first two have one seed, and so has row 7."""
    reasoner = make(**options)
    widths.clear()
    seeds = torch.tensor([5, 6, 5, 6, 7, 8, 5, 5])
    draw = {"noise": parse_noise("svp_weights:0.6"), "noise_seeds": seeds}
    assert_shared_is_the_same(reasoner, answers(reasoner, side), **draw)
    passes = len(widths) // 2
    assert widths[passes] == first and widths[:passes] == [8] * passes


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("options", [{"num_latents": 3, "thought_source": "pause"}, {"num_latents": 0}])
@pytest.mark.parametrize("window", [None, 1])
def test_rows_in_which_nothing_is_fed_back(make, widths, side, options, window):
    reasoner = make(**options, window=window)
    widths.clear()
    inputs = answers(reasoner, side)
    if options["num_latents"] == 0:  # text: the answers begin after different questions
        latents = inputs["input_ids"] == reasoner.config.token_ids[1]
        inputs["input_ids"] = inputs["input_ids"].masked_fill(latents, 12)
    assert_shared_is_the_same(reasoner, inputs)
    assert widths == [3 if options["num_latents"] else 4, 8]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("options", [{}, {"window": 2, "sees_question": False}])
def test_given_latents(make, widths, side, options):
    reasoner, noise = make(**options), parse_noise("gaussian:0.3")
    inputs = answers(reasoner, side)
    drawn = reasoner(**inputs, noise=noise, noise_seeds=SEEDS)
    widths.clear()
    given = Given(drawn.latents.detach(), noise)
    plain, shared = assert_shared_is_the_same(reasoner, inputs, given=given)
    assert torch.allclose(shared.latent_logps, plain.latent_logps, rtol=1e-5, atol=1e-4)
    assert widths == [3, 8]


@pytest.mark.parametrize(("options", "passes", "first"), MODES[:3])
def test_with_checkpointing_lora_and_bfloat16(make, options, passes, first):
    reasoner = make(**options)
    inputs = answers(reasoner, "left")
    reasoner.model.gradient_checkpointing_enable({"use_reentrant": False})
    reasoner.model.train()
    assert_shared_is_the_same(reasoner, inputs)
    reasoner.model.gradient_checkpointing_disable()
    reasoner.model.set_latent_config(compute_dtype="bfloat16")
    assert_shared_is_the_same(reasoner, inputs, tolerance=0.02)
    reasoner.model.set_latent_config(compute_dtype="float32")
    get_peft_model(reasoner.model, LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights=False))
    assert_shared_is_the_same(reasoner, inputs)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_on_every_architecture(make, name):
    # In double precision, but for norms: those of OLMo 2 amplify rounding in float32 to 2e-4 on some processors.
    reasoner = make(*ARCHITECTURES[name]())
    reasoner.model.double()
    reasoner.model.set_latent_config(compute_dtype="float64")
    assert_shared_is_the_same(reasoner, answers(reasoner, "left"), tolerance=2e-6)


def test_rows_that_all_differ_are_run_as_they_are(make, widths):
    reasoner = make()
    widths.clear()
    inputs = {name: values[[0, 1, 6]] for name, values in answers(reasoner, "left").items()}
    reasoner(**inputs, share_questions=True)
    assert widths == [3] * 4
    assert SharedQuestions.among(torch.tensor([[1, 2], [1, 3]])) is None
    first, of = SharedQuestions.among(torch.tensor([[4, 2], [1, 3], [4, 2]]))
    assert first[of].tolist() == [0, 1, 0]


def test_groups_are_shuffled_whole_and_all_their_columns_with_them():
    asked = torch.tensor([3, 3, 3, 5, 5, 3, 3, 8])  # 3 twice: of two groups that a process holds parts of
    batch = {
        "prompt_ids": torch.stack([torch.arange(8), asked], 1),  # as they differ in their latents
        "questions": asked,
        "noise_seeds": torch.arange(8),
        "names": [str(row) for row in range(8)],
        "num_items_in_batch": torch.tensor(40),
        "images": None,
    }
    orders = set()
    for _ in range(60):
        found = shuffle_groups(batch)
        rows = found["noise_seeds"]
        assert found["prompt_ids"].tolist() == batch["prompt_ids"][rows].tolist()
        assert found["names"] == [str(row) for row in rows.tolist()]
        assert found["num_items_in_batch"] == 40 and found["images"] is None
        orders.add(tuple(rows.tolist()))
        for group in ([0, 1, 2], [3, 4], [5, 6]):
            place = rows.tolist().index(group[0])
            assert rows[place : place + len(group)].tolist() == group
    assert len(orders) > 15  # of 24


@pytest.mark.parametrize("options", [{}, {"loops": 2}, {"stop_head": True}], ids=["", "loops", "stop head"])
def test_the_replay_of_a_micro_batch_runs_each_question_once(make, problems, tmp_path, widths, options):
    reasoner = make(num_latents=2, **options)
    sizes = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4, "steps_per_generation": 4}
    trainer = make_trainer(reasoner, problems, tmp_path, **sizes)
    widths.clear()
    inputs = [rollouts(trainer)]
    for step in range(1, 4):
        trainer._step = step
        inputs.append(trainer._prepare_inputs(None))
    widths.clear()
    trainer.current_gradient_accumulation_steps = 4
    for rows in inputs:
        questions = rows["questions"].unique()
        assert len(questions) == 8 // trainer.num_generations
        trainer._compute_loss(trainer.model, rows)
    assert widths[0] == len(questions) and widths.count(len(questions)) == 4 and set(widths) == {len(questions), 8}
