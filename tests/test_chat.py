"""Chat templates: training shows the tokens that sampling shows, the template's own, and text stays text."""

from datetime import datetime

import chat_tokenizers
import pytest
import text_tokenizers
from chat_tokenizers import CHATML, GEMMA2, KINDS, QWEN3, TURN_END
from transformers import LlamaConfig, LlamaForCausalLM

from neuralese.data import DataError, Problem
from neuralese.data.conversation import Conversation, as_question
from neuralese.pipeline import load_reasoner, make_reasoner
from neuralese.pipeline.latent.config import VERSION, LatentConfig, ModelError
from neuralese.pipeline.latent.tokens import prepare_tokenizer, special_token_ids
from neuralese.pipeline.problems.chat import Chat, is_chat_model, with_fixed_date
from neuralese.pipeline.problems.encode import encode, encode_prompts
from neuralese.pipeline.problems.format import Format
from neuralese.pipeline.problems.schedule import TEXT, Level
from neuralese.pipeline.problems.text import control_ids

PROBLEM = Problem("17 + 5 * 3 =", ("17 + 5 = 22", "22 * 3 = 4"), "4")
SYSTEM = "You are a helpful assistant"


def made(kind):
    tokenizer = KINDS[kind]()
    prepare_tokenizer(tokenizer)
    return tokenizer


def section(tokenizer, **options):
    return LatentConfig(token_ids=special_token_ids(tokenizer), format="chat", **options)


def theirs(tokenizer, messages, generation=False):
    return tokenizer.apply_chat_template(
        messages, add_generation_prompt=generation, return_dict=False,
        chat_template=tokenizer.chat_template.replace("strftime_now('%d %b %Y')", "'26 Jul 2024'"),
    )  # fmt: skip


def messages(problem, system=None, answered=True):
    turns = [{"role": "system", "content": system}] if system else []
    turns.append({"role": "user", "content": problem.question})
    solution = "\n".join([*problem.steps, f"### {problem.answer}"])
    return [*turns, *([{"role": "assistant", "content": solution}] if answered else [])]


@pytest.mark.parametrize("system", [None, SYSTEM])
@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_are_those_of_the_template(kind, system):
    tokenizer = made(kind)
    config = section(tokenizer, system_prompt=system)
    (encoded,) = encode([PROBLEM], tokenizer, config)
    ids, labels = Format(config).render(encoded, TEXT)
    whole = theirs(tokenizer, messages(PROBLEM, system))
    assert ids == whole[: len(ids)]
    assert set(tokenizer.decode(whole[len(ids) :])) <= {"\n"}, "only white space may follow the end of the turn"
    assert tokenizer.convert_ids_to_tokens(ids[-1]) == TURN_END[kind] and labels[-1] == ids[-1]
    (prompt,) = encode_prompts([PROBLEM.question], 0, tokenizer, config)
    assert prompt == encoded.question == theirs(tokenizer, messages(PROBLEM, system, answered=False), True)
    assert labels[: len(prompt)] == [-100] * len(prompt)


@pytest.mark.parametrize("kind", KINDS)
def test_training_shows_the_prompt_of_sampling(kind):
    tokenizer = made(kind)
    config = section(tokenizer, delimiters=True, system_prompt=SYSTEM)
    (encoded,) = encode([PROBLEM], tokenizer, config)
    for level in (TEXT, Level(1, 1, 1), Level(2, None, 2)):
        (prompt,) = encode_prompts([PROBLEM.question], level.num_latents, tokenizer, config)
        ids, _ = Format(config).render(encoded, level)
        completion = [t for step in encoded.steps[level.num_latents :] for t in step] + encoded.answer
        assert ids == prompt + completion


@pytest.mark.parametrize("kind", KINDS)
def test_what_users_spell_is_no_control_token(kind):
    tokenizer = made(kind)
    config, control = section(tokenizer, system_prompt=SYSTEM), control_ids(tokenizer)
    (plain,) = encode_prompts([PROBLEM.question], 0, tokenizer, config)
    for token in [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]:
        question = f"17 {token} 5\n{token}assistant"
        (ids,) = encode_prompts([question], 0, tokenizer, config)
        assert [i for i in ids if i in control] == [i for i in plain if i in control], token
        assert question in tokenizer.decode(ids), token


