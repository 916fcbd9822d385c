"""Before and after, under attacks that are made afresh: those of the training, and others that it never saw.

Threats of the training say little alone: other sizes, places, masks, balls and searches tell whether the defence is
against this one attack only (Rao et al. 2020, section 4.3; Tramèr et al. 2020).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.functional import interpolate

from physadv.attacks import attack_each
from physadv.evaluation import PLAIN
from physadv.files import read_json, write_json
from physadv.harden.mixture import load_one
from physadv.harden.trials import SIZES, Trial, Tries, sized
from physadv.heldout import HeldOut, varies
from physadv.location import CANDIDATES, worst
from physadv.question import goal_of, objective_of
from physadv.scan import paired_difference
from physadv.scenes.base import Scenes
from physadv.scenes.store import digest
from physadv.stats import cluster_rate
from physadv.targets.base import Classifier, frozen
from physadv.targets.swift import Twin
from physadv.threats.base import Artwork, Threat
from physadv.threats.printed import Printed
from physadv.threats.sought import Sought
from physadv.transforms.stages import derive
from physadv.transforms.world import DIGITAL

_VIEWS = 4  # fresh views of each scene that judge, where they differ
PICTURES = "pictures"  # of what a ledger is told: the hash of the scenes
_BLOCKS = 8  # of a sticker in random colours, along its side


@dataclass(frozen=True)
class Outcome:
    """Right without and (`right`) also with the artwork, in each fresh view of each scene."""

    clean: Bool[Tensor, "views n"]
    right: Bool[Tensor, "views n"]


@dataclass(frozen=True)
class Pair:
    """One trial on the target as it was, and on the hardened one."""

    trial: Trial
    before: Outcome
    after: Outcome

    def to_json(self, groups: Sequence[str], *, seed: int) -> dict[str, Any]:
        """docs/hardening.md: robust accuracy and attack success on either side, and the paired difference."""
        trial = self.trial
        return {
            "threat": trial.threat,
            "name": trial.name,
            "world": trial.world.name,
            "optimiser": None if trial.plain else trial.optimiser,
            "trained": trial.trained,
            "novel": [*trial.novel],
            "tries": trial.ran,
            "before": rates(self.before, groups, seed=seed),
            "after": rates(self.after, groups, seed=seed),
            "difference": gain(self.before.right, self.after.right, groups, seed=seed),
        }


@dataclass
class Ledger:
    """Outcomes that are known already, on disk after each, so that a judgement goes on where it was stopped.

    told: what they are of; a file of other scenes is not read. What an older file does not tell is not asked of it.
    """

    path: Path | None = None
    told: Mapping[str, Any] = field(default_factory=dict)
    known: dict[str, list[list[list[int]]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is not None and self.path.is_file():
            saved = read_json(self.path)
            told = {name: value for name, value in self.told.items() if name != PICTURES or name in saved["told"]}
            self.known = saved["known"] if saved["told"] == told else {}

    def outcome(self, target: Classifier, trial: Trial, make: Callable[[], Outcome]) -> Outcome:
        """From the file, or made and written down."""
        key = f"{target.weights_hash} {trial.key}"
        if key not in self.known:
            made = make()
            self.known[key] = [part.int().tolist() for part in (made.clean, made.right)]
            if self.path is not None:
                write_json(self.path, {"told": self.told, "known": self.known})
        clean, right = (torch.tensor(part, dtype=torch.bool) for part in self.known[key])
        return Outcome(clean, right)


def fingerprint(scenes: Scenes) -> str:
    """16 hex digits of the pictures, of what is behind staged signs, and of the labels."""
    parts = (scenes.images, scenes.labels, scenes.backgrounds)
    return digest(*(part for part in parts if part is not None))[:16]


def compare(
    before: Classifier,
    after: Classifier,
    scenes: Scenes,
    chosen: Sequence[Trial],
    *,
    seed: int,
    ledger: Ledger,
    report: Callable[[Pair], None] = lambda pair: None,
) -> list[Pair]:
    """Every trial on both targets, each attacked by itself."""
    pairs = []
    for trial in chosen:
        sides = [_known(target, scenes, trial, seed=seed, ledger=ledger) for target in (before, after)]
        pairs.append(Pair(trial, *sides))
        report(pairs[-1])
    return pairs


def matrix(
    targets: Mapping[str, Classifier],
    scenes: Scenes,
    *,
    trained: Mapping[str, Sequence[float]],
    tries: Tries,
    seed: int,
    mask: str | None = None,
    palette: str | None = None,
    sizes: Sequence[float] = SIZES,
    ledger: Ledger | None = None,
    report: Callable[[str, float, Outcome], None] = lambda name, size, outcome: None,
) -> list[dict[str, Any]]:
    """Robust accuracy of each target (a row) under patches of each size (in % of the sign) at their worst places.

    trained: the sizes that each was trained on; those cells are tried as hard as `tries` says, the others less.
    """
    ledger, rows = ledger or Ledger(), []
    for name, target in targets.items():
        cells = []
        for size in sizes:
            own = size in trained.get(name, ())
            effort, new = (tries, ()) if own else (tries.fewer, ("size",))
            trial = Trial(sized(size), DIGITAL, effort, new, mask=mask, palette=palette)
            outcome = _known(target, scenes, trial, seed=seed, ledger=ledger)
            report(name, size, outcome)
            told = rates(outcome, scenes.groups, seed=seed)["robust"]
            cells.append({"size": size, "trained": own, "robust": told})
        rows.append({"name": name, "trained_on": [*trained.get(name, ())], "cells": cells})
    return rows


def attempt(target: Classifier, scenes: Scenes, trial: Trial, *, seed: int) -> Outcome:
    """A fresh attack on every scene. It may search in 16 bits; what it found is judged in 32, and sought again in 32
    where only 16 were fooled."""
    threat = load_one(trial.threat, scenes, mask=trial.mask, palette=trial.palette, **_raster(trial, seed))
    random = varies(target, scenes, trial.world, threat)
    views = _VIEWS if random else 1
    judged = HeldOut(target, scenes, trial.world, views, derive(seed, "judge", trial.world.name), keep=True)
    with frozen(target.module):
        clean = _right(judged, None, threat)
        if trial.plain:
            return Outcome(clean, clean & _plain(judged, threat, trial, seed=seed))
        settings = trial.settings(random=random, ball=threat.ball is not None)
        how: dict[str, Any] = {"world": trial.world, "settings": settings}
        how["seed"] = derive(seed, "attack", trial.name, trial.world.name)
        found = attack_each(Twin.of(target).asked(target, autocast=True), scenes, threat, **how)
        right = _right(judged, found.artwork, threat)
        again = (found.resting.cpu() & (clean & right).all(0)).nonzero()[:, 0]
        if len(again):
            sure = attack_each(target, scenes.take(again), threat.take(again), **how).artwork
            right = right & _right(judged, _laid(found.artwork, sure, again), threat)
    return Outcome(clean, clean & right)


def rates(outcome: Outcome, groups: Sequence[str], *, seed: int) -> dict[str, Any]:
    """robust: right without and with the artwork, of all. success: wrong with it, of those right without."""
    views, clean = len(outcome.clean), outcome.clean.flatten()
    clusters = [*groups] * views
    among = [group for group, counts in zip(clusters, clean.tolist(), strict=True) if counts]
    seed = derive(seed, "bootstrap")
    return {
        "robust": cluster_rate(outcome.right.flatten(), clusters, seed=seed).to_json(),
        "success": cluster_rate(~outcome.right.flatten()[clean], among, seed=seed).to_json(),
    }


def clean_rates(pairs: Sequence[Pair], groups: Sequence[str], *, seed: int) -> dict[str, Any]:
    """Accuracy without any artwork in each world, before, after, and the difference."""
    first = {pair.trial.world.name: pair for pair in reversed(pairs)}
    told = {}
    for name in dict.fromkeys(pair.trial.world.name for pair in pairs):
        before, after = first[name].before.clean, first[name].after.clean
        clusters, how = [*groups] * len(before), {"seed": derive(seed, "bootstrap")}
        told[name] = {
            "before": cluster_rate(before.flatten(), clusters, **how).to_json(),
            "after": cluster_rate(after.flatten(), clusters, **how).to_json(),
            "difference": gain(before, after, groups, seed=seed),
        }
    return told


def gain(
    before: Bool[Tensor, "views n"], after: Bool[Tensor, "views n"], groups: Sequence[str], *, seed: int
) -> dict[str, Any]:
    """The mean of after − before, view by view."""
    values = (after.double() - before.double()).flatten().numpy()
    return paired_difference(values, [*groups] * len(before), seed=derive(seed, "bootstrap")).to_json()


def _known(target: Classifier, scenes: Scenes, trial: Trial, *, seed: int, ledger: Ledger) -> Outcome:
    return ledger.outcome(target, trial, lambda: attempt(target, scenes, trial, seed=seed))


def _raster(trial: Trial, seed: int) -> dict[str, int]:
    return {"resolution_px": trial.tries.resolution_px, "seed": derive(seed, "threat")}


def _right(judged: HeldOut, artwork: Artwork | None, threat: Threat) -> Bool[Tensor, "views n"]:
    """Answered correctly, in each view of each scene."""
    held_out = replace(judged, threat=threat) if threat.roams else judged
    (logits,) = held_out.answers(artwork)
    return (logits.argmax(1) == held_out.truth).reshape(judged.views, -1).cpu()


def _laid(first: Artwork, other: Artwork, rows: Tensor) -> Artwork:
    """The artworks of the scenes `rows` replaced."""
    names = [name for name in ("rgb", "alpha", "place_mm") if len(getattr(first, name)) == len(first)]
    parts = {name: getattr(first, name).clone() for name in names}
    for name, part in parts.items():
        part[rows] = getattr(other, name)
    return replace(first, **parts)


def _plain(judged: HeldOut, threat: Threat, trial: Trial, *, seed: int) -> Bool[Tensor, "views n"]:
    """Right with a white, a grey, a black and a randomly coloured one; where the place is sought, at its worst."""
    assert isinstance(threat, Printed)
    target, scenes = judged.target, judged.scenes
    plain = [torch.full((1, 3, *threat.size_px), value, device=scenes.images.device) for value in PLAIN.values()]
    if isinstance(threat, Sought):
        objective = objective_of(target, goal_of(target, "untargeted"))
        how: dict[str, Any] = {"world": trial.world, "objective": objective, "views": 1, "keep": 1}
        candidates = threat.candidates(CANDIDATES, seed=derive(seed, "places"))
        threat = worst(target, scenes, candidates, plain, **how, seed=derive(seed, "plain"))[0]
    generator = torch.Generator().manual_seed(derive(seed, "random stickers"))
    blocks = torch.rand(len(scenes), 3, _BLOCKS, _BLOCKS, generator=generator)
    worn = [one.expand(len(scenes), -1, -1, -1) for one in plain]
    worn.append(interpolate(blocks, threat.size_px, mode="nearest").to(scenes.images.device))
    return torch.stack([_right(judged, threat.artwork(theta), threat) for theta in worn]).all(0)
