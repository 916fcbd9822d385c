"""Signs that the attack failed and not the target: each with what was seen and what to do.

After Athalye, Carlini & Wagner 2018 (section 3.1), Carlini et al. 2019 ("On evaluating adversarial robustness") and
Croce & Hein 2020.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from physadv.audit.probes import Slope
from physadv.audit.suite import CONFIDENCES, FEW, NAIVE, SEARCH, UNBOUNDED, Tally, transfer

_ZERO = 0.1  # share of scenes without a gradient
_TRUE = 0.2  # of what a gradient promises must come true
_FALLS = 0.01  # of the clean margin must go when there are more steps
_PASS = 0.1  # of confident examples get past a detector
_SIGNIFICANT = 0.05

ADVICE = {
    "gradient": "The gradient that the attack follows is missing or does not describe the answer, so that a "
    "failed gradient attack says nothing. Attack through a differentiable stand-in for the step "
    "that breaks it (BPDA: `stand_in` of a python: defence, or `--defence` in place of code "
    "hidden in the model), and without gradients (--optimiser random-search).",
    "randomised": "The same photograph gets different answers. Attack the expectation over the randomness "
    "(raise --views), judge on many draws, and count a scene as safe only if most draws are "
    "right.",
    "black-box": "A search without gradients breaks scenes that the gradient attack did not, although it knows "
    "less. The gradients are masked: see the advice on gradients, and do not quote the white-box "
    "figure.",
    "iterations": "More steps do not bring the attack any closer. A working attack makes progress with every "
    "step: look for a zero or random gradient, a step size that is too small or too large, or a "
    "loss that is saturated.",
    "unbounded": "Even when every pixel may take any colour the attack does not reach the goal everywhere, "
    "which is always possible. The attack is broken, not the target robust: mend it before any "
    "figure is quoted.",
    "softmax": "The target answers with probabilities. Their gradient vanishes where the answer is certain, "
    "and float32 rounds it to nothing: give logits. This audit attacked the logarithm of the "
    "probabilities instead.",
    "confident": "Examples that are only more confidently wrong, made without any knowledge of the detector, "
    "pass it. It detects weak attacks and not adversarial inputs: put it inside the loss and "
    "quote that figure.",
    "naive": "The attack that ignores the defence leaves far more scenes standing than the one made for "
    "it. Quote the adaptive figure; the naive one measures the attacker's ignorance.",
}
"""What to do, by the name of a flag."""


@dataclass(frozen=True)
class Flag:
    """One check of the audit. raised: None where it could not be made."""

    name: str
    raised: bool | None
    seen: str

    @property
    def advice(self) -> str:
        return ADVICE[self.name]


@dataclass(frozen=True)
class Probed:
    """What the probes said."""

    slope: Slope | None
    random: bool
    softmax: bool
    abstains: bool
    defended: bool


def flags(probed: Probed, tally: Tally) -> list[Flag]:
    """Every check, raised or not."""
    return [
        _gradient(probed.slope),
        Flag("randomised", probed.random, "repeated calls differ" if probed.random else "repeated calls agree"),
        _black_box(tally),
        _iterations(tally),
        _unbounded(tally),
        Flag("softmax", probed.softmax, "answers are probabilities" if probed.softmax else "answers are logits"),
        _confident(probed, tally),
        _naive(tally, defended=probed.defended),
    ]


def _gradient(slope: Slope | None) -> Flag:
    if slope is None:
        return Flag("gradient", True, "the target gives scores only")
    seen = f"no gradient at all in {_percent(slope.zero)} of the scenes"
    if slope.agreement is not None:
        seen += f"; a step along it changes the loss by {_percent(slope.agreement)} of what it promises (median)"
    return Flag("gradient", slope.zero >= _ZERO or (slope.agreement or 0.0) < _TRUE, seen)


def _black_box(tally: Tally) -> Flag:
    if NAIVE not in tally or SEARCH not in tally:
        return Flag("black-box", None, "there is no white-box attack to compare with")
    search = tally[SEARCH]
    naive = torch.zeros_like(tally.clean.broken.cpu())
    naive[tally[NAIVE].rows] = tally[NAIVE].answers.broken.cpu()
    only_search, only_naive, seen = _paired(
        search.answers.broken.cpu(), naive[search.rows], "random search", "naive pgd"
    )
    ahead = (only_search - only_naive) / max(len(search.rows), 1)
    return Flag("black-box", ahead > 0.05 and _sign_test(only_search, only_naive) < _SIGNIFICANT, seen)


def _iterations(tally: Tally) -> Flag:
    if FEW not in tally:
        return Flag("iterations", None, "there is no gradient attack whose steps could be counted")
    few, long = tally[FEW], tally[NAIVE]
    at = {int(row): place for place, row in enumerate(long.rows)}
    after = long.answers.margin[[at[int(row)] for row in few.rows]].cpu()
    before, clean = few.answers.margin.cpu(), tally.clean.margin.cpu()[few.rows]
    standing = after >= 0
    if standing.float().mean() < 0.1:
        return Flag(
            "iterations", False, f"the naive attack breaks {_percent(1 - standing.float().mean().item())} of the scenes"
        )
    fall = ((before - after)[standing].mean() / clean[standing].abs().mean().clamp(min=1e-6)).item()
    steps = f"{few.trial.settings.steps} to {long.trial.settings.steps} steps"
    return Flag("iterations", fall < _FALLS, f"from {steps} the margin falls by {_percent(fall)} of the clean one")


def _unbounded(tally: Tally) -> Flag:
    if UNBOUNDED not in tally:
        return Flag("unbounded", None, "there is no gradient attack to free from its budget")
    broken = tally[UNBOUNDED].answers.broken.float().mean().item()
    return Flag("unbounded", broken < 1, f"without a budget the naive attack breaks {_percent(broken)} of the scenes")


def _confident(probed: Probed, tally: Tally) -> Flag:
    if not probed.abstains:
        return Flag("confident", None, "there is no detector")
    tried = [tally[transfer(kappa)] for kappa in CONFIDENCES if transfer(kappa) in tally]
    broken = sum(int(one.answers.broken.sum()) for one in tried)
    shown = max([len(one.rows) for one in tried], default=0)
    if not shown:
        return Flag("confident", None, "the naive attack left none to try them on")
    return Flag(
        "confident", broken / shown > _PASS, f"{broken} of {shown} examples of higher confidence pass the detector"
    )


def _naive(tally: Tally, *, defended: bool) -> Flag:
    if NAIVE not in tally or not defended:
        return Flag("naive", None, "there is no defence that an attack could ignore")
    naive, adaptive = tally.broken("naive"), tally.broken("naive", "adaptive")
    more = int((adaptive & ~naive).sum())
    seen = f"the naive attack breaks {int(naive.sum())} of {len(naive)} scenes, the whole suite {int(adaptive.sum())}"
    return Flag("naive", more / len(naive) > 0.1, seen)


def _paired(first: Bool[Tensor, " m"], second: Bool[Tensor, " m"], name: str, other: str) -> tuple[int, int, str]:
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    seen = f"{only_first} scenes only by {name}, {only_second} only by {other}, of {len(first)}"
    return only_first, only_second, seen


def _sign_test(wins: int, losses: int) -> float:
    """P(at least `wins` of wins + losses fair coins), one-sided."""
    n = wins + losses
    return sum(math.comb(n, k) for k in range(wins, n + 1)) / 2**n


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
