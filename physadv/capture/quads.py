"""Where the sign's face is in photographs without tags: a table of corners, marked by hand or by a detector."""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from physadv.errors import UserError
from physadv.files import existing_file

CORNERS = ("x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4")
EXTRAS = ("label", "artwork", "condition")
FOCAL = "focal_px"
OPENCV_PX = 0.5  # pixel centres lie at integers in a jsonl, as OpenCV counts them


@dataclass(frozen=True)
class Quad:
    """Corners of the square round the face, TL TR BR BL, in px of the upright photograph, pixel centres at +0.5.

    label: class of the sign. artwork: folder of what is on it, `none` for a clean sign. condition: any word to sort by.
    focal_px: of its photograph, instead of what the EXIF says.
    """

    corners_px: Float[np.ndarray, "4 2"]
    label: str | None = None
    artwork: str | None = None
    condition: str | None = None
    focal_px: float | None = None


def read_quads(path: Path) -> dict[str, Quad]:
    """Quads by file name (`VIDEO#000012` for a frame), of a csv or, by its suffix, a jsonl; see docs/capture.md.

    Rows of a csv without any corner say nothing, so that the table that `capture` writes can be given to it again.
    UserError: a column, a number or a name that is not right.
    """
    rows = _objects(path) if path.suffix.lower() == ".jsonl" else _lines(path)
    quads: dict[str, Quad] = {}
    for where, name, quad in rows:
        if not name or name in quads:
            raise UserError(f"{where}: {name or 'no file'!r}; name every file, and only once.")
        if quad is not None:
            quads[name] = quad
    return quads


def _lines(path: Path) -> Iterator[tuple[str, str, Quad | None]]:
    try:
        with existing_file(path).open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            apart = ";" if head.count(";") > head.count(",") else ","  # as spreadsheets of half of Europe write it
            table = csv.DictReader(file, skipinitialspace=True, delimiter=apart)
            missing = [name for name in ("file", *CORNERS) if name not in (table.fieldnames or ())]
            if missing:
                raise UserError(f"{path} lacks the column {missing[0]!r}; write file,{','.join(CORNERS)} first.")
            rows = [(table.line_num, row if apart == "," else _decimal(row)) for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no readable table ({error}); save it as CSV in UTF-8.") from error
    for line, row in rows:
        where, said = f"{path}, line {line}", any(row[name] for name in CORNERS)
        yield where, (row["file"] or "").strip(), _quad([row[name] for name in CORNERS], row, where) if said else None


def _decimal(row: dict[str, Any]) -> dict[str, Any]:
    """Numbers with a comma, as they are written where semicolons part columns."""
    return row | {name: row[name].replace(",", ".") for name in (*CORNERS, FOCAL) if row.get(name)}


def _objects(path: Path) -> Iterator[tuple[str, str, Quad | None]]:
    """One object per line with `file` and `corners`, TL TR BR BL, whose pixel centres lie at integers."""
    try:
        lines = existing_file(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text ({error}); save it in UTF-8.") from error
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, corners = str(row["file"]), np.asarray(row["corners"], dtype=object).reshape(8)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}: it needs file and four corners [x, y]; mend that line.") from error
        quad = _quad(corners.tolist(), row, where)
        yield where, name.strip(), replace(quad, corners_px=quad.corners_px + OPENCV_PX)


def _quad(corners: Sequence[Any], row: Mapping[str, Any], where: str) -> Quad:
    try:
        numbers = [float(value or "") if isinstance(value, str | None) else float(value) for value in corners]
        focal_px = float(row[FOCAL]) if row.get(FOCAL) not in (None, "") else None
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: a corner or {FOCAL} is not a number; write pixels, like 103.5.") from error
    if not all(map(math.isfinite, numbers)):
        raise UserError(f"{where}: a corner is infinite; write pixels, like 103.5.")
    if focal_px is not None and not (math.isfinite(focal_px) and focal_px > 0):
        raise UserError(f"{where}: {FOCAL} is {focal_px:g}; write pixels above 0, or leave it out.")
    words = {name: str(row.get(name) or "").strip() or None for name in EXTRAS}
    return Quad(np.reshape(numbers, (4, 2)), **words, focal_px=focal_px)
