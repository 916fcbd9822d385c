"""`report.html` of `physadv calibrate`: how well colours are foretold, and what was measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from physadv.calibration.chart import Chart, Reading
from physadv.calibration.check import METHODS
from physadv.calibration.difference import difference, encoded
from physadv.calibration.profile import Profile
from physadv.report.embed import data_uri
from physadv.report.template import flat, write_page

NAMES = dict(
    zip(
        METHODS,
        ("the file's own colours", "3 × 3 + offset", "polynomial of degree 3", "polynomial + table"),
        strict=True,
    )
)
GOOD = 4.0  # CIEDE2000 on new colours
FEW = 48  # patches: below that a polynomial of 20 terms has too little to stand on
_PATCH_PX, _GAP_PX = 48, 4


def write_calibration_report(
    path: Path, metrics: Mapping[str, Any], chart: Chart, readings: Sequence[Reading], profile: Profile
) -> None:
    """One self-contained HTML file, written whole or not at all. metrics: docs/calibration.md."""
    middle = sorted(range(len(profile.shots)), key=lambda row: profile.shots[row].error)[len(profile.shots) // 2]
    foretold = profile.shots[middle].camera(profile.table(chart.srgb))
    context = {
        "title": f"{metrics['fitted_on']['chart']} · calibrate",
        "headline": headline(metrics),
        "verdict": verdict(metrics["errors"]),
        "metrics": metrics,
        "rows": error_rows(metrics["errors"]),
        "picture": data_uri(patches(chart, readings[middle].mean, foretold)),
        "shown": profile.shots[middle].name,
        "error": float(difference(foretold, readings[middle].mean).mean()),
        "config": flat(metrics["run"]["config"]),
    }
    write_page(path, "calibrate.html.j2", context)


def headline(metrics: Mapping[str, Any]) -> str:
    """The error that remains beside that of no calibration, in one sentence."""
    errors, best = metrics["errors"], METHODS[-1]
    colours = errors["new_colours"]
    first = f"Colours that the fit has not seen are foretold within ΔE00 {colours[best]:.1f} on average"
    new = errors["new_photographs"]
    if new is None:
        return f"{first}; the file's own colours miss by {colours['identity']:.0f}."
    return (
        f"{first}; on a new photograph, whose camera comes from {new['strip']} patches, within {new[best]:.1f}. The "
        f"file's own colours miss by {colours['identity']:.0f}."
    )


def verdict(errors: Mapping[str, Any]) -> str:
    """Whether the profile is worth going on with, in one sentence."""
    told, plain, patches = (errors["new_colours"][name] for name in (METHODS[-1], METHODS[1], "patches"))
    figures = f"{told:.1f} CIEDE2000 on colours that the fit has not seen, {plain:.1f} by 3 × 3 + offset"
    if told <= GOOD:
        return f"good: {figures}; photographs of a chart usually give 2 to {GOOD:g}."
    if patches < FEW:
        return f"poor: {figures}: {patches} patches are too few for a print map; photograph the chart of 96."
    rank = "fair" if told < plain else "poor"
    return (
        f"{rank}: {figures}, where 2 to {GOOD:g} is usual; check that the chart's corners "
        "are right, and that nothing of it is overexposed or in shadow."
    )


def error_rows(errors: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Method, mean CIEDE2000 on new colours, and (– where there was one photograph) on new photographs."""
    new = errors["new_photographs"]
    return [
        (NAMES[method], f"{errors['new_colours'][method]:.2f}", "–" if new is None else f"{new[method]:.2f}")
        for method in METHODS
    ]


def patches(chart: Chart, seen: Float[np.ndarray, "n 3"], foretold: Float[np.ndarray, "n 3"]) -> Image.Image:
    """Every patch in three parts, from left: asked for, seen, foretold."""
    columns = int(np.ceil(np.sqrt(1.5 * len(chart))))
    rows = int(np.ceil(len(chart) / columns))
    pitch = _PATCH_PX + _GAP_PX
    picture = np.full((rows * pitch + _GAP_PX, columns * pitch + _GAP_PX, 3), 255, np.uint8)
    for part, colours in enumerate((chart.srgb, encoded(seen), encoded(foretold))):
        for index, colour in enumerate(colours):
            y, x = (place * pitch + _GAP_PX for place in divmod(index, columns))
            left, right = (x + _PATCH_PX * third // 3 for third in (part, part + 1))
            picture[y : y + _PATCH_PX, left:right] = np.round(colour * 255)
    return Image.fromarray(picture)
