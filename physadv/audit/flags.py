"""Signs that the attack failed and not the target: each with what was seen and what to do.

After Athalye, Carlini & Wagner 2018 (section 3.1), Carlini et al. 2019 ("On evaluating adversarial robustness") and
Croce & Hein 2020.
"""

import math
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from physadv.audit.probes import Slope
from physadv.audit.suite import CONFIDENCES, FEW, NAIVE, SEARCH, UNBOUNDED, Tally, transfer

_ZERO = 0.1  # share of scenes without a gradient
_TRUE = 0.2  # of what a gradient promises must come true, and no more than the inverse of it
_UPHILL = 0.75  # share of scenes in which a step along the gradient must raise the loss
_FALLS = 0.01  # of what an attack gains must come from later steps
_PASS = 0.1  # of confident examples get past a detector
_SIGNIFICANT = 0.05

ADVICE = {
    "gradient": "The gradient that the naive attack follows is missing or does not describe the answer, so "
    "that its failure says nothing. The adaptive attacks here went through the defence's stand-in "
    "(BPDA). If the step is hidden in the model, give it as --defence python:FILE.py:FACTORY with "
    "a `stand_in`; until then only the search without gradients (--queries) counts.",
    "randomised": "The same photograph gets different answers. Attack the expectation over the randomness "
    "(raise --views), judge on many draws, and count a scene as safe only if most draws are "
    "right.",
    "black-box": "A search without gradients breaks scenes that the gradient attack did not, although it knows "
    "less. The gradients are masked: see the advice on gradients, and do not quote the white-box "
    "figure.",
    "iterations": "More steps do not bring the attack any closer. A working attack makes progress with every "
    "step: look for a zero or random gradient, a step size that is too small or too large, or a "
    "loss that is saturated.",
    "unbounded": "Even when every pixel may take any colour the naive attack does not reach the goal "
    "everywhere, which is always possible. That attack is broken, not the target robust: do not "
    "quote its figure.",
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
        _black_box(tally, abstains=probed.abstains),
        _iterations(tally),
        _unbounded(tally, abstains=probed.abstains),
        Flag("softmax", probed.softmax, "answers are probabilities" if probed.softmax else "answers are logits"),
        _confident(probed, tally),
        _naive(tally, defended=probed.defended),
    ]


def _gradient(slope: Slope | None) -> Flag:
    if slope is None:
        return Flag("gradient", None, "the target gives scores only")
    seen = f"no gradient at all in {_percent(slope.zero)} of the scenes"
    if slope.agreement is None or slope.uphill is None:
        return Flag("gradient", True, seen)
    seen += f"; a step along it changes the loss by {_percent(slope.agreement)} of what it promises (median)"
    seen += f" and raises it in {_percent(slope.uphill)} of the scenes"
    true = _TRUE <= slope.agreement <= 1 / _TRUE and slope.uphill >= _UPHILL
    return Flag("gradient", slope.zero >= _ZERO or not true, seen)


def _black_box(tally: Tally, *, abstains: bool) -> Flag:
    """Against the naive attack, except where that does not know the detector; and against every white-box attack."""
    if NAIVE not in tally or SEARCH not in tally:
        return Flag("black-box", None, "there is no white-box attack to compare with")
    search = tally[SEARCH]
    found = search.answers.broken.cpu()
    every = tally.broken_by([one for one in tally.tried if one.trial.name != SEARCH])[search.rows]
    naive = tally.broken_by([tally[NAIVE]])[search.rows]
    others = {"all gradient attacks": every} | ({} if abstains else {"naive pgd": naive})
    paired = {name: _paired(found, other) for name, other in others.items()}
    ahead = [name for name, (wins, losses) in paired.items() if _is_ahead(wins, losses, len(found), 0.05)]
    seen = "; ".join(f"{w} scenes only by random search, {x} only by {name}" for name, (w, x) in paired.items())
    return Flag("black-box", bool(ahead), f"{seen}, of {len(found)}")


def _iterations(tally: Tally) -> Flag:
    if FEW not in tally:
        return Flag("iterations", None, "there is no gradient attack whose steps could be counted")
    few, long = tally[FEW], tally[NAIVE]
    if long.trial.settings.steps < 4 * few.trial.settings.steps:
        return Flag("iterations", None, f"{long.trial.settings.steps} steps are too few to compare")
    at = {int(row): place for place, row in enumerate(long.rows)}
    after = long.answers.margin[[at[int(row)] for row in few.rows]].cpu()
    before, clean = few.answers.margin.cpu(), tally.clean.margin.cpu()[few.rows]
    standing = after >= 0
    if standing.float().mean() < 0.1:
        share = _percent(1 - standing.float().mean().item())
        return Flag("iterations", False, f"the naive attack breaks {share} of the scenes")
    gained = (clean - after)[standing].mean().clamp(min=1e-6)
    fall = ((before - after)[standing].mean() / gained).item()
    steps = f"steps {few.trial.settings.steps + 1} to {long.trial.settings.steps}"
    return Flag("iterations", fall < _FALLS, f"{steps} make {_percent(fall)} of what the attack takes off the margin")


def _unbounded(tally: Tally, *, abstains: bool) -> Flag:
    if abstains:
        return Flag("unbounded", None, "the naive attack does not know the detector")
    if UNBOUNDED not in tally:
        return Flag("unbounded", None, "only norm balls are sure to reach every goal without a budget")
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
    fallen = f"{int(naive.sum())} of {len(naive)} scenes fall, with the whole suite {int(adaptive.sum())}"
    seen = f"with the naive attack {fallen}"
    return Flag("naive", more / len(naive) > 0.1, seen)


def _paired(first: Bool[Tensor, " m"], second: Bool[Tensor, " m"]) -> tuple[int, int]:
    """Scenes that only the first breaks, and only the second."""
    return int((first & ~second).sum()), int((second & ~first).sum())


def _is_ahead(wins: int, losses: int, scenes: int, share: float) -> bool:
    return (wins - losses) / max(scenes, 1) > share and _sign_test(wins, losses) < _SIGNIFICANT


def _sign_test(wins: int, losses: int) -> float:
    """P(at least `wins` of wins + losses fair coins), one-sided."""
    n = wins + losses
    return sum(math.comb(n, k) for k in range(wins, n + 1)) / 2**n


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
