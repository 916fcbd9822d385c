"""One photograph per view: `prepare` everything that does not depend on the artwork, then `expose` the artwork to it.

With f the artwork's monomials warped into the view, cover its share of a pixel, and all light in linear RGB:

    photograph = camera( blur( (1 − cover) · base + shade · (colour · f) + veil ) )

base: the lit scene; shade: the light's variation over the frame; colour: printer, light and camera as one 3 × 11
matrix; veil: light added after the sign (gloss, glare, fog). Only f carries a gradient.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from physadv.scenes.base import Scenes
from physadv.targets.base import Frame
from physadv.threats.base import Artwork
from physadv.transforms import light
from physadv.transforms.base import Colour, Field, Optics
from physadv.transforms.camera import Jpeg, Noise, Tone
from physadv.transforms.colour import to_linear, to_srgb
from physadv.transforms.mount import Bend, Placement
from physadv.transforms.optics import blur_matrices, separable
from physadv.transforms.print import Ink, monomials
from physadv.transforms.stages import Draw
from physadv.transforms.view import Backdrop, Box, Pinhole, Relative
from physadv.transforms.warp import Homography, crop_of, level_for, pixel_grid, project, pyramid, sample_pyramid

_SHARP = 0.8  # photographs are sampled a little finer than one texel per px: they are blurred enough
_LEVELS = 4  # an artwork more than 16 times finer than the frame is not resolved by any view


@dataclass(frozen=True)
class Exposure:
    """What n views do to any artwork."""

    draw: Draw
    base: Float[Tensor, "n 3 h w"]
    veil: Float[Tensor, "n 3 h w"]
    shade: Float[Tensor, "n 1 h w"]
    light: Float[Tensor, "n 3 3"]  # light and camera alone, for artwork that is no print
    colour: Float[Tensor, "n 3 11"]  # printer, the scene's own light, light and camera
    to_px: Homography  # surface mm -> frame px
    warp: Homography  # photograph px -> frame px
    level: Int[Tensor, " n"]  # of the pyramid that the photograph is sampled from
    px_per_mm: Float[Tensor, " n"]
    sensor_px: Float[Tensor, " n"]  # frame px per sensor px
    spread_px: Float[Tensor, "n 4"]  # blur, frame px

    def __len__(self) -> int:
        return len(self.base)


@torch.no_grad()
def prepare(scenes: Scenes, draw: Draw, *, frame: Frame) -> Exposure:
    """Views 0..n−1 of scenes 0..n−1, without any artwork."""
    draw = (draw if scenes.staged else draw.on_photographs()).to(scenes.images.device)
    to_px, warp, sensor_px = (_staged_view if scenes.staged else _relative_view)(scenes, draw, frame)
    level = level_for(_SHARP * scenes.native_px * draw.of(draw.stages.get(Relative))["zoom"] / sensor_px)
    if scenes.staged:
        scene = _staged(scenes, draw, frame, warp, sensor_px)
    else:
        scene = _photograph(scenes.images, warp, level, frame.size_px)
    lit, offset = _colours(draw, ("light",))
    shade, glow = _fields(draw, frame.size_px)
    camera, veil = _colours(draw, ("camera",))
    matrix = camera @ lit
    lamp = _lamp(draw, scenes)
    added = shade * (camera @ offset[:, :, None])[..., None] + _mix(camera, glow.expand(-1, 3, -1, -1))
    return Exposure(
        draw=draw,
        base=shade * _mix(matrix, scene),
        veil=lamp * (added + veil[:, :, None, None]),
        shade=shade,
        light=matrix,
        colour=_printed(draw, scenes, matrix),
        to_px=to_px,
        warp=warp,
        level=level,
        px_per_mm=frame.size_px / (1 + 2 * frame.context) / scenes.faces.size_mm[scenes.face].amax(1),
        sensor_px=sensor_px,
        spread_px=_spread(draw, sensor_px, staged=scenes.staged),
    )


def expose(exposure: Exposure, artwork: Artwork | None) -> Float[Tensor, "n 3 h w"]:
    """The photographs, differentiable in the artwork; without an artwork, the clean ones."""
    linear = exposure.base + exposure.veil
    if artwork is not None:
        linear = (_paste if artwork.printed else _replace)(linear, exposure, artwork)
    if bool((exposure.spread_px > 0).any()):
        linear = separable(linear, *blur_matrices(exposure.spread_px, *linear.shape[-2:]))
    return _record(linear, exposure)


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


def _pull(warp: Homography, size_px: int) -> Float[Tensor, "n hw 2"]:
    """Where each frame px comes from."""
    points = pixel_grid(0, 0, size_px, size_px, device=warp.device)
    return project(warp.inverse(), points.expand(len(warp), -1, 2))


def _staged(
    scenes: Scenes, draw: Draw, frame: Frame, warp: Homography, sensor_px: Float[Tensor, " n"]
) -> Float[Tensor, "n 3 h w"]:
    """The sign over its backdrop, linear light."""
    size_mm = scenes.faces.size_mm[scenes.face]
    texels = scenes.faces.images.shape[-1] * (1 + 2 * frame.context) / frame.size_px * sensor_px.clamp(min=1)
    points = _pull(warp, frame.size_px) / size_mm[:, None]
    face = sample_pyramid(
        scenes.faces.light, points, level_for(texels), height=frame.size_px, width=frame.size_px, source=scenes.face
    )
    return _backdrop(scenes, draw, frame) * (1 - face[:, 3:]) + face[:, :3]


def _backdrop(scenes: Scenes, draw: Draw, frame: Frame) -> Float[Tensor, "n 3 h w"]:
    assert scenes.backgrounds is not None
    params = draw.of(draw.stages.get(Backdrop))
    which = (params["which"] * len(scenes.backgrounds)).long().clamp(max=len(scenes.backgrounds) - 1)
    grid = pixel_grid(0, 0, frame.size_px, frame.size_px, device=which.device) / frame.size_px
    points = params["corner"][:, None] + params["crop"][:, None, None] * grid
    level = level_for(params["crop"] * scenes.backgrounds.shape[-1] / frame.size_px)
    pictures = pyramid(scenes.backgrounds[which], levels=int(level.max()))
    return to_linear(
        sample_pyramid(pictures, points, level, height=frame.size_px, width=frame.size_px, border="border")
    )


def _photograph(
    images: Float[Tensor, "a 3 y x"], warp: Homography, level: Int[Tensor, " n"], size_px: int
) -> Float[Tensor, "n 3 h w"]:
    """The photograph, turned, mirrored beyond its edge; decoded after resampling: its own camera encoded it."""
    height, width = images.shape[-2:]
    points = _pull(warp, size_px) / warp.new_tensor([width, height])
    pictures = pyramid(images, levels=int(level.max()))
    return to_linear(sample_pyramid(pictures, points, level, height=size_px, width=size_px, border="reflection"))


def _colours(draw: Draw, stages: tuple[str, ...]) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 3"]]:
    """Every colour transform of the stages as one matrix and one offset."""
    device = draw.place.device
    matrix, offset = torch.eye(3, device=device).repeat(len(draw), 1, 1), torch.zeros(len(draw), 3, device=device)
    for transform in draw.stages.kind(Colour, *stages):
        step, add = transform.affine(draw.of(transform))
        matrix, offset = step @ matrix, (step @ offset[:, :, None])[:, :, 0] + add
    return matrix, offset


def _fields(draw: Draw, size_px: int) -> tuple[Float[Tensor, "n 1 h w"], Float[Tensor, "n c h w"]]:
    """Every field, light first and weather after it, as one gain and one glow."""
    gain = torch.ones(len(draw), 1, size_px, size_px, device=draw.place.device)
    glow = torch.zeros_like(gain)
    for transform in draw.stages.kind(Field, "light", "camera"):
        more, add = transform.fields(draw.of(transform), size_px, size_px)
        gain, glow = more * gain, more * glow + add
    return gain, glow


def _lamp(draw: Draw, scenes: Scenes) -> Float[Tensor, "n 1 1 1"]:
    """How bright white is in each view: added light (gloss, glare, fog) comes from the same sun as the rest."""
    gain = draw.of(draw.stages.get(light.Exposure))["gain"]
    return (gain * scenes.gain.mean(1))[:, None, None, None]


def _mix(matrix: Float[Tensor, "n 3 k"], image: Float[Tensor, "n k h w"]) -> Float[Tensor, "n 3 h w"]:
    return torch.bmm(matrix, image.flatten(2)).unflatten(2, image.shape[-2:])


def _printed(draw: Draw, scenes: Scenes, matrix: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 3 11"]:
    """Monomials -> ink -> the scene's own light -> the world's light and camera."""
    ink = draw.stages.get(Ink)
    seen = scenes.gain[:, :, None] * draw.of(ink)["response"]
    seen[:, :, 0] += scenes.bias
    return matrix @ seen


def _spread(draw: Draw, sensor_px: Float[Tensor, " n"], *, staged: bool) -> Float[Tensor, "n 4"]:
    """Blur of the optics in frame px, and of sensor px wider than the frame's (a photograph already has its own)."""
    spread = torch.zeros(len(draw), 4, device=sensor_px.device)
    for optics in draw.stages.kind(Optics, "camera"):
        spread = spread + optics.spread(draw.of(optics))
    spread = spread * torch.stack([sensor_px**2, sensor_px**2, sensor_px, sensor_px], 1)
    zoom = draw.of(draw.stages.get(Relative))["zoom"]
    own = 1.0 if staged else (sensor_px / zoom).clamp(min=1)
    wider = ((sensor_px**2 - own**2) / 12).clamp(min=0)
    return spread + torch.stack([wider, wider, 0 * wider, 0 * wider], 1)


