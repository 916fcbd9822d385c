"""The pages of a PDF: heading, note, overview and furniture on every one, and its tiles with their labels and seams."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from fpdf import FPDF, ViewerPreferences
from jaxtyping import Float
from PIL import Image

from physadv.printing.marks import (
    GREY,
    PALE,
    RED,
    Colouring,
    draw_furniture,
    draw_patch,
    draw_seams,
    draw_tag,
    fill,
    pen,
    text,
)
from physadv.printing.paper import Box, Frame, Page, Piece, Size, Tile
from physadv.printing.parts import Part, on_white

CUT_LINE_MM = 0.1
TEXT_INSET_MM = 1.5
THUMBNAIL_PX = 400
JOIN = (
    "Trim a sheet at the dashed line on its left or top, if it has one; lay it over its neighbour, cross on cross.",
    "Join the sheets of a row, then the rows; last, cut out the whole piece along the thin line.",
)

DrawTile = Callable[[FPDF, Tile], None]


@dataclass(frozen=True)
class Overview:
    """What the thumbnail in the heading shows, on the sign: the face or, without one, the artwork's box."""

    box_mm: Box
    image: Image.Image | None
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Booklet:
    """Pages of one kind: their words, what is on them, and where the tiles belong."""

    title: str
    origin: str
    advice: tuple[str, ...]
    remark: str
    note: str
    frame: Frame
    pieces: tuple[Piece, ...]
    pages: tuple[Page, ...]
    overview: Overview


def overview(parts: list[Part], place_mm: Box, face_mm: Size | None, face_image: Image.Image | None) -> Overview:
    if face_mm is None:
        return Overview(place_mm, None, tuple(parts))
    return Overview((0.0, 0.0, *face_mm), face_image, tuple(parts))


def render(booklet: Booklet, draw_tile: DrawTile, colouring: Colouring) -> bytes:
    """The PDF, whose viewer is asked not to scale it; colours without a profile of their own are sRGB."""
    pdf = FPDF(unit="mm", format=booklet.frame.size_mm)
    pdf.set_auto_page_break(False)
    pdf.set_margin(0)
    pdf.set_title(booklet.title)
    pdf.viewer_preferences = ViewerPreferences(print_scaling="None")
    for number, page in enumerate(booklet.pages, 1):
        pdf.add_page(format=page.size_mm)
        draw_furniture(pdf, booklet.frame, colouring)
        _draw_heading(pdf, booklet, number)
        _draw_note(pdf, booklet.note, booklet.frame.footer_mm)
        _draw_overview(pdf, page, booklet.frame.header_mm, booklet.overview)
        for tile in page.artwork:
            draw_tile(pdf, tile)
            piece = booklet.pieces[tile.piece - 1]
            draw_seams(pdf, tile, piece)
            left, top, right, _ = tile.box_mm
            text(pdf, _label(tile, piece), (left + right) / 2, top - 2.6, 8, style="B", align="C")
    return bytes(pdf.output())


def _draw_heading(pdf: FPDF, booklet: Booklet, number: int) -> None:
    left, top, right, bottom = booklet.frame.header_mm
    left, width = left + TEXT_INSET_MM, right - left - 3 * TEXT_INSET_MM - (bottom - top)
    count = len(booklet.pieces)
    tiled = any(piece.rows * piece.columns > 1 for piece in booklet.pieces)
    text(pdf, booklet.title, left, top + 4.2, 13, style="B", width=width)
    placed = f"x and y from the {booklet.origin}'s top-left"
    pages = f"Page {number} of {len(booklet.pages)} · {count} piece{'s' * (count > 1)} at true size, in mm, {placed}"
    text(pdf, pages, left, top + 8.6, 7.5, width=width)
    for i, line in enumerate(JOIN if tiled else booklet.advice):
        text(pdf, line, left, top + 12.0 + 3.0 * i, 7.5, width=width)
    text(pdf, booklet.remark, left, top + 18.0, 5.5, colour=GREY, width=width)


def _draw_note(pdf: FPDF, note: str, box_mm: Box) -> None:
    left, top, right, bottom = box_mm
    x, y = (left + right) / 2, (top + bottom) / 2 + 1.0
    text(pdf, note, x, y, 9.5, style="B", colour=RED, align="C", width=right - left)


def _draw_overview(pdf: FPDF, page: Page, box_mm: Box, shown: Overview) -> None:
    """The sign, small, at the right of the heading: every piece in grey, what is on this page framed in red."""
    boxes = np.array([shown.box_mm, *(part.box_mm for part in shown.parts)])
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    side = box_mm[3] - box_mm[1]
    scale = side / (high - low).max()
    centre = np.array((box_mm[2] - TEXT_INSET_MM - side / 2, box_mm[1] + side / 2))

    def on_page(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        return np.asarray((points - (low + high) / 2) * scale + centre)

    def box_on_page(box: Box) -> Box:
        (left, top), (right, bottom) = on_page(np.reshape(box, (2, 2))).tolist()
        return left, top, right - left, bottom - top

    if shown.image is not None:
        pdf.image(_thumbnail(shown.image), *box_on_page(shown.box_mm))
    pen(pdf, 0.1, GREY)
    pdf.rect(*box_on_page(shown.box_mm))
    for part in shown.parts:
        fill(pdf, [on_page(outline) for outline in part.outlines_mm], PALE)
    pen(pdf, 0.3, RED)
    for tile in page.artwork:
        pdf.rect(*box_on_page(tile.place_mm))


def _thumbnail(face: Image.Image) -> Image.Image:
    """The face on white, pale, so that the pieces stand out."""
    small = face.convert("RGBA").resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    return Image.blend(on_white(small), Image.new("RGB", small.size, "white"), 0.4)


def _label(tile: Tile, piece: Piece) -> str:
    x, y, right, bottom = (round(edge, 1) for edge in piece.place_mm)
    whole = f"Piece {piece.number} · {round(right - x, 1):g} × {round(bottom - y, 1):g} at x {x:g}, y {y:g}"
    if piece.rows * piece.columns == 1:
        return whole
    return f"{whole} · row {tile.row} of {piece.rows}, column {tile.column} of {piece.columns}"


def draw_artwork(pdf: FPDF, tile: Tile, part: Part, dpi: int, colouring: Colouring) -> None:
    """The tile's share of the raster, of the tags and the strip on the piece, and of the cut line."""
    left, top, right, bottom = tile.box_mm
    x, y = offset = left - tile.place_mm[0], top - tile.place_mm[1]
    with pdf.rect_clip(left, top, right - left, bottom - top):
        if (found := part.raster(tile.place_mm, dpi)) is not None:
            image, (x0, y0, x1, y1) = found
            pdf.image(colouring(image), x0 + x, y0 + y, x1 - x0, y1 - y0)
        for tag in part.tags:
            draw_tag(pdf, tag, offset)
        for patch in part.strip:
            draw_patch(pdf, patch, colouring, offset)
    pen(pdf, CUT_LINE_MM)  # before the clip: its end takes the pen back without telling fpdf
    with pdf.rect_clip(left - CUT_LINE_MM, top - CUT_LINE_MM, *np.add((right - left, bottom - top), 2 * CUT_LINE_MM)):
        for outline in part.outlines_mm:
            pdf.polygon((outline + offset).tolist(), style="D")


def png_of(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
