"""The least visible artwork: min over θ of D(x, x') + c·f(x'), f ≤ 0 exactly where the goal is reached.

Carlini & Wagner 2017 (f6, binary search over c); with D in photographs, the EOT-Lagrangian of Athalye et al. 2018.
What is minimised is f + D/c, the same argmin in logits.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from physadv.attacks import Attacked, Step
from physadv.errors import UserError
from physadv.objectives.distance import Distance, lab_change, make_distance
from physadv.optimisers.base import Landscape
from physadv.problem import Problem, make_problem
from physadv.scenes.base import Scenes, floats
from physadv.settings import Settings
from physadv.targets.base import Classifier, frozen
from physadv.threats.base import Artwork, Theta, Threat
from physadv.threats.patch import RoamingPatch
from physadv.transforms.colour import to_srgb
from physadv.transforms.stages import derive
from physadv.transforms.warp import level_for, pixel_grid, sample_pyramid
from physadv.transforms.world import Shots, World

PerArtwork = Float[Tensor, " a"]

_NOISE = 1e-3  # of the start, in colour
_STEP_PICTURE, _STEP_PRINT = 0.005, 0.02


@dataclass(frozen=True)
class Closest(Attacked):
    """For each artwork the shortest distance among the iterates that reached the goal, and the c that gave it.

    distance: infinite where none did; the artwork is then the iterate with the most held-out success.
    """

    distance: PerArtwork
    reached: Bool[Tensor, " a"]
    c: PerArtwork
    unit: str
    needed: float

    def to_json(self) -> dict[str, Any]:
        """`closest` of docs/closest.md: one entry per artwork, and the median, where an unreached goal is infinity."""
        median = float(self.distance.quantile(0.5, interpolation="higher"))
        found = self.reached.tolist()
        return {
            "distance": [length if is_ else None for length, is_ in zip(self.distance.tolist(), found, strict=True)],
            "median": median if median < float("inf") else None,
            "unit": self.unit,
            "needed": self.needed,
            "reached": found,
            "c": self.c.tolist(),
        }


@dataclass(frozen=True)
class _Ruler:
    """D, measured from the bare sign."""

    problem: Problem
    distance: Distance
    bare: Theta
    rounded: bool

    def landscape(self, done: int, c: PerArtwork, best: PerArtwork) -> Landscape:
        """f + D/c in the views of step `done`."""
        nobody = torch.zeros(len(c), dtype=torch.bool)

        def seen(photographs: Theta, shots: Shots, rows: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
            own = (rows if self.problem.separate else torch.zeros_like(rows)).to(c.device)
            change = lab_change(photographs, shots.photograph(None))
            return self.distance.penalty(change, best[own]) / c[own]

        def project(theta: Theta) -> Theta:
            return self.problem.threat.project(self.bare + self.distance.confine(theta - self.bare, best))

        if self.distance.photographed:
            return self.problem.landscape(done, nobody, extra=seen)
        surrogate = self.problem.landscape(done, nobody)

        def loss(theta: Theta) -> PerArtwork:
            change = self._change(self.problem.threat.artwork(theta))
            return surrogate.loss(theta) + self.distance.penalty(change, best) / c

        return replace(surrogate, loss=loss, project=project)

    def length(self, theta: Theta) -> PerArtwork:
        """D itself; in photographs, its mean over the held-out views."""
        artwork, held_out = self.worn(theta), self.problem.held_out
        if not self.distance.photographed:
            return self.distance.length(self._change(artwork))
        assert held_out is not None
        pairs = zip(held_out.photographs(artwork), held_out.photographs(None), strict=True)
        lengths = torch.cat([self.distance.length(lab_change(*pair)) for pair in pairs])
        return lengths.unflatten(0, (held_out.views, -1)).mean(0) if self.problem.separate else lengths.mean()[None]

    def worn(self, theta: Theta) -> Artwork:
        artwork = self.problem.threat.artwork(theta.detach())
        return artwork.quantised() if self.rounded else artwork

    def _change(self, artwork: Artwork) -> Theta:
        """Of the colours on the sign: a pixel that is half covered changes half as much."""
        return artwork.alpha * (artwork.rgb - self.bare)


@dataclass
class _Search:
    """Everything that changes. lower, upper: the largest c that failed and the smallest that did it."""

    c: PerArtwork
    lower: PerArtwork
    upper: PerArtwork
    best: Theta
    success: PerArtwork
    distance: PerArtwork
    best_c: PerArtwork
    hit: Bool[Tensor, " a"]
    photographs: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def begin(cls, theta: Theta, first_c: float) -> "_Search":
        def full(value: float) -> PerArtwork:
            return torch.full((len(theta),), value, device=theta.device)

        never = torch.zeros(len(theta), dtype=torch.bool, device=theta.device)
        ends, c = (full(0.0), full(torch.inf)), full(first_c)
        return cls(c, *ends, theta.clone(), full(-1.0), full(torch.inf), c.clone(), never)

    def next_c(self) -> None:
        """Tenfold until the goal is reached, a tenth while it is; between the two, bisection in log c."""
        self.upper = torch.where(self.hit, self.c, self.upper)
        self.lower = torch.where(self.hit, self.lower, self.c)
        between = (self.lower * self.upper).sqrt()
        outside = torch.where(self.hit, self.c / 10, self.c * 10)
        self.c = torch.where((self.lower > 0) & self.upper.isfinite(), between, outside)
        self.hit = torch.zeros_like(self.hit)


def closest(
    target: Classifier,
    scenes: Scenes,
    threat: Threat,
    *,
    world: World,
    settings: Settings,
    distance: str,
    rounds: int,
    success: float,
    seed: int,
    rounded: bool = True,
    report: Callable[[Step], None] = lambda step: None,
) -> Closest:
    """The artwork nearest to the bare sign that wins the share `success` of its held-out views; `steps` in each round.

    The bare sign is the photograph itself for a norm ball, else what the sign's face shows under the artwork. The
    threat's own set still holds: give it room (linf:1, l2:100) to search without a bound. With an artwork per scene,
    `batch` of them are searched for at a time, each with a c of its own. In a world without chance every step is
    checked, elsewhere every `check_every`-th.

    distance: "l2", "linf": of the artwork; "seen": the expectation of the difference of photographs.
    rounded: to 8 bits before it is judged, as a PNG will hold it. False: numbers, as in the literature.
    UserError: what `make_problem` refuses; an objective that is no margin; several restarts; no single bare sign.
    """
    how: dict[str, Any] = {"world": world, "settings": settings, "distance": distance, "rounds": rounds}
    check_closest(target, scenes, threat, **how, success=success, seed=seed)
    each = settings.per_scene or threat.per_image
    parts = torch.arange(len(scenes)).split(settings.batch if each else len(scenes))
    clock, found = _Clock(len(parts) * rounds * settings.steps, settings.steps, report), []
    for rows in parts:
        own = seed if len(parts) == 1 else derive(seed, "scenes", int(rows[0]))
        problem = _problem(target, scenes.take(rows), threat.take(rows), world=world, settings=settings, seed=own)
        with frozen(target.module):
            found.append(_search(_ruler(problem, distance, rounded), rounds, success, clock))
    artwork = threat.artwork(torch.cat([part.best for part in found]))
    lengths = torch.cat([part.distance for part in found])
    return Closest(
        artwork=artwork.quantised() if rounded else artwork,
        history=tuple(entry for part in found for entry in part.history),
        seconds=time.monotonic() - clock.start,
        photographs=sum(part.photographs for part in found),
        score=-lengths,
        resting=lengths.isfinite(),
        distance=lengths,
        reached=lengths.isfinite(),
        c=torch.cat([part.best_c for part in found]),
        unit=make_distance(distance).unit,
        needed=success,
    )


def check_closest(
    target: Classifier,
    scenes: Scenes,
    threat: Threat,
    *,
    world: World,
    settings: Settings,
    distance: str,
    rounds: int,
    success: float,
    seed: int,
) -> None:
    """The UserError that `closest` would raise for these, before anything is written."""
    if settings.objective != "margin":
        raise UserError(f"{settings.objective} does not say where the goal is reached: use --objective margin.")
    if settings.restarts > 1:
        raise UserError("--closest starts anew in every round: leave --restarts out, and give more --rounds.")
    if rounds < 1:
        raise UserError(f"--rounds is {rounds}; it must be at least 1.")
    if not 0 < success <= 1:
        raise UserError(f"--needed is {success}; it is a share of the views, more than 0 and at most 1.")
    _ruler(_problem(target, scenes, threat, world=world, settings=settings, seed=seed), distance, rounded=True)


def _problem(
    target: Classifier, scenes: Scenes, threat: Threat, *, world: World, settings: Settings, seed: int
) -> Problem:
    if settings.step_size is None:
        settings = replace(settings, step_size=_STEP_PICTURE if threat.per_image else _STEP_PRINT)
    return make_problem(target, scenes, threat, world=world, settings=settings, seed=seed)


def _ruler(problem: Problem, distance: str, rounded: bool) -> _Ruler:
    made = make_distance(distance)
    return _Ruler(problem, made, _bare(problem, one=not made.photographed), rounded)


def _search(ruler: _Ruler, rounds: int, needed: float, clock: "_Clock") -> _Search:
    problem, steps = ruler.problem, ruler.problem.settings.steps
    start = problem.threat.project(ruler.bare)
    search = _Search.begin(start, ruler.distance.first_c)
    _check(ruler, search, start, needed)  # a sign that is misread anyway needs no artwork
    each = not (problem.world.random or problem.target.randomised)
    for turn in range(rounds):
        theta = problem.threat.project(ruler.bare + _noise(problem, turn, ruler.bare))
        state = problem.optimiser.init(theta)
        for step in range(steps):
            landscape = ruler.landscape(turn * steps + step, search.c, search.distance)
            landscape, asked = _counted(landscape)
            theta, state, losses = problem.optimiser.step(theta, landscape, state)
            search.photographs += asked() * problem.photographs(torch.zeros(len(theta), dtype=torch.bool))
            told, last = (step + 1) % problem.settings.check_every == 0, step + 1 == steps
            share = _check(ruler, search, theta, needed) if told or last or each else None
            clock.tick(search, turn, step, losses.mean().item(), share if told or last else None)
        search.next_c()
    return search


@torch.no_grad()
def _check(ruler: _Ruler, search: _Search, theta: Theta, needed: float) -> float:
    """Keep what reaches the goal from nearer; as long as nothing does, what reaches it most often."""
    won, _ = ruler.problem.judge(theta, rounded=ruler.rounded)
    search.photographs += won.numel()
    share = won.float().mean(0)
    reached = share >= needed
    length = ruler.length(theta) if bool(reached.any()) else search.distance
    closer = reached & (length < search.distance)
    better = closer | (search.distance.isinf() & (share > search.success))
    search.best = torch.where(better[:, None, None, None], theta, search.best)
    search.success = torch.where(better, share, search.success)
    search.distance = torch.where(closer, length, search.distance)
    search.best_c = torch.where(closer, search.c, search.best_c)
    search.hit = search.hit | reached
    return share.mean().item()


def _counted(landscape: Landscape) -> tuple[Landscape, Callable[[], int]]:
    """The landscape, and how often its loss was asked for."""
    asked = 0

    def loss(theta: Theta) -> PerArtwork:
        nonlocal asked
        asked += 1
        return landscape.loss(theta)

    return replace(landscape, loss=loss), lambda: asked


def _noise(problem: Problem, turn: int, like: Theta) -> Theta:
    generator = torch.Generator().manual_seed(derive(problem.seed, "closest", turn))
    return _NOISE * (2 * torch.rand(like.shape, generator=generator) - 1).to(like)


def _bare(problem: Problem, *, one: bool) -> Theta:
    """What the signs show where the artwork will be, on its raster: (a, 3, h, w).

    One artwork for several faces starts from their mean. UserError: `one` bare sign is needed, and there are several.
    """
    artwork = problem.threat.artwork(problem.init(restart=0))
    if not artwork.printed:
        return floats(problem.scenes.images)
    pictures = _under(artwork, problem.scenes)
    if problem.separate:
        return pictures.expand_as(artwork.rgb)
    several = bool((pictures != pictures[:1]).any()) or isinstance(problem.threat, RoamingPatch)
    if one and several:
        raise UserError(
            f"{problem.threat.name} lies on different grounds, so there is no one distance from the bare sign: use "
            "--closest seen, or one place and --classes of one face."
        )
    return pictures.mean(0, keepdim=True)


def _under(artwork: Artwork, scenes: Scenes) -> Float[Tensor, "n 3 h w"]:
    """The faces' own pictures at the artwork's place, on its raster; n = 1 where one face and one place serve all."""
    height, width = artwork.rgb.shape[2:]
    alike = len(artwork.place_mm) == 1 and bool((scenes.face == scenes.face[0]).all())
    face = scenes.face[:1] if alike else scenes.face
    place_mm, size_mm = artwork.place_mm.expand(len(face), 4), scenes.faces.size_mm[face]
    unit = pixel_grid(0, 0, height, width, device=face.device) / face.new_tensor([width, height])
    extent_mm = place_mm[:, 2:] - place_mm[:, :2]
    points = (place_mm[:, None, :2] + unit * extent_mm[:, None]) / size_mm[:, None]
    level = level_for(scenes.faces.images.shape[-1] * (extent_mm / size_mm)[:, 0] / width)
    light = sample_pyramid(scenes.faces.light, points, level, height=height, width=width, source=face)
    colours = to_srgb((light[:, :3] / light[:, 3:].clamp(min=1e-3)).clamp(0, 1))
    return colours.mul(255).round().div(255)  # an artwork has 8 bits, and one like the face shall be at distance 0


class _Clock:
    """Counts the steps of all parts, and tells how long the rest will take."""

    def __init__(self, total: int, steps: int, report: Callable[[Step], None]) -> None:
        self.start, self.total, self.steps, self.report, self.done = time.monotonic(), total, steps, report, 0

    def tick(self, search: _Search, turn: int, step: int, loss: float, success: float | None) -> None:
        self.done += 1
        found = search.distance[search.distance.isfinite()]
        entry = {"step": float(self.done), "loss": loss} | ({} if success is None else {"success": success})
        if success is not None and len(found):
            entry |= {"distance": float(found.median())}
        search.history.append(entry)
        left = (time.monotonic() - self.start) / self.done * (self.total - self.done)
        note = f"distance {float(found.median()):.3g} " if len(found) else "not reached "
        note += f"({len(found)} of {len(search.c)})"
        self.report(Step(turn, step + 1, self.steps, loss, success, left, note))
