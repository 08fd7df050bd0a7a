"""Each kind of noise against its formula; a rollout under it is replayed from its seed alone."""

import pytest
import torch
from batches import batch
from transformers import GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from neuralese.pipeline.latent import ModelError, Noise, NoiseError, parse_noise, register_noise
from neuralese.pipeline.latent.batch import Batch, Draw
from neuralese.pipeline.latent.noise import NOISES, Replacement
from neuralese.pipeline.latent.noise.values import ValueShift, value_bases
from neuralese.pipeline.latent.thoughts import Mixture, Thought

SIZE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
MODELS = {
    "gpt2": (GPT2LMHeadModel, None),
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZE, num_key_value_heads=2, attention_bias=True)),
    "neox": (GPTNeoXForCausalLM, GPTNeoXConfig(**SIZE)),
}
# A scale and a thought source for each kind.
KINDS = {
    "gaussian": ("0.4", "norm_matched"), "spherical": ("0.4", "norm_matched"), "dropout": ("0.3", "norm_matched"),
    "learned": ("1", "gaussian_head"), "gumbel": ("1", "soft_vocabulary"), "gumbel_onesided": ("1", "soft_vocabulary"),
    "svp": ("0.6", "norm_matched"), "svp_weights": ("0.6", "norm_matched"),
}  # fmt: skip


def draw(noise, seeds, count=3, width=32):
    return noise.sample_batch(torch.tensor(seeds), count, width)


def test_every_kind_is_tested():
    assert KINDS.keys() == NOISES.keys()


def test_gaussian_noise_has_the_stated_size():
    noise = parse_noise("gaussian:0.3")
    latent = torch.full((4, 4096), 2.0, requires_grad=True)
    noisy = noise.apply(Thought(latent), draw(noise, range(4), 1, 4096)[:, 0])
    assert (noisy - latent).std().item() == pytest.approx(0.6, rel=0.05)
    noisy.sum().backward()
    assert torch.equal(latent.grad, torch.ones_like(latent))  # the scale carries no gradient
    assert parse_noise("gaussian:0") is None and parse_noise(None) is None


def test_spherical_noise_keeps_the_norm():
    noise, latent = parse_noise("spherical:0.5"), torch.randn(5, 32)
    epsilon = draw(noise, range(5), 1)[:, 0]
    rms = latent.pow(2).mean(-1, keepdim=True).sqrt()
    moved = latent + 0.5 * rms * epsilon
    expected = moved / moved.norm(dim=-1, keepdim=True) * latent.norm(dim=-1, keepdim=True)
    assert torch.allclose(noise.apply(Thought(latent), epsilon), expected, atol=1e-6)


