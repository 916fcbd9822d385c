"""`gtsrb:DIR`: the German Traffic Sign Recognition Benchmark, as published (PPM) or repacked (PNG and one csv).

J. Stallkamp et al., "Man vs. computer: Benchmarking machine learning algorithms for traffic sign recognition", 2012.
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from physadv.errors import UserError
from physadv.scenes.canvas import Photograph
from physadv.scenes.classes import GTSRB

PUBLISHED = ("Filename", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId")
REPACKED = ("path", "class", "track", "roi_x1", "roi_y1", "roi_x2", "roi_y2")
INSIDE = ("", "Images", "Final_Training/Images", "GTSRB/Final_Training/Images")


def gtsrb(folder: Path) -> list[Photograph]:
    """Every photograph with its sign's box; a group is one physical sign (a track of one class)."""
    found = [one for table in _tables(folder) for one in _published(table)]
    if not found:
        found = list(_repacked(_table_of(folder), folder))
    if not found:
        raise UserError(f"The GTSRB tables of {folder} list no photographs: unpack the dataset again.")
    return found


def _tables(folder: Path) -> list[Path]:
    """The csv of every class, as published, wherever in the unpacked archive `folder` is."""
    places = (sorted((folder / inside).glob("*/GT-*.csv")) for inside in INSIDE)
    return next((tables for tables in places if tables), [])


def _published(table: Path) -> Iterator[Photograph]:
    """000CC/GT-000CC.csv; the track is the first half of TTTTT_FFFFF.ppm."""
    for where, row in _rows(table, PUBLISHED, delimiter=";"):
        path = table.parent / row["Filename"]
        number, *roi = _integers(where, row, "ClassId", *PUBLISHED[1:5])
        yield _photograph(path, number, path.stem.split("_")[0], roi, where)


def _repacked(table: Path, folder: Path) -> Iterator[Photograph]:
    for where, row in _rows(table, REPACKED, delimiter=","):
        number, track, *roi = _integers(where, row, "class", *REPACKED[2:])
        yield _photograph(folder / row["path"], number, str(track), roi, where)


def _table_of(folder: Path) -> Path:
    """The csv of a folder of PNGs: gtsrb_train.csv lies beside (or in) train/."""
    beside = [place / f"gtsrb_{folder.name}.csv" for place in (folder.parent, folder)]
    table = next((path for path in beside if path.is_file()), None)
    if table is not None:
        return table
    splits = sorted(path.stem.removeprefix("gtsrb_") for path in folder.glob("gtsrb_*.csv"))
    if splits:
        raise UserError(f"{folder} holds the splits {', '.join(splits)}: give one of them, gtsrb:{folder / splits[0]}.")
    expected = f"00014/GT-00014.csv in it (as published), or {beside[0].name} beside it"
    raise UserError(f"No GTSRB in {folder}: expected {expected}.")


def _rows(table: Path, columns: tuple[str, ...], *, delimiter: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Rows of a csv that has `columns`, each with "file, line n" for messages."""
    with table.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines, delimiter=delimiter)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{table} has no column {', '.join(missing)}: it needs {delimiter.join(columns)}.")
        for row in reader:
            yield f"{table}, line {reader.line_num}", row


def _integers(where: str, row: Mapping[str, str], *columns: str) -> list[int]:
    try:
        return [int(row[name]) for name in columns]
    except (TypeError, ValueError):
        values = {name: row[name] for name in columns}
        raise UserError(f"{where}: whole numbers are needed in {values}.") from None


def _photograph(path: Path, number: int, track: str, roi: list[int], where: str) -> Photograph:
    x1, y1, x2, y2 = roi
    if not (0 <= number < len(GTSRB) and x1 <= x2 and y1 <= y2):
        raise UserError(f"{where}: class {number} is not in 0..{len(GTSRB) - 1}, or the box {roi} is empty.")
    group = f"{number}-{track.lstrip('0') or '0'}"
    box = (float(x1), float(y1), float(x2 + 1), float(y2 + 1))
    return Photograph(path, GTSRB[number], group, f"{path.parent.name}/{path.stem}", box=box)
