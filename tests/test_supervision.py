"""Losses that help the latents, against their formulas computed row by row; learned stopping."""

import pytest
import torch
import torch.nn.functional as F
from batches import assert_same_gradients, gradients
from reference import jacobi_inputs, latent_forward, latent_inputs, logits_of, looped_inputs, output_of

from neuralese.data.errors import UserError
from neuralese.pipeline.latent import parse_noise
from neuralese.pipeline.latent.supervision import States
from neuralese.pipeline.latent.thoughts import Thought
from neuralese.pipeline.problems.collate import Collator
from neuralese.pipeline.problems.encode import Encoded
from neuralese.pipeline.problems.format import Format
from neuralese.pipeline.problems.schedule import TEXT, Level

STAGE = Level(2, 2, 4)
PROBLEMS = [
    Encoded([6, 7, 8], [[9, 10, 11], [12, 6], [7, 7]], [5, 10, 1]),
    Encoded([8, 6, 7, 9, 10], [[6], [8, 9, 10]], [5, 6, 7, 1]),
    Encoded([9, 6], [[10, 11]], [5, 12, 1]),  # fewer steps than the stage removes
]
FORMS = [STAGE, STAGE, TEXT, STAGE]  # the third row is a text one, as mixing gives


def supervised(make, supervision, **options):
    return make(
        supervised=True, num_latents=4, latents_per_step=2, supervision=supervision, supervision_weight=0.7, **options
    )


def batch_of(reasoner, rows=(0, 1, 0, 2)):
    style = Format(reasoner.config, eos_token_id=1)
    examples = [style.example(PROBLEMS[row], form) for row, form in zip(rows, FORMS, strict=True)]
    return examples, Collator(0)(examples)


def cross_entropy(model, logits, ids, labels):
    """Sum over the labels of a row."""
    return sum(F.cross_entropy(logits[t - 1], torch.tensor(labels[t])) for t in range(1, len(ids)) if labels[t] != -100)


def test_decoder_loss_equals_its_formula(make):
    reasoner = supervised(make, "decoder", supervision_options={"layers": 2})
    model = reasoner.model
    examples, batch = batch_of(reasoner)
    embed, decoder, total, items = model.get_input_embeddings(), model.supervision.trunk, 0.0, 0
    for example in examples:
        logits, latents = latent_forward(model, example["input_ids"])
        total = total + cross_entropy(model, logits, example["input_ids"], example["labels"])
        items += sum(label != -100 for label in example["labels"])
        for k, step in enumerate(example["step_ids"]):
            inputs = torch.stack([*latents[2 * k : 2 * k + 2], *embed(torch.tensor(step[:-1], dtype=torch.long))])
            hidden = decoder(inputs_embeds=inputs[None], use_cache=False).last_hidden_state[0]
            step_logits = model.get_output_embeddings()(hidden[1:])
            total = total + 0.7 * F.cross_entropy(step_logits, torch.tensor(step))
    expected = gradients(model, total / items)
    output = reasoner(**batch)
    assert torch.allclose(output.loss, total / items, atol=1e-5)
    assert_same_gradients(gradients(model, output.loss), expected)
    assert any(name.startswith("supervision.") for name in expected)


def naive_inputs(model, ids):
    """What is fed (T, d) for one unpadded row: embeddings, and latents made one by one, all at once, or not at all."""
    sweeps = model.latent_config.jacobi_sweeps
    if model.latent_config.loops:
        return looped_inputs(model, ids)
    if model.latent_config.thought_source == "pause":
        return model.get_input_embeddings()(torch.tensor(ids))
    return jacobi_inputs(model, ids, sweeps) if sweeps else latent_inputs(model, ids)


def naive_logits(model, ids):
    return logits_of(model, naive_inputs(model, ids), ids)


def states_before_answer(model, example, name):
    """Hidden states (d,) after each layer at the token before the answer, of one unpadded row."""
    ids, position = example[f"{name}_ids" if name == "teacher" else "input_ids"], example[f"{name}_position"]
    output = output_of(model, naive_inputs(model, ids), ids, output_hidden_states=True)
    return [layer[0, position] for layer in output.hidden_states[1:]]


HIDING = {"window": 1, "sees_question": False}


