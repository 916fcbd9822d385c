"""The 43 classes of GTSRB: their slugs, the shape of each sign and how large it is on the road."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from physadv.errors import UserError

GTSRB: tuple[str, ...] = (
    "speed-limit-20",
    "speed-limit-30",
    "speed-limit-50",
    "speed-limit-60",
    "speed-limit-70",
    "speed-limit-80",
    "end-of-speed-limit-80",
    "speed-limit-100",
    "speed-limit-120",
    "no-overtaking",
    "no-overtaking-trucks",
    "priority-at-next-intersection",
    "priority-road",
    "yield",
    "stop",
    "no-vehicles",
    "no-trucks",
    "no-entry",
    "danger",
    "curve-left",
    "curve-right",
    "double-curve",
    "bumpy-road",
    "slippery-road",
    "road-narrows-right",
    "road-works",
    "traffic-signals",
    "pedestrians",
    "children",
    "bicycles",
    "snow",
    "wild-animals",
    "end-of-limits",
    "turn-right",
    "turn-left",
    "ahead-only",
    "ahead-or-right",
    "ahead-or-left",
    "keep-right",
    "keep-left",
    "roundabout",
    "end-of-no-overtaking",
    "end-of-no-overtaking-trucks",
)
"""Slugs in the order of the dataset's class ids (Stallkamp et al. 2012, table 1)."""


@dataclass(frozen=True)
class Shape:
    """A sign board: a regular polygon with rounded corners, and the bounding box that is its raster.

    sides: 0 for a disc. turn_deg: direction of the first corner, clockwise from +x (y points down).
    """

    name: str
    width_mm: float
    height_mm: float
    corner_mm: float
    sides: int
    turn_deg: float


# German size 2 (signs for 20-80 km/h motor traffic, 100 %): VwV-StVO to §§ 39-43, III: discs 600, triangles 900 wide,
# squares 600. The stop sign is 900 across. A square on its point is 600·√2 less what the rounded corners take off.
SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("circle", 600.0, 600.0, 0.0, 0, 0.0),
        Shape("triangle", 900.0, 791.5, 45.0, 3, -90.0),
        Shape("inverted-triangle", 900.0, 791.5, 45.0, 3, 90.0),
        Shape("octagon", 900.0, 900.0, 12.0, 8, 22.5),
        Shape("diamond", 823.7, 823.7, 30.0, 4, 0.0),
    )
}

SYNONYMS: dict[str, str] = {
    "stop-sign": "stop",
    "stopsign": "stop",
    "traffic-light": "trafficlight",
    "traffic-lights": "trafficlight",
    "speed-limit": "speedlimit",
    "speed-limit-sign": "speedlimit",
    "cross-walk": "crosswalk",
    "crosswalk-sign": "crosswalk",
    "zebra-crossing": "crosswalk",
    "yield-sign": "yield",
    "give-way": "yield",
    "do-not-enter": "no-entry",
    "traffic-sign-stop": "stop",
}
"""Words for one and the same sign in street data sets and detectors (COCO: "stop sign", "traffic light")."""

_SINGULAR = {"priority-road": "diamond", "yield": "inverted-triangle", "stop": "octagon"}
_WARNINGS = {GTSRB[11], *GTSRB[18:32]}


def shape_of(name: str) -> Shape:
    """The board of a GTSRB class. Raises UserError, with the nearest slug, for any other name."""
    class_index(name, GTSRB)
    return SHAPES[_SINGULAR.get(name, "triangle" if name in _WARNINGS else "circle")]


def class_index(name: str, classes: Sequence[str]) -> int:
    """Row of `name` in `classes`. Raises UserError that names the nearest one there is."""
    if name in classes:
        return list(classes).index(name)
    nearest = get_close_matches(name, classes, n=1, cutoff=0.0)
    hint = f"the nearest one is '{nearest[0]}'" if nearest else "the target has no class names at all"
    raise UserError(f"There is no class '{name}'; {hint}.")


def canonical(name: str) -> str:
    """The slug that data sets and detectors share: lower case, hyphens for spaces and underscores, no synonyms."""
    hyphened = "-".join(name.strip().lower().replace("_", " ").replace("-", " ").split())
    return SYNONYMS.get(hyphened, hyphened)
