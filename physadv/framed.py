"""Clean views as photographs of their own: exactly what a target sees, pixel for pixel, for threats to its input."""

import torch

from physadv.heldout import HeldOut
from physadv.scenes.base import Faces, Scenes

_POINTS = 8  # per side of the outline


def framed(held_out: HeldOut) -> Scenes:
    """The n clean views as n scenes of the target's input size, at 8 bits as a camera stores them.

    The surface is the image itself, 1 mm a pixel, and its box the one that the target's frame was cut round: in the
    digital world such a scene is seen unchanged.
    """
    frame, scenes = held_out.target.frame, held_out.scenes
    images = torch.cat(list(held_out.photographs(None))).mul(255).round().div(255)
    rows = held_out.scene
    picked = rows.tolist()
    device, count, side = images.device, len(images), float(frame.size_px)
    edge = side * frame.context / (1 + 2 * frame.context)
    return Scenes(
        images=images,
        surface=torch.eye(3, device=device).repeat(count, 1, 1),
        faces=Faces(
            images=torch.ones(1, 4, _POINTS, _POINTS, device=device),
            size_mm=torch.full((1, 2), side, device=device),
            outline_mm=_square(edge, side - edge).to(device),
            names=("image",),
        ),
        face=torch.zeros(count, dtype=torch.int64, device=device),
        labels=scenes.labels[rows.to(device)],
        classes=scenes.classes,
        names=tuple(_name(scenes.names[row], place // len(scenes), held_out.views) for place, row in enumerate(picked)),
        groups=tuple(_group(scenes, row, place) for place, row in enumerate(picked)),
        gain=torch.ones(count, 3, device=device),
        bias=torch.zeros(count, 3, device=device),
        native_px=torch.ones(count, device=device),
    )


def _group(scenes: Scenes, row: int, place: int) -> str:
    """Views of a staged sign are independent; those of a photograph are not."""
    return f"{scenes.groups[row]}, {place}" if scenes.staged else scenes.groups[row]


def _name(scene: str, view: int, views: int) -> str:
    return f"{scene}, view {view}" if views > 1 else scene


def _square(low: float, high: float) -> torch.Tensor:
    along = torch.linspace(low, high, _POINTS)
    sides = [(along, low), (along, high), (low, along), (high, along)]
    points = [torch.stack(torch.broadcast_tensors(*map(torch.as_tensor, side)), 1) for side in sides]
    return torch.cat(points)[None]