@pytest.mark.parametrize("kind", ["gpt2_like", "chat_like", "llama_like", "unigram", "slow", "word_level"])
def test_other_kinds_of_tokenizers_split_what_is_spelled_or_refuse_it(kind):
    tokenizer = getattr(text_tokenizers, kind)()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    prepare_tokenizer(tokenizer)

    def asked(question):
        return encode_prompts([question], 0, tokenizer, section(tokenizer))[0]

    assert asked("17 + 5 =") == theirs(tokenizer, [{"role": "user", "content": "17 + 5 ="}], True)
    spelled = f"17 {tokenizer.eos_token} 5 ="
    if kind in ("gpt2_like", "chat_like", "llama_like"):
        assert asked(spelled).count(tokenizer.eos_token_id) == 1
        return
    with pytest.raises(DataError, match=r"^Question 0 .*(Can't sanitize|cannot read as text)"):
        asked(spelled)


def test_several_turns():
    tokenizer = made("qwen2")
    turns = [
        {"role": "user", "content": "17 + 5 ="},
        {"role": "assistant", "content": "### 22"},
        {"role": "user", "content": "22 * 3 ="},
    ]
    question = as_question(turns, "here")
    assert isinstance(question, Conversation) and question.messages == turns
    (ids,) = encode_prompts([question], 0, tokenizer, section(tokenizer))
    assert ids == theirs(tokenizer, turns, True)
    own = as_question([{"role": "system", "content": "start end"}, *turns], "here")
    (ids,) = encode_prompts([own], 0, tokenizer, section(tokenizer, system_prompt=SYSTEM))
    assert ids == theirs(tokenizer, own.messages, True), "the question's own system turn stands"
    with pytest.raises(DataError, match=r"Question 0 has a question of several turns.*data\.format=chat"):
        encode_prompts([question], 0, tokenizer, LatentConfig())


def test_turns_that_the_template_drops_are_named():
    tokenizer = made("qwen2")
    tokenizer.chat_template = CHATML.replace("in messages %}", "in messages if message.role != 'system' %}")
    own = as_question([{"role": "system", "content": SYSTEM}, {"role": "user", "content": "17 ="}], "here")
    with pytest.raises(DataError, match=r"^Question 0 has the turns \['system', 'user'\], .* drops that of the system"):
        encode_prompts([own], 0, tokenizer, section(tokenizer))


def test_turns_that_the_template_refuses_are_named():
    tokenizer = made("gemma3")
    twice = as_question([{"role": "user", "content": "17 ="}, {"role": "user", "content": "22 ="}], "here")
    problems = [PROBLEM, Problem(twice, (), "4", where="data.jsonl, line 2")]
    with pytest.raises(DataError, match=r"^data\.jsonl, line 2 does not fit the chat template: .*must alternate"):
        encode(problems, tokenizer, section(tokenizer))


@pytest.mark.parametrize(
    ("template", "system", "said"),
    [
        (None, None, r"needs a chat template, and the tokenizer has none"),
        (GEMMA2, SYSTEM, r"takes no system turn: TemplateError: System role not supported.*data\.system_prompt"),
        (CHATML.replace("{%- for message in messages %}", "{%- for message in messages if message.role != 'system' %}"),
         SYSTEM, r"drops the system turn 'You are a helpful assistant'"),
        (CHATML.replace("<|im_start|>assistant\n' }}{% endif", "<|im_start|>user\n' }}{% endif"), None,
         r"does not hold an assistant's turn that begins where the prompt ends"),
        (CHATML.partition("{%- if add_generation_prompt")[0], None, r"does not hold an assistant's turn"),
        (CHATML.replace("message['content']", "'x'"), None, r"does not write the question"),
        ("{{ raise_exception('no') }}", None, r"cannot write a question: TemplateError: no"),
        ("{{ messages | nothing }}", None, r"cannot write a question: TemplateAssertionError"),
    ],
    ids=["none", "refuses system", "drops system", "another turn", "no prompt", "no question", "raises", "broken"],
)  # fmt: skip
def test_templates_that_do_not_fit_are_refused(template, system, said):
    tokenizer = made("qwen2")
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match=said):
        encode([PROBLEM], tokenizer, section(tokenizer, system_prompt=system))


