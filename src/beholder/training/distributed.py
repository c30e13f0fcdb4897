"""Data-parallel training in several processes, as ``torchrun`` starts them; a single process needs none of it.

Every rank embeds its own part of the batch. `ProcessGroup.all_gather` concatenates the parts of all ranks and sends
gradients back to the rank that they belong to, so that the loss is that of the whole batch. It relies on the gradients
of the weights being averaged over the ranks, as DDP and FSDP2 do.
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
from beholder.runtime.device import select_device

Parallel = Literal["ddp", "fsdp"]
TIMEOUT = timedelta(hours=2)  # while the main process evaluates, the others wait


@dataclass(frozen=True)
class ProcessGroup:
    """The rank of this process, the number of processes, and the device of this one."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @classmethod
    def initialize(cls, device: str | None = None) -> "ProcessGroup":
        """Join the process group that ``torchrun`` describes in the environment; a single process joins none.

        Args:
            device: where to train; by default the fastest device available, and one GPU per process.
        """
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if world_size == 1:
            return cls(select_device(device))
        import torch.distributed as distributed

        own = select_device(device)
        if own.type == "cuda":
            own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(own)
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=TIMEOUT)
        return cls(own, distributed.get_rank(), distributed.get_world_size())

    def destroy(self) -> None:
        """Leave the process group."""
        if self.world_size > 1:
            torch.distributed.destroy_process_group()

    @property
    def is_main_process(self) -> bool:
        """Whether this process reports, evaluates and writes."""
        return self.rank == 0

    def all_gather(self, part: Tensor) -> Tensor:
        """Concatenate the parts (b, …) of all ranks, in order: (B, …). Gradients flow back to each part."""
        return part if self.world_size == 1 else _AllGather.apply(part.contiguous(), self.rank, self.world_size)

    def local_rows(self, part: int) -> range:
        """The rows of a gathered tensor that belong to this rank, of ``part`` rows per rank."""
        return range(self.rank * part, (self.rank + 1) * part)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        if self.world_size == 1:
            return flag
        tensor = torch.tensor(int(flag), device=self.device)
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
        return bool(tensor)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a scalar over the ranks."""
        if self.world_size == 1:
            return value
        total = value.detach().clone()
        torch.distributed.all_reduce(total)
        return total / self.world_size

    def all_gather_object(self, value: Any) -> list[Any]:
        """The plain value of every rank, in order."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait until every rank has arrived here."""
        if self.world_size > 1:
            torch.distributed.barrier()


class _AllGather(torch.autograd.Function):
    """``all_gather`` with gradients.

    torch 2.13 deprecates ``torch.distributed.nn.functional.all_gather`` in favor of private functions, which are being
    renamed themselves.
    """

    @staticmethod
    def forward(context: Any, part: Tensor, rank: int, world_size: int) -> Tensor:
        context.rows = slice(rank * len(part), (rank + 1) * len(part))
        parts = [torch.empty_like(part) for _ in range(world_size)]
        torch.distributed.all_gather(parts, part)
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].contiguous()
        torch.distributed.all_reduce(total)
        return total[context.rows], None, None


def exit_worker() -> None:
    """End a process that torchrun started and whose work is saved, skipping torch's shutdown; otherwise do nothing.

    torch 2.13 keeps the threads of a process group over which a model was sharded. Now and then one of them aborts the
    process while the interpreter exits, and torchrun reports the run as failed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def shard(model: nn.Module, blocks: Sequence[nn.Module], group: ProcessGroup, parallel: Parallel) -> nn.Module:
    """Wrap a model for data-parallel training.

    Args:
        model: the same on every rank.
        blocks: with FSDP2, the submodules whose weights are gathered one after the other.
        group: a single process gets the model itself back.
        parallel: ``ddp`` replicates the weights on every rank, ``fsdp`` shards them.

    Raises:
        InvalidSetting: ``fsdp`` in a single process.
    """
    if parallel == "fsdp":
        if group.world_size == 1:
            raise InvalidSetting("parallel fsdp shards the weights over processes; start several with torchrun")
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(group.device.type, (group.world_size,))
        scalars = {weight for weight in model.parameters() if weight.ndim == 0}  # which FSDP2 can't shard
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh, ignored_params=scalars)
        return model
    if group.world_size == 1:
        return model
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(model, broadcast_buffers=False)


@contextmanager
def no_sync(model: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Accumulate gradients on each rank without averaging them over the ranks, if ``enabled``."""
    from torch.distributed.fsdp import FSDPModule
    from torch.nn.parallel import DistributedDataParallel

    if isinstance(model, DistributedDataParallel) and enabled:
        with model.no_sync():
            yield
        return
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(not enabled)
    yield


def all_reduce_scalars(model: nn.Module, group: ProcessGroup) -> None:
    """Average the gradients of scalar parameters, which FSDP2 leaves alone, over the ranks."""
    for weight in model.parameters():
        if weight.ndim == 0 and weight.grad is not None:
            torch.distributed.all_reduce(weight.grad)
            weight.grad /= group.world_size


def full_tensor(tensor: Tensor) -> Tensor:
    """A detached copy of a tensor, gathered where the ranks share it; then every rank must call."""
    from torch.distributed.tensor import DTensor

    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """Shard a full tensor over the ranks as another one is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements) if isinstance(like, DTensor) else value


def clip_grad_norm(weights: Sequence[Tensor], max_norm: float) -> Tensor:
    """Scale the gradients down to a common norm of at most ``max_norm``, and return their norm before.

    Unlike torch's own, it accepts sharded tensors and plain ones together.
    """
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([full_tensor(each) for each in torch._foreach_norm(gradients)]))
    factor = (max_norm / (norm + 1e-6)).clamp(max=1)
    for gradient in gradients:  # a sharded tensor and a plain one can't be multiplied in one call
        gradient.mul_(factor)
    return norm
