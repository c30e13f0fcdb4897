"""Import and export of tensors by a table of names, strictly: no tensor is missing or left over on either side.

A table has one row per pattern. ``*`` matches one part of a dotted name, and the parts are carried over in order:

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
MAX_NAMES_IN_MESSAGE = 5


@dataclass(frozen=True)
class Row:
    """The tensors of one pattern, and their names in the foreign checkpoint.

    Attributes:
        ours: pattern of our names.
        theirs: the foreign name, or several whose tensors are concatenated along the first axis.
        transposed: the foreign matrix is the transpose of ours.
        leading: leading axes of length 1 of the foreign tensor; on import, any number of them is squeezed.
    """

    ours: str
    theirs: str | tuple[str, ...]
    transposed: bool = False
    leading: int = 0

    def sources(self, name: str) -> tuple[str, ...] | None:
        """Return the foreign names for one of ours; None if the pattern does not match it."""
        found = re.fullmatch(re.escape(self.ours).replace(r"\*", r"([^.]+)"), name)
        if found is None:
            return None
        patterns = (self.theirs,) if isinstance(self.theirs, str) else self.theirs
        return tuple(pattern.replace("*", "{}").format(*found.groups()) for pattern in patterns)


def load_foreign(
    network: Network,
    tensors: Mapping[str, Tensor],
    rows: Sequence[Row],
    ignored: Collection[str] = (),
    *,
    stored_dtype: bool = False,
) -> Network:
    """Load foreign tensors into a network made by ``build_empty``.

    Args:
        network: the network.
        tensors: by foreign names.
        rows: the table of names.
        ignored: patterns of foreign names that are not needed.
        stored_dtype: leave the tensors in their dtype rather than convert them to float32.

    Raises:
        WeightsMismatch: a tensor is missing, unexpected or of another shape; the message names it.
    """
    loaded: dict[str, Tensor] = {}
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
        loaded[name] = tensor if stored_dtype or not tensor.is_floating_point() else tensor.float()
    _raise_if_different(missing, left, misshapen)
    network.load_state_dict(loaded, strict=True, assign=True)
    return network.eval()


def to_foreign(tensors: Mapping[str, Tensor], rows: Sequence[Row]) -> dict[str, Tensor]:
    """Return tensors by their foreign names and in their foreign shapes: the inverse of ``load_foreign``.

    Raises:
        WeightsMismatch: the table has no row for a tensor.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        row, targets = _find(rows, name)
        tensor = tensor.detach().cpu()
        parts = tensor.chunk(len(targets)) if len(targets) > 1 else (tensor,)
        for target, part in zip(targets, parts, strict=True):
            part = part.T if row.transposed and part.ndim == 2 else part
            result[target] = part[(None,) * row.leading].contiguous().clone()
    return result


def load_native_tensors(network: Network, tensors: Mapping[str, Tensor]) -> Network:
    """Load tensors by our own names, in their own dtype, into a network made by ``build_empty``.

    Raises:
        WeightsMismatch: as for ``load_foreign``.
    """
    wanted = network.state_dict()
    shared = [name for name in wanted if name in tensors]
    _raise_if_different(
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
    """Return a network with uninitialized parameters; memory that is not written to costs nothing."""
    with SkipInit():
        return network_class(settings)


class SkipInit(TorchFunctionMode):
    """Skips the random initialization of parameters.

    torch's meta device would do the same, but its first random number loads torch's compiler, which takes longer than
    everything else about loading a model.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Pass on every call but those that draw random numbers, which leave their tensor uninitialized."""
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
        return parts[0]  # fits no shape, and is reported as such
    return torch.cat(list(parts))


def _shape(tensor: Tensor) -> str:
    return "(" + ", ".join(map(str, tensor.shape)) + ")"


def _raise_if_different(missing: Sequence[str], unexpected: Collection[str], misshapen: Sequence[str]) -> None:
    complaints = []
    for what, names in (("missing", missing), ("unexpected", sorted(unexpected)), ("of another shape", misshapen)):
        if names:
            more = f" and {len(names) - MAX_NAMES_IN_MESSAGE} more" if len(names) > MAX_NAMES_IN_MESSAGE else ""
            complaints.append(f"{what}: {', '.join(names[:MAX_NAMES_IN_MESSAGE])}{more}")
    if complaints:
        raise WeightsMismatch("the weights do not fit the settings: " + "; ".join(complaints))
