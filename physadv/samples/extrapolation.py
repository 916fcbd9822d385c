"""A power law through measured errors, as a sampled posterior: what it says beyond its last point, and how surely.

Power laws of learning curves: J. Hestness et al., "Deep learning scaling is predictable, empirically", 2017.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

Numbers = Float[np.ndarray, " k"]
PRIOR_DRAWS, KEPT = 4096, 64  # of each replicate
REPLICATES = 64
EXPONENTS = (0.05, 2.0)
NEAR = 0.8  # runs of this share of the largest size count as runs of it: subsets of whole signs differ in size
DELAYED = 0.5  # prior probability that the power law has not yet set in at the smallest size (n₀ > 0)
FARTHEST = 16.0  # an answer so many times beyond the largest measured size is a guess


@dataclass(frozen=True)
class Curves:
    """k draws of err(n) = a + e·((n + n₀)/(N + n₀))^−c, N the largest measured size, with the spread τ of one run."""

    largest: float
    a: Numbers
    e: Numbers
    c: Numbers
    n0: Numbers
    tau: Numbers

    def error(self, n: float) -> Numbers:
        """The mean error of trainings on n signs."""
        return np.clip(self.a + self.e * ((n + self.n0) / (self.largest + self.n0)) ** -self.c, 0, 1)

    def run(self, n: float, *, seed: int) -> Numbers:
        """The error of one more training on n signs."""
        noise = np.random.default_rng(seed).standard_normal(len(self.tau))
        return np.clip(self.error(n) + self.tau * noise, 0, 1)

    def needed(self, error: float) -> Numbers:
        """The n at which the mean error falls to `error`; infinite where the asymptote is not below it."""
        gap = np.clip((error - self.a) / np.maximum(self.e, 1e-12), 0, None)
        with np.errstate(divide="ignore", over="ignore"):
            return np.maximum((self.largest + self.n0) * gap ** (-1 / self.c) - self.n0, 1)


def posterior(n: Numbers, error: Numbers, *, largest: float, draws: int, seed: int) -> Curves:
    """Curves drawn by importance sampling, given the error of each run at its size.

    Prior: a uniform from 0 to the mean error of the runs near the largest size; c uniform on EXPONENTS; n₀ = 0 or, with
    probability DELAYED, log-uniform within a factor 8 of the measured sizes; e ≥ 0 flat; τ with density 1/τ. Given
    (a, c, n₀) the law is linear in e with Gaussian noise, so that e and τ are integrated out and drawn exactly.
    """
    random = np.random.default_rng(seed)
    a = random.uniform(0, error[n >= min(NEAR * largest, n.max())].mean(), PRIOR_DRAWS)
    c = random.uniform(*EXPONENTS, PRIOR_DRAWS)
    n0 = np.exp(random.uniform(np.log(n.min() / 8), np.log(8 * largest), PRIOR_DRAWS))
    n0 *= random.uniform(size=PRIOR_DRAWS) < DELAYED
    x = ((n + n0[:, None]) / (largest + n0[:, None])) ** -c[:, None]
    above, freedom = error - a[:, None], len(n) - 1
    xx = (x * x).sum(1)
    fitted = (x * above).sum(1) / xx
    misfit = ((above - fitted[:, None] * x) ** 2).sum(1) + 1e-9
    weight = np.where(fitted > 0, -0.5 * np.log(xx) - freedom / 2 * np.log(misfit), -np.inf)
    weight = np.exp(weight - weight.max())
    row = random.choice(PRIOR_DRAWS, size=draws, p=weight / weight.sum())
    tau = np.sqrt(misfit[row] / random.chisquare(freedom, draws))
    e = np.maximum(fitted[row] + tau / np.sqrt(xx[row]) * random.standard_normal(draws), 0)
    return Curves(largest, a[row], e, c[row], n0[row], tau)


def replicated(draw: Callable[[np.random.Generator], tuple[Numbers, Numbers]], *, largest: float, seed: int) -> Curves:
    """The posteriors of many bootstrap replicates of (sizes, errors), put together."""
    random = np.random.default_rng(seed)
    parts = []
    for _ in range(REPLICATES):
        n, error = draw(random)
        parts.append(posterior(n, error, largest=largest, draws=KEPT, seed=int(random.integers(2**31))))
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("a", "e", "c", "n0", "tau")}
    return Curves(largest, **joined)


def interval(values: Numbers) -> dict[str, Any]:
    """Median and 90 % interval; None stands for infinity."""
    quantiles = np.quantile(values, (0.05, 0.5, 0.95), method="nearest")
    low, median, high = (float(q) if np.isfinite(q) else None for q in quantiles)
    return {"median": median, "ci90": [low, high]}


def answer(curves: Curves, *, goal_accuracy: float, have: int) -> dict[str, Any]:
    """How many signs in all reach the goal; `verdict`: reached, estimate, uncertain, or not reachable.

    Not reachable: 95 % of the curves end below the goal. Uncertain: more than 5 % do, and there is no upper bound.
    """
    needed = curves.needed(1 - goal_accuracy)
    reach = float(np.isfinite(needed).mean())
    signs = interval(needed)
    high = signs["ci90"][1]
    verdict = "estimate" if high is not None else "uncertain" if reach > 0.05 else "not reachable"
    if high is not None and high <= have:
        verdict = "reached"
    return {
        "goal_accuracy": goal_accuracy,
        "verdict": verdict,
        "reachable": reach,
        "signs": signs,
        "far": signs["median"] is not None and signs["median"] > FARTHEST * curves.largest,
        "ceiling": interval(1 - curves.a),
    }


def unlabelled(labelled: float, *, label_noise: float, classes: int) -> float:
    """Photographs, labelled by a model that errs at the rate p, that do the work of `labelled` ones: m/(1 − pK/(K−1))².

    An assumption, not a measurement: in the Gaussian model wrong labels shrink the mean by 1 − pK/(K−1) and leave the
    noise as it is (Carmon et al. 2019 prove the rate there). On CIFAR-10 pseudo-labels kept 95 % of the gain that true
    labels give (Uesato et al. 2019). Infinite where the labels are no better than chance.
    """
    kept = 1 - label_noise * classes / (classes - 1)
    return labelled / kept**2 if kept > 0 else float("inf")
