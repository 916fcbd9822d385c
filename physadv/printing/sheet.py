"""The true-size sheet: an artwork as a PDF to cut out and photograph, and as json to measure by (docs/sheet.md)."""

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from physadv.errors import UserError
from physadv.printing.inks import Inks, plain
from physadv.printing.pages import Booklet, Overview, draw_artwork, overview, png_of, render
from physadv.printing.paper import (
    FAMILIES,
    Box,
    Colour,
    Frame,
    Page,
    Patch,
    Piece,
    Point,
    Size,
    Tag,
    frames,
    lay_out,
)
from physadv.printing.parts import OPAQUE, Part, on_white, parts_of, with_tags
from physadv.printing.reach import reach_words
from physadv.printing.template import draw_template

VERSION = 1
PDF, JSON, PROOF, TEMPLATE = "sheet.pdf", "sheet.json", "proof.png", "template.pdf"
NOTE = "Test artefact for robustness evaluation. Not for public roads."
TAGS, TAGS_AT = (*FAMILIES, "none"), ("page", "round", "beside")
_ROUND_SIGN = "put tags round the sign (capture --tags FILE), or mark its corners (--quads FILE.csv)"
CUT = "Cut along the thin line."
HANG = "Hang the sheet whole, with its tags, to measure by them; or cut along the thin line."


@dataclass(frozen=True)
class Printer:
    """How the colours were converted; out_of_gamut is the share of the artwork that the printer cannot match."""

    profile: str
    profile_hash: str
    intent: str
    out_of_gamut: float
    proof: str


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
    tags: tuple[Tag, ...] = ()
    strip: tuple[Patch, ...] = ()
    printer: Printer | None = None
    template: str | None = None


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
    tags: str = "apriltag",
    tags_at: str = "page",
    strip: Sequence[Colour] = (),
    inks: Inks | None = None,
    template: bool = False,
    overwrite: bool = False,
    place_mm: Box | None = None,
    face_mm: Size | None = None,
    face_image: Image.Image | None = None,
) -> Sheet:
    """Writes `sheet.pdf` and `sheet.json` into the folder, and proof and template if asked for: all or none.

    Args:
        rgba: the whole artwork, width_mm x height_mm; what is transparent is cut away.
        dpi: the least resolution that is embedded; coarser artworks are repeated pixel by pixel, never smoothed.
        tags: apriltag, aruco or none.
        tags_at: page: in the corners of every page; round, beside: in a white border of the piece itself.
        strip: sRGB colours of the colour strip, an even number.
        inks: the printer that the colours are converted for, else they stay sRGB.
        template: also the sign's outline at true size; needs face_mm, face_image and place_mm.
        place_mm: the artwork's box on the sign; without it, places in the json count from the artwork's top-left.
        face_mm, face_image: the sign itself, for the small drawing of where the pieces go.

    Raises:
        UserError: sizes, paper, dpi or tags make no sense, nothing is opaque, or a sheet is already there.
    """
    place = place_mm or (0.0, 0.0, width_mm, height_mm)
    _check(width_mm, height_mm, dpi, place)
    _check_tags(tags, tags_at)
    if template and (place_mm is None or face_mm is None or face_image is None):
        raise UserError("Nothing says which sign this goes on: a template needs the artwork of a run on one sign.")
    _check_free(folder, [PDF, JSON, *([PROOF] if inks else []), *([TEMPLATE] if template else [])], overwrite=overwrite)
    picture = rgba.convert("RGBA")
    parts = _marked(parts_of(picture, place), tags, tags_at, strip)
    frame, pieces, pages = _laid_out(parts, paper, tags if tags_at == "page" else "none", strip)
    origin: Literal["sign", "artwork"] = "sign" if place_mm else "artwork"
    sheet = Sheet(
        VERSION, title, paper.lower(), dpi, artwork_hash, NOTE, origin, pieces, _with_piece_marks(pages, parts)
    )
    sheet = replace(sheet, tags=parts[0].tags, strip=parts[0].strip, template=TEMPLATE if template else None)
    sheet = replace(sheet, printer=_printer(picture, inks) if inks else None)
    shown = overview(parts, place, face_mm if place_mm else None, face_image)
    files = {PDF: _draw(sheet, frame, parts, inks, shown), JSON: _ADAPTER.dump_json(sheet, indent=1) + b"\n"}
    if inks:
        files[PROOF] = png_of(_proof(picture, inks))
    if template and face_mm and face_image:
        files[TEMPLATE] = _template(sheet, parts, face_mm, face_image)
    _write(folder, files)
    return sheet


