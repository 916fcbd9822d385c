"""`report.html` of `physadv bench`, its table, and its answer in one sentence."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from physadv.report.template import flat, write_page

HEAD = ("target", "bare, ms", "attack, ms", "ratio", "at most", "beside the twin", "on all cores", "peak memory")
PHASES = {
    "draw": "views drawn",
    "scene": "scenes lit",
    "artwork": "artwork photographed",
    "target": "model, forth and back",
    "back": "back to the artwork",
    "update": "step, projection",
}


def headline(found: Mapping[str, Any]) -> str:
    """The largest and the smallest ratio, and how many targets keep theirs."""
    steps = found["steps"]
    ratios = [step["ratio"] for step in steps]
    kept = sum(step["ratio"] <= step["max_ratio"] for step in steps)
    cost = f"{min(ratios):.2f}" if len(steps) == 1 else f"{min(ratios):.2f} to {max(ratios):.2f}"
    limit = f"the limit is {steps[0]['max_ratio']:.2f}"
    within = limit if len(steps) == 1 else f"{kept} of {len(steps)} targets keep their limit"
    return f"A step of the attack in the full drive-by world costs {cost} times the bare model's; {within}."


def rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Under HEAD: a target each."""
    return [
        (
            step["target"],
            f"{step['bare_ms']:.0f}",
            f"{step['step_ms']:.0f}",
            f"{step['ratio']:.2f}",
            f"{step['max_ratio']:.2f}",
            f"{step['twin_ratio']:.2f}",
            f"{step['wall']['ratio']:.2f}",
            memory(step),
        )
        for step in found["steps"]
    ]


def memory(step: Mapping[str, Any]) -> str:
    """`84 MB (× 1.10)`."""
    if step["peak_ratio"] is None:
        return "–"
    return f"{step['peak_mb']:.0f} MB (× {step['peak_ratio']:.2f})"


def peer_rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Every peer that ran, its ratio on every target that it ran on, and why the others did not."""
    targets = list(dict.fromkeys(one["target"] for one in found["peers"]))
    ratios = {(one["peer"], one["target"]): f"{one['ratio']:.2f}" for one in found["peers"]}
    names = dict.fromkeys(one["peer"] for one in found["peers"])
    ran = [(name, ", ".join(f"{ratios[name, target]} ({target})" for target in targets)) for name in names]
    return [*ran, *((name, f"not run: {why}") for name, why in found["absent"].items())]


def write_bench_report(path: Path, metrics: Mapping[str, Any], picture: bytes) -> None:
    """One self-contained HTML file, written whole or not at all. metrics: docs/bench.md."""
    context = {
        "title": "bench",
        "headline": metrics["headline"],
        "metrics": metrics,
        "head": HEAD,
        "rows": rows(metrics),
        "peers": peer_rows(metrics),
        "phases": PHASES,
        "picture": f"data:image/png;base64,{base64.b64encode(picture).decode()}",
        "machine": flat(metrics["machine"]),
        "config": flat(metrics["run"]["config"]),
    }
    write_page(path, "bench.html.j2", context)
