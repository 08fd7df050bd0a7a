"""Shapes in public signatures are checked while the tests run; tiny models for all tests."""

import gc
import os

os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "TRANSFORMERS_VERBOSITY": "error",
    }
)

from jaxtyping import install_import_hook

install_import_hook("neuralese.pipeline.latent", "beartype.beartype")

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from neuralese.data.chain import ChainTask, generate
from neuralese.pipeline.model.build import build_tokenizer
from neuralese.pipeline.model.load import make_reasoner
from neuralese.pipeline.scoring.latent_reward import LatentRewardConfig, LatentRewardModel

ROOT = Path(__file__).parents[1]
TASK = ChainTask(modulus=7, num_operations=3)
LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def pytest_collection_finish():
    """Trainers collect garbage at the end of each stage: spare them the walk through all that libraries have loaded."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _same_seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def problems():
    return generate(TASK, 200, "train", 0)


@pytest.fixture
def make(problems):
    """Builds a random 2-layer reasoner, GPT-2 unless another model class is given, over the words of the chain task."""

    def build(model_class=GPT2LMHeadModel, config=None, **latent):
        tokenizer = build_tokenizer(problems)
        config = config or GPT2Config(
            n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.1, resid_pdrop=0.0, embd_pdrop=0.0,
            attn_pdrop=0.0,
        )  # fmt: skip
        config.vocab_size, config.bos_token_id, config.eos_token_id = len(tokenizer), None, tokenizer.eos_token_id
        config.pad_token_id = None
        torch.manual_seed(0)
        return make_reasoner(model_class(config).eval(), tokenizer, **latent)

    return build


@pytest.fixture
def save(make, tmp_path):
    """Saves a random reasoner of an architecture with given latent options: its folder."""

    def build(name, **latent):
        config = LlamaConfig(**LLAMA, num_key_value_heads=2, initializer_range=0.1, tie_word_embeddings=False)
        given = (LlamaForCausalLM, config) if name == "llama" else (GPT2LMHeadModel, None)
        make(*given, **{"num_latents": 3, **latent}).save_pretrained(tmp_path / name)
        return tmp_path / name

    return build


@pytest.fixture
def reasoner(make):
    return make(num_latents=3, supervision_weight=0.5)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A whole run of the tiny recipe with two controls: its folder and its results. Not to be changed."""
    from runs import tiny

    from neuralese.pipeline.run.train import run

    folder = tmp_path_factory.mktemp("runs")
    rows = run(tiny(folder, "controls.pause=true", "controls.no_cot=true"))
    return folder / "tiny", rows


@pytest.fixture(scope="session")
def one_process(tmp_path_factory):
    """A run of the tiny recipe in one process that accumulates gradients: what runs of two are compared with."""
    from processes import batches, train_tiny

    return train_tiny("cpu", tmp_path_factory.mktemp("one"), *batches(4, 2))


@pytest.fixture
def judge():
    """A random latent reward model of `reasoner`."""
    torch.manual_seed(0)
    model = LatentRewardModel(LatentRewardConfig(state_size=32, num_latents=3))
    torch.nn.init.normal_(model.place.weight)
    return model.eval()