@pytest.mark.parametrize(
    "options",
    [{}, {"jacobi_sweeps": 2}, {"loops": 2}, {"thought_source": "pause"}, HIDING, {"thought_source": "pause"} | HIDING],
)
def test_distillation_loss_equals_its_formula(make, options):
    reasoner = supervised(make, "distillation", supervision_options={"gamma": 3.0}, **options)
    model = reasoner.model
    examples, batch = batch_of(reasoner)
    output = reasoner(**batch)
    total, items = 0.0, 0
    for example in examples:
        count = sum(label != -100 for label in example["labels"])
        logits = naive_logits(model, example["input_ids"])
        total = total + cross_entropy(model, logits, example["input_ids"], example["labels"])
        text, text_labels = example["teacher_ids"], example["teacher_labels"]
        teacher = cross_entropy(model, naive_logits(model, text), text, text_labels)
        teacher = teacher / sum(label != -100 for label in text_labels)
        pairs = list(zip(*(states_before_answer(model, example, name) for name in ("student", "teacher")), strict=True))
        distance = sum(F.smooth_l1_loss(h, h_star.detach()) / h_star.detach().std() for h, h_star in pairs)
        total = total + 0.7 * count * (teacher + 3.0 * distance / len(pairs))
        items += count
    expected = gradients(model, total / items)
    assert torch.allclose(output.loss, total / items, rtol=1e-5)
    assert_same_gradients(gradients(model, output.loss), expected, 2e-5)


@pytest.mark.parametrize("options", [{}, {"jacobi_sweeps": 2}, {"loops": 3}, {"thought_source": "pause"}])
@pytest.mark.parametrize("padding", [False, True])
def test_step_tokens_loss_equals_its_formula(make, options, padding):
    """The mean over the text, and a weight times the mean over the slots, each label from the position before it."""
    reasoner = supervised(make, "step_tokens", supervision_options={"label_padding": padding}, **options)
    model = reasoner.model
    examples, batch = batch_of(reasoner)
    text, slots, items, count = 0.0, 0.0, 0, 0
    for example in examples:
        ids, labels = example["input_ids"], example["slot_labels"]
        logits = naive_logits(model, ids)
        text = text + cross_entropy(model, logits, ids, example["labels"])
        slots = slots + cross_entropy(model, logits, ids, labels)
        items += sum(label != -100 for label in example["labels"])
        count += sum(label != -100 for label in labels)
        assert {ids[place] for place, label in enumerate(labels) if label != -100} <= {reasoner.config.token_ids[1]}
    assert count == (12 if padding else 9)  # of the 12 slots one step of one token and a missing step leave 3
    expected = text / items + 0.7 * slots / count
    theirs = gradients(model, expected)
    output = reasoner(**batch)
    assert torch.allclose(output.loss, expected, atol=1e-5)
    assert_same_gradients(gradients(model, output.loss), theirs, 2e-5)
    assert output.latent_loss == pytest.approx((slots / count).item(), rel=1e-5)
    assert output.token_loss == pytest.approx((text / items).item(), rel=1e-5)


def test_step_tokens_in_micro_batches_are_the_mean_over_all_their_slots(make):
    reasoner = supervised(make, "step_tokens", loops=2)
    style = Format(reasoner.config, eos_token_id=1)
    examples = [style.example(PROBLEMS[row], form) for row, form in zip((0, 1, 0, 2), FORMS, strict=True)]
    items, count = (
        sum(label != -100 for example in examples for label in example[key]) for key in ("labels", "slot_labels")
    )
    whole = gradients(reasoner.model, reasoner(**Collator(0)(examples)).loss)
    total = 0.0
    for part in (examples[:1], examples[1:]):
        batch = Collator(0)(part)
        batch["supervision_inputs"]["num_items_in_batch"] = torch.tensor(count)
        total = total + reasoner(**batch, num_items_in_batch=items).loss
    assert_same_gradients(gradients(reasoner.model, total), whole, 2e-5)


def test_rows_without_slots_count_for_nothing(make):
    reasoner = supervised(make, "step_tokens")
    style = Format(reasoner.config, eos_token_id=1)
    output = reasoner(**Collator(0)([style.example(PROBLEMS[0], TEXT)]))
    assert output.latent_loss == 0 and torch.isfinite(output.loss)
    with pytest.raises(UserError, match="label_padding='yes' must be true or false"):
        supervised(make, "step_tokens", supervision_options={"label_padding": "yes"})


