"""The true-size sheet: an artwork as a PDF to cut out and photograph, and as json to measure by (docs/sheet.md)."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from fpdf import FPDF, ViewerPreferences
from jaxtyping import Bool, Float, Int
from PIL import Image, ImageCms
from pydantic import TypeAdapter, ValidationError

from physadv.errors import UserError
from physadv.printing.paper import (
    OVERLAP_MM,
    PAD_MM,
    Box,
    Frame,
    Page,
    Piece,
    Point,
    Size,
    Tile,
    draw_furniture,
    fill,
    frames,
    lay_out,
    outlines_px,
    pen,
    text,
)

VERSION = 1
PDF, JSON = "sheet.pdf", "sheet.json"
NOTE = "Test artefact for robustness evaluation. Not for public roads."
OPAQUE = 128  # alpha from which paper stays; below it is cut away
CUT_TOLERANCE_MM = 0.3
PIECES_MAX = 24  # more parts than that nobody cuts out one by one: they stay together on one piece
CUT_LINE_MM, TRIM_LINE_MM = 0.1, 0.2
DOT_MM = 0.1  # printers and renderers round lines up to whole dots: trim lines keep one dot away from what stays
TEXT_INSET_MM = 1.5
THUMBNAIL_PX = 400
RED, GREY, PALE, WHITE = (200, 30, 30), (110, 110, 110), (190, 190, 190), (255, 255, 255)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
CUT = ("Cut along the thin line.",)
JOIN = (
    "Trim a sheet at the dashed line on its left or top, if it has one; lay it over its neighbour, cross on cross.",
    "Join the sheets of a row, then the rows; last, cut out the whole piece along the thin line.",
)


@dataclass(frozen=True)
class Sheet:
    """What stands where in `sheet.pdf`: the content of `sheet.json`. Places count from the origin's top-left corner."""

    version: int
    title: str
    paper: str
    dpi: int
    artwork_hash: str
    note: str
    origin: Literal["sign", "artwork"]
    pieces: tuple[Piece, ...]
    pages: tuple[Page, ...]


@dataclass(frozen=True)
class _Part:
    """A piece before it is laid out: its raster (white where it is not), its box and outlines on the sign."""

    image: Image.Image
    opaque: Bool[np.ndarray, "h w"]
    box_mm: Box
    outlines_mm: tuple[Float[np.ndarray, "_ 2"], ...]


@dataclass(frozen=True)
class _Template:
    """What the thumbnail shows, in sign coordinates: the face or, without one, the artwork's own raster."""

    box_mm: Box
    image: Image.Image | None


_ADAPTER = TypeAdapter(Sheet)


def make_sheet(
    rgba: Image.Image,
    *,
    width_mm: float,
    height_mm: float,
    folder: Path,
    title: str,
    artwork_hash: str,
    paper: str = "a4",
    dpi: int = 300,
    tags: bool = True,
    overwrite: bool = False,
    place_mm: Box | None = None,
    face_mm: Size | None = None,
    face_image: Image.Image | None = None,
) -> Sheet:
    """Writes `sheet.pdf` and `sheet.json` into the folder: both or, on any failure, neither.

    Args:
        rgba: the whole artwork, width_mm x height_mm; what is transparent is cut away.
        dpi: the least resolution that is embedded; coarser artworks are repeated pixel by pixel, never smoothed.
        place_mm: the artwork's box on the sign; without it, places in the json count from the artwork's top-left.
        face_mm, face_image: the sign itself, for the small drawing of where the pieces go.

    Raises:
        UserError: sizes, paper or dpi make no sense, nothing is opaque, or a sheet is already there.
    """
    place = place_mm or (0.0, 0.0, width_mm, height_mm)
    _check(width_mm, height_mm, dpi, place)
    _check_free(folder, overwrite=overwrite)
    parts = _parts(rgba.convert("RGBA"), place)
    frame, pieces, pages = _fewest_pages(parts, frames(paper, tags=tags))
    origin: Literal["sign", "artwork"] = "sign" if place_mm else "artwork"
    sheet = Sheet(VERSION, title, paper.lower(), dpi, artwork_hash, NOTE, origin, pieces, pages)
    template = _Template((0.0, 0.0, *face_mm), face_image) if face_mm and place_mm else _Template(place, None)
    document = _draw(sheet, frame, parts, template)
    _write(folder, {PDF: document, JSON: _ADAPTER.dump_json(sheet, indent=1) + b"\n"})
    return sheet


