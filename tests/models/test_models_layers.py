"""Attention in half precision against single precision, outputs and gradients."""

import pytest
import torch
import torch.nn.functional as F

from beholder.models.layers import scaled_dot_product_attention


@pytest.mark.parametrize("kind", ["all", "causal", "masked"])
def test_attention_in_bfloat16_is_close_to_single_precision(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, 3, 7, 16, generator=generator).bfloat16().requires_grad_() for _ in range(3)]
    exact = [part.detach().float().requires_grad_() for part in parts]
    mask = torch.rand(2, 1, 1, 7, generator=generator) < 0.6
    mask[..., 0] = True
    allowed = mask if kind == "masked" else None
    ours = scaled_dot_product_attention(*parts, mask=allowed, causal=kind == "causal")
    theirs = F.scaled_dot_product_attention(*exact, attn_mask=allowed, is_causal=kind == "causal")
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), theirs, atol=0.03, rtol=0.03)
    ours.float().square().sum().backward()
    theirs.square().sum().backward()
    for half, single in zip(parts, exact, strict=True):
        assert half.grad is not None and single.grad is not None
        torch.testing.assert_close(half.grad.float(), single.grad, atol=0.15, rtol=0.05)
