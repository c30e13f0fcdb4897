"""Building blocks shared by the transformers.

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
    """Output of a tower: the last hidden states ``tokens`` (B, N, D) and one vector per input, ``pooled`` (B, D)."""

    tokens: Tensor
    pooled: Tensor


def quick_gelu(x: Tensor) -> Tensor:
    """Sigmoid approximation of GELU, x · sigmoid(1.702 x), used by OpenAI's CLIP."""
    return x * torch.sigmoid(1.702 * x)


def gelu_tanh(x: Tensor) -> Tensor:
    """Tanh approximation of GELU (arXiv:1606.08415, section 2)."""
    return F.gelu(x, approximate="tanh")


def activation_function(name: Activation) -> Callable[[Tensor], Tensor]:
    """Return the activation function of this name."""
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
    """Scaled dot-product attention (arXiv:1706.03762, equation 1).

    Query (B, H, N, D/H), key and value (B, H, M, D/H) → (B, H, N, D/H).

    ``mask``, broadcast to (B, H, N, M), is true where attention is allowed; ``causal`` keeps tokens from attending to
    later ones.
    """
    # On a CPU, torch's backward pass in bfloat16 takes four to eight times as long as these products.
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if causal:
            mask = torch.ones(logits.shape[-2:], dtype=torch.bool).tril()
        if mask is not None:
            logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
        return logits.softmax(-1, dtype=torch.float32).to(value.dtype) @ value
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)


class Attention(nn.Module):
    """Multi-head attention (arXiv:1706.03762, section 3.2.2) with a fused projection to queries, keys and values."""

    def __init__(self, width: int, heads: int, bias: bool = True):
        super().__init__()
        if width % heads:
            raise InvalidSetting(f"a width of {width} cannot be split into {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Self-attention over tokens (B, N, D); ``mask`` (B, 1, 1, N) is true where attention is allowed."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, N, D/H)
        mixed = scaled_dot_product_attention(query, key, value, mask, causal)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def cross_attention(self, queries: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Queries (B, Q, D) attend to tokens (B, N, D), where ``mask`` (B, 1, 1, N) is true → (B, Q, D)."""
        width = tokens.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        bias_query, bias_tokens = (None, None) if bias is None else (bias[:width], bias[width:])
        query = F.linear(queries, weight[:width], bias_query).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key_value = F.linear(tokens, weight[width:], bias_tokens)
        key, value = key_value.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(query, key, value, mask)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """The feed-forward network of a transformer layer: linear, activation, linear."""

    def __init__(self, width: int, hidden: int, activation: Activation):
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.activation = activation_function(activation)
        self.down = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        return self.down(self.activation(self.up(tokens)))


class SwiGlu(nn.Module):
    """Feed-forward network with a SiLU-gated linear unit (arXiv:2002.05202)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.up = nn.Linear(width, 2 * hidden)  # the gate comes first
        self.down = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        gate, value = self.up(tokens).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


class Block(nn.Module):
    """A pre-norm transformer layer (arXiv:2010.11929, equations 2 and 3).

    ``layer_scale`` multiplies each residual branch by a learned vector (arXiv:2103.17239, section 2).
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

    def forward(self, tokens: Tensor, causal: bool = False, mask: Tensor | None = None) -> Tensor:
        """(B, N, D) → (B, N, D); ``mask`` (B, 1, 1, N) is true where attention is allowed."""
        added = self.attention(self.norm_attention(tokens), mask, causal)
        tokens = tokens + (added if self.scale_attention is None else added * self.scale_attention)
        added = self.mlp(self.norm_mlp(tokens))
        return tokens + (added if self.scale_mlp is None else added * self.scale_mlp)


@dataclass(frozen=True)
class HeadSettings:
    """How pooled features are projected into the shared space.

    Attributes:
        kind: ``none``, the features are in the shared space already; ``linear``, a matrix; ``mlp``, a matrix plus the
            output of an MLP with ``hidden`` units; ``two_layers``, a matrix, a GELU and a second matrix.
        bias: whether the matrix has a bias, or both have.
        hidden: units between two matrices.
        input_normalization: applied to the features first. ``l2`` scales them to unit length; ``hellinger`` takes
            square roots before that, which tames the few large activations of a ReLU network (Arandjelovic and
            Zisserman, *Three things everyone should know to improve object retrieval*, section 3).
        part_weights: for a space that consists of parts of equal size, each normalized separately: the cosine is then
            the mean of the parts' cosines with these weights, which sum to 1. Empty for a single part.
    """

    kind: Literal["none", "linear", "mlp", "two_layers"] = "linear"
    bias: bool = False
    hidden: int = 0
    input_normalization: Literal["none", "l2", "hellinger"] = "none"
    part_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "part_weights", tuple(self.part_weights))  # JSON has lists only
        if self.input_normalization not in ("none", "l2", "hellinger"):
            raise InvalidSetting(f"input_normalization {self.input_normalization!r} is none of none, l2, hellinger")
        if self.part_weights and abs(sum(self.part_weights) - 1) > 1e-6:
            raise InvalidSetting(f"a head's part_weights {self.part_weights} must sum to 1")


class Head(nn.Module):
    """Projection of pooled features (B, D) into the shared space (B, E)."""

    def __init__(self, settings: HeadSettings, width: int, embedding: int):
        super().__init__()
        match settings.kind:
            case "none":
                if width != embedding:
                    raise InvalidSetting(
                        f"without a head, the tower's width {width} must equal the embedding size {embedding}"
                    )
            case "linear" | "mlp":
                self.linear = nn.Linear(width, embedding, bias=settings.bias)
            case "two_layers":
                self.up = nn.Linear(width, settings.hidden, bias=settings.bias)
                self.down = nn.Linear(settings.hidden, embedding, bias=settings.bias)
            case _:
                raise InvalidSetting(f"head {settings.kind!r} is none of none, linear, mlp, two_layers")
        if settings.part_weights and embedding % len(settings.part_weights):
            parts = len(settings.part_weights)
            raise InvalidSetting(f"a space of {embedding} dimensions can't be divided into {parts} parts")
        self.settings = settings
        if settings.kind == "mlp":
            self.norm = nn.LayerNorm(width)
            self.up = nn.Linear(width, settings.hidden)
            self.down = nn.Linear(settings.hidden, embedding)

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, D) → (B, E)."""
        kind, normalization = self.settings.kind, self.settings.input_normalization
        part_weights = self.settings.part_weights
        if normalization != "none":
            pooled = F.normalize(pooled.clamp(min=0).sqrt() if normalization == "hellinger" else pooled, dim=-1)
        if kind == "two_layers":
            pooled = self.down(F.gelu(self.up(pooled)))
        elif kind != "none":
            projected = self.linear(pooled)
            pooled = projected if kind == "linear" else projected + self.down(F.gelu(self.up(self.norm(pooled))))
        if part_weights:
            parts = F.normalize(pooled.unflatten(-1, (len(part_weights), -1)), dim=-1)  # (B, parts, E / parts)
            pooled = (parts * parts.new_tensor(part_weights).sqrt()[:, None]).flatten(1)
        return pooled
