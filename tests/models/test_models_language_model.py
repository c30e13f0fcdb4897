"""Language models of transformers that read soft prompts."""

import pytest
import torch

import tiny_language_models


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("kind", ["opt", "llama"])
def test_the_head_gets_the_last_position_alone_in_a_memory_of_its_own(kind: str, rows: int) -> None:
    language = tiny_language_models.make(kind)
    strides = []
    head = language.module.get_output_embeddings()
    head.register_forward_hook(lambda _, inputs, logits: strides.append(inputs[0].stride()))
    prompts = torch.randn(rows, 5, language.width)
    logits, kv_cache = language.prefill(prompts, torch.ones(rows, 5, dtype=torch.bool))
    language.decode(logits.argmax(-1, keepdim=True), kv_cache)
    assert strides == [(language.width, language.width, 1)] * 2
    assert torch.allclose(language.module(inputs_embeds=prompts).logits[:, -1], logits, atol=1e-5)
