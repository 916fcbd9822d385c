"""Questions to a target that need no attack: is its gradient true, is it random, does it hide its logits?"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from physadv.audit.case import Case
from physadv.heldout import HeldOut
from physadv.optimisers.base import per_artwork
from physadv.optimisers.descent import Autograd
from physadv.problem import make_problem
from physadv.settings import Settings
from physadv.targets.base import Classifier
from physadv.threats.base import Ball
from physadv.transforms.stages import derive

_STEP = 0.02  # in colour, where the threat has no radius
_REPEATS = 4
_UNCLAMPED = 1e6  # kappa: no view is won so far that it pulls no more
_NOISE = 1e-3  # of the logits' spread: more than arithmetic does


@dataclass(frozen=True)
class Slope:
    """The naive gradient at a random start. zero: the share of scenes without any.

    agreement: what a step along it changes the loss by, of what it promises; the median. 1 where it is true.
    uphill: the share of scenes in which a step along it raises the loss at all.
    """

    zero: float
    agreement: float | None
    uphill: float | None


@torch.no_grad()
def slope(case: Case, rows: Int[Tensor, " m"]) -> Slope:
    """(L(θ + s) − L(θ − s)) / 2⟨g, s⟩ for the steepest s of a quarter of the budget: along sign(g), or g in l2."""
    threat = case.threat.take(rows)
    settings = Settings(goal=case.goal, per_scene=True, views=1, kappa=_UNCLAMPED, held_out=1)
    problem = make_problem(
        case.naive, case.scenes.take(rows), threat, world=case.world, settings=settings, seed=case.seed
    )
    theta = problem.init(restart=0)
    landscape = problem.landscape(0, torch.zeros(len(theta), dtype=torch.bool, device=theta.device))
    with torch.enable_grad():
        gradient, _ = Autograd()(theta, landscape)
    there = gradient.abs().amax((1, 2, 3)) > 0
    if not bool(there.any()):
        return Slope(1.0, None, None)
    step = _steepest(gradient, threat.ball)
    rise = landscape.loss(theta + step) - landscape.loss(theta - step)
    ratio = (rise / (2 * (gradient * step).sum((1, 2, 3))))[there]
    return Slope((~there).float().mean().item(), ratio.median().item(), (ratio > 0).float().mean().item())


def _steepest(gradient: Float[Tensor, "a 3 h w"], ball: Ball | None) -> Float[Tensor, "a 3 h w"]:
    if ball and ball.norm == "l2":
        return ball.radius / 4 * gradient / per_artwork(gradient.flatten(1).norm(dim=1))
    return (ball.radius / 4 if ball else _STEP) * gradient.sign()


@torch.no_grad()
def is_random(case: Case, rows: Int[Tensor, " m"]) -> bool:
    """Whether the same photographs get other logits when they are shown again."""
    images = clean_images(case, rows)
    logits = torch.stack([case.deployed(images) for _ in range(_REPEATS)])
    return bool((logits - logits[0]).abs().max() > _NOISE * logits[0].std())


@torch.no_grad()
def is_softmax(target: Classifier, images: Float[Tensor, "n 3 h w"]) -> bool:
    """Whether the answers are probabilities instead of logits."""
    answers = target(images)
    return bool((answers >= 0).all()) and bool((answers.sum(1) - 1).abs().max() < 1e-3)


def clean_images(case: Case, rows: Int[Tensor, " m"]) -> Float[Tensor, "n 3 h w"]:
    """The photographs as the target sees them, without any artwork."""
    held_out = HeldOut(case.plain, case.scenes.take(rows), case.world, 1, derive(case.seed, "probe"))
    return torch.cat(list(held_out.photographs(None)))


class Logarithm(nn.Module):
    """Logits of a target that answers with probabilities: log p is z up to a constant."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        return self.module(images).clamp(min=torch.finfo(torch.float32).tiny).log()


def with_logits(target: Classifier, images: Float[Tensor, "n 3 h w"]) -> Classifier:
    """The target itself, or the logarithm of what it says where that is a softmax."""
    return replace(target, module=Logarithm(target.module)) if is_softmax(target, images) else target