def test_dropout_drops_the_same_coordinates_of_all_latents_of_a_rollout():
    noise, latent = parse_noise("dropout:0.25"), torch.ones(2, 3, 4096)
    noisy = noise.apply(Thought(latent), draw(noise, [1, 2], 3, 4096))
    assert noisy.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert (noisy[0, 0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(noisy[0, 0], noisy[0, 2]) and not torch.equal(noisy[0, 0], noisy[1, 0])
    with pytest.raises(NoiseError, match="would drop every coordinate"):
        parse_noise("dropout:1")


@pytest.mark.parametrize("kind", ["gumbel", "gumbel_onesided"])
def test_gumbel_noise_moves_the_shares(kind):
    noise = parse_noise(f"{kind}:0.7")
    mixture = Mixture(torch.randn(6, 5), torch.randn(6, 5, 8), 0.5)
    epsilon = draw(noise, range(6), 1, 10)[:, 0]
    shares = ((mixture.logits + 0.7 * epsilon[:, :5]) / 0.5).softmax(-1)
    expected = torch.einsum("bk,bkd->bd", shares, mixture.embeds)
    assert torch.allclose(noise.apply(Thought(mixture.mean(), mixture=mixture), epsilon), expected, atol=1e-6)
    draws = draw(noise, range(400), 1, 50).flatten()
    if kind == "gumbel":  # its mean is Euler's constant, its variance pi^2 / 6
        assert draws.mean().item() == pytest.approx(0.5772, abs=0.03)
        assert draws.var().item() == pytest.approx(1.645, abs=0.06)
    else:
        assert draws.min() >= 0 and draws.max() <= 4.5
    with pytest.raises(NoiseError, match="gives a mixture"):
        noise.apply(Thought(torch.zeros(6, 8)), epsilon)


def test_gumbel_noise_at_a_low_temperature_samples_from_the_softmax():
    noise, logits = parse_noise("gumbel:1"), torch.tensor([1.0, 0.0, -1.0])
    epsilon = draw(noise, range(4000), 1, 3)[:, 0]
    mixture = Mixture(logits.expand(4000, 3), torch.eye(3).expand(4000, 3, 3), 1e-4)
    drawn = noise.apply(Thought(mixture.mean(), mixture=mixture), epsilon).mean(0)
    assert torch.allclose(drawn, logits.softmax(-1), atol=3 * 0.5 / 4000**0.5)


@pytest.mark.parametrize("model", MODELS)
def test_svp_is_a_model_with_other_singular_values(make, model):
    """The values of a perturbed model, whose weights were multiplied out, at every layer."""
    model_class, config = MODELS[model]
    reasoner = make(model_class, config)
    trunk = reasoner.model.base_model
    layers = trunk.h if model == "gpt2" else trunk.layers
    for name, parameter in trunk.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    bases = value_bases(reasoner.model)
    epsilon = draw(parse_noise("svp:0.6"), [5], 1, bases.width)  # (1, 1, W)
    for index, layer in enumerate(layers):
        x = torch.randn(1, 3, 32)
        if model == "gpt2":
            weight, bias = layer.attn.c_attn.weight[:, 64:], layer.attn.c_attn.bias[64:]
        elif model == "llama":
            weight, bias = layer.self_attn.v_proj.weight.T, layer.self_attn.v_proj.bias
        else:
            fused = layer.attention.query_key_value
            weight = fused.weight.view(4, 3, 8, 32)[:, 2].reshape(32, 32).T
            bias = fused.bias.view(4, 3, 8)[:, 2].reshape(32)
        heads = 2 if model == "llama" else 4
        u, s, v = torch.linalg.svd(weight.detach(), full_matrices=False)
        size = len(s)
        share = 1 + 0.6 * epsilon[0, 0, index * size : (index + 1) * size]
        expected = (x @ (u * (s * share)) @ v + bias).view(1, 3, heads, 8).transpose(1, 2)
        values = (x @ weight + bias).view(1, 3, heads, 8).transpose(1, 2)
        is_latent = torch.tensor([[True, False, True]])
        moved = ValueShift(bases, 0.6).at(epsilon, is_latent)(index, values)
        assert torch.allclose(moved[:, :, is_latent[0]], expected[:, :, is_latent[0]], atol=1e-5)
        assert torch.equal(moved[:, :, 1], values[:, :, 1])


def test_svp_names_models_it_does_not_know(reasoner):
    for block in reasoner.model.transformer.h:
        block.attn.other = block.attn.__dict__["_modules"].pop("c_attn")
    with pytest.raises(ModelError, match="finds 0 of them in the 2 layers of GPT2LMHeadModel"):
        value_bases(reasoner.model)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [{}, {"jacobi_sweeps": 2}, {"loops": 2}, {"window": 1, "sees_question": False}],
    ids=["passes", "sweeps", "loops", "window"],
)
def test_a_row_depends_on_its_seed_alone(make, kind, options):
    scale, source = KINDS[kind]
    reasoner, noise = make(num_latents=3, thought_source=source, **options), parse_noise(f"{kind}:{scale}")
    inputs = {**batch(reasoner, "right"), "labels": None}
    seeds = torch.arange(len(inputs["input_ids"])) + 5
    both = reasoner(**inputs, noise=noise, noise_seeds=seeds)
    other = reasoner(**inputs, noise=noise, noise_seeds=seeds + 100)
    still = reasoner(**inputs)
    with_latents = (inputs["input_ids"] == reasoner.config.token_ids[1]).any(1)
    for row, has_latents in enumerate(with_latents.tolist()):
        alone = reasoner(
            input_ids=inputs["input_ids"][row, None],
            attention_mask=inputs["attention_mask"][row, None],
            noise=noise,
            noise_seeds=seeds[row, None],
        )
        mask = inputs["attention_mask"][row].bool()
        assert torch.allclose(alone.logits[0][mask], both.logits[row][mask], atol=1e-5)
        assert torch.allclose(other.logits[row][mask], both.logits[row][mask], atol=1e-5) != has_latents
        assert torch.allclose(still.logits[row][mask], both.logits[row][mask], atol=1e-5) != has_latents


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("checkpointing", "options"),
    [(False, {}), (True, {}), (False, {"loops": 3}), (True, {"loops": 2}), (True, {"window": 1})],
)
def test_a_rollout_is_replayed_from_its_seeds(make, kind, checkpointing, options):
    """Sampled with a shared prefill, replayed as one batch, with gradients."""
    scale, source = KINDS[kind]
    reasoner, noise = make(num_latents=3, thought_source=source, **options), parse_noise(f"{kind}:{scale}")
    (samples,) = reasoner.generate(["3 + 4 ="], n=5, noise=noise, temperature=1.0, max_new_tokens=6)
    prompt = reasoner.prompt_ids("3 + 4 =")
    rows = [prompt + ids for ids in samples.token_ids]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, : len(prompt)] = -100
    if checkpointing:
        reasoner.model.train()
        reasoner.model.gradient_checkpointing_enable({"use_reentrant": False})
    output = reasoner(
        input_ids=ids, attention_mask=mask, labels=labels, noise=noise, noise_seeds=torch.tensor(samples.seeds)
    )
    logits = output.logits.index_fill(-1, torch.tensor(reasoner.config.token_ids), torch.finfo(torch.float32).min)
    logps = logits.log_softmax(-1).gather(1, labels[labels != -100][:, None]).squeeze(1)
    lengths = [len(row) - len(prompt) for row in rows]
    assert [part.sum().item() for part in logps.split(lengths)] == pytest.approx(samples.logprobs, abs=1e-4)
    assert torch.allclose(output.latents, samples.latents, atol=1e-5)
    logps.sum().backward()
    gradient = reasoner.model.get_input_embeddings().weight.grad
    if checkpointing:
        reasoner.model.gradient_checkpointing_disable()
        again = reasoner(
            input_ids=ids, attention_mask=mask, labels=labels, noise=noise, noise_seeds=torch.tensor(samples.seeds)
        ).logits.index_fill(-1, torch.tensor(reasoner.config.token_ids), torch.finfo(torch.float32).min)
        total = again.log_softmax(-1).gather(1, labels[labels != -100][:, None]).sum()
        (plain,) = torch.autograd.grad(total, [reasoner.model.get_input_embeddings().weight])
        assert torch.allclose(gradient, plain, rtol=1e-4, atol=1e-5)
    assert gradient.any()


