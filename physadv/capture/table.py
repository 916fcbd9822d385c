"""`captures.csv`: one row per photograph, appended as they are judged, so that a run can go on where it stopped."""

import csv
import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Float

from physadv.capture.quads import CORNERS
from physadv.errors import UserError


@dataclass(frozen=True)
class Row:
    """What is known of a photograph. Where `skipped` says why there is no answer, the rest is empty.

    found: tags; None for a quad. distance_m: None without a focal length. stops, blur_px: of capture/measure.py (below
    0, blur_px is sharpening); None where they cannot be told. right: whether the answer is the sign's class.
    predicted, predicted_grey: of `views` views, those that reach the goal, with the artwork and with a grey one of its
    shape. picture: number of its crop-NNNNNN.jpg. time_s: of a frame.
    x1 to y4: corners of the face, px.
    """

    file: str
    group: str
    condition: str | None = None
    found: int | None = None
    error_px: float | None = None
    sign_px: float | None = None
    distance_m: float | None = None
    yaw_deg: float | None = None
    pitch_deg: float | None = None
    roll_deg: float | None = None
    stops: float | None = None
    blur_px: float | None = None
    answer: str | None = None
    confidence: float | None = None
    right: bool | None = None
    success: bool | None = None
    predicted: int | None = None
    views: int | None = None
    predicted_rate: float | None = None
    predicted_grey: int | None = None
    picture: int | None = None
    time_s: float | None = None
    x1: float | None = None
    y1: float | None = None
    x2: float | None = None
    y2: float | None = None
    x3: float | None = None
    y3: float | None = None
    x4: float | None = None
    y4: float | None = None
    skipped: str | None = None

    @property
    def corners_px(self) -> Float[np.ndarray, "4 2"]:
        """TL TR BR BL, pixel centres at +0.5; NaN where there is no answer."""
        values = [getattr(self, name) for name in CORNERS]
        return np.array([np.nan if value is None else value for value in values]).reshape(4, 2)


COLUMNS = tuple(field.name for field in fields(Row))
_WHOLE = ("found", "predicted", "views", "predicted_grey", "picture")
_ESCAPE = r"\\(?:\\|n|r|x[0-9a-f]{2}|u[0-9a-f]{4})"
_NAMES = ("file", "group")
_TEXT = (*_NAMES, "condition", "answer", "skipped")


def append(path: Path, row: Row) -> Row:
    """One more line, on the disk before this returns; the first brings the head with it.

    Gives the row back as `read` will, so that a run that goes on later makes the same figures of it.
    """
    line = [_escaped(value) if name in _NAMES else _text(value) for name, value in asdict(row).items()]
    try:
        with path.open("a", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            if file.tell() == 0:
                table.writerow(COLUMNS)
            table.writerow(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another folder or make room.") from error
    return _row(line, path)


def read(path: Path) -> list[Row]:
    """The rows of an earlier run; a last line that was cut short is removed from the file. UserError: no such table."""
    if not path.is_file():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        path.write_bytes(whole)
    lines = list(csv.reader(whole.decode(errors="replace").splitlines()))
    if lines and tuple(lines[0]) != COLUMNS:
        raise UserError(f"{path} is not a table of this version; start anew with --overwrite.")
    return [_row(line, path) for line in lines[1:]]


def _row(line: list[str], path: Path) -> Row:
    try:
        values = {name: _value(name, text) for name, text in zip(COLUMNS, line, strict=True)}
    except ValueError as error:
        raise UserError(f"{path} was changed ({error}); start anew with --overwrite.") from error
    return Row(**values)  # type: ignore[arg-type]


def _text(value: object) -> str:
    """No line breaks: a line of the file is a row."""
    if isinstance(value, float):
        return f"{round(value, 6) + 0.0:.6g}"  # never -0
    return "" if value is None else " ".join(str(value).split())


def _escaped(name: str) -> str:
    """A file name as it is but for a backslash and what breaks lines, which are written as Python does."""
    return "".join(repr(one)[1:-1] if one == "\\" or one.splitlines() != [one] else one for one in name)


def _named(text: str) -> str:
    """The inverse."""
    return re.sub(_ESCAPE, lambda found: found[0].encode().decode("unicode_escape"), text)


def _value(name: str, text: str) -> str | int | float | bool | None:
    if text == "":
        return None
    if name in _NAMES:
        return _named(text)
    if name in _TEXT:
        return text
    if name in ("success", "right"):
        return text == "True"
    return int(text) if name in _WHOLE else float(text)
