"""θ ∈ S: what the adversary may change."""

from physadv.threats.base import Artwork, Threat, covered_share, load_artwork
from physadv.threats.catalogue import list_threats, load_threat, parse_threat, resolve_threat

__all__ = [
    "Artwork",
    "Threat",
    "covered_share",
    "list_threats",
    "load_artwork",
    "load_threat",
    "parse_threat",
    "resolve_threat",
]
