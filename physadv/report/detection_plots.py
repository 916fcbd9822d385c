"""Precision over recall, what was found by which distance, and the table beside them: metrics.json laid out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from physadv.report.words import interval, percent
from physadv.stats import wilson

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 480, 300, 52, 134, 28, 44
LINE_PX = 18  # between labels
FLOOR = HEIGHT - BOTTOM - 8  # the lowest label keeps clear of the axis
STYLES = {  # colours and dashes that are told apart without one of the two
    "clean": ("#08306b", ""),
    "artwork": ("#c3151b", ""),
    "grey": ("#6a7380", "8 5"),
    "random": ("#c07a00", "2 4"),
}
SHOWN_IN_CURVES = tuple(STYLES)  # plain white and black stand in the table
_INSIDE = 0.6  # a curve that ends before this share of the width carries its label there

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """A curve with its label, in px of the SVG. leader: from its end to a label that stands in the margin."""

    name: str
    said: str
    colour: str
    dash: str
    points: tuple[tuple[float, float], ...]
    label_at: tuple[float, float]
    leader: bool
    band: tuple[tuple[float, float], ...] = ()

    @property
    def path(self) -> str:
        return _path(self.points)

    @property
    def area(self) -> str:
        return _path(self.band)


@dataclass(frozen=True)
class Plot:
    """Lines in a frame. rule: x of a vertical line, and what it says."""

    title: str
    axes: tuple[str, str]
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    rule: tuple[float, str] | None = None

    @property
    def alt(self) -> str:
        return f"{self.title}: " + ", ".join(line.said for line in self.lines)


@dataclass(frozen=True)
class Row:
    """One arm in the table: a figure and its interval per column."""

    arm: str
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Table:
    title: str
    note: str
    rows: tuple[Row, ...]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _place(across: float, up: float) -> tuple[float, float]:
    """Shares of the frame as px."""
    return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def score(value: float | None) -> str:
    """`0.97`; a third digit where it would read 0 or 1 and is not."""
    if value is None:
        return "–"
    return f"{value:.2f}" if value in (0, 1) or 0.005 <= value < 0.995 else f"{min(max(value, 0.001), 0.999):.3f}"


def span(said: Json) -> str:
    """`[0.88–0.96]`."""
    return "" if said["ci95"] is None else f"[{said['ci95'][0]:.2f}–{said['ci95'][1]:.2f}]"


def precision_curves(detection: Json) -> list[Plot]:
    """One plot per class of which a sign is to be seen. detection: as under `detection` in docs/metrics.md."""
    return [_precision(name, one) for name, one in detection["classes"].items() if one["signs"]]


def _precision(name: str, told: Json) -> Plot:
    drawn = []
    for arm in SHOWN_IN_CURVES:
        if arm not in told["curve"]:
            continue
        reached = [(row / 100, value) for row, value in enumerate(told["curve"][arm]) if value > 0] or [(0.0, 0.0)]
        drawn.append((arm, f"{arm} {score(told['ap50'][arm]['ap'])}", [_place(*point) for point in reached]))
    return Plot(
        name,
        ("recall", "precision"),
        tuple(labelled(drawn)),
        tuple((_place(x, 0)[0], f"{x:g}") for x in (0, 0.2, 0.4, 0.6, 0.8, 1)),
        tuple((_place(0, y)[1], f"{y:g}") for y in (0, 0.25, 0.5, 0.75, 1)),
    )


def labelled(drawn: Sequence[tuple[str, str, list[tuple[float, float]]]]) -> list[Line]:
    """Curves with their labels: in the margin, none over another; if only one ends early, its label is beside it."""
    end = {name: points[-1] for name, _, points in drawn}
    early = [name for name, (x, _) in end.items() if x < _place(_INSIDE, 0)[0]]
    inside = early if len(early) == 1 else []
    heights = iter(apart([y for name, (_, y) in end.items() if name not in inside]))
    lines = []
    for name, said, points in drawn:
        colour, dash = STYLES[name]
        x, y = (end[name][0] + 10, min(end[name][1], FLOOR)) if name in inside else (WIDTH - RIGHT + 30, next(heights))
        lines.append(Line(name, said, colour, dash, tuple(points), (x, y), name not in inside))
    return lines


def apart(heights: Sequence[float], *, gap: float = LINE_PX) -> list[float]:
    """Heights moved so that none is nearer to another than `gap`, in their order, inside the frame."""
    order = sorted(range(len(heights)), key=lambda row: heights[row])
    moved, last = list(heights), TOP - gap
    for row in order:
        last = moved[row] = max(heights[row], last + gap)
    floor = FLOOR + gap
    for row in reversed(order):
        floor = moved[row] = min(moved[row], floor - gap)
    return moved


def approach_plot(told: Json) -> Plot:
    """Share of the drives in which the sign has been found so far, far to near; told: as under `approach`."""
    distances, far = told["distances_m"], max(told["distances_m"])
    across = [1 - distance / far for distance in distances]
    drawn, bands = [], []
    for name, side, words in (("clean", "clean", "without"), ("artwork", "attacked", "artwork")):
        found = np.maximum.accumulate(np.array([one[side] for one in told["approaches"]], dtype=bool), axis=1)
        rates = [wilson(int(column.sum()), len(column)) for column in found.T]
        steps = [_place(x, rate.rate or 0.0) for x, rate in zip(across, rates, strict=True)]
        drawn.append((name, f"{words} {100 * (rates[-1].rate or 0):.0f} %", _stairs(steps)))
        low = _stairs([_place(x, rate.lo or 0.0) for x, rate in zip(across, rates, strict=True)])
        high = _stairs([_place(x, rate.hi or 0.0) for x, rate in zip(across, rates, strict=True)])
        bands.append(tuple(low + high[::-1]))
    lines = [
        Line(one.name, one.said, one.colour, one.dash, one.points, one.label_at, one.leader, band)
        for one, band in zip(labelled(drawn), bands, strict=True)
    ]
    metres, braking = told["braking_m"], 1 - told["braking_m"] / far
    return Plot(
        "Sign found so far",
        ("distance, m", "share of drives, %"),
        tuple(lines),
        tuple((_place(1 - x / far, 0)[0], f"{x:g}") for x in _round_metres(far)),
        tuple((_place(0, y)[1], f"{100 * y:g}") for y in (0, 0.25, 0.5, 0.75, 1)),
        (_place(braking, 0)[0], f"braking distance {metres:.0f} m") if braking >= 0 else None,
    )


def _stairs(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Level until the next frame."""
    corners = [(after[0], before[1]) for before, after in pairwise(points)]
    return [point for pair in zip(points, [*corners, points[-1]], strict=True) for point in pair]