def test_svp_keeps_the_directions_of_its_rollouts_while_the_weights_change(reasoner):
    before = value_bases(reasoner.model)
    with torch.no_grad():
        reasoner.model.transformer.h[0].attn.c_attn.weight.add_(1.0)
    assert value_bases(reasoner.model) is before
    reasoner.generate(["3 + 4 ="], noise="svp:0.3", max_new_tokens=1)
    assert not torch.equal(value_bases(reasoner.model).vectors[0], before.vectors[0])


def test_noise_on_the_first_latent_only(reasoner):
    noise = parse_noise("gaussian:0.4@first")
    epsilon = draw(noise, [3, 4])
    assert epsilon[:, 0].any() and not epsilon[:, 1:].any() and str(noise) == "gaussian:0.4@first"
    assert torch.equal(epsilon[:, 0], draw(parse_noise("gaussian:0.4"), [3, 4])[:, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_of_opposite_sign_mirror_each_other(kind):
    noise = parse_noise(f"{kind}:{KINDS[kind][0]}")
    plus, minus = draw(noise, [7], 2, 2000), draw(noise, [-7], 2, 2000)
    if kind in ("gaussian", "spherical", "learned", "svp", "svp_weights"):
        assert torch.equal(plus, -minus)
    else:  # a high draw has a low one beside it
        assert torch.corrcoef(torch.stack([plus[0, 0], minus[0, 0]]))[0, 1] < -0.3


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        (torch.arange(3), r"int64 of shape \(3,\) for 5 rows. Give one integer seed"),
        (torch.rand(5), "are torch.float32"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"loops": 2}])
def test_seeds_that_are_not_one_for_each_row_are_named(make, seeds, message, options):
    """Not by `forward`, whose annotations are checked here and not where the package is used."""
    reasoner = make(**options)
    inputs = batch(reasoner, "right")
    asked = Batch.of(inputs["input_ids"], inputs["attention_mask"], reasoner.config.token_ids[1])
    with pytest.raises(ModelError, match=message):
        reasoner.model.run_latents(asked, 3, Draw(parse_noise("gaussian:0.3"), seeds))


def test_a_kind_that_draws_for_one_row_at_a_time_is_refused():
    with pytest.raises(NoiseError, match=r"takes \(self, seed, num_latents, width\).*sample\(self, draws\)"):

        @register_noise("mine")
        class Mine(Noise):
            def sample(self, seed, num_latents, width):
                raise AssertionError

            def apply(self, thought, epsilon):
                raise AssertionError

    assert "mine" not in NOISES


def test_a_kind_that_draws_another_shape_is_named():
    class Mine(NOISES["gaussian"]):
        def sample(self, draws):
            return draws.normal().flatten(1)

    with pytest.raises(NoiseError, match=r"gaussian:0.5: Mine.sample gave the shape \(2, 96\). Give \(2, 3, 32\)"):
        draw(Mine(0.5), [1, 2])


def test_latents_that_are_not_given_are_the_models_own():
    noise = Replacement(latents=torch.arange(12.0).view(3, 2, 2), places={7: 2, 9: 0})
    epsilon = noise.sample_batch(torch.tensor([9, 7, 9]), 3, 2, loops=2)
    assert epsilon.shape == (3, 2, 3, 2) and epsilon[..., 2, :].isnan().all()
    assert epsilon[:, :, 0].tolist() == [[[0, 1]] * 2, [[8, 9]] * 2, [[0, 1]] * 2]
    latent = torch.randn(3, 2, 3, 2)
    assert torch.equal(noise.apply(Thought(latent), epsilon)[..., 2, :], latent[..., 2, :])


@pytest.mark.parametrize("spec", ["gauss:0.3", "gaussian", "gaussian:", "gaussian:x", "gaussian:-1", "gaussian:nan",
                                  "gaussian:0.3@last"])  # fmt: skip
def test_bad_noise_is_refused(spec):
    with pytest.raises(NoiseError, match="gaussian"):
        parse_noise(spec)
