"""What a checkpoint keeps, and what is said of one that cannot be used."""

import json

import pytest
import torch
from batches import batch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from neuralese.pipeline import load_reasoner
from neuralese.pipeline.latent import LatentConfig, ModelError
from neuralese.pipeline.latent.tokens import special_token_ids


def test_save_and_load_keep_the_latent_section_and_the_weights(reasoner, tmp_path):
    reasoner.save_pretrained(tmp_path)
    again = load_reasoner(tmp_path)
    assert again.config == reasoner.config and again.config.num_latents == 3
    inputs = batch(reasoner, "right")
    assert torch.equal(again(**inputs).loss, reasoner(**inputs).loss)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(plain).__name__ == "GPT2LMHeadModel" and not hasattr(plain, "latent_config")
    assert torch.equal(plain.lm_head.weight, reasoner.model.lm_head.weight)
    assert load_reasoner(tmp_path, num_latents=5).config.num_latents == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 8}, "version 8"),
        ({"token_ids": [1, 2, 3]}, "special tokens"),
        ({"token_ids": [1, 2]}, "three token ids"),
        ({"extra": 1}, "unknown keys"),
        ({"num_latents": -1}, "num_latents=-1"),
        ({"thought_source": "rawr"}, "Unknown thought source 'rawr'"),
    ],
)
def test_a_checkpoint_that_contradicts_itself_is_refused(reasoner, tmp_path, change, message):
    reasoner.model.config.latent |= change
    reasoner.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=message):
        load_reasoner(tmp_path)


def test_a_latent_section_that_is_no_mapping_is_refused(reasoner, tmp_path):
    reasoner.model.config.latent = "raw"
    reasoner.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="'raw', not a mapping"):
        load_reasoner(tmp_path)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_section_of_an_earlier_version_is_read(reasoner, tmp_path, version, weight):
    section = {
        "thought_source": "raw", "latents_per_step": 2, "num_latents": 4, "stage": 2, "noise": "gaussian:0.1",
        "supervision_weight": weight, "token_ids": reasoner.config.token_ids, "embedding_rms": 0.25, "version": version,
    }  # fmt: skip
    added = {"jacobi_sweeps": 3, "backprop_steps": None} if version == 2 else {}
    reasoner.model.config.latent = section | added
    reasoner.save_pretrained(tmp_path)
    read = load_reasoner(tmp_path).config
    assert read == LatentConfig(
        thought_source="raw", latents_per_step=2, num_latents=4, level=2, noise="gaussian:0.1", delimiters=True,
        supervision="next_step" if weight else "none", supervision_weight=weight, embedding_rms=0.25,
        token_ids=reasoner.config.token_ids, **added,
    )  # fmt: skip


def test_a_bfloat16_checkpoint_of_an_earlier_version_computes_in_bfloat16(reasoner, tmp_path):
    """It did so with weights of that dtype; now they are float32, and say what they compute in."""
    reasoner.model.bfloat16()
    section = reasoner.config.to_dict()
    del section["compute_dtype"]
    reasoner.model.config.latent = section | {"version": 3}
    reasoner.save_pretrained(tmp_path)
    loaded = load_reasoner(tmp_path)
    assert loaded.config.compute_dtype == "bfloat16" and loaded.model.dtype == torch.float32
    loaded.save_pretrained(tmp_path / "again")
    assert load_reasoner(tmp_path / "again").config.compute_dtype == "bfloat16"
    assert load_reasoner(tmp_path, dtype="float32").config.compute_dtype == "float32"


def test_an_absent_section_is_refused_where_one_is_needed(reasoner, tmp_path):
    del reasoner.model.config.latent
    reasoner.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no latent section"):
        load_reasoner(tmp_path, trained=True)
    assert load_reasoner(tmp_path).config.num_latents == 0  # a base model on its way


def test_a_tokenizer_without_the_special_tokens_is_named(reasoner):
    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a")))
    with pytest.raises(ModelError, match=r"no special tokens .*<\|latent\|>"):
        special_token_ids(plain)


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"There is no folder .*nothing\. Check the path"):
        load_reasoner(tmp_path / "nothing")


def test_modules_of_our_own_are_no_surprise_and_other_weights_are_named(make, tmp_path, caplog, capsys):
    transformers_logging.set_verbosity_warning()
    make(thought_source="projection", stop_head=True, supervision="decoder", supervised=True).save_pretrained(tmp_path)
    load_reasoner(tmp_path)
    assert transformers_logging.get_verbosity() == transformers_logging.WARNING
    transformers_logging.set_verbosity_error()
    assert not caplog.text and "UNEXPECTED" not in capsys.readouterr().err
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    moved = weights.pop("transformer.h.0.ln_1.weight")
    save_file({**weights, "transformer.h.0.ln_9.weight": moved}, file, {"format": "pt"})
    load_reasoner(tmp_path)
    assert f"1 weights of '{tmp_path}' are not there and begin untrained, the first: " in caplog.text
    assert f"1 weights of '{tmp_path}' are not used, the first: transformer.h.0.ln_9.weight" in caplog.text


def test_weights_of_other_shapes_are_named(reasoner, tmp_path):
    reasoner.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"n_inner": 48}))
    with pytest.raises(ModelError, match=r"c_fc.bias has the shape \(128,\), the config asks for \(48,\)"):
        load_reasoner(tmp_path)
