"""How often the artwork works: on views nobody optimised on, beside its controls, in worlds nobody optimised in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

from physadv.detection_metrics import summary
from physadv.heldout import HeldOut
from physadv.objectives import Detection, Margin, Objective, parse_goal
from physadv.question import Answer, Target, check_question, goal_of, labels_of, objective_of, view_of_cases
from physadv.scenes.base import Scenes
from physadv.stats import Rate, cluster_rate, wilson
from physadv.targets import Detector
from physadv.targets.base import frozen
from physadv.targets.boxes import UNKNOWN, Seen
from physadv.threats.base import Artwork, Threat
from physadv.transforms.geometry import sign_px
from physadv.transforms.stages import derive
from physadv.transforms.view import Pinhole, Relative
from physadv.transforms.world import DIGITAL, World, load_world, world_names

PROMISE = "promise"
DISTANCES_M = (0.0, 3.0, 6.0, 10.0, 15.0, float("inf"))
SIZES_PX = (0.0, 32.0, 48.0, 72.0, 112.0, float("inf"))
YAWS_DEG = (0.0, 10.0, 20.0, 30.0, 40.0, float("inf"))
PLAIN = {"grey": 0.5, "white": 1.0, "black": 0.0}  # controls of one colour: is it enough to cover the sign?
_RANDOM_STICKERS = 16
_RANDOM_BLOCKS = 8  # blocks along the longer side: coarse enough to survive the distance


@dataclass(frozen=True)
class Verdict:
    """Answers on n views with and without the artwork; every figure is of the objective's cases."""

    held_out: HeldOut
    objective: Objective
    clean: Answer
    attacked: dict[str, Answer]  # by what is on the sign: the artwork, its controls

    @cached_property
    def correct(self) -> Bool[Tensor, " cases"]:
        """Cases that the target answers correctly without the artwork: the only ones an attack can take."""
        return self.objective.eligible(self.clean, self.held_out.truth)

    @cached_property
    def view(self) -> Int[Tensor, " cases"]:
        """The row of each case's view."""
        return view_of_cases(self.objective, self.held_out.truth)

    @property
    def scene(self) -> Int[Tensor, " cases"]:
        """The row of each case's scene."""
        return self.held_out.scene[self.view.cpu()]

    @cached_property
    def counted(self) -> set[int]:
        """A detector's classes of which a box can be false: those of the scenes, and the phantom's."""
        phantom = self.objective.goal.target
        known = {int(row) for row in labels_of(self.held_out.target, self.held_out.scenes)}
        return (known if phantom is None else known | {phantom}) - {UNKNOWN}

    def success(self, what: str) -> Bool[Tensor, " cases"]:
        return self.objective.success(self.attacked[what], self.held_out.truth)


@dataclass(frozen=True)
class Evaluation:
    """`metrics` as in docs/metrics.md, and the answers that the report shows."""

    metrics: dict[str, Any]
    verdict: Verdict


def evaluate(
    target: Target,
    scenes: Scenes,
    artwork: Artwork | None,
    *,
    world: World,
    goal: str,
    views: int,
    seed: int,
    threat: Threat | None = None,
    worlds: Sequence[str] | None = None,
    shared: bool = False,
    report: Callable[[str], None] = lambda what: None,
) -> Evaluation:
    """Judge on `views` fresh views of each scene: the world itself with controls, each named world, the promise.

    threat: on these scenes; it places the artwork where that is drawn anew for every view, or differs between faces.
    worlds: all named ones by default.
    shared: among the processes of `torchrun`, all of which call this and get the same figures.
    UserError: some scenes are of the goal's class.
    """
    objective = objective_of(target, goal_of(target, goal))
    check_question(target, scenes, objective.goal)
    worlds = world_names() if worlds is None else worlds
    seed = derive(seed, "judge")
    with frozen(target.module):
        report(f"{world.name}: clean" + (", artwork, controls" if artwork is not None else ""))
        held_out = HeldOut(target, scenes, world, views, seed, threat, shared=shared)
        verdict = _judge(held_out, objective, artwork, controls=True)
        elsewhere = {}
        for name in [*worlds, PROMISE] if artwork is not None else []:
            report(f"world {name}")
            there = load_world(name)
            same = there.hash == world.hash
            other = replace(_wearing(held_out), world=there)
            elsewhere[name] = verdict if same else _judge(other, objective, artwork, controls=False)
        still = _judge(replace(held_out, world=DIGITAL, views=1), objective, None, controls=False)
    metrics = _metrics(verdict, elsewhere, seed)
    if isinstance(target, Detector):
        metrics |= {"detection": _detection(verdict, still, seed)}
    else:
        metrics |= {"risk": _risk(verdict, still, seed)}
    return Evaluation(metrics | {"world": {"name": world.name, "hash": world.hash}}, verdict)


