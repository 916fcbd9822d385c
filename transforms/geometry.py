"""Where the signs of a view are: one homography each, surface mm -> frame px."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from physadv.errors import UserError
from physadv.scenes.base import Scenes
from physadv.targets.base import Frame
from physadv.transforms.stages import Draw
from physadv.transforms.view import Box, Pinhole, Relative
from physadv.transforms.warp import Homography, crop_of, project, scaling, translation

SENSOR_PX = 1920  # width of the sensor whose whole frame a detector is shown: a dashboard camera's


@dataclass(frozen=True)
class Geometry:
    """Where the m signs of n scenes are in their views."""

    to_px: Float[Tensor, "m 3 3"]  # surface mm -> frame px, of every sign
    warp: Homography  # photograph px (of staged scenes: surface mm) -> frame px, of every view
    sensor_px: Float[Tensor, " n"]  # frame px per sensor px
    px_per_mm: Float[Tensor, " m"]


def check_frame(scenes: Scenes, frame: Frame) -> None:
    """UserError: photographs of single signs for a target that looks at whole ones, or the other way round."""
    if not scenes.staged and frame.whole != (scenes.extent_px is not None):
        wanted = "whole photographs: coco:FILE.json, yolo:FILE.yaml or staged:FACE" if frame.whole else "single signs"
        raise UserError(f"This target looks at {wanted}; give such --scenes.")


@torch.no_grad()
def geometry(scenes: Scenes, draw: Draw, *, frame: Frame) -> Geometry:
    """Where everything is in views 0..n−1 of scenes 0..n−1.

    UserError: photographs of single signs for a target that looks at whole ones, or the other way round.
    """
    check_frame(scenes, frame)
    view = _whole_view if frame.whole else _cropped_view
    to_px, warp, sensor_px = view(scenes, draw, frame)
    size_mm = scenes.faces.size_mm[scenes.face].amax(1)
    if frame.whole:
        outline = project(to_px, scenes.faces.outline_mm[scenes.face])
        px_per_mm = (outline.amax(1) - outline.amin(1)).amax(1) / size_mm
    else:
        px_per_mm = frame.size_px / (1 + 2 * frame.context) / size_mm
    return Geometry(to_px, warp, sensor_px, px_per_mm)


def boxes_in(scenes: Scenes, at: Geometry, *, frame: Frame) -> tuple[Float[Tensor, "m 4"], Float[Tensor, " m"]]:
    """The box of each sign's outline, clipped to the frame, xyxy px; and the share of it that is in view."""
    outline = project(at.to_px, scenes.faces.outline_mm[scenes.face])
    box = torch.cat([outline.amin(1), outline.amax(1)], 1)
    clipped = box.clamp(0, frame.size_px)
    sides, whole = (clipped[:, 2:] - clipped[:, :2]).clamp(min=0), box[:, 2:] - box[:, :2]
    return clipped, sides.prod(1) / whole.prod(1).clamp(min=1e-6)


def sign_px(scenes: Scenes) -> Float[Tensor, " m"]:
    """How wide the signs are in their original photographs."""
    outline = project(scenes.surface, scenes.faces.outline_mm[scenes.face])
    return (outline.amax(1) - outline.amin(1)).amax(1) / scenes.native_px[scenes.of]


def _whole_view(
    scenes: Scenes, draw: Draw, frame: Frame
) -> tuple[Float[Tensor, "m 3 3"], Homography, Float[Tensor, " n"]]:
    """Surface mm -> frame px (signs), photograph px -> frame px, frame px per px of the sensor."""
    if scenes.staged:
        return _stood(scenes, draw, frame)
    assert scenes.extent_px is not None
    relative, scale = draw.stages.get(Relative), frame.size_px / scenes.images.shape[-1]
    params, centre = draw.of(relative), scenes.extent_px / 2
    away = translation(centre) @ scaling(1 / params["zoom"]) @ translation(-centre)
    moved = away @ relative.homography(params, centre, scenes.extent_px.amax(1))
    warp = scaling(torch.full_like(params["zoom"], scale)) @ moved
    return warp[scenes.of] @ scenes.surface, warp, scale * scenes.native_px


def _stood(scenes: Scenes, draw: Draw, frame: Frame) -> tuple[Homography, Homography, Float[Tensor, " n"]]:
    """A staged sign anywhere in the frame of a sensor `SENSOR_PX` wide."""
    pinhole, scale = draw.stages.get(Pinhole), frame.size_px / SENSOR_PX
    to_sensor = pinhole.homography(draw.of(pinhole), scenes.faces.size_mm[scenes.face])
    shrunk = scaling(draw.stand.new_full((len(draw),), scale)) @ to_sensor
    outline = project(shrunk, scenes.faces.outline_mm[scenes.face])
    low, high = outline.amin(1), outline.amax(1)
    free = (frame.size_px - (high - low)).clamp(min=0)
    placed = translation(draw.stand * free - low) @ shrunk
    return placed, placed, draw.stand.new_full((len(draw),), scale)


def _cropped_view(scenes: Scenes, draw: Draw, frame: Frame) -> tuple[Homography, Homography, Float[Tensor, " n"]]:
    """Surface mm -> frame px, photograph px -> frame px, frame px per sensor px; the frame is a crop round the sign."""
    return (_staged_view if scenes.staged else _relative_view)(scenes, draw, frame)


def _staged_view(scenes: Scenes, draw: Draw, frame: Frame) -> tuple[Homography, Homography, Float[Tensor, " n"]]:
    """Surface mm -> frame px, the same again (the scene is the surface), frame px per sensor px."""
    pinhole = draw.stages.get(Pinhole)
    to_sensor = pinhole.homography(draw.of(pinhole), scenes.faces.size_mm[scenes.face])
    crop, side = _crop(scenes, draw, frame, to_sensor)
    return crop @ to_sensor, crop @ to_sensor, frame.size_px / side


def _relative_view(scenes: Scenes, draw: Draw, frame: Frame) -> tuple[Homography, Homography, Float[Tensor, " n"]]:
    """Surface mm -> frame px, photograph px -> frame px, frame px per px of the original photograph."""
    relative = draw.stages.get(Relative)
    outline = project(scenes.surface, scenes.faces.outline_mm[scenes.face])
    low, high = outline.amin(1), outline.amax(1)
    params = draw.of(relative)
    moved = relative.homography(params, (low + high) / 2, (high - low).amax(1))
    crop, side = _crop(scenes, draw, frame, moved @ scenes.surface)
    warp = crop @ moved
    return warp @ scenes.surface, warp, frame.size_px / side * scenes.native_px * params["zoom"]


def _crop(scenes: Scenes, draw: Draw, frame: Frame, to_px: Homography) -> tuple[Homography, Float[Tensor, " n"]]:
    outline = project(to_px, scenes.faces.outline_mm[scenes.face])
    jitter = draw.of(draw.stages.get(Box))["jitter"]
    return crop_of(outline, size_px=frame.size_px, context=frame.context, jitter=jitter)
