"""Photographs of the printed thing before a detector, which is shown the whole of each."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from physadv.capture.explain import case_of
from physadv.capture.judge import box_in, cut_out, judge, locate, on_sensor, standing, world_at
from physadv.capture.photos import Photo
from physadv.capture.quads import CORNERS as CORNER_COLUMNS
from physadv.capture.quads import Quad
from physadv.capture.table import Row
from physadv.config import CaptureOptions
from physadv.console import Console
from physadv.errors import UserError
from physadv.question import NOTHING, goal_of, heard, objective_of, truth_at
from physadv.runs import run_capture
from physadv.scenes import Scenes, load_scenes
from physadv.targets import Detector, load_target
from physadv.targets.boxes import Detections, Seen, iou
from physadv.transforms.colour import to_linear, to_srgb
from physadv.transforms.geometry import SENSOR_PX
from physadv.transforms.world import DIGITAL, load_world

SIZE_PX, SIGN_PX, AT_PX = (1200, 800), 240.0, (700.0, 350.0)
CORNERS = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]]) * SIGN_PX + AT_PX


@pytest.fixture(scope="module")
def target() -> Detector:
    found = load_target("builtin:signs-det")
    assert isinstance(found, Detector)
    return found


@pytest.fixture(scope="module")
def signs() -> Scenes:
    return load_scenes("staged:stop")


def photograph(signs: Scenes, *, cover: float = 0.0) -> np.ndarray:
    """A grey street with a stop sign on it; cover: as grey as the street from the top down, that share of the sign."""
    face = signs.faces.images[0].permute(1, 2, 0).numpy()
    side = int(SIGN_PX)
    drawn = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
    drawn[: round(cover * side), :, :3] = 0.45
    street = np.full((SIZE_PX[1], SIZE_PX[0], 3), 0.45)
    street[SIZE_PX[1] * 2 // 3 :] = 0.3
    x, y = (int(value) for value in AT_PX)
    here = street[y : y + side, x : x + side]
    here[:] = drawn[..., :3] * drawn[..., 3:] + here * (1 - drawn[..., 3:])
    return (255 * street).round().astype(np.uint8)


def photo_of(pixels: np.ndarray) -> Photo:
    return Photo("sign.png", "sign.png", pixels, 1000.0)


def test_a_detector_is_shown_all_of_it(target: Detector, signs: Scenes) -> None:
    photo = photo_of(photograph(signs))
    plane = locate(photo, Quad(CORNERS), signs).plane
    cut = cut_out(photo, plane, signs, target.frame)
    size = target.frame.size_px
    assert cut.picture.shape == (3, size, size)
    below = round(size * SIZE_PX[1] / SIZE_PX[0])
    assert (cut.picture[:, below:] == target.frame.pad).all()
    assert (cut.picture[:, :below] != target.frame.pad).any()
    scale = size / SIZE_PX[0]
    np.testing.assert_allclose(box_in(cut, signs), scale * np.concatenate([CORNERS[0], CORNERS[2]]), atol=0.3)


@pytest.mark.parametrize("world", ["digital", "drive-by"])
def test_the_sign_is_foretold_where_it_was(target: Detector, signs: Scenes, world: str) -> None:
    photo = photo_of(photograph(signs))
    sighting = locate(photo, Quad(CORNERS), signs)
    cut = cut_out(photo, sighting.plane, signs, target.frame)
    where = {"scale": on_sensor(photo, target.frame), "stand": standing(cut, signs, target.frame)}
    there = world_at(load_world(world), sighting.pose, signs.faces.size_mm[0], **where)
    views = there.draw(range(3), seed=4)
    seen = there.seen(signs.take(torch.zeros(3, dtype=torch.long)), views, frame=target.frame)
    assert len(seen) == 3
    stretched = "a wide lens stretches what is beside its axis"
    assert (iou(seen.box, box_in(cut, signs).expand(3, 4)) > 0.9).all(), stretched
    elsewhere = world_at(load_world(world), sighting.pose, signs.faces.size_mm[0], scale=where["scale"])
    drawn = elsewhere.draw(range(3), seed=4)
    moved = elsewhere.seen(signs.take(torch.zeros(3, dtype=torch.long)), drawn, frame=target.frame)
    assert not (iou(moved.box, box_in(cut, signs).expand(3, 4)) > 0.5).all()


@pytest.mark.parametrize(("cover", "said", "missed"), [(0.0, "stop", False), (1.0, NOTHING, True)])
def test_found_or_missed(target: Detector, signs: Scenes, cover: float, said: str, missed: bool) -> None:
    photo = photo_of(photograph(signs, cover=cover))
    objective = objective_of(target, goal_of(target, "hide"))
    how = {"target": target, "scenes": signs, "objective": objective, "world": DIGITAL, "views": 2, "seed": 0}
    answer = judge(photo, locate(photo, Quad(CORNERS), signs), artwork=None, **how)
    assert (answer.name, answer.right, answer.success) == (said, not missed, missed)
    assert answer.confidence < target.threshold if missed else answer.confidence >= target.threshold
    assert (answer.predicted, answer.views) == (0, 2), "the clean sign is foretold to be found"


def test_what_is_said_of_one_sign(target: Detector, signs: Scenes) -> None:
    """The surest box at the sign from the threshold up; what it says elsewhere is of something else."""
    box = torch.tensor([20.0, 20.0, 60.0, 60.0])
    truth = truth_at(target, signs, box)
    assert isinstance(truth, Seen)
    stop, other = int(truth.label[0]), (int(truth.label[0]) + 1) % len(target.classes)
    boxes = torch.stack([box + 100, box, box + 2, box])[None]
    low = target.threshold / 2
    for scores, labels, wanted in (
        ([0.95, 0.9, 0.8, low], [other, stop, other, stop], ("stop", 0.9, True)),
        ([0.95, 0.6, 0.8, low], [stop, stop, other, stop], (target.classes[other], 0.8, False)),
        ([0.95, low, low / 2, 0.0], [stop, stop, other, stop], (NOTHING, low, False)),
    ):
        name, sure, right = heard(target, Detections(boxes, torch.tensor([scores]), torch.tensor([labels])), truth)
        assert (name, right) == (wanted[0], wanted[2])
        assert sure == pytest.approx(wanted[1])
    none = Detections(boxes[:, :0], torch.zeros(1, 0), torch.zeros(1, 0, dtype=torch.long))
    assert heard(target, none, truth) == (NOTHING, 0.0, False)


def test_a_sign_larger_than_the_frame_is_named(target: Detector, signs: Scenes) -> None:
    near = np.array([[-1500.0, -1500], [1900, -1500], [1900, 1900], [-1500, 1900]])
    photo = replace(photo_of(photograph(signs)), focal_px=3000.0)
    objective = objective_of(target, goal_of(target, "hide"))
    how = {"target": target, "scenes": signs, "objective": objective, "world": DIGITAL, "views": 2, "seed": 0}
    with pytest.raises(UserError, match="larger than the photograph"):
        judge(photo, locate(photo, Quad(near), signs), artwork=None, **how)


def test_blur_is_told_in_px_of_the_worlds_camera(target: Detector, signs: Scenes) -> None:
    """Whatever the photograph's resolution was: the views are 1,920 px wide."""
    light = to_linear(torch.from_numpy(photograph(signs) / 255)).numpy()
    encoded = to_srgb(torch.from_numpy(cv2.GaussianBlur(light, (0, 0), 6.0)))
    blurred = photo_of((255 * encoded).round().byte().numpy())
    sighting = locate(blurred, Quad(CORNERS), signs)
    at = dict(zip(CORNER_COLUMNS, CORNERS.ravel().tolist(), strict=True))
    how = {"scenes": signs, "artwork": None, "work": None, "target": target, "paper_mm": None}
    case = case_of(blurred, Row("sign.png", "sign.png", **at), **how)
    assert case is not None
    assert case.measured.blur_px == pytest.approx(6.0 * SENSOR_PX / SIZE_PX[0], rel=0.1)
    assert not case.measured.light.slope.any()
    assert case.pose.focal_px == pytest.approx(SENSOR_PX / SIZE_PX[0] * sighting.pose.focal_px)


