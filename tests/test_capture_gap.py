"""The gap of a capture by stage: what is measured in a photograph, what a swap does, who is blamed, what to do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from physadv.capture.advice import advice
from physadv.capture.colours import colour_name, colours
from physadv.capture.figures import figures
from physadv.capture.gap import RUNS, Split, explained_by, mean, split, summary, sure
from physadv.capture.measure import Measured, Sight, measure, sign_in, typical_ink
from physadv.capture.pose import Plane
from physadv.capture.swap import STAGES, Found, swap
from physadv.capture.table import Row
from physadv.objectives import Goal, Margin
from physadv.question import truth_at
from physadv.report.capture import _shot
from physadv.scenes import Scenes, load_scenes
from physadv.stats import wilson
from physadv.targets import Classifier, Frame
from physadv.threats import Artwork
from physadv.transforms.camera import Balance, Defocus, Jpeg, Motion, Noise, Sharpen, Tone
from physadv.transforms.geometry import geometry
from physadv.transforms.light import Exposure, Gradient, Temperature, Veil
from physadv.transforms.mount import Placement
from physadv.transforms.print import Ink, monomials
from physadv.transforms.stages import Draw, Stages
from physadv.transforms.view import Pinhole
from physadv.transforms.world import World

FRAME = Frame(64, 0.1)
SIZE_MM = 600.0
VIEW = (Pinhole((6.0, 6.0), (20.0, 20.0), (5.0, 5.0), (2.0, 2.0), (900.0, 900.0)),)
INK = Ink(gamut=(1.0, 1.0), dot_gain=(0.3, 0.3), paper=(0.75, 0.75), black=(0.02, 0.02))
TRUE = Stages(
    print=(INK,),
    mount=(Placement(),),
    light=(Exposure((-1.0, -1.0)), Veil((0.06, 0.06))),
    view=VIEW,
    camera=(Defocus((1.2, 1.2)), Noise((0.0005, 0.0005), (0.002, 0.002))),
)
OFF_MM = torch.tensor([9.0, -6.0, 9.0, -6.0])
MODEL = replace(
    TRUE,
    print=(Ink(gamut=(0.0, 0.3), dot_gain=(0.0, 0.2), paper=(0.8, 1.0)),),
    mount=(Placement(shift_mm=8.0),),
    light=(Exposure((-3.5, -2.5)), Temperature((4300, 9000)), Gradient((0.0, 0.3))),
    camera=(Defocus((0.0, 0.2)), Motion((0.0, 0.5)), Balance(0.1), Tone((-0.1, 0.1)), Noise(), Jpeg((90, 95))),
)


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return load_scenes("staged:stop", face_mm=SIZE_MM)


@pytest.fixture(scope="module")
def artwork() -> Artwork:
    """Blocks of all colours over the upper fifth of the sign, between its letters and its rim."""
    rgb = torch.rand(1, 3, 4, 12, generator=torch.Generator().manual_seed(3))
    rgb = rgb.repeat_interleave(8, 2).repeat_interleave(8, 3)
    return Artwork(rgb, torch.ones(1, 1, 32, 96), torch.tensor([[150.0, 75.0, 450.0, 175.0]]))


def photographed(
    scenes: Scenes, artwork: Artwork | None, stages: Stages, *, view: int = 0
) -> tuple[torch.Tensor, Sight, Plane]:
    """One view of a world as if it were a photograph, and the plane in it: surface mm -> px of the photograph."""
    world = World("true", (stages,))
    drawn = world.draw([view], seed=1)
    (seen,) = world.photograph(artwork, scenes, drawn, frame=FRAME)
    at = geometry(scenes, drawn.draws[0], frame=FRAME)
    to_px, scale = at.to_px[0].double().numpy(), float(at.sensor_px[0])
    plane = Plane(np.diag([1 / scale, 1 / scale, 1.0]) @ to_px, 0.0)
    return seen, Sight.of(seen, to_px, scale, scenes), plane


def measured_in(scenes: Scenes, artwork: Artwork | None, stages: Stages = TRUE) -> Measured:
    found = measure(photographed(scenes, artwork, stages)[1], scenes, artwork)
    assert found is not None
    return found


# --- what is measured ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stops", [-3.0, -1.0, 0.0])
def test_light_is_what_the_world_did(scenes: Scenes, artwork: Artwork, stops: float) -> None:
    """gain = (1 − veil) · 2^stops, bias = veil · 2^stops, since veils are as bright as the lamp."""
    lit = replace(TRUE, light=(Exposure((stops, stops)), Veil((0.06, 0.06))))
    light = measured_in(scenes, artwork, lit).light
    np.testing.assert_allclose(light.gain, 0.94 * 2**stops * np.ones(3), rtol=0.06)
    np.testing.assert_allclose(light.bias, 0.06 * 2**stops * np.ones(3), atol=0.02)
    assert light.stops == pytest.approx(stops, abs=0.1)
    assert float(light.slope.abs().max()) < 0.06


def test_a_veil_leaves_white_as_bright(scenes: Scenes, artwork: Artwork) -> None:
    """It takes from the gain what it adds to the bias; and the darkest fit is still a number."""
    veiled = replace(TRUE, light=(Exposure((-1.0, -1.0)), Veil((0.5, 0.5))))
    light = measured_in(scenes, artwork, veiled).light
    assert light.stops == pytest.approx(-1.0, abs=0.1)
    dark = replace(light, gain=torch.full((3,), 0.01), bias=torch.full((3,), -0.05))
    assert dark.stops == pytest.approx(np.log2(0.005))


def test_the_slope_of_the_light_is_found(scenes: Scenes, artwork: Artwork) -> None:
    """A gradient of 0.3 is 1 ± 0.3 at the edges of the frame: a slope of 0.6 across it."""
    slope = measured_in(scenes, artwork, replace(TRUE, light=(Gradient((0.3, 0.3)),))).light.slope
    assert float(slope.norm()) == pytest.approx(0.6, abs=0.1)


@pytest.mark.parametrize("sigma_px", [0.6, 1.2, 2.5])
def test_blur_is_measured_in_px_of_the_photograph(scenes: Scenes, artwork: Artwork, sigma_px: float) -> None:
    blurred = replace(TRUE, camera=(Defocus((sigma_px, sigma_px)),))
    assert measured_in(scenes, artwork, blurred).blur_px == pytest.approx(sigma_px, abs=0.2)


@pytest.mark.parametrize("sigma_px", [0.0, 0.4])
def test_blur_is_told_from_the_width_of_a_px(scenes: Scenes, artwork: Artwork, sigma_px: float) -> None:
    """A sign so far away that the crop has two px for one of the photograph's."""
    far = (Pinhole((25.0, 25.0), (20.0, 20.0), (5.0, 5.0), (2.0, 2.0), (900.0, 900.0)),)
    stages = replace(TRUE, view=far, camera=(Defocus((sigma_px, sigma_px)),))
    assert photographed(scenes, artwork, stages)[1].scale > 2
    assert measured_in(scenes, artwork, stages).blur_px == pytest.approx(sigma_px, abs=0.05)


