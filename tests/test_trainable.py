"""`rl.trainable`: only the weights it names move, bit for bit; what it cannot mean is named before anything trains."""

import json
import shutil

import pytest
import torch
from conftest import ROOT
from runs import assert_same_weights, tiny, weights
from test_rl_starts import rl_from

from neuralese.data.errors import UserError
from neuralese.pipeline import load_reasoner
from neuralese.pipeline.model.build import build_config, build_tokenizer
from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.run.train import run
from neuralese.pipeline.run.validate import check_recipe
from neuralese.pipeline.train import callbacks
from neuralese.pipeline.train.rl import trainable
from neuralese.pipeline.train.rl.trainable import check_trainable

LORA = "model.lora={target_modules: [c_attn, c_fc], r: 2}"
C_ATTN = "transformer.h.0.attn.c_attn.weight"


@pytest.fixture
def counted(tmp_path):
    """A reward that differs between answers of a random model."""
    reward = tmp_path / "length.py"
    reward.write_text("def length(prompts, completions, **columns):\n    return [len(c) % 3 for c in completions]\n")
    return [
        f"rl.rewards=[{{function: '{reward}:length'}}]", "rl.trainer.max_completion_length=8",
        "rl.trainer.learning_rate=0.01",
    ]  # fmt: skip


def moved(before, after):
    before, after = weights(before), weights(after)
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["rl.trainable=['attn.c_proj', 'ln_f\\.bias$']"],
         {"transformer.h.0.attn.c_proj.weight", "transformer.h.0.attn.c_proj.bias", "transformer.ln_f.bias"}),
        # One weight under two names; the file has it once.
        (["rl.trainable=[lm_head]"], {"transformer.wte.weight"}),
        (["rl.trainable=[c_attn.*weight]", "rl.algorithm=ppo", "rl.trainer.weight_decay=0.1"], {C_ATTN}),
        (["rl.trainable=value_matrices"], {C_ATTN}),
        ([LORA, "rl.trainable=['c_attn.*lora_']"], {C_ATTN}),
    ],
    ids=["patterns", "tied", "ppo", "values", "lora"],
)  # fmt: skip
def test_only_what_is_named_moves(finished, tmp_path, counted, options, expected):
    checkpoint = finished[0] / "curriculum" / "final"
    run(rl_from(checkpoint, tmp_path, *counted, *options))
    final = tmp_path / "tiny" / "rl" / "final"
    assert moved(checkpoint, final) == expected
    if "rl.trainable=value_matrices" in options:  # of queries, keys and values the last
        before, after = weights(checkpoint)[C_ATTN], weights(final)[C_ATTN]
        assert torch.equal(before[:, :32], after[:, :32]) and (before != after)[:, 32:].all()
    if "rl.algorithm=ppo" in options:
        assert weights(final)["value_head.weight"].any()
    rows = [json.loads(line) for line in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()]
    (count,) = {row["trainable_parameters"] for row in rows if "reward" in row}
    sizes = {name: value.numel() for name, value in weights(final).items()}
    critic = sizes.get("value_head.weight", 0) + sizes.get("value_head.bias", 0)
    assert count == (2 * (16 + 48) if LORA in options else sum(sizes[name] for name in expected) + critic)


def test_a_killed_run_resumes_to_the_same_weights(finished, tmp_path, counted, monkeypatch):
    """The optimizer's state is that of the named weights alone."""
    checkpoint, options = finished[0] / "curriculum" / "final", [*counted, "rl.trainable=[attn]"]
    run(rl_from(checkpoint, tmp_path / "whole", *options))

    def die_at_three(self, args, state, control, **kwargs):
        assert state.global_step < 3, "killed"

    with monkeypatch.context() as patch, pytest.raises(AssertionError, match="killed"):
        patch.setattr(callbacks.ProgressCallback, "on_step_end", die_at_three)
        run(rl_from(checkpoint, tmp_path / "killed", *options))
    run(rl_from(checkpoint, tmp_path / "killed", *options), resume=True)
    finals = [tmp_path / name / "tiny" / "rl" / "final" for name in ("whole", "killed")]
    assert_same_weights(*finals)
    assert moved(checkpoint, finals[0]) == {name for name in weights(checkpoint) if ".attn." in name}