def _round_metres(far: float) -> list[float]:
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if far / step <= 6)
    return [float(metres) for metres in range(0, int(far) + 1, step)]


def tables(detection: Json) -> list[Table]:
    """AP50, recall, precision and false boxes of every class, arm by arm; of all together where there are several."""
    made = [
        Table(name, f"{one['signs']} to be seen", tuple(_row(arm, one) for arm in one["ap50"]))
        for name, one in detection["classes"].items()
    ]
    if len(made) > 1:
        rows = [
            Row(arm, (_average(one), ("", ""), ("", ""), _boxes(detection["false_boxes"][arm])))
            for arm, one in detection["mean"].items()
        ]
        made.append(Table("all classes", "mean AP50", tuple(rows)))
    return made


def _row(arm: str, told: Json) -> Row:
    rates = [(percent(told[key][arm]["rate"]), interval(told[key][arm])) for key in ("recall", "precision")]
    return Row(arm, (_average(told["ap50"][arm]), *rates, _boxes(told["false_boxes"][arm])))


def _average(said: Json) -> tuple[str, str]:
    return score(said["ap"]), span(said)


def _boxes(said: Json) -> tuple[str, str]:
    few = said["boxes"] and said["per_image"] < 0.005
    return f"{said['per_image']:{'.1g' if few else '.2f'}}", span(said)


def precision_rows(metrics: Json) -> Iterator[tuple[str, ...]]:
    """AP50 of each class, and their mean, under every arm."""
    detection = metrics["detection"]
    for name, told in [*detection["classes"].items(), ("mean", {"ap50": detection["mean"]})]:
        yield (name, *(f"{score(one['ap'])} {span(one)}".rstrip() for one in told["ap50"].values()))
