"""The gap of a whole capture: some of its photographs read again, measured, and foretold with what was measured."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from physadv.calibration.fit import Camera
from physadv.capture.colours import colours
from physadv.capture.gap import Split, split, summary
from physadv.capture.hung import Printed
from physadv.capture.judge import Stand, box_in, cut_out, locate, on_sensor, seed_of, sight_of, standing, world_at
from physadv.capture.measure import Measured, measure, sign_in, typical_ink
from physadv.capture.photos import Photo
from physadv.capture.pose import Plane, Pose
from physadv.capture.quads import Quad
from physadv.capture.swap import Found
from physadv.capture.table import Row
from physadv.objectives import Objective
from physadv.question import Target, Truth, truth_at
from physadv.scenes import Scenes
from physadv.threats import Artwork
from physadv.transforms.print import Ink
from physadv.transforms.world import World

FEWEST = 5  # values from which a distribution is shown
MIDDLE = (0.025, 0.5, 0.975)


@dataclass(frozen=True)
class Case:
    """One photograph, small enough to be kept until the print of all is known. work: its artwork; None: clean.

    truth: what is to be answered of what the target has `seen`. plane, pose, measured: in px of the world's camera, in
    whose frame a detector's sign stands at `stand`. hung: the artwork on its uncut sheet. camera: of its colour strip,
    where that could be read.
    """

    row: Row
    scenes: Scenes
    artwork: Artwork | None
    work: str | None
    seen: Float[Tensor, "3 h w"]
    sign: Bool[Tensor, "h w"]
    truth: Truth
    plane: Plane
    pose: Pose
    measured: Measured
    stand: Stand | None = None
    hung: Artwork | None = None
    camera: Camera | None = None


def chosen(rows: Sequence[Row], most: int) -> list[Row]:
    """Evenly spread over the photographs whose light is known."""
    known = [row for row in rows if row.skipped is None and row.stops is not None]
    count = min(most, len(known))
    return [known[place * len(known) // count] for place in range(count)]


def case_of(
    photo: Photo,
    row: Row,
    *,
    scenes: Scenes,
    artwork: Artwork | None,
    work: str | None,
    target: Target,
    paper_mm: tuple[float, ...] | None,
    hung: Artwork | None = None,
    printed: Printed | None = None,
) -> Case | None:
    """Where the row says the sign is. None: too little of the face shows after all."""
    sighting = locate(photo, Quad(row.corners_px), scenes)
    pose = sighting.pose
    if row.distance_m is not None:
        yaw_deg, pitch_deg, roll_deg = (value or 0.0 for value in (row.yaw_deg, row.pitch_deg, row.roll_deg))
        pose = Pose(row.distance_m, yaw_deg, pitch_deg, roll_deg, pose.focal_px)
    frame = target.frame
    cut, scale = cut_out(photo, sighting.plane, scenes, frame), on_sensor(photo, frame)
    sight = sight_of(photo, sighting.plane, scenes, frame)
    measured = measure(sight, scenes, artwork if hung is None else hung, paper_mm=paper_mm)
    if measured is None:
        return None
    return Case(
        row=row,
        scenes=scenes,
        artwork=artwork,
        work=work,
        seen=cut.picture,
        sign=sign_in(cut.sight(scenes), scenes),
        truth=truth_at(target, scenes, box_in(cut, scenes)),
        plane=Plane(np.diag([scale, scale, 1.0]) @ sighting.plane.matrix, sighting.plane.error_px),
        pose=replace(pose, focal_px=scale * pose.focal_px),
        measured=_in_frame(measured, scale) if frame.whole else measured,
        stand=standing(cut, scenes, frame),
        hung=hung,
        camera=None if printed is None or artwork is None else printed.camera(photo),
    )


def _in_frame(measured: Measured, scale: float) -> Measured:
    """As a whole frame of the world's camera has it: other px, and no light that falls off over the sign alone."""
    light = replace(measured.light, slope=torch.zeros_like(measured.light.slope))
    return replace(measured, light=light, blur_px=None if measured.blur_px is None else scale * measured.blur_px)


