"""Where tags stand on the sign's surface: beside the artwork on its sheet, or round the sign."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float

from physadv.capture.tags import FAMILIES
from physadv.errors import UserError
from physadv.files import existing_file, png_bytes, sha256
from physadv.printing import load_sheet, lost_tags
from physadv.threats import Artwork

ART = "art.png"
WITHOUT = "it was printed without; print it with tags, or give --tags or --quads."
QUIET = 0.25  # of a tag's side: two modules of eight


@dataclass(frozen=True)
class Layout:
    """Tags by number: TL, TR, BR, BL of the black square in mm from the top-left corner of the sign's face.

    paper_mm: xyxy of the sheet that hides the face, where the tags stand on one.
    """

    family: str
    corners_mm: dict[int, Float[np.ndarray, "4 2"]]
    paper_mm: tuple[float, ...] | None = None


def read_layout(path: Path) -> Layout:
    """`family: 36h11` and `tags: {0: [[x, y], [x, y], [x, y], [x, y]], ...}`, in YAML or JSON.

    UserError: anything else.
    """
    try:
        content = yaml.safe_load(existing_file(path).read_text(encoding="utf-8"))
        family, tags = str(content["family"]), content["tags"].items()
        corners = {int(number): np.array(points, dtype=float) for number, points in tags}
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{path} is no layout of tags; see docs/capture.md for its two keys, family and tags."
        ) from error
    if family not in FAMILIES:
        raise UserError(f"{path}: there are no tags {family!r} here; use {' or '.join(FAMILIES)}.")
    for number, points in corners.items():
        if points.shape != (4, 2) or not np.isfinite(points).all():
            raise UserError(f"{path}: tag {number} needs four corners [x, y] in mm, TL TR BR BL.")
    return _checked(Layout(family, corners), path)


def sheet_layout(folder: Path, artwork: Artwork | None) -> Layout:
    """The tags of a sheet that hangs on the sign whole, or of a piece that bears them itself, its artwork in place.

    UserError: the sheet has no tags, its pieces or tiles lose them, or nothing says where the artwork is.
    """
    sheet = load_sheet(folder)
    tiles = [tile for page in sheet.pages for tile in page.artwork]
    if len(tiles) != 1 and not sheet.tags:
        raise UserError(f"The sheet in {folder} gives no tags to measure by: {lost_tags(sheet) or WITHOUT}")
    if sheet.origin == "artwork" and artwork is None:
        raise UserError(f"The sheet in {folder} does not say where it is on the sign: add --artwork.")
    shift = np.zeros(2) if sheet.tags else np.subtract(tiles[0].place_mm[:2], tiles[0].box_mm[:2])
    if sheet.origin == "artwork" and artwork is not None:
        shift = shift + artwork.place_mm[0, :2].numpy()
    tags: Any = sheet.tags or sheet.pages[0].tags
    found = {tag.id: np.array(tag.corners_mm, dtype=float) + shift for tag in tags}
    paper = _paper(found) if sheet.tags else (*shift, *(shift + sheet.pages[0].size_mm))
    return _checked(Layout(tags[0].family if tags else "", found, tuple(map(float, paper))), folder)


def check_sheet(folder: Path, work: Path, artwork: Artwork) -> None:
    """UserError: the sheet was printed from another artwork. Of one by `print --image` nothing tells.

    artwork: that of the folder `work`, whose PNG another version of Pillow may have written.
    """
    sheet = load_sheet(folder)
    known = sha256(png_bytes(artwork.rgb[0])), sha256(work / ART)
    if sheet.origin == "sign" and sheet.artwork_hash not in known:
        raise UserError(
            f"The sheet in {folder} was printed from another artwork than {work}: give --artwork of the run that was "
            "printed, or --sheet of this one."
        )


def _paper(tags: dict[int, Float[np.ndarray, "4 2"]]) -> tuple[float, ...]:
    """The box round tags on a piece, with the white that is left round them."""
    corners = np.concatenate([*tags.values()])
    white = QUIET * np.ptp(next(iter(tags.values())), axis=0)
    return (*(corners.min(0) - white), *(corners.max(0) + white))


def _checked(layout: Layout, path: Path) -> Layout:
    if len(layout.corners_mm) < 2:
        raise UserError(f"{path} holds fewer than two tags, too few to measure by: print them, or give --quads.")
    return layout
