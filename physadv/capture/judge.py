"""One photograph: where the sign is, what the target says, and what the world foretells for the same pose."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from physadv.capture.layout import Layout
from physadv.capture.measure import Measured, Sight, measure
from physadv.capture.photos import Photo
from physadv.capture.pose import Plane, Pose, fit_plane, nominal_focal_px, pose_of
from physadv.capture.quads import Quad
from physadv.capture.tags import find
from physadv.errors import UserError
from physadv.files import image_tensor
from physadv.heldout import HeldOut
from physadv.objectives import Objective
from physadv.question import Target, answer, heard, truth_at
from physadv.scenes import Scenes
from physadv.scenes.canvas import crop
from physadv.targets.base import Frame, frozen
from physadv.threats import Artwork
from physadv.transforms.geometry import SENSOR_PX
from physadv.transforms.stages import Stages, derive
from physadv.transforms.view import Backdrop, Pinhole
from physadv.transforms.world import Views, World

FEWEST_TAGS = 2  # one tag fits any homography exactly, and would be believed wherever it is seen by mistake
LARGEST_ERROR = 0.05  # of the sign's width: tags further off were printed or mounted elsewhere, or are others
LARGEST_SIGN = 4.0  # photograph's sides: a sign of that width is known only by what is not in the picture
MEASURED_PX, MEASURED_CONTEXT = 96, 0.25
_TURN_DEG, _NEAR, _DISTANCE_M, _FOCAL_PX = 80.0, 1.05, (0.2, 500.0), (50.0, 20000.0)  # what Pinhole takes


Stand: TypeAlias = tuple[float, float]
"""Where in a whole frame the sign stands, in shares of the room that it leaves there."""


@dataclass(frozen=True)
class Sighting:
    """The sign's face in a photograph. pose: with a nominal focal length where `measured` is false.

    found: tags, or None for a quad.
    """

    plane: Plane
    pose: Pose
    measured: bool
    sign_px: float
    found: int | None


@dataclass(frozen=True)
class Answer:
    """What the target says of the photograph, whether the goal is reached, and the views foretold that reach it.

    grey: those that a control in place of the artwork reaches it in; None without one.
    right: the answer is the sign's class. measured: its light and blur; None where too little of the face shows.
    """

    name: str
    confidence: float
    right: bool
    success: bool
    predicted: int
    views: int
    grey: int | None
    seen: Float[Tensor, "3 h w"]
    foretold: Float[Tensor, "3 h w"]
    measured: Measured | None


@dataclass(frozen=True)
class Cut:
    """A square of the photograph, resized. to_px: surface mm -> its px. scale: its px per px of the photograph."""

    picture: Float[Tensor, "3 h w"]
    to_px: Float[np.ndarray, "3 3"]
    scale: float

    def sight(self, scenes: Scenes) -> Sight:
        return Sight.of(self.picture, self.to_px, self.scale, scenes)


def locate(photo: Photo, by: Layout | Quad, scenes: Scenes) -> Sighting:
    """The sign by its tags or its quad. UserError: there are too few tags, or they contradict one another."""
    size_mm = scenes.faces.size_mm[scenes.face[0]].double().cpu().numpy()
    if isinstance(by, Quad):
        points_mm, points_px, found = size_mm * [[0, 0], [1, 0], [1, 1], [0, 1]], by.corners_px, None
    else:
        tags = find(photo.pixels, by.family, wanted=by.corners_mm.keys())
        known = [number for number in tags if number in by.corners_mm]
        found = len(known)
        if found < FEWEST_TAGS:
            raise UserError(f"{found} of {len(by.corners_mm)} tags found; two are needed: go nearer, or give --quads.")
        points_mm = np.concatenate([by.corners_mm[number] for number in known])
        points_px = np.concatenate([tags[number] for number in known])
    plane = fit_plane(points_mm, points_px)
    sign_px = float(np.ptp(_outline_px(plane, scenes), axis=0).max())
    if plane.error_px > LARGEST_ERROR * sign_px:
        raise UserError(f"The tags contradict their places by {plane.error_px:.1f} px: check the layout or the sheet.")
    focal_px = photo.focal_px or nominal_focal_px(plane, size_mm)
    size_px = (photo.pixels.shape[1], photo.pixels.shape[0])
    pose = pose_of(points_mm, points_px, centre_mm=size_mm / 2, focal_px=focal_px, size_px=size_px)
    return Sighting(plane, pose, photo.focal_px is not None, sign_px, found)


def cut_out(photo: Photo, plane: Plane, scenes: Scenes, frame: Frame) -> Cut:
    """What the target sees, antialiased: the square round the outline's box with the frame's context, or all of it.

    UserError: the sign is outside the photograph, or so large that most of it must be.
    """
    outline = _outline_px(plane, scenes)
    (x1, y1), (x2, y2) = outline.min(0).tolist(), outline.max(0).tolist()
    sides = max(x2 - x1, y2 - y1) / max(photo.pixels.shape[:2])
    if not sides < LARGEST_SIGN:
        raise UserError(f"The sign would be {sides:.0f} times as wide as the photograph: check its corners.")
    if frame.whole:
        return _whole(photo, plane, frame)
    canvas = crop(photo.pixels, (x1, y1, x2, y2), canvas_px=frame.size_px, margin=frame.context)
    matrix = np.array(canvas.matrix) @ plane.matrix
    return Cut(image_tensor(Image.fromarray(canvas.pixels)), matrix, canvas.scale)


def _whole(photo: Photo, plane: Plane, frame: Frame) -> Cut:
    """The photograph in the top-left of the frame, aspect kept."""
    height, width = photo.pixels.shape[:2]
    scale = frame.size_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = torch.full((3, frame.size_px, frame.size_px), frame.pad)
    shrunk = Image.fromarray(photo.pixels).resize(size, Image.Resampling.BICUBIC)
    picture[:, : size[1], : size[0]] = image_tensor(shrunk)
    return Cut(picture, np.diag([size[0] / width, size[1] / height, 1.0]) @ plane.matrix, scale)


def sight_of(photo: Photo, plane: Plane, scenes: Scenes, frame: Frame) -> Sight:
    """The crop in which light and blur are measured: the target's, or a coarser one; of a whole photograph its sign."""
    context = MEASURED_CONTEXT if frame.whole else frame.context
    return cut_out(photo, plane, scenes, Frame(min(frame.size_px, MEASURED_PX), context)).sight(scenes)


