"""GRPO on latents: the replay estimator, and what the subclass relies on in TRL."""

import inspect

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from neuralese.data.errors import DataError
from neuralese.data.problem import Problem
from neuralese.pipeline.latent import parse_noise
from neuralese.pipeline.latent.thoughts import NormMatched, Thought, suppress
from neuralese.pipeline.train.rl.call_state import Work
from neuralese.pipeline.train.rl.estimators import parse_estimator
from neuralese.pipeline.train.rl.grpo import LatentGRPOTrainer
from neuralese.pipeline.train.rl.logps import answers_of
from neuralese.pipeline.train.rl.rollouts import RolloutSettings
from neuralese.pipeline.train.rl.settings import rl_rows
from neuralese.pipeline.train.watched import means

G = 4


def first_token_reward(prompts, completions, **columns):
    """Differs between samples of a random model, whatever they say."""
    return [float(len(completion) % 3) for completion in completions]


def watched(trainer):
    """The means of what a trainer of one process has watched since the last call."""
    return means({key: [float(value)] for key, value in trainer.watched.take().items()})


def make_trainer(reasoner, problems, tmp_path, noise="gaussian:0.4", reward=first_token_reward, how=None, **options):
    """`how`: fields of Rollout besides the noise."""
    how = {"estimator": "replay", **(how or {})}
    settings = RolloutSettings(parse_noise(noise), **{**how, "estimator": parse_estimator(how["estimator"])})
    args = GRPOConfig(
        **{
            "output_dir": str(tmp_path),
            "per_device_train_batch_size": 16,
            "num_generations": G,
            "max_completion_length": 5,
            "max_steps": 2,
            "learning_rate": 1e-3,
            "bf16": False,
            "gradient_checkpointing": False,
            "disable_dropout": True,
            "disable_tqdm": True,
            "report_to": "none",
            "save_strategy": "no",
            "logging_steps": 1,
            "use_cpu": True,
            "remove_unused_columns": False,
            **options,
        }
    )
    dataset = Dataset.from_list(rl_rows(problems[:16], reasoner.config.num_latents))
    return LatentGRPOTrainer(reasoner, settings, reward_funcs=[reward], args=args, train_dataset=dataset)


def rollouts(trainer):
    """One generation batch, as a training step sees it."""
    trainer.model.train()
    rows = next(iter(trainer.get_train_dataloader()))
    return trainer._prepare_inputs(rows)


def reference_logps(reasoner, inputs, noise, temperature):
    """Log-probs of the answer tokens, one rollout at a time, left padding removed."""
    rows = []
    for i in range(len(inputs["prompt_ids"])):
        prompt = inputs["prompt_ids"][i][inputs["prompt_mask"][i].bool()]
        answer = inputs["completion_ids"][i][inputs["completion_mask"][i].bool()]
        ids = torch.cat([prompt, answer])[None]
        labels = ids.clone()
        labels[:, : len(prompt)] = -100
        seeds = inputs["noise_seeds"][i : i + 1]
        logits = reasoner(input_ids=ids, labels=labels, noise=noise, noise_seeds=seeds).logits
        logits = suppress(logits, reasoner.config.token_ids) / temperature
        rows.append(logits.log_softmax(-1).gather(1, answer[:, None]).squeeze(1))
    return rows


def test_replay_equals_rollout_and_the_naive_forward(reasoner, problems, tmp_path):
    trainer = make_trainer(reasoner, problems, tmp_path, temperature=1.4)
    inputs = rollouts(trainer)
    answers = answers_of(inputs)
    with trainer.working(Work(inputs)):
        replayed, entropy, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, *answers, batch_size=5, compute_entropy=True
        )
    answer = inputs["completion_mask"].bool()
    assert torch.allclose(replayed[answer], inputs["sampling_per_token_logps"][answer], atol=1e-4)
    expected = torch.cat(reference_logps(reasoner, inputs, parse_noise("gaussian:0.4"), 1.4))
    assert torch.allclose(replayed[answer], expected, atol=1e-4)
    assert not replayed[~answer].any() and (entropy[answer] > 0).all()
    shuffled = inputs["noise_seeds"].flip(0)  # the wrong noise gives other log-probs
    with trainer.working(Work({"noise_seeds": shuffled})):
        wrong, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, *answers)
    assert not torch.allclose(wrong[answer], replayed[answer], atol=1e-3)


def test_the_first_step_has_ratio_one_and_the_reinforce_gradient(reasoner, problems, tmp_path):
    """On-policy, the clipped objective's gradient is that of sum_t A log pi(o_t | x, epsilon)."""
    trainer = make_trainer(reasoner, problems, tmp_path, loss_type="bnpo", scale_rewards="none")
    inputs = rollouts(trainer)
    trainer.current_gradient_accumulation_steps = 1
    assert inputs["advantages"].abs().sum() > 0
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, inputs).backward()
    ours = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
    assert trainer._metrics["train"]["clip_ratio/region_mean"] == [0.0]
    trainer.model.zero_grad()
    logps = reference_logps(reasoner, inputs, parse_noise("gaussian:0.4"), 1.0)
    pairs = zip(inputs["advantages"], logps, strict=True)
    objective = sum((advantage * row).sum() for advantage, row in pairs) / inputs["completion_mask"].sum()
    (-objective).backward()
    for name, parameter in trainer.model.named_parameters():
        assert (ours[name] - parameter.grad).norm() <= 1e-4 * parameter.grad.norm() + 1e-8, name


