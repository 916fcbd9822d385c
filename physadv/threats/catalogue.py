"""Threats by name: `patch:80mm` in, a spec out; and a spec resolved against the scenes it is meant for."""

import math
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TypeAlias

from physadv.errors import UserError
from physadv.scenes.base import Scenes
from physadv.threats.ball import L2, Linf
from physadv.threats.masks import MASKS
from physadv.threats.patch import Centre, Patch
from physadv.threats.poster import Poster
from physadv.threats.printed import Printed
from physadv.threats.sets import PALETTES
from physadv.threats.shadow import Shadow
from physadv.threats.stickers import Ring, Stickers

ThreatSpec: TypeAlias = Stickers | Ring | Patch | Poster | Shadow | Linf | L2

DEFAULT_RESOLUTION_PX = 64
_POSTER_DEFAULT = "0.3"
_SHADOW_DEFAULT = "0.43"  # Zhong et al. 2022: what they measured outdoors

_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_PERCENT = re.compile(rf"{_NUMBER}%")
_MILLIMETRES = re.compile(rf"{_NUMBER}(?:x{_NUMBER})?mm")
_PLACE = re.compile(rf"{_NUMBER},{_NUMBER}")
_FRACTION = re.compile(rf"{_NUMBER}(?:/{_NUMBER})?")


@dataclass(frozen=True)
class ThreatRow:
    """One line of `physadv threats`."""

    name: str
    example: str
    meaning: str


def list_threats() -> tuple[ThreatRow, ...]:
    return (
        ThreatRow(
            "stickers", "stickers:two-bars", f"opaque stickers: {', '.join(MASKS)}, or where --mask FILE.png is white"
        ),
        ThreatRow(
            "patch",
            "patch:80mm@300,450",
            "one patch: 80mm, 60x40mm, 10% of the face; :circle; @x,y mm, @random or @worst",
        ),
        ThreatRow("ring", "ring:4%", "an even band along the inside of the outline, as a share of the face"),
        ThreatRow("poster", "poster:0.3", f"the whole face, each colour changed by at most this ({_POSTER_DEFAULT})"),
        ThreatRow("shadow", "shadow:0.43", f"a triangle on the face with this share of the light ({_SHADOW_DEFAULT})"),
        ThreatRow("linf", "linf:8/255", "the photograph itself, each value changed by at most this much (digital)"),
        ThreatRow("l2", "l2:0.5", "the photograph itself, changed by at most this Euclidean norm (digital)"),
    )


def parse_threat(text: str, *, mask: Path | str | None = None, palette: str | None = None) -> ThreatSpec:
    """`kind:rest` -> spec. `mask` (a file or a built-in name) is for stickers, `palette` for what is cut and stuck on.

    UserError: unknown kind, mask or palette; a size that is none; a share above 100 %.
    """
    kind, _, rest = text.strip().partition(":")
    kinds = [row.name for row in list_threats()]
    if kind not in kinds:
        raise UserError(f"There is no threat {kind!r}: {_nearest(kind, kinds)}.")
    if mask is not None and kind != "stickers":
        raise UserError(f"A mask says where stickers go, not a {kind}: use the threat `stickers` or no mask.")
    if palette is not None and kind not in ("stickers", "patch", "ring"):
        raise UserError(f"A palette limits what is printed on stickers, patches and rings, not {kind}: leave it out.")
    colours = _palette(palette)
    if kind == "stickers":
        return Stickers(_mask(rest, mask), colours)
    if kind == "patch":
        return _patch(rest, colours)
    if kind == "ring":
        return Ring(_share(rest, "ring:4%"), colours)
    if kind == "shadow":
        return _shadow(rest or _SHADOW_DEFAULT)
    if kind == "l2":
        return L2(_positive(rest, "l2:0.5"))
    epsilon = _epsilon(kind, rest)
    return Poster(epsilon) if kind == "poster" else Linf(epsilon)


def resolve_threat(
    spec: ThreatSpec, scenes: Scenes, *, resolution_px: int = DEFAULT_RESOLUTION_PX, seed: int
) -> Printed:
    """`resolution_px`: pixels along the artwork's longer side. `seed`: for what is placed at random.

    A shared face gives one alpha and one place; scenes of several faces get one each.
    UserError: the threat does not fit these scenes.
    """
    if resolution_px < 2:
        raise UserError(f"An artwork of {resolution_px} px is no picture: give at least 2.")
    return spec.resolve(scenes, resolution_px=resolution_px, seed=seed)