@pytest.mark.parametrize("amount", [0.4, 1.5])
def test_sharpening_is_measured_as_a_blur_below_nothing(scenes: Scenes, artwork: Artwork, amount: float) -> None:
    sharpened = replace(TRUE, camera=(Sharpen((amount, amount)),))
    found = measured_in(scenes, artwork, sharpened).blur_px
    assert found is not None
    assert found < 0
    assert found**2 == pytest.approx(amount, rel=0.3)


def test_a_face_that_is_drawn_otherwise_tells_no_blur(scenes: Scenes) -> None:
    """Letters in another typeface look blurred, however sharp they are."""
    sight = photographed(scenes, None, TRUE)[1]
    here = measure(sight, scenes, None)
    faces = replace(scenes.faces, images=scenes.faces.images.roll(9, 3))
    other = measure(sight, replace(scenes, faces=faces), None)
    assert here is not None
    assert here.blur_px == pytest.approx(1.2, abs=0.2)
    assert other is not None
    assert other.blur_px is None


def test_a_face_without_edges_tells_no_blur(scenes: Scenes) -> None:
    """Blank paper is as white as before, however blurred."""
    paper = load_scenes("staged:a4")
    found = measure(photographed(paper, None, TRUE)[1], paper, None)
    assert found is not None
    assert found.blur_px is None


