"""How well a detector withstands a fresh artwork: searched on photographs of the training, judged on others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from physadv.attacks import attack
from physadv.detection_data import best_threshold, found
from physadv.evaluation import Evaluation, evaluate
from physadv.harden.loop import Checked
from physadv.heldout import HeldOut
from physadv.precision import average_precision
from physadv.question import goal_of, objective_of
from physadv.scenes.base import Scenes
from physadv.scenes.street import Street
from physadv.settings import Settings
from physadv.targets.base import frozen
from physadv.targets.detector import Detector
from physadv.threats import load_threat
from physadv.threats.base import Artwork, Threat
from physadv.transforms.stages import derive
from physadv.transforms.world import World

CHECK = Settings(goal="hide", objective="margin-mean", steps=20, step_size=0.1, batch=8, views=1, held_out=0)
JUDGE = Settings(goal="hide", objective="margin-mean", steps=120, batch=8, views=1, check_every=60, held_out=48)


@dataclass(frozen=True)
class Trial:
    """Fresh artworks, one for each class: searched on `searched`, tried on `judged`, both under `world`."""

    searched: Scenes
    judged: Scenes
    classes: tuple[str, ...]
    threat: str
    world: World
    settings: Settings
    seed: int
    resolution_px: int = 64

    def artwork(self, detector: Detector, name: str) -> tuple[Artwork, Threat]:
        """What hides signs of a class, and where it is on those that judge."""
        there, here = (worn_by(one, name) for one in (self.searched, self.judged))
        how: dict[str, Any] = {"seed": derive(self.seed, "trial"), "resolution_px": self.resolution_px}
        search = {"world": self.world, "settings": self.settings, "seed": derive(self.seed, "fresh", name)}
        artwork = attack(detector, there, load_threat(self.threat, there, **how), **search).artwork  # type: ignore[arg-type]
        fits = load_threat(self.threat, here, **how)
        return artwork.at(fits.artwork(artwork.rgb).place_mm), fits

    def found(self, detector: Detector, name: str, *, views: int = 1) -> Bool[Tensor, "2 cases"]:
        """Which signs of the class are found without and with a fresh artwork on them."""
        artwork, fits = self.artwork(detector, name)
        scenes = worn_by(self.judged, name)
        rows = scenes.wearing.nonzero()[:, 0].cpu()
        objective = objective_of(detector, goal_of(detector, "hide"))
        held_out = HeldOut(detector, scenes.take(rows), self.world, views, derive(self.seed, "judge"), fits.take(rows))
        with frozen(detector.module):
            clean, attacked = held_out.answers(None, artwork)
        return torch.stack([objective.eligible(one, held_out.truth) for one in (clean, attacked)])

    def judge(self, detector: Detector, name: str, *, report: Callable[[str], None] = lambda what: None) -> Evaluation:
        """All figures of `evaluate`: attack success with its interval, the controls, the promise, AP50."""
        artwork, fits = self.artwork(detector, name)
        how: dict[str, Any] = {"world": self.world, "goal": "hide", "views": 1, "seed": self.seed, "worlds": []}
        return evaluate(detector, worn_by(self.judged, name), artwork, threat=fits, report=report, **how)


def worn_by(scenes: Scenes, name: str) -> Scenes:
    """The same photographs, the artwork on the signs of a class."""
    return replace(scenes, worn=scenes.labels == scenes.classes.index(name))


def operated(detector: Detector, streets: Sequence[Street]) -> tuple[Detector, float]:
    """The detector at the threshold with the best F1 on photographs, and its mean AP50 there."""
    seen = found(detector, streets)
    points = average_precision(*seen, classes=range(len(detector.classes)))
    threshold = best_threshold(*seen, classes=len(detector.classes))
    return replace(detector, threshold=threshold), mean_of(points)


def mean_of(points: Mapping[int, float | None]) -> float:
    """Over the classes of which there is a sign."""
    known = [value for value in points.values() if value is not None]
    return sum(known) / len(known) if known else 0.0


def check_of(target: Detector, held: Sequence[Street], trial: Trial) -> Callable[[nn.Module], Checked]:
    """The held-out figures of a network: signs still found with a fresh artwork on them, and mean AP50 without.

    The share is of all signs, at the threshold that would be chosen for this network, so that neither a detector that
    misses clean signs nor one with a lucky threshold looks robust.
    """

    def check(module: nn.Module) -> Checked:
        detector, clean = operated(replace(target, module=module), held)
        still = [trial.found(detector, name, views=2)[1].float().mean().item() for name in trial.classes]
        return Checked(sum(still) / len(still), clean)

    return check
