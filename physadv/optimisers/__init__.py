"""argmin: how θ is searched."""

from physadv.optimisers.base import Optimiser
from physadv.optimisers.catalogue import make_optimiser

__all__ = ["Optimiser", "make_optimiser"]
