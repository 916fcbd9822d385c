"""The sign over the frames of a video: from where is it answered rightly, and stays so.

The words are those of `approach.py`: the sign is *found* in a frame that is answered rightly; *never*, if in none;
*late*, if in none from which the car can still stop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from physadv.approach import braking_m
from physadv.capture.table import Row

LOST_S, LOST_FRAMES = 1.0, 30  # a sign that was not seen for longer is another one
JUMP = 0.75  # of its size: how far a sign moves from one frame to the next, at most
GROWTH = 1.5  # and how much larger or smaller it gets
FRAME = "#"


@dataclass(frozen=True)
class Track:
    """One sign in consecutive frames of one video, some of which may have lost it."""

    rows: tuple[Row, ...]

    @property
    def found(self) -> list[bool]:
        return [bool(row.right) for row in self.rows]

    @property
    def for_good(self) -> int | None:
        """The place of the first frame from which on the sign is found in every one; None: not in the last."""
        wrong = [place for place, right in enumerate(self.found) if not right]
        first = wrong[-1] + 1 if wrong else 0
        return first if first < len(self.rows) else None

    def to_json(self, *, speed_kmh: float) -> dict[str, Any]:
        """`tracks` of metrics.json (docs/capture.md)."""
        first = next((place for place, right in enumerate(self.found) if right), None)
        last, begin = self.for_good, self.rows[0]
        frames = [frame_of(row) for row in self.rows]
        return {
            "video": begin.group,
            "frames": [frames[0], frames[-1]],
            "seen": len(frames),
            "lost": frames[-1] - frames[0] + 1 - len(frames),
            "start": _moment(begin),
            "first": None if first is None else _moment(self.rows[first]) | self._waited(first),
            "for_good": None if last is None else _moment(self.rows[last]) | self._waited(last),
            "never": first is None,
            "late": self._late(braking_m(speed_kmh)),
            "braking_m": braking_m(speed_kmh),
            "found": self.found,
            "distances_m": [row.distance_m for row in self.rows],
        }

    def _waited(self, place: int) -> dict[str, Any]:
        """Seconds and frames since the sign was first seen."""
        start, row = self.rows[0], self.rows[place]
        known = start.time_s is not None and row.time_s is not None
        waited_s = (row.time_s or 0.0) - (start.time_s or 0.0) if known else None
        return {"after_s": waited_s, "after_frames": frame_of(row) - frame_of(start)}

    def _late(self, braking_m: float) -> bool | None:
        """None: no distance is known, or the sign was first seen when it was too late already."""
        early = [row for row in self.rows if row.distance_m is not None and row.distance_m >= braking_m]
        return not any(row.right for row in early) if early else None


def frame_of(row: Row) -> int:
    """`clip.mp4#000012` -> 12."""
    return int(row.file.rpartition(FRAME)[2])


def tracks(rows: Sequence[Row]) -> list[Track]:
    """The signs of every video, in order; photographs that are no frames belong to none.

    A frame continues the track whose last quad is nearest, if that has neither jumped nor grown beyond what the frames
    between allow; else it starts a new one.
    """
    frames = [row for row in rows if row.skipped is None and FRAME in row.file and row.group != row.file]
    open_: list[list[Row]] = []
    for row in sorted(frames, key=lambda row: (row.group, frame_of(row))):
        near = [(apart, one) for one in open_ if (apart := _apart(one[-1], row)) is not None]
        if near:
            min(near, key=lambda pair: pair[0])[1].append(row)
        else:
            open_.append([row])
    return [Track(tuple(one)) for one in open_]


def _apart(last: Row, row: Row) -> float | None:
    """How far the quad has moved, in its own sizes; None: it is no continuation."""
    steps = frame_of(row) - frame_of(last)
    if row.group != last.group or steps < 1 or _is_lost(last, row, steps):
        return None
    one, other = last.corners_px, row.corners_px
    sizes = _size(one), _size(other)
    apart = float(np.linalg.norm(one.mean(0) - other.mean(0))) / min(sizes)
    allowed = GROWTH ** min(steps, 4)
    fits = apart <= JUMP * min(steps, 4) and max(sizes) <= allowed * min(sizes)
    return apart if fits else None


def _is_lost(last: Row, row: Row, steps: int) -> bool:
    if last.time_s is not None and row.time_s is not None:
        return row.time_s - last.time_s > LOST_S
    return steps > LOST_FRAMES


def _size(corners: Float[np.ndarray, "4 2"]) -> float:
    return float(np.ptp(corners, axis=0).max())


def _moment(row: Row) -> dict[str, Any]:
    return {"frame": frame_of(row), "time_s": row.time_s, "distance_m": row.distance_m, "sign_px": row.sign_px}
