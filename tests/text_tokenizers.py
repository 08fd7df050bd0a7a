"""Tokenizers of every kind that Transformers has, trained on a few words, with special tokens of their own."""

import json

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from neuralese.data import Problem
from neuralese.pipeline.model.build import build_tokenizer

WORDS = ["17 + 5 * 3 = 22", "22 * 3 = 4", "latent end start text im_end s unknown pad"] * 3


def gpt2_like():
    """Byte-level BPE; as in GPT-2 one token ends, begins and stands for the unknown."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    end = "<|endoftext|>"
    inner.train_from_iterator(WORDS, _trainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), specials=[end]))
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=end, eos_token=end, unk_token=end)


def chat_like():
    """The same with the tokens of a chat, of which one ends a turn."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    inner.train_from_iterator(WORDS, _trainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), specials=specials))
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", extra_special_tokens=["<|im_start|>", "<|endoftext|>"]
    )


def llama_like():
    """SentencePiece BPE with bytes for what it does not know; puts a token before every text."""
    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    control, data = ["<unk>", "<s>", "</s>"], [f"<0x{byte:02X}>" for byte in range(256)]
    inner.train_from_iterator(WORDS, _trainer(specials=[*control, *data]))
    written = json.loads(inner.to_str())
    written["added_tokens"] = [token for token in written["added_tokens"] if token["content"] in control]
    inner = Tokenizer.from_str(json.dumps(written))
    inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def unigram():
    """SentencePiece Unigram, whose pieces hold the special tokens: it cannot split them."""
    inner = Tokenizer(models.Unigram())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    specials = ["<unk>", "</s>"]
    inner.train_from_iterator(
        WORDS, trainers.UnigramTrainer(vocab_size=60, special_tokens=specials, unk_token="<unk>", show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")


def slow():
    """In Python, byte by byte."""
    return ByT5Tokenizer()


def word_level():
    """Ours, of recipes that build a model."""
    return build_tokenizer([Problem(text, (), "4") for text in WORDS])


def _trainer(specials, vocab_size=400, **options):
    return trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=specials, show_progress=False, **options)
