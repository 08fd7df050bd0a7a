"""PPO: advantages against a loop, values at the right places, the losses against their formulas, and training."""

import json

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from reference import latent_inputs, states_of
from safetensors.torch import load_file
from test_grpo import first_token_reward, make_trainer
from transformers import AutoModelForCausalLM
from trl import GRPOConfig

from neuralese.data.errors import UserError
from neuralese.pipeline import load_reasoner
from neuralese.pipeline.latent import parse_noise
from neuralese.pipeline.latent.thoughts import Thought
from neuralese.pipeline.latent.value_head import ValueHead, add_value_head
from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.run.train import run
from neuralese.pipeline.train.rl.call_state import Work
from neuralese.pipeline.train.rl.estimators import parse_estimator
from neuralese.pipeline.train.rl.gae import gae
from neuralese.pipeline.train.rl.grpo import answers_of
from neuralese.pipeline.train.rl.ppo import Critic, LatentPPOTrainer
from neuralese.pipeline.train.rl.rollouts import RolloutSettings
from neuralese.pipeline.train.rl.settings import rl_rows
from neuralese.pipeline.train.rl.value_loss import value_loss


def naive_gae(rewards, values, gamma, lam):
    """Of one episode: the sum of discounted temporal differences, term by term."""
    after = [*values, 0.0][1:]
    deltas = [r + gamma * v_next - v for r, v, v_next in zip(rewards, values, after, strict=True)]
    return [sum((gamma * lam) ** (i - t) * deltas[i] for i in range(t, len(deltas))) for t in range(len(deltas))]


def test_gae_equals_a_loop_over_ragged_episodes():
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 0, 1, 1, 1], [0, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    rewards, values = torch.randn(4, 6).double() * mask, torch.randn(4, 6).double()
    for gamma, lam in ((1.0, 0.95), (0.9, 0.5), (0.99, 0.0), (1.0, 1.0)):
        advantages, returns = gae(rewards, values, mask, gamma, lam)
        for row in range(4):
            steps = mask[row].bool()
            expected = naive_gae(rewards[row][steps].tolist(), values[row][steps].tolist(), gamma, lam)
            assert advantages[row][steps].tolist() == pytest.approx(expected)
            assert not advantages[row][~steps].any() and not returns[row][~steps].any()
            assert torch.allclose(returns[row][steps], advantages[row][steps] + values[row][steps])


def test_the_value_loss_takes_the_larger_of_two_errors():
    values, old = torch.tensor([[1.0, 0.5, 3.0]]), torch.tensor([[0.0, 0.4, 0.0]])
    returns, mask = torch.tensor([[1.0, 1.0, 9.0]]), torch.tensor([[1, 1, 0]])
    # Clipped to 0.2, the first is 0.8 off; the second moved by less than the clip.
    assert value_loss(values, old, returns, mask, 0.2).item() == pytest.approx(0.5 * (0.64 + 0.25))


def make_ppo(
    reasoner,
    problems,
    tmp_path,
    critic=None,
    estimator="replay",
    reward=first_token_reward,
    noise="gaussian:0.4",
    lora=None,
    **options,
):
    args = GRPOConfig(
        **{
            "output_dir": str(tmp_path), "per_device_train_batch_size": 16, "num_generations": 4,
            "max_completion_length": 5, "max_steps": 2, "learning_rate": 1e-3, "bf16": False,
            "gradient_checkpointing": False, "disable_dropout": True, "disable_tqdm": True, "report_to": "none",
            "save_strategy": "no", "logging_steps": 1, "use_cpu": True, "remove_unused_columns": False, **options,
        }
    )  # fmt: skip
    return LatentPPOTrainer(
        reasoner,
        RolloutSettings(parse_noise(noise), parse_estimator(estimator)),
        critic or Critic(),
        reward_funcs=[reward],
        args=args,
        peft_config=lora,
        train_dataset=Dataset.from_list(rl_rows(problems[:16], reasoner.config.num_latents)),
    )


def rollouts(trainer):
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


def random_head(reasoner, detach=True):
    add_value_head(reasoner.model, detach)
    torch.nn.init.normal_(reasoner.model.value_head.weight, std=0.5)


def naive_states(reasoner, inputs, row, noise):
    """The states (steps, d) before each latent, a decision to stop, and each answer token of one rollout."""
    prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()].tolist()
    answer = inputs["completion_ids"][row][inputs["completion_mask"][row].bool()].tolist()
    ids, latent = prompt + answer, reasoner.config.token_ids[1]
    epsilon = noise.sample_batch(inputs["noise_seeds"][[row]], prompt.count(latent), 32)[0]
    embeds = latent_inputs(reasoner.model, ids, epsilon, lambda z, e: noise.apply(Thought(z), e))
    hidden = states_of(reasoner.model, embeds, ids)
    slots = [i for i, token in enumerate(ids) if token == latent]
    before = [slot - 1 for slot in slots]
    if reasoner.config.stop_head and len(slots) < reasoner.config.num_latents:
        before.append(slots[-1])
    return hidden[before + list(range(len(prompt) - 1, len(ids) - 1))]