def load_sheet(folder: Path) -> Sheet:
    """Reads `sheet.json` back.

    Raises:
        UserError: it is missing, or not a sheet of this version.
    """
    path = folder / JSON
    if not path.is_file():
        raise UserError(f"There is no {JSON} in {folder}: make one with `physadv print`.")
    try:
        sheet = _ADAPTER.validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path} is not a sheet ({error.error_count()} faults): make it again.") from error
    if sheet.version != VERSION:
        raise UserError(f"{path} has version {sheet.version}, this physadv reads {VERSION}: make it again.")
    return sheet


def _fewest_pages(parts: list[_Part], choices: Sequence[Frame]) -> tuple[Frame, tuple[Piece, ...], tuple[Page, ...]]:
    def bears_ink(piece: int, place_mm: Box) -> bool:
        left, top, right, bottom = _pixels_under(parts[piece - 1], place_mm)
        return bool(parts[piece - 1].opaque[top:bottom, left:right].any())

    boxes = [part.box_mm for part in parts]
    layouts = [(frame, *lay_out(boxes, frame, bears_ink=bears_ink)) for frame in choices]
    return min(layouts, key=lambda layout: len(layout[2]))


def _check(width_mm: float, height_mm: float, dpi: int, place_mm: Box) -> None:
    if not all(math.isfinite(side) and side > 0 for side in (width_mm, height_mm)):
        raise UserError(f"An artwork of {width_mm:g} x {height_mm:g} mm cannot be printed: give positive sizes.")
    if not 72 <= dpi <= 2400:
        raise UserError(f"{dpi} dpi cannot be printed: choose 72 to 2400.")
    placed = place_mm[2] - place_mm[0], place_mm[3] - place_mm[1]
    if not np.allclose(placed, (width_mm, height_mm), rtol=1e-4, atol=1e-2):
        sizes = f"{placed[0]:g} x {placed[1]:g} mm, the artwork {width_mm:g} x {height_mm:g} mm"
        raise UserError(f"The place on the sign measures {sizes}: give both the same size.")


