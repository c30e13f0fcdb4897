"""Which weights of a dual encoder are trained: all, those after the first layers, the heads, or LoRA adapters."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from beholder.errors import InvalidSetting, MissingExtra
from beholder.models.dual_encoder import TwoTowers
from beholder.training.losses import Loss

FrozenLayers = int | Literal["all"]
TOWERS = ("image", "text")


@dataclass(frozen=True)
class Freezing:
    """Which layers are frozen.

    Attributes:
        image, text: number of a tower's first layers, frozen together with its embeddings, or ``"all"``; 0 freezes
            nothing. The projections into the shared space are always trained: with ``"all"`` of the image tower this is
            LiT (arXiv:2111.07991).
    """

    image: FrozenLayers = 0
    text: FrozenLayers = 0


@dataclass(frozen=True)
class Lora:
    """LoRA adapters for the matrices of a tower's layers, whose own weights are frozen (arXiv:2106.09685, section 4).

    Attributes:
        rank: of the adapters.
        alpha: they are scaled by ``alpha / rank``.
        image, text: which towers have adapters.
    """

    rank: int = 8
    alpha: int = 16
    image: bool = True
    text: bool = True

    def __post_init__(self) -> None:
        if self.rank < 1 or not (self.image or self.text):
            raise InvalidSetting("lora needs a rank of at least 1, and one tower or both")


def freeze(network: TwoTowers, freezing: Freezing) -> None:
    """Freeze layers: their weights require no gradients.

    Raises:
        InvalidSetting: a tower has fewer layers than are to be frozen, or nothing would be trained.
    """
    for name in TOWERS:
        tower, frozen = getattr(network, name), getattr(freezing, name)
        if getattr(tower, "classifier", None) is not None:
            tower.classifier.requires_grad_(False)  # embeddings do not go through it
        if frozen == "all":
            tower.requires_grad_(False)
            continue
        layers = len(tower.blocks)
        if frozen > layers:
            raise InvalidSetting(f'freeze.{name}: {frozen} layers of a tower that has {layers}; "all" freezes them all')
        if frozen:
            trained = {id(weight) for weight in _weights_after(tower, frozen)}
            for weight in tower.parameters():
                weight.requires_grad_(id(weight) in trained)
    if not any(weight.requires_grad for weight in network.parameters() if weight.ndim):
        raise InvalidSetting("freeze: both towers are frozen and there are no heads, so nothing would be trained")


def _weights_after(tower: nn.Module, frozen: int) -> Iterator[nn.Parameter]:
    """Yield the weights after the first ``frozen`` layers."""
    yield from tower.blocks[frozen:].parameters()  # type: ignore[index, union-attr]
    for name in ("final_norm", "attention_pooling", "tanh_pooler", "head"):
        part = getattr(tower, name, None)
        if part is not None:
            yield from part.parameters()


def add_lora(network: TwoTowers, lora: Lora) -> None:
    """Add adapters, which are zero at first, to the matrices of the layers, and freeze those towers.

    Raises:
        MissingExtra: ``peft`` is not installed.
        InvalidSetting: the towers have no such matrices.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingExtra("training with LoRA", "train") from error
    towers = [name for name in TOWERS if getattr(lora, name)]
    pattern = rf"({'|'.join(towers)})\.blocks\.\d+\.(attention\.(qkv|out)|mlp\.(up|down))"
    trained = {name for name, weight in network.named_parameters() if weight.requires_grad}
    try:
        inject_adapter_in_model(LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=pattern), network)
    except ValueError as error:
        raise InvalidSetting("lora: the tower has no transformer layers to adapt") from error
    for name, weight in network.named_parameters():  # peft freezes everything else, the heads too
        head = name in trained and not name.startswith(tuple(f"{tower}." for tower in towers))
        weight.requires_grad_("lora_" in name or head)


def merged_state_dict(network: TwoTowers) -> dict[str, Tensor]:
    """Return the network's tensors with each adapter merged into its matrix."""
    from_peft = {
        name: module for name, module in network.named_modules() if hasattr(module, "get_delta_weight")
    }  # LoRA's linear layers
    tensors = {}
    for name, tensor in network.state_dict().items():
        if ".lora_" in name:
            continue
        holder, _, last = name.rpartition(".base_layer.")
        if holder and last == "weight":
            tensor = tensor + from_peft[holder].get_delta_weight("default")
        tensors[f"{holder}.{last}" if holder else name] = tensor.detach()
    return tensors


def recompute_activations(network: TwoTowers) -> None:
    """Enable gradient checkpointing (arXiv:1604.06174): layers store their input alone; less memory, more time.

    Raises:
        InvalidSetting: a tower has no transformer layers.
    """
    from torch.utils.checkpoint import checkpoint

    for tower in (network.image, network.text):
        if not isinstance(tower.blocks, nn.ModuleList):
            raise InvalidSetting("recompute: works for transformers; the image tower is a convolutional network")
        for block in tower.blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


@torch.no_grad()
def initialize(network: TwoTowers, loss: Loss) -> None:
    """Initialize random weights as CLIP does, and the temperature and bias as the loss needs them.

    Source: OpenAI's ``CLIP.initialize_parameters``. Draws from torch's global generator.
    """
    for tower in (network.image, network.text):
        width, layers = tower.settings.width, len(tower.blocks)
        for block in tower.blocks:
            nn.init.normal_(block.attention.qkv.weight, std=width**-0.5)
            nn.init.normal_(block.attention.out.weight, std=width**-0.5 * (2 * layers) ** -0.5)
            nn.init.normal_(block.mlp.up.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.down.weight, std=width**-0.5 * (2 * layers) ** -0.5)
            for part in (block.attention.qkv, block.attention.out, block.mlp.up, block.mlp.down):
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
    nn.init.normal_(network.text.embedding.weight, std=0.02)
    for head, tower in ((network.image_head, network.image), (network.text_head, network.text)):
        if head.settings.kind != "none":
            nn.init.normal_(head.linear.weight, std=tower.settings.width**-0.5)
    if loss.logit_scale is not None:
        network.logit_scale.fill_(torch.tensor(loss.logit_scale).log())
    if network.logit_bias is not None:
        network.logit_bias.fill_(loss.logit_bias)
