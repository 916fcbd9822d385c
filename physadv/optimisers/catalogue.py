"""Optimisers by name."""

from collections.abc import Callable
from difflib import get_close_matches

from physadv.errors import UserError
from physadv.optimisers.adam import Adam
from physadv.optimisers.base import Optimiser
from physadv.optimisers.descent import Descent
from physadv.optimisers.pgd import PGD
from physadv.optimisers.random_search import RandomSearch
from physadv.optimisers.spsa import NES, SPSA

_OF_RADIUS = 0.25
_MAKERS: dict[str, tuple[Callable[[float], Optimiser], float]] = {
    "pgd": (lambda step_size: Descent(PGD(step_size)), 0.02),
    "pgd-l2": (lambda step_size: Descent(PGD(step_size, norm="l2")), 0.1),
    "adam": (lambda step_size: Descent(Adam(step_size)), 0.02),
    "spsa": (lambda step_size: Descent(PGD(step_size), SPSA()), 0.02),
    "nes": (lambda step_size: Descent(PGD(step_size), NES()), 0.02),
    "random-search": (RandomSearch, 1.0),
}


def make_optimiser(name: str, step_size: float | None = None, *, radius: float | None = None) -> Optimiser:
    if name not in _MAKERS:
        near = get_close_matches(name, list(_MAKERS), n=1, cutoff=0)[0]
        raise UserError(f"There is no optimiser {name!r}: did you mean {near!r}?")
    make, default = _MAKERS[name]
    return make(default if step_size is None else step_size)