def test_frozen_modules_of_an_adapter_keep_their_precision(tmp_path, finished, counted):
    """The base under a LoRA is rounded to bfloat16 to save memory. What is saved with the adapter is not."""
    checkpoint = shutil.copytree(finished[0] / "curriculum" / "final", tmp_path / "other")
    recipe = rl_from(
        checkpoint, tmp_path, *counted, "latent.thought_source=projection", "model.dtype=bfloat16", LORA,
        "rl.trainable=['c_attn.*lora_']",
    )  # fmt: skip
    config = json.loads((checkpoint / "config.json").read_text())
    config["latent"] |= {"thought_source": "projection"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    reasoner = load_reasoner(checkpoint)
    for weight in reasoner.model.thought_source.parameters():
        torch.nn.init.normal_(weight)
    reasoner.save_pretrained(checkpoint)
    run(recipe)
    before, after = weights(checkpoint), weights(tmp_path / "tiny" / "rl" / "final")
    ours = [name for name in before if name.startswith("thought_source.")]
    assert ours and all(torch.equal(before[name], after[name]) for name in ours)
    assert not any(torch.equal(before[name], before[name].bfloat16().float()) for name in ours if before[name].any())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["rl.trainable=['(']"], r"'\(' is no regular expression: missing \)"),
        (["rl.trainable=[]"], r"\[\] names no weights: give a list of regular expressions, such as \[v_proj\]"),
        (["rl.trainable=v_proj"], "'v_proj' names no weights"),
        (["rl.trainable=[c_attn, v_proj]"],
         r"'v_proj' matches no weight\. .* nearest: .*transformer\.h\.0\.attn\.c_proj\.weight"),
        (["rl.trainable=[value_head]", "rl.algorithm=ppo"], "'value_head' matches no weight"),  # always trains
        ([LORA, "rl.trainable=[ln_f]"], r"'ln_f' matches only weights that model\.lora keeps frozen, .*ln_f\.weight"),
        ([LORA, "rl.trainable=['c_proj.*lora_']"], r"'c_proj\.\*lora_' matches no weight.*lora_"),
        ([LORA, "rl.trainable=value_matrices"], "which model.lora keeps frozen. Remove one of the two"),
        (["rl.trainable=value_matrices", "rl.trainer.weight_decay=0.1"], "would also shrink queries and keys"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_named_before_any_stage(options, message):
    with pytest.raises(UserError, match=message):
        check_recipe(load_recipe(ROOT / "tests" / "tiny.yaml", options))


def test_a_model_of_the_hub_is_checked_when_the_stages_begin(finished, tmp_path, monkeypatch):
    """Its config is not at hand before."""
    monkeypatch.setattr(trainable, "config_at_hand", lambda model: None)
    recipe = rl_from(finished[0] / "curriculum" / "final", tmp_path, "rl.trainable=[v_proj]")
    check_recipe(recipe)
    with pytest.raises(UserError, match="'v_proj' matches no weight"):
        run(recipe)
    assert not list((tmp_path / "tiny").glob("rl/*"))


def test_a_part_of_a_matrix_is_refused_under_zero3_before_any_stage(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    for stage in ("2", "3"):
        monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", stage)
        recipe = tiny("unused", "rl.trainable=value_matrices")
        config = build_config(recipe.model.config, build_tokenizer([]))
        if stage == "2":
            check_trainable(recipe, config)
        else:
            with pytest.raises(UserError, match=r"a part of each Conv1D .* ZeRO-3 shards it\. Launch with"):
                check_trainable(recipe, config)


def test_names_of_our_own_modules_and_of_token_rows_are_known():
    for options in (
        ["latent.thought_source=projection", "rl.trainable=[thought_source]"],
        [LORA, "rl.trainable=[trainable_tokens_delta]"],
        [LORA, "latent.thought_source=projection", "rl.trainable=[thought_source]"],
        ["rl.trainable=['^transformer.h.0.mlp']"],
    ):
        check_recipe(tiny("unused", *options))
