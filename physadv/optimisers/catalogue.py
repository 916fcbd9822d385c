"""Optimisers by name."""

from collections.abc import Callable
from difflib import get_close_matches

from physadv.errors import UserError
from physadv.optimisers.adam import Adam
from physadv.optimisers.base import Optimiser
from physadv.optimisers.pgd import PGD

_MAKERS: dict[str, tuple[Callable[[float], Optimiser], float]] = {
    "pgd": (PGD, 0.02),
    "pgd-l2": (lambda step_size: PGD(step_size, norm="l2"), 0.1),
    "adam": (Adam, 0.02),
}


def make_optimiser(name: str, step_size: float | None = None) -> Optimiser:
    """`pgd`, `pgd-l2` or `adam`, with its own step size unless one is given. UserError: any other name."""
    if name not in _MAKERS:
        near = get_close_matches(name, list(_MAKERS), n=1, cutoff=0)[0]
        raise UserError(f"There is no optimiser {name!r}: did you mean {near!r}?")
    make, default = _MAKERS[name]
    return make(default if step_size is None else step_size)
