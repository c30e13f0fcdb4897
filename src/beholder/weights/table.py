"""Foreign weights into our networks and back: a table of names, and nothing left over on either side.

A table has one row per pattern. ``*`` stands for one part of a dotted name and is carried over in order:

    Row("image.blocks.*.norm_mlp.*", "vision_model.encoder.layers.*.layer_norm2.*")
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from beholder.errors import WeightsMismatch

Network = TypeVar("Network", bound=nn.Module)
NAMED_IN_A_MESSAGE = 5


@dataclass(frozen=True)
class Row:
    """Our tensors of one pattern and where they come from.

    Attributes:
        ours: pattern of our names.
        theirs: the foreign name, or several whose tensors are joined along the first axis.
        transposed: the foreign matrix is the transpose of ours.
        leading: axes of one that the foreign tensor has in front; on the way in any number of them is taken off.
    """

    ours: str
    theirs: str | tuple[str, ...]
    transposed: bool = False
    leading: int = 0

    def sources(self, name: str) -> tuple[str, ...] | None:
        """The foreign names for one of ours; None where the pattern is another's."""
        found = re.fullmatch(re.escape(self.ours).replace(r"\*", r"([^.]+)"), name)
        if found is None:
            return None
        patterns = (self.theirs,) if isinstance(self.theirs, str) else self.theirs
        return tuple(pattern.replace("*", "{}").format(*found.groups()) for pattern in patterns)


def load_foreign(
    network: Network, tensors: Mapping[str, Tensor], rows: Sequence[Row], ignored: Collection[str] = ()
) -> Network:
    """Fill a network, made by ``build_empty``, with foreign tensors, as float32; ``ignored`` are patterns of theirs.

    Raises:
        WeightsMismatch: a tensor is missing, unexpected or of another shape; the message names it.
    """
    filled: dict[str, Tensor] = {}
    missing: list[str] = []
    misshapen: list[str] = []
    left = {name for name in tensors if not _matches_any(ignored, name)}
    for name, wanted in network.state_dict().items():
        row, sources = _find(rows, name)
        left.difference_update(sources)
        absent = [source for source in sources if source not in tensors]
        if absent:
            missing += absent
            continue
        parts = [tensors[source] for source in sources]
        tensor = parts[0] if len(parts) == 1 else _join(parts)
        tensor = tensor.T if row.transposed and tensor.ndim == 2 else tensor
        while tensor.ndim > wanted.ndim and tensor.shape[0] == 1:  # a lone vector is stored as (1, 1, D) by some
            tensor = tensor[0]
        if tensor.shape != wanted.shape:
            found = ", ".join(f"{source} {_shape(tensors[source])}" for source in sources)
            shape = _shape(wanted.T if row.transposed and wanted.ndim == 2 else wanted)
            misshapen.append(f"{found} instead of {shape}{' together' if len(sources) > 1 else ''}")
            continue
        filled[name] = tensor.float() if tensor.is_floating_point() else tensor
    _complain(missing, left, misshapen)
    network.load_state_dict(filled, strict=True, assign=True)
    return network.eval()


def to_foreign(tensors: Mapping[str, Tensor], rows: Sequence[Row]) -> dict[str, Tensor]:
    """Our tensors under their foreign names and in their foreign shapes: ``load_foreign`` undone.

    Raises:
        WeightsMismatch: the table has no row for a tensor.
    """
    given: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        row, targets = _find(rows, name)
        tensor = tensor.detach().cpu()
        parts = tensor.chunk(len(targets)) if len(targets) > 1 else (tensor,)
        for target, part in zip(targets, parts, strict=True):
            part = part.T if row.transposed and part.ndim == 2 else part
            given[target] = part[(None,) * row.leading].contiguous().clone()
    return given


def load_native_tensors(network: Network, tensors: Mapping[str, Tensor]) -> Network:
    """Fill a network, made by ``build_empty``, with tensors of our own names, as they are.

    Raises:
        WeightsMismatch: as for ``load_foreign``.
    """
    wanted = network.state_dict()
    shared = [name for name in wanted if name in tensors]
    _complain(
        [name for name in wanted if name not in tensors],
        set(tensors) - set(wanted),
        [
            f"{name} {_shape(tensors[name])} instead of {_shape(wanted[name])}"
            for name in shared
            if tensors[name].shape != wanted[name].shape
        ],
    )
    network.load_state_dict(tensors, strict=True, assign=True)
    return network.eval()


def build_empty(network_class: type[Network], settings: object) -> Network:
    """A network whose tensors have shapes and hold nothing, to be filled; memory that is not written costs none."""
    with SkipInit():
        return network_class(settings)


class SkipInit(TorchFunctionMode):
    """Nothing is drawn where a layer would draw its first weights.

    torch's meta device would do the same, but the first drawing on it loads torch's compiler, which takes longer than
    all the rest of opening a model.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Passes every call on but those that draw: they leave their tensor, or give one, as it comes."""
        options = kwargs or {}
        if func is torch.randn:
            return torch.empty(*args, **options)
        if getattr(func, "__module__", None) == "torch.nn.init" or func in IN_PLACE:
            return args[0] if args else options["tensor"]
        return func(*args, **options)


IN_PLACE = (torch.Tensor.normal_, torch.Tensor.uniform_)


def _find(rows: Iterable[Row], name: str) -> tuple[Row, tuple[str, ...]]:
    for row in rows:
        sources = row.sources(name)
        if sources is not None:
            return row, sources
    raise WeightsMismatch(f"the table of names has no row for our {name}")


def _matches_any(patterns: Iterable[str], name: str) -> bool:
    return any(Row(pattern, "").sources(name) is not None for pattern in patterns)


def _join(parts: Sequence[Tensor]) -> Tensor:
    if len({part.shape[1:] for part in parts}) > 1:
        return parts[0]  # of no shape that could be wanted; reported as such
    return torch.cat(list(parts))


def _shape(tensor: Tensor) -> str:
    return "(" + ", ".join(map(str, tensor.shape)) + ")"


def _complain(missing: Sequence[str], unexpected: Collection[str], misshapen: Sequence[str]) -> None:
    complaints = []
    for what, names in (("missing", missing), ("unexpected", sorted(unexpected)), ("of another shape", misshapen)):
        if names:
            more = f" and {len(names) - NAMED_IN_A_MESSAGE} more" if len(names) > NAMED_IN_A_MESSAGE else ""
            complaints.append(f"{what}: {', '.join(names[:NAMED_IN_A_MESSAGE])}{more}")
    if complaints:
        raise WeightsMismatch("the weights do not fit the settings: " + "; ".join(complaints))
