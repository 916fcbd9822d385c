"""What to do next, from the figures of a capture. Every sentence rests on one of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from physadv.capture.figures import FEW, TURNED_DEG
from physadv.capture.gap import sure

ENOUGH, NEAR_ENOUGH = 100, 0.1  # so many photographs leave an interval of ± 10 points
CELLS_NAMED = 4
INSIDE = 0.75  # of the photographs within the central 95 % of what the world shows: with fewer it is another light
LARGE_SHIFT_MM = 10.0
LARGE_SKIPPED = 0.1

Metrics = Mapping[str, Any]


def advice(metrics: Metrics) -> list[str]:
    """Sentences, the most useful first; the last ones say how sure all of it is."""
    if not metrics["photographs"]["judged"]:
        return ["No photograph could be judged: mend what the table of those not judged says, and run it again."]
    gap = metrics["gap"]
    said = [*_falls(metrics), *(_explained(gap, metrics) if gap else ())]
    sure_of = [*_skipped(metrics), *_counts(metrics)]
    return [*_turned(metrics), *said, *_agreement(gap, bool(said)), *_covering(metrics), *sure_of]


def _turned(metrics: Metrics) -> Iterator[str]:
    turned, judged = metrics["turned"], metrics["photographs"]["judged"]
    if turned > judged / 2:
        yield (
            f"In {turned} of {judged} photographs the sign is rolled by more than {TURNED_DEG:g}°: if it does not hang "
            "so, the corners begin at another corner; the order is top left, top right, bottom right, bottom left."
        )


def _covering(metrics: Metrics) -> Iterator[str]:
    """Where a grey artwork is foretold to do as well, for all that the views can tell."""
    grey, worn = metrics["predicted_grey"], metrics["predicted"]
    if grey is not None and worn["rate"] and grey["ci95"][1] >= worn["ci95"][0]:
        rates = (f"{100 * one['rate']:.0f} %" for one in (grey, worn))
        yield (
            "A grey artwork of the same shape is foretold to reach the goal in {} of the views, this one in {}: "
            "covering the sign may be all that works here. Photograph a grey one, too.".format(*rates)
        )


def _explained(gap: Metrics, metrics: Metrics) -> Iterator[str]:
    """What to change in the world, stage by stage; first what surely explains the gap, then what lies outside."""
    world = metrics["run"]["world"]["name"]
    outside = [stage for stage in ("print", "light", "blur", "geometry") if _is_outside(stage, gap)]
    for stage in dict.fromkeys([*gap["explained_by"], *outside]):
        points = gap["success"]["stages"][stage]["change"]
        moved = (
            f" (measured instead of modelled it moves the prediction by {signed_points(points)})"
            if sure(points)
            else ""
        )
        yield _REMEDIES[stage](gap, world) + moved + "."


def _is_outside(stage: str, gap: Metrics) -> bool:
    if stage == "print":
        return bool(_beyond(gap))
    said = gap["measured"][{"light": "stops", "blur": "blur_px", "geometry": "shift_mm"}[stage]]
    if said is None:
        return False
    if stage == "geometry":
        return bool(said["common"] > LARGE_SHIFT_MM)
    return said["inside"] is not None and said["inside"] < INSIDE


def _beyond(gap: Metrics) -> list[str]:
    """Names of the artwork's colours that this printer makes otherwise than any printer of the world."""
    return list(dict.fromkeys(one["name"] for one in gap["colours"] if one["beyond"]))


def _print(gap: Metrics, world: str) -> str:
    colours = _beyond(gap)
    what = (
        f"The printer makes the artwork's {_joined(colours)} as no printer of {world} does"
        if colours
        else f"Part of the gap is print colour: {world} draws printers at random, and yours is one of them"
    )
    fit = "physadv worlds fit --profile DIR --out my-world.yaml, and attack again with --world my-world.yaml"
    if gap["printer"] == "measured":
        return (
            f"{what}, though its printer is a measured one: paper, ink or settings were others then; print the chart "
            "and the sheet together and calibrate again"
        )
    if gap["printer"] == "profile":
        return f"{what}: make a world of the profile, {fit}"
    return f"{what}: print the chart (physadv print --chart 96), photograph it, run physadv calibrate, then {fit}"


def _light(gap: Metrics, world: str) -> str:
    said = gap["measured"]["stops"]
    if said and said["world"] and said["inside"] is not None and said["inside"] < INSIDE:
        side = "darker" if said["photographs"][1] < said["world"][1] else "brighter"
        return (
            f"The photographs are {side} than {world} expects (white at {_signed(said['photographs'][1])} stops in the "
            f"median, there {_signed(said['world'][1])}; {100 * said['inside']:.0f} % of them within its 95 %): widen "
            "light: exposure in a copy of the world, or fit one to your camera (physadv worlds fit)"
        )
    return (
        f"Part of the gap is light: {world} draws it at random where yours is known; if it will always be like this, "
        "fit a world to it (physadv worlds fit), and if not, photograph in other light too"
    )


def _blur(gap: Metrics, world: str) -> str:
    said = gap["measured"]["blur_px"]
    if not said or said["inside"] is None or said["inside"] >= INSIDE:
        return (
            f"Part of the gap is blur: {world} draws it at random where yours is known; focus on the sign and hold "
            "still, or fit a world to your camera (physadv worlds fit)"
        )
    here, there = said["photographs"][1], said["world"][1]
    than = f"than {world} expects ({sharpness(here)} in the median, there {sharpness(there)})"
    if here < 0:
        what = "less sharp" if here > there else "sharper"
        return f"The photographs are {what} {than}: change camera: sharpen in a copy of the world"
    if here > there:
        return (
            f"The photographs are less sharp {than}: focus on the sign and hold still, or widen camera: defocus in a "
            "copy of the world"
        )
    return f"The photographs are sharper {than}: narrow camera: defocus and motion in a copy of the world"