def test_the_artwork_is_found_where_it_hangs(scenes: Scenes, artwork: Artwork) -> None:
    sight = photographed(scenes, artwork.at(artwork.place_mm + OFF_MM), TRUE)[1]
    found = measure(sight, scenes, artwork)
    assert found is not None
    assert found.shift_mm == pytest.approx((9.0, -6.0), abs=2.0)


def test_the_print_is_what_the_printer_did(scenes: Scenes, artwork: Artwork) -> None:
    """From the middle of a world of other printers to the colours of this one."""
    ink = measured_in(scenes, artwork).ink
    assert ink is not None
    prior = typical_ink(MODEL.get(Ink))
    terms = colours_terms(artwork)
    truth, before, after = (one @ terms for one in (typical_ink(INK), prior, ink.response(prior)))
    assert float((before - truth).abs().mean()) > 0.1
    assert float((after - truth).abs().mean()) < 0.02
    empty = replace(ink, square=0 * ink.square, right=0 * ink.right)
    torch.testing.assert_close(empty.response(prior), prior)  # what no photograph tells stays the world's


def colours_terms(artwork: Artwork) -> torch.Tensor:
    return monomials(artwork.rgb, artwork.alpha)[0].flatten(1)


def test_a_face_that_is_covered_tells_nothing(scenes: Scenes, artwork: Artwork) -> None:
    sight = photographed(scenes, artwork, TRUE)[1]
    assert measure(sight, scenes, artwork, paper_mm=(-50.0, -50.0, 700.0, 700.0)) is None
    assert measure(sight, scenes, artwork, paper_mm=(100.0, 50.0, 500.0, 200.0)) is not None


# --- what a swap does ------------------------------------------------------------------------------------------------


def test_a_swap_changes_its_stage_alone(scenes: Scenes, artwork: Artwork) -> None:
    plane = photographed(scenes, artwork, TRUE)[2]
    found = Found(measured_in(scenes, artwork), plane, typical_ink(INK))
    (drawn,) = World("model", (MODEL,)).draw(range(3), seed=5).draws

    def differs(one: Draw, other: Draw, family: type) -> bool:
        before, after = one.params.get(family), other.params.get(family)
        return before is not after

    changed = {
        "print": {Ink},
        "light": {Exposure, Temperature, Gradient, Balance, Tone},
        "geometry": {Pinhole, Placement},
        "blur": {Defocus, Motion, Sharpen},
    }
    families = set().union(*changed.values()) | {Noise, Jpeg}
    for stage in STAGES:
        swapped = swap(drawn, stage, found)
        assert {family for family in families if differs(drawn, swapped, family)} == changed[stage]
    blind = replace(found, measured=replace(found.measured, blur_px=None), response=None)
    assert swap(drawn, "blur", blind) is drawn
    assert swap(drawn, "print", blind) is drawn


def test_all_measured_gives_the_photograph_back(scenes: Scenes, artwork: Artwork) -> None:
    """Another printer, light, mounting and lens; measured, they look alike to within noise."""
    seen, sight, plane = photographed(scenes, artwork.at(artwork.place_mm + OFF_MM), TRUE)
    measured = measure(sight, scenes, artwork)
    assert measured is not None
    assert measured.ink is not None
    found = Found(measured, plane, measured.ink.response(typical_ink(MODEL.get(Ink))))
    world = World("model", (MODEL,))
    drawn = world.draw(range(4), seed=5)
    taken, sign = scenes.take(torch.zeros(4, dtype=torch.long)), sign_in(sight, scenes)
    at_mm = sight.points_mm()[0].reshape(*sign.shape, 2) - (artwork.place_mm[0, :2] + OFF_MM[:2])
    size_mm = artwork.place_mm[0, 2:] - artwork.place_mm[0, :2]
    worn = ((at_mm > -30) & (at_mm < size_mm + 30)).all(-1)

    def error(stages: tuple[str, ...], where: torch.Tensor = sign) -> float:
        (draw,) = drawn.draws
        for stage in stages:
            draw = swap(draw, stage, found)
        views = world.photograph(artwork, taken, replace(drawn, draws=(draw,)), frame=FRAME)
        return float((views - seen)[:, :, where].abs().mean())

    assert error(()) > 0.15
    assert error(STAGES) < 0.02
    assert error(STAGES, worn) < 0.012  # 0.022 with the artwork in its place, 0.037 moved the other way
    assert error(("light",)) < error(())


