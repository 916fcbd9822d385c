"""`captures.csv`: one row per photograph, appended as they are judged, so that a run can go on where it stopped."""

import csv
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from physadv.errors import UserError


@dataclass(frozen=True)
class Row:
    """What is known of a photograph. Where `skipped` says why there is no answer, the rest is empty.

    found: tags; None for a quad. distance_m: None without a focal length. predicted: of `views` views, those that reach
    the goal. picture: number of its crop-NNNNNN.jpg.
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
    answer: str | None = None
    confidence: float | None = None
    success: bool | None = None
    predicted: int | None = None
    views: int | None = None
    predicted_rate: float | None = None
    picture: int | None = None
    skipped: str | None = None


COLUMNS = tuple(field.name for field in fields(Row))
_WHOLE = ("found", "predicted", "views", "picture")
_TEXT = ("file", "group", "condition", "answer", "skipped")


def append(path: Path, row: Row) -> None:
    """One more line, on the disk before this returns; the first brings the head with it."""
    try:
        with path.open("a", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            if file.tell() == 0:
                table.writerow(COLUMNS)
            table.writerow([_text(value) for value in asdict(row).values()])
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another folder or make room.") from error


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


def _value(name: str, text: str) -> str | int | float | bool | None:
    if text == "":
        return None
    if name in _TEXT:
        return text
    if name == "success":
        return text == "True"
    return int(text) if name in _WHOLE else float(text)
