"""The sign over the frames of a video: what is one sign, from where it is answered rightly, what is said of it."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from physadv.capture.table import Row
from physadv.capture.track import Track, tracks
from physadv.config import CaptureOptions
from physadv.console import Console
from physadv.report.capture import _story as story
from physadv.runs import run_capture

PER_S = 10


def row(
    frame: int,
    *,
    right: bool = True,
    at: tuple[float, float] = (100.0, 100.0),
    side: float = 40.0,
    distance_m: float | None = None,
    video: str = "clip.mp4",
) -> Row:
    (x, y), half = at, side / 2
    corners = dict(zip(("x1", "x2", "x3", "x4"), (x - half, x + half, x + half, x - half), strict=True))
    corners |= dict(zip(("y1", "y2", "y3", "y4"), (y - half, y - half, y + half, y + half), strict=True))
    return Row(
        f"{video}#{frame:06d}",
        video,
        right=right,
        success=not right,
        answer="stop" if right else "yield",
        sign_px=side,
        distance_m=distance_m,
        time_s=frame / PER_S,
        picture=frame,
        **corners,
    )


def frames(track: Track) -> list[str]:
    return [one.file[-2:] for one in track.rows]


def test_a_track_survives_lost_frames_but_not_a_second() -> None:
    found = tracks([row(i) for i in (0, 1, 2, 9, 10, 25, 26)])
    assert [frames(one) for one in found] == [["00", "01", "02", "09", "10"], ["25", "26"]]
    assert found[0].to_json(speed_kmh=30)["lost"] == 6


def test_signs_apart_are_tracked_apart() -> None:
    """Two videos, and in one of them a sign that jumps to another place and another that is far larger."""
    rows = [row(i, at=(100.0 + 5 * i, 100.0)) for i in range(4)]
    rows += [row(4, at=(400.0, 100.0)), row(5, at=(402.0, 100.0)), row(6, at=(402.0, 100.0), side=130.0)]
    rows += [row(i, video="other.mp4") for i in range(2)]
    assert [len(one.rows) for one in tracks(rows[::-1])] == [4, 2, 1, 2]


def test_a_sign_may_move_farther_while_it_is_lost() -> None:
    assert len(tracks([row(0), row(3, at=(160.0, 100.0))])) == 1
    assert len(tracks([row(0), row(1, at=(160.0, 100.0))])) == 2


def test_photographs_and_skipped_frames_are_in_no_track() -> None:
    photo = Row("a#1.jpg", "a#1.jpg", right=True, x1=0.0)
    skipped = Row("clip.mp4#000003", "clip.mp4#000003", skipped="no tags")
    assert tracks([photo, skipped]) == []


def approach(answers: str) -> Track:
    """One frame a tenth of a second, from 30 m on 2 m nearer each; r: right."""
    made = [row(10 + i, right=mark == "r", distance_m=30.0 - 2 * i) for i, mark in enumerate(answers)]
    (track,) = tracks(made)
    return track


def test_recognition_is_told_in_frames_seconds_and_metres() -> None:
    said = approach("wwrwrrr").to_json(speed_kmh=30)
    where = {"frame": 12, "time_s": 1.2, "distance_m": 26.0, "sign_px": 40.0}
    assert said["first"] == where | {"after_s": pytest.approx(0.2), "after_frames": 2}
    assert said["for_good"]["frame"] == 14
    assert said["for_good"]["distance_m"] == 22.0
    assert (said["never"], said["late"]) == (False, False)
    assert said["found"] == [False, False, True, False, True, True, True]
    assert "frame 12 (0.2 s after it came into view, at 26.0 m), and for good in frame 14" in story(said)


def test_never_late_and_unknown() -> None:
    """At 30 km/h a car needs 13.4 m: found only in the last frame, at 12 m, is late."""
    late = approach("wwwwwwwwwr").to_json(speed_kmh=30)
    assert late["braking_m"] == pytest.approx(13.39, abs=0.01)
    assert late["late"] is True
    assert "late" in story(late)
    assert approach("wwwwwwwwwr").to_json(speed_kmh=10)["late"] is False
    never = approach("wwww").to_json(speed_kmh=30)
    assert (never["never"], never["for_good"], never["first"]) == (True, None, None)
    assert "never" in story(never)
    assert approach("rrw").to_json(speed_kmh=30)["for_good"] is None
    blind = tracks([row(0), row(1)])[0].to_json(speed_kmh=30)
    assert blind["late"] is None  # no distance is known
    assert "every frame" in story(blind)


TOY = """
import torch
from torch import nn


class Toy(nn.Module):
    input_size, classes, context = 16, ("stop", "yield"), 0.0

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(40.0))

    def forward(self, images):
        level = images.mean((1, 2, 3))
        return torch.stack([0 * level, self.scale * (level - 0.5)], 1)  # bright is a yield sign


def make():
    return Toy()
"""


def test_a_video_is_judged_frame_by_frame(tmp_path: Path) -> None:
    """A bright sign that darkens as it comes near: read rightly from the sixth frame on."""
    path = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), PER_S, (128, 96))
    rows = ["file,x1,y1,x2,y2,x3,y3,x4,y4,focal_px"]
    for index in range(9):
        writer.write(np.full((96, 128, 3), 220 - 20 * index, np.uint8))
        half = 10 + 3 * index
        low, high = 48 - half, 48 + half
        rows.append(f"drive.avi#{index:06d},{low},{low},{high},{low},{high},{high},{low},{high},300")
    writer.release()
    (tmp_path / "quads.csv").write_text("\n".join(rows))
    (tmp_path / "toy.py").write_text(TOY)
    options = CaptureOptions(
        photos=str(path),
        quads=tmp_path / "quads.csv",
        target=f"python:{tmp_path / 'toy.py'}:make",
        out=tmp_path / "out",
        views=1,
        gap=4,
    )
    metrics = run_capture(options, command="physadv capture", console=Console())
    (track,) = metrics["tracks"]
    assert track["frames"] == [0, 8]
    assert track["for_good"]["frame"] == track["first"]["frame"] == 5  # 120 of 255 is the first below a half
    assert track["for_good"]["after_s"] == pytest.approx(0.5)
    distances = track["distances_m"]
    assert distances == sorted(distances, reverse=True)
    assert track["for_good"]["distance_m"] == pytest.approx(distances[5])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "and from then on" in page
    assert page.count('class="right"') == 4
    with (tmp_path / "out" / "captures.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(one["time_s"]) for one in table] == pytest.approx([i / PER_S for i in range(9)])
    assert [one["right"] for one in table] == ["False"] * 5 + ["True"] * 4
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["tracks"] == metrics["tracks"]
