"""`physadv calibrate`: photographs of a colour chart -> a profile."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from physadv.calibration.chart import Chart, check_order, load_chart, read_chart
from physadv.calibration.locate import BESIDE, Sheet, Table
from physadv.calibration.profile import PROFILE, Measured, Profile, calibrate
from physadv.calibration.sensor import blur_px
from physadv.calibration.world import kelvin_span, lights_of, span
from physadv.capture.photos import Photo, Skipped, open_source
from physadv.config import CalibrateOptions
from physadv.console import Console
from physadv.errors import UserError
from physadv.files import RUN, prepare_folder, sha256, write_json
from physadv.report.calibrate import write_calibration_report
from physadv.runs.attack import versions

FEWEST_PATCHES = 6  # a camera is known by four


def run_calibrate(options: CalibrateOptions, *, command: str, console: Console) -> dict[str, Any]:
    """Read the chart in every photograph, fit, save: profile.json, metrics.json, report.html."""
    if options.photos is None or options.chart is None:
        raise UserError("Give the photographs and the chart: physadv calibrate PHOTOS --chart chart.json.")
    chart = load_chart(options.chart)
    tables = _tables(options)
    measured, skipped = _measure(options.photos, chart, _where(options, chart), console, tables)
    profile = calibrate(chart, measured, name=options.chart.name)
    out = prepare_folder(options.out, overwrite=options.overwrite)
    metrics = _metrics(profile, skipped) | {"run": _described(options, command)}
    write_json(out / PROFILE, profile.to_json())
    write_json(out / "metrics.json", metrics)
    write_calibration_report(out / "report.html", metrics, chart, [one.reading for one in measured], profile)
    return metrics


def _where(options: CalibrateOptions, chart: Chart) -> Sheet | Table:
    """UserError: both or neither say where the chart is."""
    assert options.photos is not None
    if options.sheet is not None and options.corners is not None:
        raise UserError("Both --sheet and --corners say where the chart is; give one of them.")
    return Table(options.photos, options.corners) if options.sheet is None else Sheet(options.sheet, chart)


def _tables(options: CalibrateOptions) -> set[str]:
    """Names of files that may lie among the photographs and are none."""
    assert options.photos is not None
    given = [path for path in (options.chart, options.corners) if path is not None]
    return {BESIDE, RUN} | {path.name for path in given if path.resolve().parent == options.photos.resolve()}


def _measure(
    photos: Path, chart: Chart, where: Sheet | Table, console: Console, tables: set[str]
) -> tuple[list[Measured], list[dict[str, str]]]:
    """What each photograph shows of the chart, and which files were left out, and why."""
    source = open_source(str(photos), focal_px=None)
    measured, skipped = [], []
    with console.counting("calibrate", len(source)) as report:
        for photo in source.read():
            found = _read(photo, chart, where)
            if isinstance(found, Measured):
                measured.append(found)
            elif found.name not in tables:
                skipped.append({"name": found.name, "reason": found.reason})
            report(1)
    if not measured:
        first = f"{skipped[0]['name']}: {skipped[0]['reason']}" if skipped else "there is no photograph"
        raise UserError(f"Of {photos}, no photograph of the chart could be read: {first}")
    return measured, skipped


def _read(photo: Photo | Skipped, chart: Chart, where: Sheet | Table) -> Measured | Skipped:
    if isinstance(photo, Skipped):
        return photo
    image = _floats(photo.pixels)
    try:
        corners = where.corners_px(photo)
        reading = read_chart(image, chart, corners, name=photo.name)
        trusted = int((~reading.clipped).sum())
        if trusted < FEWEST_PATCHES:
            raise UserError(f"all but {trusted} of {len(chart)} patches are clipped; photograph it with less light.")
        check_order(chart, reading, name=photo.name)
    except UserError as error:
        return Skipped(photo.name, str(error).removeprefix(f"{photo.name}: "))
    return Measured(photo.name, reading, blur_px(image, chart, corners))


def _floats(pixels: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
    return pixels.astype(np.float32) / 255


def _metrics(profile: Profile, skipped: list[dict[str, str]]) -> dict[str, Any]:
    content = profile.to_json()
    lights = lights_of(profile.shots)
    stops, kelvin = lights.stops.round(2).tolist(), lights.kelvin.tolist()
    photographs = [
        {key: value for key, value in shot.items() if key != "camera"} | {"stops": stop, "kelvin": warmth}
        for shot, stop, warmth in zip(content["photographs"], stops, kelvin, strict=True)
    ]
    ranges = {
        "stops": span(lights.stops, (-8, 8)),
        "kelvin": kelvin_span(lights.kelvin),
        "balance_stops": round(lights.balance, 3),
        "saturation": span(lights.saturation, (0, 3)),
        "veil": span(lights.veil, (0, 0.5)),
    }
    head = {name: content[name] for name in ("fitted_on", "errors")}
    return head | {"ranges": ranges if len(stops) > 1 else None, "photographs": photographs, "skipped": skipped}


def _described(options: CalibrateOptions, command: str) -> Mapping[str, Any]:
    assert options.chart is not None
    config = {key: str(value) if isinstance(value, Path) else value for key, value in options.model_dump().items()}
    return {"command": command, "config": config, "chart_hash": sha256(options.chart)[:16], "versions": versions()}
