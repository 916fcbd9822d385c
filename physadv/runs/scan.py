"""`physadv scan`: every place, size and colour of a sticker; the best one judged beside all places."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from physadv.config import ScanOptions
from physadv.console import Console
from physadv.errors import UserError
from physadv.evaluation import Evaluation, evaluate
from physadv.files import prepare_folder, write_json
from physadv.heldout import HeldOut
from physadv.objectives import Margin, check_goal, parse_goal
from physadv.question import classifier_only, truth_of
from physadv.report.heatmap import write_scan_report
from physadv.runs.shared import load_all, versions
from physadv.scan import (
    OWN,
    Panel,
    Tried,
    best_less_mean,
    best_of,
    clusters,
    correct_views,
    lay_out,
    mean_rate,
    rate_of,
    seconds_per_photograph,
    solid,
    try_all,
)
from physadv.scenes import Scenes
from physadv.scenes.canvas import spread
from physadv.targets import Classifier
from physadv.threats import Artwork, covered_share, load_artwork
from physadv.transforms.stages import derive
from physadv.transforms.world import World

SIZES, COLOURS = "15%,30%", "black,white"
ARTWORK = "artwork"  # the colour of what is no plain sticker
WORST = "worst colour"
_BESIDE = 7  # photographs of each view that judge the best candidate: itself, clean, four controls, the promise


@dataclass(frozen=True)
class _Run:
    """What is given: everything but the answers."""

    options: ScanOptions
    command: str
    target: Classifier
    world: World
    judged: Scenes
    search: HeldOut
    panels: tuple[Panel, ...]
    objective: Margin

    @property
    def judge_views(self) -> int:
        """Fresh views of each scene."""
        return max(1, self.options.judge_views // len(self.judged))

    @property
    def judgements(self) -> int:
        """Photographs that judge: the best of all beside its controls, and per size every place in one colour."""
        places = sum({panel.size: len(panel) for panel in self.panels}.values())
        return self.judge_views * len(self.judged) * (_BESIDE + places)

    @property
    def photographs(self) -> int:
        return len(self.search) * sum(map(len, self.panels)) + self.judgements


@dataclass(frozen=True)
class _Cost:
    """What was announced, and what it came to."""

    candidates: int
    photographs: int
    estimated_seconds: float
    seconds: float


def run_scan(options: ScanOptions, *, command: str, console: Console) -> dict[str, Any]:
    """Try everything, judge the best on fresh views, save: artwork, metrics.json, report.html."""
    run = _prepare(_resolved(options), command)
    correct = correct_views(run.search)
    estimate = seconds_per_photograph(run.search, run.panels, run.objective) * run.photographs
    console.announce(_plan(run), estimate)
    out = prepare_folder(options.out, overwrite=options.overwrite)
    start = time.monotonic()
    with console.counting("scan", run.photographs) as report:
        tried = [try_all(run.search, panel, run.objective, report=report) for panel in run.panels]
        best, row = best_of(tried, correct)
        artwork = best.panel.candidate(row)
        result = _evaluate(run, artwork)
        report(run.judge_views * len(run.judged) * _BESIDE)
        winners = {size: best_of(some, correct) for size, some in _by_size(tried).items()}
        judged = _judge(run, result, winners, report)
    cost = _Cost(sum(map(len, run.panels)), run.photographs, estimate, time.monotonic() - start)
    figures = _figures(run, tried, winners, judged, correct, result, cost)
    return _finish(run, artwork, result, figures, out)


def _resolved(options: ScanOptions) -> ScanOptions:
    """Sizes and colours as they will be used: an artwork has its own."""
    sizes, colours = (SIZES, COLOURS) if options.artwork is None else (OWN, None)
    given = {"sizes": sizes, "colours": colours} | options.model_dump(include={"sizes", "colours"}, exclude_none=True)
    return options.model_copy(update=given)


def _prepare(options: ScanOptions, command: str) -> _Run:
    """Everything that can be wrong is wrong here, before anything is written."""
    given, world, searched, judged = load_all(options)
    target = classifier_only(given, "scan")
    if world.reserved:
        raise UserError(f"The world {world.name!r} only judges: a scan in it would spoil it; choose another --world.")
    goal = parse_goal(options.goal, target.classes)
    check_goal(goal, truth_of(searched, target.classes))
    panels = _panels(options, searched)
    searched, judged = (
        scenes.take(torch.tensor(spread(scenes.groups, photographs)))
        for scenes, photographs in ((searched, options.views), (judged, options.judge_views))
    )
    views = max(1, options.views // len(searched))
    search = HeldOut(target, searched, world, views, derive(options.seed, "scan"), keep=True)
    return _Run(options, command, target, world, judged, search, panels, Margin(goal))


def _panels(options: ScanOptions, scenes: Scenes) -> tuple[Panel, ...]:
    artworks = {ARTWORK: _movable(options)} if options.artwork else solid(_listed(options.colours))
    artworks = {name: artwork.to(options.device) for name, artwork in artworks.items()}
    return lay_out(scenes, artworks, _listed(options.sizes), grid=options.grid)


def _listed(text: str | None) -> list[str]:
    """Parts between commas, each once."""
    text = text or ""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _movable(options: ScanOptions) -> Artwork:
    assert options.artwork is not None
    if options.colours is not None:
        raise UserError("--colours is for plain stickers, and --artwork has colours of its own: give one of them.")
    if options.artwork.resolve() == options.out.resolve():
        raise UserError(f"{options.out} holds the artwork itself; choose another --out for its figures.")
    artwork = load_artwork(options.artwork)
    if len(artwork) > 1 or not artwork.printed:
        raise UserError("Only one printed artwork can be tried everywhere, not one per scene or a norm ball's.")
    return replace(artwork, place_mm=artwork.place_mm[:1], alpha=artwork.alpha[:1])


def _plan(run: _Run) -> str:
    candidates, search = sum(map(len, run.panels)), len(run.search)
    return (
        f"scan: {candidates} candidates x {search} views = {candidates * search} photographs, and {run.judgements} "
        "more that judge the best beside all places on fresh views"
    )


def _by_size(tried: Sequence[Tried]) -> dict[str, list[Tried]]:
    sizes = dict.fromkeys(one.panel.size for one in tried)
    return {size: [one for one in tried if one.panel.size == size] for size in sizes}


def _evaluate(run: _Run, artwork: Artwork) -> Evaluation:
    how: dict[str, Any] = {"world": run.world, "goal": run.options.goal, "seed": run.options.seed}
    return evaluate(run.target, run.judged, artwork, views=run.judge_views, worlds=(), **how)


def _judge(
    run: _Run, result: Evaluation, winners: dict[str, tuple[Tried, int]], report: Callable[[int], None]
) -> dict[str, Tried]:
    """Every place of each size, in the colour of its best candidate, on the views that judged the best of all."""
    fresh = replace(result.verdict.held_out, keep=True)
    return {size: try_all(fresh, best.panel, run.objective, report=report) for size, (best, _) in winners.items()}


def _figures(
    run: _Run,
    tried: Sequence[Tried],
    winners: dict[str, tuple[Tried, int]],
    judged: dict[str, Tried],
    correct: Bool[Tensor, " n"],
    result: Evaluation,
    cost: _Cost,
) -> dict[str, Any]:
    """`scan` of docs/scan.md."""
    faces, face = run.judged.faces, int(run.judged.face[0])
    seed, groups = derive(run.options.seed, "bootstrap"), clusters(run.search)
    fresh, counted = clusters(result.verdict.held_out), result.verdict.correct
    panels = [_panel(one, correct, groups, seed) for one in tried]
    saved, _ = best_of(tried, correct)
    best = []
    for size, (one, row) in winners.items():
        how: dict[str, Any] = {"correct": counted, "groups": fresh, "seed": seed}
        place = next(panel for panel, each in zip(panels, tried, strict=True) if each is one)["places"][row]
        best.append(
            {name: place[name] for name in ("row", "column", "centre_mm")}
            | {"size": size, "colour": one.panel.colour, "place_mm": one.panel.places_mm[row].tolist()}
            | {"saved": one is saved, "searched": {name: place[name] for name in ("rate", "k", "n", "ci95")}}
            | {"judged": rate_of(judged[size].won[row], **how).to_json()}
            | {"mean": mean_rate(judged[size], **how).to_json()}
            | {"difference": best_less_mean(judged[size], row, **how).to_json()}
        )
    return {
        "face": {"name": faces.names[face], "size_mm": faces.size_mm[face].tolist()},
        "grid": run.options.grid,
        "views": len(run.search),
        "counted": int(correct.sum()),
        "cost": vars(cost),
        "best": best,
        "panels": panels + _worst(panels),
    }


def _panel(one: Tried, correct: Bool[Tensor, " n"], groups: Sequence[str], seed: int) -> dict[str, Any]:
    panel, places = one.panel, []
    for row, place in enumerate(panel.places_mm.tolist()):
        where = {"row": int(panel.cells[row, 0]), "column": int(panel.cells[row, 1])}
        centre = [(place[0] + place[2]) / 2, (place[1] + place[3]) / 2]
        places.append(where | {"centre_mm": centre} | rate_of(one.won[row], correct, groups, seed=seed).to_json())
    x0, y0, x1, y1 = panel.places_mm[0].tolist()
    return {"size": panel.size, "colour": panel.colour, "size_mm": [x1 - x0, y1 - y0], "places": places}


def _worst(panels: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per size, at every place the colour that does most; nothing where there is one colour."""
    made = []
    for size in dict.fromkeys(panel["size"] for panel in panels):
        some = [panel for panel in panels if panel["size"] == size]
        coloured = [[place | {"colour": panel["colour"]} for place in panel["places"]] for panel in some]
        places = [max(same, key=lambda place: place["k"]) for same in zip(*coloured, strict=True)]
        made += [some[0] | {"colour": WORST, "places": places}] if len(some) > 1 else []
    return made


