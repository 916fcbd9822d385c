"""Figures laid out by hand: rows of dots with whiskers, a heat map, and curves as SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

from physadv.evaluation import DISTANCES_M, SIZES_PX, YAWS_DEG
from physadv.report.words import RateJson, noun, signed

PALE, DEEP = (236, 242, 250), (8, 48, 107)
POINTS_SHOWN = 400  # a longer history is averaged, or the curve would be a black band
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 480, 250, 58, 14, 14, 44


@dataclass(frozen=True)
class Dot:
    """One rate in the chart; kind: artwork, control, promise or world. mark: said in words beside the label."""

    label: str
    rate: RateJson
    kind: str
    mark: str = ""


@dataclass(frozen=True)
class HeatMap:
    """A rate per (row, column); None where no view lies."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[RateJson | None, ...]], ...]


@dataclass(frozen=True)
class Curve:
    """A line in a frame, in px of the SVG."""

    title: str
    line: tuple[tuple[float, float], ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    last: str

    @property
    def points(self) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.line)


def dots(metrics: Mapping[str, Any], threat: str | None) -> list[Dot]:
    """The artwork, its controls, the promise, and every world with the weakest marked."""
    thing = noun(threat)
    known = sorted(rate["rate"] for rate in metrics["worlds"].values() if rate["rate"] is not None)
    weakest = known[0] if len(known) > 1 and known[0] < known[1] else None
    controls = [Dot(f"{what} {thing}", rate, "control") for what, rate in metrics["controls"].items()]
    worlds = [
        Dot(name, rate, "world", "weakest" if weakest is not None and rate["rate"] == weakest else "")
        for name, rate in metrics["worlds"].items()
    ]
    first = Dot(f"this {thing}, {metrics['world']['name']}", metrics["attacked"], "artwork")
    return [first, *controls, Dot("promise (unseen worlds)", metrics["promise"], "promise"), *worlds]


def heat_map(cells: Sequence[Mapping[str, Any]]) -> HeatMap | None:
    """Cells of metrics.json as a grid, trimmed to the rows and columns between the outermost views."""
    if not cells:
        return None
    staged = "distance_m" in cells[0]
    key, unit = ("distance_m", " m") if staged else ("sign_px", " px")
    rows, columns = _starts(cells, key, DISTANCES_M if staged else SIZES_PX), _starts(cells, "yaw_deg", YAWS_DEG)
    at = {(cell[key][0], cell["yaw_deg"][0]): cell for cell in cells}
    return HeatMap(
        title="distance" if staged else "width of the sign in the photograph",
        columns=tuple(_span(span, "°") for span in columns),
        rows=tuple((_span(row, unit), tuple(at.get((row[0], column[0])) for column in columns)) for row in rows),
    )


def _starts(cells: Sequence[Mapping[str, Any]], key: str, edges: Sequence[float]) -> list[tuple[float, float]]:
    """The bins between the lowest and the highest that any cell lies in."""
    used = [edges.index(cell[key][0]) for cell in cells]
    return [(edges[i], edges[i + 1]) for i in range(min(used), max(used) + 1)]


def _span(span: tuple[float, float], unit: str) -> str:
    low, high = span
    return f"≥ {low:g}{unit}" if high == float("inf") else f"{low:g}–{high:g}{unit}"


def shade(rate: float | None) -> str:
    """CSS of a cell: one hue, dark for high, with whichever of black and white text reads better on it."""
    if rate is None:
        return ""
    ground = [round(pale + rate * (deep - pale)) for pale, deep in zip(PALE, DEEP, strict=True)]
    return f"background-color:rgb({','.join(map(str, ground))});color:{'#fff' if _luminance(ground) < 0.18 else '#111'}"


def _luminance(rgb: Sequence[int]) -> float:
    """Relative luminance (WCAG 2.2); black and white text contrast equally at 0.18."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def curves(history: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Loss at every step, and success on the held-out draws wherever it was checked."""
    loss = [(float(entry["step"]), float(entry["loss"])) for entry in history]
    success = [(float(entry["step"]), 100 * float(entry["success"])) for entry in history if "success" in entry]
    made = []
    if loss:
        made.append(_curve("Loss of the step's photographs", _thinned(loss), span=None, last=loss[-1], unit=""))
    if success:
        made.append(
            _curve("Success on fixed held-out draws, %", success, span=(0.0, 100.0), last=success[-1], unit=" %")
        )
    return made


def epochs(history: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Of a training: robust and clean accuracy on what is held out, and the loss, after every epoch."""
    named = {"robust": "Held out, under a fresh attack, %", "clean": "Held out, without artwork, %"}
    made = []
    for name, title in named.items():
        points = [(float(one["epoch"]), 100 * float(one[name])) for one in history]
        made.append(_curve(title, points, span=(0.0, 100.0), last=points[-1], unit=" %", of="epoch"))
    points = [(float(one["epoch"]), float(one["loss"])) for one in history]
    return [*made, _curve("Loss of the training", points, span=None, last=points[-1], unit="", of="epoch")]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means over equal runs of steps."""
    size = ceil(len(points) / POINTS_SHOWN)
    runs = [points[i : i + size] for i in range(0, len(points), size)]
    return [(run[-1][0], sum(y for _, y in run) / len(run)) for run in runs]


def _curve(
    title: str,
    points: list[tuple[float, float]],
    *,
    span: tuple[float, float] | None,
    last: tuple[float, float],
    unit: str,
    of: str = "step",
) -> Curve:
    """`points` in the frame; `last` is the exact end, which an averaged line lacks."""
    x_end = max(points[-1][0], 1.0)
    low, high = span or _room([y for _, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = x / x_end, (y - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    return Curve(
        title,
        tuple(place(*point) for point in points),
        tuple((place(x, low)[0], f"{x:g}") for x in _ticks(0, x_end, whole=True)),
        tuple((place(0, y)[1], signed(y)) for y in _ticks(low, high)),
        f"{signed(last[1])}{unit} after {of} {last[0]:.0f}",
    )


def _room(values: list[float]) -> tuple[float, float]:
    """A range round the values, never empty."""
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or max(0.5, 0.1 * abs(high))
    return low - margin, high + margin


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Two to seven round numbers within [low, high]."""
    rough = (high - low) / 6
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    step = max(step, 1.0) if whole else step
    return [round(i * step, 10) for i in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]