def alone(verdict: Verdict) -> Verdict:
    """The same answers, whose views the first process can ask again by itself."""
    return replace(verdict, held_out=replace(verdict.held_out, shared=False))


def _wearing(held_out: HeldOut) -> HeldOut:
    """Without the photographs in which nothing carries the artwork."""
    wearing = held_out.scenes.wearing.cpu()
    if bool(wearing.all()):
        return held_out
    rows = wearing.nonzero()[:, 0]
    threat = held_out.threat and held_out.threat.take(rows)
    return replace(held_out, scenes=held_out.scenes.take(rows), threat=threat)


def _judge(held_out: HeldOut, objective: Objective, artwork: Artwork | None, *, controls: bool) -> Verdict:
    worn: dict[str, Artwork] = {} if artwork is None else {"artwork": artwork}
    if artwork is not None and controls:
        worn |= {name: plain(artwork, value) for name, value in PLAIN.items()}
        worn |= {"random": _random(artwork, held_out)}
    clean, *attacked = held_out.answers(None, *worn.values())
    return Verdict(held_out, objective, clean, dict(zip(worn, attacked, strict=True)))


def plain(artwork: Artwork, value: float) -> Artwork:
    """The same shape in one colour: sRGB in [0, 1]."""
    return replace(artwork, rgb=torch.full_like(artwork.rgb, value))


def _random(artwork: Artwork, held_out: HeldOut) -> Artwork:
    """The same shape in random colours: coarse blocks, a different sticker in every view of a scene."""
    height, width = artwork.rgb.shape[-2:]
    blocks = [max(1, round(_RANDOM_BLOCKS * side / max(height, width))) for side in (height, width)]
    generator = torch.Generator().manual_seed(derive(held_out.seed, "random stickers"))
    colours = torch.rand(_RANDOM_STICKERS, 3, *blocks, generator=generator).to(artwork.rgb.device)
    which = torch.arange(len(held_out)) // len(held_out.scenes) % _RANDOM_STICKERS
    worn = artwork if len(artwork) == len(artwork.place_mm) == 1 else artwork.take(held_out.scene)
    return replace(worn, rgb=interpolate(colours, (height, width), mode="nearest")[which])


def _metrics(verdict: Verdict, elsewhere: dict[str, Verdict], seed: int) -> dict[str, Any]:
    everywhere = torch.ones_like(verdict.correct)
    clean_reached = verdict.objective.success(verdict.clean, verdict.held_out.truth)
    metrics: dict[str, Any] = {
        "accuracy": _rate(verdict, verdict.correct, everywhere, seed).to_json(),
        "clean": _rate(verdict, clean_reached, everywhere, seed).to_json(),
    }
    if not verdict.attacked:
        return metrics
    metrics["attacked"] = _asr(verdict, "artwork", seed)
    metrics["controls"] = {what: _asr(verdict, what, seed) for what in (*PLAIN, "random")}
    rates = {name: _asr(other, "artwork", seed) for name, other in elsewhere.items()}
    metrics["promise"] = rates.pop(PROMISE)
    metrics["worlds"] = rates
    known = {name: rate for name, rate in rates.items() if rate["rate"] is not None}
    if known:
        worst = min(known, key=lambda name: known[name]["rate"])
        metrics["worst_world"] = {"world": worst} | known[worst]
    return metrics | {"cells": _cells(verdict, seed)}


def _risk(verdict: Verdict, still: Verdict, seed: int) -> dict[str, Any]:
    """Wrong answers, whatever the goal: as the file has it, in random views, in the worst case of all that was worn."""
    wrong = [_wrong(verdict, logits) for logits in (verdict.clean, *verdict.attacked.values())]
    cases = {"clean": (still, _wrong(still, still.clean)), "views": (verdict, wrong[0])}
    cases["robust"] = (verdict, torch.stack(wrong).any(0))
    return {name: _rate(of, bad, torch.ones_like(bad), seed).to_json() for name, (of, bad) in cases.items()}


def _wrong(verdict: Verdict, logits: Float[Tensor, "n c"]) -> Bool[Tensor, " n"]:
    """Neither the truth nor an abstention."""
    goal = parse_goal("untargeted", verdict.held_out.target.classes)
    return Margin(goal).success(logits, verdict.held_out.truth)


def _detection(verdict: Verdict, still: Verdict, seed: int) -> dict[str, Any]:
    """AP50, precision, recall and false boxes: in the views, and (`file`) of the photographs as they are."""
    target, scenes = verdict.held_out.target, verdict.held_out.scenes
    assert isinstance(target, Detector)
    threshold = target.threshold
    names = {row: target.classes[row] for row in sorted(verdict.counted)}

    def told(of: Verdict) -> dict[str, Any]:
        groups = [scenes.groups[row] for row in of.held_out.scene.tolist()]
        if _independent(scenes):
            groups = [str(row) for row in range(len(groups))]
        how: dict[str, Any] = {"names": names, "threshold": threshold, "groups": groups}
        return summary({"clean": of.clean} | of.attacked, of.held_out.truth, **how, seed=derive(seed, "ap"))

    return told(verdict) | {"file": told(still)}


