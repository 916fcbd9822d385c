"""From options to objects: what every command begins with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from physadv.config import SceneOptions, SearchOptions
from physadv.errors import UserError
from physadv.scenes import Scenes, load_scenes
from physadv.scenes.photo import parse_quad
from physadv.targets import Classifier, load_target
from physadv.threats import load_threat
from physadv.threats.base import Threat
from physadv.transforms.world import World, load_world


def check_device(device: str) -> None:
    """UserError: not cpu, and no such GPU."""
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if device not in ("cpu", *gpus, *("cuda" for _ in gpus)):
        raise UserError(f"The device {device!r} is not there; use --device cpu.")


def load_all(options: SearchOptions) -> tuple[Classifier, World, Scenes, Scenes]:
    """Target, world, the scenes to search on and those to judge on: the same signs before other backgrounds."""
    check_device(options.device)
    world = load_world(options.world)
    target = load_target(options.target, device=options.device)
    scenes = scenes_of(options, options.scenes, options.backgrounds).to(options.device)
    if scenes.backgrounds is None or len(scenes.backgrounds) < 2:
        return target, world, scenes, scenes
    searched, judged = (replace(scenes, backgrounds=scenes.backgrounds[start::2]) for start in (0, 1))
    return target, world, searched, judged


def scenes_of(options: SceneOptions, spec: str, backgrounds: Path | None) -> Scenes:
    return load_scenes(
        spec,
        classes=options.classes,
        limit=options.limit,
        backgrounds=backgrounds if "staged:" in spec else None,
        quad=parse_quad(options.quad) if "photo:" in spec else None,
        label=options.label,
        face_mm=options.face_mm,
    )


def threat_of(text: str, options: SearchOptions, scenes: Scenes) -> Threat:
    how: dict[str, Any] = {"mask": options.mask, "palette": options.palette, "resolution_px": options.resolution_px}
    return load_threat(text, scenes, seed=options.seed, **how)