def value(head, states):
    return states @ head.weight[0] + head.bias[0]


def test_values_are_float32_under_autocast():
    """In bfloat16 a value near 3 would be off by up to 0.01."""
    head, states = ValueHead(32), torch.randn(50, 32)
    torch.nn.init.normal_(head.weight)
    with torch.autocast("cpu", torch.bfloat16):
        found = head(states)
    assert found.dtype == torch.float32 and torch.allclose(found, states @ head.weight[0] + head.bias, atol=1e-5)


@pytest.mark.parametrize("inner", [{}, {"num_iterations": 2}], ids=["one inner step", "two"])
def test_values_are_those_of_the_states_before_each_step(reasoner, problems, tmp_path, monkeypatch, inner):
    """They are known when the rollouts are drawn: nothing is replayed for them, nor for old log-probs."""
    random_head(reasoner)
    options = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, **inner}
    trainer = make_ppo(reasoner, problems, tmp_path, Critic(gamma=0.9, lam=0.8, whiten_advantages=False), **options)
    replayed, original = [], LatentPPOTrainer._replayed_logps
    monkeypatch.setattr(
        LatentPPOTrainer,
        "_replayed_logps",
        lambda self, *given: replayed.append(len(given[2])) or original(self, *given),
    )
    inputs = rollouts(trainer)
    assert replayed == [] and ("old_per_token_logps" in inputs) == bool(inner)
    steps, found = trainer._actions(inputs), {key: inputs[key] for key in ("old_values", "returns")}
    advantages = torch.cat([inputs["latent_advantages"], inputs["advantages"]], 1)
    assert steps.size(1) == 3 + inputs["completion_ids"].size(1)
    for row in range(len(steps)):
        mask = steps[row].bool()
        states = naive_states(reasoner, inputs, row, parse_noise("gaussian:0.4"))
        values = value(reasoner.model.value_head, states).tolist()
        assert found["old_values"][row][mask].tolist() == pytest.approx(values, abs=1e-4)
        # The reward comes with the last step.
        text = trainer.processing_class.decode(
            inputs["completion_ids"][row][inputs["completion_mask"][row].bool()], skip_special_tokens=True
        )
        (reward,) = first_token_reward([""], [text])
        rewards = [0.0] * (len(values) - 1) + [reward]
        assert advantages[row][mask].tolist() == pytest.approx(naive_gae(rewards, values, 0.9, 0.8), abs=1e-3)


