"""From measured points to what they foretell: the accuracy on more photographs, and how many a goal takes."""

from collections.abc import Callable, Sequence
from math import inf, isfinite
from typing import Any

import numpy as np

from physadv.samples.curves import Point, Study
from physadv.samples.extrapolation import Curves, Numbers, answer, interval, replicated, unlabelled
from physadv.stats import cluster_rate
from physadv.transforms.stages import derive

BEYOND = 8.0  # the plotted curve ends at so many times all photographs
GRID = 60
KINDS = {"standard": ("standard", "clean"), "robust": ("robust", "robust")}  # curve: training, accuracy


def prognosis(study: Study, points: Sequence[Point], *, goal_accuracy: float) -> dict[str, Any]:
    """`data` of metrics.json: measured means, extrapolated curves, the answers; everything that was measured is used.

    standard: clean accuracy of standard training. robust: accuracy under attack of adversarial training. The law is in
    signs, because photographs of one sign are nearly one photograph; for photographs it takes as many of each sign.
    """
    told = {name: _curve(study, points, *what, goal_accuracy) for name, what in KINDS.items()}
    noise = 1 - told["standard"]["measured"][-1]["accuracy"]["rate"]
    each = len(study.scenes) / len(set(study.scenes.groups))
    return {
        "photographs": len(study.scenes),
        "signs": len(set(study.scenes.groups)),
        "judged": {"photographs": len(study.judge), "signs": len(set(study.judge.groups))},
        "epsilon": study.epsilon,
        "arch": study.arch,
        "curves": told,
        "robust_accuracy_of_standard": _measured(study, points, "standard", "robust"),
        "clean_accuracy_of_robust": _measured(study, points, "robust", "clean"),
        "backtest": backtest(study, points),
        "more": _more(study, told["robust"]["answer"], each, noise),
    }


def _curve(study: Study, points: Sequence[Point], training: str, what: str, goal: float) -> dict[str, Any]:
    have = len(set(study.scenes.groups))
    here = extrapolated(study, points, training, what, other_signs=False)
    elsewhere = extrapolated(study, points, training, what, other_signs=True)
    seed = derive(study.seed, "one more run")
    grid = np.geomspace(min(point.signs for point in points), BEYOND * have, GRID)
    return {
        "measured": _measured(study, points, training, what),
        "at_all": interval(1 - here.run(have, seed=seed)),
        "at_all_other_signs": interval(1 - elsewhere.run(have, seed=seed)),
        "exponent": interval(elsewhere.c),
        "line": [{"signs": float(n)} | interval(1 - elsewhere.error(n)) for n in grid],
        "answer": answer(elsewhere, goal_accuracy=goal, have=have),
    }


def extrapolated(study: Study, points: Sequence[Point], training: str, what: str, *, other_signs: bool) -> Curves:
    """The posterior over bootstrap replicates of seeds and, where it is to hold for other signs, of judged signs."""
    largest = float(max(np.mean([p.signs for p in points if p.share == share]) for share in {p.share for p in points}))
    draw = _resampled(study, [point for point in points if point.training == training], what, signs=other_signs)
    return replicated(draw, largest=largest, seed=derive(study.seed, "extrapolation", training, what))


def _resampled(
    study: Study, points: Sequence[Point], what: str, *, signs: bool
) -> Callable[[np.random.Generator], tuple[Numbers, Numbers]]:
    right = np.array([getattr(point, what) for point in points], dtype=float)
    of_sign = np.bincount(study.judged_signs).astype(float)
    size = np.array([point.signs for point in points], dtype=float)
    seed_of = np.array([point.seed for point in points])
    seeds = np.unique(seed_of)

    def draw(random: np.random.Generator) -> tuple[Numbers, Numbers]:
        rows = np.concatenate([np.flatnonzero(seed_of == seed) for seed in random.choice(seeds, len(seeds))])
        count = len(of_sign)
        times = random.multinomial(count, np.full(count, 1 / count)) if signs else np.ones(count)
        return size[rows], 1 - right[rows] @ times / (of_sign @ times)

    return draw


def _measured(study: Study, points: Sequence[Point], training: str, what: str) -> list[dict[str, Any]]:
    """By size: the mean over seeds, with the interval of one that judges other signs."""
    shares = sorted({point.share for point in points})
    return [
        {"share": share} | _mean(study, [one for one in points if (one.share, one.training) == (share, training)], what)
        for share in shares
    ]


def _mean(study: Study, points: Sequence[Point], what: str) -> dict[str, Any]:
    judged = np.bincount(study.judged_signs)
    runs = [sum(getattr(point, what)) / judged.sum() for point in points]
    groups = [str(sign) for sign, n in enumerate(judged) for _ in range(n * len(points))]
    right = np.concatenate(
        [
            np.arange(n * len(points)) < sum(getattr(point, what)[sign] for point in points)
            for sign, n in enumerate(judged)
        ]
    )
    rate = cluster_rate(right, groups, seed=derive(study.seed, "measured"))
    sizes = {name: float(np.mean([getattr(point, name) for point in points])) for name in ("photographs", "signs")}
    return sizes | {"accuracy": rate.to_json(), "runs": runs}


def _more(study: Study, answered: dict[str, Any], each: float, noise: float) -> dict[str, Any]:
    """Photographs beyond those there are: labelled, and, under an assumption, unlabelled. None is infinity."""
    low, high = answered["signs"]["ci90"]
    quantiles = {"low": low, "median": answered["signs"]["median"], "high": high}
    labelled = {name: inf if n is None else max(0.0, n * each - len(study.scenes)) for name, n in quantiles.items()}
    classes = len(set(study.scenes.labels.tolist()))
    worth = {name: unlabelled(n, label_noise=noise, classes=classes) for name, n in labelled.items()}
    return {
        "labelled": {name: n if isfinite(n) else None for name, n in labelled.items()},
        "unlabelled": {name: n if isfinite(n) else None for name, n in worth.items()},
        "label_noise": noise,
        "assumption": "a photograph labelled by the standard model counts (1 - p K/(K-1))^2 of a labelled one; "
        "p is that model's measured error (Carmon 2019; Uesato 2019)",
    }


def backtest(study: Study, points: Sequence[Point]) -> dict[str, Any]:
    """The curve without its largest size, asked about that size: do such forecasts hold here? Empty below 4 sizes."""
    shares = sorted({point.share for point in points})
    if len(shares) < 4:
        return {}
    few, last = ([p for p in points if (p.share < shares[-1]) == smaller] for smaller in (True, False))
    held = {}
    for name, (training, what) in KINDS.items():
        curves = extrapolated(study, few, training, what, other_signs=False)
        signs = float(np.mean([point.signs for point in last]))
        foretold = interval(1 - curves.run(signs, seed=derive(study.seed, "backtest")))
        held[name] = {"signs": signs} | _held(study, last, training, what, foretold)
    return held


def verify(study: Study, points: Sequence[Point], told: dict[str, Any]) -> dict[str, Any]:
    """Trainings on all photographs, which no curve was fitted to, beside what was foretold for one of them."""
    return {
        name: _held(study, points, training, what, told["curves"][name]["at_all"])
        for name, (training, what) in KINDS.items()
    }


def _held(study: Study, points: Sequence[Point], training: str, what: str, foretold: dict[str, Any]) -> dict[str, Any]:
    low, high = foretold["ci90"]
    runs = [sum(getattr(point, what)) / len(study.judge) for point in points if point.training == training]
    return {"foretold": foretold, "runs": runs, "inside": [low <= run <= high for run in runs]}
