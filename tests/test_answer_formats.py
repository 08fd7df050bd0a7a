"""Answer formats: what a model learns to write is what is read again, by every reader."""

import pytest
from chat_tokenizers import KINDS
from text_tokenizers import gpt2_like
from transformers import GPT2Config, GPT2LMHeadModel

from neuralese.data import DataError, Problem, parse_problem
from neuralese.data.answer_formats import ANSWER_FORMATS, answer_format_of
from neuralese.pipeline import make_reasoner
from neuralese.pipeline.evaluate.audit.text_chain import thought_length
from neuralese.pipeline.latent.config import LatentConfig, ModelError
from neuralese.pipeline.latent.tokens import prepare_tokenizer
from neuralese.pipeline.model.build import build_tokenizer
from neuralese.pipeline.problems.checks import check_answers
from neuralese.pipeline.problems.encode import encode
from neuralese.pipeline.problems.readable_answers import check_golds
from neuralese.pipeline.scoring.problem_samples import Sampled
from neuralese.pipeline.train.rl.settings import rl_rows
from neuralese.rewards import extract_answer
from neuralese.rewards.answers import has_answer_format
from neuralese.rewards.builtin import BUILTIN
from neuralese.rewards.score import is_right

FORMATS = list(ANSWER_FORMATS)
PROBLEM = Problem("17 + 5 * 3 =", ("22", "4"), "4")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("answer", ["18", "-3.5", "$1,250.", "\\frac{3}{4}", "{1, 2}", "U.S.", "a b"])
def test_what_is_written_is_read_again(name, answer):
    text = "22\n" + answer_format_of(name).written(answer)
    assert extract_answer(text, name) == answer
    assert has_answer_format(text, name)


def test_how_they_are_written():
    assert {name: one.written("18") for name, one in ANSWER_FORMATS.items()} == {
        "hash": "### 18", "boxed": "\\boxed{18}", "sentence": "The answer is 18.",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "answer", "is_formal"),
    [
        ("boxed", "so $\\boxed{18}$ eggs", "18", False),  # what follows the box does not count
        ("boxed", "\\boxed{3} or \\boxed{18}", "18", False),
        ("boxed", "\\boxed{\\frac{1}{2}}", "\\frac{1}{2}", True),
        ("boxed", "\\boxed{\\boxed{3}}", "3", False),
        ("boxed", "\\boxed{18} \\boxed{3", "18", False),  # the second is not closed
        ("boxed", "\\boxed{18", "\\boxed{18", False),
        ("boxed", "### 18", "### 18", False),
        ("boxed", "\\boxed{}", "", False),
        ("sentence", "So the answer is 18.", "18", False),
        ("sentence", "The answer is 18", "18", False),
        ("sentence", "The answer is: 18.\n", "18", False),
        ("sentence", "The answer is 3. The answer is 18.", "18", False),
        ("sentence", "The answer is 18.\nBye", "18. Bye", False),
        ("sentence", "The answer is .", "", False),
        ("sentence", "18.", "18.", False),
        ("hash", "#### 18", "18", False),
        ("hash", "### 3 ### 18", "18", False),
        ("hash", "\\boxed{18}", "\\boxed{18}", False),
    ],
)
def test_other_texts(name, text, answer, is_formal):
    assert extract_answer(text, name) == answer
    assert has_answer_format(text, name) is is_formal


@pytest.mark.parametrize("name", FORMATS)
def test_rewards_and_scorers_read_the_format(name):
    right, wrong = (answer_format_of(name).written(text) for text in ("18", "19"))
    for scorer in ("exact_match", "numeric_match", "math_verify"):
        columns = {"answer": ["18"] * 2, "answer_format": [name] * 2}
        assert BUILTIN[scorer](["?"] * 2, [f"19\n{right}", f"18\n{wrong}"], **columns) == [1.0, 0.0], scorer
        judged = is_right(scorer, [Problem("?", (), "18")], [[right, wrong]], name)
        assert judged.tolist() == [[True, False]], scorer
    assert BUILTIN["answer_format"](["?"] * 2, [right, "18"], answer_format=[name] * 2) == [1.0, 0.0]
    path = {"edges": [[["a", "b"]]], "start": ["a"], "goal": ["b"], "answer_format": [name]}
    assert BUILTIN["valid_path"](["?"], [answer_format_of(name).written("a b")], **path) == [1.0]