def explain(
    cases: Sequence[Case],
    *,
    target: Target,
    objective: Objective,
    world: World,
    views: int,
    seed: int,
    advance: Callable[[int], None],
    printed: Printed | None = None,
) -> dict[str, Any] | None:
    """`gap` of metrics.json; None without any case. printed: reads the print off the strip, where that is seen."""
    if not cases:
        return None
    inks = [stages.get(Ink) for stages in world.components]
    works = sorted({case.work for case in cases if case.work and case.measured.ink})
    prints = {work: reduce(add, [c.measured.ink for c in cases if c.work == work and c.measured.ink]) for work in works}
    responses = {work: one.response(typical_ink(inks[0])) for work, one in prints.items()}
    splits = []
    for case in cases:
        response = _by_strip(case, printed, typical_ink(inks[0]))
        response = responses.get(case.work or "") if response is None else response
        splits.append(_split(case, response, target, objective, world, views, seed))
        advance(1)
    artworks = {case.work: case.artwork for case in cases if case.artwork is not None}
    named = [
        {"artwork": work} | row
        for work, response in responses.items()
        for row in colours(artworks[work], response, inks, seed=seed)
    ]
    strips = {"strips": None if printed is None else sum(case.camera is not None for case in cases)}
    return summary(splits, seed=seed) | strips | {"measured": _distributions(cases, splits), "colours": named}


def _by_strip(case: Case, printed: Printed | None, prior: Float[Tensor, "3 11"]) -> Float[Tensor, "3 11"] | None:
    """The artwork's print in the light of its photograph; None where its strip was not read."""
    worn = case.artwork if case.hung is None else case.hung
    if printed is None or case.camera is None or worn is None:
        return None
    return printed.response(worn, case.camera, case.measured.light, prior)


def _split(
    case: Case,
    response: Float[Tensor, "3 11"] | None,
    target: Target,
    objective: Objective,
    world: World,
    views: int,
    seed: int,
) -> Split:
    return split(
        case.seen,
        Found(case.measured, case.plane, response),
        case.sign,
        group=case.row.group,
        truth=case.truth,
        target=target,
        scenes=case.scenes,
        artwork=case.artwork if case.hung is None else case.hung,
        objective=objective,
        world=world_at(world, case.pose, case.scenes.faces.size_mm[0], stand=case.stand),
        views=views,
        seed=seed_of(seed, case.row.file),
    )


def _distributions(cases: Sequence[Case], splits: Sequence[Split]) -> dict[str, Any]:
    """Percentiles (2.5, 50, 97.5) of what was measured in the photographs and, by the same means, in the views."""
    views = [one for each in splits for one in each.world]
    shifts: dict[str | None, list[tuple[float, float]]] = {}
    for case in cases:
        if case.measured.shift_mm is not None:
            shifts.setdefault(case.work, []).append(case.measured.shift_mm)
    return {
        "stops": _beside([case.measured.light.stops for case in cases], [stops for stops, _ in views]),
        "blur_px": _beside([case.measured.blur_px for case in cases], [blur for _, blur in views]),
        "shift_mm": _shift(shifts),
    }


def _beside(photographs: Iterable[float | None], world: Iterable[float | None]) -> dict[str, Any] | None:
    """inside: the share of the photographs within the central 95 % of the views."""
    one, other = (np.array([v for v in values if v is not None]) for values in (photographs, world))
    if len(one) < FEWEST:
        return None
    known = len(other) >= FEWEST
    ends = np.quantile(other, MIDDLE) if known else None
    inside = None if ends is None else float(((one >= ends[0]) & (one <= ends[2])).mean())
    return {
        "photographs": np.quantile(one, MIDDLE).tolist(),
        "world": None if ends is None else ends.tolist(),
        "inside": inside,
    }


def _shift(shifts: Mapping[str | None, Sequence[tuple[float, float]]]) -> dict[str, Any] | None:
    """Of the artwork that hangs worst: the length of the median shift of its photographs, in mm, and its direction."""
    middles = [np.median(np.array(some), axis=0) for some in shifts.values() if len(some) >= FEWEST]
    if not middles:
        return None
    worst = max(middles, key=lambda one: float(np.hypot(*one)))
    return {"common": float(np.hypot(*worst)), "x": float(worst[0]), "y": float(worst[1])}
