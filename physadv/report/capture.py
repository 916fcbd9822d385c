"""`report.html` of `physadv capture`: what the target said of the photographs, beside what was foretold, and why."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from physadv.capture.advice import cell_name, sharpness, signed_points, span
from physadv.capture.figures import light_of
from physadv.capture.gap import sure
from physadv.capture.table import Row
from physadv.capture.track import Track, tracks
from physadv.report.template import flat, write_page
from physadv.report.words import count, goal_class, rate_text, signed

EMBEDDED = 300  # photographs inside the page; of more the rest is read from its folder
TICKS = 160  # frames of a track that are drawn one by one
WAYS = {
    "distance_m": "By distance",
    "sign_px": "By the sign's width in the photograph",
    "yaw_deg": "By angle (yaw)",
    "light": "By light (what the sign's white shows)",
}
UNITS = {"distance_m": " m", "sign_px": " px", "yaw_deg": "°"}
LIGHTS = {
    "dark": "dark (under 118 of 255)",
    "normal": "normal",
    "bright": "bright (over 219)",
    "unknown": "not told by the face",
}
STAGES = {
    "print": "print colour",
    "light": "light",
    "geometry": "geometry",
    "blur": "blur",
    "all": "all four together",
}

where = cell_name
Metrics = Mapping[str, Any]


def write_capture_report(path: Path, *, metrics: Metrics, rows: Sequence[Row], folder: Path) -> None:
    """One HTML file, written whole or not at all. metrics: docs/capture.md; folder: of the pictures.

    It needs no other file with up to `EMBEDDED` photographs; of more, the rest is shown where the folder is beside it.
    """
    run = metrics["run"]
    judged = [row for row in rows if row.skipped is None]
    context = {
        "title": f"{run['target']['name']} · {run['config']['photos']} · capture",
        "headline": headline(metrics),
        "metrics": metrics,
        "run": run,
        "goal": goal_class(run["goal"]),
        "kind": run["goal"].partition(":")[0],
        "ways": _ways(metrics),
        "cells": [{"where": where(cell)} | cell for cell in metrics["cells"]],
        "gap": None if metrics["gap"] is None else _gap(metrics["gap"]),
        "tracks": [_track(one, said) for one, said in zip(tracks(rows), metrics["tracks"], strict=True)],
        "reasons": [(one["file"], one["reason"]) for one in metrics["skipped"]],
        "shots": [_shot(row, folder, embedded=place < EMBEDDED) for place, row in enumerate(judged)],
        "embedded": EMBEDDED,
        "measured": all(row.distance_m is not None for row in judged),
        "config": flat(run["config"]),
    }
    write_page(path, "capture.html.j2", context)


def headline(metrics: Metrics) -> str:
    """Does it work, from where, and if not, why: in a sentence or two."""
    judged, observed, predicted = metrics["photographs"]["judged"], metrics["observed"], metrics["predicted"]
    if not judged:
        return "No photograph could be judged; the reasons are below."
    done, world = _done(metrics["run"]["goal"]), metrics["run"]["world"]["name"]
    said = (
        f"The sign is {done} in {rate_text(observed)} of {count(judged, 'photograph')}; the world {world} foretells "
        f"{rate_text(predicted)} from the same places."
    )
    gap = metrics["gap"]
    if gap and gap["explained_by"]:
        of = "" if sure(gap["success"]["gap"]) else " in margins"
        said += f" The difference{of} is mostly {STAGES[gap['explained_by'][0]]}."
    return said


def _done(goal: str) -> str:
    """What happens to the sign where the goal is reached."""
    wanted = goal_class(goal)
    if wanted is None:
        return "missed" if goal == "hide" else "misread"
    return f"taken for {wanted}" if goal.startswith("create") else f"read as {wanted}"


def _ways(metrics: Metrics) -> list[dict[str, Any]]:
    """Rates by each way alone, and by condition."""
    ways = [
        {"title": WAYS[name], "rows": [{"label": _label(name, part["where"])} | part for part in parts]}
        for name, parts in metrics["by"].items()
    ]
    conditions = [{"label": name} | one for name, one in metrics["conditions"].items()]
    return [*ways, *([{"title": "By condition", "rows": conditions}] if conditions else [])]


def _label(name: str, place: Any) -> str:
    return LIGHTS[place] if name == "light" else span(place) + UNITS[name]


def _gap(gap: Metrics) -> dict[str, Any]:
    """Bars of the success points, from −limit to limit, and the table of margins and colours beside."""
    success = gap["success"]
    rows = [{"label": "the gap: observed less predicted", "kind": "artwork", "figure": success["gap"], "known": None}]
    for name, label in STAGES.items():
        said = success["stages"][name]
        kind = "promise" if name == "all" else "world"
        rows.append({"label": label, "kind": kind, "figure": said["change"], "known": said["known"]})
    rows.append(
        {
            "label": "what all four leave",
            "kind": "control",
            "figure": success["stages"]["all"]["left"],
            "known": None,
        }
    )
    reach = max(abs(end) for row in rows for end in (row["figure"]["ci95"] or [row["figure"]["mean"]]))
    limit = next((step for step in (0.05, 0.1, 0.2, 0.3, 0.5, 1.0) if reach <= step), reach)
    table = [
        (
            label,
            *(_plain(gap[name]["stages"][key]["change"]) for name in ("margin", "colour")),
        )
        for key, label in STAGES.items()
    ]
    return {
        "photographs": gap["photographs"],
        "strips": gap.get("strips"),
        "bars": [_bar(row, limit) for row in rows],
        "ticks": [(50 + 50 * share, signed(round(100 * share * limit, 1))) for share in (-1, -0.5, 0, 0.5, 1)],
        "table": [("the gap", *(_plain(gap[name]["gap"]) for name in ("margin", "colour"))), *table],
        "measured": _measured(gap["measured"]),
        "colours": gap["colours"],
    }


def _bar(row: dict[str, Any], limit: float) -> dict[str, Any]:
    figure = row["figure"]
    low, high = figure["ci95"] or (figure["mean"], figure["mean"])
    left, right, middle = (50 + 50 * value / limit for value in (low, high, figure["mean"]))
    return row | {"left": left, "width": right - left, "middle": middle, "text": signed_points(figure)}


def _plain(figure: Metrics) -> str:
    """`+0.95 [0.89 to 1.02]`."""
    ends = "" if figure["ci95"] is None else " [{} to {}]".format(*(signed(_short(end)) for end in figure["ci95"]))
    plus = "+" if _short(figure["mean"]) > 0 else ""
    return f"{plus}{signed(_short(figure['mean']))}{ends}"


def _short(value: float) -> float:
    return round(value, 1 if abs(value) >= 10 else 2) + 0.0


def _measured(measured: Metrics) -> list[tuple[str, str, str, str]]:
    """What was measured, in the photographs, in the views by the same means, and the share inside."""
    names = {
        "stops": ("light: white, in stops", "{:.1f}"),
        "blur_px": ("blur: sigma, in px (< 0: sharpened)", "{:.2f}"),
    }
    rows = []
    for key, (name, form) in names.items():
        said = measured[key]
        if said is not None:
            one, other = (_spread(said[side], form) for side in ("photographs", "world"))
            rows.append((name, one, other, "–" if said["inside"] is None else f"{100 * said['inside']:.0f} %"))
    if measured["shift_mm"] is not None:
        shift = measured["shift_mm"]
        rows.append(("geometry: the artwork off its place", f"{shift['common']:.1f} mm in the median", "–", "–"))
    return rows


def _spread(ends: Sequence[float] | None, form: str) -> str:
    """`−0.8 (−3.0 to 0.6)`: the median, and the central 95 %."""
    if ends is None:
        return "–"
    low, middle, high = (form.format(end + 0.0).replace("-", "−") for end in ends)
    return f"{middle} ({low} to {high})"


def _track(track: Track, said: Metrics) -> dict[str, Any]:
    """A track as words and as a strip of its frames, thinned where there are many."""
    every = -(-len(track.rows) // TICKS)
    strip = [
        {
            "right": row.right,
            "won": row.success,
            "title": f"{row.file}: {row.answer}" + (f", {row.distance_m:.1f} m" if row.distance_m is not None else ""),
        }
        for row in track.rows[::every]
    ]
    return {"said": said, "words": _story(said), "strip": strip, "every": every}


def _story(said: Metrics) -> str:
    if said["never"]:
        told = "The sign is never answered rightly"
    elif said["for_good"] is None:
        told = f"The sign is first answered rightly {_when(said['first'])}, but not to the end"
    elif said["for_good"]["frame"] == said["start"]["frame"]:
        told = "The sign is answered rightly in every frame that shows it"
    elif said["for_good"]["frame"] == said["first"]["frame"]:
        told = f"The sign is answered rightly {_when(said['for_good'])}, and from then on"
    else:
        told = f"The sign is first answered rightly {_when(said['first'])}, and for good {_when(said['for_good'])}"
    stop = f"from {said['braking_m']:.0f} m a car can still stop"
    late = {True: f"; that is late: {stop}", False: f"; in time: {stop}", None: ""}[said["late"]]
    return f"{told}{late}."


def _when(moment: Metrics) -> str:
    """`in frame 41 (1.6 s after it came into view, at 12.4 m)`."""
    parts = [] if moment["after_s"] is None else [f"{moment['after_s']:.1f} s after it came into view"]
    if moment["distance_m"] is not None:
        parts.append(f"at {moment['distance_m']:.1f} m")
    elif moment["sign_px"] is not None:
        parts.append(f"{moment['sign_px']:.0f} px wide")
    return f"in frame {moment['frame']}" + (f" ({', '.join(parts)})" if parts else "")


def _shot(row: Row, folder: Path, *, embedded: bool) -> dict[str, Any]:
    name = f"crop-{row.picture:06d}.jpg"
    picture = name
    if embedded:
        picture = f"data:image/jpeg;base64,{base64.b64encode((folder / name).read_bytes()).decode()}"
    far = f"{row.sign_px or 0:.0f} px wide" if row.distance_m is None else f"{row.distance_m:.1f} m"
    yaw, pitch, roll = (_degrees(value) for value in (row.yaw_deg, row.pitch_deg, row.roll_deg))
    facts = [
        ("answer", f"{row.answer}, {100 * (row.confidence or 0):.0f} %" + (" (right)" if row.right else "")),
        ("predicted", f"{row.predicted} of {row.views} views reach the goal"),
        (
            "camera",
            f"{far}, yaw {yaw}, pitch {pitch}, roll {roll}",
        ),
        ("sign", f"{row.sign_px or 0:.0f} px wide"),
        ("light", light_of(row) + ("" if row.stops is None else f", white at {signed(round(row.stops, 1))} stops")),
        ("blur", "not told by the face" if row.blur_px is None else sharpness(row.blur_px)),
    ]
    if row.found is not None:
        facts.append(("tags", f"{row.found}, off by {row.error_px or 0:.2f} px"))
    return {
        "picture": picture,
        "row": row,
        "where": f"{far}, yaw {yaw}, {light_of(row)}".removesuffix(", unknown"),
        "facts": facts,
    }


def _degrees(value: float | None) -> str:
    return f"{signed(round(value or 0.0))}°"