def _paste(linear: Float[Tensor, "n 3 h w"], exposure: Exposure, artwork: Artwork) -> Float[Tensor, "n 3 h w"]:
    """Replace what the artwork covers, inside the smallest window that holds it in every view."""
    place = artwork.place_mm.to(linear).expand(len(exposure), 4)
    to_px = _mounted(exposure, place)
    height, width = linear.shape[-2:]
    bend = exposure.draw.stages.get(Bend).share
    slack = max(0.1, bend + 0.5 / min(artwork.rgb.shape[-2:]))
    top, left, bottom, right = _window(to_px, place, height, width, slack=slack)
    if bottom <= top or right <= left:
        return linear
    flat = _flatten(exposure, artwork, to_px, place, (top, left, bottom, right))
    cover = flat[:, :1].detach()
    window = (..., slice(top, bottom), slice(left, right))
    change = exposure.shade[window] * _mix(exposure.colour, flat) - cover * exposure.base[window]
    return linear + pad(change, (left, width - right, top, height - bottom))


def _replace(linear: Float[Tensor, "n 3 h w"], exposure: Exposure, artwork: Artwork) -> Float[Tensor, "n 3 h w"]:
    """Another photograph in place of the scene's (norm balls): sampled and lit exactly as the scene's own."""
    picture = _photograph(artwork.rgb, exposure.warp, exposure.level, linear.shape[-1])
    return linear + exposure.shade * _mix(exposure.light, picture) - exposure.base


