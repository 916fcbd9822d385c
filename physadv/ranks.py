"""Several processes of one training or evaluation, as `torchrun` starts them (gloo, or nccl on CUDA)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import distributed, nn

from physadv.errors import UserError

T = TypeVar("T")


def size() -> int:
    """How many processes share a batch."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Inside, the processes of `torchrun` know each other; yields this one's device. Without torchrun: `device`."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield device
        return
    cuda = device.startswith("cuda")
    place = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if cuda else device
    if cuda:
        torch.cuda.set_device(place)
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield place
    finally:
        distributed.destroy_process_group()


def check_shareable(module: nn.Module, *, shards: int, frozen_norm: bool) -> None:
    """UserError: several processes, and a batch they cannot share evenly, or statistics that each would have alone."""
    if size() == 1:
        return
    if shards % size():
        raise UserError(f"{size()} processes cannot share the {shards} shards of a batch evenly: raise --batch.")
    normed = any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in module.modules())
    if normed and not frozen_norm:
        raise UserError(
            "Each of several processes would take batch statistics of its own: add --frozen-norm, or train with one."
        )


def gathered(mine: list[T]) -> list[T]:
    """The things of all processes, each holding every `size()`-th, in the order of the whole."""
    if size() == 1:
        return mine
    parts: list[Any] = [None] * size()
    distributed.all_gather_object(parts, mine)
    return [part[row] for row in range(max(map(len, parts))) for part in parts if row < len(part)]


@torch.no_grad()
def average_gradients(module: nn.Module) -> None:
    """The mean over the processes, in one message."""
    if size() == 1:
        return
    gradients = [one.grad for one in module.parameters() if one.grad is not None]
    flat = torch.cat([one.flatten() for one in gradients])
    distributed.all_reduce(flat)
    parts = flat.div(size()).split([one.numel() for one in gradients])
    for one, part in zip(gradients, parts, strict=True):
        one.copy_(part.reshape(one.shape))


def mean(value: float) -> float:
    """The mean over the processes."""
    if size() == 1:
        return value
    total = torch.tensor([value], dtype=torch.float64)
    if distributed.get_backend() == "nccl":
        total = total.cuda()
    distributed.all_reduce(total)
    return float(total) / size()


def agreed(value: float) -> float:
    """What the first process says."""
    if size() == 1:
        return value
    said = [value]
    distributed.broadcast_object_list(said)
    return said[0]


def shared_state(module: nn.Module) -> None:
    """Buffers (statistics of batch normalisation) as the first process has them."""
    if size() > 1:
        for value in module.buffers():
            distributed.broadcast(value, 0)
