"""A sheet of paper: its size, what stands on every page of it, and how boxes are laid out on what is left.

Page coordinates are millimetres, origin at the top-left, x right, y down; boxes are xyxy.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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
FAMILIES = {"apriltag": "36h11", "aruco": "4x4_50"}
TAG_MODULES = {"36h11": 8, "4x4_50": 6}  # along a side: the code and a black border of 1
QUIET_MODULES = 2
MODULE_MIN_MM = 2.0
NOTE_MM = 5.5
STRIP_MM = 9.0
STRIP_ROW_MM = 6.0
PATCH_GAP_MM = 0.6
SIZES_MM = {"a4": (210.0, 297.0), "a3": (297.0, 420.0), "letter": (215.9, 279.4)}


@dataclass(frozen=True)
class Tag:
    """One fiducial; corners (top-left, top-right, bottom-right, bottom-left) of its black square on the page."""

    id: int
    family: str
    corners_mm: tuple[Point, Point, Point, Point]


@dataclass(frozen=True)
class Patch:
    """One patch of the colour strip: the sRGB colour asked for, 0..255, and its box."""

    rgb: Colour
    box_mm: Box


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
    strip: tuple[Patch, ...] = ()


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
    strip: tuple[Patch, ...]


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


def frames(paper: str, *, family: str | None, strip: Sequence[Colour] = ()) -> tuple[Frame, ...]:
    """The frames of the paper's orientations, portrait first; those that leave room for an artwork.

    Args:
        family: of the tags in the page's corners; None leaves them out.
        strip: colours of the strip; an even number, or none.

    Raises:
        UserError: neither orientation holds the ruler, the tags and 40 mm of artwork.
    """
    width_mm, height_mm = paper_mm(paper)
    sizes = dict.fromkeys([(width_mm, height_mm), (height_mm, width_mm)])
    found = tuple(frame for size in sizes if _holds_artwork(frame := _frame(size, family, strip)))
    if not found:
        furniture = "the 200 mm ruler and the four tags" if family else "the 200 mm ruler"
        raise UserError(f"Paper '{paper}' is too small for {furniture}: use a4 or at least 210x150mm.")
    return found


def _holds_artwork(frame: Frame) -> bool:
    x0, y0, x1, y1 = frame.area_mm
    ruler_fits = frame.size_mm[0] >= RULER_MM + 2 * RULER_MARGIN_MM
    return ruler_fits and min(x1 - x0, y1 - y0) >= AREA_MIN_MM


def _frame(size_mm: Size, family: str | None, colours: Sequence[Colour]) -> Frame:
    """The strip stands in the footer, above the note, or has a band of its own where the ruler took the footer."""
    width, height = size_mm
    tag, quiet = tag_mm(min(size_mm), family) if family else (0.0, 0.0)
    band, white = tag or BAND_MM, quiet or 2.0
    inset = MARGIN_MM + tag + quiet
    between_tags = family is None or width - 2 * inset >= RULER_MM + 2 * RULER_MARGIN_MM
    ruler_strip = 0.0 if between_tags else RULER_STRIP_MM
    bottom = height - MARGIN_MM - band
    footer = bottom + (RULER_STRIP_MM - 2 if between_tags else 0.0)
    in_footer = height - MARGIN_MM - NOTE_MM - footer >= STRIP_MM - 1
    own_band = STRIP_MM + white if colours and not in_footer else 0.0
    ruler_y = bottom + 0.5 if between_tags else bottom - quiet - ruler_strip + 2
    ruler_x = (width - RULER_MM) / 2
    top = footer + 1 if in_footer else bottom - white - STRIP_MM
    strip_box = (inset, top, width - inset, height - MARGIN_MM - NOTE_MM if in_footer else top + STRIP_MM)
    return Frame(
        size_mm=size_mm,
        area_mm=(MARGIN_MM, MARGIN_MM + band + white, width - MARGIN_MM, bottom - ruler_strip - white - own_band),
        header_mm=(inset, MARGIN_MM, width - inset, MARGIN_MM + band),
        footer_mm=(inset, strip_box[3] if colours and in_footer else footer, width - inset, height - MARGIN_MM),
        ruler_mm=(ruler_x, ruler_y, ruler_x + RULER_MM, ruler_y),
        tags=corner_tags((MARGIN_MM, MARGIN_MM, width - MARGIN_MM, height - MARGIN_MM), tag, family) if family else (),
        strip=patches(strip_box, colours),
    )


def tag_mm(side_mm: float, family: str) -> tuple[float, float]:
    """A tag's side, about a tenth of what it stands on, and the white that it needs on every side."""
    module = max(MODULE_MIN_MM, math.floor(side_mm / 40) / 2) * 8 / TAG_MODULES[family]
    return TAG_MODULES[family] * module, QUIET_MODULES * module


def corner_tags(box_mm: Box, side_mm: float, family: str) -> tuple[Tag, ...]:
    """Ids 0 to 3 in the box's corners, clockwise from its top-left."""
    left, top, right, bottom = box_mm
    right, bottom = right - side_mm, bottom - side_mm
    origins = ((left, top), (right, top), (right, bottom), (left, bottom))
    return tuple(Tag(i, family, _square(x, y, side_mm)) for i, (x, y) in enumerate(origins))


def patches(box_mm: Box, colours: Sequence[Colour]) -> tuple[Patch, ...]:
    """The colours along the box's longer side: in two rows where each is 6 mm or more, else in one."""
    left, top, right, bottom = box_mm
    upright = bottom - top > right - left
    rows = 2 if min(right - left, bottom - top) >= 2 * STRIP_ROW_MM else 1
    columns = len(colours) // rows
    across, down = (rows, columns) if upright else (columns, rows)
    boxes = (_cell_of(box_mm, across, down, i) for i in range(len(colours)))
    return tuple(Patch(colour, box) for colour, box in zip(colours, boxes, strict=True))


def _cell_of(box_mm: Box, across: int, down: int, number: int) -> Box:
    """One cell of a grid, row by row, without the gap to its neighbours."""
    left, top, right, bottom = box_mm
    width, height, half = (right - left) / across, (bottom - top) / down, PATCH_GAP_MM / 2
    x, y = left + number % across * width, top + number // across * height
    return x + half, y + half, x + width - half, y + height - half


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
    return pieces, tuple(Page(frame.size_mm, artwork, frame.tags, frame.ruler_mm, frame.strip) for artwork in tiles)


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