def test_without_the_column_rewards_read_hashes():
    assert BUILTIN["exact_match"](["?"] * 2, ["### 18", "\\boxed{18}"], answer=["18"] * 2) == [1.0, 0.0]


def test_rewards_of_rl_get_the_column():
    assert [row["answer_format"] for row in rl_rows([PROBLEM] * 2, 3, "boxed")] == ["boxed"] * 2


@pytest.mark.parametrize("name", FORMATS)
def test_the_check_of_answers_writes_the_format(name, caplog):
    check_golds("evaluate.scorer", "exact_match", [PROBLEM], "evaluation", name)
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("hash", "4 ### 5", "holds '###', after which"),
        ("boxed", "\\boxed{4}", "holds '.+boxed{', after which"),
        ("boxed", "4}", "holds '}', at which a model's answer ends"),
        ("boxed", "{4", "holds '}', at which a model's answer ends"),
        ("sentence", "the answer is 4", "holds 'The answer is', after which"),
    ],
)
def test_answers_that_hold_their_marker_are_refused(name, answer, said):
    row = {"question": "?", "steps": [], "answer": answer}
    with pytest.raises(DataError, match=said):
        parse_problem(row, "here", name)
    for other in set(FORMATS) - {name}:
        assert parse_problem(row, "here", other).answer == answer


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", [gpt2_like, KINDS["qwen2"]])
def test_tokens_of_an_answer(name, kind):
    tokenizer = kind()
    prepare_tokenizer(tokenizer)
    (encoded,) = encode([PROBLEM], tokenizer, LatentConfig(answer_format=name))
    assert encoded.answer[-1] == tokenizer.eos_token_id
    form = answer_format_of(name)
    assert tokenizer.decode(encoded.answer[:-1]) == form.written("4")
    assert tokenizer.decode(encoded.answer[: encoded.prefix]) == form.before.strip()


@pytest.mark.parametrize("name", ["hash", "sentence"])
def test_an_answer_of_no_token_is_refused(name):
    tokenizer = build_tokenizer([PROBLEM], name)
    with pytest.raises(DataError, match="The answer ' ' of .* tokenizes to nothing"):
        encode([Problem("17 =", (), " ")], tokenizer, LatentConfig(answer_format=name))


@pytest.mark.parametrize("name", FORMATS)
def test_a_vocabulary_from_data_can_write_the_format(name):
    tokenizer = build_tokenizer([PROBLEM], name)
    check_answers([PROBLEM], tokenizer, name)
    (encoded,) = encode([PROBLEM], tokenizer, LatentConfig(answer_format=name))
    assert tokenizer.unk_token_id not in encoded.answer
    with pytest.raises(DataError, match="has words that the tokenizer does not know"):
        check_answers([Problem("17 =", (), "99")], tokenizer, name)


def test_a_vocabulary_of_hashes_is_what_it_was():
    tokens = build_tokenizer([PROBLEM]).convert_ids_to_tokens(range(12))
    assert tokens == ["<|pad|>", "<|end|>", "<|unknown|>", "###", *sorted({"17", "+", "5", "*", "3", "=", "22", "4"})]


def test_a_chain_of_thought_ends_where_the_answer_is_announced():
    tokenizer = gpt2_like()
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1, n_positions=64)
    for name in FORMATS:
        reasoner = make_reasoner(GPT2LMHeadModel(config), gpt2_like(), answer_format=name)
        thought, answer = (
            reasoner.tokenizer(text)["input_ids"] for text in ("22 4\n", answer_format_of(name).written("4"))
        )
        found = thought_length(reasoner, thought + answer)
        assert len(thought) <= found < len(thought + answer), name


def test_majorities_count_answers_in_their_format():
    row = Sampled("?", ["1 \\boxed{4}", "2 \\boxed{4}"], [1.0] * 2, [0.0] * 2, [1] * 2, [0] * 2, 0, [0] * 2,
                  answer_format="boxed")  # fmt: skip
    assert row.answers == ["4", "4"]


def test_unknown_formats_are_refused():
    with pytest.raises(DataError, match=r"answer_format is 'box'. Did you mean 'boxed'\?"):
        answer_format_of("box")
    with pytest.raises(ModelError, match="answer_format='box' of the latent section"):
        LatentConfig(answer_format="box")