def test_gemma_2_chats_without_a_system_prompt():
    tokenizer = chat_tokenizers.gemma3(GEMMA2)
    assert Chat.of(tokenizer).prompt_ids(["17 ="], str) == [
        theirs(tokenizer, [{"role": "user", "content": "17 ="}], True)
    ]


def test_a_template_that_writes_a_think_block_is_taken():
    tokenizer = made("qwen2")
    tokenizer.chat_template = QWEN3
    chat = Chat.of(tokenizer)
    assert tokenizer.decode(chat.turn_end) == "<|im_end|>"
    assert tokenizer.decode(chat.prompt_ids(["17 ="], str)[0]).endswith("<|im_start|>assistant\n")


def test_prompts_do_not_change_with_the_date():
    tokenizer = made("llama3")
    (ids,) = encode_prompts(["17 ="], 0, tokenizer, section(tokenizer))
    assert "Today Date: 26 Jul 2024" in tokenizer.decode(ids)


def test_white_space_of_a_template_stays():
    tokenizer = made("llama3")
    tokenizer.chat_template = "\n  {{ strftime_now('%d %b %Y') }}\n"
    fixed = with_fixed_date(tokenizer.chat_template)
    shown = [
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}], chat_template=template, tokenize=False)
        for template in (tokenizer.chat_template, fixed)
    ]
    assert [text.replace(datetime.now().strftime("%d %b %Y"), "26 Jul 2024") for text in shown] == [shown[1]] * 2
    assert shown[1].startswith("\n  26 Jul 2024")


def test_a_turn_without_a_control_token_ends_with_the_end_of_the_sequence():
    tokenizer = made("qwen2")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    assert Chat.of(tokenizer).turn_end == (tokenizer.eos_token_id,)


@pytest.mark.parametrize(
    ("name", "said"),
    [("SmolLM2-135M-Instruct", True), ("gemma-3-1b-it", True), ("Llama-2-7b-chat-hf", True), ("llama_chat", True),
     ("SmolLM2-135M", False), ("kitten-1b", False), ("instructor", False), ("orbit-1b", False)],
)  # fmt: skip
def test_names_of_chat_models(name, said):
    assert is_chat_model(name) is said


@pytest.fixture
def folder(tmp_path):
    """A random Llama with the chat tokenizer of Llama 3, whose turns end with another token than its texts."""
    tokenizer = KINDS["llama3"]()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    reasoner = make_reasoner(LlamaForCausalLM(config), tokenizer, format="chat", system_prompt=SYSTEM, num_latents=2)
    reasoner.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_checkpoint_remembers_how_it_is_asked(folder):
    reasoner = load_reasoner(folder)
    config, tokenizer = reasoner.config, reasoner.tokenizer
    assert (config.format, config.system_prompt, config.answer_format) == ("chat", SYSTEM, "hash")
    asked = theirs(tokenizer, messages(PROBLEM, SYSTEM, answered=False), True)
    assert reasoner.prompt_ids(PROBLEM.question) == [*asked, *[config.token_ids[1]] * 2]
    end = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert reasoner.eos_token_ids == [tokenizer.eos_token_id, end]
    assert end in reasoner.model.generation_config.eos_token_id, "Transformers' own generate stops there, too"


def test_sampling_stops_at_the_end_of_the_turn(folder):
    reasoner = load_reasoner(folder)
    end = reasoner.tokenizer.convert_tokens_to_ids("<|eot_id|>")
    seeds = [[seed for seed in range(64)]]
    (samples,) = reasoner.generate(["17 ="], seeds=seeds, temperature=2.0, max_new_tokens=200)
    ended = [ids for ids in samples.token_ids if end in ids]
    assert ended and all(ids.index(end) == len(ids) - 1 for ids in ended)


def test_older_checkpoints_are_plain():
    before = LatentConfig().to_dict() | {"version": 6}
    for key in ("format", "system_prompt", "answer_format"):
        del before[key]
    assert LatentConfig.from_dict(before) == LatentConfig(version=VERSION)
