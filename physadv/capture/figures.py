"""Rates of a capture: all photographs, by distance, angle and light, by condition."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from math import hypot, inf
from typing import Any

import torch

from physadv.capture.table import Row
from physadv.evaluation import DISTANCES_M, SIZES_PX, YAWS_DEG
from physadv.stats import Rate, cluster_rate, wilson
from physadv.transforms.stages import derive

# What white shows, in stops below the end of the scale: below −2.5 it is under 118 of 255, above −0.5 over 219.
LIGHTS = {"dark": (-inf, -2.5), "normal": (-2.5, -0.5), "bright": (-0.5, inf)}
UNKNOWN = "unknown"
FEW = 10  # photographs of a part below which its interval is wider than 40 points
FALL = 0.1  # of success: less is not worth moving for

TURNED_DEG = 45.0  # a sign rolled by more hangs otherwise, or its corners begin at another one

Rates = dict[str, Any]


def figures(rows: Sequence[Row], *, seed: int) -> dict[str, Any]:
    """All of metrics.json that follows from the rows alone."""
    judged = [row for row in rows if row.skipped is None]
    names = sorted({row.condition for row in judged if row.condition})
    return {
        "photographs": {"judged": len(judged), "skipped": len(rows) - len(judged)},
        **both(judged, seed=seed),
        "predicted_grey": _grey(judged, seed),
        "turned": sum(abs(row.roll_deg or 0.0) > TURNED_DEG for row in judged),
        "by": {name: list(_parts(judged, split, seed)) for name, split in _splits(judged).items()},
        "falls": list(_falls(judged, seed)),
        "cells": cells(judged, seed=seed),
        "conditions": {name: both([r for r in judged if r.condition == name], seed=seed) for name in names},
        "skipped": [{"file": row.file, "reason": row.skipped} for row in rows if row.skipped is not None],
    }


def light_of(row: Row) -> str:
    """dark, normal or bright, by what the sign's white shows; unknown where too little of the face is free."""
    if row.stops is None:
        return UNKNOWN
    return next(name for name, (low, high) in LIGHTS.items() if low <= row.stops < high)


def both(rows: Sequence[Row], *, seed: int) -> Rates:
    """Observed: Wilson, or a cluster bootstrap where frames share a video. Predicted: clustered by photograph."""
    return {"observed": _observed(rows, seed).to_json(), "predicted": _predicted(rows, seed).to_json()}


def _observed(rows: Sequence[Row], seed: int) -> Rate:
    won = torch.tensor([bool(row.success) for row in rows], dtype=torch.bool)
    groups = [row.group for row in rows]
    alone = len(set(groups)) == len(groups)
    return wilson(int(won.sum()), len(won)) if alone else cluster_rate(won, groups, seed=derive(seed, "bootstrap"))


def _predicted(rows: Sequence[Row], seed: int, column: str = "predicted") -> Rate:
    seed = derive(seed, "bootstrap")
    pairs = [(row.group, (getattr(row, column) or 0) > view) for row in rows for view in range(row.views or 0)]
    won = torch.tensor([reached for _, reached in pairs], dtype=torch.bool)
    return cluster_rate(won, [group for group, _ in pairs], seed=seed)


def _grey(rows: Sequence[Row], seed: int) -> Rates | None:
    """Of the photographs in which an artwork hangs; None: in none."""
    worn = [row for row in rows if row.predicted_grey is not None]
    return _predicted(worn, seed, "predicted_grey").to_json() if worn else None


def cells(rows: Sequence[Row], *, seed: int) -> list[Rates]:
    """Distance (in m where every photograph has one, else the sign's width in px) × yaw × light; no empty ones."""
    splits = _splits(rows)
    found = []
    for parts in product(*splits.values()):
        some = [row for row in rows if all(holds(row) for _, holds in parts)]
        if some:
            spans = {name: span for name, (span, _) in zip(splits, parts, strict=True)}
            found.append(spans | both(some, seed=seed))
    return found


Part = tuple[Any, Callable[[Row], bool]]


def _splits(rows: Sequence[Row]) -> dict[str, list[Part]]:
    """The three ways that photographs are sorted: what a part is called in json, and what is in it."""
    metres = all(row.distance_m is not None for row in rows)
    name, edges = ("distance_m", DISTANCES_M) if metres else ("sign_px", SIZES_PX)
    return {
        name: [_between(name, *ends) for ends in pairwise(edges)],
        "yaw_deg": [_between("yaw_deg", *ends) for ends in pairwise(YAWS_DEG)],
        "light": [_lit(name) for name in (*LIGHTS, UNKNOWN)],
    }


def _between(name: str, low: float, high: float) -> Part:
    return [low, None if high == inf else high], lambda row: low <= abs(getattr(row, name) or 0.0) < high


def _lit(light: str) -> Part:
    return light, lambda row: light_of(row) == light


def _parts(rows: Sequence[Row], parts: Sequence[Part], seed: int) -> Iterator[Rates]:
    """Rates of one way alone; `where` is the span or the name."""
    for where, holds in parts:
        some = [row for row in rows if holds(row)]
        if some:
            yield {"where": where} | both(some, seed=seed)


def _falls(rows: Sequence[Row], seed: int) -> Iterator[Rates]:
    """Where observed success surely falls most: beyond an edge of distance, width or yaw, or in a light.

    where: the edge, or the light's name; there: the rate on its far side; before: the rate of all others.
    """
    for name, parts in _splits(rows).items():
        most = 0.0, Rates()
        for where, beyond in _sides(name, parts):
            before, there = (_observed([row for row in rows if beyond(row) is far], seed) for far in (False, True))
            found = {"by": name, "where": where, "before": before.to_json(), "there": there.to_json()}
            most = max(most, (_fall(before, there), found), key=lambda one: one[0])
        if most[0]:
            yield most[1]


def _sides(name: str, parts: Sequence[Part]) -> list[Part]:
    """Ways to part photographs in two: each by what lies on the far side. A narrow sign is a far one."""
    if name == "light":
        return [part for part in parts if part[0] != UNKNOWN]
    edges = [low for (low, _), _ in parts[1:]]
    return [(edge, _between(name, *((0.0, edge) if name == "sign_px" else (edge, inf)))[1]) for edge in edges]


def _fall(before: Rate, there: Rate) -> float:
    """How much lower the second rate is; 0 unless it surely is (Newcombe 1998, method 10, on both rates' intervals)."""
    if before.lo is None or there.hi is None or min(before.n, there.n) < FEW:
        return 0.0
    p, q = before.k / before.n, there.k / there.n
    return p - q if p - q >= FALL and p - q > hypot(p - before.lo, there.hi - q) else 0.0
