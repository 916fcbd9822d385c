"""L for detectors. A case is a sign that carries the artwork, in one view; photographs without one have no case.

With s_c the surest score of class c among the boxes of the sign (IoU ≥ 0.5), in log-odds, τ the operating threshold:

    hide      s_y − τ                the sign is not found as what it is
    relabel   max(s_y, τ) − s_t      it is found as class t, and surer so than as what it is
    create    τ − s_t                class t is found where the artwork is (half of its box or more lies on the sign's)
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from physadv.errors import UserError
from physadv.objectives.classification import DEFAULT_KAPPA
from physadv.objectives.goals import Goal
from physadv.targets.boxes import MATCH_IOU, UNKNOWN, Answers, Seen, inside, iou

_LEAST = 1e-30  # a score below has no log-odds in float32
NEVER = -69.0  # log-odds of a score of 0
_DEAD = -14.0  # boxes below pull no mean further


@dataclass(frozen=True)
class Detection:
    """Hide, relabel or create. mean: pull at the mean of all boxes of the sign, too, not at the surest alone."""

    goal: Goal
    threshold: float
    kappa: float = DEFAULT_KAPPA
    mean: bool = False

    def __post_init__(self) -> None:
        if not self.kappa >= 0:
            raise UserError(f"kappa is {self.kappa}, but it is a margin in log-odds: give 0 or more.")

    def cases(self, seen: Seen) -> Seen:
        """The signs that are asked about."""
        return seen.take(seen.worn & ((seen.label != UNKNOWN) | (self.goal.kind == "create")))

    def loss(self, answers: Answers, seen: Seen) -> Float[Tensor, " cases"]:
        """What the adversary minimises, per case: the margin, down to −kappa."""
        return self._margin(answers, self.cases(seen), mean=self.mean).clamp(min=-self.kappa)

    def success(self, answers: Answers, seen: Seen) -> Bool[Tensor, " cases"]:
        """Does the answer reach the goal? Also used on real photographs."""
        cases = self.cases(seen)
        if self.goal.kind == "hide":
            return ~self._found(answers, cases, cases)
        there = self._found(answers, cases, self._wanted(cases))
        return there & (self._margin(answers, cases, mean=False) < 0) if self.goal.kind == "relabel" else there

    def eligible(self, answers: Answers, seen: Seen) -> Bool[Tensor, " cases"]:
        """Is it right without the artwork: the sign is found as what it is; for create, the class is not there."""
        cases = self.cases(seen)
        if self.goal.kind == "create":
            return ~self.success(answers, seen)
        return self._found(answers, cases, cases)

    @property
    def _tau(self) -> float:
        return float(log_odds(torch.tensor(self.threshold)))

    def _found(self, answers: Answers, cases: Seen, asked: Seen) -> Bool[Tensor, " cases"]:
        """From the operating threshold up."""
        return self._best(answers, cases, asked) >= self._tau

    def _wanted(self, cases: Seen) -> Seen:
        """The same places, asked about the goal's class."""
        assert self.goal.target is not None
        return replace(cases, label=torch.full_like(cases.label, self.goal.target))

    def _margin(self, answers: Answers, cases: Seen, *, mean: bool) -> Float[Tensor, " cases"]:
        if self.goal.kind == "hide":
            return self._best(answers, cases, cases, mean=mean) - self._tau
        wanted = self._best(answers, cases, self._wanted(cases))
        if self.goal.kind == "create":
            return self._tau - wanted
        return self._best(answers, cases, cases, mean=mean).clamp(min=self._tau) - wanted

    def _best(self, answers: Answers, cases: Seen, asked: Seen, *, mean: bool = False) -> Float[Tensor, " cases"]:
        """Log-odds of the surest box of the class asked for at each sign; `mean`: half of it is the mean's of all."""
        boxes = answers.boxes[cases.image].detach()
        place = cases.box[:, None].expand_as(boxes)
        of_sign = inside(boxes, place) if self.goal.kind == "create" else iou(boxes, place)
        score = log_odds(answers.scores_of(cases.image, asked.label))
        score = torch.where(of_sign >= MATCH_IOU, score, NEVER)
        if not score.shape[1]:
            return score.new_full((len(score),), NEVER)
        surest = score.amax(1)
        if not mean:
            return surest
        there = of_sign >= MATCH_IOU
        average = (score.clamp(min=_DEAD) * there).sum(1) / there.sum(1).clamp(min=1)
        return torch.where(there.any(1), (surest + average) / 2, surest)


def log_odds(score: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """log p − log(1 − p), with a gradient down to 1e-30: where nothing is to be seen yet, a phantom has to start."""
    kept = score.clamp(_LEAST, 1 - 2**-24)
    return kept.log() - (-kept).log1p()


def make_detection_objective(name: str, goal: Goal, *, threshold: float, kappa: float = DEFAULT_KAPPA) -> Detection:
    """`margin` (the surest box) or `margin-mean` (and the mean of all boxes of the sign). UserError: any other name."""
    if name not in ("margin", "margin-mean"):
        raise UserError(f"There is no objective {name!r} for detectors: use margin or margin-mean.")
    return Detection(goal, threshold, kappa, mean=name == "margin-mean")
