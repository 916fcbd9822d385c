"""Defences that say "I do not know": a score of suspicion, a threshold, and one logit more."""

from copy import deepcopy
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from physadv.defences.base import check_fitted
from physadv.errors import UserError
from physadv.heldout import CHUNK
from physadv.targets.base import Classifier, frozen

Images = Float[Tensor, "n 3 h w"]
Logits = Float[Tensor, "n c"]

FALSE_POSITIVES = 0.05
FEWEST = 40  # images that a quantile of 5 % can be read from
# Of 48 photographs, ℓ∞ 8/255, 50 steps: 15 % withstand, 21 % with a whole asinh (softmax); 17 and 19 (mahalanobis).
WEIGHT = 0.25
FAR = 100.0  # logits that the naive attacker's abstention lies below all others


class Detector(nn.Module):
    """z_abstain = max_j z_j + asinh((score − threshold) / spread) / 4: the largest exactly where the score is too high.

    The N + 1 class construction of Carlini & Wagner, "Adversarial examples are not easily detected" (AISec 2017,
    section 3.2). spread: from the median score of clean images to the threshold. asinh: its gradient never vanishes.
    A quarter of it: less than classes differ by, so that descent crosses to another class first, through whatever is
    suspicious on the way, and silences the alarm there.
    """

    abstains = True
    randomised = False
    threshold: Tensor
    spread: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.register_buffer("threshold", torch.tensor(torch.nan))
        self.register_buffer("spread", torch.tensor(torch.nan))

    @property
    def fitted(self) -> bool:
        return not bool(self.threshold.isnan())

    def scored(self, module: nn.Module, images: Images) -> tuple[Logits, Float[Tensor, " n"]]:
        """The module's logits and the suspicion, differentiable."""
        raise NotImplementedError

    def learn(self, module: nn.Module, images: Images, labels: Int[Tensor, " n"]) -> None:
        """Whatever `scored` needs to know of clean images."""

    def fit(self, target: Classifier, images: Images, labels: Int[Tensor, " n"]) -> Self:
        """A copy that learnt from these images and alarms at 5 % of them. UserError: fewer than 40.

        Of photographs that the target was trained on it is too sure: `calibrate` it on others afterwards.
        """
        fitted = deepcopy(self)
        with frozen(target.module), torch.no_grad():
            fitted.learn(target.module, images, labels)
        return fitted.calibrate(target, images)

    def calibrate(self, target: Classifier, images: Images) -> Self:
        """A copy with the threshold that 5 % of these clean images exceed. UserError: fewer than 40 of them."""
        if len(images) < FEWEST:
            raise UserError(f"{self.name} cannot be fitted on {len(images)} images: give at least {FEWEST} clean ones.")
        fitted = deepcopy(self)
        with frozen(target.module), torch.no_grad():
            scores = torch.cat([self.scored(target.module, chunk)[1] for chunk in images.split(CHUNK)])
        fitted.threshold = scores.quantile(1 - FALSE_POSITIVES)
        fitted.spread = (fitted.threshold - scores.median()).clamp(min=torch.finfo(scores.dtype).tiny)
        return fitted

    def answer(
        self, module: nn.Module, images: Images, *, adaptive: bool, generator: torch.Generator
    ) -> Float[Tensor, "n k"]:
        check_fitted(self)
        if not adaptive:
            logits = module(images)
            return torch.cat([logits, logits.detach().amin(1, keepdim=True) - FAR], 1)
        logits, score = self.scored(module, images)
        verdict = logits.amax(1) + WEIGHT * ((score - self.threshold) / self.spread).asinh()
        return torch.cat([logits, verdict[:, None]], 1)
