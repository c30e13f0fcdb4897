"""Language models in GGUF files of several architectures, against the transformers models they were written from."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from beholder.errors import ModelError, ModelNotFound
from beholder.text.byte_characters import BYTE_TO_CHARACTER
from beholder.weights.load import load_frozen_language_model

MERGES = ["t h", "th e", "d o", "Ġ do", "Ġdo g", "do g", "c a"]
WORDS = [*BYTE_TO_CHARACTER.values(), "th", "the", "do", "dog", "Ġdo", "Ġdog", "ca", "<s>", "</s>"]
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "bos_token_id": len(WORDS) - 2,
    "eos_token_id": len(WORDS) - 1,
    "tie_word_embeddings": False,
}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write(kind: str, weights: gguf.GGMLQuantizationType, file: Path) -> torch.nn.Module:
    """Write a small random model as a GGUF file; return the model with the weights of the file (after quantization)."""
    torch.manual_seed(0)
    module = (
        LlamaForCausalLM(LlamaConfig(**SIZES)) if kind == "llama" else Qwen2ForCausalLM(Qwen2Config(**SIZES))
    ).eval()
    writer = gguf.GGUFWriter(file, kind)
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_merges(MERGES)
    writer.add_token_types([gguf.TokenType.NORMAL] * (len(WORDS) - 2) + [gguf.TokenType.CONTROL] * 2)
    writer.add_bos_token_id(len(WORDS) - 2)
    writer.add_eos_token_id(len(WORDS) - 1)
    tensors = module.state_dict()
    for name, tensor in tensors.items():
        layer, _, part = name.removeprefix("model.layers.").partition(".")
        stem, kind_of = (part if name.startswith("model.layers.") else name).rsplit(".", 1)
        called = f"{NAMES[stem]}.{kind_of}"
        if name.startswith("model.layers."):
            called = f"blk.{layer}.{called}"
        array = tensor.numpy().copy()
        if array.ndim == 2 and weights != gguf.GGMLQuantizationType.F32:
            packed = gguf.quants.quantize(array, weights)
            tensor.copy_(torch.from_numpy(gguf.quants.dequantize(packed, weights)))
            array = tensor.numpy().copy()
        if kind == "llama" and stem in (
            "self_attn.q_proj",
            "self_attn.k_proj",
        ):  # llama.cpp rotates pairs of adjacent dimensions
            heads = 4 if "q_proj" in stem else 2
            array = array.reshape(heads, 2, 8, 64).swapaxes(1, 2).reshape(array.shape)
        if array.ndim == 2 and weights != gguf.GGMLQuantizationType.F32:
            writer.add_tensor(called, gguf.quants.quantize(np.ascontiguousarray(array), weights), raw_dtype=weights)
        else:
            writer.add_tensor(called, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return module


@pytest.mark.parametrize(
    ("kind", "weights"),
    [
        ("llama", gguf.GGMLQuantizationType.Q8_0),
        ("llama", gguf.GGMLQuantizationType.Q5_0),
        ("llama", gguf.GGMLQuantizationType.F16),
        ("qwen2", gguf.GGMLQuantizationType.F32),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_gguf_file_gives_the_logits_of_the_model(
    kind: str, weights: gguf.GGMLQuantizationType, tmp_path: Path
) -> None:
    module = write(kind, weights, tmp_path / "small.gguf")
    language, words = load_frozen_language_model(str(tmp_path / "small.gguf"))
    ids = words.encode("the dog").ids
    assert [WORDS[number] for number in ids] == ["the", "Ġdog"] and words.decode(ids) == "the dog"
    assert language.context_length == 128 and language.eos_token_ids == (len(WORDS) - 1,)
    vectors = torch.randn(2, 5, 64)
    with torch.inference_mode():
        logits, kv_cache = language.prefill(vectors, torch.ones(2, 5, dtype=torch.bool))
        following = language.decode(torch.tensor([ids[:1]] * 2), kv_cache)
        read = torch.cat([vectors, module.get_input_embeddings()(torch.tensor([ids[:1]] * 2))], 1)
        expected = module(inputs_embeds=read).logits
    torch.testing.assert_close(logits, expected[:, -2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(following, expected[:, -1], atol=1e-4, rtol=1e-4)
    assert not any(parameter.requires_grad for parameter in language.parameters())


def test_an_invalid_gguf_file_is_reported_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"nowhere\.gguf: no such file"):
        load_frozen_language_model(str(tmp_path / "nowhere.gguf"))
    (tmp_path / "broken.gguf").write_bytes(b"no model at all")
    with pytest.raises(ModelError, match=r"broken\.gguf"):
        load_frozen_language_model(str(tmp_path / "broken.gguf"))