@pytest.mark.parametrize("detach", [True, False])
def test_the_loss_is_that_of_policy_and_critic(reasoner, problems, tmp_path, detach):
    """Gradient of -A log pi(o | x, epsilon) over tokens and of the value loss over steps, each a mean."""
    random_head(reasoner, detach)
    critic = Critic(vf_coef=0.3, whiten_advantages=True, detach_trunk=detach)
    trainer = make_ppo(reasoner, problems, tmp_path, critic, loss_type="dapo")
    inputs, noise = rollouts(trainer), parse_noise("gaussian:0.4")
    steps = trainer._actions(inputs)
    whole = torch.cat([inputs["latent_advantages"], inputs["advantages"]], 1)[steps.bool()]
    assert whole.mean().item() == pytest.approx(0, abs=1e-5) and whole.std(correction=0).item() == pytest.approx(
        1, abs=1e-3
    )
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, inputs).backward()
    ours = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()
    critic_loss = 0.0
    with trainer.working(Work(inputs)):
        logps, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, *answers_of(inputs))
    policy = -(logps * inputs["advantages"])[inputs["completion_mask"].bool()].mean()
    for row in range(len(steps)):
        states = naive_states(reasoner, inputs, row, noise)
        found = value(trainer.model.value_head, states.detach() if detach else states)
        critic_loss = critic_loss + 0.5 * (found - inputs["returns"][row][steps[row].bool()]).pow(2).sum()
    (policy + 0.3 * critic_loss / steps.sum()).backward()
    theirs = {name for name, parameter in trainer.model.named_parameters() if parameter.grad is not None}
    assert theirs == ours.keys() and "value_head.weight" in ours
    for name, parameter in trainer.model.named_parameters():
        if name in ours:
            assert (ours[name] - parameter.grad).norm() <= 1e-3 * parameter.grad.norm() + 1e-6, name


@pytest.mark.parametrize(
    ("estimator", "options"),
    [("replay", {}), ("mix:0.5", {"num_iterations": 2}), ("score_function_mean", {}),
     ("replay", {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2})],
)  # fmt: skip
def test_ppo_trains(reasoner, problems, tmp_path, estimator, options):
    trainer = make_ppo(reasoner, problems, tmp_path, estimator=estimator, max_steps=4, **options)
    before = trainer.model.transformer.wpe.weight.clone()
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert not torch.equal(before, trainer.model.transformer.wpe.weight) and trainer.model.value_head.weight.any()
    assert {"value/loss", "value/explained_variance", "rollout/replay_gap"} <= rows[0].keys()
    assert rows[0]["rollout/replay_gap"] < 1e-4


def test_unscored_rollouts_teach_neither_policy_nor_critic(reasoner, problems, tmp_path):
    def none(prompts, completions, **columns):
        return [None if i % 2 else float(i % 4 == 0) for i in range(len(completions))]

    trainer = make_ppo(reasoner, problems, tmp_path, reward=none)
    inputs = rollouts(trainer)
    assert sorted(inputs["is_scored"].tolist()) == [False] * 8 + [True] * 8
    assert (
        not inputs["advantages"][~inputs["is_scored"]].any()
        and not trainer._actions(inputs)[~inputs["is_scored"]].any()
    )
    assert inputs["advantages"][inputs["is_scored"]].any()


def test_alike_advantages_are_not_blown_up(reasoner, problems, tmp_path):
    trainer = make_ppo(reasoner, problems, tmp_path)
    values, mask = 10 + 1e-3 * torch.randn(16, 8), torch.ones(16, 8)
    whitened = trainer._whiten(values, mask)
    assert whitened.std().item() == pytest.approx(1.0, rel=0.05)
    assert trainer._whiten(torch.full((16, 8), 0.9), mask).abs().max() < 0.1  # nothing but rounding


def test_the_critic_learns_what_to_expect(reasoner, problems, tmp_path):
    """A reward that is always 1: the value of every step becomes 1."""

    def one(prompts, completions, **columns):
        return [1.0] * len(completions)

    critic = Critic(lam=1.0, vf_coef=1.0, cliprange_value=1.0)
    trainer = make_ppo(reasoner, problems, tmp_path, critic, reward=one, max_steps=60, learning_rate=1e-2)
    for name, parameter in trainer.model.named_parameters():
        parameter.requires_grad_(name.startswith("value_head"))
    trainer.train()
    rows = [row["value/loss"] for row in trainer.state.log_history if "value/loss" in row]
    assert rows[0] == pytest.approx(0.5) and rows[-1] < 0.02


