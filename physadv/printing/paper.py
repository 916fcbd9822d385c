"""A sheet of paper: its size, what stands on every page of it, and how boxes are laid out on what is left.

Page coordinates are millimetres, origin at the top-left, x right, y down; boxes are xyxy.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from fpdf import FPDF
from fpdf.drawing import PaintedPath
from jaxtyping import Bool, Float, Int

from physadv.errors import UserError

Point = tuple[float, float]
Size = tuple[float, float]
Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]

MARGIN_MM = 8.0  # office printers leave 4 to 6 mm white
RULER_MM = 200.0
RULER_MARGIN_MM = 4.0
RULER_STRIP_MM = 14.0
BAND_MM = 20.0  # header and footer of a page without tags
AREA_MIN_MM = 40.0
OVERLAP_MM = 10.0
PAD_MM = 7.0  # above and below every piece: its label, and the crosses of its seams
GAP_MM = 4.0
LABEL_WIDTH_MM = 62.0
TILES_MAX = 400
TAG_FAMILY = "36h11"
TAG_MODULES = 8  # 6 of code and a black border of 1
QUIET_MODULES = 2
MODULE_MIN_MM = 2.0
RULER_NOTE = "Check with a real ruler: this line is 200 mm. Print at 100 %, no fit-to-page."
BLACK: Colour = (0, 0, 0)
SIZES_MM = {"a4": (210.0, 297.0), "a3": (297.0, 420.0), "letter": (215.9, 279.4)}


@dataclass(frozen=True)
class Tag:
    """One fiducial; corners (top-left, top-right, bottom-right, bottom-left) of its black square on the page."""

    id: int
    family: str
    corners_mm: tuple[Point, Point, Point, Point]


@dataclass(frozen=True)
class Piece:
    """One connected opaque part of the artwork, printed as rows x columns tiles; its box on the sign."""

    number: int
    rows: int
    columns: int
    place_mm: Box


@dataclass(frozen=True)
class Tile:
    """One box of a piece on a page (`box_mm`) and on the sign (`place_mm`); both have the same size. Counted from 1."""

    piece: int
    row: int
    column: int
    box_mm: Box
    place_mm: Box


@dataclass(frozen=True)
class Page:
    """What one page holds, in page coordinates (mm, origin top-left, y down); the ruler is x0, y, x1, y."""

    size_mm: Size
    artwork: tuple[Tile, ...]
    tags: tuple[Tag, ...]
    ruler_mm: Box


@dataclass(frozen=True)
class _Cell:
    """One tile before it has a page: its box on the sign, what it takes of the page, and where it sits in its piece."""

    piece: int
    row: int
    column: int
    place_mm: Box
    size_mm: Size


@dataclass(frozen=True)
class Frame:
    """What is the same on every page: the area left for the artwork, and where tags, ruler and texts stand."""

    size_mm: Size
    area_mm: Box
    header_mm: Box
    footer_mm: Box
    ruler_mm: Box
    tags: tuple[Tag, ...]


def paper_mm(spec: str) -> Size:
    """Width and height, portrait, of `a4`, `a3`, `letter` or `WIDTHxHEIGHTmm`.

    Raises:
        UserError: the paper is none of these.
    """
    if spec.lower() in SIZES_MM:
        return SIZES_MM[spec.lower()]
    match = re.fullmatch(r"(\d+(?:\.\d+)?)x(\d+(?:\.\d+)?)mm", spec.lower())
    if match is None:
        raise UserError(f"Unknown paper '{spec}': use {', '.join(SIZES_MM)} or a size such as 500x700mm.")
    width_mm, height_mm = sorted(float(side) for side in match.groups())
    return width_mm, height_mm


def frames(paper: str, *, tags: bool) -> tuple[Frame, ...]:
    """The frames of the paper's orientations, portrait first; those that leave room for an artwork.

    Raises:
        UserError: neither orientation holds the ruler, the tags and 40 mm of artwork.
    """
    width_mm, height_mm = paper_mm(paper)
    sizes = dict.fromkeys([(width_mm, height_mm), (height_mm, width_mm)])
    found = tuple(frame for size in sizes if _holds_artwork(frame := _frame(size, tags=tags)))
    if not found:
        furniture = "the 200 mm ruler and the four tags" if tags else "the 200 mm ruler"
        raise UserError(f"Paper '{paper}' is too small for {furniture}: use a4 or at least 210x150mm.")
    return found


def _holds_artwork(frame: Frame) -> bool:
    x0, y0, x1, y1 = frame.area_mm
    ruler_fits = frame.size_mm[0] >= RULER_MM + 2 * RULER_MARGIN_MM
    return ruler_fits and min(x1 - x0, y1 - y0) >= AREA_MIN_MM


def _frame(size_mm: Size, *, tags: bool) -> Frame:
    width, height = size_mm
    module = max(MODULE_MIN_MM, math.floor(min(size_mm) / 40) / 2)
    tag, quiet = (TAG_MODULES * module, QUIET_MODULES * module) if tags else (0.0, 0.0)
    band = tag or BAND_MM
    inset = MARGIN_MM + tag + quiet
    between_tags = not tags or width - 2 * inset >= RULER_MM + 2 * RULER_MARGIN_MM
    strip = 0.0 if between_tags else RULER_STRIP_MM
    bottom = height - MARGIN_MM - band
    ruler_y = bottom + 0.5 if between_tags else bottom - quiet - strip + 2
    ruler_x = (width - RULER_MM) / 2
    return Frame(
        size_mm=size_mm,
        area_mm=(MARGIN_MM, MARGIN_MM + band + (quiet or 2.0), width - MARGIN_MM, bottom - strip - (quiet or 2.0)),
        header_mm=(inset, MARGIN_MM, width - inset, MARGIN_MM + band),
        footer_mm=(inset, bottom + (RULER_STRIP_MM - 2 if between_tags else 0.0), width - inset, height - MARGIN_MM),
        ruler_mm=(ruler_x, ruler_y, ruler_x + RULER_MM, ruler_y),
        tags=_corner_tags(size_mm, tag) if tags else (),
    )


def _corner_tags(size_mm: Size, tag_mm: float) -> tuple[Tag, ...]:
    """Ids 0 to 3, clockwise from the top-left corner of the page."""
    left = top = MARGIN_MM
    right, bottom = (side - MARGIN_MM - tag_mm for side in size_mm)
    origins = ((left, top), (right, top), (right, bottom), (left, bottom))
    return tuple(Tag(i, TAG_FAMILY, _square(x, y, tag_mm)) for i, (x, y) in enumerate(origins))


def _square(x: float, y: float, side: float) -> tuple[Point, Point, Point, Point]:
    return (x, y), (x + side, y), (x + side, y + side), (x, y + side)


def lay_out(
    boxes_mm: Sequence[Box], frame: Frame, *, bears_ink: Callable[[int, Box], bool]
) -> tuple[tuple[Piece, ...], tuple[Page, ...]]:
    """Cuts the pieces (boxes on the sign) into tiles where they exceed the frame's area, and packs them on pages.

    Tiles of a piece without ink, such as the middle of a large ring, are left out.
    """
    left, top, right, bottom = frame.area_mm
    room = right - left, bottom - top
    per_piece = [_cells(i, box, room) for i, box in enumerate(boxes_mm, 1)]
    pieces = tuple(Piece(c[-1].piece, c[-1].row, c[-1].column, box) for c, box in zip(per_piece, boxes_mm, strict=True))
    cells = [cell for group in per_piece for cell in group if bears_ink(cell.piece, cell.place_mm)]
    packed = _pack([cell.size_mm for cell in cells], room, gap_mm=GAP_MM)
    tiles = (tuple(_tile(cells[i], (left + x, top + y)) for i, (x, y) in sorted(page)) for page in packed)
    return pieces, tuple(Page(frame.size_mm, artwork, frame.tags, frame.ruler_mm) for artwork in tiles)


def _cells(piece: int, box_mm: Box, room_mm: Size) -> list[_Cell]:
    """The piece cut into equal tiles that fit the room; the seams' crosses need a margin on the sides they end at."""
    x0, y0, x1, y1 = box_mm
    rows = _spans(y0, y1, room_mm[1] - 2 * PAD_MM)
    pad_x = PAD_MM if len(rows) > 1 else 0.0
    columns = _spans(x0, x1, room_mm[0] - 2 * pad_x)
    if len(rows) * len(columns) > TILES_MAX:
        raise UserError(f"The artwork takes {len(rows) * len(columns)} pages: print it smaller or on larger paper.")
    return [
        _Cell(piece, row, column, (left, top, right, bottom), _cell_mm(right - left, bottom - top, pad_x))
        for row, (top, bottom) in enumerate(rows, 1)
        for column, (left, right) in enumerate(columns, 1)
    ]