@pytest.mark.parametrize("supervision", ["none", "next_step", "decoder", "distillation"])
@pytest.mark.parametrize("stop_head", [False, True])
def test_accumulation_equals_one_batch(make, supervision, stop_head):
    reasoner = supervised(make, supervision, stop_head=stop_head)
    style = Format(reasoner.config, eos_token_id=1)
    examples = [style.example(PROBLEMS[row], form) for row, form in zip((0, 1, 0, 2), FORMS, strict=True)]
    items = sum(label != -100 for example in examples for label in example["labels"])
    whole = gradients(reasoner.model, reasoner(**Collator(0)(examples), num_items_in_batch=items).loss)
    parts = [reasoner(**Collator(0)(part), num_items_in_batch=items).loss for part in (examples[:1], examples[1:])]
    assert_same_gradients(gradients(reasoner.model, sum(parts)), whole, 2e-5)


def test_a_batch_without_latents_still_runs_the_decoder(make):
    """Under ZeRO-3 all ranks must run all modules, also a rank whose rows are all text."""
    reasoner = supervised(make, "decoder")
    style = Format(reasoner.config, eos_token_id=1)
    output = reasoner(**Collator(0)([style.example(PROBLEMS[0], TEXT)]))
    assert output.latent_loss == 0
    found = gradients(reasoner.model, output.loss)
    decoder = [gradient for name, gradient in found.items() if name.startswith("supervision.")]
    assert decoder and not any(gradient.any() for gradient in decoder)


def test_the_decoder_learns_to_read(make):
    """Overfitted on fixed latents, it reads their steps back, tokens of different numbers."""
    reasoner = supervised(make, "decoder")
    model, decoder = reasoner.model, reasoner.model.supervision
    latents = torch.randn(2, 4, 32) * 0.3
    steps = torch.tensor([[[9, 10, 11, 1], [12, 1, -100, -100]], [[6, 1, -100, -100], [8, 9, 1, -100]]])
    optimizer = torch.optim.Adam(decoder.parameters(), 3e-3)
    states = States(latents, latents, torch.zeros(2, 1, dtype=torch.long))
    for _ in range(150):
        loss = decoder(model, states, {"step_ids": steps})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert decoder.read(model, latents[0], eos_token_id=1) == [[9, 10, 11], [12]]
    assert decoder.read(model, latents[1], eos_token_id=1) == [[6], [8, 9]]
    words = reasoner.tokenizer.convert_ids_to_tokens([9, 10, 11])
    assert reasoner.read_thoughts(latents[0])[0] == " ".join(words)


def test_stop_loss_equals_its_formula(make):
    reasoner = make(num_latents=5, stop_head=True)
    model, rows = reasoner.model, []
    style = Format(reasoner.config, pad_latents=False)
    examples = [style.example(problem, Level(3, 3, 5)) for problem in PROBLEMS]
    for example in examples:
        ids = example["input_ids"]
        _, latents = latent_forward(model, ids)
        inputs = model.get_input_embeddings()(torch.tensor(ids)).clone()
        slots = [i for i, token in enumerate(ids) if token == reasoner.config.token_ids[1]]
        for slot, latent in zip(slots, latents, strict=True):
            inputs[slot] = latent
        hidden = model.base_model(inputs_embeds=inputs[None], use_cache=False).last_hidden_state[0]
        rows += [(model.stop_head(hidden[slot])[0], slot == slots[-1]) for slot in slots]
    assert [last for _, last in rows] == [False, False, True, False, True, True]
    chances = [logit.sigmoid() if last else 1 - logit.sigmoid() for logit, last in rows]
    expected = -torch.stack(chances).log()
    output = reasoner(**Collator(0)(examples))
    assert torch.allclose(output.stop_loss, expected.mean(), atol=1e-5)
    items = sum(label != -100 for example in examples for label in example["labels"])
    assert torch.allclose(output.loss, output.token_loss + expected.sum() / items, atol=1e-5)