# --- who is blamed ---------------------------------------------------------------------------------------------------


class Level(nn.Module):
    """Bright is the second class, from a threshold on."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        level = images.mean((1, 2, 3))
        return torch.stack([0 * level, 40 * (level - self.threshold)], 1)


def splits_of(scenes: Scenes, artwork: Artwork, model: Stages) -> dict[str, Any]:
    target = Classifier.of(Level(0.3), classes=("stop", "yield"), frame=FRAME, name="level")
    found = []
    for photo in range(6):
        seen, sight, plane = photographed(scenes, artwork, TRUE, view=photo)
        measured = measure(sight, scenes, artwork)
        assert measured is not None
        assert measured.ink is not None
        found.append(
            split(
                seen,
                Found(measured, plane, measured.ink.response(typical_ink(model.get(Ink)))),
                sign_in(sight, scenes),
                group=str(photo),
                truth=truth_at(target, scenes, torch.zeros(4)),
                target=target,
                scenes=scenes,
                artwork=artwork,
                objective=Margin(Goal("untargeted")),
                world=World("model", (model,)),
                views=8,
                seed=photo,
            )
        )
    return summary(found, seed=0)


def test_the_stage_that_is_wrong_is_blamed(scenes: Scenes, artwork: Artwork) -> None:
    dark = splits_of(scenes, artwork, replace(TRUE, light=MODEL.light))
    assert dark["success"]["observed"]["mean"] == 1.0
    assert dark["success"]["gap"]["mean"] == 1.0
    assert dark["explained_by"] == ["light"]
    light = dark["success"]["stages"]["light"]
    assert light["change"]["mean"] == 1.0
    assert light["left"]["mean"] == 0.0
    assert dark["colour"]["stages"]["light"]["left"]["mean"] < 0.4 * dark["colour"]["gap"]["mean"]
    assert abs(dark["colour"]["stages"]["blur"]["change"]["mean"]) < 1


def test_without_a_gap_nobody_is_blamed(scenes: Scenes, artwork: Artwork) -> None:
    told = splits_of(scenes, artwork, TRUE)
    assert not sure(told["success"]["gap"])
    assert told["success"]["gap"]["mean"] == 0.0


def test_a_gap_is_not_sure_because_nothing_was_observed() -> None:
    """0 of 20 observed is [0–16] %: 5 % foretold is no contradiction, 60 % is one."""
    for foretold, known in ((0.05, False), (0.6, True)):
        runs = dict.fromkeys(RUNS, (foretold, 1.0, 5.0))
        splits = [Split(str(i), (0.0, 1.0), runs, frozenset(STAGES), ()) for i in range(20)]
        gap = summary(splits, seed=0)["success"]["gap"]
        assert gap["mean"] == pytest.approx(-foretold)
        assert sure(gap) is known


def test_the_interval_is_of_paired_groups() -> None:
    rng = np.random.default_rng(0)
    photo = rng.normal(0, 5, 200)  # what photographs share cancels in a difference
    change = (photo + 1 + rng.normal(0, 0.2, 200)) - photo
    apart = mean(photo, [str(i) for i in range(200)], seed=0)
    paired = mean(change, [str(i) for i in range(200)], seed=0)
    assert apart["ci95"][1] - apart["ci95"][0] > 1
    assert paired["ci95"][0] < 1 < paired["ci95"][1]
    assert paired["ci95"][1] - paired["ci95"][0] < 0.1
    clustered = mean(np.repeat(photo[:10], 20), [str(i // 20) for i in range(200)], seed=0)
    alone = mean(np.repeat(photo[:10], 20), [str(i) for i in range(200)], seed=0)
    assert clustered["ci95"][1] - clustered["ci95"][0] > 3 * (alone["ci95"][1] - alone["ci95"][0])
    assert mean(photo[:1], ["a"], seed=0)["ci95"] is None
    assert mean(photo[:0], [], seed=0) == {"mean": None, "ci95": None}


def test_intervals_cover() -> None:
    """At least 93 % of the intervals of 8 groups hold the truth, and they are no wider than it takes."""
    rng = np.random.default_rng(1)
    groups = [str(i // 5) for i in range(40)]
    held, widths = 0, []
    for _ in range(200):
        values = np.repeat(rng.normal(0, 1, 8), 5) + rng.normal(0, 1, 40)
        low, high = mean(values, groups, seed=0)["ci95"]
        held += low <= 0 <= high
        widths.append(high - low)
    assert held >= 186
    assert np.mean(widths) < 1.2 * 2 * 2.365 * np.sqrt(1 / 8 + 1 / 40)  # Student's, of the mean's own deviation


# --- colours and advice ----------------------------------------------------------------------------------------------


def test_colours_have_names() -> None:
    names = {
        "reds": (0.8, 0.02, 0.02),
        "greens": (0.05, 0.6, 0.05),
        "blues": (0.05, 0.1, 0.7),
        "whites": (0.9, 0.9, 0.9),
    }
    names |= {"blacks": (0.01, 0.01, 0.01), "greys": (0.2, 0.2, 0.2), "magentas": (0.6, 0.03, 0.5)}
    names |= {"cyans": (0.02, 0.5, 0.6), "yellows": (0.8, 0.7, 0.02)}
    assert {name: colour_name(np.array(rgb)) for name, rgb in names.items()} == {name: name for name in names}


def test_colours_that_no_printer_of_the_world_makes_are_marked() -> None:
    rgb = torch.tensor([[0.1, 0.1, 0.9], [0.9, 0.1, 0.1]]).T.reshape(1, 3, 1, 2).repeat_interleave(16, 3)
    work = Artwork(rgb, torch.ones(1, 1, 1, 32), torch.tensor([[0.0, 0.0, 100.0, 100.0]]))
    inks = [Ink(gamut=(0.8, 1.0), jitter=0.02)]
    same = colours(work, typical_ink(inks[0]), inks, seed=0)
    assert {row["name"] for row in same} == {"blues", "reds"}
    assert not any(row["beyond"] for row in same)
    other = typical_ink(inks[0]).clone()
    other[2, 3] *= 0.3  # blue ink that is hardly blue
    rows = {row["name"]: row for row in colours(work, other, inks, seed=0)}
    assert rows["blues"]["beyond"]
    assert not rows["reds"]["beyond"]
    assert rows["blues"]["printed"][2] < rows["blues"]["foretold"][2]


def rate(k: int, n: int) -> dict[str, Any]:
    return wilson(k, n).to_json()


def figure(middle: float, half: float) -> dict[str, Any]:
    return {"mean": middle, "ci95": [middle - half, middle + half]}


def told(**changes: Any) -> dict[str, Any]:
    """metrics.json of a capture in which all is well."""
    stages = {stage: {"change": figure(0, 0.02), "left": figure(0, 0.02), "known": 9} for stage in (*STAGES, "all")}
    parts = {"gap": figure(0, 0.05), "observed": figure(0.5, 0.05), "predicted": figure(0.5, 0.05), "stages": stages}
    metrics = {
        "photographs": {"judged": 200, "skipped": 0},
        "observed": rate(100, 200),
        "by": {"distance_m": [], "yaw_deg": [], "light": []},
        "predicted": rate(100, 200),
        "predicted_grey": rate(10, 200),
        "turned": 0,
        "falls": [],
        "cells": [],
        "skipped": [],
        "gap": {
            "printer": None,
            **dict.fromkeys(("success", "margin", "colour"), parts),
            "explained_by": [],
            "colours": [],
            "measured": {"stops": None, "blur_px": None, "shift_mm": None},
        },
        "run": {"world": {"name": "drive-by"}},
    }
    return metrics | changes


def test_when_all_is_well_nothing_has_to_be_done() -> None:
    (only,) = advice(told())
    assert "do not surely differ" in only
    assert "no stage" in only


def test_every_remedy_follows_from_its_figure() -> None:
    metrics = told()
    gap = metrics["gap"]
    off = figure(-0.2, 0.05)
    stages = {stage: dict(one) for stage, one in gap["success"]["stages"].items()}
    stages["print"]["change"] = figure(-0.15, 0.04)
    success = gap["success"] | {"gap": off, "stages": stages}
    gap |= {"success": success, "colours": [{"name": "blues", "beyond": True}, {"name": "reds", "beyond": False}]}
    gap["explained_by"] = explained_by(gap)
    assert gap["explained_by"] == ["print"]
    dark = {"photographs": [-5.0, -4.0, -3.0], "world": [-2.0, -1.0, 0.0], "inside": 0.1}
    gap["measured"] = {"stops": dark, "blur_px": None, "shift_mm": {"common": 14.0, "x": 14.0, "y": 0.0}}
    said = " ".join(advice(metrics))
    assert "blues as no printer" in said
    assert "reds" not in said
    assert "−15 points" in said
    assert "darker than drive-by" in said
    assert "14 mm from its place" in said
    unexplained = told()
    unexplained["gap"]["success"] = gap["success"] | {"gap": off, "stages": told()["gap"]["success"]["stages"]}
    assert "none of print" in " ".join(advice(unexplained))


@pytest.mark.parametrize(
    ("here", "there", "inside", "words"),
    [
        (None, None, None, "Part of the gap is blur"),
        (1.0, 0.8, 0.9, "Part of the gap is blur"),
        (2.0, 0.8, 0.1, "less sharp than drive-by expects (sigma 2.0 px in the median, there sigma 0.8 px): focus"),
        (0.3, 0.8, 0.1, "sharper than drive-by expects (sigma 0.3 px in the median, there sigma 0.8 px): narrow"),
        (-1.0, 0.8, 0.1, "sharper than drive-by expects (sharpened by 1.0 in the median, there sigma 0.8 px): change"),
        (
            -0.5,
            -1.0,
            0.1,
            "less sharp than drive-by expects (sharpened by 0.2 in the median, there sharpened by 1.0)",
        ),
    ],
)
def test_blur_is_spoken_of_as_it_was_measured(here: Any, there: Any, inside: Any, words: str) -> None:
    metrics = told()
    ends = [[value - 1, value, value + 1] if value is not None else None for value in (here, there)]
    said = None if here is None else {"photographs": ends[0], "world": ends[1], "inside": inside}
    metrics["gap"] |= {"measured": metrics["gap"]["measured"] | {"blur_px": said}, "explained_by": ["blur"]}
    assert words in advice(metrics)[0]


def test_the_report_calls_a_sharpened_photograph_sharpened(tmp_path: Path) -> None:
    (tmp_path / "crop-000000.jpg").touch()
    (row,) = photos([(4.0, 1, 1)], blur_px=-0.8, picture=0)
    assert ("blur", "sharpened by 0.6") in _shot(row, tmp_path, embedded=False)["facts"]
    assert ("blur", "sigma 0.8 px") in _shot(replace(row, blur_px=0.8), tmp_path, embedded=False)["facts"]


def photos(spans: list[tuple[float, int, int]], *, light: float = -1.0, start: int = 0, **common: Any) -> list[Row]:
    """k of n photographs, each of another group, at that distance."""
    rows = []
    for distance_m, k, n in spans:
        for index in range(n):
            name = f"{start + len(rows)}.png"
            said = {"distance_m": distance_m, "yaw_deg": 0.0, "stops": light, "success": index < k} | common
            rows.append(Row(name, name, predicted=0, views=1, **said))
    return rows


def falls_said(rows: list[Row]) -> list[str]:
    falls = figures(rows, seed=0)["falls"]
    return [one for one in advice(told(falls=falls)) if "falls" in one]


def test_where_success_falls_is_said_only_where_it_surely_does() -> None:
    far = [(1.0, 45, 50), (7.0, 40, 50), (11.0, 5, 50)]
    (said,) = falls_said(photos(far))
    assert "falls beyond 10 m: 10 % of 50 there, 85 % of 100 before" in said
    assert not falls_said(photos([(metres, k // 10, 5) for metres, k, _ in far]))
    assert not falls_said(photos([(metres, n - k, n) for metres, k, n in far]))  # it rises
    (said,) = falls_said(photos([(1.0, 2, 40)], light=-4.0) + photos([(1.0, 30, 40)], light=-0.2, start=40))
    assert "falls in dark light" in said
    narrow = photos([(1.0, 4, 40)], sign_px=20.0, distance_m=None)
    wide = photos([(1.0, 35, 40)], sign_px=100.0, distance_m=None, start=40)
    (said,) = falls_said([*narrow, *wide])
    assert "under 32 px wide: 10 % of 40 there, 88 % of 40 before" in said


def videos(rng: np.random.Generator, *, fall: float = 0.0, spread: float = 0.35, count: int = 4) -> list[Row]:
    """60 frames of each pass, whose success is its own, and by `fall` lower beyond 10 m."""
    rows = []
    for video in range(count):
        rate, start_m = rng.normal(0.7 if fall else 0.5, spread), rng.uniform(1, 12)
        for frame in range(60):
            distance_m = start_m + 12 * frame / 59
            won = bool(rng.random() < rate - fall * (distance_m >= 10))
            name = f"{video}.mp4"
            rows.append(Row(f"{name}#{frame:06d}", name, distance_m=distance_m, success=won, predicted=0, views=1))
    return rows


def test_frames_of_a_few_videos_are_no_proof_of_a_fall() -> None:
    """As if they were so many photographs, a fall was said in 44 of 200 runs of videos that know of none."""
    rng = np.random.default_rng(0)
    assert sum(bool(falls_said(videos(rng))) for _ in range(60)) <= 3
    assert sum(bool(falls_said(videos(rng, fall=0.6, spread=0.1, count=8))) for _ in range(10)) >= 8


def test_frames_of_a_few_videos_leave_a_wide_interval() -> None:
    rows = videos(np.random.default_rng(0))
    low, high = (observed := figures(rows, seed=0)["observed"])["ci95"]
    said = " ".join(advice(told(photographs={"judged": 240, "skipped": 0}, observed=observed)))
    assert f"± {50 * (high - low):.0f} points" in said
    assert high - low > 0.3  # 240 photographs have 0.13


def test_cells_with_few_photographs_are_named() -> None:
    cell = {"distance_m": [3.0, 6.0], "yaw_deg": [10.0, 20.0], "light": "dark", "observed": rate(1, 3)}
    said = advice(told(cells=[cell], photographs={"judged": 3, "skipped": 0}, observed=rate(1, 3)))
    assert any("3 to 6 m, yaw 10 to 20°, dark (3)" in one for one in said)


@pytest.mark.parametrize(
    ("printer", "told_to"),
    [(None, "--chart 96"), ("profile", "make a world of the profile"), ("measured", "print the chart and the sheet")],
)
def test_who_has_calibrated_is_not_told_to(printer: str | None, told_to: str) -> None:
    metrics = told()
    metrics["gap"] |= {"explained_by": ["print"], "printer": printer}
    (said,) = [one for one in advice(metrics) if "print colour" in one]
    assert told_to in said
    assert ("--chart 96" in said) == (printer is None)


@pytest.mark.parametrize(("k", "said"), [(10, False), (95, True), (None, False)])
def test_a_grey_control_that_does_as_well_is_spoken_of(k: int | None, said: bool) -> None:
    metrics = told(predicted=rate(100, 200), predicted_grey=None if k is None else rate(k, 200))
    assert any("grey artwork of the same shape" in one for one in advice(metrics)) == said


@pytest.mark.parametrize(("turned", "said"), [(0, False), (90, False), (180, True)])
def test_corners_that_begin_elsewhere_are_spoken_of(turned: int, said: bool) -> None:
    rows = photos([(5.0, 10, 200 - turned)]) + photos([(5.0, 10, turned)], start=200, roll_deg=-88.0)
    metrics = told(turned=figures(rows, seed=0)["turned"])
    assert any("top left, top right" in one for one in advice(metrics)) == said
