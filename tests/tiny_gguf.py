"""A tiny vision-language model with random weights in the two files that llama.cpp reads: language model and projector.

The projector's file (mmproj) holds a vision transformer and LLaVA 1.5's two layers. The words are noise, but they
follow from the picture.
"""

from pathlib import Path
from typing import Any

import gguf
import numpy as np

WORDS = [
    *("a", "dog", "cat", "red", "blue", "green", "tree", "house", "snow", "road", "man", "woman"),
    *("plays", "runs", "sits", "sleeps", "under", "over", "near", "on", "in", "the", "of"),
]
IMAGE_SIZE, PATCH_SIZE = 28, 14
WIDTH, HEADS, FEED_FORWARD, LAYERS = 64, 4, 128, 2
CONTEXT = 512
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def write_language_model(path: Path) -> Path:
    """Write a Llama-like language model that only says `WORDS` and never ends an answer by itself."""
    random = np.random.default_rng(0)
    special = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = [*special, *bytes_, *(f"▁{word}" for word in WORDS)]
    kinds = gguf.TokenType
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(
        [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256, *[kinds.NORMAL] * len(WORDS)]
    )
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(CHAT_TEMPLATE)
    output = _weights(random, len(tokens), WIDTH)
    output[: len(special) + len(bytes_)] = 0  # the greatest of two dozen random logits is above 0: always a word
    tensors = {
        "token_embd.weight": _weights(random, len(tokens), WIDTH, scale=1),
        "output_norm.weight": np.ones(WIDTH),
        "output.weight": output,
    }
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        tensors[f"{block}.attn_norm.weight"] = tensors[f"{block}.ffn_norm.weight"] = np.ones(WIDTH)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors[f"{block}.{name}.weight"] = _weights(random, WIDTH, WIDTH)
        tensors[f"{block}.ffn_gate.weight"] = _weights(random, FEED_FORWARD, WIDTH)
        tensors[f"{block}.ffn_up.weight"] = _weights(random, FEED_FORWARD, WIDTH)
        tensors[f"{block}.ffn_down.weight"] = _weights(random, WIDTH, FEED_FORWARD)
    return _write(writer, tensors, path)


def write_projector(path: Path) -> Path:
    """Write a vision transformer with LLaVA 1.5's projector for `write_language_model`'s model."""
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("mlp")
    writer.add_vision_image_size(IMAGE_SIZE)
    writer.add_vision_patch_size(PATCH_SIZE)
    writer.add_vision_embedding_length(WIDTH)
    writer.add_vision_feed_forward_length(FEED_FORWARD)
    writer.add_vision_projection_dim(WIDTH)
    writer.add_vision_block_count(LAYERS)
    writer.add_vision_head_count(HEADS)
    writer.add_vision_attention_layernorm_eps(1e-5)
    writer.add_vision_image_mean([0.5, 0.5, 0.5])
    writer.add_vision_image_std([0.5, 0.5, 0.5])
    writer.add_vision_use_gelu(True)
    patches = (IMAGE_SIZE // PATCH_SIZE) ** 2
    tensors: dict[str, Any] = {
        "v.patch_embd.weight": random.normal(size=(WIDTH, 3, PATCH_SIZE, PATCH_SIZE)) / PATCH_SIZE,
        "v.position_embd.weight": _weights(random, patches, WIDTH, scale=0.1),
    }
    for layer in range(LAYERS):
        block = f"v.blk.{layer}"
        for name in ("ln1", "ln2"):
            tensors[f"{block}.{name}.weight"], tensors[f"{block}.{name}.bias"] = np.ones(WIDTH), np.zeros(WIDTH)
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            tensors[f"{block}.{name}.weight"] = _weights(random, WIDTH, WIDTH)
        tensors[f"{block}.ffn_up.weight"] = _weights(random, FEED_FORWARD, WIDTH)
        tensors[f"{block}.ffn_down.weight"] = _weights(random, WIDTH, FEED_FORWARD)
    for number in (0, 2):
        tensors[f"mm.{number}.weight"], tensors[f"mm.{number}.bias"] = _weights(random, WIDTH, WIDTH), np.zeros(WIDTH)
    return _write(writer, tensors, path)


def _weights(random: np.random.Generator, out: int, width: int, scale: float | None = None) -> np.ndarray:
    return random.normal(size=(out, width)) * (width**-0.5 if scale is None else scale)


def _write(writer: gguf.GGUFWriter, tensors: dict[str, Any], path: Path) -> Path:
    for name, tensor in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(tensor, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
