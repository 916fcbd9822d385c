"""Where on each scene a patch does most harm: the places of a location-optimised attack; and the worst shadows.

Rao, Stutz and Schiele 2020, "Adversarial training against location-optimized adversarial patches"; Wu, Tong and
Vorobeychik 2020, "Defending against physically realizable attacks on image classification" (DOA), section 4.1.
"""

from collections.abc import Sequence

import torch

from physadv.heldout import HeldOut
from physadv.objectives import Objective
from physadv.question import Target
from physadv.scenes.base import Scenes
from physadv.threats.base import Theta
from physadv.threats.sought import Sought, chosen
from physadv.transforms.world import World

CANDIDATES = 48  # places, and
STILL_CANDIDATES = 200  # shapes, where there is nothing else to search for
PLAIN = (0.5, 1.0, 0.0)  # grey, white, black: an attack knows nothing of its colours yet


def worst(
    target: Target,
    scenes: Scenes,
    candidates: Sequence[Sought],
    thetas: Sequence[Theta],
    *,
    world: World,
    objective: Objective,
    views: int,
    keep: int,
    seed: int,
) -> list[Sought]:
    """On each scene the `keep` candidates with the lowest loss, lowest first.

    The loss of a candidate: the least over `thetas` (each one for all scenes or one per scene) of the mean over views.
    """
    held_out = HeldOut(target, scenes, world, views, seed)
    worn = [one.artwork(theta).at(one.place_mm) for one in candidates for theta in thetas]
    losses = torch.stack([objective.loss(logits, held_out.truth) for logits in held_out.answers(*worn)])
    losses = losses.reshape(len(candidates), len(thetas), views, len(scenes)).mean(2).amin(1)
    return [chosen(candidates, which) for which in losses.argsort(0)[:keep]]


def plain_colours(threat: Sought) -> list[Theta]:
    """One patch of each plain colour; a shadow has none."""
    if threat.still:
        return [torch.zeros(1, 3, *threat.size_px, device=threat.alpha.device)]
    return [torch.full((1, 3, *threat.size_px), value, device=threat.alpha.device) for value in PLAIN]
