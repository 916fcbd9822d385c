"""Memory that is short: what was asked at once is asked in halves, rather than lost."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from physadv.errors import UserError

A = TypeVar("A")

SAID = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED", "bad_alloc")


def short(error: BaseException) -> bool:
    """Whether an error says that memory, of the machine or of a GPU, was short."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in SAID)


def in_halves(ask: Callable[[Any], A], images: torch.Tensor, *, together: Callable[[Sequence[A]], A]) -> A:
    """`ask` of all images; where memory is short, of one half after the other.

    UserError: it is too short for a single one.
    """
    try:
        return ask(images)
    except (MemoryError, RuntimeError) as error:
        if not short(error):
            raise
        if len(images) == 1:
            raise too_little() from error
    return together([in_halves(ask, half, together=together) for half in images.tensor_split(2)])


def too_little() -> UserError:
    return UserError(
        "Memory does not suffice for a single photograph: choose a target with a smaller input, or --device."
    )
