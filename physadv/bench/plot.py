"""The ratios as a PNG: what a step costs on every target, and on two of them the peers."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, GREY, RED = "#08306b", "#9aa5b4", "#9d1515"
DPI, WIDTH_IN, ROW_IN = 200, 6.4, 0.3
Bar = tuple[str, float, float | None]


def ratios_png(found: Mapping[str, Any]) -> bytes:
    """Bars from 1, the bare model; the tick is what the target must keep."""
    bars = bars_of(found)
    figure = Figure(figsize=(WIDTH_IN, 0.9 + ROW_IN * len(bars)), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for row, (_, ratio, most) in enumerate(bars):
        axes.barh(row, ratio - 1, left=1, height=0.62, color=GREY if most is None else BLUE)
        axes.text(max(ratio, most or 1, 1) + 0.015, row, f"{ratio:.2f}", va="center", fontsize=8, color="#222")
        if most is not None:
            axes.plot([most, most], [row - 0.4, row + 0.4], color=RED, linewidth=1.6)
    axes.axvline(1, color="#222", linewidth=0.8)
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(min(0.95, *(ratio - 0.03 for _, ratio, _ in bars)), 1.12 * max(ratio for _, ratio, _ in bars))
    axes.set_xlabel("one step ÷ one forward and backward of the model alone", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def bars_of(found: Mapping[str, Any]) -> Sequence[Bar]:
    """Label, ratio and limit (None: a peer), each target followed by its peers."""
    bars: list[Bar] = []
    for step in found["steps"]:
        bars.append((f"physadv · {step['target']}", step["ratio"], step["max_ratio"]))
        bars += [(one["peer"], one["ratio"], None) for one in found["peers"] if one["target"] == step["target"]]
    return bars
