"""t = reality: photographs of the printed thing, measured and judged."""

from physadv.capture.judge import Answer, Sighting, judge, locate, world_at
from physadv.capture.layout import Layout, read_layout, sheet_layout
from physadv.capture.photos import Photo, Skipped, open_source
from physadv.capture.pose import Plane, Pose, fit_plane, pose_of
from physadv.capture.quads import Quad, read_quads
from physadv.capture.tags import find

__all__ = [
    "Answer",
    "Layout",
    "Photo",
    "Plane",
    "Pose",
    "Quad",
    "Sighting",
    "Skipped",
    "find",
    "fit_plane",
    "judge",
    "locate",
    "open_source",
    "pose_of",
    "read_layout",
    "read_quads",
    "sheet_layout",
    "world_at",
]