def test_gradient_flows_through_the_latents(reasoner, problems, tmp_path, monkeypatch):
    """Cutting the recurrence changes the gradient: the estimator does differentiate through it."""
    trainer = make_trainer(reasoner, problems, tmp_path)
    inputs = rollouts(trainer)
    trainer.current_gradient_accumulation_steps = 1
    gradients = []
    forward = NormMatched.forward
    for cut in (False, True):
        if cut:
            monkeypatch.setattr(NormMatched, "forward", lambda *args: Thought(forward(*args).latent.detach()))
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model, inputs).backward()
        gradients.append(trainer.model.transformer.h[0].attn.c_attn.weight.grad.clone())
    assert (gradients[0] - gradients[1]).norm() > 0.01 * gradients[0].norm()


def test_equal_rewards_give_no_gradient(reasoner, problems, tmp_path):
    def same(prompts, completions, **columns):
        return [1.0] * len(completions)

    trainer = make_trainer(reasoner, problems, tmp_path, reward=same)
    inputs = rollouts(trainer)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, inputs).backward()
    assert all(not p.grad.any() for p in trainer.model.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"loss_type": "dr_grpo"},
        {"loss_type": "cispo", "epsilon_high": 5.0},
        {"num_iterations": 2},
        {"importance_sampling_level": "sequence", "loss_type": "grpo"},
        {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2},
        {"mask_truncated_completions": True},
        {"top_p": 0.9, "top_k": 5},
        {"temperature": 0.7, "entropy_coef": 0.01},
        {"gradient_checkpointing": True},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_trl_options_train(reasoner, problems, tmp_path, options):
    trainer = make_trainer(reasoner, problems, tmp_path, **options)
    before = trainer.model.transformer.wpe.weight.clone()
    trainer.train()
    assert trainer.state.global_step == 2
    assert all(row["entropy"] > 0 for row in trainer.state.log_history[:-1])
    moved = not torch.equal(before, trainer.model.transformer.wpe.weight)
    truncated = all(row["completions/clipped_ratio"] == 1 for row in trainer.state.log_history[:-1])
    assert moved or (truncated and "mask_truncated_completions" in options)


@pytest.mark.parametrize("source", ["norm_matched", "projection"])
def test_the_reference_model_replays_the_same_noise(make, source, problems, tmp_path):
    """With beta > 0 and unchanged weights the KL to the reference is zero; it could not be under other noise."""
    reasoner = make(num_latents=3, thought_source=source)
    reasoner.save_pretrained(tmp_path / "base")
    reasoner.model.config._name_or_path = str(tmp_path / "base")
    trainer = make_trainer(reasoner, problems, tmp_path, beta=0.1)
    inputs = rollouts(trainer)
    answer = inputs["completion_mask"].bool()
    assert torch.allclose(inputs["ref_per_token_logps"][answer], inputs["sampling_per_token_logps"][answer], atol=1e-4)


@pytest.mark.parametrize("stop_head", [False, True], ids=["", "stop head"])
def test_resume_goes_on_where_it_stopped(make, problems, tmp_path, stop_head):
    """2N steps = N steps + resume + N steps, bit for bit."""
    weights = []
    for split in (False, True):
        folder = tmp_path / str(split)
        reasoner = make(num_latents=3, stop_head=stop_head)
        options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
        trainer = make_trainer(reasoner, problems, folder, **options)
        if split:
            stop = next(c for c in trainer.callback_handler.callbacks if type(c).__name__ == "DefaultFlowCallback")
            original = stop.on_step_end

            def stop_at_two(args, state, control, original=original, **kwargs):
                control = original(args, state, control, **kwargs)
                control.should_training_stop = state.global_step >= 2
                return control

            stop.on_step_end = stop_at_two
            trainer.train()
            assert trainer.state.global_step == 2
            torch.manual_seed(123)  # a new process starts with other random state
            trainer = make_trainer(make(num_latents=3, stop_head=stop_head), problems, folder, **options)
            trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
        else:
            trainer.train()
        assert trainer.state.global_step == 4
        weights.append({k: v.clone() for k, v in trainer.model.state_dict().items()})
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_all_extra_columns_reach_the_rewards_and_reserved_ones_are_named():
    first, second = Problem("1 =", (), "1"), Problem("2 =", (), "2", {"level": 3})
    rows = rl_rows([first, second], 5)
    assert [row["level"] for row in rows] == [None, 3]
    assert [row["num_latents"] for row in rows] == [5, 5]
    with pytest.raises(DataError, match=r"\['images'\]"):
        rl_rows([Problem("1 =", (), "1", {"images": 1})], 5)


def test_equal_prompts_share_their_prefill(reasoner, problems, tmp_path, monkeypatch):
    from neuralese.pipeline.train.rl import grpo as latent_grpo

    seen = []
    original = latent_grpo.generate
    monkeypatch.setattr(
        latent_grpo, "generate", lambda *a, **k: seen.append((len(a[1]), len(a[2]))) or original(*a, **k)
    )
    rollouts(make_trainer(reasoner, problems, tmp_path))
    assert seen == [(16 // G, 16)]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_tokenize_prompts", ["self", "prompts"]),
        ("_generate_single_turn", ["self", "prompt_ids", "images", "multimodal_fields", "num_generations"]),
        ("_generate_and_score_completions", ["self", "inputs"]),
        ("_compute_loss", ["self", "model", "inputs"]),
        (
            "_get_per_token_logps_and_entropies",
            ["self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy"],
        ),
    ],
)
def test_trl_still_has_the_hooks(name, parameters):
    """These are TRL's internals; a release that changes them must fail here and not in a run."""
    found = list(inspect.signature(inspect.unwrap(getattr(GRPOTrainer, name))).parameters)
    assert found[: len(parameters)] == parameters
