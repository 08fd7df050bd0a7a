"""What a problem looks like at each level, worked out by hand."""

from dataclasses import replace

import pytest
import torch

from neuralese.data.errors import DataError
from neuralese.data.problem import Problem
from neuralese.pipeline.latent.config import LatentConfig
from neuralese.pipeline.problems.checks import check_answers, check_one_token_steps
from neuralese.pipeline.problems.collate import Collator, LevelDataset
from neuralese.pipeline.problems.encode import Encoded, encode, encode_prompts
from neuralese.pipeline.problems.format import Format
from neuralese.pipeline.problems.schedule import TEXT, Level, plan_levels

PROBLEM = Encoded(question=[1, 2], steps=[[11, 7], [12, 7], [13, 7]], answer=[30, 31, 99])


def style(c=1, **options):
    pad_latents = options.pop("pad_latents", True)
    config = LatentConfig(token_ids=(90, 91, 92), latents_per_step=c, **options)  # start, latent, end
    return Format(config, pad_latents, eos_token_id=99)


@pytest.mark.parametrize(
    ("level", "c", "ids"),
    [
        (TEXT, 1, [1, 2, 11, 7, 12, 7, 13, 7, 30, 31, 99]),
        (Level(1, 1, 1), 1, [1, 2, 91, 12, 7, 13, 7, 30, 31, 99]),
        (Level(2, 2, 4), 2, [1, 2, 91, 91, 91, 91, 13, 7, 30, 31, 99]),
        (Level(3, None, 2), 1, [1, 2, 91, 91, 30, 31, 99]),
        (Level(1, None, 0), 1, [1, 2, 30, 31, 99]),  # no CoT
    ],
)
def test_render_replaces_steps_by_latents(level, c, ids):
    rendered, labels = style(c).render(PROBLEM, level)
    assert rendered == ids
    first_target = 2 + ids.count(91)
    assert labels == [-100] * first_target + ids[first_target:]


def test_delimiters_stand_around_latents_and_nowhere_else():
    delimited = style(delimiters=True, supervision="next_step")
    assert delimited.render(PROBLEM, TEXT)[0] == [1, 2, 11, 7, 12, 7, 13, 7, 30, 31, 99]
    ids, labels = delimited.render(PROBLEM, Level(2, 2, 2))
    assert ids == [1, 2, 90, 91, 91, 92, 13, 7, 30, 31, 99]
    assert labels == [-100, -100, -100, 11, 12, -100, 13, 7, 30, 31, 99]


def test_next_step_labels_the_first_latent_of_each_replaced_step():
    ids, labels = style(2, supervision="next_step").render(PROBLEM, Level(2, 2, 4))
    assert labels[: ids.index(91) + 4] == [-100, -100, 11, -100, 12, -100]


def test_a_problem_with_fewer_steps_than_the_level_keeps_the_latents():
    short = Encoded([1], [[11, 7]], [30, 99])
    ids, labels = style(supervision="next_step").render(short, Level(3, 3, 3))
    assert ids == [1, 91, 91, 91, 30, 99]
    assert labels == [-100, 11, -100, -100, 30, 99]
    assert style(pad_latents=False).render(short, Level(3, 3, 3))[0] == [1, 91, 30, 99]
    assert style(2, pad_latents=False).render(PROBLEM, Level(2, 2, 4))[0].count(91) == 4
    # At inference a thought has at least one latent.
    none = Encoded([1], [], [30, 99])
    assert style(supervision="next_step", pad_latents=False).render(none, Level(3, 3, 3)) == (
        [1, 91, 30, 99],
        [-100, -100, 30, 99],
    )
    assert style(pad_latents=False).render(none, TEXT)[0] == [1, 30, 99]


def test_decoder_examples_hold_the_replaced_steps_with_their_end():
    example = style(2, supervision="decoder").example(PROBLEM, Level(2, 2, 4))
    assert example["step_ids"] == [[11, 7, 99], [12, 7, 99]]
    assert style(supervision="decoder").example(PROBLEM, TEXT)["step_ids"] == []