def _cell_mm(width_mm: float, height_mm: float, pad_x_mm: float) -> Size:
    return max(width_mm + 2 * pad_x_mm, LABEL_WIDTH_MM), height_mm + 2 * PAD_MM


def _spans(start: float, end: float, room: float) -> list[tuple[float, float]]:
    """[start, end] as equal spans no longer than the room, neighbours sharing the overlap."""
    length = end - start
    count = 1 if length <= room + 1e-6 else math.ceil((length - OVERLAP_MM) / (room - OVERLAP_MM) - 1e-9)
    step = (length - OVERLAP_MM) / count
    return [(start + i * step, end if i == count - 1 else start + (i + 1) * step + OVERLAP_MM) for i in range(count)]


def _tile(cell: _Cell, corner_mm: Point) -> Tile:
    left, top, right, bottom = cell.place_mm
    x, y = corner_mm[0] + (cell.size_mm[0] - (right - left)) / 2, corner_mm[1] + PAD_MM
    return Tile(cell.piece, cell.row, cell.column, (x, y, x + right - left, y + bottom - top), cell.place_mm)


@dataclass
class _Shelf:
    height: float
    width: float = 0.0
    items: list[int] = field(default_factory=list)


def _pack(sizes_mm: Sequence[Size], room_mm: Size, *, gap_mm: float) -> list[list[tuple[int, Point]]]:
    """Pages of (box number, top-left corner): shelves, tallest box first, centred in the room. No box may exceed it."""
    pages: list[list[_Shelf]] = []
    for i in sorted(range(len(sizes_mm)), key=lambda i: -round(sizes_mm[i][1], 3)):
        shelf = _shelf_for(sizes_mm[i], pages, room_mm, gap_mm)
        shelf.width += sizes_mm[i][0] + (gap_mm if shelf.items else 0.0)
        shelf.items.append(i)
    return [_centred(shelves, sizes_mm, room_mm, gap_mm) for shelves in pages]


