"""What the Gaussian model says about one (d, σ, ε, goal): sample sizes, ceilings, the bound, a simulation beside."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from physadv.samples.gaussian import Gaussian, lower_bound
from physadv.transforms.stages import derive

EPSILONS = (0.0, 0.1, 0.25, 0.5, 0.75)  # rows of the table, beside the ε asked for
TRAININGS = 200
DOTS = 6
POINTS = 80
SMALLEST = 1e-3  # errors below this are not plotted


def theory(model: Gaussian, *, epsilon: float, goal_error: float, seed: int) -> dict[str, Any]:
    """`theory` of metrics.json. `needed` is null where no number of samples is enough: impossible."""
    rows = [_row(model, value, goal_error) for value in sorted({*EPSILONS, epsilon})]
    finite = [row["needed"] for row in rows if row["needed"] is not None and row["epsilon"] <= epsilon]
    sizes = np.unique(np.geomspace(1, 3 * max([*finite, 10]), POINTS).round())
    return {
        "d": model.d,
        "sigma": model.sigma,
        "epsilon": epsilon,
        "goal_error": goal_error,
        "rows": rows,
        "lower_bound": lower_bound(model.d, model.sigma, epsilon),
        "curves": [_curve(model, value, sizes.tolist(), seed) for value in (0.0, epsilon)],
    }


def _row(model: Gaussian, epsilon: float, goal_error: float) -> dict[str, Any]:
    needed = model.needed(goal_error, epsilon)
    return {
        "epsilon": epsilon,
        "ceiling": model.ceiling(epsilon),
        "needed": needed,
        "impossible": needed is None,
        "one_sample": model.error(1, epsilon),
    }


def _curve(model: Gaussian, epsilon: float, sizes: Sequence[float], seed: int) -> dict[str, Any]:
    shown = [n for n in sizes if model.error(n, epsilon) > SMALLEST] or list(sizes[:1])
    simulated = []
    for n in {shown[row]: None for row in np.linspace(0, len(shown) - 1, DOTS).astype(int)}:
        found = model.simulate(n, epsilon, trainings=TRAININGS, seed=derive(seed, "dots", int(n)))
        closed = model.error(n, epsilon)
        simulated.append({"n": n, "error": found.error, "standard_error": found.standard_error, "closed_form": closed})
    return {
        "epsilon": epsilon,
        "ceiling": model.ceiling(epsilon),
        "n": list(sizes),
        "error": [model.error(n, epsilon) for n in sizes],
        "simulated": simulated,
    }
