"""The default world against photographs of a printed sign that were made without it; `capture` on real photographs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import physadv
from physadv.capture.pose import fit_plane
from physadv.capture.quads import read_quads
from physadv.capture.table import read
from physadv.config import CaptureOptions
from physadv.console import Console
from physadv.files import image_tensor, open_image
from physadv.runs.capture import run_capture

QUADS = Path(__file__).parent / "stop_rp2_quads.csv"  # TL TR BR BL of the square round the octagon, white rim included
SIZE_PX = 96
STATISTICS = ("brightness", "contrast", "sharpness", "red / green", "blue / green")


def _captured(folder: Path) -> torch.Tensor:
    """The signs of stop_clean, cropped to their box."""
    crops = []
    for line in (folder / "photos.jsonl").read_text().splitlines():
        photo = json.loads(line)
        x1, y1, x2, y2 = photo["crop_box"]
        half = max(x2 - x1, y2 - y1) / 2
        box = ((x1 + x2) / 2 - half, (y1 + y2) / 2 - half, (x1 + x2) / 2 + half, (y1 + y2) / 2 + half)
        crop = open_image(folder / photo["file"]).crop(box).resize((SIZE_PX, SIZE_PX), Image.Resampling.LANCZOS)
        crops.append(image_tensor(crop))
    return torch.stack(crops)


def _statistics(images: torch.Tensor) -> dict[str, np.ndarray]:
    """What a photograph of a sign looks like, on the middle half of its box."""
    quarter = SIZE_PX // 4
    middle = images[:, :, quarter:-quarter, quarter:-quarter].numpy()
    grey = middle.mean(1)
    high, low = np.percentile(grey, (95, 5), axis=(1, 2))
    neighbours = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    red, green, blue = middle.mean((2, 3)).T
    values = (grey.mean((1, 2)), high - low, np.abs(4 * grey[:, 1:-1, 1:-1] - neighbours).mean((1, 2)))
    return dict(zip(STATISTICS, (*values, red / green, blue / green), strict=True))


@pytest.fixture(scope="module")
def covered(data: Path) -> dict[str, dict[str, float]]:
    """For each world and statistic: the share of captured signs inside the central 95 % of the world's."""
    captured = _statistics(_captured(data / "captures" / "stop_clean"))
    scenes = physadv.load_scenes("staged:stop", backgrounds=data / "backgrounds").take(torch.zeros(200).long())
    shares = {}
    for name in ("drive-by", "digital"):
        world = physadv.load_world(name)
        views = world.draw(range(200), seed=3)
        made = _statistics(world.photograph(None, scenes, views, frame=physadv.Frame(SIZE_PX, 0.0)))
        limits = {key: np.percentile(values, (2.5, 97.5)) for key, values in made.items()}
        shares[name] = {
            key: float(((limits[key][0] <= values) & (values <= limits[key][1])).mean())
            for key, values in captured.items()
        }
    return shares


@pytest.mark.parametrize("statistic", STATISTICS)
def test_drive_by_covers_the_captured_signs(covered: dict[str, dict[str, float]], statistic: str) -> None:
    assert covered["drive-by"][statistic] >= 0.7


def test_the_check_rejects_a_world_without_physics(covered: dict[str, dict[str, float]]) -> None:
    assert min(covered["digital"].values()) < 0.5


def test_forty_real_photographs_go_through_capture(data: Path, tmp_path: Path) -> None:
    """The stop signs of Eykholt et al. 2018, without tags, at an unknown focal length; corners marked in a table."""
    photographs = data / "stop_rp2" / "photos_256"
    told: dict[str, Any] = {"photos": str(photographs), "quads": QUADS, "views": 4, "gap": 0, "out": tmp_path / "out"}
    metrics = run_capture(CaptureOptions(**told), command="test", console=Console())
    assert metrics["photographs"] == {"judged": 40, "skipped": 0}
    assert metrics["observed"]["k"] == metrics["predicted"]["k"] == 0
    rows = read(tmp_path / "out" / "captures.csv")
    assert sum(bool(row.right) for row in rows) >= 39
    assert {row.distance_m for row in rows} == {None}
    stops = {row.file: row.stops for row in rows if row.stops is not None}
    assert len(stops) == 40
    assert max(stops[name] for name in ("28.png", "31.png", "33.png", "38.png")) < -2.5  # in the shade
    assert min(stops[name] for name in ("18.png", "24.png", "25.png", "30.png")) > -0.5  # in the sun


def test_the_marked_corners_are_the_signs(data: Path) -> None:
    """Drawn there, an octagon's edge between red and white lies where the photograph has it."""
    turns = np.radians(np.arange(0, 360, 45))
    normals = np.column_stack([np.cos(turns), np.sin(turns)])  # of the octagon's sides, all 0.5 from its middle
    for name, quad in read_quads(QUADS).items():
        plane = fit_plane(np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]]), quad.corners_px)
        pixels = np.asarray(open_image(data / "stop_rp2" / "photos_256" / name)).astype(float)
        inside, rim = (_redness(pixels, plane.project(0.5 + share / 2 * normals)) for share in (0.88, 0.973))
        assert np.quantile(inside - rim, 0.25) > 0.1, name


def _redness(pixels: np.ndarray, points_px: np.ndarray) -> np.ndarray:
    """Of the nearest px, in shares of its light."""
    place = np.clip(points_px.astype(int), 0, np.subtract(pixels.shape[1::-1], 1))
    red, green, blue = pixels[place[:, 1], place[:, 0]].T
    return (red - np.maximum(green, blue)) / (red + green + blue + 12)
