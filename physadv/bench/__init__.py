"""What a step of an attack costs beside the bare model, and beside the peers: `physadv bench`."""

from physadv.bench.bench import Bench, measure

__all__ = ["Bench", "measure"]
