"""Observed less predicted, split by stage: each one measured in place of modelled, in the views of the same pose.

    gap = observed − predicted        change = predicted with the stage measured − predicted        left = gap − change

Changes of single stages need not add up to the gap, nor to the change of all of them together: what they do depends on
one another. Noise and JPEG stay as the world draws them, and so do shadows, dirt and letters drawn otherwise: what is
left when all four are measured is theirs, and the target's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from physadv.calibration.difference import difference, linear
from physadv.capture.measure import Sight, measure
from physadv.capture.swap import STAGES, Found, swap
from physadv.objectives import Objective
from physadv.question import Target, Truth, answers, truth_in
from physadv.scenes import Scenes
from physadv.stats import cluster_rate, student, wilson
from physadv.targets.base import frozen
from physadv.threats import Artwork
from physadv.transforms.geometry import geometry
from physadv.transforms.stages import derive
from physadv.transforms.world import Views, World

MODELLED, ALL = "modelled", "all"
RUNS = (MODELLED, *STAGES, ALL)
FIGURES = ("success", "margin", "colour")
RESAMPLES = 2000
PIXELS = 400  # of the sign, at most, whose colours are compared
LIKE = 2  # views per photograph that are measured as it is


@dataclass(frozen=True)
class Split:
    """One photograph. foretold: success, margin and colour difference to it, mean over its views, by run of `RUNS`.

    world: stops and blur (px) of some of its views, measured as in the photograph. known: the stages it tells of.
    """

    group: str
    observed: tuple[float, float]
    foretold: Mapping[str, tuple[float, float, float]]
    known: frozenset[str]
    world: tuple[tuple[float, float | None], ...]


@torch.no_grad()
def split(
    seen: Float[Tensor, "3 h w"],
    found: Found,
    sign: Bool[Tensor, "h w"],
    *,
    group: str,
    truth: Truth,
    target: Target,
    scenes: Scenes,
    artwork: Artwork | None,
    objective: Objective,
    world: World,
    views: int,
    seed: int,
) -> Split:
    """seen: what the target sees of the photograph; sign: where the sign is in it; truth: what is to be answered of it.

    world: at the photograph's pose.

    The views are those of `judge`: the same numbers from the same seed.
    """
    staged, drawn = scenes.take(torch.zeros(views, dtype=torch.long)), world.draw(range(views), seed=seed)
    foretold = {}
    with frozen(target.module):
        for run in RUNS:
            there = _measured(drawn, run, found)
            pictures = world.prepare(staged, there, frame=target.frame).photograph(artwork)
            asked = truth_in(target, staged, there, world=world)
            success, margin = _told(target, objective, pictures, asked)
            foretold[run] = (success, margin, _differences(seen, pictures.cpu(), sign))
        reached, margin = _told(target, objective, seen[None].to(target.device), truth)
    known = frozenset(stage for stage in STAGES if found.knows(stage))
    alike = _alike(world, staged, artwork, target, seed=seed)
    return Split(group, (reached, margin), foretold, known, alike)


def _told(
    target: Target, objective: Objective, pictures: Float[Tensor, "n 3 h w"], truth: Truth
) -> tuple[float, float]:
    """The share that reaches the goal, and the mean margin."""
    before, said = answers(target, pictures)
    return float(objective.success(said, truth).float().mean()), float(objective.loss(before, truth).mean())


def _measured(drawn: Views, run: str, found: Found) -> Views:
    stages = {MODELLED: (), ALL: STAGES}.get(run, (run,))
    draws = list(drawn.draws)
    for stage in stages:
        draws = [swap(draw, stage, found) for draw in draws]
    return Views(drawn.rows, tuple(draws))


def _differences(seen: Float[Tensor, "3 h w"], views: Float[Tensor, "n 3 h w"], sign: Bool[Tensor, "h w"]) -> float:
    """Mean CIEDE2000 over the sign's px and over the views."""
    every = max(1, int(sign.sum()) // PIXELS)
    one, others = seen.cpu()[:, sign][:, ::every].T, views[:, :, sign][:, :, ::every].mT
    other = others.reshape(-1, 3).numpy()
    return float(difference(linear(one.repeat(len(views), 1).numpy()), linear(other)).mean())


def _alike(
    world: World, staged: Scenes, artwork: Artwork | None, target: Target, *, seed: int
) -> tuple[tuple[float, float | None], ...]:
    """Stops and blur of the first views, measured as in a photograph, so that both are told by the same means."""
    count = min(LIKE, len(staged))
    few, drawn = staged.take(torch.arange(count)), world.draw(range(count), seed=seed)
    shots = world.prepare(few, drawn, frame=target.frame).photograph(artwork).cpu()
    found = []
    for rows, draw in zip(drawn.rows, drawn.draws, strict=True):
        at = geometry(few.take(rows), draw.to(target.device), frame=target.frame)
        for place, row in enumerate(rows.tolist()):
            sight = Sight.of(shots[row], at.to_px[place].cpu().numpy(), float(at.sensor_px[place]), few)
            said = measure(sight, few, artwork, place=False)
            found += [(said.light.stops, said.blur_px)] if said else []
    return tuple(found)


def summary(splits: Sequence[Split], *, seed: int) -> dict[str, Any]:
    """`gap` of metrics.json (docs/capture.md); colour has no observed value of its own: its gap is the difference."""
    told: dict[str, Any] = {"photographs": len(splits)}
    groups = [one.group for one in splits]
    for index, name in enumerate(FIGURES):
        foretold = {run: np.array([one.foretold[run][index] for one in splits]) for run in RUNS}
        observed = None if name == "colour" else np.array([one.observed[index] for one in splits])
        told[name] = _figure(foretold, observed, splits, groups, rates=name == "success", seed=seed)
    return told | {"explained_by": explained_by(told)}


def _figure(
    foretold: Mapping[str, Float[np.ndarray, " n"]],
    observed: Float[np.ndarray, " n"] | None,
    splits: Sequence[Split],
    groups: Sequence[str],
    *,
    rates: bool,
    seed: int,
) -> dict[str, Any]:
    """observed: None where the figure is itself a difference, and a smaller one closes the gap."""
    sign = -1.0 if observed is None else 1.0
    gap = foretold[MODELLED] if observed is None else observed - foretold[MODELLED]
    seen = None if observed is None else mean(observed, groups, seed=seed)
    if rates and observed is not None:
        seen = _rate(observed, groups, seed)

    def still(run: str) -> dict[str, Any]:
        left = mean(gap - sign * (foretold[run] - foretold[MODELLED]), groups, seed=seed)
        return _wider(left, seen, mean(foretold[run], groups, seed=seed)) if rates and seen else left

    stages = {
        run: {
            "known": sum(run == ALL or run in one.known for one in splits),
            "change": mean(sign * (foretold[run] - foretold[MODELLED]), groups, seed=seed),
            "left": still(run),
        }
        for run in (*STAGES, ALL)
    }
    predicted = mean(foretold[MODELLED], groups, seed=seed)
    return {"observed": seen, "predicted": predicted, "gap": still(MODELLED), "stages": stages}


def _rate(won: Float[np.ndarray, " n"], groups: Sequence[str], seed: int) -> dict[str, Any]:
    """A rate of yes and no, whose interval does not vanish where all agree."""
    alone = len(set(groups)) == len(groups)
    rate = wilson(int(won.sum()), len(won)) if alone else cluster_rate(won > 0, groups, seed=derive(seed, "gap"))
    return {"mean": rate.rate, "ci95": None if rate.lo is None else [rate.lo, rate.hi]}


def _wider(left: dict[str, Any], seen: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """At least as wide as the difference of two rates (Newcombe 1998, method 10), within −1 to 1."""
    if left["ci95"] is None or seen["ci95"] is None or told["ci95"] is None:
        return left
    (low, high), middle = told["ci95"], left["mean"]
    down = np.hypot(seen["mean"] - seen["ci95"][0], high - told["mean"])
    up = np.hypot(seen["ci95"][1] - seen["mean"], told["mean"] - low)
    ends = min(left["ci95"][0], middle - down), max(left["ci95"][1], middle + up)
    return {"mean": middle, "ci95": [float(np.clip(end, -1, 1)) for end in ends]}


def explained_by(told: Mapping[str, Any]) -> list[str]:
    """Stages that surely narrow the gap of success (of margins, where success has none that is sure), largest first."""
    for name in ("success", "margin"):
        gap, stages = told[name]["gap"], told[name]["stages"]
        if sure(gap):
            side = np.sign(gap["mean"])
            found = {s: side * stages[s]["change"]["mean"] for s in STAGES if sure(stages[s]["change"])}
            return sorted((s for s, change in found.items() if change > 0), key=lambda s: -found[s])
    return []


def sure(figure: Mapping[str, Any]) -> bool:
    """Whether the interval leaves out 0."""
    low, high = figure["ci95"] or (0.0, 0.0)
    return bool(low > 0 or high < 0)


def mean(values: Float[np.ndarray, " n"], groups: Sequence[str], *, seed: int) -> dict[str, Any]:
    """The mean over photographs with a 95 % interval; None with fewer than two groups.

    The union of percentiles over groups drawn with replacement, and of Student's on the spread between groups: the
    bootstrap alone is too short with few. Paired figures are means of differences, so they are paired here, too.
    """
    group = np.unique(np.asarray(groups), return_inverse=True)[1] if len(groups) else np.zeros(0, int)
    count = int(group.max()) + 1 if len(group) else 0
    if not count:
        return {"mean": None, "ci95": None}
    middle = float(values.mean())
    if count < 2:
        return {"mean": middle, "ci95": None}
    size, total = np.bincount(group).astype(float), np.bincount(group, weights=values)
    drawn = np.random.default_rng(derive(seed, "gap")).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    low, high = np.quantile((drawn @ total) / (drawn @ size), (0.025, 0.975))
    error = np.sqrt(count / (count - 1) * ((total - middle * size) ** 2).sum()) / size.sum() * student(count - 1)
    return {"mean": middle, "ci95": [float(min(low, middle - error)), float(max(high, middle + error))]}
