"""argmin: how θ is searched."""

from physadv.optimisers.base import Optimiser
from physadv.optimisers.catalogue import OPTIMISERS, make_optimiser

__all__ = ["OPTIMISERS", "Optimiser", "make_optimiser"]
