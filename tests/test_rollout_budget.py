"""What draws hold in memory: as much as is said, no more than the budget, and clear errors where it is too little."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from budgeted_draws import QUESTIONS, WAYS, drawn, prompts_of
from test_architectures import ARCHITECTURES
from test_search import BEAM, EACH, SEEDS, TREE, found
from transformers import GPT2Config, GPT2LMHeadModel

from neuralese.pipeline.latent.engine.decoder import CachedDecoder
from neuralese.pipeline.latent.engine.footprint import Footprint, column_bytes
from neuralese.pipeline.latent.noise import parse_noise
from neuralese.pipeline.latent.sampling import generate
from neuralese.pipeline.latent.sampling.answers import SamplingParams
from neuralese.pipeline.latent.sampling.budget import BudgetError, check_holds
from neuralese.pipeline.system import memory
from neuralese.pipeline.system.activity import begin


def most_held(run):
    """The most columns of keys and values of all rows, read from the buffers after every pass and every selection."""
    held = []

    def watching(name):
        original = getattr(CachedDecoder, name)

        def watched(self, *args, **options):
            result = original(self, *args, **options)
            held.append(max(b.size(0) * b.size(2) for layer in self.cache.layers for b in layer.buffers))
            return result

        return watched

    with pytest.MonkeyPatch.context() as patch:
        for name in ("__call__", "select", "_forget"):
            patch.setattr(CachedDecoder, name, watching(name))
        run()
    return max(held)


@pytest.mark.parametrize("way", WAYS)
def test_the_footprint_is_what_the_engine_holds(make, way):
    reasoner = make(num_latents=3, **WAYS[way])
    for some in ([0], [1, 3], [0, 1, 2, 3]):
        prompts = [prompts_of(reasoner)[at] for at in some]
        rows, seeds = torch.tensor([*range(len(some))] * 3), torch.arange(3 * len(some))
        noise, sampling = parse_noise("gaussian:0.3"), SamplingParams(max_new_tokens=6)
        arguments = reasoner.model, prompts, rows, seeds, sampling, noise, reasoner.eos_token_ids
        held = most_held(lambda given=arguments: generate.generate(*given))
        footprint = Footprint.of(reasoner.config, prompts_of(reasoner), 6)
        assert held == len(rows) * footprint.columns(some)


def test_a_plain_row_holds_its_question_its_latents_and_its_answer(make):
    for count in (0, 3):
        reasoner = make(num_latents=count)
        footprint = Footprint.of(reasoner.config, prompts_of(reasoner), 6)
        for at, prompt in enumerate(prompts_of(reasoner)):
            assert footprint.columns([at]) == len(prompt) + 6
    # With two loops the latents run three times; with delimiters one token comes after them.
    looped = make(num_latents=3, loops=2, delimiters=True)
    (prompt,) = prompts_of(looped)[:1]
    assert Footprint.of(looped.config, [prompt], 6).columns() == len(prompt) + 2 * 3 + 6


@pytest.mark.parametrize("rows", [1, 2, 4, 7])
@pytest.mark.parametrize("way", WAYS)
def test_no_more_is_held_than_the_budget(make, way, rows):
    reasoner = make(num_latents=3, **WAYS[way])
    tokens = rows * Footprint.of(reasoner.config, prompts_of(reasoner), 6).columns()
    held = most_held(lambda: drawn(reasoner, "gaussian:0.3", tokens))
    assert tokens / 2 < held <= tokens


@pytest.mark.parametrize("search", [BEAM, TREE, EACH], ids=lambda search: search.name)
def test_a_search_counts_the_most_thoughts_of_a_question(make, problems, judge, search):
    reasoner, questions = make(num_latents=3), [problem.question for problem in problems[:3]]
    whole = found(reasoner, questions, search, judge)
    longest = max(len(reasoner.prompt_ids(question)) for question in questions) + 4
    least = max(search.widths) * longest
    parts = []
    held = most_held(lambda: parts.extend(found(reasoner, questions, search, judge, batch_tokens=least)))
    assert held == least
    for (one, rewards), (other, others) in zip(whole, parts, strict=True):
        assert one.token_ids == other.token_ids and rewards == pytest.approx(others, abs=1e-4)
    with pytest.raises(BudgetError, match=f"for each of {max(search.widths)} thoughts that grow together: {least}"):
        found(reasoner, questions, search, judge, SEEDS, batch_tokens=least - 1)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3", "phi3", "gpt_neox"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_bytes_of_a_column_are_those_of_the_buffers(make, name, dtype):
    model_class, config = ARCHITECTURES[name]()
    reasoner = make(model_class, config, num_latents=2, compute_dtype=dtype)
    found, select = [], CachedDecoder.select

    def watched(self, rows):
        select(self, rows)
        found.append(
            sum(b.size(1) * b.size(3) * b.element_size() for layer in self.cache.layers for b in layer.buffers)
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CachedDecoder, "select", watched)
        drawn(reasoner, "gaussian:0.3")
    if dtype == "float32":
        assert found[0] == column_bytes(reasoner.model)
    else:
        assert column_bytes(reasoner.model) / 2 <= found[0] <= column_bytes(reasoner.model)


# Free memory


def test_free_memory_of_a_gpu_counts_what_torch_holds_without_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 300)
    assert memory.free_memory(torch.device("cuda", 0)) == 1400


def test_free_memory_of_a_computer_is_shared_by_the_processes_of_a_launch(monkeypatch):
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=9000))
    monkeypatch.setattr(memory, "_left_by_groups", lambda own, root: [7000, 8000])
    monkeypatch.delitem(os.environ, "LOCAL_WORLD_SIZE", raising=False)
    assert memory.free_memory(torch.device("cpu")) == 7000
    monkeypatch.setitem(os.environ, "LOCAL_WORLD_SIZE", "2")
    assert memory.free_memory(torch.device("cpu")) == 3500


def write_group(folder, limit, used, cached, names=("memory.max", "memory.current")):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\nactive_file 7\n")


def test_limits_of_control_groups_are_read(tmp_path):
    own = tmp_path / "cgroup"
    own.write_text("3:cpuset:/\n0::/job/step\n")
    write_group(tmp_path / "root" / "job" / "step", "max", 100, 10)
    write_group(tmp_path / "root" / "job", 1000, 300, 50)
    assert list(memory._left_by_groups(own, tmp_path / "root")) == [750]
    old = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    own.write_text("4:memory:/box/7\n0::/\n")
    write_group(tmp_path / "v1" / "memory", 2000, 300, 0, old)  # a container sees its group as the root
    assert list(memory._left_by_groups(own, tmp_path / "v1")) == [1700]
    assert list(memory._left_by_groups(Path("/nowhere"), tmp_path)) == []


# Errors


def test_a_budget_below_one_row_is_refused_with_the_sum(make):
    reasoner = make(num_latents=3)
    longest = len(prompts_of(reasoner)[0])
    assert longest == 11
    with pytest.raises(
        BudgetError,
        match=r"^batch_tokens \(evaluate.batch_tokens in a recipe\)=16 is less than one row takes: 11 of the longest "
        r"question with its latents \+ 6 new tokens = 17. Set it to 17 or more",
    ):
        reasoner.generate(QUESTIONS, max_new_tokens=6, batch_tokens=16)
    reasoner.generate(QUESTIONS, max_new_tokens=6, batch_tokens=17)


def test_the_sum_says_what_loops_hold_and_what_a_window_frees(make):
    for latent, said in (
        ({"loops": 3, "delimiters": True}, r"13 of .* \+ 9 of further passes over latents \+ 6 new tokens = 28"),
        ({"window": 1, "sees_question": False, "num_latents": 60}, r" - \d+ out of sight \+ 6 new tokens"),
    ):
        config = GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=128)
        reasoner = make(GPT2LMHeadModel, config, **{"num_latents": 3, **latent})
        with pytest.raises(BudgetError, match=said):
            check_holds("evaluate.batch_tokens", 5, Footprint.of(reasoner.config, prompts_of(reasoner), 6))


LACKS = {
    "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."),
    "windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes."),
    "python": MemoryError(),
}


def failing(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(generate, "_generate", fail)


@pytest.mark.parametrize("error", LACKS.values(), ids=LACKS)
def test_too_little_memory_names_the_key_and_its_value(make, monkeypatch, error):
    reasoner = make(num_latents=3)
    begin()  # no run of this process is there to be gone on with
    failing(monkeypatch, error)
    with pytest.raises(BudgetError) as raised:
        drawn(reasoner, None, 100, key="rl.rollout_batch_tokens")
    said = str(raised.value)
    assert "There is too little memory to draw 5 answers at once, which hold 5 x 17 = 85 tokens" in said
    assert type(error).__name__ in said and said.endswith("Lower rl.rollout_batch_tokens, which is 100.")
    with pytest.raises(BudgetError, match=r"Lower x, which is not set \(\d+ were chosen from the free memory\), below"):
        drawn(reasoner, None, None, key="x")
    with pytest.raises(BudgetError, match="x, which is 17, cannot be lowered further: lower the limit on new tokens"):
        drawn(reasoner, None, 17, key="x")


def test_other_errors_stay_as_they_are(make, monkeypatch):
    failing(monkeypatch, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="^shapes do not fit$"):
        drawn(make(num_latents=3), None)
