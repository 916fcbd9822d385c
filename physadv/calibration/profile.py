"""What was measured of a printer and its photographs: `profile.json` (docs/calibration.md)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from physadv.calibration.chart import Chart, Reading
from physadv.calibration.check import FOLDS, METHODS, STRIP, Errors, camera_of, held_out_patches, new_photographs
from physadv.calibration.difference import difference
from physadv.calibration.fit import LATTICE, Camera, PrintMap, fit_print_map, fit_reflectances
from physadv.calibration.sensor import noise
from physadv.errors import UserError
from physadv.files import read_json

VERSION = 1
PROFILE = "profile.json"
_DIGITS = 6


@dataclass(frozen=True)
class Measured:
    """What was read from one photograph of the chart."""

    name: str
    reading: Reading
    blur_px: float | None


@dataclass(frozen=True)
class Shot:
    """One photograph: its camera, and the noise (variance = shot · light + read²) and blur of its pixels.

    blur_px: None where no edge of the chart stands out. clipped: patches. error: mean CIEDE2000 of the fitted chart.
    """

    name: str
    camera: Camera
    shot: float
    read: float
    blur_px: float | None
    clipped: int
    error: float

    @property
    def paper(self) -> Float[np.ndarray, "3"]:
        """Bare paper in this photograph, linear RGB."""
        return self.camera(np.ones(3))


@dataclass(frozen=True)
class Profile:
    """The print map, as polynomial and with the table on top of it, and the photographs that it was fitted to."""

    polynomial: PrintMap
    table: PrintMap
    shots: tuple[Shot, ...]
    fitted_on: dict[str, Any]
    errors: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        assert self.table.lattice is not None
        return {
            "version": VERSION,
            "fitted_on": self.fitted_on,
            "errors": self.errors,
            "print": {
                "polynomial": _listed(self.polynomial.polynomial),
                "table": {"size": LATTICE, "values": _listed(self.table.lattice)},
            },
            "photographs": [_shot_json(shot) for shot in self.shots],
        }


def calibrate(chart: Chart, measured: Sequence[Measured], *, name: str) -> Profile:
    """The profile of one printer from photographs of its chart; `name` says which chart."""
    readings = [one.reading for one in measured]
    reflectance = fit_reflectances(chart, readings)
    maps = [fit_print_map(chart.srgb, reflectance, table=table) for table in (False, True)]
    shots = tuple(_shot_of(one, maps[1](chart.srgb)) for one in measured)
    fitted_on = {"chart": name, "patches": len(chart), "photographs": len(measured)}
    return Profile(maps[0], maps[1], shots, fitted_on, _errors(chart, readings))


def _shot_of(one: Measured, reflectance: Float[np.ndarray, "n 3"]) -> Shot:
    camera, told = camera_of(reflectance, one.reading), ~one.reading.clipped
    error = float(difference(camera(reflectance[told]), one.reading.mean[told]).mean())
    return Shot(one.name, camera, *noise(one.reading), one.blur_px, int(one.reading.clipped.sum()), error)


def _errors(chart: Chart, readings: Sequence[Reading]) -> dict[str, Any]:
    """Held-out errors: of colours, and (where there are two photographs) of each half by the fit to the other."""
    colours = held_out_patches(chart, readings)
    errors: dict[str, Any] = {"new_colours": _means([colours]) | {"folds": FOLDS}, "new_photographs": None}
    if len(readings) > 1:
        halves = [readings[::2], readings[1::2]]
        known = min(STRIP, len(chart) // 2)
        judged = [new_photographs(chart, one, other, patches=known) for one, other in (halves, halves[::-1])]
        errors["new_photographs"] = _means(judged) | {"strip": known}
    return errors


def _means(parts: Sequence[Errors]) -> dict[str, Any]:
    """Mean over photographs by method, over all parts; `worst`: the photograph that the table misses most."""
    joined = {method: np.concatenate([part.by_photograph[method] for part in parts]) for method in METHODS}
    means: dict[str, Any] = {method: round(float(values.mean()), 3) for method, values in joined.items()}
    worst = round(float(joined[METHODS[-1]].max()), 3)
    return means | {"worst": worst, "patches": parts[0].patches, "photographs": len(joined[METHODS[0]])}


def load_profile(path: str | Path) -> Profile:
    """A `profile.json`, or the folder that holds it.

    Errors: UserError if it is missing, of another version, or incomplete.
    """
    path = Path(path)
    path = path / PROFILE if path.is_dir() else path
    content = read_json(path)
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise UserError(f"{path} is no profile of version {VERSION}; make one with `physadv calibrate`.")
    try:
        polynomial = np.array(content["print"]["polynomial"], float).reshape(20, 3)
        lattice = np.array(content["print"]["table"]["values"], float).reshape(LATTICE**3, 3)
        shots = tuple(_shot(one) for one in content["photographs"])
        maps = PrintMap(polynomial), PrintMap(polynomial, lattice)
        return Profile(*maps, shots, dict(content["fitted_on"]), dict(content["errors"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is incomplete ({error}); make it again with `physadv calibrate`.") from error


def _shot_json(shot: Shot) -> dict[str, Any]:
    return {
        "name": shot.name,
        "camera": {"matrix": _listed(shot.camera.matrix), "offset": _listed(shot.camera.offset)},
        "noise": {"shot": round(shot.shot, _DIGITS), "read": round(shot.read, _DIGITS)},
        "blur_px": None if shot.blur_px is None else round(shot.blur_px, 3),
        "clipped": shot.clipped,
        "error": round(shot.error, 3),
    }


def _shot(content: dict[str, Any]) -> Shot:
    matrix = np.array(content["camera"]["matrix"], float).reshape(3, 3)
    camera = Camera(matrix, np.array(content["camera"]["offset"], float).reshape(3))
    noise, blur = content["noise"], content["blur_px"]
    figures = float(noise["shot"]), float(noise["read"]), None if blur is None else float(blur)
    return Shot(str(content["name"]), camera, *figures, int(content["clipped"]), float(content["error"]))


def _listed(values: Float[np.ndarray, "*n"]) -> list[Any]:
    listed: list[Any] = np.round(values, _DIGITS).tolist()
    return listed
