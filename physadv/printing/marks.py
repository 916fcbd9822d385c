"""What is drawn on a page besides the artwork: tags, ruler, colour strip, seams; and the pens for it."""

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from fpdf import FPDF
from fpdf.drawing import PaintedPath
from jaxtyping import Bool, Float, Int
from PIL import Image

from physadv.printing.paper import (
    OVERLAP_MM,
    PAD_MM,
    RULER_MM,
    TAG_MODULES,
    Box,
    Colour,
    Frame,
    Patch,
    Piece,
    Point,
    Tag,
    Tile,
)

BLACK: Colour = (0, 0, 0)
RED, GREY, PALE, WHITE = (200, 30, 30), (110, 110, 110), (190, 190, 190), (255, 255, 255)
RULER_NOTE = "Check with a real ruler: this line is 200 mm. Print at 100 %, no fit-to-page."
TRIM_LINE_MM = 0.2
DOT_MM = 0.1  # printers and renderers round lines up to whole dots: trim lines keep one dot away from what stays
PATCH_PX = 8
DICTIONARIES = {"36h11": cv2.aruco.DICT_APRILTAG_36h11, "4x4_50": cv2.aruco.DICT_4X4_50}

Colouring = Callable[[Image.Image], Image.Image]
"""sRGB pixels -> the pixels that go into the PDF, with the profile that says what they mean."""


def draw_furniture(pdf: FPDF, frame: Frame, colouring: Colouring) -> None:
    """The tags, the ruler and the colour strip."""
    for tag in frame.tags:
        draw_tag(pdf, tag)
    _draw_ruler(pdf, frame.ruler_mm)
    for patch in frame.strip:
        draw_patch(pdf, patch, colouring)


def draw_patch(pdf: FPDF, patch: Patch, colouring: Colouring, offset_mm: Point = (0.0, 0.0)) -> None:
    left, top, right, bottom = np.add(patch.box_mm, (*offset_mm, *offset_mm)).tolist()
    pdf.image(colouring(Image.new("RGB", (PATCH_PX, PATCH_PX), patch.rgb)), left, top, right - left, bottom - top)


def draw_tag(pdf: FPDF, tag: Tag, offset_mm: Point = (0.0, 0.0)) -> None:
    modules = TAG_MODULES[tag.family]
    dictionary = cv2.aruco.getPredefinedDictionary(DICTIONARIES[tag.family])
    black = cv2.aruco.generateImageMarker(dictionary, tag.id, modules) == 0
    (left, top), (right, _), *_ = np.add(tag.corners_mm, offset_mm)
    fill(pdf, [outline * (right - left) / modules + (left, top) for outline in outlines_px(black)], BLACK)


def _draw_ruler(pdf: FPDF, ruler_mm: Box) -> None:
    left, y, right, _ = ruler_mm
    pen(pdf, 0.15)
    pdf.line(left, y, right, y)
    for mm in range(round(RULER_MM) + 1):
        length = 4.0 if mm % 10 == 0 else 3.0 if mm % 5 == 0 else 2.0
        pdf.line(left + mm, y, left + mm, y + length)
    for cm in range(round(RULER_MM / 10) + 1):
        text(pdf, str(cm), left + 10 * cm, y + 6.6, 6.5, align="C")
    text(pdf, RULER_NOTE, (left + right) / 2, y + 10.8, 8.5, style="B", align="C")


def outlines_px(mask: Bool[np.ndarray, "h w"]) -> list[Int[np.ndarray, "_ 2"]]:
    """Outlines along pixel edges, holes too. cv2 joins pixel centres; doubled pixels, rounded up, give the edges."""
    doubled = mask.astype(np.uint8).repeat(2, 0).repeat(2, 1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    return [(contour[:, 0] + 1) // 2 for contour in contours]


def fill(pdf: FPDF, outlines_mm: Sequence[Float[np.ndarray, "_ 2"]], colour: Colour) -> None:
    """One path with its holes: renderers leave hairlines between shapes that merely touch."""
    path = PaintedPath()
    path.style.fill_color, path.style.stroke_color = "#" + bytes(colour).hex(), None
    path.style.intersection_rule = "evenodd"
    for outline in outlines_mm:
        (x, y), *others = outline.tolist()
        path.move_to(x, y)
        for x, y in others:
            path.line_to(x, y)
        path.close()
    with pdf.drawing_context() as canvas:
        canvas.add_item(path)


def pen(pdf: FPDF, width_mm: float, colour: Colour = BLACK) -> None:
    pdf.set_line_width(width_mm)
    pdf.set_draw_color(*colour)


def text(
    pdf: FPDF,
    words: str,
    x: float,
    y: float,
    size_pt: float,
    *,
    style: str = "",
    colour: Colour = BLACK,
    align: str = "L",
    width: float = math.inf,
) -> None:
    """One line on its baseline; what the built-in fonts lack becomes "?", what exceeds the width is cut."""
    pdf.set_font("Helvetica", style, size_pt)
    pdf.set_text_color(*colour)
    line = words = words.encode("latin-1", "replace").decode("latin-1")
    while words and pdf.get_string_width(line) > width:
        words = words[:-1]
        line = words + "..."
    pdf.text(x - (pdf.get_string_width(line) / 2 if align == "C" else 0.0), y, line)


def draw_seams(pdf: FPDF, tile: Tile, piece: Piece) -> None:
    """Dashed trim lines where the next tile will begin, crosses at their ends.

    The line lies in the strip that will be covered, or in the waste that is cut off: the joined artwork bears no mark.
    """
    left, top, right, bottom = tile.box_mm
    aside = DOT_MM + TRIM_LINE_MM / 2
    for x, shown in ((left, tile.column > 1), (right - OVERLAP_MM, tile.column < piece.columns)):
        if shown:
            shift = -aside if x == left else aside
            _draw_seam(pdf, (x + shift, top - PAD_MM + 1), (x + shift, bottom + PAD_MM - 1))
            _draw_crosses(pdf, (x, top - 4), (x, bottom + 4))
    for y, shown in ((top, tile.row > 1), (bottom - OVERLAP_MM, tile.row < piece.rows)):
        if shown:
            shift = -aside if y == top else aside
            _draw_seam(pdf, (left - PAD_MM + 1, y + shift), (right + PAD_MM - 1, y + shift))
            _draw_crosses(pdf, (left - 4, y), (right + 4, y))


def _draw_seam(pdf: FPDF, start_mm: Point, end_mm: Point) -> None:
    pen(pdf, TRIM_LINE_MM, WHITE)
    pdf.line(*start_mm, *end_mm)
    pen(pdf, TRIM_LINE_MM)
    with pdf.local_context(dash_pattern={"dash": 2, "gap": 1.5, "phase": 0}):
        pdf.line(*start_mm, *end_mm)


def _draw_crosses(pdf: FPDF, *centres_mm: Point) -> None:
    pen(pdf, 0.15)
    for x, y in centres_mm:
        pdf.line(x - 2, y, x + 2, y)
        pdf.line(x, y - 2, x, y + 2)
