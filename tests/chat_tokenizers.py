"""Tokenizers of chat models in small: the structure of their templates and control tokens, over a few words."""

from text_tokenizers import WORDS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

ROLES = ["system user assistant model You are a helpful assistant Cutting Knowledge Date July 2024"] * 3

LLAMA3 = """{{- bos_token -}}
{%- if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}
{%- set messages = messages[1:] %}
{%- else %}{% set system = '' %}{% endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' }}
{{- strftime_now('%d %b %Y') + '\n\n' + system + '<|eot_id|>' }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

# Qwen 2.5 and SmolLM2 differ in the words of the system turn that they add by themselves.
CHATML = """{%- if messages[0]['role'] != 'system' %}
{{- '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"""

QWEN3 = CHATML.replace(
    "message['content'] +",
    "('<think>\n\n</think>\n\n' if message['role'] == 'assistant' and loop.last else '') + message['content'] +",
)

# Gemma 3 has no system turn and puts its text before that of the first user turn.
GEMMA3 = """{{- bos_token -}}
{%- if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}
{%- set messages = messages[1:] %}
{%- else %}{% set first = '' %}{% endif %}
{%- for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate') }}{% endif %}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{- '<start_of_turn>' + role + '\n' + (first if loop.first else '') + message['content'] | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{% endif %}"""

GEMMA2 = GEMMA3.replace(
    "{% set first = messages[0]['content'] + '\n\n' %}", "{{ raise_exception('System role not supported') }}"
)


def byte_level(specials, template, **named):
    """Byte-level BPE, as in Llama 3, Qwen and SmolLM2."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=specials, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    inner.train_from_iterator([*WORDS, *ROLES], trainer)
    extra = [token for token in specials if token not in named.values()]
    return PreTrainedTokenizerFast(tokenizer_object=inner, chat_template=template, extra_special_tokens=extra, **named)


def llama3():
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return byte_level(specials, LLAMA3, bos_token=specials[0], eos_token=specials[1])


def qwen2():
    return byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], CHATML, eos_token="<|im_end|>")


def smollm2():
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    template = CHATML.replace("a helpful assistant", "a helpful AI assistant named SmolLM")
    return byte_level(specials, template, bos_token="<|im_start|>", eos_token="<|im_end|>")


def gemma3(template=GEMMA3):
    """SentencePiece BPE that puts no space before a text."""
    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="never")])
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    letters = [chr(code) for code in (*range(33, 127), 10)]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials, show_progress=False, initial_alphabet=letters
    )
    inner.train_from_iterator([*WORDS, *ROLES], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, chat_template=template, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        pad_token="<pad>", extra_special_tokens=["<start_of_turn>", "<end_of_turn>"],
    )  # fmt: skip


KINDS = {"llama3": llama3, "qwen2": qwen2, "smollm2": smollm2, "gemma3": gemma3}
TURN_END = {"llama3": "<|eot_id|>", "qwen2": "<|im_end|>", "smollm2": "<|im_end|>", "gemma3": "<end_of_turn>"}
