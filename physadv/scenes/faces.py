"""Sign faces drawn as they look in GTSRB (German signs), and faces read from a file.

A face's raster is the bounding box of its board, edge to edge like a GTSRB region of interest. Drawings are layers of
polygons in mm about the centre of that box. `python -m physadv.scenes.faces assets/faces` writes the stored pictures.
"""

import argparse
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from physadv.errors import UserError
from physadv.files import open_image
from physadv.scenes import glyphs
from physadv.scenes.base import Faces
from physadv.scenes.classes import GTSRB, SHAPES, Shape, shape_of
from physadv.scenes.glyphs import Glyph, Points, arc, arrow, box, disc, line, mirrored, place, stroke

Colour: TypeAlias = tuple[int, int, int]
Layer: TypeAlias = tuple[Colour, Glyph]

RED, BLUE, WHITE, YELLOW, BLACK = (165, 30, 35), (20, 80, 160), (235, 235, 232), (245, 190, 40), (30, 30, 30)
GREEN, GREY = (0, 135, 105), (135, 135, 133)
"""Retroreflective sheeting as photographed in daylight, sRGB."""

OUTLINE_POINTS = 32
_SUPERSAMPLE = 4
_RIM_MM = 10.0


# --- boards ----------------------------------------------------------------------------------------------------------


def board(shape: Shape, *, inset_mm: float = 0.0) -> Points:
    """The board's outline moved inwards by `inset_mm`, in mm about the centre of the board's bounding box."""
    if shape.sides == 0:
        return disc(0, 0, shape.width_mm / 2 - inset_mm)
    half_deg = 180 / shape.sides
    corner_deg = shape.turn_deg + 2 * half_deg * np.arange(shape.sides)
    towards = np.stack([np.cos(np.radians(corner_deg)), np.sin(np.radians(corner_deg))], axis=1)
    stretch = 1 / np.cos(np.radians(half_deg))  # centre to corner, over centre to side
    to_side = (shape.width_mm / 2 - shape.corner_mm) / (stretch * np.abs(towards[:, 0]).max())
    # An upright triangle reaches further up from its incentre than down; the raster's centre is midway.
    middle = to_side * stretch * (towards.max(axis=0) + towards.min(axis=0)) / 2
    rounding = max(shape.corner_mm - inset_mm, 0.3 * shape.corner_mm)
    pivots = (to_side + shape.corner_mm - inset_mm - rounding) * stretch * towards - middle
    turns = zip(pivots, corner_deg, strict=True)
    return np.concatenate([arc(x, y, rounding, rounding, deg - half_deg, deg + half_deg) for (x, y), deg in turns])


def _prohibition(*ink: Layer) -> list[Layer]:
    return [(RED, [disc(0, 0, 300 - _RIM_MM)]), (WHITE, [disc(0, 0, 218)]), *ink]


def _warning(*ink: Layer, shape: str = "triangle") -> list[Layer]:
    outer, inner = (board(SHAPES[shape], inset_mm=inset) for inset in (_RIM_MM, 90))
    return [(RED, [outer]), (WHITE, [inner]), *ink]


def _mandatory(glyph: Glyph) -> list[Layer]:
    return [(BLUE, [disc(0, 0, 300 - _RIM_MM)]), (WHITE, glyph)]


def _ending(*ink: Layer) -> list[Layer]:
    return [(BLACK, [disc(0, 0, 293)]), (WHITE, [disc(0, 0, 283)]), *ink, (BLACK, glyphs.stripes())]


# --- the art ---------------------------------------------------------------------------------------------------------


def _number(text: str, colour: Colour = BLACK) -> Layer:
    if len(text) == 3:
        return colour, glyphs.lettering(text, height_mm=240, wide=0.42, pen=0.135, gap=0.1)
    return colour, glyphs.lettering(text, height_mm=250, wide=0.55, pen=0.14, gap=0.11)


