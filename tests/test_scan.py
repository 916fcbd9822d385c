"""The scan: every place, size and colour is judged exactly as one at a time, and bad input writes nothing."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import physadv.cli
from physadv.config import ScanOptions
from physadv.console import Console
from physadv.errors import UserError
from physadv.evaluation import PLAIN, evaluate
from physadv.heldout import HeldOut
from physadv.objectives import Margin, parse_goal
from physadv.report.heatmap import candidate, headline, maps, points, top_of
from physadv.runs import run_scan
from physadv.scan import (
    ON_FACE,
    OWN,
    best_less_mean,
    best_of,
    correct_views,
    lay_out,
    mean_rate,
    paired_difference,
    rate_of,
    solid,
    try_all,
)
from physadv.scenes import Scenes, load_scenes
from physadv.stats import wilson
from physadv.targets.base import Classifier, Frame
from physadv.threats import Artwork, load_artwork
from physadv.transforms.world import load_world

QUICK = {"sizes": "20%,30%", "grid": 3, "views": 4, "judge_views": 4, "goal": "untargeted"}
TOY = """
import torch
from physadv.targets.fake import FakeTarget


class Toy(FakeTarget):
    input_size, classes = 16, ("yield", "stop", "other")


def make():
    return Toy(3)
"""


class Patchy(nn.Module):
    """Logits linear in a 4 x 4 thumbnail: it matters where something sticks."""

    def __init__(self) -> None:
        super().__init__()
        weight = 4 * torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(1))
        self.weight = nn.Parameter((weight - weight.mean((2, 3), keepdim=True)).flatten(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        thumbnails = nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)
        return thumbnails @ self.weight.T + torch.tensor([0.0, 1.0, 0.0])


@pytest.fixture(scope="module")
def stop() -> Scenes:
    return load_scenes("staged:stop")


@pytest.fixture(scope="module")
def held_out(stop: Scenes) -> HeldOut:
    target = Classifier.of(Patchy(), classes=("other", "stop", "no-entry"), frame=Frame(24, 0.1), name="patchy")
    return HeldOut(target, stop, load_world("drive-by"), 6, seed=3, keep=True)


def brute_force(held_out: HeldOut, side_mm: float, grid: int) -> dict[tuple[str, int, int], list[bool]]:
    """One candidate and one view at a time, by the definitions alone: is the answer wrong?"""
    scenes, world, target = held_out.scenes, held_out.world, held_out.target
    face_mm, alpha, truth = float(scenes.faces.size_mm[0, 0]), scenes.faces.images[0, 3], target.classes.index("stop")
    found: dict[tuple[str, int, int], list[bool]] = {}
    for colour, value in (("black", 0.0), ("white", 1.0)):
        for row in range(grid):
            for column in range(grid):
                centres = [(cell + 0.5) / grid * face_mm for cell in (column, row)]
                box = [*(c - side_mm / 2 for c in centres), *(c + side_mm / 2 for c in centres)]
                x0, y0, x1, y1 = (round(edge / face_mm * len(alpha)) for edge in box)
                if min(x0, y0) < 0 or max(x1, y1) > len(alpha) or alpha[y0:y1, x0:x1].mean() < ON_FACE:
                    continue
                sticker = Artwork(torch.full((1, 3, 64, 64), value), torch.ones(1, 1, 64, 64), torch.tensor([box]))
                for view in range(len(held_out)):
                    views = world.draw([view], seed=held_out.seed)
                    answer = target(world.photograph(sticker, scenes, views, frame=target.frame)).argmax(1)
                    found.setdefault((colour, row, column), []).append(int(answer) != truth)
    return found


def test_equals_brute_force(held_out: HeldOut) -> None:
    objective = Margin(parse_goal("untargeted", held_out.target.classes))
    panels = lay_out(held_out.scenes, solid(["black", "white"]), ["250mm"], grid=5)
    tried = {
        (panel.colour, *cell): won
        for panel in panels
        for cell, won in zip(panel.cells.tolist(), try_all(held_out, panel, objective).won.tolist(), strict=True)
    }
    expected = brute_force(held_out, 250, 5)
    assert tried == expected
    assert len({tuple(won) for won in expected.values()}) > 3  # places differ, so that a mix-up would show
    assert 2 * 9 <= len(expected) < 2 * 25  # the corners of the octagon's box are no places


def test_best_candidate_wins_most_and_ties_go_to_the_least_loss(held_out: HeldOut) -> None:
    panels = lay_out(held_out.scenes, solid(["black", "white"]), ["20%"], grid=4)
    objective = Margin(parse_goal("untargeted", held_out.target.classes))
    tried = [try_all(held_out, panel, objective) for panel in panels]
    correct = torch.arange(len(held_out)) % 3 > 0
    best, row = best_of(tried, correct)
    scores = [
        (int(w[correct].sum()), -float(x[correct].sum())) for t in tried for w, x in zip(t.won, t.loss, strict=True)
    ]
    assert (int(best.won[row, correct].sum()), -float(best.loss[row, correct].sum())) == max(scores)


def test_correct_views_are_those_that_evaluate_counts(held_out: HeldOut) -> None:
    artwork = lay_out(held_out.scenes, solid(["grey"]), ["20%"], grid=1)[0].candidate(0)
    how = {"world": held_out.world, "goal": "untargeted", "views": 12, "seed": 1, "worlds": ()}
    verdict = evaluate(held_out.target, held_out.scenes, artwork, **how).verdict
    assert 0 < int(verdict.correct.sum()) < 12
    assert torch.equal(correct_views(verdict.held_out), verdict.correct)


def test_places_lie_on_the_opaque_face(stop: Scenes) -> None:
    (panel,) = lay_out(stop, solid(["black"]), ["10%"], grid=12)
    width = float(stop.faces.size_mm[0, 0])
    side = float((stop.faces.area_mm2[0] * 0.1).sqrt())
    cells = {tuple(cell) for cell in panel.cells.tolist()}
    assert torch.allclose(panel.places_mm[:, 2:] - panel.places_mm[:, :2], torch.tensor(side))
    centres = (panel.places_mm[:, :2] + panel.places_mm[:, 2:]) / 2
    assert torch.allclose(centres, (panel.cells.flip(1) + 0.5) / 12 * width, atol=1e-3)
    corner = width * (1 - 2**-0.5)  # an octagon: |x| + |y| of a corner is at most width - corner, from the middle
    reach = (centres - width / 2).abs() + side / 2
    inside = (reach <= width / 2).all(1) & (reach.sum(1) <= width - corner)
    assert bool(inside.float().mean() > 0.9)
    middle = torch.cartesian_prod(torch.arange(12), torch.arange(12))
    free = ((middle.flip(1) + 0.5) / 12 * width - width / 2).abs() + side / 2
    for cell in middle[(free <= width / 2 - 1).all(1) & (free.sum(1) <= width - corner - 1)].tolist():
        assert tuple(cell) in cells
    assert cells == {(11 - row, column) for row, column in cells}  # the sign is symmetric, and so is the rule


def test_artwork_keeps_its_proportions_and_share(stop: Scenes) -> None:
    alpha = torch.zeros(1, 1, 20, 40)
    alpha[..., 10:30] = 1  # half of its box
    artwork = Artwork(torch.rand(1, 3, 20, 40), alpha, torch.tensor([[0.0, 0.0, 200.0, 100.0]]))
    own, share, width = lay_out(stop, {"artwork": artwork}, [OWN, "5%", "120mm"], grid=3)
    sizes = [(p.places_mm[0, 2:] - p.places_mm[0, :2]).tolist() for p in (own, share, width)]
    assert own.size == "200x100mm"
    assert sizes[0] == pytest.approx([200, 100])
    assert sizes[1][0] * sizes[1][1] * 0.5 == pytest.approx(0.05 * float(stop.faces.area_mm2[0]), rel=1e-4)
    assert sizes[2] == pytest.approx([120, 60], rel=1e-4)


def test_transparent_margins_may_hang_over_the_edge(stop: Scenes) -> None:
    alpha = torch.zeros(1, 1, 64, 64)
    alpha[..., 24:40, 24:40] = 1
    bare, framed = (
        solid(["black"])["black"],
        Artwork(torch.zeros(1, 3, 64, 64), alpha, torch.tensor([[0.0, 0, 800, 800]])),
    )
    (small,), (large,) = lay_out(stop, {"b": bare}, ["200mm"], grid=9), lay_out(stop, {"f": framed}, [OWN], grid=9)
    assert torch.equal(small.cells, large.cells)


@pytest.mark.parametrize(
    ("sizes", "grid", "match"),
    [
        (["120%"], 5, "not possible"),
        (["1000mm"], 5, "larger than the face"),
        (["90%"], 5, "no place"),
        (["800mm"], 4, "no place"),
        (["60x40mm"], 5, "one width"),
        (["5%@random"], 5, "one width"),
        (["5%:circle"], 5, "one width"),
        (["big"], 5, "not a size"),
        (["0mm"], 5, "no area"),
        ([], 5, "no size"),
    ],
)
def test_sizes_that_are_none(stop: Scenes, sizes: list[str], grid: int, match: str) -> None:
    with pytest.raises(UserError, match=match):
        lay_out(stop, solid(["black"]), sizes, grid=grid)


def test_several_faces_have_no_one_map() -> None:
    with pytest.raises(UserError, match="--classes"):
        lay_out(load_scenes("staged:stop,yield"), solid(["black"]), ["5%"], grid=3)


@pytest.mark.parametrize("colours", [[], ["black", "puce"]])
def test_colours_that_are_none(colours: list[str]) -> None:
    with pytest.raises(UserError, match="black"):
        solid(colours)


def test_stickers_are_what_their_png_holds(tmp_path: Path) -> None:
    for name, sticker in solid(list(PLAIN)).items():
        sticker.save(tmp_path / name)
        assert torch.equal(load_artwork(tmp_path / name).rgb, sticker.rgb)
        assert sticker.rgb.mean() == pytest.approx(PLAIN[name], abs=0.002)


def test_paired_difference_by_hand_and_its_interval() -> None:
    values = np.array([1.0, 0.5, 0.0, 0.5])
    found = paired_difference(values, list("abcd"), seed=0)
    assert found.mean == pytest.approx(0.5)
    half = 3.182 * values.std(ddof=1) / 2  # Student, three degrees of freedom
    assert (found.lo, found.hi) == (pytest.approx(0.5 - half, abs=0.02), pytest.approx(min(1, 0.5 + half), abs=0.02))
    together = paired_difference(np.tile(values, 50), list("abcd" * 50), seed=0)
    alone = paired_difference(np.tile(values, 50), [str(i) for i in range(200)], seed=0)
    assert together.lo is not None
    assert alone.lo is not None
    assert alone.lo > together.lo  # 200 views of four signs say less than 200 independent ones
    assert paired_difference(np.array([]), [], seed=0).to_json() == {"difference": None, "n": 0, "ci95": None}
    agreed = paired_difference(np.zeros(40), [str(i) for i in range(40)], seed=0)
    assert agreed.hi == -agreed.lo == pytest.approx(wilson(0, 40).hi)  # not a point, though all views agree
    one = paired_difference(values, list("aaaa"), seed=0)
    assert (one.lo, one.hi) == (-1, 1)


@pytest.mark.parametrize("groups", [8, 60])
def test_paired_difference_covers(groups: int) -> None:
    """95 % of the intervals should hold the truth; fewer than 90 % would be a wrong interval."""
    rng, held = np.random.default_rng(0), 0
    for seed in range(100):
        sign = rng.normal(0.2, 0.15, groups).clip(-1, 1)
        values = (np.repeat(sign, 5) + rng.normal(0, 0.2, 5 * groups)).clip(-1, 1)
        found = paired_difference(values, [str(i // 5) for i in range(5 * groups)], seed=seed)
        held += found.lo is not None and found.hi is not None and found.lo <= 0.2 <= found.hi
    assert 0.9 <= held / 100 <= 1


def test_best_less_mean_and_mean_rate_count_only_correct_views(held_out: HeldOut) -> None:
    (panel,) = lay_out(held_out.scenes, solid(["white"]), ["20%"], grid=4)
    tried = try_all(held_out, panel, Margin(parse_goal("untargeted", held_out.target.classes)))
    correct, groups = torch.arange(6) < 4, [str(i) for i in range(6)]
    won = tried.won[:, :4].double()
    difference = best_less_mean(tried, 1, correct, groups, seed=0)
    assert difference.mean == pytest.approx(float(won[1].mean() - won.mean()))
    mean = mean_rate(tried, correct, groups, seed=0)
    assert (mean.k, mean.n) == (int(won.sum()), won.numel())
    assert rate_of(tried.won[1], correct, groups, seed=0) == wilson(int(won[1].sum()), 4)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.py").write_text(TOY)
    return tmp_path


def scan(**more: object) -> dict:
    options = ScanOptions(**({"target": "python:toy.py:make", "out": Path("out")} | QUICK | more))
    with Console() as console:
        return run_scan(options, command="physadv scan", console=console)


def test_run_writes_what_it_says(there: Path, capsys: pytest.CaptureFixture) -> None:
    metrics = scan(colours="black,white,grey")
    said = metrics["scan"]
    assert json.loads((there / "out" / "metrics.json").read_text()) == metrics
    panels = [(panel["size"], panel["colour"]) for panel in said["panels"]]
    colours = ["black", "white", "grey"]
    assert panels == [(s, c) for s in ("20%", "30%") for c in colours] + [(s, "worst colour") for s in ("20%", "30%")]
    plain = [panel for panel in said["panels"] if panel["colour"] in PLAIN]
    candidates = sum(len(panel["places"]) for panel in plain)
    judged = 4 * (7 + sum(len(panel["places"]) for panel in plain) // 3)
    assert said["cost"]["candidates"] == candidates
    assert metrics["run"]["config"]["sizes"] == "20%,30%"
    assert said["cost"]["photographs"] == 4 * candidates + judged
    printed = capsys.readouterr().err
    assert f"{candidates} candidates x 4 views = {4 * candidates} photographs, and {judged} more" in printed
    assert printed.index("about") < printed.index("scan: ", printed.index("about"))  # the cost comes first
    assert f"scan: {4 * candidates + judged} of {4 * candidates + judged}, 0 s left" in printed
    page = (there / "out" / "report.html").read_text()
    assert page.count("<title>") == 1 + sum(len(panel["places"]) for panel in said["panels"])
    assert "http" not in page.replace("http://www.w3.org", "")


def test_best_is_the_best_of_its_panel_and_is_saved(there: Path) -> None:
    metrics = scan()
    said = metrics["scan"]
    for best in said["best"]:
        places = [p for panel in said["panels"] if panel["size"] == best["size"] for p in panel["places"]]
        assert best["searched"]["k"] == max(place["k"] for place in places)
    (saved,) = (best for best in said["best"] if best["saved"])
    artwork = load_artwork(there / "out")
    assert artwork.place_mm[0].tolist() == pytest.approx(saved["place_mm"])
    assert float(artwork.rgb.mean()) == PLAIN[saved["colour"]]
    assert {name: metrics["attacked"][name] for name in ("rate", "k", "n", "ci95")} == saved["judged"]
    assert metrics["attacked"]["k"] == metrics["controls"][saved["colour"]]["k"]
    assert artwork.record["run"]["scenes"]["classes"] == ["stop"]


def test_worst_colour_is_the_largest_of_the_colours(there: Path) -> None:
    panels = scan()["scan"]["panels"]
    for worst in (panel for panel in panels if panel["colour"] == "worst colour"):
        beside = [panel["places"] for panel in panels if panel["size"] == worst["size"] and panel is not worst]
        for row, place in enumerate(worst["places"]):
            assert place["k"] == max(places[row]["k"] for places in beside[:-1] + beside[-1:])
            assert place["colour"] in ("black", "white")


def test_same_seed_same_figures_and_another_seed_other_views(there: Path) -> None:
    first, again, other = (
        scan(sizes="20%"),
        scan(sizes="20%", overwrite=True),
        scan(sizes="20%", overwrite=True, seed=1),
    )
    for metrics in (first, again, other):
        metrics["scan"].pop("cost")
    assert first["scan"] == again["scan"]
    assert first["scan"] != other["scan"]


def test_saved_artwork_is_evaluated_tried_elsewhere_and_printed(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = scan()
    monkeypatch.setattr(sys, "argv", ["physadv", "print", "--artwork", "out", "--paper", "a3"])
    with pytest.raises(SystemExit) as ended:
        physadv.cli.main()
    assert not ended.value.code
    judged = "physadv evaluate --target python:toy.py:make --artwork out --judge-views 4 --out judged"
    monkeypatch.setattr(sys, "argv", judged.split())
    with pytest.raises(SystemExit) as ended:
        physadv.cli.main()
    assert not ended.value.code
    figures = json.loads((there / "judged" / "metrics.json").read_text())
    assert figures["attacked"] == first["attacked"]
    moved = scan(artwork=Path("out"), sizes=None, out=Path("moved"))["scan"]
    assert {panel["colour"] for panel in moved["panels"]} == {"artwork"}
    saved = next(best for best in first["scan"]["best"] if best["saved"])
    x0, y0, x1, y1 = saved["place_mm"]
    assert moved["panels"][0]["size_mm"] == pytest.approx([x1 - x0, y1 - y0])


@pytest.mark.parametrize(
    "words",
    [
        "--grid 0",
        "--sizes 120%",
        "--sizes 950mm",
        "--sizes 90%",
        "--sizes ,",
        "--colours ,",
        "--colours puce",
        "--views 0",
        "--judge-views 0",
        "--artwork nowhere",
        "--artwork . --colours black",
        "--artwork out",
        "--world promise",
        "--goal class:stop",
        "--scenes staged:stop,yield",
        "--device tpu",
    ],
)
def test_bad_input_gets_one_sentence_and_writes_nothing(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, words: str
) -> None:
    line = f"physadv scan --target python:toy.py:make --views 2 --judge-views 2 --out out {words}"
    monkeypatch.setattr(sys, "argv", line.split())
    with pytest.raises(SystemExit) as ended:
        physadv.cli.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error:")
    assert len(error.strip().splitlines()) == 1
    assert not (there / "out").exists()


# --- the page --------------------------------------------------------------------------------------------------------


def test_headline_says_when_no_place_stands_out() -> None:
    rate = {"rate": 0.5, "k": 4, "n": 8, "ci95": [0.2, 0.8]}
    run = {"target": {"name": "toy"}, "scenes": {"classes": ["stop"]}, "goal": "untargeted"}
    best = {"size": "5%", "colour": "black", "centre_mm": [100.0, 200.4], "judged": rate, "mean": rate}
    apart = {"difference": 0.4, "n": 8, "ci95": [0.1, 0.7]}
    assert "+40 points [+10 to +70]" in headline({"run": run}, best | {"difference": apart})
    level = {"difference": 0.1, "n": 8, "ci95": [-0.2, 0.4]}
    assert headline({"run": run}, best | {"difference": level}).startswith("No place stands out: at its most")
    none = {"rate": None, "k": 0, "n": 0, "ci95": None}
    said = headline({"run": run}, best | {"judged": none, "difference": {"difference": None, "n": 0, "ci95": None}})
    assert said.startswith("Nothing can be said")
    assert candidate(best) == "a black sticker of 5% at 100, 200 mm"
    assert points(level) == "+10 points [−20 to +40]"


def test_maps_are_to_scale() -> None:
    place = {"row": 0, "column": 1, "centre_mm": [150.0, 50.0], "rate": 0.31, "k": 31, "n": 100, "ci95": [0.2, 0.4]}
    panel = {"size": "80mm", "colour": "white", "size_mm": [80.0, 80.0], "places": [place]}
    said = {"grid": 2, "face": {"name": "stop", "size_mm": [200.0, 200.0]}, "panels": [panel]}
    assert top_of(said) == 0.4
    ((drawn,),) = maps(said)
    assert drawn.box == (110.0, 10.0, 80.0, 80.0)
    nothing = panel | {"places": [place | {"rate": 0.0, "k": 0}]}
    ((empty,),) = maps(said | {"panels": [nothing]})
    assert empty.box is None
    (tile,) = drawn.tiles
    assert (tile.x + tile.width / 2, tile.y + tile.height / 2) == pytest.approx((150, 50))
    assert "150, 50 mm: 31 % [20–40] 31/100" in tile.said
