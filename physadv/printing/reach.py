"""What a sheet's tags are good for: from how far they are read."""

import math
from collections.abc import Sequence

from physadv.printing.paper import Tag

READ_PX = 20.0  # side of a tag in the photograph from which it is found nearly always (docs/capture.md)
PHONE_PX, SMALL_PX = 3000.0, 940.0  # focal lengths: a phone's photograph at full resolution; a film of 1280 x 720


def reach_m(tag_mm: float, focal_px: float) -> float:
    """The distance at which a tag seen from the front is 20 px wide: tag_mm / 1000 · focal_px / 20."""
    return tag_mm / 1000 * focal_px / READ_PX


def reach_words(tags: Sequence[Tag]) -> str:
    """One sentence on a sheet's tags, of which the smallest counts."""
    side_mm = min(math.dist(*tag.corners_mm[:2]) for tag in tags)
    far, near = (f"{reach_m(side_mm, focal_px):.1f} m" for focal_px in (PHONE_PX, SMALL_PX))
    lengths = f"(focal length {PHONE_PX:.0f} px: a phone) or {near} ({SMALL_PX:.0f} px)"
    return f"Tags of {side_mm:.0f} mm are read up to about {far} {lengths}."
