"""`report.html` of `physadv capture`: what the target said of the photographs, beside what was foretold."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from physadv.capture.table import Row
from physadv.report.template import flat, write_page
from physadv.report.words import count, goal_class, rate_text, signed


def write_capture_report(path: Path, *, metrics: Mapping[str, Any], rows: Sequence[Row], folder: Path) -> None:
    """One self-contained HTML file, written whole or not at all. metrics: docs/capture.md; folder: of the pictures."""
    run = metrics["run"]
    context = {
        "title": f"{run['target']['name']} · {run['config']['photos']} · capture",
        "headline": headline(metrics),
        "metrics": metrics,
        "run": run,
        "goal": goal_class(run["goal"]),
        "cells": [{"where": where(cell)} | cell for cell in metrics["cells"]],
        "conditions": [{"where": name} | one for name, one in metrics["conditions"].items()],
        "reasons": [(one["file"], one["reason"]) for one in metrics["skipped"]],
        "shots": [_shot(row, folder) for row in rows if row.skipped is None],
        "measured": all(row.distance_m is not None for row in rows if row.skipped is None),
        "config": flat(run["config"]),
    }
    write_page(path, "capture.html.j2", context)


def headline(metrics: Mapping[str, Any]) -> str:
    """Observed beside predicted, in one sentence."""
    judged, observed, predicted = metrics["photographs"]["judged"], metrics["observed"], metrics["predicted"]
    if not judged:
        return "No photograph could be judged; the reasons are below."
    wanted = goal_class(metrics["run"]["goal"])
    deed = "misread" if wanted is None else f"read as {wanted}"
    return (
        f"The sign is {deed} in {rate_text(observed)} of {count(judged, 'photograph')}; the world "
        f"{metrics['run']['world']['name']} foretells {rate_text(predicted)} from the same places."
    )


def where(cell: Mapping[str, Any]) -> str:
    """`3 to 6 m, yaw 10 to 20°`; `sign 48 to 72 px wide` where distances are not known."""
    metres = "distance_m" in cell
    far = f"{_span(cell['distance_m'])} m" if metres else f"sign {_span(cell['sign_px'])} px wide"
    return f"{far}, yaw {_span(cell['yaw_deg'])}°"


def _span(limits: Sequence[float | None]) -> str:
    low, high = limits
    return f"over {low:g}" if high is None else f"{low:g} to {high:g}"


def _shot(row: Row, folder: Path) -> dict[str, Any]:
    picture = base64.b64encode((folder / f"crop-{row.picture:06d}.jpg").read_bytes()).decode()
    far = f"{row.sign_px or 0:.0f} px wide" if row.distance_m is None else f"{row.distance_m:.1f} m"
    return {
        "picture": f"data:image/jpeg;base64,{picture}",
        "row": row,
        "where": f"{far}, yaw {signed(round(row.yaw_deg or 0.0))}°",
    }
