"""The equation: θ* = argmin_{θ ∈ S} E_{t ~ T} [ L( f( t(x ⊕ θ) ), y ) ]."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from physadv import ranks
from physadv.errors import UserError
from physadv.files import read_tensors, write_tensors
from physadv.heldout import varies
from physadv.location import CANDIDATES, STILL_CANDIDATES, noise, worst
from physadv.objectives import Objective
from physadv.problem import Problem, make_problem
from physadv.question import Target, goal_of, objective_of
from physadv.scenes.base import Scenes
from physadv.settings import Settings
from physadv.shortage import short, too_little
from physadv.targets.base import frozen
from physadv.threats.base import Artwork, Theta, Threat
from physadv.threats.sought import Sought
from physadv.transforms.stages import derive
from physadv.transforms.world import World

PLACE_VIEWS = 4  # of each scene that choose a place, where they differ

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
    score: Float[Tensor, " a"]  # success on the held-out draws, less a little of the loss: which of two is better
    resting: Bool[Tensor, " a"]  # with early_stop: wins all of its held-out views


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
    start: Theta | None = None,
    objective: Objective | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    report: Callable[[Step], None] = lambda step: None,
) -> Attacked:
    """Search θ under the world; the artwork returned did best on fixed held-out draws and holds what its PNG will hold.

    start: where the first search begins, instead of a random point. objective: instead of the one in the settings.
    checkpoint: written at every check; with `resume` the search goes on from there and ends at the same bits (CPU).
    Raises UserError for a world that is reserved for judging, and for a checkpoint of another run.
    """
    how: dict[str, Any] = {"world": world, "settings": settings, "seed": seed, "objective": objective}
    problem = make_problem(target, scenes, threat, **how)
    with frozen(target.module):
        search = _resumed(problem, checkpoint) if resume and checkpoint and checkpoint.is_file() else None
        search = search or _fresh(problem, restart=0, start=start)
        total = settings.steps * settings.restarts
        first, since, before = search.done, time.monotonic(), search.seconds
        while search.done < total and not bool(search.resting.all()):
            restart, step = divmod(search.done, settings.steps)
            if step == 0 and restart > 0:
                search = replace(_fresh(problem, restart=restart), **_kept(search))
            problem, loss, note = _step(problem, search)
            spent = time.monotonic() - since
            search.seconds = before + spent
            due = search.done % settings.check_every == 0 or step + 1 == settings.steps
            checked = due and problem.held_out is not None
            success = _check(problem, search) if checked else None
            search.history.append(
                {"step": search.done, "loss": loss} | ({} if success is None else {"success": success})
            )
            if checked and checkpoint:
                _write(problem, search, checkpoint)
            left = spent / (search.done - first) * (total - search.done)
            report(Step(restart, step + 1, settings.steps, loss, success, left, note))
    best = search.theta if problem.held_out is None else search.best
    artwork = threat.artwork(best).quantised()
    how_it_went = tuple(search.history), search.seconds, search.photographs
    return Attacked(artwork, *how_it_went, search.best_score, search.resting)


def attack_each(
    target: Target,
    scenes: Scenes,
    threat: Threat,
    *,
    world: World,
    settings: Settings,
    seed: int,
    report: Callable[[Step], None] = lambda step: None,
    shared: bool = False,
) -> Attacked:
    """An artwork for each scene: `attack` on `batch` of them at a time, whatever their number.

    Where the place is sought, every restart begins at another of the places that do most harm to a scene.
    shared: among the processes of `torchrun`, all of which call this and get all artworks.
    """
    settings = replace(settings, per_scene=True)
    how: dict[str, Any] = {"world": world, "settings": settings, "report": report}
    parts: list[Attacked] = []
    batches = torch.arange(len(scenes)).split(settings.batch)
    for rows in batches[ranks.rank() :: ranks.size()] if shared else batches:
        some, there, said = scenes.take(rows), threat.take(rows), derive(seed, "scenes", int(rows[0]))
        if isinstance(there, Sought):
            parts.append(_attack_placed(target, some, there, seed=said, **how))
        else:
            parts.append(attack(target, some, there, seed=said, **how))
    return _joined(ranks.gathered(parts) if shared else parts, threat)


def _joined(parts: list[Attacked], threat: Threat) -> Attacked:
    """Artworks of one batch of scenes after the other."""
    theta = torch.cat([part.artwork.rgb for part in parts])
    artwork = threat.artwork(theta).quantised()
    if isinstance(threat, Sought):
        apart = len(parts[0].artwork.alpha) > 1 or len(threat.alpha) > 1
        alpha = torch.cat([part.artwork.alpha for part in parts]) if apart else artwork.alpha
        artwork = replace(artwork, alpha=alpha, place_mm=torch.cat([part.artwork.place_mm for part in parts]))
    history = tuple(entry for part in parts for entry in part.history)
    seconds, photographs = sum(part.seconds for part in parts), sum(part.photographs for part in parts)
    score, resting = (torch.cat([getattr(part, name) for part in parts]) for name in ("score", "resting"))
    return Attacked(artwork, history, seconds, photographs, score, resting)


def _attack_placed(
    target: Target,
    scenes: Scenes,
    threat: Sought,
    *,
    world: World,
    settings: Settings,
    seed: int,
    report: Callable[[Step], None],
) -> Attacked:
    """A search at each of the worst places (shapes), of the scenes that no search before it has won everywhere."""
    objective = objective_of(target, goal_of(target, settings.goal), kappa=settings.kappa)
    views = PLACE_VIEWS if varies(target, scenes, world, threat) else 1
    how: dict[str, Any] = {"world": world, "objective": objective, "views": views}
    with frozen(target.module):
        count = max(STILL_CANDIDATES if threat.still else CANDIDATES, settings.restarts)
        begin = [noise(threat, scenes, seed=derive(seed, "noise"))]
        tried = threat.candidates(count, seed=seed)
        hardest = worst(target, scenes, tried, begin, **how, keep=settings.restarts, seed=seed)
    once = replace(settings, restarts=1, steps=1 if threat.still else settings.steps)
    best: Attacked | None = None
    for restart, there in enumerate(hardest):
        rows = torch.arange(len(scenes)) if best is None else (~best.resting.cpu()).nonzero()[:, 0]
        if not len(rows):
            break
        said = derive(seed, "place", restart)
        found = attack(
            target, scenes.take(rows), there.take(rows), world=world, settings=once, seed=said, report=report
        )
        best = found if best is None else _better(best, found, rows)
    assert best is not None
    return replace(best, photographs=best.photographs + count * views * len(scenes))


def _better(one: Attacked, other: Attacked, rows: Int[Tensor, " m"]) -> Attacked:
    """Of every scene the better search; `other` is of the scenes `rows` alone."""
    mine = (other.score > one.score[rows]).cpu()
    won = rows[mine]
    artwork = replace(one.artwork, rgb=_put(one.artwork.rgb, won, other.artwork.rgb[mine]))
    artwork = replace(artwork, place_mm=_put(artwork.place_mm, won, other.artwork.place_mm[mine]))
    if len(artwork.alpha) == len(artwork):
        artwork = replace(artwork, alpha=_put(artwork.alpha, won, other.artwork.alpha[mine]))
    score, resting = (_put(getattr(one, name), won, getattr(other, name)[mine]) for name in ("score", "resting"))
    seconds, photographs = one.seconds + other.seconds, one.photographs + other.photographs
    return Attacked(artwork, one.history + other.history, seconds, photographs, score, resting)


def _put(values: Tensor, rows: Int[Tensor, " m"], others: Tensor) -> Tensor:
    return values.index_copy(0, rows.to(values.device), others)


def check(target: Target, scenes: Scenes, threat: Threat, *, world: World, settings: Settings, seed: int) -> None:
    """The UserError that `attack` would raise for these, before anything is written."""
    make_problem(target, scenes, threat, world=world, settings=settings, seed=seed).init(restart=0)


def _fresh(problem: Problem, *, restart: int, start: Theta | None = None) -> _Search:
    theta = problem.init(restart=restart) if start is None else problem.threat.project(start)
    lowest = torch.full((len(theta),), -torch.inf, device=theta.device)
    resting = torch.zeros(len(theta), dtype=torch.bool, device=theta.device)
    return _Search(theta, problem.optimiser.init(theta), theta.clone(), lowest, resting)


def _kept(search: _Search) -> dict[str, Any]:
    """What a restart does not forget: restarts keep the best, not the last."""
    return {name: getattr(search, name) for name in (*_TENSORS[1:], *_NUMBERS)}


def _step(problem: Problem, search: _Search) -> tuple[Problem, float, str]:
    """One step of the optimiser in this step's views: at once, or, where memory is short, in as many parts as it takes.

    The problem as it is to go on with, the loss, and what is to be said.
    """
    note = ""
    while True:
        try:
            return problem, _stepped(problem, search), note
        except (MemoryError, RuntimeError) as error:
            if not short(error):
                raise
            fewer = problem.halved()
            if fewer is None:
                raise too_little() from error
        problem, note = fewer, f"memory was short: a step looks at its photographs in {fewer.parts} parts"


def _stepped(problem: Problem, search: _Search) -> float:
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
    if search.done < problem.settings.steps * problem.settings.restarts:
        problem.draw_ahead(search.done, search.resting)
    return losses[~search.resting].mean().item()


def _check(problem: Problem, search: _Search) -> float:
    """Judge θ on the held-out draws; keep it where it beats the best: more success, or as much at a lower loss."""
    won, losses = problem.judge(search.theta)
    if not won.numel():
        raise UserError("No sign is in view in the held-out photographs: raise --held-out, or choose a milder --world.")
    search.photographs += 0 if problem.held_out is None else len(problem.held_out)
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
