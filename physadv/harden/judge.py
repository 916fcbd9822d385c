"""Before and after, under attacks that are made afresh: those of the training, and others that it never saw.

A threat that was trained on says little alone: other sizes, places, masks, balls and searches say whether the defence is
of this one attack (Tramèr et al. 2020; Rao et al. 2020, table 4, for sizes).
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.functional import interpolate

from physadv.attacks import attack_each
from physadv.files import read_json, write_json
from physadv.harden.inner import mixed
from physadv.harden.mixture import is_ball, load_one, parse_mixture
from physadv.heldout import HeldOut, varies
from physadv.location import CANDIDATES, plain_colours, worst_places
from physadv.question import goal_of, objective_of
from physadv.scan import Difference, paired_difference
from physadv.scenes.base import Scenes
from physadv.settings import Settings
from physadv.stats import Rate, cluster_rate
from physadv.targets.base import Classifier, frozen
from physadv.threats.base import Artwork, Threat
from physadv.threats.patch import SoughtPatch
from physadv.transforms.stages import derive
from physadv.transforms.world import DIGITAL, World, load_world

SIZES = (5, 8, 12, 16, 20)  # % of the sign: of the matrix
PLAIN = "any plain sticker"
PHYSICAL = "drive-by"
_SOUGHT = re.compile(r"patch:([\d.]+)%@worst")
_JUDGED = 4  # fresh views of each scene, where they differ
_SEARCHED = 2  # photographs of each scene per step, where they differ
_STEP = 0.1  # in colour
_QUERIES = 3  # steps of the search without gradients, for one step of the others
_BLOCKS = 8  # of a random plain sticker, along its side


@dataclass(frozen=True)
class Tries:
    """How hard the attacks that judge try. Threats of the training get all of it, the others two fifths of the starts
    and half of the steps."""

    steps: int = 100
    restarts: int = 5
    resolution_px: int = 32
    batch: int = 50

    @property
    def fewer(self) -> "Tries":
        return replace(self, steps=max(1, self.steps // 2), restarts=max(1, round(0.4 * self.restarts)))
