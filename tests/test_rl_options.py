"""Options of RL against their formulas: `top_entropy_quantile`, `importance_sampling_level`, and frozen weights."""

import pytest
import torch
from conftest import ROOT
from reference import clipped_policy_loss, latent_inputs, uncertain
from test_grpo import make_trainer, rollouts
from test_ppo import make_ppo, random_head

from neuralese.data.errors import UserError
from neuralese.pipeline.latent import parse_noise
from neuralese.pipeline.latent.thoughts import Thought, suppress
from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.run.validate import check_recipe
from neuralese.pipeline.train.rl.ppo import Critic
from neuralese.pipeline.train.rl.trainable import train_only, weights_that_train
from neuralese.pipeline.train.rl.value_loss import value_loss

NOISE, TEMPERATURE = parse_noise("gaussian:0.4"), 1.3


def naive_answers(reasoner, inputs):
    """Log-probs and entropies of the answer tokens of each rollout, as rows of scalars with gradient."""
    logps, entropies = [], []
    for row, seed in enumerate(inputs["noise_seeds"]):
        prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()].tolist()
        answer = inputs["completion_ids"][row][inputs["completion_mask"][row].bool()].tolist()
        epsilon = NOISE.sample_batch(seed[None], prompt.count(reasoner.config.token_ids[1]), 32)[0]
        embeds = latent_inputs(reasoner.model, prompt + answer, epsilon, lambda z, e: NOISE.apply(Thought(z), e))
        logits = reasoner.model(inputs_embeds=embeds[None], use_cache=False).logits[0]
        states = suppress(logits, reasoner.config.token_ids)[len(prompt) - 1 : -1] / TEMPERATURE
        all_logps = states.log_softmax(-1)
        logps.append([all_logps[place, token] for place, token in enumerate(answer)])
        entropies.append((-(all_logps.exp() * all_logps).sum(-1)).tolist())
    return logps, entropies


def gradients(model):
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return found


def assert_same(ours, theirs, tolerance=1e-3):
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).norm() <= tolerance * gradient.norm() + 1e-7, name


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_credit_goes_to_the_most_uncertain_tokens_of_a_micro_batch(reasoner, problems, tmp_path, share):
    """-A log p over the tokens at or above the quantile of entropy, a mean over all tokens (arXiv 2506.01939)."""
    trainer = make_trainer(
        reasoner, problems, tmp_path, scale_rewards="none", temperature=TEMPERATURE, top_entropy_quantile=share
    )
    inputs, model = rollouts(trainer), trainer.model
    trainer.current_gradient_accumulation_steps, count = 1, inputs["completion_mask"].sum()
    quarters = [{k: v[part] if v.dim() else v for k, v in inputs.items()} for part in torch.arange(16).split(4)]
    kept = {}
    for name, parts in {"whole": [inputs], "quarters": quarters}.items():
        for part in parts:
            trainer.compute_loss(model, part).backward()
        ours, kept[name], total = gradients(model), [], 0.0
        for part in parts:
            logps, entropies = naive_answers(reasoner, part)
            keep = uncertain(entropies, share)
            total = total - sum(
                advantage * logp
                for row, advantage, chosen in zip(logps, part["advantages"], keep, strict=True)
                for logp, is_kept in zip(row, chosen, strict=True)
                if is_kept
            )
            kept[name] += [is_kept for row in keep for is_kept in row]
        (total / count).backward()
        assert_same(ours, gradients(model))
    assert abs(sum(kept["whole"]) / len(kept["whole"]) - share) < 1 / len(kept["whole"])
    assert kept["whole"] != kept["quarters"]  # the quantile is that of the micro-batch
    # Latents still get a gradient, through the tokens that are left.
    assert trainer._gradients.take()["latent/gradient_1"][0] > 0


def test_uncertain_tokens_under_ppo_leave_the_critic_whole(reasoner, problems, tmp_path):
    random_head(reasoner)
    trainer = make_ppo(
        reasoner, problems, tmp_path, Critic(vf_coef=0.3), temperature=TEMPERATURE, top_entropy_quantile=0.3
    )
    inputs, model = rollouts(trainer), trainer.model
    trainer.current_gradient_accumulation_steps = 1
    trainer.compute_loss(model, inputs).backward()
    ours = gradients(model)
    logps, entropies = naive_answers(reasoner, inputs)
    keep, total = uncertain(entropies, 0.3), 0.0
    for row, (tokens, chosen) in enumerate(zip(logps, keep, strict=True)):
        for place, (logp, is_kept) in enumerate(zip(tokens, chosen, strict=True)):
            total = total - inputs["advantages"][row, place] * logp * is_kept
    (total / inputs["completion_mask"].sum()).backward()
    theirs = gradients(model)
    assert_same({name: ours[name] for name in theirs}, theirs)
    mask = trainer._actions(inputs)
    values = inputs["old_values"].clone().requires_grad_()
    value_loss(values, inputs["old_values"], inputs["returns"], mask, 0.2).backward()
    expected = 0.3 * values.grad.sum() / mask.sum()  # the critic's bias moves all values alike
    assert ours["value_head.bias"].item() == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize(("level", "epsilon"), [("token", 0.02), ("sequence", 0.002)])