def on_sensor(photo: Photo, frame: Frame) -> float:
    """Px of the world's camera per px of the photograph: a detector is shown the whole of it, whatever it was."""
    return SENSOR_PX / max(photo.pixels.shape[:2]) if frame.whole else 1.0


def standing(cut: Cut, scenes: Scenes, frame: Frame) -> Stand | None:
    """None: the frame is a crop round the sign."""
    if not frame.whole:
        return None
    box = box_in(cut, scenes)
    free = (frame.size_px - (box[2:] - box[:2])).clamp(min=1e-3)
    x, y = (box[:2] / free).clamp(0, 1).tolist()
    return x, y


@dataclass(frozen=True)
class There(World):
    """A world whose staged signs all stand in the same place of the frame."""

    stand: Stand = (0.5, 0.5)

    def draw(self, views: Sequence[int], *, seed: int, paired: bool = False) -> Views:
        drawn = super().draw(views, seed=seed, paired=paired)
        draws = tuple(replace(one, stand=one.stand.new_tensor(self.stand).expand_as(one.stand)) for one in drawn.draws)
        return replace(drawn, draws=draws)


def world_at(
    world: World,
    pose: Pose,
    size_mm: Float[Tensor, "2"],
    *,
    scale: float = 1.0,
    stand: Stand | None = None,
) -> World:
    """The world with everything as it is but the camera, which stands where the photograph was taken.

    Boxes do not miss, because the photograph is cut by the measured face. Poses beyond the pinhole's range are
    brought to its ends. scale: px of its sensor per px of the photograph. stand: of `standing`.
    """
    near_m = _NEAR * float(size_mm.norm()) / 2000
    turns = {name: float(np.clip(getattr(pose, name), -_TURN_DEG, _TURN_DEG)) for name in ("yaw_deg", "pitch_deg")}
    values = turns | {
        "roll_deg": pose.roll_deg,
        "distance_m": float(np.clip(pose.distance_m, max(near_m, _DISTANCE_M[0]), _DISTANCE_M[1])),
        "focal_px": float(np.clip(scale * pose.focal_px, *_FOCAL_PX)),
    }
    pinhole = Pinhole(**{name: (value, value) for name, value in values.items()})
    components = tuple(_from_there(stages, pinhole) for stages in world.components)
    if stand is None:
        return replace(world, components=components)
    return There(world.name, components, world.note, world.reserved, stand=stand)


