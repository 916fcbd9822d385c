"""A world of photographs of a known sign: their exposure, white balance, contrast, blur and noise, together.

What photographs have in common is not independent: noise belongs to little light, shadow to sun. So the world is a
mixture. The photographs are halved again and again at the median of what differs most among them, until each part
holds a few; a part is a component, whose ranges are those of its photographs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from physadv.calibration.compare import crop_statistics
from physadv.calibration.difference import difference, linear
from physadv.calibration.face import Face, Sign, read_sign
from physadv.calibration.world import kelvin_span, replaced, span, temperatures
from physadv.capture.judge import MEASURED_PX, cut_out, locate
from physadv.capture.layout import Layout
from physadv.capture.measure import measure
from physadv.capture.photos import Photo
from physadv.capture.pose import Pose
from physadv.capture.quads import Quad
from physadv.errors import UserError
from physadv.scenes import Scenes
from physadv.targets.base import Frame
from physadv.threats import Artwork
from physadv.transforms.base import Range
from physadv.transforms.camera import Balance, Defocus, Jpeg, Motion, Noise, Sharpen, Tone
from physadv.transforms.colour import saturation_matrix
from physadv.transforms.light import Exposure, Glare, Gradient, Shadow, Temperature, Veil
from physadv.transforms.stages import Stages
from physadv.transforms.world import World

_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
_SATURATION = np.linspace(0.3, 2, 35)
FEWEST = 4  # photographs: fewer say nothing of a spread
_PART = 3  # photographs of a component at least
_CONTEXT = 0.1  # of the crop in which blur is measured
_OTHERWISE = 0.08  # of white: what is left of a face beyond noise where its letters are drawn in another way
_LIMITS: dict[str, Range] = {
    "stops": (-8, 8), "saturation": (0, 3), "veil": (0, 0.5), "blur_px": (-2, 50),
    "shot": (0, 0.1), "read": (0, 0.3), "strength": (0, 0.95), "shade": (0, 1),
}  # fmt: skip
_FAMILIES = ("stops", "kelvin", "saturation", "veil", "blur_px", "shot", "strength", "shade")


@dataclass(frozen=True)
class Seen:
    """One photograph in the world's parameters. tint: what the black body leaves, in stops per channel.

    strength: of the gradient. shade: share of light that a shadow takes; 0 without one. quality: of the JPEG; None: it
    is none. blur_px: None where the face does not tell it.
    """

    stops: float
    kelvin: float
    tint: Float[np.ndarray, "3"]
    saturation: float
    veil: float
    blur_px: float | None
    shot: float
    read: float
    strength: float
    shade: float
    quality: float | None = None


@dataclass(frozen=True)
class Taken:
    """One photograph: what was measured of its sign, where it was taken from, and the statistics of its crop."""

    sign: Sign
    pose: Pose
    figures: Float[np.ndarray, "3"]
    quality: float | None = None
    blur_px: float | None = None


def take(photo: Photo, by: Layout | Quad, face: Face, scenes: Scenes, artwork: Artwork | None = None) -> Taken:
    """Measure one photograph of the staged sign. UserError: it is not found, too small, or outside the photograph."""
    sighting = locate(photo, by, scenes)
    width, height = scenes.faces.size_mm[0].tolist()
    corners = sighting.plane.project(np.array([[0, 0], [width, 0], [width, height], [0, height]]))
    sign = read_sign(photo.pixels / 255, face, corners, name=photo.name)
    figures = crop_statistics(photo, sighting.plane, scenes)
    crop = cut_out(photo, sighting.plane, scenes, Frame(MEASURED_PX, _CONTEXT)).sight(scenes)
    said = measure(crop, scenes, artwork, place=False)
    return Taken(sign, sighting.pose, figures, photo.quality, None if said is None else said.blur_px)


def seen_of(sign: Sign, face: Face, *, context: float = _CONTEXT) -> Seen:
    """The world's parameters that come nearest to what light and camera did to the face's colours.

    For every saturation, gains follow from the face's white and stray light from what a black face would still show.
    """
    colours, weight = _palette(face)
    target = np.clip(colours * sign.gain + sign.offset, 0, None)
    fits = [_lit(colours, weight, target, float(s)) for s in _SATURATION]
    saturation, gain, veil = min(fits, key=lambda fit: fit[0])[1:]
    light = max(float(gain @ _LUMINANCE), 1e-6)
    kelvin, tint = temperatures((gain / light)[None])
    wide = 1 + 2 * context  # of a frame, in faces; the world's gradient counts from its middle: half of it to a side
    return Seen(
        stops=float(np.log2(light)),
        kelvin=float(kelvin[0]),
        tint=tint[0],
        saturation=saturation,
        veil=veil,
        blur_px=sign.blur_px,
        shot=min(sign.shot, 0.1),
        read=min(sign.read, 0.3),
        strength=min(float(np.hypot(*sign.slope)) * wide / 2, 0.95),
        shade=sign.shade,
    )


def _palette(face: Face) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]]:
    """The face's colours in linear light, and the share of it that each has."""
    shown = (face.alpha * face.bare > 0.5).ravel()
    levels = np.round(face.srgb.reshape(-1, 3)[shown] * 31).astype(int)
    packed, counts = np.unique(levels @ [1024, 32, 1], return_counts=True)
    order = counts.argsort()[::-1][:64]
    rgb = np.stack([packed >> 10, packed >> 5 & 31, packed & 31], 1)[order] / 31
    return linear(rgb), counts[order] / counts[order].sum()


