"""Every target's step beside the bare model's, in one run; then the peers."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from physadv.bench import peers
from physadv.bench.case import BATCH, SCENES, SIZES, THREAT, WORLD, Case, Size, case_of, processors
from physadv.bench.clock import Call, Clock, busy_share, cpu_clock, interleaved, ratio, threads, wall_clock
from physadv.bench.memory import peak_mb
from physadv.bench.shares import phases, stages
from physadv.targets.base import frozen
from physadv.transforms.world import load_world

COMPARED = ("cnn-64", "resnet18-224")  # whole-image attacks and ART's patch are for classifiers


@dataclass(frozen=True)
class Bench:
    """What to measure."""

    sizes: tuple[Size, ...] = SIZES
    repeats: int = 9
    seed: int = 0
    device: str = "cpu"
    compare: bool = True
    batch: int = BATCH
    precision: str = "float32"
    compiled: bool = False

    @property
    def how(self) -> dict[str, Any]:
        """What a case of it is made with."""
        return {name: getattr(self, name) for name in ("seed", "device", "batch", "precision", "compiled")}


def measure(bench: Bench, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """`{"steps": [...], "peers": [...], "absent": {...}, "machine": {...}}`; docs/bench.md names every key."""
    steps: list[dict[str, Any]] = []
    beside: list[dict[str, Any]] = []
    absent: dict[str, str] = {}
    for size in bench.sizes:
        case = case_of(size, **bench.how)
        with frozen(case.problem.target.module):
            steps.append(_step(case, bench))
        say(line(steps[-1]))
        if bench.compare and size.name in COMPARED and bench.device == "cpu":
            more, missing = _peers(case, bench)
            beside += more
            absent |= missing
    return {"steps": steps, "peers": beside, "absent": absent, "machine": _machine(bench)}


def line(step: dict[str, Any]) -> str:
    """One target in words."""
    memory = "" if step["peak_ratio"] is None else f", peak memory × {step['peak_ratio']:.2f}"
    return (
        f"{step['target']}: bare {step['bare_ms']:.0f} ms, attack {step['step_ms']:.0f} ms, ratio "
        f"{step['ratio']:.2f} (at most {step['max_ratio']:.2f}), beside the twin that it asks "
        f"{step['twin_ratio']:.2f}{memory}"
    )


def _step(case: Case, bench: Bench) -> dict[str, Any]:
    on_cpu = bench.device == "cpu"
    clock: Clock = cpu_clock if on_cpu else wall_clock
    calls: dict[str, Call] = {"bare": case.bare, "twin": case.twin, "step": case.stepper()}
    with threads(1):
        spent = interleaved(calls, repeats=bench.repeats, clock=clock)
        shares = phases(case, repeats=bench.repeats, clock=clock)
        costs = stages(case, repeats=bench.repeats, clock=clock)
    with threads(processors()):
        wall = interleaved(calls, repeats=bench.repeats, clock=wall_clock) if on_cpu else spent
    bare_mb, peak = (peak_mb(case.size.name, which, bench.how) for which in ("bare", "step"))
    rounds = sorted(one / other for one, other in zip(spent["step"], spent["bare"], strict=True))
    return {
        "target": case.size.name,
        "what": case.size.note,
        "batch": bench.batch,
        "precision": bench.precision,
        "compiled": bench.compiled,
        "busy": busy_share(calls["step"], bench.device),
        "ratio": ratio(spent["step"], spent["bare"]),
        "max_ratio": case.size.most,
        "ratio_range": [rounds[0], rounds[-1]],
        "twin_ratio": ratio(spent["step"], spent["twin"]),
        "bare_ms": 1e3 * median(spent["bare"]),
        "twin_ms": 1e3 * median(spent["twin"]),
        "step_ms": 1e3 * median(spent["step"]),
        "clock": "CPU time, one thread" if on_cpu else "wall time, kernels done",
        "wall": {
            "threads": processors(),
            "ratio": ratio(wall["step"], wall["bare"]),
            "bare_ms": 1e3 * median(wall["bare"]),
            "step_ms": 1e3 * median(wall["step"]),
            "images_per_s": bench.batch / median(wall["step"]),
        },
        "shares": shares,
        "stages_ms": {name: 1e3 * seconds for name, seconds in costs.items()},
        "peak_mb": peak,
        "bare_peak_mb": bare_mb,
        "peak_ratio": None if bare_mb is None or peak is None else peak / bare_mb,
    }


def _peers(case: Case, bench: Bench) -> tuple[list[dict[str, Any]], dict[str, str]]:
    images, labels = case.shown
    victim = peers.Victim(case.problem.target.module, images, labels, len(case.problem.target.classes))

    def bare() -> None:
        with frozen(case.problem.target.module):
            case.bare()

    with threads(1):
        running, absent = peers.found(victim)
        ratios = peers.steps(running, bare, repeats=bench.repeats, clock=cpu_clock)
    return [{"peer": name, "target": case.size.name, "ratio": found} for name, found in ratios.items()], absent


def _machine(bench: Bench) -> dict[str, Any]:
    return {
        "processors": processors(),
        "processor": platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name(bench.device) if bench.device != "cpu" else "cpu",
        "system": platform.system(),
        "repeats": bench.repeats,
        "batch": bench.batch,
        "world": {"name": WORLD, "hash": load_world(WORLD).hash},
        "scenes": SCENES,
        "threat": THREAT,
        "peers": peers.installed(),
    }
