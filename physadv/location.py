"""Where on each scene a patch does most harm: the places of a location-optimised attack; and the worst shadows.

Rao, Stutz and Schiele 2020, "Adversarial training against location-optimized adversarial patches"; Wu, Tong and
Vorobeychik 2020, "Defending against physically realizable attacks on image classification" (DOA), section 4.1.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from physadv.heldout import HeldOut
from physadv.objectives import Objective
from physadv.question import Target
from physadv.scenes.base import Scenes
from physadv.threats.base import Artwork, Theta
from physadv.threats.sought import Sought, chosen
from physadv.transforms.world import World

CANDIDATES = 48  # places, and
STILL_CANDIDATES = 200  # shapes, where there is nothing else to search for


def worst(
    target: Target,
    scenes: Scenes,
    candidates: Sequence[Sought],
    thetas: Sequence[Theta],
    *,
    keep: int,
    **how: Any,
) -> list[Sought]:
    """On each scene the `keep` candidates with the lowest loss (the least over `thetas`), lowest first.

    how: `losses`' world, objective, views and seed.
    """
    worn = [one.artwork(theta).at(one.place_mm) for one in candidates for theta in thetas]
    found = losses(target, scenes, worn, **how).unflatten(0, (len(candidates), len(thetas))).amin(1)
    return [chosen(candidates, which) for which in found.argsort(0)[:keep]]


def losses(
    target: Target,
    scenes: Scenes,
    worn: Sequence[Artwork],
    *,
    world: World,
    objective: Objective,
    views: int,
    seed: int,
) -> Float[Tensor, "worn b"]:
    """The mean loss of every scene over the same few views, with each of the artworks (of one per scene) on it."""
    held_out = HeldOut(target, scenes, world, views, seed)
    found = [objective.loss(logits, held_out.truth) for logits in held_out.answers(*worn)]
    return torch.stack(found).unflatten(1, (views, len(scenes))).mean(1)


def noise(threat: Sought, scenes: Scenes, *, seed: int) -> Theta:
    """A random artwork on each scene: what tells hard places from others best while nothing is known of its colours."""
    return threat.init(scenes, generator=torch.Generator().manual_seed(seed), per_scene=True)