def test_the_kl_coefficient_is_steered_to_its_target(make, problems, tmp_path):
    reasoner = make(num_latents=2)
    reasoner.save_pretrained(tmp_path / "base")
    reasoner.model.config._name_or_path = str(tmp_path / "base")
    trainer = make_ppo(reasoner, problems, tmp_path, Critic(kl_target=1e-9), beta=0.1, max_steps=4, learning_rate=1e-2)
    trainer.train()
    coefficients = [row["kl_coef"] for row in trainer.state.log_history if "kl_coef" in row]
    # Far above the target it grows by 2% a step, once a KL has been measured; far below it shrinks.
    assert coefficients == pytest.approx([0.1, 0.1 * 0.98, 0.1 * 0.98 * 1.02, 0.1 * 0.98 * 1.02**2])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rl.ppo={lam: 0.9}"], "algorithm is grpo; set algorithm=ppo"),
        (["rl.algorithm=ppo", "rl.ppo={lambda: 0.9}"], "did you mean 'lam'"),
        (["rl.algorithm=ppo", "rl.max_at=2"], "max_at compares the rollouts of a group"),
        (["rl.algorithm=ppo", "rl.equal_groups=drop"], "equal_groups compares the rollouts of a group"),
        (["rl.algorithm=ppo", "rl.ppo={kl_target: 0.1}"], "must begin above 0"),
        (["rl.algorithm=reinforce"], "'grpo' or 'ppo'"),
    ],
)
def test_keys_that_do_not_fit_are_named(overrides, message):
    with pytest.raises(UserError) as error:
        load_recipe("tests/tiny.yaml", overrides)
    assert message in str(error.value)


def test_grpo_has_no_value_head(reasoner, problems, tmp_path):
    trainer = make_trainer(reasoner, problems, tmp_path)
    assert trainer.model.value_head is None


@pytest.mark.parametrize("lora", [[], ["model.lora={target_modules: [c_attn], r: 2}", "rl.trainer.beta=0.01"]])
def test_a_recipe_trains_with_ppo(tmp_path, lora):
    """In text mode with LoRA, too; `final` is a whole model whose weights open without us."""
    reward = tmp_path / "reward.py"
    reward.write_text("def count(prompts, completions, **columns): return [float(len(c) % 3) for c in completions]")
    options = [f"output_dir={tmp_path}", "tracking.wandb=false", "rl.algorithm=ppo", *lora]
    options += [f"rl.rewards=[{{function: '{reward}:count'}}]", "rl.trainer.learning_rate=1.0e-3"]
    if lora:
        options += ["curriculum=null", "rl.noise=null"]
    run(load_recipe("tests/tiny.yaml", options))
    final = tmp_path / "tiny" / "rl" / "final"
    assert load_file(final / "model.safetensors")["value_head.weight"].any()
    assert load_reasoner(final).model.value_head is None
    AutoModelForCausalLM.from_pretrained(final)
    rows = [json.loads(line) for line in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()]
    assert any("value/loss" in row for row in rows if row["stage"] == "rl")


@pytest.mark.parametrize("inner", [1, 2])
def test_values_are_those_of_the_critic_that_a_lora_trains(reasoner, problems, tmp_path, inner):
    """The reference is the same model without its adapter, with the value head that the stage began with: 0."""
    lora = LoraConfig(target_modules=["c_attn"], r=2, modules_to_save=["value_head"])
    trainer = make_ppo(reasoner, problems, tmp_path, lora=lora, beta=0.1, num_iterations=inner)
    head = reasoner.model.value_head.modules_to_save["default"]
    torch.nn.init.normal_(head.weight, std=0.5)
    inputs = rollouts(trainer)
    assert "ref_per_token_logps" in inputs
    for row in range(0, 16, 4):
        mask = trainer._actions(inputs)[row].bool()
        values = value(head, naive_states(reasoner, inputs, row, parse_noise("gaussian:0.4")))
        assert inputs["old_values"][row][mask].tolist() == pytest.approx(values.tolist(), abs=1e-4)