def test_step_tokens_label_each_slot_with_its_token():
    example = style(3, supervision="step_tokens", delimiters=True).example(PROBLEM, Level(2, 2, 6))
    assert example["input_ids"][:10] == [1, 2, 90, *[91] * 6, 92]
    assert example["slot_labels"] == [-100] * 3 + [11, 7, -100, 12, 7, -100] + [-100] * (len(example["input_ids"]) - 9)
    assert example["labels"][:10] == [-100] * 10  # the labels of the text are those of the text alone
    padded = style(3, supervision="step_tokens", supervision_options={"label_padding": True})
    short = Encoded([1], [[11, 7]], [30, 99])
    assert padded.example(short, Level(2, 2, 6))["slot_labels"] == [-100, 11, 7, 99, 99, 99, 99, -100, -100]
    cut = style(1, supervision="step_tokens").example(PROBLEM, Level(2, 2, 2))
    assert cut["slot_labels"][2:4] == [11, 12]  # a step with more tokens than slots: the first ones
    assert set(padded.example(PROBLEM, TEXT)["slot_labels"]) == {-100}


def test_a_latent_stands_for_its_label_or_for_the_first_token_of_its_step():
    short = Encoded([1], [[11, 7]], [30, 99])
    assert style(2).stands_for(short, 5) == [11, 11, -100, -100, -100]
    assert style(2).stands_for(PROBLEM, 3) == [11, 11, 12]  # a thought that ends within a step
    assert style(3, supervision="step_tokens").stands_for(short, 5) == [11, 7, -100, -100, -100]
    filled = style(3, supervision="step_tokens", supervision_options={"label_padding": True})
    assert filled.stands_for(short, 5) == [11, 7, 99, 99, 99]


def test_distillation_examples_name_the_token_before_the_answer():
    example = style(supervision="distillation").example(PROBLEM, Level(2, 2, 2))
    assert example["teacher_ids"] == style().render(PROBLEM, TEXT)[0]
    assert (
        example["teacher_ids"][example["teacher_position"]] == 30 == example["input_ids"][example["student_position"]]
    )
    # Where the prefix is no token of its own, it is the last token before the answer part.
    merged = style(supervision="distillation").example(replace(PROBLEM, prefix=0), Level(3, 3, 3))
    assert merged["input_ids"][merged["student_position"]] == 91


def test_parts_are_tokenized_alike_in_training_and_inference(reasoner):
    problem = Problem("3 + 4 =", ("0", "6"), "6")
    (parts,) = encode([problem], reasoner.tokenizer)
    assert parts.question == encode_prompts([problem.question], 0, reasoner.tokenizer, reasoner.config)[0]
    text = reasoner.tokenizer.convert_ids_to_tokens(parts.question + parts.steps[0] + parts.steps[1] + parts.answer)
    assert text == ["3", "+", "4", "=", "0", "6", "###", "6", "<|end|>"]
    assert parts.prefix == 1


def test_a_part_without_tokens_is_an_error(reasoner):
    with pytest.raises(DataError, match="mine.jsonl, line 2 has a part that tokenizes to nothing"):
        encode(
            [Problem("3 + 4 =", ("0",), "6"), Problem("3 + 4 =", ("\u2003",), "6", where="mine.jsonl, line 2")],
            reasoner.tokenizer,
        )
    with pytest.raises(DataError, match="The answer .* of the problem '3 \\+ 4 =' tokenizes to nothing"):
        encode([Problem("3 + 4 =", ("0",), "\u2003")], reasoner.tokenizer)


def test_an_answer_that_no_stage_can_teach_is_an_error(reasoner):
    check_answers([Problem("3 + 4 =", (), "6")], reasoner.tokenizer)
    with pytest.raises(DataError, match="answer 'seven' of the problem '3 .* has words that the tokenizer does not"):
        check_answers([Problem("3 + 4 =", (), "6"), Problem("3 + 4 =", (), "seven")], reasoner.tokenizer)


