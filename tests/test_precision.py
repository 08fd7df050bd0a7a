"""One precision for all that a run computes, over weights in float32; every dtype works or is refused."""

import json
from collections import defaultdict

import pytest
import torch
from replay_gap import gaps
from runs import tiny, weights
from trl import SFTTrainer

from neuralese.pipeline import load_reasoner
from neuralese.pipeline.cli.app import main
from neuralese.pipeline.latent import ModelError
from neuralese.pipeline.latent.noise import parse_noise
from neuralese.pipeline.latent.thoughts import suppress
from neuralese.pipeline.model.build import build_model
from neuralese.pipeline.recipe.load import RecipeError
from neuralese.pipeline.run import evaluate, results
from neuralese.pipeline.run.train import run
from neuralese.pipeline.train.curriculum.level_trainer import LevelTrainer
from neuralese.pipeline.train.curriculum.promotion import Promotion
from neuralese.pipeline.train.rl.grpo import LatentGRPOTrainer
from neuralese.pipeline.train.rl.held_out import HeldOutCallback

BF16, F32, F64 = torch.bfloat16, torch.float32, torch.float64
SFT_ALONE = ["tracking.wandb=false", "rl=null", "curriculum=null"]
PHASES = [
    (SFTTrainer, "compute_loss"), (LevelTrainer, "compute_loss"), (Promotion, "measure"),
    (LatentGRPOTrainer, "_generate_single_turn"), (LatentGRPOTrainer, "_replayed_logps"), (HeldOutCallback, "measure"),
    (results, "evaluate_checkpoint"),
]  # fmt: skip


@pytest.fixture
def seen(monkeypatch):
    """The dtypes of attention's queries, which come from a linear layer, in each phase of a run."""
    dtypes, phases = defaultdict(set), ["elsewhere"]
    attend = torch.nn.functional.scaled_dot_product_attention

    def spy(query, *args, **kwargs):
        dtypes[phases[-1]].add(query.dtype)
        return attend(query, *args, **kwargs)

    def within(name, function):
        def phase(*args, **kwargs):
            phases.append(name)
            try:
                return function(*args, **kwargs)
            finally:
                phases.pop()

        return phase

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    for owner, name in PHASES:
        where = f"{owner.__name__.rsplit('.', 1)[-1]}.{name}"
        monkeypatch.setattr(owner, name, within(where, getattr(owner, name)))
    monkeypatch.setattr(evaluate, "evaluate_checkpoint", results.evaluate_checkpoint)
    return dtypes


def command(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([*arguments])
    assert not stop.value.code


def test_all_of_a_run_computes_in_its_dtype(seen, tmp_path, problems):
    run(tiny(tmp_path, "tracking.wandb=false", "model.dtype=bfloat16", "rl.eval_every=2", "rl.eval_problems=4"))
    seen.pop("elsewhere")  # the check of a new architecture compares exact numbers
    final = str(tmp_path / "tiny" / "rl" / "final")
    for name, arguments in {
        "sample": ("sample", final, problems[0].question),
        "audit": ("audit", final, "--problems", "4"),
        "eval": ("eval", final),
    }.items():
        command(*arguments)
        if "elsewhere" in seen:
            seen[name] = seen.pop("elsewhere")
    names = {f"{owner.__name__.rsplit('.', 1)[-1]}.{name}" for owner, name in PHASES} | {"sample", "audit"}
    assert dict(seen) == {name: {BF16} for name in names}


def test_all_of_a_run_uses_the_attention_that_is_asked_for(seen, tmp_path):
    names, used = ("eager", "sdpa"), {}
    run(tiny(tmp_path, *SFT_ALONE))
    base = ["model.config=null", f"model.name_or_path={tmp_path / 'tiny' / 'base' / 'final'}", "tracking.wandb=false"]
    measured = ["evaluate.monitor=[logprob]", "rl.trainer.beta=0.1", "rl.eval_every=2", "rl.eval_problems=4"]
    seen.clear()
    for name in names:
        run(tiny(tmp_path / name, *base, *measured, f"model.attn_implementation={name}"))
        command("audit", str(tmp_path / name / "tiny"), "--problems", "4")
        used[name] = dict(seen)
        seen.clear()
    assert used["eager"] == {} and len(used["sdpa"]) == len(PHASES) + 1
    losses = [metrics_of(tmp_path / name / "tiny", "loss") for name in names]
    assert torch.allclose(*losses, rtol=1e-4, atol=1e-5) and len(losses[0]) > 4


def test_attention_that_takes_no_mask_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"model.attn_implementation: 'flash_attention_2' takes no mask .* take sdpa"):
        tiny(tmp_path, "model.attn_implementation=flash_attention_2")


def metrics_of(folder, name):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return torch.tensor([row[name] for row in rows if name in row])