def _geometry(gap: Metrics, world: str) -> str:
    said = gap["measured"]["shift_mm"]
    if said and said["common"] > LARGE_SHIFT_MM:
        return (
            f"The artwork hangs {said['common']:.0f} mm from its place: hang it by the template "
            "(physadv print --template), or raise mount: placement: shift_mm in a copy of the world"
        )
    return (
        f"Part of the gap is geometry: {world} shifts and bends the artwork at random, and looks straight at the sign; "
        "hang it flat and by the template, and keep the sign near the middle of the photograph"
    )


_REMEDIES = {"print": _print, "light": _light, "blur": _blur, "geometry": _geometry}


def _agreement(gap: Metrics | None, said: bool) -> Iterator[str]:
    if not gap:
        return
    points = gap["success"]["gap"]
    if sure(points) and not gap["explained_by"]:
        yield (
            f"Observed and predicted success differ by {signed_points(points)}, and none of print, light, geometry and "
            "blur explains it alone: look at the pictures for shadows, dirt, glare, or a sign that is not like --face."
        )
    elif not sure(points):
        more = "" if said else "; no stage has to be fitted"
        yield f"Observed and predicted success do not surely differ ({signed_points(points)}){more}."


def _falls(metrics: Metrics) -> Iterator[str]:
    """Where observed success falls, by distance, angle and light."""
    remedies = {
        "distance_m": "a larger face or artwork, or an attack that looks from there (view: pinhole: distance_m)",
        "sign_px": "a larger artwork, or an attack in a world with distances like these",
        "yaw_deg": "an attack with such angles (view: pinhole: yaw_deg), or an artwork to be seen from the front only",
        "light": "an attack in a world with such light (light: exposure)",
    }
    words = {
        "distance_m": "beyond {:g} m",
        "sign_px": "where the sign is under {:g} px wide",
        "yaw_deg": "beyond {:g}° of yaw",
        "light": "in {} light",
    }
    for fall in metrics["falls"]:
        name = fall["by"]
        yield (
            f"Observed success falls {words[name].format(fall['where'])}: {_rate(fall['there'])} there, "
            f"{_rate(fall['before'])} before. What helps is {remedies[name]}."
        )


def _skipped(metrics: Metrics) -> Iterator[str]:
    judged, skipped = metrics["photographs"]["judged"], metrics["photographs"]["skipped"]
    lost = sum("tags" in one["reason"] for one in metrics["skipped"])
    if lost > LARGE_SKIPPED * (judged + skipped):
        yield f"In {lost} of {judged + skipped} photographs too few tags were found: go nearer, or print them larger."
    if "sign_px" in metrics["by"]:
        yield "No distances are known: give --focal-px, or photographs with their EXIF."


def _counts(metrics: Metrics) -> Iterator[str]:
    few = [cell for cell in metrics["cells"] if cell["observed"]["n"] < FEW]
    if few:
        named = "; ".join(f"{cell_name(one)} ({one['observed']['n']})" for one in few[:CELLS_NAMED])
        more = f" and {len(few) - CELLS_NAMED} more" if len(few) > CELLS_NAMED else ""
        yield (
            f"{len(few)} of {len(metrics['cells'])} cells hold fewer than {FEW} photographs: {named}{more}. Take more "
            "there before you compare cells."
        )
    low, high = metrics["observed"]["ci95"]
    if high - low > 2 * NEAR_ENOUGH:
        yield (
            f"Observed success is known to about ± {50 * (high - low):.0f} points; {ENOUGH} photographs leave ± "
            f"{100 * NEAR_ENOUGH:.0f}, if they are no frames of the same few videos."
        )


def cell_name(cell: Metrics) -> str:
    """`3 to 6 m, yaw 10 to 20°, bright`; `sign 48 to 72 px wide` where distances are not known."""
    far = f"{span(cell['distance_m'])} m" if "distance_m" in cell else f"sign {span(cell['sign_px'])} px wide"
    light = "" if cell["light"] == "unknown" else f", {cell['light']}"
    return f"{far}, yaw {span(cell['yaw_deg'])}°{light}"


def span(limits: Sequence[float | None]) -> str:
    """`3 to 6`, `over 15`."""
    low, high = limits
    return f"over {low:g}" if high is None else f"{low:g} to {high:g}"


def signed_points(figure: Metrics) -> str:
    """`+12 points [3 to 21]`."""
    ends = "" if figure["ci95"] is None else " [{} to {}]".format(*(_signed(100 * end) for end in figure["ci95"]))
    return f"{_signed(100 * figure['mean'])} points{ends}"


def sharpness(blur_px: float) -> str:
    """`sigma 1.2 px`, or what is below 0: `sharpened by 0.6`, the amount of an unsharp mask of 1 px."""
    return f"sigma {blur_px:.1f} px" if blur_px >= 0 else f"sharpened by {blur_px**2:.1f}"


def _signed(value: float) -> str:
    text = f"{value:+.2g}" if abs(value) < 10 else f"{value:+.0f}"
    return "0" if float(text) == 0 else text.replace("-", "−")


def _rate(said: Metrics) -> str:
    return f"{100 * said['rate']:.0f} % of {said['n']}"


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
