"""Optimisers by name."""

from difflib import get_close_matches
from typing import Any

from physadv.errors import UserError
from physadv.optimisers.adam import Adam
from physadv.optimisers.base import Optimiser
from physadv.optimisers.descent import Autograd, Descent
from physadv.optimisers.pgd import PGD
from physadv.optimisers.random_search import RandomSearch
from physadv.optimisers.spsa import NES, SPSA

OPTIMISERS = ("pgd", "pgd-l2", "adam", "spsa", "spsa-l2", "nes", "nes-l2", "random-search", "random-search-l2")

_ESTIMATORS: dict[str, type[SPSA]] = {"spsa": SPSA, "nes": NES}
_STEP_OF_RADIUS = 0.25
_SIGMA_OF_RADIUS = 0.5
_SIGMA_L2 = 0.01  # a Euclidean ball is spread thin over all values
_SQUARE_OF_RADIUS = 0.05  # in a Euclidean ball, a square that goes further undoes all others
_TILES = 24  # what fits into a ball is fine; what a camera sees of a print is not


def make_optimiser(name: str, step_size: float | None = None, *, radius: float | None = None) -> Optimiser:
    """One of `OPTIMISERS`, with its own step size unless one is given; `spsa:20` and `nes:20` probe 20 pairs a step.

    radius: where S is a norm ball, its size in the norm of the step (l∞; l2 for names that end in it), from which the
    default step and the distance of the probes follow. random-search goes to the corners of S, whatever its size.
    UserError: any other name, and a number of pairs that is none.
    """
    kind, colon, pairs = name.partition(":")
    family, l2 = kind.removesuffix("-l2"), kind.endswith("-l2")
    if kind not in OPTIMISERS or (colon and family not in _ESTIMATORS):
        near = get_close_matches(kind, OPTIMISERS, n=1, cutoff=0)[0]
        raise UserError(f"There is no optimiser {name!r}: did you mean {near!r}?")
    if colon and not pairs.isdecimal():
        raise UserError(f"{name!r} says nothing about pairs of probes: give a whole number, as in {kind}:10.")
    if family == "random-search":
        corner = _SQUARE_OF_RADIUS * radius if l2 and radius is not None else 1.0
        return RandomSearch(corner if step_size is None else step_size)
    default = (0.1 if l2 else 0.02) if radius is None else _STEP_OF_RADIUS * radius
    step = default if step_size is None else step_size
    if family == "adam":
        return Descent(Adam(step))
    said: dict[str, Any] = {"pairs": int(pairs)} if pairs else {}
    if radius is not None:
        said |= {"sigma": _SIGMA_L2 if l2 else _SIGMA_OF_RADIUS * radius, "tiles": _TILES}
    gradient = _ESTIMATORS[family](**said) if family in _ESTIMATORS else Autograd()
    return Descent(PGD(step, norm="l2" if l2 else "linf"), gradient)