def load_sheet(folder: Path) -> Sheet:
    """Reads `sheet.json` back, from the folder that holds it, or by its own path or that of the PDF beside it.

    Raises:
        UserError: it is missing, or not a sheet of this version.
    """
    folder = folder.parent if folder.name in (JSON, PDF) and not folder.is_dir() else folder
    path = folder / JSON
    if not path.is_file():
        raise UserError(f"There is no {JSON} in {folder}: give the folder that `physadv print` wrote to.")
    try:
        sheet = _ADAPTER.validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path} is not a sheet ({error.error_count()} faults): make it again.") from error
    if sheet.version != VERSION:
        raise UserError(f"{path} has version {sheet.version}, this physadv reads {VERSION}: make it again.")
    return sheet


def lost_tags(sheet: Sheet) -> str | None:
    """Why a sheet's tags cannot measure what is hung, and the way out; None where they can, or there are none."""
    tiles, pieces = sum(len(page.artwork) for page in sheet.pages), len(sheet.pieces)
    if sheet.tags or tiles == 1 or not sheet.pages[0].tags:
        return None
    if pieces > 1:
        return f"{pieces} pieces are cut out and lose the page's tags; {_ROUND_SIGN}."
    return (
        f"the one piece is in {tiles} tiles, which lose the page's tags when they are joined; print it with --tags-at "
        f"round, which puts tags on the piece, or {_ROUND_SIGN}."
    )


def _check(width_mm: float, height_mm: float, dpi: int, place_mm: Box) -> None:
    if not all(math.isfinite(side) and side > 0 for side in (width_mm, height_mm)):
        raise UserError(f"An artwork of {width_mm:g} x {height_mm:g} mm cannot be printed: give positive sizes.")
    if not 72 <= dpi <= 2400:
        raise UserError(f"{dpi} dpi cannot be printed: choose 72 to 2400.")
    placed = place_mm[2] - place_mm[0], place_mm[3] - place_mm[1]
    if not np.allclose(placed, (width_mm, height_mm), rtol=1e-4, atol=1e-2):
        sizes = f"{placed[0]:g} x {placed[1]:g} mm, the artwork {width_mm:g} x {height_mm:g} mm"
        raise UserError(f"The place on the sign measures {sizes}: give both the same size.")


def _check_tags(tags: str, tags_at: str) -> None:
    if tags not in TAGS:
        raise UserError(f"There are no tags {tags!r}: use {', '.join(TAGS)}.")
    if tags_at not in TAGS_AT:
        raise UserError(f"Tags cannot stand at {tags_at!r}: use {', '.join(TAGS_AT)}.")
    if tags == "none" and tags_at != "page":
        raise UserError(f"Tags stand {tags_at} the artwork, but there are none: choose apriltag or aruco.")


