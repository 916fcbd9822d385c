"""Questions to a target that need no attack: is its gradient true, is it random, does it hide its logits?"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from physadv.audit.case import Case
from physadv.heldout import HeldOut
from physadv.optimisers.descent import Autograd
from physadv.problem import make_problem
from physadv.settings import Settings
from physadv.targets.base import Classifier
from physadv.transforms.stages import derive

_STEP = 0.02  # in colour, where the threat has no radius
_REPEATS = 4
_UNCLAMPED = 1e6  # kappa: no view is won so far that it pulls no more
_NOISE = 1e-3  # of the logits' spread: more than arithmetic does


@dataclass(frozen=True)
class Slope:
    """The naive gradient at a random start. zero: the share of scenes without any.

    agreement: what a step along it changes the loss by, of what it promises; the median. 1 where it is true.
    """

    zero: float
    agreement: float | None


@torch.no_grad()
def slope(case: Case, rows: Int[Tensor, " m"]) -> Slope:
    """(L(θ + h·s) − L(θ − h·s)) / (2h·|g|₁) with s = sign(g), h a quarter of the budget."""
    threat = case.threat.take(rows)
    settings = Settings(goal=case.goal, per_scene=True, views=1, kappa=_UNCLAMPED, held_out=1)
    problem = make_problem(
        case.naive, case.scenes.take(rows), threat, world=case.world, settings=settings, seed=case.seed
    )
    theta = problem.init(restart=0)
    landscape = problem.landscape(0, torch.zeros(len(theta), dtype=torch.bool))
    with torch.enable_grad():
        gradient, _ = Autograd()(theta, landscape)
    size = gradient.abs().sum((1, 2, 3))
    there = size > 0
    if not bool(there.any()):
        return Slope(1.0, None)
    step = (threat.ball.radius / 4 if threat.ball and threat.ball.norm == "linf" else _STEP) * gradient.sign()
    height = step.abs().amax((1, 2, 3))
    rise = landscape.loss(theta + step) - landscape.loss(theta - step)
    agreement = (rise / (2 * height * size))[there].median().item()
    return Slope((~there).float().mean().item(), agreement)


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
