"""Where the chart is in a photograph: by the tags of its sheet, or by a table of corners."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from physadv.calibration.chart import Chart
from physadv.capture.photos import Photo
from physadv.capture.pose import fit_plane
from physadv.capture.quads import read_quads
from physadv.capture.tags import find
from physadv.errors import UserError
from physadv.printing import Tile, load_sheet

BESIDE = "photos.jsonl"  # where corners are looked for if nothing is said
_TAGS_MIN = 2


class Sheet:
    """The tags of a printed chart's sheet, in mm from the top-left corner of the chart's face."""

    def __init__(self, folder: Path, chart: Chart) -> None:
        sheet = load_sheet(folder)
        tiles = [tile for page in sheet.pages for tile in page.artwork]
        if (
            chart.size_mm is None
            or len(tiles) != 1
            or not sheet.pages[0].tags
            or not _as_large(tiles[0], chart.size_mm)
        ):
            raise UserError(f"{folder} is no sheet of this chart, whole and with tags; print it, or give --corners.")
        shift = np.subtract(tiles[0].place_mm[:2], tiles[0].box_mm[:2])
        self._family = sheet.pages[0].tags[0].family
        self._tags_mm = {tag.id: np.array(tag.corners_mm, dtype=float) + shift for tag in sheet.pages[0].tags}
        self._face_mm = np.multiply([[0, 0], [1, 0], [1, 1], [0, 1]], chart.size_mm).astype(float)

    def corners_px(self, photo: Photo) -> Float[np.ndarray, "4 2"]:
        """Corners of the chart's face, px with pixel centres at +0.5. UserError: fewer than two tags are seen."""
        seen = find(photo.pixels, self._family, wanted=self._tags_mm.keys())
        if len(seen) < _TAGS_MIN:
            raise UserError(
                f"{photo.name}: {len(seen)} of its sheet's {len(self._tags_mm)} tags found, two are needed."
            )
        plane = fit_plane(np.concatenate([self._tags_mm[tag] for tag in seen]), np.concatenate(list(seen.values())))
        return plane.project(self._face_mm)


def _as_large(tile: Tile, size_mm: tuple[float, float]) -> bool:
    left, top, right, bottom = tile.box_mm
    return bool(np.allclose((right - left, bottom - top), size_mm, atol=1.0))


class Table:
    """The corners of the chart's face by file name, from a csv as for `capture --quads`, or a jsonl."""

    def __init__(self, photos: Path, table: Path | None) -> None:
        path = table or (photos if photos.is_dir() else photos.parent) / BESIDE
        if table is None and not path.is_file():
            raise UserError(
                f"Where is the chart? Give the folder of its sheet as --sheet, or its corners as --corners FILE.csv; "
                f"without either, {BESIDE} must lie beside the photographs."
            )
        self._corners = {name: quad.corners_px for name, quad in read_quads(path).items()}

    def corners_px(self, photo: Photo) -> Float[np.ndarray, "4 2"]:
        """As of a `Sheet`. UserError: the photograph is not in the table."""
        if photo.name not in self._corners:
            raise UserError(f"{photo.name}: nothing says where the chart is in it; add it to the table of corners.")
        return self._corners[photo.name]
