"""Which weights of a dual encoder are trained: all, those behind the first layers, the heads, low-rank additions."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from beholder.errors import InvalidSetting, MissingExtra
from beholder.models.dual_encoder import TwoTowers

Frozen = int | Literal["all"]
TOWERS = ("image", "text")


@dataclass(frozen=True)
class Freezing:
    """What stays as it is.

    Attributes:
        image, text: of each tower, so many of its first layers with the embedding before them, or ``"all"`` of it;
            0 freezes nothing. The heads into the shared space are always trained: with ``"all"`` of the image tower
            this is LiT (arXiv:2111.07991).
    """

    image: Frozen = 0
    text: Frozen = 0


@dataclass(frozen=True)
class Lora:
    """Low-rank additions to the matrices of a tower's layers, while those stay (arXiv:2106.09685, section 4).

    Attributes:
        rank: of the additions.
        alpha: they are multiplied by ``alpha / rank``.
        image, text: which towers get them.
    """

    rank: int = 8
    alpha: int = 16
    image: bool = True
    text: bool = True

    def __post_init__(self) -> None:
        if self.rank < 1 or not (self.image or self.text):
            raise InvalidSetting("lora needs a rank of at least 1, and one tower or both")


def freeze(network: TwoTowers, freezing: Freezing) -> None:
    """Takes gradients away from what stays.

    Raises:
        InvalidSetting: a tower has fewer layers than are to be frozen, or nothing would be trained.
    """
    for name in TOWERS:
        tower, frozen = getattr(network, name), getattr(freezing, name)
        if getattr(tower, "classifier", None) is not None:
            tower.classifier.requires_grad_(False)  # the shared space does not go through it
        if frozen == "all":
            tower.requires_grad_(False)
            continue
        layers = len(tower.blocks)
        if frozen > layers:
            raise InvalidSetting(f'freeze.{name}: {frozen} layers of a tower that has {layers}; "all" freezes it whole')
        if frozen:
            behind = {id(weight) for weight in _behind(tower, frozen)}
            for weight in tower.parameters():
                weight.requires_grad_(id(weight) in behind)
    if not any(weight.requires_grad for weight in network.parameters() if weight.ndim):
        raise InvalidSetting("freeze: both towers are frozen and there are no heads, so nothing would be trained")


def _behind(tower: nn.Module, frozen: int) -> Iterator[nn.Parameter]:
    """The weights behind the first layers."""
    yield from tower.blocks[frozen:].parameters()  # type: ignore[index, union-attr]
    for name in ("final_norm", "attention_pooling", "tanh_pooler", "head"):
        part = getattr(tower, name, None)
        if part is not None:
            yield from part.parameters()


def add_lora(network: TwoTowers, lora: Lora) -> None:
    """Puts additions, which change nothing at first, beside the matrices of the layers, and freezes the towers.

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
        raise InvalidSetting("lora: the tower has no layers of a transformer to add to") from error
    for name, weight in network.named_parameters():  # peft freezes all else, the heads too
        head = name in trained and not name.startswith(tuple(f"{tower}." for tower in towers))
        weight.requires_grad_("lora_" in name or head)


def merged(network: TwoTowers) -> dict[str, Tensor]:
    """The tensors of the network without additions: each is added to its matrix."""
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
    """Layers keep their input alone and are computed again on the way back (arXiv:1604.06174): less memory, more time.

    Raises:
        InvalidSetting: a tower consists of no layers of a transformer.
    """
    from torch.utils.checkpoint import checkpoint

    for tower in (network.image, network.text):
        if not isinstance(tower.blocks, nn.ModuleList):
            raise InvalidSetting("recompute: works for transformers; the image tower is a convolutional network")
        for block in tower.blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


@torch.no_grad()
def initialise(network: TwoTowers, sigmoid: bool) -> None:
    """Random weights as CLIP begins with them; SigLIP's temperature and bias for the sigmoid loss.

    Source: OpenAI's ``CLIP.initialize_parameters``; SigLIP (arXiv:2303.15343), section 3.2. Draws from torch's global
    generator.
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
    if sigmoid:
        network.logit_scale.fill_(torch.tensor(10.0).log())
        if network.logit_bias is not None:
            network.logit_bias.fill_(-10.0)
