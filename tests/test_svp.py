"""`svp_weights` against a model with other value matrices, as published: thought by these, answer by the clean ones."""

import pytest
import torch
from batches import assert_same_gradients, gradients
from reference import thought
from test_grpo import G, make_trainer, rollouts
from test_noise import MODELS
from test_ppo import make_ppo
from torch.func import functional_call
from transformers import DynamicCache

from neuralese.data.errors import UserError
from neuralese.pipeline.evaluate.search import check_search
from neuralese.pipeline.latent import NoiseError, parse_noise
from neuralese.pipeline.latent.noise.values import value_modules
from neuralese.pipeline.recipe.schema import LatentSection
from neuralese.pipeline.train.rl import grpo
from neuralese.pipeline.train.rl.call_state import Work
from neuralese.pipeline.train.rl.logps import answers_of

SCALE = 0.6
NOISE = parse_noise(f"svp_weights:{SCALE}")


def perturbed(model, seed):
    """All weights by name, value matrices W = U diag(s) Rᵀ as W' = U diag(s (1 + scale · epsilon)) Rᵀ.

    With W' = W R diag(1 + scale · epsilon) Rᵀ, R constant, a gradient reaches W.
    """
    epsilon = NOISE.sample_batch(torch.tensor([seed]), 1, NOISE.width(model))[0, 0]
    weights, begin = dict(model.named_parameters()), 0
    names = {id(module): name for name, module in model.named_modules()}
    for module, places in value_modules(model):
        name = f"{names[id(module)]}.weight"
        is_linear = isinstance(module, torch.nn.Linear)
        whole = weights[name].T if is_linear else weights[name]  # (in, out)
        places = torch.arange(whole.size(1)) if places is None else places
        value = whole[:, places]
        u, s, vh = torch.linalg.svd(value.detach(), full_matrices=False)
        share = 1 + SCALE * epsilon[begin : begin + len(s)]
        begin += len(s)
        moved = value @ vh.T @ torch.diag(share) @ vh
        assert torch.allclose(moved, u @ torch.diag(s * share) @ vh, atol=1e-5)  # as published
        matrix = whole.index_copy(1, places, moved)
        weights[name] = matrix.T if is_linear else matrix
    assert begin == len(epsilon)
    return weights


def naive_logits(model, ids, seed):
    """Logits (T, V) of one row: token after token with a cache, in two models that share it."""
    latent_id, section = model.latent_config.token_ids[1], model.latent_config
    weights, clean = perturbed(model, seed), dict(model.named_parameters())
    embeds = list(model.get_input_embeddings()(torch.tensor(ids)))
    last = max(place for place, token in enumerate(ids) if token == latent_id)
    places = [place for place, token in enumerate(ids) if token == latent_id]

    def states(inputs):
        options = {"inputs_embeds": torch.stack(inputs)[None], "use_cache": False, "output_hidden_states": True}
        return functional_call(model, weights, kwargs=options).hidden_states[-1][0]

    inputs = list(embeds)
    for place in places if section.loops is None else []:
        inputs[place] = thought(model, states(inputs[:place])[-1])
    for _ in range(section.loops or 0):
        hidden = states(inputs)
        inputs = [embeds[i] + thought(model, hidden[i]) if i in places else embeds[i] for i in range(len(ids))]
    cache, logits = DynamicCache(), []
    for place, embed in enumerate(inputs):
        options = {"inputs_embeds": embed[None, None], "past_key_values": cache, "use_cache": True}
        output = functional_call(model, weights if place <= last else clean, kwargs=options)
        logits.append(output.logits[0, -1])
    return torch.stack(logits)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("options", [{}, {"loops": 2}], ids=["passes", "loops"])
def test_the_answer_is_read_by_clean_weights_after_a_perturbed_thought(make, model, options):
    """Logits of the answer, the loss and every gradient, of rows with text between their latents, too."""
    model_class, config = MODELS[model]
    reasoner = make(model_class, config, num_latents=3, **options)
    for name, weight in reasoner.model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.1)
    latent = reasoner.config.token_ids[1]
    rows = [[6, 7, 8, latent, latent, latent, 9, 10, 11], [7, 8, latent, latent, 9, 10]]
    if not options:
        rows.append([6, 7, latent, 9, latent, latent, 8, 12])
    width, seeds = max(map(len, rows)), torch.tensor([3, -4, 5])[: len(rows)]
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    is_answer = (ids.flip(1) == latent).cumsum(1).flip(1) == 0
    labels = ids.masked_fill(~is_answer | (mask == 0), -100)
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels, "noise_seeds": seeds}
    output = reasoner(**inputs, noise=NOISE)
    ours = gradients(reasoner.model, output.loss)
    logps = []
    for row, seed in zip(rows, seeds.tolist(), strict=True):
        start = max(place for place, token in enumerate(row) if token == latent) + 1
        logits = naive_logits(reasoner.model, row, seed)[start - 1 : -1]
        logps.append(logits.log_softmax(-1)[range(len(logits)), row[start:]])
    expected = -torch.cat(logps).mean()
    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert_same_gradients(ours, gradients(reasoner.model, expected), 1e-4)
    # Noise on what is read of latents alone is something else.
    other = reasoner(**inputs, noise=parse_noise(f"svp:{SCALE}")).loss
    assert abs(other.item() - expected.item()) > 1e-4


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_rollouts_are_replayed_and_trained_on(reasoner, problems, tmp_path, monkeypatch, algorithm):
    """Each rollout has a question of its own, except where answers share their thought."""
    first_latents, generate = [], grpo.generate
    monkeypatch.setattr(
        grpo, "generate", lambda *args: first_latents.append(drawn := generate(*args)) or drawn
    )  # fmt: skip
    if algorithm == "grpo":
        options = {"how": {"answers_per_thought": 2}, "num_iterations": 2}
        trainer = make_trainer(reasoner, problems, tmp_path, noise=str(NOISE), **options)
    else:
        trainer = make_ppo(reasoner, problems, tmp_path, noise=str(NOISE))
    inputs = rollouts(trainer)
    answers, answer = answers_of(inputs), inputs["completion_mask"].bool()
    with trainer.working(Work(inputs)):
        replayed, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, *answers, batch_size=5)
    assert torch.allclose(replayed[answer], inputs["sampling_per_token_logps"][answer], atol=1e-4)
    with trainer.working(Work({"noise_seeds": inputs["noise_seeds"] + 1})):
        wrong, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, *answers)
    assert not torch.allclose(wrong[answer], replayed[answer], atol=1e-3)
    thoughts = first_latents[0].latents[:G, 0]
    assert torch.equal(thoughts[0], thoughts[1]) == (algorithm == "grpo") and not torch.equal(thoughts[0], thoughts[2])
    assert ("total", "latent/cosine") in trainer.watched.take()
    before = trainer.model.transformer.h[0].attn.c_attn.weight[:, 64:].clone()
    trainer.train()
    assert not torch.equal(trainer.model.transformer.h[0].attn.c_attn.weight[:, 64:], before)
    gaps = [row["rollout/replay_gap"] for row in trainer.state.log_history if "rollout/replay_gap" in row]
    assert gaps and max(gaps) < 1e-4


def test_what_cannot_be_perturbed_whole_is_named():
    with pytest.raises(NoiseError, match=r"svp_weights:0.6@first changes weights for a whole thought"):
        parse_noise("svp_weights:0.6@first")
    with pytest.raises(UserError, match="svp_weights:0.6 falls on the whole thought, question included"):
        check_search("svp_weights:0.6", LatentSection())