def test_a_run_over_a_folder(signs: Scenes, tmp_path: Path) -> None:
    folder, lines = tmp_path / "photos", []
    folder.mkdir()
    for name, cover in (("clean", 0.0), ("half", 0.5), ("gone", 1.0)):
        Image.fromarray(photograph(signs, cover=cover)).save(folder / f"{name}.png")
        lines.append([f"{name}.png", *CORNERS.ravel()])
    with (tmp_path / "quads.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", *CORNER_COLUMNS], *lines])
    how = {"photos": str(folder), "quads": tmp_path / "quads.csv", "views": 2, "gap": 2}
    options = CaptureOptions(**how, target="builtin:signs-det", out=tmp_path / "out")
    metrics = run_capture(options, command="physadv capture", console=Console(quiet=True))
    with (tmp_path / "out" / "captures.csv").open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert [rows[f"{name}.png"]["answer"] for name in ("clean", "gone")] == ["stop", NOTHING]
    assert metrics["observed"]["n"] == 3
    assert metrics["run"]["goal"] == "hide"
    assert metrics["gap"]["photographs"] == 2
    page = (tmp_path / "out" / "report.html").read_text()
    assert "The sign is missed in" in page
    assert "does not find the sign as what it is" in page
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["run"]["target"]["name"] == "builtin:signs-det"