def _prohibitions() -> dict[str, list[Layer]]:
    limits = {f"speed-limit-{v}": _prohibition(_number(str(v))) for v in (20, 30, 50, 60, 70, 80, 100, 120)}
    left, right = place(glyphs.car(), x=-98), place(glyphs.car(), x=98)
    return limits | {
        "no-overtaking": _prohibition((RED, left), (BLACK, right)),
        "no-overtaking-trucks": _prohibition((RED, place(_lorry(), x=-85)), (BLACK, place(right, x=14, scale=0.85))),
        "no-vehicles": _prohibition(),
        "no-trucks": _prohibition((BLACK, place(glyphs.truck(), y=14))),
        "no-entry": [(RED, [disc(0, 0, 300 - _RIM_MM)]), (WHITE, [box(-260, -50, 260, 50)])],
        "end-of-speed-limit-80": _ending(_number("80", GREY)),
        "end-of-limits": _ending(),
        "end-of-no-overtaking": _ending((GREY, left + right)),
        "end-of-no-overtaking-trucks": _ending((GREY, place(_lorry(), x=-85) + place(right, x=14, scale=0.85))),
    }


def _lorry() -> Glyph:
    """The lorry of the no-overtaking signs, seen from behind."""
    return [box(-95, -100, 65, 20), box(-80, 20, -52, 46), box(22, 20, 50, 46)]


def _warnings() -> dict[str, list[Layer]]:
    bend = [stroke(line((65, 275)), arc(-15, 145, 80, 80, 0, -90), line((-40, 65)), width=78)]
    bend.append(line((-38, 8), (-120, 65), (-38, 122)))
    zigzag = [stroke(line((45, 270), (45, 135), (-40, 90), (-40, 10)), width=62), line((-92, 20), (-40, -70), (12, 20))]
    lanes = [stroke(line((-62, -40), (-62, 260)), width=46)]
    lanes += [stroke(line((12, -40), (12, 60), (62, 120), (62, 260)), width=46)]
    bumps = [box(-190, 235, 190, 265), *(arc(x, 238, 66, 56, 180, 360) for x in (-84, 84))]
    crossing = [box(-38, -50, 38, 270), line((-78, -30), (0, -140), (78, -30)), box(-150, 95, 150, 135)]
    lamps = [(colour, [disc(0, y, 46)]) for colour, y in ((RED, -60), (YELLOW, 75), (GREEN, 210))]
    bang = [arc(0, -95, 36, 36, 180, 360), line((-36, -96), (36, -96), (18, 165), (-18, 165)), disc(0, 228, 36)]
    return {
        "priority-at-next-intersection": _warning((BLACK, crossing)),
        "danger": _warning((BLACK, bang)),
        "curve-left": _warning((BLACK, bend), (WHITE, [_tail(65, 280)])),
        "curve-right": _warning((BLACK, mirrored(bend)), (WHITE, [_tail(-65, 280)])),
        "double-curve": _warning((BLACK, zigzag), (WHITE, [_tail(45, 275)])),
        "bumpy-road": _warning((BLACK, bumps)),
        "road-narrows-right": _warning((BLACK, lanes)),
        "traffic-signals": _warning(*lamps),
        "bicycles": _warning((BLACK, place(glyphs.bicycle(), y=150, scale=1.15))),
        "snow": _warning((BLACK, place(glyphs.snowflake(), y=130, scale=1.15))),
    }


def _tail(x: float, y: float) -> Points:
    """The notch that cuts the tail of a bend's arrow."""
    return line((x - 45, y), (x, y - 30), (x + 45, y))