def load_threat(
    text: str,
    scenes: Scenes,
    *,
    seed: int,
    mask: Path | str | None = None,
    palette: str | None = None,
    resolution_px: int = DEFAULT_RESOLUTION_PX,
) -> Printed:
    """`kind:rest` -> the threat on these scenes: `parse_threat`, then `resolve_threat`."""
    return resolve_threat(
        parse_threat(text, mask=mask, palette=palette), scenes, resolution_px=resolution_px, seed=seed
    )


def _nearest(wanted: str, known: list[str]) -> str:
    close = get_close_matches(wanted, known, n=1, cutoff=0.4)
    return f"did you mean {close[0]!r}" if close else f"there are {', '.join(known)}"


def _palette(name: str | None) -> str:
    if name is not None and name not in PALETTES:
        raise UserError(f"There is no palette {name!r}: {_nearest(name, list(PALETTES))}.")
    return name or "any"


def _mask(rest: str, mask: Path | str | None) -> str | Path:
    if rest and mask is not None:
        raise UserError(f"stickers:{rest} and a mask were both given: give one of them.")
    wanted = str(mask) if mask is not None else rest or "two-bars"
    if wanted in MASKS:
        return wanted
    if mask is not None and Path(mask).suffix:
        return Path(mask)
    raise UserError(f"There is no mask {wanted!r}: {_nearest(wanted, list(MASKS))}, or give --mask FILE.png.")


def _patch(rest: str, palette: str) -> Patch:
    body, _, place = rest.partition("@")
    size, _, shape = body.partition(":")
    if shape not in ("", "rect", "circle"):
        raise UserError(f"There is no patch shape {shape!r}: {_nearest(shape, ['rect', 'circle'])}.")
    millimetres = _MILLIMETRES.fullmatch(size)
    if not millimetres:
        return Patch(_share(size, "patch:80mm, patch:60x40mm or patch:10%"), shape == "circle", _centre(place), palette)
    width_mm = float(millimetres[1])
    height_mm = float(millimetres[2] or width_mm)
    if min(width_mm, height_mm) <= 0:
        raise UserError(f"A patch of {size} has no area: give a size above 0 mm.")
    if shape == "circle" and width_mm != height_mm:
        raise UserError(f"A circle has one size, not {size}: write patch:{width_mm:g}mm:circle.")
    return Patch((width_mm, height_mm), shape == "circle", _centre(place), palette)


def _centre(place: str) -> Centre:
    match place:
        case "" | "center" | "centre":
            return "center"
        case "random" | "worst":
            return place
    found = _PLACE.fullmatch(place)
    if not found:
        raise UserError(
            f"{place!r} is no place: write @center, @random, @worst, or @x,y in mm from the face's top-left."
        )
    return float(found[1]), float(found[2])


def _share(text: str, example: str) -> float:
    found = _PERCENT.fullmatch(text)
    if not found:
        raise UserError(f"{text!r} is not a size: write {example}.")
    share = float(found[1]) / 100
    if not 0 < share <= 1:
        raise UserError(f"{text} of the face is not possible: give more than 0 % and at most 100 %.")
    return share


def _shadow(rest: str) -> Shadow:
    light = _positive(rest, "shadow:0.43")
    if light >= 1:
        raise UserError(f"shadow:{rest} leaves all the light there is: give a share below 1, like shadow:0.43.")
    return Shadow(light)


def _epsilon(kind: str, rest: str) -> float:
    epsilon = _positive(rest or (_POSTER_DEFAULT if kind == "poster" else ""), f"{kind}:8/255")
    if epsilon > 1:
        raise UserError(f"{kind}:{rest} is more than the whole range of colours: give at most 1, like {kind}:8/255.")
    return epsilon


def _positive(text: str, example: str) -> float:
    found = _FRACTION.fullmatch(text)
    value = float(found[1]) / float(found[2] or 1) if found and float(found[2] or 1) else 0.0
    if not (value > 0 and math.isfinite(value)):
        raise UserError(f"{text!r} is not a size above 0: write {example}.")
    return value
