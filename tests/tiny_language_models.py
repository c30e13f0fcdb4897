"""Tiny random language models of transformers, and soft prompts for them."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM, T5Config, T5ForConditionalGeneration

from beholder.models.language_model import LanguageModel, language_model
from beholder.runtime.decoding import DecodingSettings, generate

VOCABULARY = 40


def make(kind: str) -> LanguageModel:
    """Return an ``opt``, ``llama`` or ``t5`` that ends its texts at different lengths."""
    torch.manual_seed(0)
    if kind == "opt":
        config = OPTConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            word_embed_proj_dim=32,
            ffn_dim=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            init_std=0.3,
        )
        module = OPTForCausalLM(config)
    elif kind == "llama":
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            initializer_range=0.3,
            bos_token_id=1,
            pad_token_id=0,
        )
        module = LlamaForCausalLM(config)
    else:
        config = T5Config(
            vocab_size=VOCABULARY,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            initializer_factor=3.0,
            pad_token_id=0,
            decoder_start_token_id=0,
        )
        module = T5ForConditionalGeneration(config)
    module.generation_config.eos_token_id = None
    module.config.eos_token_id = None
    module.generation_config.pad_token_id = 0
    language = language_model(module)
    assert language.eos_token_ids == ()
    # The end token is the one that ends this random network's texts at the largest number of different positions.
    texts = [text.ids for text in generate(language, *prompts(padded=False), DecodingSettings(max_new_tokens=12))]
    cuts = {word: {text.index(word) for text in texts if word in text} for word in range(1, VOCABULARY)}
    module.generation_config.eos_token_id = max(cuts, key=lambda word: len(cuts[word]))
    return language


def prompts(padded: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return soft prompts (12, 9, 32) and their mask, padded on the left on request."""
    torch.manual_seed(1)
    mask = torch.ones(12, 9, dtype=torch.bool)
    if padded:
        for row in range(12):
            mask[row, : row % 7] = False
    return torch.randn(12, 9, 32) * 2, mask
