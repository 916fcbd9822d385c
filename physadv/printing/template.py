"""The placement template: the sign's outline at true size, and where on it each piece goes."""

import math

import cv2
import numpy as np
from fpdf import FPDF
from jaxtyping import Float
from PIL import Image

from physadv.printing.inks import plain
from physadv.printing.marks import BLACK, GREY, PALE, RED, fill, outlines_px, pen, text
from physadv.printing.pages import Booklet, Overview, render
from physadv.printing.paper import Box, Point, Size, Tile, frames, lay_out
from physadv.printing.parts import CUT_TOLERANCE_MM, OPAQUE, Part, smooth

GRID_MM = 100
ENLARGED = 2
ADVICE = "Cut out the grey places, lay the outline on the sign, and mount the pieces in the holes."

Outline = Float[np.ndarray, "_ 2"]


def draw_template(
    face_mm: Size, face_image: Image.Image, parts: list[Part], *, title: str, remark: str, note: str, paper: str
) -> bytes:
    """A PDF of as many pages as the face needs; those on which nothing would be drawn are left out."""
    face = outline_of(face_image, face_mm)
    lines = [*face, *(outline for part in parts for outline in part.outlines_mm)]
    box = _around(face_mm, parts)

    def bears_ink(_: int, box_mm: Box) -> bool:
        return any(_touches(line, box_mm) for line in lines)

    layouts = [(frame, *lay_out([box], frame, bears_ink=bears_ink)) for frame in frames(paper, family=None)]
    frame, pieces, pages = min(layouts, key=lambda layout: len(layout[2]))
    shown = Overview((0.0, 0.0, *face_mm), face_image, tuple(parts))
    heading = f"Where it goes: {title}"
    booklet = Booklet(heading, "sign", (ADVICE,), remark, note, frame, pieces, pages, shown)
    return render(booklet, lambda pdf, tile: _draw_plan(pdf, tile, face, parts), plain)


def outline_of(face_image: Image.Image, face_mm: Size) -> list[Outline]:
    """Where the face's alpha passes one half, in mm from its top-left; holes too."""
    alpha = np.asarray(face_image.convert("RGBA").getchannel("A"))
    fine = cv2.resize(alpha, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_CUBIC) >= OPAQUE
    pitch = np.divide(face_mm, fine.shape[::-1])
    tolerance_px = max(CUT_TOLERANCE_MM / float(pitch.max()), ENLARGED)  # below a pixel of the face: stairs
    return [pitch * smooth(line, tolerance_px) for line in outlines_px(fine)]


def _around(face_mm: Size, parts: list[Part]) -> Box:
    """The face and all that hangs over its edge."""
    boxes = np.array([(0.0, 0.0, *face_mm), *(part.box_mm for part in parts)])
    return tuple(np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)]).tolist())


def _touches(line: Outline, box_mm: Box) -> bool:
    """Whether a closed line passes through a box: one of its points, a millimetre apart, lies inside."""
    ends = np.roll(line, -1, axis=0)
    for start, end in zip(line, ends, strict=True):
        steps = math.ceil(float(np.linalg.norm(end - start))) + 1
        points = start + np.linspace(0, 1, steps)[:, None] * (end - start)
        if ((points >= box_mm[:2]) & (points <= box_mm[2:])).all(1).any():
            return True
    return False


def _draw_plan(pdf: FPDF, tile: Tile, face: list[Outline], parts: list[Part]) -> None:
    left, top, right, bottom = tile.box_mm
    offset = left - tile.place_mm[0], top - tile.place_mm[1]
    pen(pdf, 0.1, PALE)
    with pdf.rect_clip(left, top, right - left, bottom - top):
        _draw_grid(pdf, tile, offset)
        for number, part in enumerate(parts, 1):
            fill(pdf, [outline + offset for outline in part.outlines_mm], (225, 225, 225))
            x, y = np.add(part.box_mm[:2], part.box_mm[2:]) / 2 + offset
            text(pdf, f"piece {number}", float(x), float(y) + 1.2, 9, style="B", colour=RED, align="C")
    for lines, width_mm, colour in (([o for p in parts for o in p.outlines_mm], 0.2, RED), (face, 0.4, BLACK)):
        pen(pdf, width_mm, colour)
        with pdf.rect_clip(left - width_mm, top - width_mm, right - left + 2 * width_mm, bottom - top + 2 * width_mm):
            for line in lines:
                pdf.polygon((line + offset).tolist(), style="D")


def _draw_grid(pdf: FPDF, tile: Tile, offset_mm: Point) -> None:
    """Pale lines every 100 mm from the sign's top-left, with their x or y."""
    left, top, right, bottom = tile.box_mm
    x0, y0, x1, y1 = tile.place_mm
    for x in range(math.ceil(x0 / GRID_MM) * GRID_MM, math.floor(x1) + 1, GRID_MM):
        pdf.line(x + offset_mm[0], top, x + offset_mm[0], bottom)
        text(pdf, f"x {x}", x + offset_mm[0] + 0.8, top + 3, 6, colour=GREY)
    for y in range(math.ceil(y0 / GRID_MM) * GRID_MM, math.floor(y1) + 1, GRID_MM):
        pdf.line(left, y + offset_mm[1], right, y + offset_mm[1])
        text(pdf, f"y {y}", left + 0.8, y + offset_mm[1] - 0.8, 6, colour=GREY)
