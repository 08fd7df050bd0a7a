"""A Llama of two layers and its tokenizer as a GGUF file."""

import json

import gguf
import torch
from text_tokenizers import gpt2_like
from transformers import LlamaConfig, LlamaForCausalLM

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def rotated(weight, heads):
    """Rows as llama.cpp has them: the two halves of a head's rotary pairs side by side."""
    return weight.reshape(heads, 2, -1, weight.size(1)).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(file, architecture="llama"):
    """Writes the file (float32) and returns the model that is in it."""
    tokenizer, heads, kv_heads = gpt2_like(), 4, 2
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=heads,
        num_key_value_heads=kv_heads, max_position_embeddings=128, tie_word_embeddings=True, rms_norm_eps=1e-5,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_name("tiny")
    for add, value in (
        ("context_length", 128), ("embedding_length", 32), ("feed_forward_length", 64), ("block_count", 2),
        ("head_count", heads), ("head_count_kv", kv_heads), ("layer_norm_rms_eps", 1e-5),
        ("vocab_size", len(tokenizer)), ("rope_dimension_count", 8), ("rope_freq_base", 10000.0),
    ):  # fmt: skip
        getattr(writer, f"add_{add}")(value)
    inner = json.loads(tokenizer.backend_tokenizer.to_str())
    words = [word for word, _ in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])]
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3 if word in special else 1 for word in words])
    writer.add_token_merges([" ".join(merge) for merge in inner["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(TEMPLATE)
    for name, weight in model.state_dict().items():
        weight = weight.detach()
        if name == "lm_head.weight":
            continue
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            rest = rest.removesuffix(".weight")
            if rest in ("self_attn.q_proj", "self_attn.k_proj"):
                weight = rotated(weight, heads if "q_" in rest else kv_heads)
            name = f"blk.{layer}.{NAMES[rest]}.weight"
        else:
            name = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]
        writer.add_tensor(name, weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model