def _lit(
    colours: Float[np.ndarray, "n 3"],
    weight: Float[np.ndarray, " n"],
    target: Float[np.ndarray, "n 3"],
    saturation: float,
) -> tuple[float, float, Float[np.ndarray, "3"], float]:
    """Error in CIEDE2000, saturation, gains and veil: target = S (gain ((1 − veil) colours + veil))."""
    mix = saturation_matrix(torch.tensor([saturation], dtype=torch.float64))[0].numpy()
    plain = target @ np.linalg.inv(mix).T
    mean, middle = weight @ colours, weight @ plain
    spread = np.maximum(weight @ (colours - mean) ** 2, 1e-6)
    slope = np.maximum(weight @ ((colours - mean) * (plain - middle)) / spread, 1e-4)
    offset = middle - slope * mean
    veil = float(np.clip(np.median(offset / (slope + offset)), 0, 0.5))
    shown = (1 - veil) * colours + veil
    gain = np.maximum((weight @ (shown * plain)) / (weight @ shown**2), 1e-4)
    made = np.clip((shown * gain) @ mix.T, 0, None)
    return float(weight @ difference(made, target)), saturation, gain, veil


def fit_photographs(taken: Sequence[Taken], face: Face, base: World, *, name: str) -> World:
    """`base` with the light and camera of photographs of the sign; printer, mounting and poses stay its own.

    UserError: the base is a mixture or reserved, or there are fewer than four photographs.
    """
    if len(base.components) != 1 or base.reserved:
        raise UserError(f"The world {base.name!r} is a mixture or only judges; fit to a plain one, such as drive-by.")
    if len(taken) < FEWEST:
        raise UserError(f"{len(taken)} photographs of the sign say nothing of how they differ: give {FEWEST} or more.")
    seen = [_as_cut(one, seen_of(one.sign, face)) for one in taken]
    components = tuple(component(base.components[0], [seen[i] for i in part]) for part in parts(seen))
    return World(name, components, f"{base.name} with light and camera of {len(taken)} photographs of a sign.")


