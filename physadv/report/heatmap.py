"""`report.html` of a scan: success at every place, drawn over the sign's face."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from PIL import Image

from physadv.evaluation import Verdict
from physadv.files import to_pil
from physadv.report import charts
from physadv.report.pictures import data_uri, pieces
from physadv.report.template import flat, write_page
from physadv.report.words import goal_class, interval, percent, rate_text, signs
from physadv.threats.base import Artwork

FACE_PX = 320
_FILLED = 0.86  # of a cell's side: the sign shows between
_GREYED = 0.45  # how much of the face's own contrast is left beneath the map


@dataclass(frozen=True)
class Tile:
    """A place of the grid, in mm; `said` is what it answers when pointed at."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    said: str


@dataclass(frozen=True)
class Map:
    """One size and colour over the face. box: the sticker at its best place (x, y, width, height), if one wins."""

    size: str
    colour: str
    tiles: tuple[Tile, ...]
    box: tuple[float, float, float, float] | None
    best: str


def write_scan_report(path: Path, *, metrics: Mapping[str, Any], verdict: Verdict, artwork: Artwork) -> None:
    """One self-contained HTML file, written whole or not at all. metrics: docs/scan.md; artwork: the best candidate."""
    scan, run = metrics["scan"], metrics["run"]
    scenes = verdict.held_out.scenes
    saved = next(one for one in scan["best"] if one["saved"])
    context = {
        "title": f"{run['target']['name']} · {run['scenes']['spec']} · scan",
        "headline": headline(metrics, saved),
        "metrics": metrics,
        "scan": scan,
        "run": run,
        "saved": saved,
        "maps": maps(scan),
        "top": top_of(scan),
        "frame": charts,
        "face": data_uri(_greyed(to_pil(scenes.faces.images[int(scenes.face[0])]))),
        "piece": pieces(artwork, verdict)[0],
        "rows": [{"what": candidate(one), "points": points(one["difference"])} | one for one in scan["best"]],
        "others": {what: rate for what, rate in metrics["controls"].items() if what != saved["colour"]},
        "goal": goal_class(run["goal"]),
        "staged": scenes.staged,
        "config": flat(run["config"]),
    }
    write_page(path, "scan.html.j2", context)


def headline(metrics: Mapping[str, Any], saved: Mapping[str, Any]) -> str:
    """What the most vulnerable place is worth on fresh views, beside all places."""
    target, shown = metrics["run"]["target"]["name"], signs(metrics["run"]["scenes"]["classes"])
    wanted = goal_class(metrics["run"]["goal"])
    deed = f"misread {shown}" if wanted is None else f"read {shown} as {wanted}"
    judged, difference = saved["judged"], saved["difference"]
    if not judged["n"]:
        return f"Nothing can be said: {target} reads {shown} correctly in none of the views, even without a sticker."
    said = (
        f"at its most vulnerable place, {candidate(saved)} makes {target} {deed} in {rate_text(judged)} of fresh "
        f"views, at the mean place in {rate_text(saved['mean'])}"
    )
    if difference["ci95"][0] <= 0:
        return f"No place stands out: {said}."
    return f"{said[0].upper()}{said[1:]}: a difference of {points(difference)}."


def candidate(one: Mapping[str, Any]) -> str:
    """`a black sticker of 5% at 412, 300 mm`."""
    x, y = one["centre_mm"]
    thing = "the artwork" if one["colour"] == "artwork" else f"a {one['colour']} sticker"
    return f"{thing} of {one['size']} at {x:.0f}, {y:.0f} mm"


def points(difference: Mapping[str, Any]) -> str:
    """`+42 points [36–48]`."""
    if difference["ci95"] is None:
        return "no cases"
    value, (low, high) = difference["difference"], difference["ci95"]
    return f"{_signed(value)} points [{_signed(low)} to {_signed(high)}]"


def _signed(share: float) -> str:
    return f"{100 * share:+.0f}".replace("-", "−")


def top_of(scan: Mapping[str, Any]) -> float:
    """The rate at the deep end of the scale: the highest found, rounded up to a tenth."""
    rates = [place["rate"] or 0.0 for panel in scan["panels"] for place in panel["places"]]
    return max(0.1, ceil(10 * max(rates) - 1e-9) / 10)


def maps(scan: Mapping[str, Any]) -> list[list[Map]]:
    """A row of maps per size, one for each colour."""
    top = top_of(scan)
    sizes = dict.fromkeys(panel["size"] for panel in scan["panels"])
    return [[_map(panel, scan, top) for panel in scan["panels"] if panel["size"] == size] for size in sizes]


def _map(panel: Mapping[str, Any], scan: Mapping[str, Any], top: float) -> Map:
    cell_mm = [_FILLED * side / scan["grid"] for side in scan["face"]["size_mm"]]
    tiles = tuple(_tile(place, cell_mm, top) for place in panel["places"])
    best = max(panel["places"], key=lambda place: place["k"])
    (x, y), (width, height) = best["centre_mm"], panel["size_mm"]
    if not best["k"]:
        return Map(panel["size"], panel["colour"], tiles, None, "no success at any place")
    box = (x - width / 2, y - height / 2, width, height)
    return Map(panel["size"], panel["colour"], tiles, box, f"best {percent(best['rate'])} at {x:.0f}, {y:.0f} mm")


def _tile(place: Mapping[str, Any], cell_mm: Sequence[float], top: float) -> Tile:
    (x, y), (width, height) = place["centre_mm"], cell_mm
    rate = place["rate"]
    deep = 0.0 if rate is None else rate / top
    said = f"{x:.0f}, {y:.0f} mm: {percent(rate)} {interval(place)} {place['k']}/{place['n']}"
    said += f", {place['colour']}" if "colour" in place else ""
    return Tile(x - width / 2, y - height / 2, width, height, _tint(deep), said)


def _tint(share: float) -> str:
    """The hue of every map of the reports: pale for 0, deep for 1."""
    mixed = (round(pale + share * (deep - pale)) for pale, deep in zip(charts.PALE, charts.DEEP, strict=True))
    return f"rgb({','.join(map(str, mixed))})"


def _greyed(face: Image.Image) -> Image.Image:
    """The face as a pale ground that leaves colour to the map."""
    face = face.resize((FACE_PX, FACE_PX), Image.Resampling.LANCZOS)
    pale = face.convert("L").point(lambda level: round(255 - _GREYED * (255 - level)))
    return Image.merge("LA", (pale, face.getchannel("A"))).convert("RGBA")
