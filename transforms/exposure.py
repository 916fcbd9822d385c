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

from physadv.scenes.base import Scenes, floats
from physadv.targets.base import Frame
from physadv.threats.base import Artwork
from physadv.transforms import light
from physadv.transforms.base import Colour, Field, Optics
from physadv.transforms.camera import Jpeg, Noise, Tone
from physadv.transforms.colour import to_linear, to_srgb
from physadv.transforms.geometry import Geometry, geometry
from physadv.transforms.mount import Bend, Placement
from physadv.transforms.optics import blur_matrices, separable
from physadv.transforms.paste import Signs, paste
from physadv.transforms.print import Ink
from physadv.transforms.stages import Draw
from physadv.transforms.view import Backdrop, Relative
from physadv.transforms.warp import Homography, level_for, pixel_grid, project, pyramid, sample_pyramid

_SHARP = 0.8  # photographs are sampled a little finer than one texel per px: they are blurred enough


@dataclass(frozen=True)
class Exposure:
    """What n views, with m signs in them, do to any artwork."""

    draw: Draw
    base: Float[Tensor, "n 3 h w"]
    veil: Float[Tensor, "n 3 h w"]
    shade: Float[Tensor, "n 1 h w"]
    light: Float[Tensor, "n 3 3"]  # light and camera alone, for artwork that is no print
    colour: Float[Tensor, "m 3 11"]  # printer, the sign's own light, light and camera
    at: Geometry
    level: Int[Tensor, " n"]  # of the pyramid that the photograph is sampled from
    spread_px: Float[Tensor, "n 4"]  # blur, frame px
    of: Int[Tensor, " m"]  # the view that each sign is in
    worn: Int[Tensor, " k"] | None  # the signs that carry the artwork; None: crops, sign i is in view i and carries it
    outside: Float[Tensor, "n 1 h w"] | None  # the share of each px that is no photograph but padding
    pad: float  # of that sRGB value

    def __len__(self) -> int:
        return len(self.base)


@torch.no_grad()
def prepare(scenes: Scenes, draw: Draw, *, frame: Frame) -> Exposure:
    """Views 0..n−1 of scenes 0..n−1, without any artwork."""
    draw = (draw if scenes.staged else draw.on_photographs()).to(scenes.images.device)
    at = geometry(scenes, draw, frame=frame)
    level = level_for(_SHARP * scenes.native_px * draw.of(draw.stages.get(Relative))["zoom"] / at.sensor_px)
    if scenes.staged:
        scene = _staged(scenes, draw, frame, at)
    else:
        scene = _photograph(floats(scenes.images), at.warp, level, frame.size_px)
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
        at=at,
        level=level,
        spread_px=_spread(draw, at.sensor_px, staged=scenes.staged),
        of=scenes.of,
        worn=_worn(scenes, frame),
        outside=None if scenes.extent_px is None else _outside(scenes.extent_px, at.warp, frame.size_px),
        pad=frame.pad,
    )


def _worn(scenes: Scenes, frame: Frame) -> Int[Tensor, " k"] | None:
    if not frame.whole and scenes.photograph is None and scenes.worn is None:
        return None
    return torch.arange(len(scenes.face)) if scenes.worn is None else scenes.worn.nonzero()[:, 0]


def expose(exposure: Exposure, artwork: Artwork | None) -> Float[Tensor, "n 3 h w"]:
    """The photographs, differentiable in the artwork; without an artwork, the clean ones."""
    linear = exposure.base + exposure.veil
    if artwork is not None:
        if artwork.printed:
            linear = paste(linear, _signs(exposure, artwork), exposure.base, exposure.shade)
        else:
            linear = _replace(linear, exposure, artwork)
    if bool((exposure.spread_px > 0).any()):
        linear = separable(linear, *blur_matrices(exposure.spread_px, *linear.shape[-2:]))
    images = _record(linear, exposure)
    return images if exposure.outside is None else torch.lerp(images, images.new_tensor(exposure.pad), exposure.outside)


def _pull(warp: Homography, size_px: int) -> Float[Tensor, "n hw 2"]:
    """Where each frame px comes from."""
    points = pixel_grid(0, 0, size_px, size_px, device=warp.device)
    return project(warp.inverse(), points.expand(len(warp), -1, 2))


def _outside(extent_px: Float[Tensor, "n 2"], warp: Homography, size_px: int) -> Float[Tensor, "n 1 h w"]:
    """1 where a frame px shows nothing of the photograph, its edge one px soft."""
    points = _pull(warp, size_px)
    depth = torch.minimum(points, extent_px[:, None] - points).amin(2)
    return (0.5 - depth).clamp(0, 1).reshape(-1, 1, size_px, size_px)


