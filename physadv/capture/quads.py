"""Where the sign's face is in photographs without tags: a table of corners, marked by hand or by a detector."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from physadv.errors import UserError
from physadv.files import existing_file

CORNERS = ("x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4")
EXTRAS = ("label", "artwork", "condition")


@dataclass(frozen=True)
class Quad:
    """Corners of the square round the face, TL TR BR BL, in px of the upright photograph, pixel centres at +0.5.

    label: class of the sign. artwork: folder of what is on it, `none` for a clean sign. condition: any word to sort by.
    """

    corners_px: Float[np.ndarray, "4 2"]
    label: str | None = None
    artwork: str | None = None
    condition: str | None = None


def read_quads(path: Path) -> dict[str, Quad]:
    """Quads by file name (`VIDEO#000012` for a frame). UserError: a column, a number or a name that is not right."""
    try:
        with existing_file(path).open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, skipinitialspace=True)
            missing = [name for name in ("file", *CORNERS) if name not in (table.fieldnames or ())]
            if missing:
                raise UserError(f"{path} lacks the column {missing[0]!r}; write file,{','.join(CORNERS)} first.")
            rows = [(table.line_num, row) for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no readable table ({error}); save it as CSV in UTF-8.") from error
    quads: dict[str, Quad] = {}
    for line, row in rows:
        name = (row["file"] or "").strip()
        if not name or name in quads:
            raise UserError(f"{path}, line {line}: {name or 'no file'!r}; name every file, and only once.")
        quads[name] = _quad(row, f"{path}, line {line}")
    return quads


def _quad(row: dict[str, str | None], where: str) -> Quad:
    try:
        numbers = [float(row[name] or "") for name in CORNERS]
    except ValueError as error:
        raise UserError(f"{where}: a corner is not a number; write pixels, like 103.5.") from error
    if not all(map(math.isfinite, numbers)):
        raise UserError(f"{where}: a corner is infinite; write pixels, like 103.5.")
    return Quad(np.reshape(numbers, (4, 2)), **{name: (row.get(name) or "").strip() or None for name in EXTRAS})
