"""What a step of the attack costs by scenes, views, signs per photograph and image size, and whether that is a line.

    python tests/benchmarks/curves.py OUT [--rounds 5]

CPU time of one thread, the points of a curve taking turns, median of the rounds; writes OUT/curves.json and curves.png.
"""

import argparse
import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from physadv.bench.clock import cpu_clock, interleaved, threads
from physadv.files import write_atomic, write_json
from physadv.problem import Problem, make_problem
from physadv.question import Target
from physadv.scenes import Scenes, load_scenes
from physadv.settings import Settings
from physadv.targets import load_target
from physadv.targets.base import frozen
from physadv.threats import load_threat
from physadv.transforms.world import load_world

Curve = Mapping[int, Callable[[], object]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    curves: dict[str, Curve] = {
        "scenes per step (batch)": {count: _classifier(batch=count) for count in (4, 8, 16, 32)},
        "views of each scene": {count: _classifier(batch=4, views=count) for count in (1, 2, 4, 8)},
        "signs per photograph": {count: _detector(signs=count) for count in (1, 4, 8, 16)},
        "Mpx of 4 images": {size: _detector(size_px=size) for size in (160, 320, 480, 640)},
    }
    told = {name: _measured(name, curve, options.rounds) for name, curve in curves.items()}
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "curves.json", told)
    write_atomic(options.out / "curves.png", _drawn(told))


def _measured(name: str, curve: Curve, rounds: int) -> dict[str, Any]:
    """Milliseconds at every point, and the line through them."""
    with threads(1):
        spent = interleaved({str(at): call for at, call in curve.items()}, repeats=rounds, clock=cpu_clock)
    at = np.array([4 * size**2 / 1e6 for size in curve] if "Mpx" in name else [*curve], dtype=float)
    milliseconds = np.array([1e3 * median(times) for times in spent.values()])
    slope, offset = np.polyfit(at, milliseconds, 1)
    rest = milliseconds - (slope * at + offset)
    straight = 1 - (rest**2).sum() / ((milliseconds - milliseconds.mean()) ** 2).sum()
    print(f"{name}: {offset:.0f} ms + {slope:.1f} ms each, R² {straight:.3f}; {milliseconds.round(0)}", flush=True)
    return {"at": [*at], "ms": [*milliseconds], "slope_ms": slope, "offset_ms": offset, "r2": straight}


def _classifier(*, batch: int, views: int = 1) -> Callable[[], object]:
    target, scenes = load_target("builtin:gtsrb"), load_scenes("staged:stop,yield,no-entry,priority-road")
    return _step(target, scenes, "stickers:two-bars", Settings(batch=batch, views=views, held_out=0, steps=10**6))


def _detector(*, signs: int = 1, size_px: int = 320) -> Callable[[], object]:
    """Photographs with as many signs, each of which wears the artwork."""
    target, scene = load_target("builtin:signs-det"), load_scenes("staged:stop")
    target = replace(target, frame=replace(target.frame, size_px=size_px))  # type: ignore[arg-type]
    return _step(
        target, _street(scene, signs), "patch:20%", Settings(goal="hide", batch=4, views=1, held_out=0, steps=10**6)
    )


def _street(scene: Scenes, signs: int) -> Scenes:
    """One grey photograph of 640 px with signs of 60 px in rows of four."""
    corner = torch.tensor([[80.0 + 130 * (row % 4), 80.0 + 130 * (row // 4)] for row in range(signs)])
    scale = 60 / float(scene.faces.size_mm[0, 0])
    surface = torch.zeros(signs, 3, 3)
    surface[:, 0, 0] = surface[:, 1, 1] = scale
    surface[:, :2, 2], surface[:, 2, 2] = corner, 1
    one = torch.zeros(signs, dtype=torch.long)
    return replace(
        scene,
        images=torch.full((1, 3, 640, 640), 128, dtype=scene.images.dtype)
        if not scene.images.is_floating_point()
        else torch.full((1, 3, 640, 640), 0.5),
        surface=surface,
        face=one,
        labels=scene.labels[one],
        gain=torch.ones(signs, 3),
        bias=torch.zeros(signs, 3),
        photograph=one,
        extent_px=torch.tensor([[640, 640]]),
        backgrounds=None,
        native_px=torch.ones(1),
    )


def _step(target: Target, scenes: Scenes, threat: str, settings: Settings) -> Callable[[], object]:
    made = load_threat(threat, scenes, seed=0)
    problem = make_problem(target, scenes, made, world=load_world("drive-by"), settings=settings, seed=0)
    return _stepper(problem)


def _stepper(problem: Problem) -> Callable[[], object]:
    theta, done = problem.init(restart=0), 0
    state, resting = problem.optimiser.init(theta), torch.zeros(len(theta), dtype=torch.bool)

    def step() -> object:
        nonlocal theta, state, done
        with frozen(problem.target.module):
            landscape = problem.landscape(done, resting)
            theta, state, _ = problem.optimiser.step(theta, landscape, state)
        done += 1
        return theta

    return step


def _drawn(told: Mapping[str, Mapping[str, Any]]) -> bytes:
    figure, axes = plt.subplots(1, 4, figsize=(13, 3), layout="constrained")
    for ax, (name, curve) in zip(axes, told.items(), strict=True):
        at = np.array(curve["at"])
        ax.plot(at, curve["slope_ms"] * at + curve["offset_ms"], color="0.7")
        ax.plot(at, curve["ms"], "o", color="C0")
        ax.set(xlabel=name, ylim=(0, None), title=f"{curve['slope_ms']:.3g} ms each, R² {curve['r2']:.3f}")
    axes[0].set_ylabel("CPU ms of a step, one thread")
    picture = io.BytesIO()
    figure.savefig(picture, dpi=70)
    return picture.getvalue()


if __name__ == "__main__":
    main()