def _shelf_for(size_mm: Size, pages: list[list[_Shelf]], room_mm: Size, gap_mm: float) -> _Shelf:
    """The first shelf with room for the box; else a new one on the first page with room; else on a new page."""
    width, height = size_mm
    for shelf in (shelf for shelves in pages for shelf in shelves):
        if shelf.width + gap_mm + width <= room_mm[0]:
            return shelf
    page = next((shelves for shelves in pages if _stack(shelves, gap_mm) + gap_mm + height <= room_mm[1]), None)
    if page is None:
        pages.append(page := [])
    page.append(_Shelf(height))
    return page[-1]


def _stack(shelves: list[_Shelf], gap_mm: float) -> float:
    return sum(shelf.height for shelf in shelves) + gap_mm * (len(shelves) - 1)


def _centred(shelves: list[_Shelf], sizes_mm: Sequence[Size], room_mm: Size, gap_mm: float) -> list[tuple[int, Point]]:
    placed = []
    y = (room_mm[1] - _stack(shelves, gap_mm)) / 2
    for shelf in shelves:
        x = (room_mm[0] - shelf.width) / 2
        for i in shelf.items:
            placed.append((i, (x, y)))
            x += sizes_mm[i][0] + gap_mm
        y += shelf.height + gap_mm
    return placed


def draw_furniture(pdf: FPDF, frame: Frame) -> None:
    """The tags and the ruler."""
    for tag in frame.tags:
        _draw_tag(pdf, tag)
    _draw_ruler(pdf, frame.ruler_mm)


def _draw_tag(pdf: FPDF, tag: Tag) -> None:
    dictionary = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
    black = cv2.aruco.generateImageMarker(dictionary, tag.id, TAG_MODULES) == 0
    (left, top), (right, _), *_ = tag.corners_mm
    module = (right - left) / TAG_MODULES
    fill(pdf, [outline * module + (left, top) for outline in outlines_px(black)], BLACK)


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