def _mandatories() -> dict[str, list[Layer]]:
    head = {"stem": 60.0, "half": 108.0, "barb": 72.0}
    small = {"stem": 58.0, "half": 92.0, "barb": 62.0}
    turn = arrow(line((-88, 215)), arc(-13, -8, 75, 75, 180, 270), line((195, -83)), **head)
    ahead = arrow(line((0, 235), (0, -225)), stem=62, half=145, barb=80)
    fork = arrow(line((-60, 245), (-60, -235)), **small)
    fork += arrow(line((-60, 180)), arc(35, 130, 95, 95, 180, 270), line((240, 35)), **small)
    keep = [box(-37, 120, 37, 480), line((0, 0), (125, 205), (37, 172), (-37, 172), (-125, 205))]
    keep_right = place(keep, x=170, y=170, turn_deg=135)
    around = arrow(arc(0, 0, 172, 172, -100, -170), line((-175, 56)), stem=50, half=70, barb=48)
    return {
        "turn-right": _mandatory(turn),
        "turn-left": _mandatory(mirrored(turn)),
        "ahead-only": _mandatory(ahead),
        "ahead-or-right": _mandatory(fork),
        "ahead-or-left": _mandatory(mirrored(fork)),
        "keep-right": _mandatory(keep_right),
        "keep-left": _mandatory(mirrored(keep_right)),
        "roundabout": _mandatory([points for deg in (0, 120, 240) for points in place(around, turn_deg=deg)]),
    }


def _priorities() -> dict[str, list[Layer]]:
    stop = glyphs.lettering("STOP", height_mm=290, wide=0.56, pen=0.165, gap=0.1)
    insets = ((BLACK, 9), (WHITE, 15), (BLACK, 112), (YELLOW, 117))
    return {
        "stop": [(RED, [board(SHAPES["octagon"], inset_mm=25)]), (WHITE, stop)],
        "yield": _warning(shape="inverted-triangle"),
        "priority-road": [(colour, [board(SHAPES["diamond"], inset_mm=inset)]) for colour, inset in insets],
    }


@cache
def _art() -> dict[str, list[Layer]]:
    return _prohibitions() | _warnings() | _mandatories() | _priorities()


# --- rasters ---------------------------------------------------------------------------------------------------------


def has_art(name: str) -> bool:
    return name in _art()


def draw_face(name: str, *, size_px: int = 256) -> Image.Image:
    """The drawn face as RGBA, `size_px` wide, in true proportions. Raises UserError for a class without art."""
    shape = shape_of(name)
    if not has_art(name):
        raise UserError(f"There is no drawn face for '{name}'; give a picture of the sign as FACE.png instead.")
    return _paint(_art()[name], shape, *_raster_px(shape, size_px))


def shape_alpha(shape: str, *, size_px: int) -> Image.Image:
    """The opaque mask (mode L) of a board in true proportions, `size_px` wide."""
    return _fill(SHAPES[shape], *_raster_px(SHAPES[shape], size_px))


def _raster_px(shape: Shape, width_px: int) -> tuple[int, int]:
    return width_px, round(width_px * shape.height_mm / shape.width_mm)


def _paint(layers: Sequence[Layer], shape: Shape, width_px: int, height_px: int) -> Image.Image:
    # Colour and alpha are drawn apart, so that the rim's colour goes on under the antialiased edge.
    canvas = Image.new("RGB", (width_px * _SUPERSAMPLE, height_px * _SUPERSAMPLE), WHITE)
    pen = ImageDraw.Draw(canvas)
    for colour, glyph in layers:
        for points in glyph:
            pen.polygon(_to_px(points, shape, canvas.size), fill=colour)
    face = canvas.reduce(_SUPERSAMPLE)
    face.putalpha(_fill(shape, width_px, height_px))
    return face


def _fill(shape: Shape, width_px: int, height_px: int) -> Image.Image:
    canvas = Image.new("L", (width_px * _SUPERSAMPLE, height_px * _SUPERSAMPLE))
    ImageDraw.Draw(canvas).polygon(_to_px(board(shape), shape, canvas.size), fill=255)
    return canvas.reduce(_SUPERSAMPLE)


def _to_px(points: Points, shape: Shape, size_px: tuple[int, int]) -> list[tuple[float, float]]:
    # Pillow counts pixel centres at whole numbers, physadv at +0.5.
    unit = points / (shape.width_mm, shape.height_mm) + 0.5
    return [(float(x), float(y)) for x, y in unit * size_px - 0.5]


# --- Faces -----------------------------------------------------------------------------------------------------------


