"""Photographs without labels: pseudo-labels of a standard model, and training on the union.

RST: Carmon et al. 2019, "Unlabeled data improves adversarial robustness", algorithm 1. UAT: Uesato et al. 2019, "Are
labels required for improving adversarial robustness?", section 3: targets fixed (FT), online (OT), or both (++).
"""

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches

import torch
from jaxtyping import Float, Int
from torch import Tensor

from physadv.errors import UserError
from physadv.harden.classify import Source, Targets
from physadv.heldout import HeldOut
from physadv.scenes.base import Scenes
from physadv.targets.base import Classifier, frozen
from physadv.threats.base import Threat
from physadv.transforms.stages import derive
from physadv.transforms.world import DIGITAL

VARIANTS: dict[str, Targets] = {"rst": "labels", "uat-ft": "labels", "uat-ot": "online", "uat++": "both"}


def targets_of(variant: str) -> Targets:
    """UserError: there is no such variant."""
    if variant not in VARIANTS:
        near = get_close_matches(variant, VARIANTS, n=1, cutoff=0)[0]
        raise UserError(f"There is no variant {variant!r}: did you mean {near!r}? (there are {', '.join(VARIANTS)})")
    return VARIANTS[variant]


def split(scenes: Scenes, share: float, *, seed: int) -> tuple[Int[Tensor, " l"], Int[Tensor, " u"]]:
    """Rows that keep their labels and rows that lose them: about `share` of each class, one photograph at least."""
    if not 0 < share < 1:
        raise UserError(f"{share} is no share of the labels; give more than 0 and less than 1.")
    has = torch.zeros(len(scenes), dtype=torch.bool)
    for label in scenes.labels.unique().tolist():
        rows = (scenes.labels.cpu() == label).nonzero()[:, 0]
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(derive(seed, "labels", label)))
        has[rows[order[: max(1, round(share * len(rows)))]]] = True
    return has.nonzero()[:, 0], (~has).nonzero()[:, 0]


@torch.no_grad()
def pseudo_labels(teacher: Classifier, scenes: Scenes) -> tuple[Int[Tensor, " b"], Float[Tensor, " b"]]:
    """argmax of the teacher on the photographs as they are, and its probability; blind to the labels."""
    held_out = HeldOut(teacher, scenes, DIGITAL, 1, 0)
    with frozen(teacher.module):
        logits = torch.cat([teacher(images) for images in held_out.photographs(None)])
    best = logits.softmax(1).max(1)
    return best.indices, best.values


def unlabelled_source(
    teacher: Classifier, scenes: Scenes, threats: Sequence[Threat], *, variant: str, share: int, weight: float
) -> Source:
    """Scenes with the labels that the teacher gives them. weight: of their losses beside the labelled ones'."""
    labels, _ = pseudo_labels(teacher, scenes)
    scenes = replace(scenes, labels=labels, classes=teacher.classes)  # the search asks for labels, too
    return Source(scenes, labels, tuple(threats), share, weight, targets_of(variant))
