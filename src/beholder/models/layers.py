"""The parts that every transformer here is built from.

Shapes: B batch, N tokens (of an image or a text), D width, H heads, E the shared space.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beholder.errors import InvalidSetting

Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]


class TowerOutput(NamedTuple):
    """What a tower gives: one vector per token, ``tokens`` (B, N, D), and one for the whole, ``pooled`` (B, D)."""

    tokens: Tensor
    pooled: Tensor


def quick_gelu(x: Tensor) -> Tensor:
    """x · sigmoid(1.702 x), the cheap approximation that OpenAI's CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of GELU (arXiv:1606.08415, section 2)."""
    return F.gelu(x, approximate="tanh")


def activation_function(name: Activation) -> Callable[[Tensor], Tensor]:
    """The function that a settings file calls by this name."""
    match name:
        case "gelu":
            return F.gelu
        case "gelu_tanh":
            return gelu_tanh
        case "quick_gelu":
            return quick_gelu
    raise InvalidSetting(f"activation {name!r} is none of gelu, gelu_tanh, quick_gelu")


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """Scaled dot-product attention (arXiv:1706.03762, equation 1): (B, H, N, D/H), (B, H, M, D/H) twice → as query.

    ``mask``, broadcast to (B, H, N, M), is true where a token may be looked at; ``causal`` lets a token see none
    behind it.
    """
    # torch's own way back in bfloat16 takes four to eight times as long on a CPU as these products do.
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if causal:
            mask = torch.ones(logits.shape[-2:], dtype=torch.bool).tril()
        if mask is not None:
            logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
        return logits.softmax(-1, dtype=torch.float32).to(value.dtype) @ value
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)


class Attention(nn.Module):
    """Multi-head attention (arXiv:1706.03762, section 3.2.2); queries, keys and values in one product."""

    def __init__(self, width: int, heads: int, bias: bool = True):
        super().__init__()
        if width % heads:
            raise InvalidSetting(f"a width of {width} cannot be split into {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Tokens (B, N, D) look at each other; ``mask`` (B, 1, 1, N) is true where a token may be looked at."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, N, D/H)
        mixed = scaled_dot_product_attention(query, key, value, mask, causal)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def cross_attention(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Queries (B, Q, D) look at tokens (B, N, D) → (B, Q, D)."""
        width = tokens.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        bias_query, bias_tokens = (None, None) if bias is None else (bias[:width], bias[width:])
        query = F.linear(queries, weight[:width], bias_query).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key_value = F.linear(tokens, weight[width:], bias_tokens)
        key, value = key_value.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Widen, bend, narrow."""

    def __init__(self, width: int, hidden: int, activation: Activation):
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.activation = activation_function(activation)
        self.down = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        return self.down(self.activation(self.up(tokens)))


class SwiGlu(nn.Module):
    """Widen twice, one half gating the other, narrow (arXiv:2002.05202)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.up = nn.Linear(width, 2 * hidden)  # the gate comes first
        self.down = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        gate, value = self.up(tokens).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


class Block(nn.Module):
    """One layer of a transformer with the norms in front (arXiv:2010.11929, equations 2 and 3).

    ``layer_scale`` multiplies what each half adds by a learned vector (arXiv:2103.17239, section 2).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_width: int,
        activation: Activation,
        norm_eps: float,
        *,
        qkv_bias: bool = True,
        swiglu: bool = False,
        layer_scale: bool = False,
    ):
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, eps=norm_eps)
        self.attention = Attention(width, heads, bias=qkv_bias)
        self.norm_mlp = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = SwiGlu(width, mlp_width) if swiglu else Mlp(width, mlp_width, activation)
        self.scale_attention = nn.Parameter(torch.ones(width)) if layer_scale else None
        self.scale_mlp = nn.Parameter(torch.ones(width)) if layer_scale else None

    def forward(self, tokens: Tensor, causal: bool = False) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        added = self.attention(self.norm_attention(tokens), causal=causal)
        tokens = tokens + (added if self.scale_attention is None else added * self.scale_attention)
        added = self.mlp(self.norm_mlp(tokens))
        return tokens + (added if self.scale_mlp is None else added * self.scale_mlp)


@dataclass(frozen=True)
class HeadSettings:
    """How pooled features reach the shared space.

    ``none``: they are in it already. ``linear``: one matrix. ``mlp``: one matrix, and what a small network with
    ``hidden`` units adds to it.

    Attributes:
        prepare: what is done to the features first. ``unit`` brings them to unit length; ``root`` takes square roots
            before that, which tames the few large ones of a rectified network (the Hellinger map: Arandjelovic and
            Zisserman, *Three things everyone should know to improve object retrieval*, section 3).
        shares: the space may consist of parts of equal size, each of unit length by itself; the cosine is then the
            mean of the parts' cosines, weighed by these shares, which add up to 1. Empty: one part, no scaling.
    """

    kind: Literal["none", "linear", "mlp"] = "linear"
    bias: bool = False
    hidden: int = 0
    prepare: Literal["nothing", "unit", "root"] = "nothing"
    shares: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", tuple(self.shares))  # JSON has a list in its place
        if self.shares and abs(sum(self.shares) - 1) > 1e-6:
            raise InvalidSetting(f"a head's shares {self.shares} must add up to 1")


class Head(nn.Module):
    """Pooled features (B, D) to the shared space (B, E)."""

    def __init__(self, settings: HeadSettings, width: int, embedding: int):
        super().__init__()
        match settings.kind:
            case "none":
                if width != embedding:
                    raise InvalidSetting(f"without a head, the tower's width {width} must be the space's {embedding}")
            case "linear" | "mlp":
                self.linear = nn.Linear(width, embedding, bias=settings.bias)
            case _:
                raise InvalidSetting(f"head {settings.kind!r} is none of none, linear, mlp")
        if settings.shares and embedding % len(settings.shares):
            raise InvalidSetting(f"{len(settings.shares)} shares can't divide a space of {embedding} dimensions")
        self.settings = settings
        if settings.kind == "mlp":
            self.norm = nn.LayerNorm(width)
            self.up = nn.Linear(width, settings.hidden)
            self.down = nn.Linear(settings.hidden, embedding)

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, D) → (B, E)."""
        kind, prepare, shares = self.settings.kind, self.settings.prepare, self.settings.shares
        if prepare != "nothing":
            pooled = F.normalize(pooled.clamp(min=0).sqrt() if prepare == "root" else pooled, dim=-1)
        if kind != "none":
            straight = self.linear(pooled)
            pooled = straight if kind == "linear" else straight + self.down(F.gelu(self.up(self.norm(pooled))))
        if shares:
            parts = F.normalize(pooled.unflatten(-1, (len(shares), -1)), dim=-1)  # (B, parts, E / parts)
            pooled = (parts * parts.new_tensor(shares).sqrt()[:, None]).flatten(1)
        return pooled