def _from_there(stages: Stages, pinhole: Pinhole) -> Stages:
    return replace(stages, view=(pinhole, *(one for one in stages.view if isinstance(one, Backdrop))))


def judge(
    photo: Photo,
    sighting: Sighting,
    *,
    target: Target,
    scenes: Scenes,
    artwork: Artwork | None,
    objective: Objective,
    world: World,
    views: int,
    seed: int,
    paper_mm: tuple[float, ...] | None = None,
    hung: Artwork | None = None,
    control: Artwork | None = None,
) -> Answer:
    """The target on the photograph, and on `views` views that the world takes of the staged sign from the same place.

    The clean sign is not in the photograph, so success counts whatever the target would say without the artwork, in
    the photograph as in the views. hung: the artwork on its uncut sheet, which the views show in its place. control:
    what the same views show in its place to tell what covering alone would do.
    """
    frame, size_mm = target.frame, scenes.faces.size_mm[0]
    cut = cut_out(photo, sighting.plane, scenes, frame)
    where = {"scale": on_sensor(photo, frame), "stand": standing(cut, scenes, frame)}
    there = world_at(world, sighting.pose, size_mm, **where)  # type: ignore[arg-type]
    held_out = HeldOut(target, scenes, there, views, seed_of(seed, photo.name), keep=True)
    sight = sight_of(photo, sighting.plane, scenes, frame)
    truth = truth_at(target, scenes, box_in(cut, scenes))
    with frozen(target.module), torch.no_grad():
        said = answer(target, cut.picture[None].to(target.device))
        worn = artwork if hung is None else hung
        foretold, *others = held_out.answers(worn, *([] if control is None else [control]))
        first = next(held_out.photographs(worn))[0]
    reached = objective.success(foretold, held_out.truth)
    if not len(reached):
        raise UserError("The sign is larger than the photograph: a detector cannot be asked about it; go further away.")
    name, confidence, right = heard(target, said, truth)
    return Answer(
        name=name,
        confidence=confidence,
        right=right,
        success=bool(objective.success(said, truth)),
        predicted=int(reached.sum()),
        views=len(reached),
        grey=int(objective.success(others[0], held_out.truth).sum()) if others else None,
        seen=cut.picture,
        foretold=first.cpu(),
        measured=measure(sight, scenes, artwork, paper_mm=paper_mm, place=False),
    )


def seed_of(seed: int, name: str) -> int:
    """Of the views foretold for one photograph."""
    return derive(seed, "capture", name)


def box_in(cut: Cut, scenes: Scenes) -> Float[Tensor, "4"]:
    """The sign's outline in what the target sees, xyxy px."""
    outline = _outline_px(Plane(cut.to_px, 0.0), scenes)
    return torch.from_numpy(np.concatenate([outline.min(0), outline.max(0)])).float()


def _outline_px(plane: Plane, scenes: Scenes) -> Float[np.ndarray, "k 2"]:
    return plane.project(scenes.faces.outline_mm[scenes.face[0]].double().cpu().numpy())