def _as_cut(one: Taken, seen: Seen) -> Seen:
    """With the blur that is left where a target sees it, if the face tells: what cuts the photograph sharpens it.

    Corners that are a little off, a shadow or a bent sign look like blur in either measurement: the smaller counts. A
    face that is not the one drawn looks blurred however sharp it is: it tells none.
    """
    full_px = one.sign.blur_px
    blur_px = full_px if one.blur_px is None else min(full_px, one.blur_px)
    return replace(seen, quality=one.quality, blur_px=blur_px if _as_drawn(one.sign) else None)


def _as_drawn(sign: Sign) -> bool:
    """Whether the drawn face explains the photograph but for its noise, which is taken at half of white."""
    white = float((sign.gain + sign.offset) @ _LUMINANCE)
    noise = (sign.shot * white / 2 + sign.read**2) / max(white, 1e-6) ** 2
    return sign.left**2 - noise < _OTHERWISE**2


def parts(seen: Sequence[Seen], *, smallest: int = _PART) -> list[Int[np.ndarray, " m"]]:
    """Rows of the photographs by component: halved at the median of what spreads most, relative to all of them."""
    table = np.array([[getattr(one, family) for family in _FAMILIES] for one in seen], float)
    told = np.isfinite(table)
    mean = np.where(told, table, 0).sum(0) / np.maximum(told.sum(0), 1)
    table = _ranked(np.where(told, table, mean))
    found, open_ = [], [np.arange(len(seen))]
    while open_:
        rows = open_.pop()
        if len(rows) < 2 * smallest:
            found.append(rows)
            continue
        axis = int(np.ptp(table[rows], axis=0).argmax())
        order = rows[table[rows, axis].argsort(kind="stable")]
        open_ += [order[: len(rows) // 2], order[len(rows) // 2 :]]
    return found


def _ranked(table: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Each column relative to its standard deviation; columns without any spread count for nothing."""
    spread = table.std(0)
    return np.where(spread > 1e-9, table / np.maximum(spread, 1e-9), 0.0)


def component(base: Stages, seen: Sequence[Seen]) -> Stages:
    """The base with the ranges of some photographs."""

    def ends(family: str) -> Range:
        return span(np.array([getattr(one, family) for one in seen]), _LIMITS[family])

    tints = np.stack([one.tint for one in seen])
    shaded = [one.shade for one in seen if one.shade > 0]
    shadow = base.get(Shadow)
    if shaded:
        depth = span(np.array(shaded), (0, 0.95))
        shadow = replace(shadow, probability=round(len(shaded) / len(seen), 3), depth=depth)
    else:
        shadow = replace(shadow, probability=0.0)
    measured: list[Any] = [
        replace(base.get(Exposure), stops=ends("stops")),
        replace(base.get(Temperature), kelvin=kelvin_span(np.array([one.kelvin for one in seen]))),
        Veil(share=ends("veil")),
        Gradient(strength=ends("strength")),
        shadow,
        Glare(),
        Balance(stops=round(min(float(np.sqrt(3 * (tints**2).mean())), 2.0), 4), saturation=ends("saturation")),
        Noise(shot=ends("shot"), read=ends("read")),
        Tone(),
        *_focus(seen),
        *_files(seen),
    ]
    return replaced(base, measured)


def _focus(seen: Sequence[Seen]) -> list[Any]:
    """Blur, and sharpening below none; where no face tells them, the base's."""
    told = [one.blur_px for one in seen if one.blur_px is not None]
    if not told:
        return []
    low, high = span(np.array(told), _LIMITS["blur_px"])
    amount = round(min(high, 0.0) ** 2, 5), round(min(low, 0.0) ** 2, 5)
    return [Defocus(sigma_px=(max(low, 0.0), max(high, 0.0))), Motion(), Sharpen(amount=amount)]


def _files(seen: Sequence[Seen]) -> list[Jpeg]:
    """As they were saved; none where one was not saved as JPEG: then the base's."""
    known = [one.quality for one in seen if one.quality is not None]
    return [Jpeg(quality=span(np.array(known), (5, 100)))] if known and len(known) == len(seen) else []
