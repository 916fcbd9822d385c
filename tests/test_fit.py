"""The plane of a sign from its shape: known homographies are found again, and what cannot be fitted keeps its box."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from physadv.scenes.faces import faces_for
from physadv.scenes.fit import UNIT, _crop, box_corners, fitted_corners, project, template
from physadv.scenes.street import coco

TURNED = {
    "straight": [[60, 50], [180, 50], [180, 170], [60, 170]],
    "rolled": [[75, 40], [190, 60], [170, 175], [55, 155]],
    "yawed": [[60, 40], [150, 60], [150, 150], [60, 170]],
    "sheared": [[70, 50], [180, 35], [170, 160], [60, 175]],
}


def photographed(name: str, corners: list[list[float]], *, side=240, gain=0.7, seed=0) -> np.ndarray:
    """The drawn sign with its raster's corners there, over a noisy grey, in a light of its own."""
    face = faces_for([name], size_px=256).images[0].permute(1, 2, 0).numpy()
    half = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1.0]])
    to_px = cv2.getPerspectiveTransform((UNIT * 256).astype(np.float32), np.array(corners, np.float32))
    face[..., :3] *= face[..., 3:]
    seen = cv2.warpPerspective(face, half @ to_px @ np.linalg.inv(half), (side, side), flags=cv2.INTER_AREA)
    noise = np.random.default_rng(seed).normal(0.45, 0.05, (side, side, 1))
    return (np.clip(gain * seen[..., :3] + (1 - seen[..., 3:]) * noise, 0, 1) * 255).astype(np.uint8)


def shape(name: str):
    found = template(faces_for([name]), 0)
    assert found is not None
    return found


def box_about(outline: np.ndarray, corners: np.ndarray) -> tuple[float, float, float, float]:
    seen = project(cv2.getPerspectiveTransform(UNIT.astype(np.float32), corners.astype(np.float32)), outline)
    return (*seen.min(0).tolist(), *seen.max(0).tolist())


def error_px(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.linalg.norm(found - true, axis=1).mean())


@pytest.mark.parametrize("name", ["stop", "yield", "danger", "priority-road"])
@pytest.mark.parametrize("turned", TURNED)
def test_known_planes_are_found(name, turned):
    true, of = np.array(TURNED[turned], float), shape(name)
    box = box_about(of.outline, true)
    found = fitted_corners(photographed(name, TURNED[turned]), box, of)
    if turned == "yawed" and name != "stop":  # beyond three sides, and beyond the reach of a diamond's: the box stays
        assert found is None
        return
    assert found is not None
    plain = error_px(box_corners(of.outline, box), true)
    assert error_px(found, true) < (2.0 if plain < 2 else 0.35 * plain)
    np.testing.assert_allclose(box_about(of.outline, found), box, atol=1e-2)


def test_light_does_not_matter():
    true = TURNED["rolled"]
    of = shape("stop")
    box = box_about(of.outline, np.array(true, float))
    bright, dark = (fitted_corners(photographed("stop", true, gain=gain), box, of) for gain in (1.0, 0.25))
    assert error_px(bright, dark) < 2


@pytest.mark.parametrize("name", ["speed-limit-50", "no-entry", "pedestrians", "end-of-limits"])
def test_discs_and_signs_without_art_have_no_template(name):
    assert template(faces_for([name]), 0) is None


def test_what_cannot_be_fitted_keeps_its_box():
    of = shape("stop")
    noise = np.random.default_rng(0).integers(0, 255, (120, 120, 3)).astype(np.uint8)
    flat = np.full((120, 120, 3), 90, np.uint8)
    assert fitted_corners(noise, (30, 30, 90, 90), of) is None
    assert fitted_corners(flat, (30, 30, 90, 90), of) is None
    assert fitted_corners(photographed("stop", TURNED["straight"]), (100, 100, 110, 110), of) is None


def test_boxes_at_the_edge_of_the_photograph():
    of = shape("stop")
    pixels = photographed("stop", TURNED["straight"])
    assert error_px(box_corners(of.outline, (60, 50, 180, 170)), np.array(TURNED["straight"], float)) < 0.5
    found = fitted_corners(np.ascontiguousarray(pixels[50:170, 60:180]), (0, 0, 120, 120), of)
    assert found is None or error_px(found, UNIT * 120) < 3


def test_the_crop_is_where_its_matrix_says():
    ramp = np.repeat(np.arange(0, 240, dtype=np.uint8)[None, :, None], 200, 0).repeat(3, 2)
    crop, valid, to_crop = _crop(ramp, (50, 60, 82, 120))
    column = crop.shape[1] // 2
    x, _ = project(np.linalg.inv(to_crop), np.array([[column + 0.5, 30.0]]))[0]
    value = crop[30, column, 0] * 255  # of the pixel with its centre at value + 0.5
    assert value == pytest.approx(x - 0.5, abs=0.02)
    assert valid[1:-1, 1:-1].all()
    _, valid, _ = _crop(ramp, (0, 0, 64, 64))
    assert not valid[:20].any()
    assert valid[40:, 40:].all()


def test_turned_signs_that_are_not_recognised_keep_their_box(data):
    of = shape("stop")
    streets = {one.name: one for one in coco(data / "roadsign/train/instances.json")}
    for name, known in (("road63", False), ("road95", False), ("road673", False), ("road69", True), ("road306", True)):
        (box, *_) = (sign.box for sign in streets[name].signs if sign.label == "stop")
        found = fitted_corners(np.asarray(Image.open(streets[name].path).convert("RGB")), box, of)
        assert (found is not None) == known, name


def captures(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Photographs and the true corners of the face, px with pixel centres at +0.5."""
    lines = [json.loads(line) for line in (folder / "photos.jsonl").read_text().splitlines()]
    return [(np.asarray(Image.open(folder / one["file"])), np.array(one["corners"]) + 0.5) for one in lines]


@pytest.mark.parametrize("noise_px", [0.0, 1.5])
def test_captured_stop_signs(data, noise_px):
    """Another drawing of the sign, other letters: from 5 px of error at the corners to below 3, by half and more."""
    of, rng = shape("stop"), np.random.default_rng(0)
    errors = []
    for pixels, true in captures(data / "captures/stop_clean"):
        box = np.array(box_about(of.outline, true))
        x1, y1, x2, y2 = (np.round(box + rng.normal(0, noise_px, 4)) if noise_px else box).tolist()
        plain = box_corners(of.outline, (x1, y1, x2, y2))
        found = fitted_corners(pixels, (x1, y1, x2, y2), of)
        errors.append([error_px(plain if found is None else found, true), error_px(plain, true), found is not None])
    fitted, plain, accepted = np.array(errors).T
    assert np.median(fitted) < 0.6 * np.median(plain)
    assert np.quantile(fitted, 0.9) < 0.4 * np.quantile(plain, 0.9)
    assert accepted.mean() > 0.9
