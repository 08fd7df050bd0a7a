"""What a problem looks like at each stage, worked out by hand."""

import pytest
import torch

from neuralese.data.errors import DataError
from neuralese.data.problem import Problem
from neuralese.pipeline.collate import Collator, StageDataset
from neuralese.pipeline.curriculum import (
    Encoded,
    Stage,
    check_one_token_steps,
    encode,
    encode_question,
    plan_stages,
    render,
)

IDS = (90, 91, 92)  # start, latent, end
PROBLEM = Encoded(question=[1, 2], steps=[[11, 7], [12, 7], [13, 7]], answer=[30, 31, 99])


@pytest.mark.parametrize(
    ("stage", "c", "ids"),
    [
        (Stage(0, 0, 0), 1, [1, 2, 11, 7, 12, 7, 13, 7, 30, 31, 99]),
        (Stage(1, 1, 1), 1, [1, 2, 90, 91, 92, 12, 7, 13, 7, 30, 31, 99]),
        (Stage(2, 2, 4), 2, [1, 2, 90, 91, 91, 91, 91, 92, 13, 7, 30, 31, 99]),
        (Stage(3, None, 2), 1, [1, 2, 90, 91, 91, 92, 30, 31, 99]),
        (Stage(1, None, 0), 1, [1, 2, 30, 31, 99]),  # no CoT
    ],
)
def test_render_replaces_steps_by_latents(stage, c, ids):
    rendered, labels = render(PROBLEM, stage, IDS, c)
    assert rendered == ids
    first_target = ids.index(92) + 1 if 92 in ids else 2
    assert labels == [-100] * first_target + ids[first_target:]


def test_supervision_labels_the_first_latent_of_each_replaced_step():
    ids, labels = render(PROBLEM, Stage(2, 2, 4), IDS, 2, supervise=True)
    assert labels[: ids.index(92) + 1] == [-100, -100, -100, 11, -100, 12, -100, -100]


def test_a_problem_with_fewer_steps_than_the_stage_keeps_the_latents():
    short = Encoded([1], [[11, 7]], [30, 99])
    ids, labels = render(short, Stage(3, 3, 3), IDS, 1, supervise=True)
    assert ids == [1, 90, 91, 91, 91, 92, 30, 99]
    assert labels == [-100, -100, 11, -100, -100, -100, 30, 99]


def test_plan_removes_one_step_a_stage_and_all_in_the_end():
    assert plan_stages(3, 2) == [Stage(1, 1, 2), Stage(2, 2, 4), Stage(3, 3, 6)]
    # Coconut's GSM8K: three stages, then everything that is left in one more, without more latents.
    assert plan_stages(8, 2, 3) == [Stage(1, 1, 2), Stage(2, 2, 4), Stage(3, 3, 6), Stage(4, None, 6)]
    assert plan_stages(2, 1, 5) == plan_stages(2, 1)


def test_parts_are_tokenized_alike_in_training_and_inference(reasoner):
    problem = Problem("3 + 4 =", ("0", "6"), "6")
    (parts,) = encode([problem], reasoner.tokenizer)
    assert parts.question == encode_question(problem.question, reasoner.tokenizer)
    text = reasoner.tokenizer.convert_ids_to_tokens(parts.question + parts.steps[0] + parts.steps[1] + parts.answer)
    assert text == ["3", "+", "4", "=", "0", "6", "###", "6", "<|end|>"]


def test_a_part_without_tokens_is_an_error(reasoner):
    tokenizer = reasoner.tokenizer
    broken = type("Empty", (), {"__call__": lambda self, texts, **_: {"input_ids": [[] for _ in texts]}})()
    broken.bos_token_id, broken.eos_token_id = None, tokenizer.eos_token_id
    with pytest.raises(DataError, match="Problem 0 has a part that tokenizes to nothing"):
        encode([Problem("3 + 4 =", ("0",), "6")], broken)


def test_supervision_needs_one_token_steps(reasoner):
    fine, long = Problem("1 =", ("1",), "1"), Problem("1 =", ("1 + 2",), "1")
    check_one_token_steps(encode([fine], reasoner.tokenizer), reasoner.tokenizer)
    with pytest.raises(DataError, match="of problem 1 has 3 tokens.*supervision_weight=0"):
        check_one_token_steps(encode([fine, long], reasoner.tokenizer), reasoner.tokenizer)


def dataset(**options):
    stages = [Stage(0, 0, 0), *plan_stages(3, 1)]
    problems = [Encoded([i], [[11, 7], [12, 7], [13, 7]], [30, 99]) for i in range(50)]
    return StageDataset(
        problems, stages, **{"stage": 2, "length": 4000, "token_ids": IDS, "latents_per_step": 1, **options}
    )


def test_mixing_shows_the_stated_share_at_uniform_earlier_stages():
    def latents(data):
        return torch.tensor([data[i]["input_ids"].count(91) for i in range(len(data))])

    assert (latents(dataset()) == 2).all()
    mixed = latents(dataset(mix_earlier=0.3))
    for stage in (0, 1):  # 0.3 of the items, a third of them at each stage up to the current one
        assert (mixed == stage).float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(mixed, latents(dataset(mix_earlier=0.3)))
    assert not torch.equal(mixed, latents(dataset(mix_earlier=0.3, seed=1)))
    assert not torch.equal(mixed[:2000], mixed[2000:])  # the second pass over the problems is mixed anew


def test_collator_pads_on_the_right():
    batch = Collator(0)([{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [8], "labels": [8]}])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [8, -100, -100]]
