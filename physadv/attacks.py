"""The equation: θ* = argmin_{θ ∈ S} E_{t ~ T} [ L( f( t(x ⊕ θ) ), y ) ]."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from physadv.errors import UserError
from physadv.files import read_tensors, sha256, write_tensors
from physadv.heldout import HeldOut, truth_of, view_ids
from physadv.objectives import (
    DEFAULT_KAPPA,
    Expectation,
    Objective,
    check_goal,
    make_objective,
    parse_expectation,
    parse_goal,
)
from physadv.objectives.printability import non_printability, printable_palette, total_variation
from physadv.optimisers import Optimiser, make_optimiser
from physadv.scenes.base import Scenes
from physadv.scenes.canvas import spread
from physadv.targets.base import Classifier, frozen
from physadv.threats.base import Artwork, Theta, Threat
from physadv.transforms.stages import derive
from physadv.transforms.world import World

_NUMBERS = ("done", "seconds", "history")
_CHOOSE = 8  # held-out views of each scene at least, where every scene chooses its own θ


@dataclass(frozen=True)
class Settings:
    """How to search. `batch` scenes x `views` photographs of each make one step; defaults: docs/ablation.md."""

    goal: str = "untargeted"
    objective: str = "margin"
    kappa: float = DEFAULT_KAPPA
    expectation: str = "mean"
    optimiser: str = "pgd"
    step_size: float | None = None
    steps: int = 200
    batch: int = 16
    views: int = 2
    restarts: int = 1
    tv: float = 0.0
    nps: float = 0.0
    per_scene: bool = False
    check_every: int = 20
    held_out: int = 128

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "views", "restarts", "check_every", "held_out"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1.")
        for name in ("tv", "nps"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"--{name} is {getattr(self, name)}; a weight is 0 or more.")


@dataclass(frozen=True)
class Step:
    """What is reported after a step; success and the held-out loss at every check."""

    restart: int
    step: int
    steps: int
    loss: float
    success: float | None
    seconds_left: float


@dataclass(frozen=True)
class Attacked:
    """The best artwork on held-out draws, and how the search went."""

    artwork: Artwork
    history: tuple[dict[str, float], ...]
    seconds: float


@dataclass
class _Search:
    """Everything that changes while the attack runs: what a checkpoint holds."""

    theta: Theta
    state: dict[str, Tensor]
    best: Theta
    best_score: Float[Tensor, " a"]
    done: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class _Problem:
    """Everything that does not change."""

    target: Classifier
    scenes: Scenes
    threat: Threat
    world: World
    settings: Settings
    seed: int
    objective: Objective
    expectation: Expectation
    optimiser: Optimiser
    truth: Int[Tensor, " b"]
    separate: bool  # one artwork per scene, each judged on its own views
    held_out: HeldOut

    @cached_property
    def fingerprint(self) -> str:
        """What a checkpoint must agree on to be continued: options, weights, world, signs, and where θ may lie."""
        generator = torch.Generator().manual_seed(derive(self.seed, "fingerprint"))
        within = self.threat.artwork(self.threat.init(self.scenes, generator=generator, per_scene=self.separate))
        scenes, faces = self.scenes, self.scenes.faces
        tensors = [within.rgb, within.alpha, within.place_mm, scenes.images, scenes.surface, scenes.gain, scenes.bias]
        tensors += [self.truth, faces.images, faces.size_mm]
        tensors += [] if scenes.backgrounds is None else [scenes.backgrounds]
        said: list[Any] = [
            asdict(self.settings),
            self.seed,
            self.threat.name,
            self.world.hash,
            self.target.weights_hash,
            asdict(self.target.frame),
            self.target.classes,
        ]
        said += [list(scenes.names), [sha256(tensor.detach().cpu().numpy().tobytes()) for tensor in tensors]]
        return sha256(json.dumps(said).encode())[:16]


def attack(
    target: Classifier,
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
    problem = _problem(target, scenes, threat, world, settings, seed)
    with frozen(target.module):
        search = _resumed(problem, checkpoint) if resume and checkpoint and checkpoint.is_file() else None
        search = search or _fresh(problem, restart=0)
        total = settings.steps * settings.restarts
        first, start, before = search.done, time.monotonic(), search.seconds
        while search.done < total:
            restart, step = divmod(search.done, settings.steps)
            if step == 0 and restart > 0:
                search = replace(_fresh(problem, restart=restart), **_kept(search))
            loss = _step(problem, search, step)
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
    return Attacked(artwork, tuple(search.history), search.seconds)


def attack_each(
    target: Classifier,
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
    return Attacked(threat.artwork(theta).quantised(), history, sum(part.seconds for part in parts))


def check(target: Classifier, scenes: Scenes, threat: Threat, *, world: World, settings: Settings, seed: int) -> None:
    """The UserError that `attack` would raise for these, before anything is written."""
    _fresh(_problem(target, scenes, threat, world, settings, seed), restart=0)


def _problem(
    target: Classifier, scenes: Scenes, threat: Threat, world: World, settings: Settings, seed: int
) -> _Problem:
    if world.reserved:
        raise UserError(
            f"The world {world.name!r} only judges: an attack that optimises in it would spoil the promise; choose "
            "another --world."
        )
    goal = parse_goal(settings.goal, target.classes)
    truth = truth_of(scenes, target.classes)
    check_goal(goal, truth)
    separate = settings.per_scene or threat.per_image
    return _Problem(
        target=target,
        scenes=scenes,
        threat=threat,
        world=world,
        settings=settings,
        seed=seed,
        objective=make_objective(settings.objective, goal, kappa=settings.kappa),
        expectation=parse_expectation(settings.expectation),
        optimiser=make_optimiser(settings.optimiser, settings.step_size),
        truth=truth,
        separate=separate,
        held_out=_held_out(target, scenes, threat, world, settings.held_out, seed, separate=separate),
    )


def _held_out(
    target: Classifier, scenes: Scenes, threat: Threat, world: World, photographs: int, seed: int, *, separate: bool
) -> HeldOut:
    """Fixed views that choose the best θ: of as many scenes as there are photographs, tracks taking turns."""
    seed = derive(seed, "held-out")
    if separate:  # each scene has a θ of its own to choose
        return HeldOut(target, scenes, world, max(_CHOOSE, photographs // len(scenes)), seed, threat, keep=True)
    rows = torch.tensor(spread(scenes.groups, photographs))
    views = max(1, photographs // len(rows))
    return HeldOut(target, scenes.take(rows), world, views, seed, threat.take(rows), keep=True)


def _fresh(problem: _Problem, *, restart: int) -> _Search:
    generator = torch.Generator().manual_seed(derive(problem.seed, "init", restart))
    theta = problem.threat.init(problem.scenes, generator=generator, per_scene=problem.settings.per_scene)
    lowest = torch.full((len(theta),), -torch.inf, device=theta.device)
    return _Search(theta, problem.optimiser.init(theta), theta.clone(), lowest)


def _kept(search: _Search) -> dict[str, Any]:
    """What a restart does not forget: restarts keep the best, not the last."""
    return {name: getattr(search, name) for name in ("best", "best_score", "done", "seconds", "history")}


def _step(problem: _Problem, search: _Search, step: int) -> float:
    """One gradient of the expectation, one move, one projection."""
    settings = problem.settings
    rows = _rows(problem, search.done)
    theta = search.theta.detach().requires_grad_()
    losses = problem.objective.loss(
        problem.target(_photographs(problem, theta, rows, search.done)), problem.truth[rows]
    )
    if problem.separate:
        losses = losses.unflatten(0, (settings.views, -1)).mT
    loss = problem.expectation(losses).sum()
    (gradient,) = torch.autograd.grad(loss + _unprintable(problem, theta), theta)
    moved, search.state = problem.optimiser.update(
        theta.detach(), gradient, search.state, progress=step / settings.steps
    )
    search.theta = problem.threat.project(moved)
    search.done += 1
    return losses.mean().item()


def _rows(problem: _Problem, done: int) -> Int[Tensor, " n"]:
    """The scene of each photograph of a step: scenes take turns in a shuffled order, each `views` times."""
    scenes, batch = len(problem.scenes), problem.settings.batch
    if problem.separate:
        return torch.arange(scenes).repeat(problem.settings.views)
    first = done * batch
    rounds = range(first // scenes, (first + batch - 1) // scenes + 1)
    order = torch.cat([_order(scenes, problem.seed, round_) for round_ in rounds])
    return order[first % scenes :][:batch].repeat(problem.settings.views)


def _order(scenes: int, seed: int, round_: int) -> Int[Tensor, " scenes"]:
    return torch.randperm(scenes, generator=torch.Generator().manual_seed(derive(seed, "order", round_)))


def _photographs(
    problem: _Problem, theta: Float[Tensor, "a 3 h w"], rows: Int[Tensor, " n"], done: int
) -> Float[Tensor, "n 3 y x"]:
    first = done * len(rows)
    ids = view_ids(rows, problem.settings.views) if problem.separate else range(len(rows))
    views = problem.world.draw([first + view for view in ids], seed=derive(problem.seed, "attack"))
    artwork = problem.threat.artwork(theta).at(problem.threat.places(views.place(), problem.scenes, rows))
    if problem.separate:
        artwork = artwork.take(rows).at(artwork.place_mm)
    return problem.world.photograph(artwork, problem.scenes.take(rows), views, frame=problem.target.frame)


def _unprintable(problem: _Problem, theta: Float[Tensor, "a 3 h w"]) -> Tensor:
    """The weighted penalties on the artwork itself."""
    settings, penalty = problem.settings, theta.new_zeros(())
    if not (settings.tv or settings.nps):
        return penalty
    artwork = problem.threat.artwork(theta)
    if settings.tv:
        penalty = penalty + settings.tv * total_variation(artwork.rgb, artwork.alpha).sum()
    if settings.nps:
        penalty = penalty + settings.nps * non_printability(artwork.rgb, artwork.alpha, printable_palette()).sum()
    return penalty


def _check(problem: _Problem, search: _Search) -> float:
    """Judge θ on the held-out draws; keep it where it beats the best: more success, or as much at a lower loss."""
    (logits,) = problem.held_out.answers(problem.threat.artwork(search.theta).quantised())
    won = problem.objective.success(logits, problem.held_out.truth).float()
    score = won - 1e-5 * problem.objective.loss(logits, problem.held_out.truth)
    score = score.unflatten(0, (problem.held_out.views, -1)).mean(0) if problem.separate else score.mean()[None]
    better = score > search.best_score
    search.best = torch.where(better[:, None, None, None], search.theta, search.best)
    search.best_score = torch.where(better, score, search.best_score)
    return won.mean().item()


def _write(problem: _Problem, search: _Search, path: Path) -> None:
    tensors = {"theta": search.theta, "best": search.best, "best_score": search.best_score}
    tensors |= {f"state.{name}": value for name, value in search.state.items()}
    metadata = {"fingerprint": problem.fingerprint} | {name: getattr(search, name) for name in _NUMBERS}
    write_tensors(path, {name: value.contiguous() for name, value in tensors.items()}, metadata)


def _resumed(problem: _Problem, path: Path) -> _Search:
    tensors, metadata = read_tensors(path)
    if metadata.get("fingerprint") != problem.fingerprint:
        raise UserError(f"{path} belongs to another run; repeat that run's options, or start anew with --overwrite.")
    device = problem.scenes.images.device
    tensors = {name: value.to(device) for name, value in tensors.items()}
    state = {name.removeprefix("state."): value for name, value in tensors.items() if name.startswith("state.")}
    numbers = {name: metadata[name] for name in _NUMBERS}
    return _Search(tensors["theta"], state, tensors["best"], tensors["best_score"], **numbers)
