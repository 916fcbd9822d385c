"""Where on each scene a patch does most harm: the places of a location-optimised attack.

Rao, Stutz and Schiele 2020, "Adversarial training against location-optimized adversarial patches"; Wu, Tong and
Vorobeychik 2020, "Defending against physically realizable attacks on image classification" (DOA), section 4.1.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from physadv.heldout import HeldOut
from physadv.objectives import Objective
from physadv.question import Target
from physadv.scenes.base import Scenes
from physadv.threats.base import Theta
from physadv.threats.patch import SoughtPatch
from physadv.transforms.world import World

CANDIDATES = 48
PLAIN = (0.5, 1.0, 0.0)  # grey, white, black: an attack knows nothing of its colours yet


def worst_places(
    target: Target,
    scenes: Scenes,
    threat: SoughtPatch,
    thetas: Sequence[Theta],
    places_mm: Float[Tensor, "count b 4"],
    *,
    world: World,
    objective: Objective,
    views: int,
    keep: int,
    seed: int,
) -> Float[Tensor, "keep b 4"]:
    """Of `count` places on each scene the `keep` with the lowest loss, lowest first.

    The loss of a place is the least over `thetas` (each one for all scenes or one per scene) of the mean over views.
    """
    held_out = HeldOut(target, scenes, world, views, seed)
    worn = [threat.artwork(theta).at(place_mm) for place_mm in places_mm for theta in thetas]
    losses = torch.stack([objective.loss(logits, held_out.truth) for logits in held_out.answers(*worn)])
    losses = losses.reshape(len(places_mm), len(thetas), views, len(scenes)).mean(2).amin(1)
    order = losses.argsort(0)[:keep]
    return places_mm.to(order.device).gather(0, order[..., None].expand(-1, -1, 4))


def plain_colours(threat: SoughtPatch) -> list[Theta]:
    """One patch of each plain colour."""
    return [torch.full((1, 3, *threat.size_px), value, device=threat.alpha.device) for value in PLAIN]
