"""Several processes that train one network, as ``torchrun`` starts them; one process needs nothing of this.

Every rank computes the embeddings of its own part of the batch. `Ranks.joined` brings those of all together, with
gradients back to where they came from, so that the loss is that of the whole batch. It relies on the gradients of the
weights being averaged over the ranks, as DDP and FSDP2 do.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import Tensor, nn

from beholder.errors import InvalidSetting
from beholder.runtime.device import pick_device

Parallel = Literal["ddp", "fsdp"]
PATIENCE = timedelta(hours=2)  # the first rank may evaluate for so long while the others wait


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is, and its device."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls, wish: str | None = None) -> "Ranks":
        """The process group that ``torchrun`` describes in the environment; a lone process joins none.

        Args:
            wish: a device; by default the fastest there is, for each process its own.
        """
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls(pick_device(wish))
        import torch.distributed as distributed

        device = pick_device(wish)
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        return cls(device, distributed.get_rank(), distributed.get_world_size())

    def leave(self) -> None:
        """Leaves the process group."""
        if self.count > 1:
            torch.distributed.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this is the process that reports, evaluates and writes."""
        return self.rank == 0

    def joined(self, part: Tensor) -> Tensor:
        """Every rank's part (b, …) in order: (B, …)."""
        return part if self.count == 1 else _Join.apply(part.contiguous(), self.rank, self.count)

    def rows(self, part: int) -> range:
        """Which rows of what was joined are ours."""
        return range(self.rank * part, (self.rank + 1) * part)

    def any(self, here: bool) -> bool:
        """Whether it is so on any rank."""
        if self.count == 1:
            return here
        flag = torch.tensor(int(here), device=self.device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a number over the ranks."""
        if self.count == 1:
            return value
        total = value.detach().clone()
        torch.distributed.all_reduce(total)
        return total / self.count

    def listed(self, value: Any) -> list[Any]:
        """Every rank's plain value."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            torch.distributed.barrier()


def end_one_of_several() -> None:
    """Ends a process that torchrun started, all of whose work is saved, without taking torch down; a lone one goes on.

    torch 2.13 keeps the threads of a group over which a model was spread. Now and then one of them aborts the process
    as the interpreter ends, and torchrun calls the run failed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, part: Tensor, rank: int, count: int) -> Tensor:
        context.rows = slice(rank * len(part), (rank + 1) * len(part))
        parts = [torch.empty_like(part) for _ in range(count)]
        torch.distributed.all_gather(parts, part)
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].contiguous()
        torch.distributed.all_reduce(total)
        return total[context.rows], None, None


def shard(model: nn.Module, blocks: Sequence[nn.Module], ranks: Ranks, parallel: Parallel) -> nn.Module:
    """A model for this rank.

    Args:
        model: the same on every rank.
        blocks: with FSDP2, the parts whose weights are gathered one after the other.
        ranks: which process this is; a lone one gets the model itself back.
        parallel: ``ddp`` keeps all weights on every rank, ``fsdp`` a part on each.

    Raises:
        InvalidSetting: ``fsdp`` for a lone process.
    """
    if parallel == "fsdp":
        if ranks.count == 1:
            raise InvalidSetting("parallel fsdp shares weights among processes; start several with torchrun")
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(ranks.device.type, (ranks.count,))
        scalars = {weight for weight in model.parameters() if weight.ndim == 0}  # which FSDP2 can't divide
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh, ignored_params=scalars)
        return model
    if ranks.count == 1:
        return model
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(model, broadcast_buffers=False)


@contextmanager
def no_sync(model: nn.Module, quiet: bool) -> Iterator[None]:
    """Gradients that come into being here are averaged over the ranks only later, while ``quiet``."""
    from torch.distributed.fsdp import FSDPModule
    from torch.nn.parallel import DistributedDataParallel

    if isinstance(model, DistributedDataParallel) and quiet:
        with model.no_sync():
            yield
        return
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(not quiet)
    yield


def average_scalars(model: nn.Module, ranks: Ranks) -> None:
    """The gradients that FSDP2 leaves alone, averaged over the ranks."""
    for weight in model.parameters():
        if weight.ndim == 0 and weight.grad is not None:
            torch.distributed.all_reduce(weight.grad)
            weight.grad /= ranks.count


def full_tensor(tensor: Tensor) -> Tensor:
    """A copy of a tensor, all of its parts together where the ranks share it; then all must call."""
    from torch.distributed.tensor import DTensor

    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor divided over the ranks as another one is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements) if isinstance(like, DTensor) else value
