"""Where the camera stood: the plane mm -> px, its error, and from the focal length distance and angles."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float

from physadv.errors import UserError

# Without a focal length the sign is taken to be this many times its own width away, as in transforms/view.py: Relative.
WIDTHS_AWAY = 12.0


@dataclass(frozen=True)
class Plane:
    """Surface mm -> photograph px. error_px: root mean square over the points it was fitted to."""

    matrix: Float[np.ndarray, "3 3"]
    error_px: float

    def project(self, points_mm: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        return cv2.perspectiveTransform(points_mm[None].astype(float), self.matrix)[0]


@dataclass(frozen=True)
class Pose:
    """Camera to the centre of the sign's face, and how the face is turned against the ray between them.

    As in transforms/warp.py: yaw positive when the sign's right side recedes, pitch when its top does, roll clockwise.
    """

    distance_m: float
    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    focal_px: float


def fit_plane(points_mm: Float[np.ndarray, "n 2"], points_px: Float[np.ndarray, "n 2"]) -> Plane:
    """The homography of least squares in px. UserError: the points do not span a plane, or it is seen from behind."""
    matrix, _ = cv2.findHomography(points_mm.astype(float), points_px.astype(float), 0)
    if matrix is None or not np.isfinite(matrix).all():
        raise UserError("The corners do not span a plane: check that they are four different points, clockwise.")
    depth = np.column_stack([points_mm, np.ones(len(points_mm))]) @ matrix[2]
    if depth.min() * depth.max() <= 0 or np.linalg.det(matrix) * depth[0] <= 0:
        raise UserError("The corners are in the wrong order or mirrored: give TL TR BR BL, clockwise.")
    plane = Plane(matrix / matrix[2, 2], 0.0)
    error = np.sqrt(((plane.project(points_mm) - points_px) ** 2).sum(1).mean())
    return Plane(plane.matrix, float(error))


def pose_of(
    points_mm: Float[np.ndarray, "n 2"],
    points_px: Float[np.ndarray, "n 2"],
    *,
    centre_mm: Float[np.ndarray, "2"],
    focal_px: float,
    size_px: tuple[int, int],
) -> Pose:
    """The pose of least reprojection error (IPPE, Collins & Bartoli 2014; then Levenberg-Marquardt).

    size_px: width and height of the photograph, whose centre is taken as the principal point. centre_mm: of the face.
    UserError: no pose fits.
    """
    width, height = size_px
    camera = np.array([[focal_px, 0, width / 2], [0, focal_px, height / 2], [0, 0, 1.0]])
    board = np.column_stack([points_mm - centre_mm, np.zeros(len(points_mm))])
    seen = np.ascontiguousarray(points_px, dtype=float)
    turn, shift = cv2.solvePnPRefineLM(board, seen, camera, None, *_start(board, seen, camera))
    return _described(cv2.Rodrigues(turn)[0], shift.ravel(), focal_px)


def _start(
    board: Float[np.ndarray, "n 3"], seen: Float[np.ndarray, "n 2"], camera: Float[np.ndarray, "3 3"]
) -> tuple[Float[np.ndarray, "3 1"], Float[np.ndarray, "3 1"]]:
    """Rotation and shift of the least error; of planes exactly square to the camera IPPE may make no numbers."""
    for method in (cv2.SOLVEPNP_IPPE, cv2.SOLVEPNP_SQPNP):
        _, turns, shifts, errors = cv2.solvePnPGeneric(board, seen, camera, None, flags=method)
        found = [place for place, error in enumerate(np.ravel(errors)) if np.isfinite(error)] if len(turns) else []
        if found:
            best = min(found, key=lambda place: float(np.ravel(errors)[place]))
            return turns[best], shifts[best]
    raise UserError("No camera sees the corners where they are: check --focal-px and the corners.")


def nominal_focal_px(plane: Plane, size_mm: Float[np.ndarray, "2"]) -> float:
    """A focal length for photographs that say none: one that puts the sign 12 of its widths away."""
    width, height = size_mm
    middle = np.array([[0, height / 2], [width, height / 2], [width / 2, 0], [width / 2, height]])
    left, right, top, bottom = plane.project(middle)
    return WIDTHS_AWAY * max(np.linalg.norm(right - left), np.linalg.norm(bottom - top) * width / height)


def _described(turn: Float[np.ndarray, "3 3"], shift_mm: Float[np.ndarray, "3"], focal_px: float) -> Pose:
    """Angles of R = Rz(roll) Rx(-pitch) Ry(-yaw), the order of `warp.pinhole`, with the camera turned to the sign."""
    seen = _facing(shift_mm) @ turn
    return Pose(
        distance_m=float(np.linalg.norm(shift_mm)) / 1000,
        yaw_deg=math.degrees(math.atan2(seen[2, 0], seen[2, 2])),
        pitch_deg=-math.degrees(math.asin(np.clip(seen[2, 1], -1, 1))),
        roll_deg=math.degrees(math.atan2(-seen[0, 1], seen[1, 1])),
        focal_px=focal_px,
    )


def _facing(shift_mm: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """The smallest rotation that brings the ray to the sign onto the optical axis."""
    ray = shift_mm / np.linalg.norm(shift_mm)
    axis = np.cross(ray, [0.0, 0.0, 1.0])
    sine = np.linalg.norm(axis)
    if sine < 1e-12:
        return np.eye(3)
    return cv2.Rodrigues(axis / sine * math.atan2(sine, ray[2]))[0]
