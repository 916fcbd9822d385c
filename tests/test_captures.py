"""The default world against photographs of a printed sign that were made without it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import physadv
from physadv.files import image_tensor, open_image

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