def _staged(scenes: Scenes, draw: Draw, frame: Frame, at: Geometry) -> Float[Tensor, "n 3 h w"]:
    """The sign over its backdrop, linear light."""
    size_mm = scenes.faces.size_mm[scenes.face]
    texels = scenes.faces.images.shape[-1] / size_mm.amax(1) / at.px_per_mm * at.sensor_px.clamp(min=1)
    points = _pull(at.warp, frame.size_px) / size_mm[:, None]
    face = sample_pyramid(
        scenes.faces.light, points, level_for(texels), height=frame.size_px, width=frame.size_px, source=scenes.face
    )
    return _backdrop(scenes, draw, frame) * (1 - face[:, 3:]) + face[:, :3]


def _backdrop(scenes: Scenes, draw: Draw, frame: Frame) -> Float[Tensor, "n 3 h w"]:
    assert scenes.backgrounds is not None
    params = draw.of(draw.stages.get(Backdrop))
    which = (params["which"] * len(scenes.backgrounds)).long().clamp(max=len(scenes.backgrounds) - 1)
    grid = pixel_grid(0, 0, frame.size_px, frame.size_px, device=which.device) / frame.size_px
    crop = torch.ones_like(params["crop"]) if frame.whole else params["crop"]
    corner = params["corner"] * (crop < 1)[:, None]
    points = corner[:, None] + crop[:, None, None] * grid
    level = level_for(crop * scenes.backgrounds.shape[-1] / frame.size_px)
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
    gain, own = draw.of(draw.stages.get(light.Exposure))["gain"], scenes.gain.mean(1)
    if scenes.photograph is not None:  # the mean of its signs; of a photograph without any, as it is
        signs = torch.zeros_like(gain).index_add(0, scenes.photograph, torch.ones_like(own))
        own = torch.zeros_like(gain).index_add(0, scenes.photograph, own) / signs.clamp(min=1) + (signs == 0)
    return (gain * own)[:, None, None, None]


def _mix(matrix: Float[Tensor, "n 3 k"], image: Float[Tensor, "n k h w"]) -> Float[Tensor, "n 3 h w"]:
    return torch.bmm(matrix, image.flatten(2)).unflatten(2, image.shape[-2:])


def _printed(draw: Draw, scenes: Scenes, matrix: Float[Tensor, "n 3 3"]) -> Float[Tensor, "m 3 11"]:
    """Monomials -> ink -> the sign's own light -> the world's light and camera."""
    ink, of = draw.stages.get(Ink), scenes.of
    seen = scenes.gain[:, :, None] * draw.of(ink)["response"][of]
    seen[:, :, 0] += scenes.bias
    return matrix[of] @ seen


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


def _signs(exposure: Exposure, artwork: Artwork) -> Signs:
    """The signs that carry the artwork, and how it hangs on each."""
    draw, at = exposure.draw, exposure.at
    of, to_px, colour, px_per_mm = exposure.of, at.to_px, exposure.colour, at.px_per_mm
    if exposure.worn is not None:
        of, to_px, colour, px_per_mm = (part[exposure.worn] for part in (of, to_px, colour, px_per_mm))
        artwork = artwork.take(of)
    place = artwork.place_mm.to(to_px).expand(len(of), 4)
    placement, bend = draw.stages.get(Placement), draw.stages.get(Bend)
    mount, bent = ({name: value[of] for name, value in draw.of(one).items()} for one in (placement, bend))
    return Signs(
        artwork=artwork,
        of=of,
        to_px=to_px @ placement.homography(mount, (place[:, :2] + place[:, 2:]) / 2),
        colour=colour,
        place_mm=place,
        bend=bend,
        bent=bent,
        texels_per_px=artwork.rgb.shape[-1] / (place[:, 2] - place[:, 0]) / px_per_mm * at.sensor_px[of].clamp(min=1),
        shared=exposure.worn is None,
    )


def _replace(linear: Float[Tensor, "n 3 h w"], exposure: Exposure, artwork: Artwork) -> Float[Tensor, "n 3 h w"]:
    """Another photograph in place of the scene's (norm balls): sampled and lit exactly as the scene's own."""
    picture = _photograph(artwork.rgb, exposure.at.warp, exposure.level, linear.shape[-1])
    return linear + exposure.shade * _mix(exposure.light, picture) - exposure.base


def _record(linear: Float[Tensor, "n 3 h w"], exposure: Exposure) -> Float[Tensor, "n 3 h w"]:
    """Sensor noise in linear light, encoding, tone curve, JPEG."""
    draw = exposure.draw
    for noise in draw.stages.kind(Noise, "camera"):
        linear = noise.add(linear, draw.of(noise), exposure.at.sensor_px.clamp(max=1))
    images = to_srgb(linear.clamp(0, 1))
    for tone in draw.stages.kind(Tone, "camera"):
        images = tone.apply(images, draw.of(tone))
    for jpeg in draw.stages.kind(Jpeg, "camera"):
        images = jpeg.apply(images, draw.of(jpeg))
    return images
