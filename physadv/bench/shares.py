"""Where the time of a step goes: its phases one after the other, and what each stage of the world costs."""

from collections.abc import Callable, Mapping
from statistics import median

import torch

from physadv.bench.case import Case
from physadv.bench.clock import Clock, interleaved
from physadv.question import truth_in

PHASES = ("draw", "scene", "artwork", "target", "back", "update")
STAGES = ("print", "mount", "light", "camera")


def phases(case: Case, *, repeats: int, clock: Clock) -> dict[str, float]:
    """Shares of a step: views drawn; scenes lit; the artwork photographed; the target forth and back; back to θ; moved.

    They sum to 1. The same calls as the attack's, cut where one hands over to the next.
    """
    spent: dict[str, list[float]] = {name: [] for name in PHASES}
    for round_ in range(repeats + 1):
        for name, seconds in _phases(case, round_, clock).items():
            if round_:
                spent[name].append(seconds)
    medians = {name: median(times) for name, times in spent.items()}
    return {name: time / sum(medians.values()) for name, time in medians.items()}


def _phases(case: Case, step: int, clock: Clock) -> Mapping[str, float]:
    problem, scenes = case.problem, case.scenes()
    theta = problem.init(restart=0).requires_grad_()
    marks = [clock()]
    views = case.draw(problem.world, step)
    truth = truth_in(problem.target, scenes, views, world=problem.world)
    marks.append(clock())
    shots = problem.world.prepare(scenes, views, frame=problem.target.frame)
    marks.append(clock())
    images = shots.photograph(problem.threat.artwork(theta))
    marks.append(clock())
    shown = images.detach().requires_grad_()
    loss = problem.objective.loss(problem.asked(shown), truth).mean()
    (pull,) = torch.autograd.grad(loss, shown)
    marks.append(clock())
    (gradient,) = torch.autograd.grad(images, theta, pull)
    marks.append(clock())
    moved = theta.detach() - 0.01 * gradient.sign()
    problem.threat.project(moved)
    marks.append(clock())
    return {name: end - start for name, start, end in zip(PHASES, marks[:-1], marks[1:], strict=True)}


def stages(case: Case, *, repeats: int, clock: Clock) -> dict[str, float]:
    """Seconds that each stage of the world adds to a step without the target: with it, less without it."""
    calls = {"all": _photographs(case, ())} | {stage: _photographs(case, (stage,)) for stage in STAGES}
    spent = interleaved(calls, repeats=repeats, clock=clock)
    whole = median(spent["all"])
    return {"all": whole} | {stage: whole - median(spent[stage]) for stage in STAGES}


def _photographs(case: Case, without: tuple[str, ...]) -> Callable[[], object]:
    world, step = case.problem.world.without(*without), 0

    def photograph() -> object:
        nonlocal step
        step += 1
        theta = case.problem.init(restart=0).requires_grad_()
        worn = case.problem.threat.artwork(theta)
        views = case.draw(world, step)
        images = world.photograph(worn, case.scenes(), views, frame=case.problem.target.frame)
        return torch.autograd.grad(images.sum(), theta)

    return photograph