def _finish(run: _Run, artwork: Artwork, result: Evaluation, figures: dict[str, Any], out: Path) -> dict[str, Any]:
    """Write the artwork with its record, metrics.json, report.html."""
    said = _description(run, artwork, result, figures["cost"]["seconds"])
    metrics = result.metrics | {"scan": figures, "run": said, "history": []}
    record = {"scenes": list(run.judged.names), "run": said, "metrics": result.metrics}
    artwork = replace(artwork, record=dict(artwork.record) | record)
    artwork.save(out)
    write_json(out / "metrics.json", metrics)
    write_scan_report(out / "report.html", metrics=metrics, verdict=result.verdict, artwork=artwork)
    return metrics


def _description(run: _Run, artwork: Artwork, result: Evaluation, seconds: float) -> dict[str, Any]:
    """`run` of docs/metrics.md."""
    scenes, options = run.judged, run.options
    return {
        "command": run.command,
        "config": options.model_dump(mode="json", exclude={"out", "overwrite"}),
        "target": {"name": run.target.name, "weights_hash": run.target.weights_hash},
        "scenes": {
            "spec": options.scenes,
            "n": len(scenes),
            "groups": len(set(scenes.groups)),
            "classes": sorted({scenes.classes[int(label)] for label in scenes.labels}),
        },
        "threat": artwork.record["threat"],
        "goal": options.goal,
        "world": result.metrics["world"],
        "seed": options.seed,
        "seconds": seconds,
        "covered_share": float(covered_share(artwork, scenes.faces.area_mm2[scenes.face][:1])[0]),
        "printed": True,
        "versions": versions(),
    }
