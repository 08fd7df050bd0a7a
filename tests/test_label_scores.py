"""Log-probs and entropies of labels in parts, against all logits at once."""

import pytest
import torch
from batches import ROWS, assert_same_gradients, batch, gradients
from peft import LoraConfig, get_peft_model

from neuralese.pipeline.latent import label_scores, parse_noise
from neuralese.pipeline.latent.batch import Given
from neuralese.pipeline.latent.label_scores import Score

SEEDS = torch.arange(len(ROWS))


def naive(reasoner, inputs, temperature, **options):
    """From the logits of a forward with a loss, in double precision."""
    special = reasoner.config.token_ids
    output = reasoner(**inputs, **options)
    logits = output.logits.double() / temperature
    others = [token for token in range(logits.size(-1)) if token not in special]
    chances = logits[:, others].softmax(-1)
    target = inputs["labels"][:, 1:][inputs["labels"][:, 1:] != -100]
    place = torch.tensor([others.index(token) for token in target.tolist()])
    return chances.gather(1, place[:, None]).squeeze(1).log(), -(chances * chances.log()).sum(1)


def labelled(reasoner):
    """A batch whose labels are tokens that can be sampled."""
    inputs = batch(reasoner, "left")
    is_special = torch.isin(inputs["labels"], torch.tensor(reasoner.config.token_ids))
    return inputs | {"labels": inputs["labels"].masked_fill(is_special, -100)}


@pytest.mark.parametrize("most", [1, 100, 2**26])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 1.7])
@pytest.mark.parametrize("adapted", [False, True])
def test_parts_give_what_all_logits_give(make, monkeypatch, most, temperature, adapted):
    reasoner = make()
    if adapted:
        get_peft_model(reasoner.model, LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights=False))
    inputs, draw = labelled(reasoner), {"noise": parse_noise("gaussian:0.3"), "noise_seeds": SEEDS}
    expected = naive(reasoner, inputs, temperature, **draw)
    theirs = gradients(reasoner.model, (expected[0] * SEEDS.repeat(20)[: len(expected[0])]).sum() + expected[1].sum())
    monkeypatch.setattr(label_scores, "MOST_LOGITS", most)
    output = reasoner(**inputs, **draw, score=Score(temperature, reasoner.config.token_ids))
    for ours, value in zip((output.logps, output.entropies), expected, strict=True):
        assert torch.allclose(ours.double(), value, atol=1e-5)
    loss = (output.logps * SEEDS.repeat(20)[: len(output.logps)]).sum() + output.entropies.sum()
    assert_same_gradients(gradients(reasoner.model, loss), theirs, 2e-5)
    assert output.loss is None and output.logits is None


def test_no_part_has_more_logits_than_are_allowed(make, monkeypatch):
    reasoner, seen = make(), []
    head = type(reasoner.model).head_logits
    monkeypatch.setattr(type(reasoner.model), "head_logits", lambda self, h: seen.append(len(h)) or head(self, h))
    inputs, score = labelled(reasoner), Score(1.0, reasoner.config.token_ids)
    labels = int((inputs["labels"][:, 1:] != -100).sum())
    reasoner(**inputs, score=score)
    assert seen == [labels]  # all fit: nothing is computed twice
    seen.clear()
    monkeypatch.setattr(label_scores, "MOST_LOGITS", 5 * reasoner.model.config.vocab_size)
    output = reasoner(**inputs, score=score)
    assert max(seen) == 5 and sum(seen) == labels
    output.logps.sum().backward()
    assert max(seen) == 5 and sum(seen) == 2 * labels


def test_latents_that_are_given(make):
    reasoner, noise = make(), parse_noise("gaussian:0.3")
    inputs = labelled(reasoner)
    drawn = reasoner(**inputs, noise=noise, noise_seeds=SEEDS)
    given = Given(drawn.latents.detach(), noise)
    plain = reasoner(**inputs, given=given)
    output = reasoner(**inputs, given=given, score=Score(1.0, reasoner.config.token_ids))
    logps, _ = naive(reasoner, inputs, 1.0, given=given)
    assert torch.allclose(output.logps.double(), logps, atol=1e-5)
    assert torch.equal(output.latent_logps, plain.latent_logps)