def test_next_step_supervision_needs_one_token_steps(reasoner):
    fine, long = Problem("1 =", ("1",), "1"), Problem("1 =", ("1 + 2",), "1", where="mine.jsonl, line 2")
    check_one_token_steps(encode([fine], reasoner.tokenizer), reasoner.tokenizer)
    with pytest.raises(DataError, match="of mine.jsonl, line 2 has 3 tokens.*supervision=decoder"):
        check_one_token_steps(encode([fine, long], reasoner.tokenizer), reasoner.tokenizer)


def dataset(**options):
    levels = [TEXT, *plan_levels(3, 1)]
    problems = [Encoded([i], [[11, 7], [12, 7], [13, 7]], [30, 99]) for i in range(50)]
    return LevelDataset(problems, levels, **{"level": 2, "length": 4000, "style": style(), **options})


def test_mixing_shows_the_stated_share_at_uniform_earlier_levels():
    def latents(data):
        return torch.tensor([data[i]["input_ids"].count(91) for i in range(len(data))])

    assert (latents(dataset()) == 2).all()
    mixed = latents(dataset(mix_earlier=0.3))
    for level in (0, 1):  # 0.3 of the items, a third of them at each level up to the current one
        assert (mixed == level).float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(mixed, latents(dataset(mix_earlier=0.3)))
    assert not torch.equal(mixed, latents(dataset(mix_earlier=0.3, seed=1)))
    assert not torch.equal(mixed[:2000], mixed[2000:])  # the second pass over the problems is mixed anew


def test_each_pass_shows_each_problem_once_in_an_order_of_its_own():
    def questions(data):
        return [data[i]["input_ids"][0] for i in range(len(data))]

    passes = torch.tensor(questions(dataset(length=250))).split(50)
    for one in passes:
        assert sorted(one.tolist()) == list(range(50)) != one.tolist()
    assert len({tuple(one.tolist()) for one in passes}) == 5
    assert questions(dataset(length=250)) == torch.cat(passes).tolist() != questions(dataset(length=250, seed=1))
    data = dataset(length=250)
    assert [data[i]["input_ids"][0] for i in (60, 3, 60)] == [passes[1][10], passes[0][3], passes[1][10]]


def test_collator_pads_on_the_right():
    batch = Collator(0)([{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [8], "labels": [8]}])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [8, -100, -100]]


def test_noise_seeds_are_those_of_the_item():
    one, other = dataset(noisy=True), dataset(noisy=True, seed=1)
    seeds = [one[i]["noise_seed"] for i in range(200)]
    assert len(set(seeds)) == 200 and seeds == [dataset(noisy=True)[i]["noise_seed"] for i in range(200)]
    assert seeds[0] != other[0]["noise_seed"]
    assert Collator(0)([one[0], one[1]])["noise_seeds"].tolist() == seeds[:2]


def test_collator_pads_what_the_supervisions_read():
    decoder = style(supervision="decoder")
    short = Encoded([1], [[14, 15, 7]], [30, 99])
    batch = Collator(0)([decoder.example(PROBLEM, Level(2, 2, 2)), decoder.example(short, Level(2, 2, 2))])
    steps = batch["supervision_inputs"]["step_ids"]
    assert steps.tolist() == [
        [[11, 7, 99, -100], [12, 7, 99, -100]],
        [[14, 15, 7, 99], [-100, -100, -100, -100]],
    ]
    distillation = style(supervision="distillation")
    batch = Collator(0)([distillation.example(p, Level(1, 1, 1)) for p in (PROBLEM, short)])["supervision_inputs"]
    assert batch["teacher_ids"][1].tolist() == [1, 14, 15, 7, 30, 99, 0, 0, 0, 0, 0]
    assert batch["teacher_mask"].sum(1).tolist() == [11, 6]
    assert batch["teacher_position"].tolist() == [8, 4] and batch["student_position"].tolist() == [7, 2]
    assert batch["num_labels"].tolist() == [7, 2]