def test_later_inner_steps_have_the_ratios_of_their_level(reasoner, problems, tmp_path, level, epsilon):
    """The clipped loss of GRPO or GSPO after the weights have moved, and its gradient."""
    trainer = make_trainer(
        reasoner, problems, tmp_path, scale_rewards="none", temperature=TEMPERATURE, num_iterations=2,
        importance_sampling_level=level, loss_type="grpo", epsilon=epsilon,
    )  # fmt: skip
    inputs, model = rollouts(trainer), trainer.model
    trainer.current_gradient_accumulation_steps = 1
    with torch.no_grad():
        old, _ = naive_answers(reasoner, inputs)
        model.transformer.wpe.weight.mul_(1.05)
    trainer.state.global_step += 1
    loss = trainer.compute_loss(model, inputs)
    loss.backward()
    ours = gradients(model)
    logps, _ = naive_answers(reasoner, inputs)
    rows = clipped_policy_loss(logps, old, inputs["advantages"], level, epsilon)
    expected = sum(sum(row) / len(row) for row in rows) / len(rows)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5) and abs(expected.item()) > 1e-4
    assert_same(ours, gradients(model))
    clipped = trainer._metrics["train"]["clip_ratio/region_mean"][-1]
    assert 0 < clipped < 1  # some are, and some are not


def test_frozen_weights_do_not_change_the_gradient_of_the_others(reasoner, problems, tmp_path):
    """Also that of queries and keys, through which values of later layers reach earlier ones."""
    trainer = make_trainer(reasoner, problems, tmp_path, scale_rewards="none")
    inputs, model = rollouts(trainer), trainer.model
    trainer.current_gradient_accumulation_steps = 1
    trainer.compute_loss(model, inputs).backward()
    whole = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    train_only(model, "value_matrices")
    trainer.compute_loss(model, inputs).backward()
    for name, weight in model.named_parameters():
        if name.endswith("c_attn.weight"):
            assert not weight.grad[:, :64].any() and whole[name][:, :64].any()
            assert torch.allclose(weight.grad[:, 64:], whole[name][:, 64:], rtol=1e-4, atol=1e-7)
        else:
            assert weight.grad is None, name
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    trained = sum(size for name, size in sizes.items() if name.endswith("c_attn.weight"))
    assert weights_that_train(model) == (trained, sum(sizes.values()))


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
@pytest.mark.parametrize("options", [{"top_entropy_quantile": 0.2}, {"top_entropy_quantile": 0.0, "num_iterations": 2}])
def test_training_with_uncertain_tokens(reasoner, problems, tmp_path, algorithm, options):
    trainer = (make_trainer if algorithm == "grpo" else make_ppo)(reasoner, problems, tmp_path, **options)
    before = trainer.model.transformer.wpe.weight.clone()
    trainer.train()
    assert not torch.equal(before, trainer.model.transformer.wpe.weight)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rl.algorithm=ppo", "rl.trainer.importance_sampling_level=sequence"],
         "gives all tokens of an answer one ratio, and PPO an advantage to each"),
        (["rl.trainer.importance_sampling_level=sequence", "rl.trainer.top_entropy_quantile=0.2"],
         "picks tokens, and a ratio of the whole sequence moves them all"),
        (["rl.trainer.importance_sampling_level=sequence_token"], "Input should be 'token' or 'sequence'"),
        (["rl.trainer.top_entropy_quantile=1.5"], "less than or equal to 1"),
        (["rl.trainer.importance_sampling_level=sequence", "rl.estimator=mix:0.5"], "does not fit the estimator mix"),
        (["rl.trainer.top_entropy_quantile=0.2", "rl.estimator=score_function"], "does not fit the estimator score"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_named(overrides, message):
    with pytest.raises(UserError, match=message):
        check_recipe(load_recipe(ROOT / "tests" / "tiny.yaml", overrides))