def _mounted(exposure: Exposure, place: Float[Tensor, "n 4"]) -> Homography:
    placement = exposure.draw.stages.get(Placement)
    centre = (place[:, :2] + place[:, 2:]) / 2
    return exposure.to_px @ placement.homography(exposure.draw.of(placement), centre)


@torch.no_grad()
def _window(
    to_px: Homography, place: Float[Tensor, "n 4"], height: int, width: int, *, slack: float
) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of the box round the artwork in all views; slack: for its bilinear edge and the bend."""
    corners = torch.stack([place[:, [0, 1]], place[:, [2, 1]], place[:, [2, 3]], place[:, [0, 3]]], 1)
    seen = project(to_px, corners)
    margin = 1 + slack * (seen.amax((0, 1)) - seen.amin((0, 1)))
    low = (seen.amin((0, 1)) - margin).floor().clamp(min=0).int().tolist()
    high = (seen.amax((0, 1)) + margin).ceil().int().tolist()
    return low[1], low[0], min(high[1], height), min(high[0], width)


def _flatten(
    exposure: Exposure,
    artwork: Artwork,
    to_px: Homography,
    place: Float[Tensor, "n 4"],
    window: tuple[int, int, int, int],
) -> Float[Tensor, "n 11 wh ww"]:
    """The artwork's monomials as the window's pixels see them."""
    top, left, bottom, right = window
    with torch.no_grad():
        pixels = pixel_grid(top, left, bottom - top, right - left, device=to_px.device).expand(len(to_px), -1, 2)
        unit = (project(to_px.inverse(), pixels) - place[:, None, :2]) / (place[:, None, 2:] - place[:, None, :2])
        bend = exposure.draw.stages.get(Bend)
        unit = bend.pull(exposure.draw.of(bend), unit)
        texels_per_mm = artwork.rgb.shape[-1] / (place[:, 2] - place[:, 0])
        level = level_for(texels_per_mm / exposure.px_per_mm * exposure.sensor_px.clamp(min=1))
    levels = pyramid(monomials(artwork.rgb, artwork.alpha), levels=min(_LEVELS, int(level.max())))
    return sample_pyramid(levels, unit, level, height=bottom - top, width=right - left)


def _record(linear: Float[Tensor, "n 3 h w"], exposure: Exposure) -> Float[Tensor, "n 3 h w"]:
    """Sensor noise in linear light, encoding, tone curve, JPEG."""
    draw = exposure.draw
    for noise in draw.stages.kind(Noise, "camera"):
        linear = noise.add(linear, draw.of(noise), exposure.sensor_px.clamp(max=1))
    images = to_srgb(linear.clamp(0, 1))
    for tone in draw.stages.kind(Tone, "camera"):
        images = tone.apply(images, draw.of(tone))
    for jpeg in draw.stages.kind(Jpeg, "camera"):
        images = jpeg.apply(images, draw.of(jpeg))
    return images


def sign_px(scenes: Scenes) -> Float[Tensor, " b"]:
    """How wide the signs are in their original photographs."""
    outline = project(scenes.surface, scenes.faces.outline_mm[scenes.face])
    return (outline.amax(1) - outline.amin(1)).amax(1) / scenes.native_px
