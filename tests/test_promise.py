"""The benchmark of promise against photographs: its arithmetic, and a small run of it."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from physadv.targets import load_target
from tests.benchmarks import promise
from tests.benchmarks.promise import Row, artworks, difference, improvement, rows, scenes_of, table
from tests.simulated.camera import A, photograph
from tests.simulated.press import INKJET
from tests.simulated.stage import clutter


def found(rate: float, foretold: dict[str, float], *, artwork: str = "a", photographs: int = 400) -> list[Row]:
    won = np.random.default_rng(0).random(photographs) < rate
    return [Row(artwork, "near", number, bool(one), foretold) for number, one in enumerate(won)]


def test_the_difference_is_that_of_cells_and_chance_has_its_share() -> None:
    rows = found(0.5, {"w": 0.3}) + found(0.0, {"w": 0.1}, artwork="b")
    apart, floor, (low, high) = difference(rows, "w")
    assert apart == pytest.approx(0.15, abs=0.03)
    assert floor == pytest.approx(math.sqrt(2 * 0.25 / math.pi / 400) / 2, rel=0.02)
    assert low < apart < high


def test_a_nearer_world_is_told_with_an_interval() -> None:
    rows = found(0.5, {"far": 0.9, "near": 0.55, "same": 0.9})
    gain, (low, _) = improvement(rows, "far", "near")
    assert gain > low > 0.2
    assert improvement(rows, "far", "same") == (0, (0, 0))


def test_only_the_part_round_the_sign_is_developed_and_it_is_the_same() -> None:
    shot = next(iter(promise.shots(A, 1, purpose="test")))
    quiet = replace(A, electrons=1e9, read_electrons=0.0, cast=0.0, motion_px=(0.0, 0.0), disc_px=(0.8, 0.8))
    plate, picture = promise.sign(None, INKJET), clutter(np.random.default_rng(0))
    whole, part = (
        photograph(
            plate, quiet, shot.view.pose, shot.light, picture, rng=np.random.default_rng(0), margin_px=margin
        ).astype(int)
        for margin in (None, 24)
    )
    low, high = shot.view.outline_px.min(0).astype(int) + 4, shot.view.outline_px.max(0).astype(int) - 4
    inside = np.s_[low[1] : high[1], low[0] : high[0]]
    assert np.abs(whole - part)[inside].max() <= 5, "what lies further off changes JPEG's rounding alone"
    assert np.abs(whole - part)[inside].mean() < 0.1
    assert (part[0, 0] == 128).all()


def test_observations_go_on_after_a_kill_and_belong_to_their_artworks(tmp_path: Path) -> None:
    kept, basis = tmp_path / "A.jsonl", {"bars": "1", "backgrounds": "2"}
    assert promise._known(kept, basis) == {}
    with kept.open("a") as file:
        file.write('{"band": "near", "number": 0, "seen": {"bars": true}}\n{"band": "near", "num')
    for _ in range(2):
        assert promise._known(kept, basis) == {("near", 0): {"bars": True}}
    with pytest.raises(SystemExit, match="other artworks"):
        promise._known(kept, basis | {"bars": "3"})


@pytest.mark.slow
def test_artworks_are_made_photographed_and_foretold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = promise.Made("stickers:two-bars", "untargeted", 20)
    monkeypatch.setattr(promise, "ARTWORKS", {"bars": made})
    target, scenes = load_target("builtin:gtsrb"), scenes_of(None)
    worn = artworks(tmp_path, target, scenes)
    worlds = {"drive-by": promise.physadv.load_world("drive-by")}
    how = {"target": target, "scenes": scenes, "made": worn, "worlds": worlds, "behind": [], "views": 8}
    seen = rows(tmp_path, "A", 6, **how)
    assert len(seen) == 12
    assert sum(row.observed for row in seen) >= 8  # two bars break the shipped classifier nearly always
    assert rows(tmp_path, "A", 6, **how) == seen  # what was photographed is kept
    assert "| bars | near |" in table(seen, ["drive-by"])