def test_a_checkpoint_is_float32_and_says_what_it_computes_in(tmp_path):
    run(tiny(tmp_path, *SFT_ALONE, "model.dtype=bfloat16"))
    final = tmp_path / "tiny" / "sft" / "final"
    assert {weight.dtype for weight in weights(final).values()} == {F32}
    config = json.loads((final / "config.json").read_text())
    assert config["dtype"] == "float32" and config["latent"]["compute_dtype"] == "bfloat16"
    ids = torch.tensor([[5, 6, 7]])
    for dtype, logits in ((None, BF16), ("float32", F32), (F64, F64)):
        assert load_reasoner(final, dtype=dtype)(ids).logits.dtype == logits


def test_bfloat16_moves_as_many_weights_as_float32(tmp_path):
    """A rate of 1e-5 is below the spacing of most weights in bfloat16, and above that in float32."""
    shares = {}
    for dtype in ("float32", "bfloat16"):
        trainer = ["sft.trainer.max_steps=30", "sft.trainer.learning_rate=1e-5", "sft.trainer.logging_steps=30"]
        of = tiny(tmp_path / dtype, *SFT_ALONE, f"model.dtype={dtype}", *trainer)
        run(of)
        before, after = weights(of.folder / "base" / "final"), weights(of.folder / "sft" / "final")
        moved = sum(int((before[name] != after[name]).sum()) for name in before)
        shares[dtype] = moved / sum(weight.numel() for weight in before.values())
    assert shares["float32"] > 0.8
    assert shares["bfloat16"] == pytest.approx(shares["float32"], abs=0.02)


@pytest.mark.parametrize("default", [F32, F64])
@pytest.mark.parametrize(("dtype", "tolerance"), [(F32, 1e-5), (BF16, 5e-2), (F64, 1e-10)])
@pytest.mark.parametrize("noise", [None, "gaussian:0.3", "svp:0.3", "dropout:0.2"])
def test_a_sample_has_the_log_probs_of_the_forward(reasoner, problems, tmp_path, dtype, tolerance, noise, default):
    reasoner.save_pretrained(tmp_path)
    question = problems[0].question
    torch.set_default_dtype(default)
    try:
        loaded = load_reasoner(tmp_path, dtype=dtype)
        (sample,) = loaded.generate([question], noise=noise, temperature=1.0, max_new_tokens=5)
        prompt = loaded.prompt_ids(question)
        ids = torch.tensor([prompt + sample.token_ids[0]])
        labels = ids.clone()
        labels[:, : len(prompt)] = -100
        replay = {} if noise is None else {"noise": parse_noise(noise), "noise_seeds": torch.tensor(sample.seeds)}
        logits = loaded(ids, torch.ones_like(ids), labels, **replay).logits
    finally:
        torch.set_default_dtype(F32)
    assert logits.dtype == (BF16 if dtype == BF16 else dtype)
    wide = F64 if dtype == F64 else F32
    logps = suppress(logits.to(wide), loaded.config.token_ids).log_softmax(-1).gather(1, ids[0, len(prompt) :, None])
    assert sample.logprobs[0] == pytest.approx(logps.sum().item(), abs=tolerance)
    assert sample.latents.dtype == (F64 if dtype == F64 else F32)


def test_the_gap_of_a_replay_is_rounding_and_that_of_other_seeds_is_not(reasoner, problems):
    found = gaps(reasoner, [problem.question for problem in problems[:3]], "gaussian:0.3", count=4, length=5)
    assert len(found["same seeds"]) == len(found["other seeds"]) > 12
    assert found["same seeds"].max() < 1e-4 and found["other seeds"].max() > 1e-2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_a_new_model_is_checked_whatever_it_computes_in(reasoner, tmp_path, dtype):
    """Rounding of half precision would hide a model that computes something else, or refuse one that does not."""
    reasoner.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["latent"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_reasoner(tmp_path, dtype=dtype)
    assert loaded.config.compute_dtype == dtype
    assert loaded.model.dtype == (F64 if dtype == "float64" else F32)


def test_a_built_model_is_float32_whatever_its_config_says(problems, tmp_path):
    build_model(
        {"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "dtype": "bfloat16"}, problems, 0, tmp_path
    )
    assert {weight.dtype for weight in weights(tmp_path).values()} == {F32}


def test_a_draw_does_not_depend_on_the_dtype(reasoner, problems, tmp_path):
    reasoner.save_pretrained(tmp_path)
    texts = [
        load_reasoner(tmp_path, dtype=dtype).generate([problems[0].question], 4, "gaussian:0.3", 1.0, 5)[0].texts
        for dtype in (F32, F64)
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(("dtype", "why"), [("float16", "range is too small"), (torch.int8, "do not compute in it")])
def test_other_dtypes_are_refused_with_a_reason(reasoner, tmp_path, dtype, why):
    reasoner.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"is refused: .*{why}"):
        load_reasoner(tmp_path, dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(RecipeError, match=f"'{name}' is nothing that stages train in"):
        tiny(tmp_path, f"model.dtype={name}")
    reasoner.model.config.latent["compute_dtype"] = name
    reasoner.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"compute_dtype='{name}'"):
        load_reasoner(tmp_path)
