"""A distribution that is learnt to 99.87 %, and on which no classifier at all is robust against a vanishing ε.

x | y ~ N(yθ, I) with θᵢ = A/√d. The best classifier, sign⟨θ, x⟩, errs with Φ(−A) whatever d. An adversary who adds
−yθ, that is ε = A/√d to every coordinate, leaves N(0, I) for both classes: x no longer depends on y, and every
classifier errs in half of all cases. Compare D. Tsipras et al., "Robustness may be at odds with accuracy", theorem 2.1.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch

from physadv.samples.gaussian import Gaussian
from physadv.stats import wilson
from physadv.transforms.stages import derive

STRENGTH = 3.0  # A
DIMENSION = 3072  # 32 × 32 × 3
DIMENSIONS = (3072, 12_288, 150_528)  # 32, 64 and 224 px square, three channels
_CHUNK = 2000


@dataclass(frozen=True)
class Vanishing:
    """The distribution with A = `strength` in d dimensions."""

    d: int = DIMENSION
    strength: float = STRENGTH

    @property
    def epsilon(self) -> float:
        """A/√d, in units of the noise: what every coordinate is changed by."""
        return self.strength / sqrt(self.d)

    def error(self, epsilon: float) -> float:
        """Of the best linear classifier, which is the best of all: Φ(−A(1 − ε√d/A)), and a half from ε = A/√d on."""
        scale = self.epsilon
        return min(0.5, Gaussian(self.d, 1 / scale).ceiling(epsilon / scale))

    def simulate(self, samples: int, *, seed: int) -> dict[str, Any]:
        """Draw samples, ask sign⟨θ, x⟩ about each as it is and under attack: two rates with Wilson's intervals."""
        model = Gaussian(self.d, 1 / self.epsilon)
        generator = torch.Generator().manual_seed(derive(seed, "vanishing"))
        clean = attacked = done = 0
        while done < samples:
            x, y = model.draw(min(_CHUNK, samples - done), generator=generator)
            clean += int((x.sum(1).sign() != y).sum())
            attacked += int(((x - y[:, None]).sum(1).sign() != y).sum())
            done += len(y)
        return {"standard": wilson(clean, samples).to_json(), "robust": wilson(attacked, samples).to_json()}


def demonstrate(*, samples: int, seed: int) -> dict[str, Any]:
    """Closed form and simulation at DIMENSION, and how ε falls with the dimension."""
    shown = Vanishing()
    grid = [shown.epsilon * step / 50 for step in range(61)]
    return {
        "d": shown.d,
        "strength": shown.strength,
        "epsilon": shown.epsilon,
        "standard": shown.error(0.0),
        "robust": shown.error(shown.epsilon),
        "samples": samples,
        "simulated": shown.simulate(samples, seed=seed),
        "curve": {"epsilon": grid, "error": [shown.error(epsilon) for epsilon in grid]},
        "dimensions": [
            {"d": d, "epsilon": Vanishing(d).epsilon, "standard": Vanishing(d).error(0.0), "robust": 0.5}
            for d in DIMENSIONS
        ],
    }
