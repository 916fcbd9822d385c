"""Schmidt's Gaussian model: x | y ~ N(yθ, σ²I), θ = (±1, …), so |θ|₂ = √d; w = mean of y·x over n labelled samples.

L. Schmidt et al., "Adversarially robust generalization requires more data", 2018.
"""

from dataclasses import dataclass
from math import erfc, exp, inf, isfinite, log, pi, sqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from physadv.errors import UserError
from physadv.transforms.stages import derive

_CHUNK = 1 << 21  # normals at once


@dataclass(frozen=True)
class Simulated:
    """Mean error of independently trained classifiers, and its standard error."""

    error: float
    standard_error: float


@dataclass(frozen=True)
class Gaussian:
    """Two classes at ±θ in d dimensions, noise σ. Distances, and every ε, are in units of the class mean |θᵢ| = 1."""

    d: int
    sigma: float

    def __post_init__(self) -> None:
        if self.d < 2:
            raise UserError(f"--d is {self.d}; the model needs at least 2 dimensions.")
        if not (isfinite(self.sigma) and self.sigma > 0):
            raise UserError(f"--sigma is {self.sigma:g}; the noise must be above 0.")

    def ceiling(self, epsilon: float) -> float:
        """Φ(−√d (1 − ε)/σ): the averaging learner's error for n → ∞.

        Where ε ≤ 1 it is the least of all classifiers (Bhagoji, Cullina and Mittal 2019): no learner falls below it.
        """
        return self.error(inf, epsilon)

    def error(self, n: float, epsilon: float) -> float:
        """The averaging learner's error where an adversary adds at most ε to every coordinate; ε = 0: standard error.

        Given w it is Φ(−(Σwᵢ − ε Σ|wᵢ|) / (σ|w|₂)), and wᵢ ~ N(1, s²) with s = σ/√n. In high dimension the sums are
        Gaussian: the argument has mean T and variance v over training sets, and the mean error is Φ(T/√(1 + v)),

            T = −√d (1 − ε·m(s)) / (σ√(1 + s²)),    m(s) = E|wᵢ| = s√(2/π) e^(−1/2s²) + 1 − 2Φ(−1/s).
        """
        s = self.sigma / sqrt(n)
        a, c = 1 - epsilon * _moments(s)[0], 1 + s * s
        typical = -sqrt(self.d) * a / (self.sigma * sqrt(c))
        return _phi(typical / sqrt(1 + _variance(s, epsilon) / self.sigma**2))

    def needed(self, goal: float, epsilon: float) -> int | None:
        """The least n with error(n) ≤ goal; None: impossible, the ceiling misses the goal whatever n."""
        if not 0 < goal < 0.5:
            raise UserError(f"--goal-error is {goal:g}; an error to aim at lies between 0 and 0.5.")
        if self.ceiling(epsilon) >= goal:
            return None
        low, high = 0, 1
        while self.error(high, epsilon) > goal:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.error(middle, epsilon) <= goal else (middle, high)
        return high

    def error_of(self, weights: Float[Tensor, "t d"], epsilon: float) -> Float[Tensor, " t"]:
        """The exact error of sign⟨w, x⟩ for each of t given w: Φ(−(Σwᵢ − ε Σ|wᵢ|) / (σ|w|₂))."""
        margin = weights.sum(1) - epsilon * weights.abs().sum(1)
        return torch.special.ndtr(-margin / (self.sigma * weights.norm(dim=1)))

    def simulate(self, n: float, epsilon: float, *, trainings: int, seed: int) -> Simulated:
        """Draw w for many training sets from its exact law N(θ, σ²/n · I), average their exact errors.

        The same seed draws the same noise whatever n, so that errors at different n can be compared.
        """
        generator = torch.Generator().manual_seed(derive(seed, "averaging learner"))
        at_once = max(1, _CHUNK // self.d)
        errors = []
        for first in range(0, trainings, at_once):
            rows = min(at_once, trainings - first)
            noise = torch.randn(rows, self.d, generator=generator, dtype=torch.float64)
            errors.append(self.error_of(1 + self.sigma / sqrt(n) * noise, epsilon))
        every = torch.cat(errors)
        return Simulated(every.mean().item(), every.std().item() / sqrt(trainings))

    def draw(self, n: int, *, generator: torch.Generator) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        """n samples and their classes, ±1."""
        y = 2.0 * torch.randint(2, (n,), generator=generator) - 1
        return y[:, None] + self.sigma * torch.randn(n, self.d, generator=generator), y


def lower_bound(d: int, sigma: float, epsilon: float) -> dict[str, Any]:
    """n ≥ c·ε²√d / log d for every learner: the scaling, without its unknown constant c, and whether it applies.

    Schmidt 2018, theorem 6: σ = c₁·d^¼ with an unknown constant c₁, 0 ≤ ε ≤ ¼, robust error near ½.
    """
    return {
        "scaling": epsilon**2 * sqrt(d) / log(d),
        "formula": "n >= c * epsilon^2 * sqrt(d) / log(d), for every learner; c is not given",
        "sigma_over_d_quarter": sigma / d**0.25,
        "epsilon_within_a_quarter": epsilon <= 0.25,
        "conditions": "sigma = c1 * d^(1/4) (c1 is not given), epsilon <= 1/4, robust error near 1/2",
    }


def _phi(x: float) -> float:
    """Φ, exact far in its tails too."""
    return 0.5 * erfc(-x / sqrt(2))


def _moments(s: float) -> tuple[float, float, float]:
    """E|w|, E[w|w|], E|w|³ of w ~ N(1, s²), from the moments over w > 0: Pₖ₊₁ = Pₖ + k·s²·Pₖ₋₁ (Stein)."""
    if s == 0:
        return 1.0, 1.0, 1.0
    p0 = _phi(1 / s)
    p1 = p0 + s * exp(-0.5 / s**2) / sqrt(2 * pi)
    p2 = p1 + s**2 * p0
    p3 = p2 + 2 * s**2 * p1
    return 2 * p1 - 1, 2 * p2 - (1 + s**2), 2 * p3 - (1 + 3 * s**2)


def _variance(s: float, epsilon: float) -> float:
    """σ²v: the variance of a coordinate's part in (Σwᵢ − ε Σ|wᵢ|)/|w|₂, to first order (the delta method)."""
    m, signed, cubed = _moments(s)
    a, c = 1 - epsilon * m, 1 + s * s
    linear = s * s + epsilon**2 * (c - m * m) - 2 * epsilon * (signed - m)
    crossed = 2 * s * s - epsilon * (cubed - m * c)
    return max(0.0, linear / c - a / c**2 * crossed + a * a / (4 * c**3) * (2 * s**4 + 4 * s * s))
