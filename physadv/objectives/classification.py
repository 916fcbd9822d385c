"""L: what the adversary minimises, and when it has won; and both for classifiers."""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from physadv.errors import UserError
from physadv.objectives.goals import Goal

Logits = Float[Tensor, "n c"]
Truth = Int[Tensor, " n"]

DEFAULT_KAPPA = 5.0


@runtime_checkable
class Objective(Protocol):
    """answers, truth: logits and labels of a classifier; `Answers` and `Seen` of a detector."""

    @property
    def goal(self) -> Goal: ...

    def loss(self, answers: Any, truth: Any) -> Float[Tensor, " cases"]:
        """What the adversary minimises, per case."""
        ...

    def success(self, answers: Any, truth: Any) -> Bool[Tensor, " cases"]:
        """Does the answer reach the goal? Also used on real photographs."""
        ...

    def eligible(self, answers: Any, truth: Any) -> Bool[Tensor, " cases"]:
        """Is the answer right without the artwork? Only such cases can be taken."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """−CE(z, y) untargeted, CE(z, t) targeted. To abstain is to be right: its probability counts as the truth's."""

    goal: Goal

    def loss(self, logits: Logits, truth: Truth) -> Float[Tensor, " n"]:
        """UserError: NaN among the logits."""
        _check(logits)
        if self.goal.target is None:
            return logits.gather(1, _right(truth, self.goal)).logsumexp(1) - logits.logsumexp(1)
        return functional.cross_entropy(logits, torch.full_like(truth, self.goal.target), reduction="none")

    def success(self, logits: Logits, truth: Truth) -> Bool[Tensor, " n"]:
        """UserError: NaN among the logits."""
        return margin(logits, truth, self.goal) < 0

    def eligible(self, logits: Logits, truth: Truth) -> Bool[Tensor, " n"]:
        return logits.argmax(1) == truth


@dataclass(frozen=True)
class Margin:
    """max(margin, −kappa): Carlini & Wagner 2017, f6. A view that is won by kappa logits pulls no more."""

    goal: Goal
    kappa: float = DEFAULT_KAPPA

    def __post_init__(self) -> None:
        if not self.kappa >= 0:
            raise UserError(f"kappa is {self.kappa}, but it is a margin in logits: give 0 or more.")

    def loss(self, logits: Logits, truth: Truth) -> Float[Tensor, " n"]:
        """UserError: NaN among the logits."""
        return margin(logits, truth, self.goal).clamp(min=-self.kappa)

    def success(self, logits: Logits, truth: Truth) -> Bool[Tensor, " n"]:
        """UserError: NaN among the logits."""
        return margin(logits, truth, self.goal) < 0

    def eligible(self, logits: Logits, truth: Truth) -> Bool[Tensor, " n"]:
        return logits.argmax(1) == truth


def margin(logits: Logits, truth: Truth, goal: Goal) -> Float[Tensor, " n"]:
    """z_y − max_{j≠y} z_j untargeted, max_{j≠t} z_j − z_t targeted: negative where the goal is reached (a tie is not).

    With an answer "I do not know", its logit counts as z_y where it is larger.
    UserError: NaN among the logits.
    """
    _check(logits)
    rows = _right(truth, goal) if goal.target is None else torch.full_like(truth, goal.target)[:, None]
    own = logits.gather(1, rows).amax(1)
    others = logits.scatter(1, rows, -torch.inf).amax(1)
    return own - others if goal.target is None else others - own


def _right(truth: Truth, goal: Goal) -> Int[Tensor, "n right"]:
    """The rows of the answers that are as good as the truth."""
    rows = truth[:, None]
    return rows if goal.abstain is None else torch.cat([rows, torch.full_like(rows, goal.abstain)], 1)


def make_objective(name: str, goal: Goal, *, kappa: float = DEFAULT_KAPPA) -> Objective:
    """`margin` or `cross-entropy`. UserError: any other name."""
    made: dict[str, Objective] = {"margin": Margin(goal, kappa), "cross-entropy": CrossEntropy(goal)}
    if name not in made:
        near = get_close_matches(name, list(made), n=1, cutoff=0)[0]
        raise UserError(f"There is no objective {name!r}: did you mean {near!r}?")
    return made[name]


def _check(logits: Logits) -> None:
    if bool(logits.isnan().any()):
        raise UserError("The target answered NaN: check its weights and that it takes sRGB images in [0, 1].")