def _asr(verdict: Verdict, what: str, seed: int) -> dict[str, Any]:
    """Attack success among the cases that are answered correctly without the artwork; beside it, among all."""
    won = verdict.success(what)
    beside = _rate(verdict, won, torch.ones_like(won), seed).to_json()
    return _rate(verdict, won, verdict.correct, seed).to_json() | {"unconditional": beside}


def _rate(verdict: Verdict, won: Bool[Tensor, " cases"], among: Bool[Tensor, " cases"], seed: int) -> Rate:
    """Wilson for staged views, which are independent; a cluster bootstrap over signs for photographs, which are not."""
    scenes = verdict.held_out.scenes
    if _independent(scenes):
        return wilson(int(won[among].sum()), int(among.sum()))
    groups = [scenes.groups[row] for row in verdict.scene[among.cpu()].tolist()]
    return cluster_rate(won[among].cpu(), groups, seed=derive(seed, "bootstrap"))


def _independent(scenes: Scenes) -> bool:
    """Views of one staged sign share nothing but the sign, which all of them are about."""
    return scenes.staged and len(set(scenes.groups)) == 1


def _cells(verdict: Verdict, seed: int) -> list[dict[str, Any]]:
    """Success per distance (staged) or size of the sign in the photograph (px), and per yaw."""
    far, yaw = poses(verdict)
    staged = verdict.held_out.scenes.staged
    edges = DISTANCES_M if staged else SIZES_PX
    row, column = _bin(far, edges), _bin(yaw.abs(), YAWS_DEG)
    won, cells = verdict.success("artwork"), []
    for r in range(len(edges) - 1):
        for c in range(len(YAWS_DEG) - 1):
            among = verdict.correct.cpu() & (row == r) & (column == c)
            if not bool(((row == r) & (column == c)).any()):
                continue
            where = {"distance_m" if staged else "sign_px": _span(edges, r), "yaw_deg": _span(YAWS_DEG, c)}
            cells.append(where | _rate(verdict, won.cpu(), among, seed).to_json())
    return cells


def poses(verdict: Verdict) -> tuple[Float[Tensor, " cases"], Float[Tensor, " cases"]]:
    """Distance in m (staged) or width of the sign in px of its photograph, and yaw in degrees, of every case."""
    held_out, views = verdict.held_out, verdict.held_out.draws()
    at = verdict.view.cpu()
    view: type[Pinhole] | type[Relative] = Pinhole if held_out.scenes.staged else Relative
    order = torch.cat(views.rows).argsort()
    params = [part.of(part.stages.get(view)) for part in views.draws]
    yaw = torch.cat([one["yaw_deg"] for one in params])[order][at]
    if held_out.scenes.staged:
        return torch.cat([one["distance_m"] for one in params])[order][at], yaw
    return _widths_px(verdict), yaw


def _widths_px(verdict: Verdict) -> Float[Tensor, " cases"]:
    """In px of the original photographs."""
    held_out, objective = verdict.held_out, verdict.objective
    if not isinstance(held_out.truth, Seen) or not isinstance(objective, Detection):
        return sign_px(held_out.scenes).cpu()[verdict.scene]
    box = objective.cases(held_out.truth).box
    canvas_px = held_out.scenes.images.shape[-1] / held_out.target.frame.size_px
    return (box[:, 2:] - box[:, :2]).amax(1).cpu() * canvas_px / held_out.scenes.native_px.cpu()[verdict.scene]


def _bin(values: Float[Tensor, " n"], edges: tuple[float, ...]) -> Int[Tensor, " n"]:
    return torch.bucketize(values, torch.tensor(edges[1:-1]), right=True)


def _span(edges: tuple[float, ...], row: int) -> list[float | None]:
    return [edges[row], None if edges[row + 1] == float("inf") else edges[row + 1]]


def accuracy(target: Target, scenes: Scenes, world: World, *, seed: int, views: int | None = None) -> Rate:
    """The share of clean views answered correctly: one view of each photograph, 20 of each staged face."""
    views = views or (20 if scenes.staged else 1)
    objective = objective_of(target, goal_of(target, "untargeted"))
    with frozen(target.module):
        verdict = _judge(
            HeldOut(target, scenes, world, views, derive(seed, "accuracy")), objective, None, controls=False
        )
    return _rate(verdict, verdict.correct, torch.ones_like(verdict.correct), seed)