def _check_free(folder: Path, *, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another folder for the sheet.")
    if not overwrite and (taken := [folder / name for name in (PDF, JSON) if (folder / name).exists()]):
        raise UserError(f"{taken[0]} exists: choose another folder or allow --overwrite.")


def _parts(rgba: Image.Image, place_mm: Box) -> list[_Part]:
    """The connected opaque parts, top to bottom; all together as one when there are too many to cut out."""
    opaque = np.asarray(rgba.getchannel("A")) >= OPAQUE
    if not opaque.any():
        raise UserError("The artwork is transparent everywhere: there is nothing to print.")
    count, labels = cv2.connectedComponents(opaque.astype(np.uint8), connectivity=8)
    masks = [labels == i for i in range(1, count)] if count - 1 <= PIECES_MAX else [opaque]
    parts = [_part(rgba, mask, place_mm) for mask in masks]
    return sorted(parts, key=lambda part: (part.box_mm[1], part.box_mm[0]))


def _part(rgba: Image.Image, mask: Bool[np.ndarray, "h w"], place_mm: Box) -> _Part:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    inside = mask[top:bottom, left:right]
    rgb = np.array(_on_white(rgba.crop((left, top, right, bottom))))
    rgb[~inside] = 255
    pitch = np.array(_pitch(place_mm, mask.shape[::-1]))
    origin = np.array(place_mm[:2])
    corners = (origin + pitch * (left, top), origin + pitch * (right, bottom))
    tolerance_px = CUT_TOLERANCE_MM / pitch.max()
    outlines = tuple(corners[0] + pitch * _smooth(outline, tolerance_px) for outline in outlines_px(inside))
    return _Part(Image.fromarray(rgb), inside, tuple(np.concatenate(corners).tolist()), outlines)


def _on_white(rgba: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _pitch(box_mm: Box, size_px: Sequence[int]) -> Point:
    """Millimetres per pixel across and down."""
    return (box_mm[2] - box_mm[0]) / size_px[0], (box_mm[3] - box_mm[1]) / size_px[1]


def _smooth(outline: Int[np.ndarray, "points 2"], tolerance_px: float) -> Float[np.ndarray, "fewer 2"]:
    return cv2.approxPolyDP(outline.astype(np.float32), tolerance_px, True)[:, 0].astype(float)


def _draw(sheet: Sheet, frame: Frame, parts: list[_Part], template: _Template) -> bytes:
    pdf = FPDF(unit="mm", format=frame.size_mm)
    pdf.set_auto_page_break(False)
    pdf.set_margin(0)
    pdf.set_title(sheet.title)
    pdf.viewer_preferences = ViewerPreferences(print_scaling="None")
    for number, page in enumerate(sheet.pages, 1):
        pdf.add_page(format=page.size_mm)
        draw_furniture(pdf, frame)
        _draw_header(pdf, sheet, number, frame.header_mm)
        _draw_note(pdf, sheet.note, frame.footer_mm)
        _draw_template(pdf, page, frame.header_mm, parts, template)
        for tile in page.artwork:
            _draw_tile(pdf, sheet, tile, parts[tile.piece - 1])
    return bytes(pdf.output())


def _draw_header(pdf: FPDF, sheet: Sheet, number: int, box_mm: Box) -> None:
    left, top, right, bottom = box_mm
    left, width = left + TEXT_INSET_MM, right - left - 3 * TEXT_INSET_MM - (bottom - top)
    count = len(sheet.pieces)
    tiled = any(piece.rows * piece.columns > 1 for piece in sheet.pieces)
    text(pdf, sheet.title, left, top + 4.2, 13, style="B", width=width)
    placed = f"x and y from the {sheet.origin}'s top-left"
    pages = f"Page {number} of {len(sheet.pages)} · {count} piece{'s' * (count > 1)} at true size, in mm, {placed}"
    text(pdf, pages, left, top + 8.6, 7.5, width=width)
    for i, line in enumerate(JOIN if tiled else CUT):
        text(pdf, line, left, top + 12.0 + 3.0 * i, 7.5, width=width)
    text(pdf, f"Artwork {sheet.artwork_hash}", left, top + 18.0, 5.5, colour=GREY, width=width)


def _draw_note(pdf: FPDF, note: str, box_mm: Box) -> None:
    left, top, right, bottom = box_mm
    x, y = (left + right) / 2, (top + bottom) / 2 + 1.0
    text(pdf, note, x, y, 9.5, style="B", colour=RED, align="C", width=right - left)


def _draw_template(pdf: FPDF, page: Page, box_mm: Box, parts: list[_Part], template: _Template) -> None:
    """The sign, small, at the right of the header: every piece in grey, what is on this page framed in red."""
    boxes = np.array([template.box_mm, *(part.box_mm for part in parts)])
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    side = box_mm[3] - box_mm[1]
    scale = side / (high - low).max()
    centre = np.array((box_mm[2] - TEXT_INSET_MM - side / 2, box_mm[1] + side / 2))

    def on_page(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        return np.asarray((points - (low + high) / 2) * scale + centre)

    def box_on_page(box: Box) -> Box:
        (left, top), (right, bottom) = on_page(np.reshape(box, (2, 2))).tolist()
        return left, top, right - left, bottom - top

    if template.image is not None:
        pdf.image(_thumbnail(template.image), *box_on_page(template.box_mm))
    pen(pdf, 0.1, GREY)
    pdf.rect(*box_on_page(template.box_mm))
    for part in parts:
        fill(pdf, [on_page(outline) for outline in part.outlines_mm], PALE)
    pen(pdf, 0.3, RED)
    for tile in page.artwork:
        pdf.rect(*box_on_page(tile.place_mm))


def _thumbnail(face: Image.Image) -> Image.Image:
    """The face on white, pale, so that the pieces stand out."""
    small = face.convert("RGBA").resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    return Image.blend(_on_white(small), Image.new("RGB", small.size, "white"), 0.4)


def _draw_tile(pdf: FPDF, sheet: Sheet, tile: Tile, part: _Part) -> None:
    left, top, right, bottom = tile.box_mm
    piece = sheet.pieces[tile.piece - 1]
    offset = np.array((left, top)) - tile.place_mm[:2]
    image, place = _raster(part, tile.place_mm, sheet.dpi)
    (x0, y0), (x1, y1) = np.reshape(place, (2, 2)) + offset
    with pdf.rect_clip(left, top, right - left, bottom - top):
        pdf.image(image, x0, y0, x1 - x0, y1 - y0)
    pen(pdf, CUT_LINE_MM)  # before the clip: its end takes the pen back without telling fpdf
    with pdf.rect_clip(left - CUT_LINE_MM, top - CUT_LINE_MM, *np.add((right - left, bottom - top), 2 * CUT_LINE_MM)):
        for outline in part.outlines_mm:
            pdf.polygon((outline + offset).tolist(), style="D")
    _draw_seams(pdf, tile, piece)
    text(pdf, _label(tile, piece), (left + right) / 2, top - 2.6, 8, style="B", align="C")


def _label(tile: Tile, piece: Piece) -> str:
    x, y, right, bottom = (round(edge, 1) for edge in piece.place_mm)
    whole = f"Piece {piece.number} · {round(right - x, 1):g} × {round(bottom - y, 1):g} at x {x:g}, y {y:g}"
    if piece.rows * piece.columns == 1:
        return whole
    return f"{whole} · row {tile.row} of {piece.rows}, column {tile.column} of {piece.columns}"


def _raster(part: _Part, box_mm: Box, dpi: int) -> tuple[Image.Image, Box]:
    """The whole pixels under a box of the sign, repeated up to the resolution, and the box that they fill."""
    x0, y0, x1, y1 = crop = _pixels_under(part, box_mm)
    pitch = _pitch(part.box_mm, part.image.size)
    across, down = (math.ceil(mm * dpi / 25.4 - 1e-6) for mm in pitch)
    image = part.image.crop(crop).resize(((x1 - x0) * across, (y1 - y0) * down), Image.Resampling.NEAREST)
    image.info["icc_profile"] = SRGB
    filled = np.array(crop) * (*pitch, *pitch) + (*part.box_mm[:2], *part.box_mm[:2])
    return image, tuple(filled.tolist())


def _pixels_under(part: _Part, box_mm: Box) -> tuple[int, int, int, int]:
    """The smallest box of whole pixels that covers a box of the sign."""
    low, high = (np.reshape(box_mm, (2, 2)) - part.box_mm[:2]) / _pitch(part.box_mm, part.image.size)
    left, top = np.floor(low + 1e-6).astype(int).tolist()
    right, bottom = np.ceil(high - 1e-6).astype(int).tolist()
    return left, top, right, bottom


def _draw_seams(pdf: FPDF, tile: Tile, piece: Piece) -> None:
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


def _write(folder: Path, contents: dict[str, bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_together({folder / name: content for name, content in contents.items()})
    except OSError as error:
        raise UserError(f"The sheet cannot be written ({error}): choose another folder.") from error


def _write_together(contents: dict[Path, bytes]) -> None:
    """All files or none: each is written beside its place first, then they are moved there."""
    drafts = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in contents}
    moved = False
    try:
        for path, content in contents.items():
            drafts[path].write_bytes(content)
        for path, draft in drafts.items():
            draft.replace(path)
            moved = True
    except BaseException:
        for path in (*drafts.values(), *(contents if moved else ())):
            path.unlink(missing_ok=True)
        raise
