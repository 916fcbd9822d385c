"""Everything of an attack that does not change while it runs: the loss of θ in any step's views, and its judge."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from physadv.errors import UserError
from physadv.files import sha256
from physadv.heldout import HeldOut, varies, view_ids
from physadv.objectives import Expectation, Objective, parse_expectation
from physadv.objectives.printability import non_printability, printable_palette, total_variation
from physadv.optimisers import OPTIMISERS, Optimiser, make_optimiser
from physadv.optimisers.base import Landscape
from physadv.question import Target, Truth, check_question, goal_of, labels_of, objective_of, truth_in
from physadv.scenes.base import Scenes
from physadv.scenes.canvas import spread
from physadv.scenes.store import digest
from physadv.settings import Settings
from physadv.targets import Detector
from physadv.targets.base import drawing
from physadv.targets.swift import swift
from physadv.threats.base import Ball, Theta, Threat
from physadv.transforms.stages import derive
from physadv.transforms.world import Shots, Views, World

_CHOOSE = 8  # held-out views of each scene at least, where every scene chooses its own θ

Photographed = Callable[[Float[Tensor, "n 3 h w"], Shots, Int[Tensor, " n"]], Float[Tensor, " n"]]


@dataclass(frozen=True)
class _Part:
    """Photographs of a step that are looked at together, prepared; `number` of how many."""

    number: int
    rows: Int[Tensor, " n"]
    places: Float[Tensor, "n 4"]
    shots: Shots
    truth: Truth


@dataclass(frozen=True)
class Problem:
    """min over θ of the expected loss. separate: one artwork per scene, each judged on its own views.

    parts: in how many pieces a step looks at its photographs; one unless memory was short.
    """

    target: Target
    scenes: Scenes
    threat: Threat
    world: World
    settings: Settings
    seed: int
    objective: Objective
    expectation: Expectation
    optimiser: Optimiser
    separate: bool
    held_out: HeldOut | None
    parts: int = 1
    _kept: list[tuple[Any, list[_Part]]] = field(default_factory=list, init=False, repr=False, compare=False)
    _drawn: dict[tuple[int, ...], Views] = field(default_factory=dict, init=False, repr=False, compare=False)

    def init(self, *, restart: int) -> Theta:
        generator = torch.Generator().manual_seed(derive(self.seed, "init", restart))
        return self.threat.init(self.scenes, generator=generator, per_scene=self.settings.per_scene)

    def landscape(self, done: int, resting: Bool[Tensor, " a"], extra: Photographed | None = None) -> Landscape:
        """The loss in the views of step `done`; artworks that rest have none.

        extra: what every photograph costs beside its loss.
        """
        settings, asked = self.settings, self.asked
        parts = self._parts(0 if settings.common else done, resting)
        rows = torch.cat([part.rows for part in parts])

        def losses_of(theta: Theta, part: _Part) -> Float[Tensor, " cases"]:
            artwork = self.threat.artwork(theta)
            worn = (artwork.take(part.rows) if self.separate else artwork).at(part.places)
            photographs = part.shots.photograph(worn)
            with drawing(self.target.module, derive(self.seed, "defence", done, part.number)):
                answers = asked(photographs)
            losses = self.objective.loss(answers, part.truth)
            return losses if extra is None else losses + extra(photographs, part.shots, part.rows)

        def loss(theta: Theta) -> Float[Tensor, " a"]:
            if len(parts) == 1:
                losses = losses_of(theta, parts[0])
            else:  # one part's activations at a time: they are made again on the way back
                losses = torch.cat([checkpoint(losses_of, theta, part, use_reentrant=False) for part in parts])
            return self._expected(losses, rows, len(theta)) + self._unprintable(theta)

        return Landscape(
            loss=loss,
            project=self.threat.project,
            progress=done % settings.steps / settings.steps,
            common=settings.common and not self.target.randomised and done % settings.steps > 0,
            generator=torch.Generator().manual_seed(derive(self.seed, "step", done)),
        )

    def _parts(self, done: int, resting: Bool[Tensor, " a"]) -> list[_Part]:
        """The views of a step, prepared; kept while the next step has the same ones."""
        rows = self._rows(done, resting)
        ids = self._view_ids(rows, done)
        key = (rows.tolist(), ids if self.varies else None)
        if not self._kept or self._kept[0][0] != key:
            self._kept.clear()  # before the next are made: not both in memory
            prepared = [
                self._prepared(number, rows[piece], tuple(ids[row] for row in piece.tolist()))
                for number, piece in enumerate(self._pieces(rows))
            ]
            self._drawn.clear()
            self._kept.append((key, prepared))
        return self._kept[0][1]

    def draw_ahead(self, done: int, resting: Bool[Tensor, " a"]) -> None:
        """The draws of step `done`, made by the processor while a GPU is still busy with the step before."""
        if self.settings.common:
            return
        rows = self._rows(done, resting)
        ids = self._view_ids(rows, done)
        for piece in self._pieces(rows):
            own = tuple(ids[row] for row in piece.tolist())
            self._drawn[own] = self._draw(own)

    def _pieces(self, rows: Int[Tensor, " n"]) -> tuple[Int[Tensor, " m"], ...]:
        return torch.arange(len(rows)).tensor_split(min(self.parts, len(rows)))

    def _draw(self, ids: tuple[int, ...]) -> Views:
        return self.world.draw(ids, seed=derive(self.seed, "attack"), paired=self.settings.antithetic)

    def _prepared(self, number: int, rows: Int[Tensor, " n"], ids: tuple[int, ...]) -> _Part:
        views = self._drawn[ids] if ids in self._drawn else self._draw(ids)
        places = self.threat.places(views.place(), self.scenes, rows)
        scenes = self.scenes.take(rows)
        shots = self.world.prepare(scenes, views, frame=self.target.frame)
        return _Part(number, rows, places, shots, truth_in(self.target, scenes, views, world=self.world))

    @cached_property
    def asked(self) -> Target:
        """What the search asks in place of the target; whatever it finds, the target itself judges."""
        return swift(self.target, precision=self.settings.precision, compiled=self.settings.compiled)

    def halved(self) -> "Problem | None":
        """The same problem with half as many photographs in memory at once; None where it is one already."""
        self._kept.clear()
        least = len(self._rows(0, torch.zeros(len(self.scenes), dtype=torch.bool)))
        return replace(self, parts=2 * self.parts) if self.parts < least else None

    @cached_property
    def varies(self) -> bool:
        return varies(self.target, self.scenes, self.world, self.threat)

    def photographs(self, resting: Bool[Tensor, " a"]) -> int:
        """How many the target is shown for one loss."""
        return (int((~resting).sum()) if self.separate else self.settings.batch) * self.settings.views

    def _expected(self, losses: Float[Tensor, " cases"], rows: Int[Tensor, " n"], artworks: int) -> Float[Tensor, " a"]:
        if not self.separate:  # a step that sees no sign pulls nowhere
            return self.expectation(losses[None]) if len(losses) else losses.new_zeros(1)
        of_scene = self.expectation(losses.unflatten(0, (self.settings.views, -1)).mT)
        which = rows[: len(of_scene)].to(losses.device)
        return losses.new_zeros(artworks).index_put((which,), of_scene)

    def _rows(self, done: int, resting: Bool[Tensor, " a"]) -> Int[Tensor, " n"]:
        """The scene of each photograph of a step: scenes take turns in a shuffled order, each `views` times."""
        scenes, batch, views = len(self.scenes), self.settings.batch, self.settings.views
        if self.separate:
            return (~resting.cpu()).nonzero()[:, 0].repeat(views)
        first = done * batch
        rounds = range(first // scenes, (first + batch - 1) // scenes + 1)
        order = torch.cat([_order(scenes, self.seed, round_) for round_ in rounds])
        return order[first % scenes :][:batch].repeat(views)

    def _view_ids(self, rows: Int[Tensor, " n"], done: int) -> list[int]:
        """Numbers of the views of a step. Those of one scene are neighbours where they come in pairs."""
        views = self.settings.views
        if self.separate:
            first = done * len(self.scenes) * views
            return (first + rows * views + torch.arange(len(rows)) // (len(rows) // views)).tolist()
        ids = view_ids(torch.arange(self.settings.batch).repeat(views), views)
        return [done * len(rows) + view for view in (ids if self.settings.antithetic else range(len(rows)))]

    def _unprintable(self, theta: Theta) -> Float[Tensor, " a"]:
        """The weighted penalties on the artwork itself."""
        settings, penalty = self.settings, theta.new_zeros(len(theta))
        if not (settings.tv or settings.nps):
            return penalty
        artwork = self.threat.artwork(theta)
        if settings.tv:
            penalty = penalty + settings.tv * total_variation(artwork.rgb, artwork.alpha)
        if settings.nps:
            penalty = penalty + settings.nps * non_printability(artwork.rgb, artwork.alpha, printable_palette())
        return penalty

    def judge(self, theta: Theta, *, rounded: bool = True) -> tuple[Bool[Tensor, "views b"], Float[Tensor, "views b"]]:
        """Which held-out views are won, and the loss in each; one column where an artwork serves all scenes.

        rounded: to 8 bits, as a PNG will hold it.
        """
        assert self.held_out is not None
        artwork = self.threat.artwork(theta)
        (answers,) = self.held_out.answers(artwork.quantised() if rounded else artwork)
        won = self.objective.success(answers, self.held_out.truth)
        losses = self.objective.loss(answers, self.held_out.truth)
        if self.separate:
            return won.unflatten(0, (self.held_out.views, -1)), losses.unflatten(0, (self.held_out.views, -1))
        return won[:, None], losses[:, None]

    @cached_property
    def fingerprint(self) -> str:
        """What a checkpoint must agree on to be continued: options, weights, world, signs, and where θ may lie."""
        generator = torch.Generator().manual_seed(derive(self.seed, "fingerprint"))
        within = self.threat.artwork(self.threat.init(self.scenes, generator=generator, per_scene=self.separate))
        scenes, faces = self.scenes, self.scenes.faces
        tensors = [within.rgb, within.alpha, within.place_mm, scenes.images, scenes.surface, scenes.gain, scenes.bias]
        tensors += [labels_of(self.target, scenes), faces.images, faces.size_mm]
        rest = (scenes.backgrounds, scenes.photograph, scenes.extent_px, scenes.worn)
        tensors += [tensor for tensor in rest if tensor is not None]
        said: list[Any] = [
            asdict(self.settings),
            self.seed,
            self.threat.name,
            self.world.hash,
            self.target.weights_hash,
            asdict(self.target.frame),
            self.target.classes,
        ]
        if isinstance(self.target, Detector):
            said += [self.target.threshold, self.target.nms_iou]
        said += [list(scenes.names), [digest(tensor) for tensor in tensors]]
        return sha256(json.dumps(said).encode())[:16]


def make_problem(
    target: Target,
    scenes: Scenes,
    threat: Threat,
    *,
    world: World,
    settings: Settings,
    seed: int,
    objective: Objective | None = None,
) -> Problem:
    """Photographs without a sign that carries the artwork take no part. objective: instead of the one in the settings.

    UserError: a world that only judges, a goal that is there already, a search that needs gradients of scores.
    """
    if world.reserved:
        raise UserError(
            f"The world {world.name!r} only judges: an attack that optimises in it would spoil the promise; choose "
            "another --world."
        )
    goal = goal_of(target, settings.goal)
    check_question(target, scenes, goal)
    if not bool(scenes.wearing.all()):
        rows = scenes.wearing.nonzero()[:, 0].cpu()
        scenes, threat = scenes.take(rows), threat.take(rows)
    optimiser = _optimiser(settings, threat.ball)
    if optimiser.gradients and not target.differentiable:
        raise UserError(f"{target.name} gives scores and no gradients: use --optimiser random-search, spsa or nes.")
    separate = settings.per_scene or threat.per_image
    if separate and target.frame.whole:
        raise UserError(
            "A detector is attacked by one printed artwork for all photographs: leave linf, l2 and --attack out."
        )
    return Problem(
        target=target,
        scenes=scenes,
        threat=threat,
        world=world,
        settings=settings,
        seed=seed,
        objective=objective or objective_of(target, goal, name=settings.objective, kappa=settings.kappa),
        expectation=parse_expectation(settings.expectation),
        optimiser=optimiser,
        separate=separate,
        held_out=_held_out(target, scenes, threat, world, settings.held_out, seed, separate=separate)
        if settings.held_out
        else None,
    )


def _optimiser(settings: Settings, ball: Ball | None) -> Optimiser:
    """In a norm ball, steps have the closed form of its norm; a default step is a share of its radius."""
    kind, colon, pairs = settings.optimiser.partition(":")
    if ball and ball.norm == "l2" and f"{kind}-l2" in OPTIMISERS:
        kind += "-l2"
    same = ball is not None and kind.endswith("-l2") == (ball.norm == "l2")
    return make_optimiser(kind + colon + pairs, settings.step_size, radius=ball.radius if ball and same else None)


def _held_out(
    target: Target, scenes: Scenes, threat: Threat, world: World, photographs: int, seed: int, *, separate: bool
) -> HeldOut:
    """Fixed views that choose the best θ: of as many scenes as there are photographs, tracks taking turns."""
    seed = derive(seed, "held-out")
    if separate:  # each scene has a θ of its own to choose
        views = max(_CHOOSE, photographs // len(scenes)) if varies(target, scenes, world, threat) else 1
        return HeldOut(target, scenes, world, views, seed, threat, keep=True)
    rows = torch.tensor(spread(scenes.groups, photographs))
    views = max(1, photographs // len(rows))
    return HeldOut(target, scenes.take(rows), world, views, seed, threat.take(rows), keep=not target.frame.whole)


def _order(scenes: int, seed: int, round_: int) -> Int[Tensor, " scenes"]:
    return torch.randperm(scenes, generator=torch.Generator().manual_seed(derive(seed, "order", round_)))
