"""The camera of one photograph, by the 24-patch colour strip of a printed sheet in it."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from physadv.calibration.chart import Chart, Reading, read_chart
from physadv.capture.pose import fit_plane
from physadv.capture.tags import find
from physadv.errors import UserError
from physadv.printing import load_sheet

_TAGS_MIN, _TRUSTED_MIN = 2, 8  # tags that are seen, patches that are not clipped


class Strip:
    """Where the colour strip of a sheet is among its tags: on its first page, or on the piece that bears both."""

    def __init__(self, folder: Path) -> None:
        """UserError: the sheet has no strip, or too few tags."""
        sheet = load_sheet(folder)
        page = sheet.pages[0]
        strip, tags = (sheet.strip, sheet.tags) if sheet.strip else (page.strip, page.tags)
        if not strip or len(tags) < _TAGS_MIN:
            raise UserError(f"The sheet in {folder} has no colour strip between tags; print it again with its tags.")
        boxes = np.array([patch.box_mm for patch in strip], dtype=float)
        low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
        size = high - low
        self._family, self._tags_mm = tags[0].family, {tag.id: np.array(tag.corners_mm, dtype=float) for tag in tags}
        self._corners_mm = low + size * [[0.0, 0], [1, 0], [1, 1], [0, 1]]
        rgb = np.array([patch.rgb for patch in strip], dtype=int)
        self.chart = Chart(rgb, (boxes - np.tile(low, 2)) / np.tile(size, 2), (float(size[0]), float(size[1])))

    def read(self, pixels: UInt8[np.ndarray, "h w 3"], *, name: str) -> Reading:
        """The strip's patches. UserError: the tags are not seen, or the patches are too small in the photograph."""
        seen = find(pixels, self._family, wanted=self._tags_mm.keys())
        if len(seen) < _TAGS_MIN:
            raise UserError(f"{name}: {len(seen)} of its sheet's {len(self._tags_mm)} tags found, two are needed.")
        plane = fit_plane(np.concatenate([self._tags_mm[tag] for tag in seen]), np.concatenate(list(seen.values())))
        return read_chart(pixels / 255, self.chart, plane.project(self._corners_mm), name=name)