@pytest.mark.parametrize("noise", [None, "gaussian:0.5"])
@pytest.mark.parametrize("delimiters", [False, True])
def test_a_stopped_thought_equals_one_with_as_many_latents(make, monkeypatch, noise, delimiters, problems):
    reasoner = make(num_latents=5, stop_head=True, delimiters=delimiters)
    # Decisions as varied as a trained head's; the tiny model's own states hardly differ.
    monkeypatch.setattr(reasoner.model, "is_complete", lambda hidden, made: (hidden[:, 0] * 50).floor() % 3 == 0)
    prompts = [problem.question for problem in problems[:12]] + ["3 + 4 =", "2 * 6 - 1 + 3 - 5 * 4 ="]
    samples = reasoner.generate(prompts, n=6, noise=noise, temperature=1.0, max_new_tokens=5)
    counts = [count for sample in samples for count in sample.num_latents]
    assert min(counts) == 1 and max(counts) == 5 and len(set(counts)) > 3
    reasoner.model.stop_head = None
    for prompt, sample in zip(prompts, samples, strict=True):
        for i, count in enumerate(sample.num_latents):
            (alone,) = reasoner.generate(
                [prompt], noise=noise, temperature=1.0, max_new_tokens=5, num_latents=count, seeds=[[sample.seeds[i]]]
            )
            assert alone.token_ids[0] == sample.token_ids[i]
            assert abs(alone.logprobs[0] - sample.logprobs[i]) < 1e-4
            assert torch.allclose(alone.latents[0], sample.latents[i, :count], atol=1e-5)
            assert not sample.latents[i, count:].any()


def test_a_stop_head_needs_latents_one_after_the_other(make):
    with pytest.raises(UserError, match="stop_head needs latents made one after the other"):
        make(stop_head=True, jacobi_sweeps=2)


def test_learned_noise_has_the_learned_spread_and_its_gradient(make):
    reasoner = make(thought_source="gaussian_head", num_latents=1)
    source, hidden = reasoner.model.thought_source, torch.randn(4, 32)
    torch.nn.init.normal_(source.log_std.weight, std=0.3)
    thought = source(hidden, reasoner.model)
    mean, std = thought.latent, thought.std
    rms = reasoner.config.embedding_rms
    log_std = (hidden @ source.log_std.weight.T + source.log_std.bias).clamp(-5, 0)
    assert torch.allclose(std, log_std.exp() * rms, atol=1e-6)
    noise, epsilon = parse_noise("learned:0.5"), torch.randn(4, 32)
    moved = noise.apply(thought, epsilon)
    assert torch.allclose(moved, mean + 0.5 * std * epsilon)
    moved.sum().backward()
    assert source.log_std.weight.grad.any()
    with pytest.raises(UserError, match="learned:0.5 needs a thought source that gives a std"):
        noise.apply(Thought(mean), epsilon)


def test_pause_in_several_passes_is_pause_in_one(make, reasoner):
    """Attention is causal: a fixed embedding gives the same in one pass as in many."""
    examples, _ = batch_of(reasoner)
    outputs = [make(thought_source=source)(**Collator(0)(examples)) for source in ("pause", "pause_multi")]
    assert torch.allclose(outputs[0].loss, outputs[1].loss, atol=1e-6)
    assert torch.allclose(outputs[0].logits, outputs[1].logits, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thought_source": "soft"}, "Unknown thought source 'soft'"),
        ({"thought_source": "projection", "thought_options": {"widht": 3}}, "Unknown thought_options ['widht']"),
        ({"thought_source": "projection", "thought_options": {"width": 0}}, "width=0 must be at least 1"),
        ({"thought_source": "soft_vocabulary", "thought_options": {"temperature": 0.0}}, "temperature=0.0 above 0"),
        (
            {"thought_source": "gaussian_head", "thought_options": {"min_log_std": 1.0}},
            "min_log_std=1.0 must be below 0",
        ),
        ({"supervision": "codi"}, "Unknown supervision 'codi'"),
        ({"supervision": "decoder", "supervision_options": {"layers": 3}}, "between 1 and the model's 2"),
        ({"supervision": "distillation", "supervision_options": {"gamma": 0.0}}, "gamma=0.0 must be above 0"),
    ],
)
def test_bad_options_are_named(make, options, message):
    with pytest.raises(UserError) as error:
        make(supervised=True, **options)
    assert message in str(error.value)
