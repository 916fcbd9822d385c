"""The equation: θ* = argmin_{θ ∈ S} E_{t ~ T} [ L( f( t(x ⊕ θ) ), y ) ]."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from physadv.errors import UserError
from physadv.files import read_tensors, write_tensors
from physadv.problem import Problem, make_problem
from physadv.question import Target
from physadv.scenes.base import Scenes
from physadv.settings import Settings
from physadv.targets.base import frozen
from physadv.threats.base import Artwork, Theta, Threat
from physadv.transforms.stages import derive
from physadv.transforms.world import World

_TENSORS = ("theta", "best", "best_score", "resting")
_NUMBERS = ("done", "photographs", "seconds", "history")


@dataclass(frozen=True)
class Step:
    """What is reported after a step; success and the held-out loss at every check. note: what else is to be said."""

    restart: int
    step: int
    steps: int
    loss: float
    success: float | None
    seconds_left: float
    note: str = ""


@dataclass(frozen=True)
class Attacked:
    """The best artwork on held-out draws, how the search went, and how many photographs the target was shown."""

    artwork: Artwork
    history: tuple[dict[str, float], ...]
    seconds: float
    photographs: int


@dataclass
class _Search:
    """Everything that changes while the attack runs: what a checkpoint holds."""

    theta: Theta
    state: dict[str, Tensor]
    best: Theta
    best_score: Float[Tensor, " a"]
    resting: Bool[Tensor, " a"]
    done: int = 0
    photographs: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def attack(
    target: Target,
    scenes: Scenes,
    threat: Threat,
    *,
    world: World,
    settings: Settings,
    seed: int,
    checkpoint: Path | None = None,
    resume: bool = False,
    report: Callable[[Step], None] = lambda step: None,
) -> Attacked:
    """Search θ under the world; the artwork returned did best on fixed held-out draws and holds what its PNG will hold.

    checkpoint: written at every check; with `resume` the search goes on from there and ends at the same bits (CPU).
    Raises UserError for a world that is reserved for judging, and for a checkpoint of another run.
    """
    problem = make_problem(target, scenes, threat, world=world, settings=settings, seed=seed)
    with frozen(target.module):
        search = _resumed(problem, checkpoint) if resume and checkpoint and checkpoint.is_file() else None
        search = search or _fresh(problem, restart=0)
        total = settings.steps * settings.restarts
        first, start, before = search.done, time.monotonic(), search.seconds
        while search.done < total and not bool(search.resting.all()):
            restart, step = divmod(search.done, settings.steps)
            if step == 0 and restart > 0:
                search = replace(_fresh(problem, restart=restart), **_kept(search))
            loss = _step(problem, search)
            spent = time.monotonic() - start
            search.seconds = before + spent
            checked = search.done % settings.check_every == 0 or step + 1 == settings.steps
            success = _check(problem, search) if checked else None
            search.history.append(
                {"step": search.done, "loss": loss} | ({} if success is None else {"success": success})
            )
            if checked and checkpoint:
                _write(problem, search, checkpoint)
            left = spent / (search.done - first) * (total - search.done)
            report(Step(restart, step + 1, settings.steps, loss, success, left))
    artwork = threat.artwork(search.best).quantised()
    return Attacked(artwork, tuple(search.history), search.seconds, search.photographs)


def attack_each(
    target: Target,
    scenes: Scenes,
    threat: Threat,
    *,
    world: World,
    settings: Settings,
    seed: int,
    report: Callable[[Step], None] = lambda step: None,
) -> Attacked:
    """An artwork for each scene: `attack` on `batch` of them at a time, whatever their number."""
    settings = replace(settings, per_scene=True)
    how: dict[str, Any] = {"world": world, "settings": settings, "report": report}
    parts = [
        attack(target, scenes.take(rows), threat.take(rows), seed=derive(seed, "scenes", int(rows[0])), **how)
        for rows in torch.arange(len(scenes)).split(settings.batch)
    ]
    theta = torch.cat([part.artwork.rgb for part in parts])
    history = tuple(entry for part in parts for entry in part.history)
    seconds, photographs = sum(part.seconds for part in parts), sum(part.photographs for part in parts)
    return Attacked(threat.artwork(theta).quantised(), history, seconds, photographs)


def check(target: Target, scenes: Scenes, threat: Threat, *, world: World, settings: Settings, seed: int) -> None:
    """The UserError that `attack` would raise for these, before anything is written."""
    make_problem(target, scenes, threat, world=world, settings=settings, seed=seed).init(restart=0)


def _fresh(problem: Problem, *, restart: int) -> _Search:
    theta = problem.init(restart=restart)
    lowest = torch.full((len(theta),), -torch.inf, device=theta.device)
    resting = torch.zeros(len(theta), dtype=torch.bool, device=theta.device)
    return _Search(theta, problem.optimiser.init(theta), theta.clone(), lowest, resting)


def _kept(search: _Search) -> dict[str, Any]:
    """What a restart does not forget: restarts keep the best, not the last."""
    return {name: getattr(search, name) for name in (*_TENSORS[1:], *_NUMBERS)}


def _step(problem: Problem, search: _Search) -> float:
    """One step of the optimiser in this step's views."""
    landscape = problem.landscape(search.done, search.resting)
    asked = 0

    def loss(theta: Theta) -> Float[Tensor, " a"]:
        nonlocal asked
        asked += 1
        return landscape.loss(theta)

    counted = replace(landscape, loss=loss)
    search.theta, search.state, losses = problem.optimiser.step(search.theta, counted, search.state)
    search.done += 1
    search.photographs += asked * problem.photographs(search.resting)
    return losses[~search.resting].mean().item()


def _check(problem: Problem, search: _Search) -> float:
    """Judge θ on the held-out draws; keep it where it beats the best: more success, or as much at a lower loss."""
    won, losses = problem.judge(search.theta)
    if not won.numel():
        raise UserError("No sign is in view in the held-out photographs: raise --held-out, or choose a milder --world.")
    search.photographs += len(problem.held_out)
    score = (won.float() - 1e-5 * losses).mean(0)
    better = score > search.best_score
    search.best = torch.where(better[:, None, None, None], search.theta, search.best)
    search.best_score = torch.where(better, score, search.best_score)
    if problem.settings.early_stop and problem.separate:
        search.resting = search.resting | won.all(0)
    return won.float().mean().item()


def _write(problem: Problem, search: _Search, path: Path) -> None:
    tensors = {name: getattr(search, name) for name in _TENSORS}
    tensors |= {f"state.{name}": value for name, value in search.state.items()}
    metadata = {"fingerprint": problem.fingerprint} | {name: getattr(search, name) for name in _NUMBERS}
    write_tensors(path, {name: value.contiguous() for name, value in tensors.items()}, metadata)


def _resumed(problem: Problem, path: Path) -> _Search:
    tensors, metadata = read_tensors(path)
    if metadata.get("fingerprint") != problem.fingerprint:
        raise UserError(f"{path} belongs to another run; repeat that run's options, or start anew with --overwrite.")
    device = problem.scenes.images.device
    tensors = {name: value.to(device) for name, value in tensors.items()}
    state = {name.removeprefix("state."): value for name, value in tensors.items() if name.startswith("state.")}
    known = {name: tensors[name] for name in _TENSORS} | {name: metadata[name] for name in _NUMBERS}
    return _Search(state=state, **known)
