"""From options to objects: what every command begins with."""

import platform
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from physadv import __version__
from physadv.config import AuditOptions, SceneOptions, SearchOptions, TargetOptions
from physadv.defences import Defence, defend, load_defence
from physadv.errors import UserError
from physadv.heldout import HeldOut
from physadv.question import Target
from physadv.scenes import Scenes, load_scenes
from physadv.scenes.photo import parse_quad
from physadv.targets import Classifier, Detector, load_target
from physadv.targets.base import frozen
from physadv.threats import load_threat
from physadv.threats.base import Threat
from physadv.transforms.stages import derive
from physadv.transforms.world import DIGITAL, World, load_world

FITTED = 2000  # clean photographs that a defence learns from, at most


def check_device(device: str) -> None:
    """UserError: not cpu, and no such GPU."""
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if device not in ("cpu", *gpus, *("cuda" for _ in gpus)):
        raise UserError(f"The device {device!r} is not there; use --device cpu.")


def load_all(options: TargetOptions) -> tuple[Target, World, Scenes, Scenes]:
    """Target, world, the scenes to search on and those to judge on: the same signs before other backgrounds."""
    check_device(options.device)
    world = load_world(options.world)
    target = deployed(options, target_of(options))
    scenes = scenes_of(options, options.scenes, options.backgrounds, target).to(options.device)
    if scenes.backgrounds is None or len(scenes.backgrounds) < 2:
        return target, world, scenes, scenes
    searched, judged = (replace(scenes, backgrounds=scenes.backgrounds[start::2]) for start in (0, 1))
    return target, world, searched, judged


def target_of(options: TargetOptions) -> Target:
    """The target, a detector at the --threshold. UserError: a threshold for a classifier."""
    target = load_target(options.target, device=options.device)
    if options.threshold is None:
        return target
    if not isinstance(target, Detector):
        raise UserError(f"--threshold is for detectors, and {target.name} is a classifier: leave it out.")
    return replace(target, threshold=options.threshold)


def deployed(options: TargetOptions, target: Target) -> Target:
    """The target behind the --defence, as an attacker who knows it sees it."""
    if isinstance(target, Detector):
        if options.defence or options.fit:
            raise UserError(f"--defence is for classifiers, and {target.name} is a detector: leave it out.")
        return target
    defence = fitted(options, target)
    return target if defence is None else defend(target, defence, adaptive=True, seed=options.seed)


def fitted(options: TargetOptions, target: Classifier) -> Defence | None:
    """The --defence; where it learns from clean photographs, from those of --fit.

    UserError: --fit for a defence that learns nothing.
    """
    if options.defence is None:
        if options.fit:
            raise UserError("--fit is for a --defence that learns from clean photographs: leave it out.")
        return None
    defence = load_defence(options.defence)
    if isinstance(defence, nn.Module):
        defence = defence.to(options.device)
    if defence.fitted:
        if options.fit:
            raise UserError(f"{options.defence} learns nothing from photographs: leave --fit out.")
        return defence
    scenes = load_scenes(options.fit or "staged:all", limit=FITTED if options.fit else None).to(options.device)
    world = load_world("drive-by") if scenes.staged else DIGITAL
    views = max(1, FITTED // len(scenes)) if scenes.staged else 1
    with frozen(target.module):
        clean = HeldOut(target, scenes, world, views, derive(options.seed, "fit"))
        return defence.fit(target, torch.cat(list(clean.photographs(None))), clean.truth)


def scenes_of(options: SceneOptions, spec: str, backgrounds: Path | None, target: Target | None = None) -> Scenes:
    """target: a detector has whole photographs at the size of its input."""
    whole = target is not None and target.frame.whole
    return load_scenes(
        spec,
        street_px=target.frame.size_px if target is not None and whole else None,
        classes=options.classes,
        limit=options.limit,
        backgrounds=backgrounds if "staged:" in spec else None,
        quad=parse_quad(options.quad) if "photo:" in spec else None,
        label=options.label,
        face_mm=options.face_mm,
    )


def threat_of(text: str, options: SearchOptions | AuditOptions, scenes: Scenes) -> Threat:
    how: dict[str, Any] = {"mask": options.mask, "palette": options.palette, "resolution_px": options.resolution_px}
    return load_threat(text, scenes, seed=options.seed, **how)


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    libraries = {name: version(name) for name in ("torch", "kornia")}
    return {"physadv": __version__, **libraries, "python": platform.python_version()}