def _check_free(folder: Path, names: Sequence[str], *, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another folder for the sheet.")
    if not overwrite and (taken := [folder / name for name in names if (folder / name).exists()]):
        raise UserError(f"{taken[0]} exists: choose another folder or allow --overwrite.")


def _marked(parts: list[Part], tags: str, tags_at: str, strip: Sequence[Colour]) -> list[Part]:
    """The parts with tags and strip on them, where these do not stand on the page."""
    return parts if tags_at == "page" else [with_tags(parts, FAMILIES[tags], strip, all_round=tags_at == "round")]


def _laid_out(
    parts: list[Part], paper: str, page_tags: str, strip: Sequence[Colour]
) -> tuple[Frame, tuple[Piece, ...], tuple[Page, ...]]:
    """On as few pages as possible; the page bears the strip unless the piece does."""

    def bears_ink(piece: int, place_mm: Box) -> bool:
        return parts[piece - 1].bears_ink(place_mm)

    boxes = [part.box_mm for part in parts]
    choices = frames(paper, family=FAMILIES.get(page_tags), strip=() if parts[0].strip else strip)
    layouts = [(frame, *lay_out(boxes, frame, bears_ink=bears_ink)) for frame in choices]
    return min(layouts, key=lambda layout: len(layout[2]))


def _with_piece_marks(pages: tuple[Page, ...], parts: list[Part]) -> tuple[Page, ...]:
    """Tags and strip of an uncut piece are on its page, too."""
    if not parts[0].tags or len(pages) > 1:
        return pages
    (page,) = pages
    shift = np.subtract(page.artwork[0].box_mm, page.artwork[0].place_mm)
    tags = (replace(tag, corners_mm=_points(np.add(tag.corners_mm, shift[:2]))) for tag in parts[0].tags)
    strip = (replace(patch, box_mm=tuple((patch.box_mm + shift).tolist())) for patch in parts[0].strip)
    return (replace(page, tags=tuple(tags), strip=tuple(strip) or page.strip),)


def _points(corners_mm: Float[np.ndarray, "4 2"]) -> tuple[Point, Point, Point, Point]:
    one, two, three, four = ((x, y) for x, y in corners_mm.tolist())
    return one, two, three, four


def _printer(picture: Image.Image, inks: Inks) -> Printer:
    pixels = np.asarray(picture)
    missed = inks.out_of_gamut(np.asarray(on_white(picture))[pixels[..., 3] >= OPAQUE])
    return Printer(inks.name, inks.hash, inks.intent, round(float(missed.mean()), 4), PROOF)


def _proof(picture: Image.Image, inks: Inks) -> Image.Image:
    """What the print will look like, in sRGB; transparent where nothing is printed."""
    proof = inks.seen(inks.convert(on_white(picture)))
    proof.putalpha(picture.getchannel("A").point(lambda alpha: 255 if alpha >= OPAQUE else 0))
    return proof


def _draw(sheet: Sheet, frame: Frame, parts: list[Part], inks: Inks | None, shown: Overview) -> bytes:
    colouring = inks.convert if inks else plain
    whole = len(parts) == 1 and len(sheet.pages) == 1 and bool(frame.tags)
    colours = f"{inks.name}, {inks.intent}: print without colour management · " if inks else ""
    booklet = Booklet(
        title=sheet.title,
        origin=sheet.origin,
        advice=_advice(sheet, hung=whole),
        remark=f"{colours}Artwork {sheet.artwork_hash}",
        note=sheet.note,
        frame=frame,
        pieces=sheet.pieces,
        pages=sheet.pages,
        overview=shown,
    )
    return render(
        booklet, lambda pdf, tile: draw_artwork(pdf, tile, parts[tile.piece - 1], sheet.dpi, colouring), colouring
    )


def _advice(sheet: Sheet, *, hung: bool) -> tuple[str, ...]:
    """What to do with the sheet, and how far its tags reach where they stay with it."""
    tags = sheet.pages[0].tags if hung else sheet.tags
    return (HANG if hung else CUT, *([reach_words(tags)] if tags else []))


def _template(sheet: Sheet, parts: list[Part], face_mm: Size, face_image: Image.Image) -> bytes:
    words = {"title": sheet.title, "remark": f"Artwork {sheet.artwork_hash}", "note": sheet.note, "paper": sheet.paper}
    return draw_template(face_mm, face_image, parts, **words)


def _write(folder: Path, contents: dict[str, bytes]) -> None:
    try:
        stale = {folder / name for name in _earlier(folder) if name not in contents}
        folder.mkdir(parents=True, exist_ok=True)
        _write_together({folder / name: content for name, content in contents.items()})
        for path in stale:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"The sheet cannot be written ({error}): choose another folder.") from error


def _earlier(folder: Path) -> set[str]:
    """Proof and template of a sheet that is replaced; they would be of another artwork."""
    with suppress(UserError):
        sheet = load_sheet(folder)
        return ({PROOF} if sheet.printer else set()) | ({TEMPLATE} if sheet.template else set())
    return set()


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
