"""How well colours are predicted that a fit has not seen, in CIEDE2000, beside simpler ways to predict them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from physadv.calibration.chart import Chart, Reading, strip
from physadv.calibration.difference import difference, linear
from physadv.calibration.fit import Camera, fit_camera, fit_print_map, fit_reflectances

FOLDS = 6
STRIP = 24  # patches of a colour strip
METHODS = ("identity", "3x3+offset", "polynomial-3", "table")
PrintFit = Callable[[Chart, Sequence[Reading]], Callable[[Float[np.ndarray, "n 3"]], Float[np.ndarray, "n 3"]]]


@dataclass(frozen=True)
class Errors:
    """Mean CIEDE2000 of every judged photograph, by method."""

    by_photograph: dict[str, Float[np.ndarray, " k"]]
    patches: int  # judged in each photograph

    def mean(self, method: str) -> float:
        return float(self.by_photograph[method].mean())


def held_out_patches(chart: Chart, readings: Sequence[Reading]) -> Errors:
    """New colours: each sixth of the patches is predicted by a fit, camera included, to the other five."""
    order = np.random.default_rng(0).permutation(len(chart))
    totals = {method: np.zeros(len(readings)) for method in METHODS}
    for fold in range(FOLDS):
        judged = order[fold::FOLDS]
        known = np.setdiff1d(order, judged)
        errors = _judge(chart, readings, readings, learned=known, known=known, judged=judged)
        for method in METHODS:
            totals[method] += errors[method] * len(judged) / len(chart)
    return Errors(totals, len(chart))


def new_photographs(
    chart: Chart, learned: Sequence[Reading], judged: Sequence[Reading], *, patches: int = STRIP
) -> Errors:
    """New photographs: the print map from `learned`; each camera from a colour strip's worth of patches of its own.

    The other patches are judged.
    """
    every, known = np.arange(len(chart)), strip(chart, patches)
    rest = np.setdiff1d(every, known)
    return Errors(_judge(chart, learned, judged, learned=every, known=known, judged=rest), len(rest))


def _judge(
    chart: Chart,
    fitted: Sequence[Reading],
    tested: Sequence[Reading],
    *,
    learned: Int[np.ndarray, " a"],
    known: Int[np.ndarray, " b"],
    judged: Int[np.ndarray, " c"],
) -> dict[str, Float[np.ndarray, " k"]]:
    """Print map from patches `learned` of `fitted`, cameras from `known` of `tested`, error on its `judged`."""
    part = chart.take(learned)
    reflectance = fit_reflectances(part, [take(reading, learned) for reading in fitted])
    errors = {"identity": [difference(linear(chart.srgb[judged]), one.mean[judged]).mean() for one in tested]}
    for method, light in zip(METHODS[1:], _predictions(chart, part, reflectance), strict=True):
        errors[method] = [_error(light, reading, known, judged) for reading in tested]
    return {method: np.array(values) for method, values in errors.items()}


def _predictions(
    chart: Chart, part: Chart, reflectance: Float[np.ndarray, "a 3"]
) -> tuple[Float[np.ndarray, "n 3"], ...]:
    """The chart before the camera: as a display has it, by the polynomial, by the table."""
    maps = [fit_print_map(part.srgb, reflectance, table=table) for table in (False, True)]
    return linear(chart.srgb), *(print_map(chart.srgb) for print_map in maps)


def _error(
    light: Float[np.ndarray, "n 3"], reading: Reading, known: Int[np.ndarray, " b"], judged: Int[np.ndarray, " c"]
) -> float:
    camera = camera_of(light[known], take(reading, known))
    told = judged[~reading.clipped[judged]]
    judged = told if len(told) else judged
    return float(difference(camera(light[judged]), reading.mean[judged]).mean())


def camera_of(reflectance: Float[np.ndarray, "n 3"], reading: Reading) -> Camera:
    return fit_camera(reflectance, reading.mean, reading.clipped)


def take(reading: Reading, rows: Int[np.ndarray, " m"]) -> Reading:
    """The reading of some patches."""
    return replace(reading, mean=reading.mean[rows], variance=reading.variance[rows], clipped=reading.clipped[rows])
