"""One photograph per view: `prepare` everything that does not depend on the artwork, then `expose` the artwork to it.

With f the artwork's monomials warped into the view, cover its share of a pixel, and all light in linear RGB:

    photograph = camera( blur( (1 − cover) · base + shade · (colour · f) + veil ) )

base: the lit scene; shade: the light's variation over the frame; colour: printer, light and camera as one 3 × 11
matrix; veil: light added after the sign (gloss, glare, fog). Only f carries a gradient. So the light of the clean scene
is blurred once, what the artwork adds to it is blurred in its own window, and only there is there a slope to keep.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from physadv.scenes.base import Scenes
from physadv.targets.base import Frame
from physadv.threats.base import Artwork
from physadv.transforms import light
from physadv.transforms.base import Colour, Field, Optics, Params
from physadv.transforms.camera import Sharpen
from physadv.transforms.develop import Camera, camera_of, filed, record
from physadv.transforms.geometry import Geometry, geometry
from physadv.transforms.mount import Bend, Placement
from physadv.transforms.optics import Blur, blur_of
from physadv.transforms.paste import Places, Signs, Windows, differences, places
from physadv.transforms.print import Ink
from physadv.transforms.scenery import backdrop_of, boxes_of, outside, photographed, staged
from physadv.transforms.stages import Draw
from physadv.transforms.view import Relative
from physadv.transforms.warp import level_for

_SHARP = 0.8  # photographs are sampled a little finer than one texel per px: they are blurred enough
_MOST = 0.5  # of a frame: a window that holds more is not recorded apart from the rest
_TOGETHER = 2**18  # values of a frame-sized tensor at once: what a processor's cache holds of several


@dataclass(frozen=True)
class Exposure:
    """What n views, with m signs in them, do to any artwork."""

    draw: Draw
    base: Float[Tensor, "n 3 h w"]
    clean: Float[Tensor, "n 3 h w"]  # base + veil, behind the lens
    shade: Float[Tensor, "n 1 h w"]
    light: Float[Tensor, "n 3 3"]  # light and camera alone, for artwork that is no print
    colour: Float[Tensor, "m 3 11"]  # printer, the sign's own light, light and camera
    at: Geometry
    level: Int[Tensor, " n"]  # of the pyramid that the photograph is sampled from
    blur: Blur
    camera: Camera
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
    at, size = geometry(scenes, draw, frame=frame), frame.size_px
    level = level_for(_SHARP * scenes.native_px * draw.of(draw.stages.get(Relative))["zoom"] / at.sensor_px)
    lit, offset = _colours(draw, ("light",))
    camera, veil = _colours(draw, ("camera",))
    matrix, lamp = camera @ lit, _lamp(draw, scenes)
    gloss = lamp * (camera @ offset[:, :, None])[..., None]
    veil = lamp * veil[:, :, None, None]
    blur = _blur(draw, at.sensor_px, size, staged=scenes.staged)
    base, clean = (matrix.new_empty(len(draw), 3, size, size) for _ in range(2))
    shade = matrix.new_ones(len(draw), 1, size, size)
    backdrop, box = (backdrop_of(draw), boxes_of(scenes, at, size)) if scenes.staged else ({}, None)
    fields = _fields_of(draw)
    for rows in chunks(base):
        if box is not None:
            scene = staged(scenes, backdrop, box, frame, at, rows)
        else:
            scene = photographed(scenes.images[rows], at.warp[rows], level[rows], size)
        glow = _light_up(shade[rows], fields, rows)
        torch.mul(_mix(matrix[rows], scene), shade[rows], out=base[rows])
        bright = torch.addcmul(veil[rows], shade[rows], gloss[rows]).add_(base[rows])
        if glow is not None:
            bright.add_(_mix(camera[rows], glow.expand(-1, 3, -1, -1)).mul_(lamp[rows]))
        clean[rows] = blur.take(rows).whole(bright)
    return Exposure(
        draw=draw,
        base=base,
        clean=clean,
        shade=shade,
        light=matrix,
        colour=_printed(draw, scenes, matrix),
        at=at,
        level=level,
        blur=blur,
        camera=camera_of(draw, at.sensor_px),
        of=scenes.of,
        worn=_worn(scenes, frame),
        outside=None if scenes.extent_px is None else outside(scenes.extent_px, at.warp, size),
        pad=frame.pad,
    )


def chunks(frames: Float[Tensor, "n c h w"]) -> Iterator[slice]:
    """Views that are computed together: of large ones few, so that a processor finds all of them in its cache."""
    count = len(frames) if frames.is_cuda else max(1, _TOGETHER // frames[:1].numel())
    for start in range(0, len(frames), count):
        yield slice(start, start + count)


def _worn(scenes: Scenes, frame: Frame) -> Int[Tensor, " k"] | None:
    if not frame.whole and scenes.photograph is None and scenes.worn is None:
        return None
    return torch.arange(len(scenes.face)) if scenes.worn is None else scenes.worn.nonzero()[:, 0]


def expose(exposure: Exposure, artwork: Artwork | None) -> Float[Tensor, "n 3 h w"]:
    """The photographs, differentiable in the artwork; without an artwork, the clean ones."""
    if artwork is None:
        return _filed(exposure, _plain(exposure))
    if artwork.printed:
        signs = _signs(exposure, artwork)
        added, of = differences(signs, exposure.base, exposure.shade), signs.of
    else:
        added, of = [_replaced(exposure, artwork)], torch.arange(len(exposure), device=exposure.base.device)
    blurred = [_behind_lens(exposure.blur, of, window, block) for window, block in added]
    windows = [places(window, of) for window, _ in blurred]
    return _Developed.apply(exposure, windows, *(block for _, block in blurred))


def _behind_lens(
    blur: Blur, of: Int[Tensor, " k"], window: Windows, block: Float[Tensor, "r 3 h w"]
) -> tuple[Windows, Float[Tensor, "r 3 y x"]]:
    """The block through the lens, in the larger window that then holds it."""
    reach, views = blur.reach, of[window.rows]
    if reach == 0:
        return window, block
    height, width = min(window.height + 2 * reach, blur.height), min(window.width + 2 * reach, blur.width)
    top = (window.top - reach).clamp(min=0).clamp(max=blur.height - height)
    left = (window.left - reach).clamp(min=0).clamp(max=blur.width - width)
    wide = blur.take(views).window(block, window.top, window.left, to=(top, left, height, width))
    return Windows(window.rows, top, left, height, width), wide


class _Developed(torch.autograd.Function):
    """The photographs, with light added in windows: there they are recorded again, and their slope is kept."""

    @staticmethod
    def forward(ctx: Any, exposure: Exposure, windows: list[Places], *blocks: Tensor) -> Float[Tensor, "n 3 h w"]:
        ctx.windows, ctx.outside = windows, exposure.outside
        if len(windows) == 1 and windows[0].shared(len(exposure)) and windows[0].share(exposure.clean) > _MOST:
            picture, slope = _added(exposure, windows[0], blocks[0], slope=ctx.needs_input_grad[2])
            ctx.slopes = [slope]
            return _filed(exposure, picture)
        ctx.slopes, picture, clean = [], _plain(exposure), exposure.clean
        if sum(len(window.of) for window in windows) > len({view for window in windows for view in window.of}):
            clean, blocks = _summed(clean, windows, blocks), tuple(torch.zeros(1) for _ in blocks)
        for window, block, wanted in zip(windows, blocks, ctx.needs_input_grad[2:], strict=True):
            bright = window.cut(clean) + block.to(clean)
            camera = exposure.camera.take(torch.tensor(window.of, device=clean.device))
            seen, slope = record(bright, camera, window.top, window.left, slope=wanted)
            for part, values in zip(window.views(picture), seen, strict=True):
                part.copy_(values)
            ctx.slopes.append(slope)
        return _filed(exposure, picture)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull: Float[Tensor, "n 3 h w"]) -> Any:
        if ctx.outside is not None:
            pull = pull * (1 - ctx.outside)
        pairs = zip(ctx.windows, ctx.slopes, strict=True)
        return None, None, *(None if slope is None else window.cut(pull) * slope for window, slope in pairs)


def _added(
    exposure: Exposure, window: Places, block: Float[Tensor, "n 3 y x"], *, slope: bool
) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n 3 y x"] | None]:
    """The pictures with the block in the one window of all of them, and their slope there."""
    picture, steep = torch.empty_like(exposure.clean), torch.empty_like(block) if slope else None
    for rows in chunks(picture):
        bright = exposure.clean[rows].clone()
        window.in_all(bright).add_(block[rows])
        none = [0] * len(bright)
        picture[rows], found = record(bright, exposure.camera.take(rows), none, none, slope=slope)
        if steep is not None and found is not None:
            steep[rows] = window.in_all(found)
    return picture, steep


def _summed(clean: Tensor, windows: list[Places], blocks: tuple[Tensor, ...]) -> Float[Tensor, "n 3 h w"]:
    """The light of all windows together, where several lie in one view and may overlap."""
    clean = clean.clone()
    for window, block in zip(windows, blocks, strict=True):
        for part, values in zip(window.views(clean), block, strict=True):
            part.add_(values)
    return clean


@torch.no_grad()
def _plain(exposure: Exposure) -> Float[Tensor, "n 3 h w"]:
    """The clean photographs before JPEG."""
    picture = torch.empty_like(exposure.clean)
    for rows in chunks(picture):
        none = [0] * len(picture[rows])
        picture[rows], _ = record(exposure.clean[rows].clone(), exposure.camera.take(rows), none, none, slope=False)
    return picture


@torch.no_grad()
def _filed(exposure: Exposure, picture: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """JPEG, and the padding laid over it."""
    picture = filed(picture, exposure.camera)
    if exposure.outside is None:
        return picture
    return torch.lerp(picture, picture.new_tensor(exposure.pad), exposure.outside)


def _replaced(exposure: Exposure, artwork: Artwork) -> tuple[Windows, Float[Tensor, "n 3 h w"]]:
    """Another photograph in place of the scene's (norm balls): sampled and lit exactly as the scene's own."""
    count, size = len(exposure), exposure.base.shape[-1]
    picture = photographed(artwork.rgb, exposure.at.warp, exposure.level, size)
    start = torch.zeros(count, dtype=torch.long, device=exposure.base.device)
    everywhere = Windows(torch.arange(count, device=start.device), start, start, size, size)
    return everywhere, exposure.shade * _mix(exposure.light, picture) - exposure.base


def _colours(draw: Draw, stages: tuple[str, ...]) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 3"]]:
    """Every colour transform of the stages as one matrix and one offset."""
    device = draw.place.device
    matrix, offset = torch.eye(3, device=device).repeat(len(draw), 1, 1), torch.zeros(len(draw), 3, device=device)
    for transform in draw.stages.kind(Colour, *stages):
        step, add = transform.affine(draw.of(transform))
        matrix, offset = step @ matrix, (step @ offset[:, :, None])[:, :, 0] + add
    return matrix, offset


def _fields_of(draw: Draw) -> list[tuple[Field, Params, list[bool]]]:
    """Every field with its parameters, and where it acts; light first and weather after it."""
    given = ((one, draw.of(one)) for one in draw.stages.kind(Field, "light", "camera"))
    return [(one, params, one.acts(params).tolist()) for one, params in given]


def _light_up(
    shade: Float[Tensor, "r 1 h w"], fields: list[tuple[Field, Params, list[bool]]], rows: slice
) -> Float[Tensor, "r c h w"] | None:
    """All fields as one gain, multiplied into `shade`, and one glow; None where nothing glows."""
    glow: Tensor | None = None
    for field, params, acts in fields:
        acting = [row for row, on in enumerate(acts[rows]) if on]
        if not acting:
            continue
        some = torch.tensor(acting, device=shade.device)
        gain, add = field.fields({name: value[rows][some] for name, value in params.items()}, *shade.shape[-2:])
        if len(acting) == len(shade):
            shade *= gain
        else:
            shade[some] = shade[some] * gain
        if glow is None and not field.glows:
            continue
        glow = shade.new_zeros(len(shade), 3, *shade.shape[-2:]) if glow is None else glow
        for row, factor, more in zip(acting, gain, add, strict=True):
            glow[row].mul_(factor).add_(more)
    return glow


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


def _blur(draw: Draw, sensor_px: Float[Tensor, " n"], size: int, *, staged: bool) -> Blur:
    """Optics, and the camera's sharpening where the scene is no photograph that was sharpened already."""
    sharpen, spread = draw.stages.get(Sharpen), _spread(draw, sensor_px, staged=staged)
    sharpened = staged and type(sharpen) in draw.params
    return blur_of(spread, size, size, halo=sharpen.halo(draw.of(sharpen), sensor_px) if sharpened else None)


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
    if artwork.cast:  # it hangs on nothing, and no light comes back from it
        mounted = {family: values for family, values in draw.params.items() if family not in (Placement, Bend)}
        draw, colour = replace(draw, stages=draw.stages.without("mount"), params=mounted), 0 * colour
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