def faces_for(names: Sequence[str], *, size_px: int = 128, face_mm: float | None = None) -> Faces:
    """Faces of GTSRB classes; one without art is its board in mid grey.

    Rasters are square, millimetres are not: a triangle's is stretched to its bounding box. `face_mm` replaces the width
    of the class table. Raises UserError for an unknown class.
    """
    shapes = [shape_of(name) for name in names]
    scale = torch.tensor([1.0 if face_mm is None else face_mm / shape.width_mm for shape in shapes])
    sizes = torch.tensor([[shape.width_mm, shape.height_mm] for shape in shapes]) * scale[:, None]
    return _faces([_square(name, size_px) for name in names], sizes, tuple(names))


def _square(name: str, size_px: int) -> Image.Image:
    shape = shape_of(name)
    layers = _art().get(name, [((128, 128, 128), [board(shape)])])
    return _paint(layers, shape, size_px, size_px)


def read_face(path: Path, *, name: str, face_mm: float | None, size_px: int) -> Faces:
    """A face from a picture (RGB: all of it opaque); its width is `face_mm`, or the class table's, its height follows.

    Raises UserError for an unreadable or fully transparent picture, and where the width is not known.
    """
    image = open_image(path, mode="RGBA")
    if face_mm is None and name not in GTSRB:
        raise UserError(f"How wide a '{name}' sign is, is not known; give the width of the face with --face-mm.")
    width_mm = shape_of(name).width_mm if face_mm is None else face_mm
    if np.asarray(image)[..., 3].max() < 128:
        raise UserError(f"{path} is transparent everywhere; give a picture with an opaque sign.")
    size_mm = torch.tensor([[width_mm, width_mm * image.height / image.width]])
    return _faces([_bled(image.resize((size_px, size_px), Image.Resampling.BOX))], size_mm, (name,))


def _bled(image: Image.Image) -> Image.Image:
    """The picture with its edge's colour carried on outside, where sampling between pixels would else pick up black."""
    rgba = np.asarray(image)
    rgb = cv2.inpaint(rgba[..., :3].copy(), (rgba[..., 3] < 32).astype(np.uint8), 2, cv2.INPAINT_TELEA)
    return Image.fromarray(np.dstack([rgb, rgba[..., 3]]))


def _faces(pictures: Sequence[Image.Image], size_mm: Float[Tensor, "k 2"], names: tuple[str, ...]) -> Faces:
    images = torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255 for picture in pictures])
    outlines = [outline_from_alpha(image[3], size) for image, size in zip(images, size_mm, strict=True)]
    return Faces(images=images, size_mm=size_mm, outline_mm=torch.stack(outlines), names=names)


def outline_from_alpha(alpha: Float[Tensor, "h w"], size_mm: Float[Tensor, " 2"]) -> Float[Tensor, "32 2"]:
    """The outermost opaque point (alpha >= 0.5) in each of 32 directions, clockwise from +x, in mm.

    Support points rather than ray hits: a box about them is the sign's box under any homography, corners included.
    """
    opaque = (alpha >= 0.5).nonzero().flip(1) + 0.5
    angle = torch.arange(OUTLINE_POINTS, dtype=torch.float64) * (2 * torch.pi / OUTLINE_POINTS)
    outward = torch.stack([angle.cos(), angle.sin()], dim=1).round(decimals=9)
    across = outward.flip(1) * torch.tensor([-1.0, 1.0])
    centre = opaque.double().mean(0)
    # Of a flat edge's points, all equally far out, the one nearest its middle.
    reach = (opaque - centre) @ outward.T - 1e-6 * ((opaque - centre) @ across.T).abs()
    edge = opaque[reach.argmax(0)] + 0.5 * outward
    scale = size_mm / torch.tensor([alpha.shape[1], alpha.shape[0]])
    return (edge * scale).to(size_mm.dtype)


def write_faces(folder: Path) -> list[Path]:
    """Draw every face with art into `folder` as SLUG.png, 256 px wide."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png" for name in GTSRB if has_art(name)]
    for path in paths:
        draw_face(path.stem).save(path, optimize=True)
    return paths


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the sign faces as PNG files.")
    parser.add_argument("folder", type=Path)
    print(f"{len(write_faces(parser.parse_args().folder))} faces written")
