"""Plots as PNG bytes: error against samples in the model, and learning curves with what they foretell."""

import io
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from physadv.samples.theory import SMALLEST

SIZE_IN = (5.0, 3.9)
DPI = 200
STANDARD, ROBUST, GREY = "#08306b", "#9d1515", "#6a7380"


def theory_png(theory: Mapping[str, Any]) -> bytes:
    """The averaging learner's error against n, standard and robust, its ceilings, the goal, and simulated dots."""
    figure, axes = _frame("samples n", "error")
    for curve, colour in zip(theory["curves"], (STANDARD, ROBUST), strict=True):
        name = "standard (ε = 0)" if curve["epsilon"] == 0 else f"robust, ε = {curve['epsilon']:g}"
        axes.plot(curve["n"], curve["error"], color=colour, label=name)
        if curve["ceiling"] > 1e-6:
            axes.axhline(curve["ceiling"], color=colour, linestyle=":", linewidth=1, label="its ceiling, n → ∞")
        for dot in curve["simulated"]:
            axes.plot(dot["n"], dot["error"], "o", color=colour, markersize=5, markerfacecolor="white")
    axes.axhline(theory["goal_error"], color=GREY, linestyle="--", linewidth=1, label="goal")
    axes.plot([], [], "o", color=GREY, markerfacecolor="white", label="simulated")
    axes.set_yscale("log")
    axes.set_ylim(min(theory["goal_error"] / 3, SMALLEST), 1)
    return _png(figure, axes)


def data_png(data: Mapping[str, Any], goal: float) -> bytes:
    """Measured accuracies, the extrapolated curves with their 90 % bands, the goal, and what was verified."""
    figure, axes = _frame(f"training signs, {data['photographs'] / data['signs']:.1f} photographs of each", "accuracy")
    for (name, curve), colour in zip(data["curves"].items(), (STANDARD, ROBUST), strict=True):
        n = [point["signs"] for point in curve["line"]]
        axes.plot(n, [point["median"] for point in curve["line"]], color=colour, label=_name(name, data))
        low, high = ([point["ci90"][end] for point in curve["line"]] for end in (0, 1))
        axes.fill_between(n, low, high, color=colour, alpha=0.15, linewidth=0)
        for point in curve["measured"]:
            axes.plot([point["signs"]] * len(point["runs"]), point["runs"], "o", color=colour, markersize=4)
        for run in data.get("verified", {}).get(name, {"runs": []})["runs"]:
            axes.plot(data["signs"], run, "D", color=colour, markersize=6, markerfacecolor="white")
    axes.axvline(data["signs"], color=GREY, linewidth=1, label="all there are")
    axes.axhline(goal, color=GREY, linestyle="--", linewidth=1, label="goal (robust)")
    if "verified" in data:
        axes.plot([], [], "D", color=GREY, markerfacecolor="white", label="verified, not fitted")
    axes.set_ylim(0, 1)
    return _png(figure, axes)


def vanishing_png(shown: Mapping[str, Any]) -> bytes:
    """The best classifier's error against ε, with what was simulated at both ends."""
    figure, axes = _frame("ε, in units of the noise", "error of the best classifier", scale="linear")
    axes.plot(shown["curve"]["epsilon"], shown["curve"]["error"], color=ROBUST, label="closed form")
    ends = ((0.0, shown["simulated"]["standard"]), (shown["epsilon"], shown["simulated"]["robust"]))
    for epsilon, rate in ends:
        axes.plot(epsilon, rate["rate"], "o", color=ROBUST, markerfacecolor="white", markersize=6)
    axes.plot([], [], "o", color=ROBUST, markerfacecolor="white", label="simulated")
    axes.axvline(shown["epsilon"], color=GREY, linestyle="--", linewidth=1, label="ε = A/√d")
    axes.set_ylim(0, 0.55)
    return _png(figure, axes)


def _name(curve: str, data: Mapping[str, Any]) -> str:
    if curve == "standard":
        return "standard training, clean"
    return f"adversarial training, attacked (ε = {255 * data['epsilon']:g}/255)"


def _frame(x: str, y: str, *, scale: str = "log") -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE_IN, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xscale(scale)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#d5dbe4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Figure, axes: Axes) -> bytes:
    axes.legend(frameon=False, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
