"""The plane of a sign from its shape: the drawn face's rim, laid over the photograph inside the annotated box.

Letters differ from country to country and shear the fit when they do; the rim of a polygon does not. A disc's rim says
nothing of how it is turned, so discs keep the plane of their box; three sides do not determine a perspective.
"""

from dataclasses import dataclass
from math import ceil, floor

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from physadv.scenes.base import Faces
from physadv.scenes.classes import GTSRB, shape_of
from physadv.scenes.faces import has_art

Box = tuple[float, float, float, float]
Corners = Float[np.ndarray, "4 2"]
Matrix = Float[np.ndarray, "3 3"]

SIDE_PX = 64  # the face's side in the template, and of the box in the crop
MARGIN_PX = 13  # template round the face
REACH = 0.45  # crop round the box, as a share of its sides
RIM = (0.12, 0.08)  # of the face's side, inside and outside its outline: what is compared
BLUR_PX = 3
STEPS = 80
LEAST_HUE = 0.03  # a face without colour has no rim to go by
LEAST_CORRELATION = 0.72  # of the whole stop signs of roadsign, those above 0.74 lie right and those below 0.68 do not
MOST_CHANGE = 0.15  # of the box's sides, before the fitted outline is put back into the box
MOST_SHIFT = 0.3  # of a corner, as a share of the box's sides
SMALLEST_PX = 16  # of a box: below, the fit is no better than the box
AFFINE, PERSPECTIVE = cv2.MOTION_AFFINE, cv2.MOTION_HOMOGRAPHY
UNIT = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
_HALF = np.array([[1.0, 0.0, -0.5], [0.0, 1.0, -0.5], [0.0, 0.0, 1.0]])  # pixel centres at +0.5 -> at integers


@dataclass(frozen=True)
class Template:
    """What a face looks like near its rim. axis: the face's hue in RGB; outline: in [0, 1]² of the raster.

    motions: OpenCV's, each fitted from where the one before ended.
    """

    hue: Float[np.ndarray, "h w"]
    rim: UInt8[np.ndarray, "h w"]
    axis: Float[np.ndarray, " 3"]
    outline: Float[np.ndarray, "points 2"]
    motions: tuple[int, ...]


def template(faces: Faces, row: int) -> Template | None:
    """The template of a face; None where its shape cannot be fitted: no drawing, a disc, or no colour."""
    name = faces.names[row]
    if name not in GTSRB or not has_art(name) or shape_of(name).sides == 0:
        return None
    raster = cv2.resize(faces.images[row].permute(1, 2, 0).numpy(), (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    rgb, alpha = raster[..., :3], raster[..., 3]
    mean = (rgb * alpha[..., None]).sum((0, 1)) / alpha.sum()
    axis = mean - mean.mean()
    if np.linalg.norm(axis) < LEAST_HUE:
        return None
    axis = axis / np.linalg.norm(axis)
    hue, opaque = (_padded(plane) for plane in (_hue(rgb, axis) * alpha, (alpha > 0.5).astype(np.uint8)))
    inner, outer = cv2.erode(opaque, _disc(RIM[0])), cv2.dilate(opaque, _disc(RIM[1]))
    outline = (faces.outline_mm[row] / faces.size_mm[row]).double().numpy()
    perspective = shape_of(name).sides > 3
    return Template(hue, outer - inner, axis, outline, (AFFINE, PERSPECTIVE) if perspective else (AFFINE,))


def box_corners(outline: Float[np.ndarray, "points 2"], box: Box) -> Corners:
    """Where the raster's corners lie if the sign is seen straight on: its outline fills the box."""
    return project(_into(outline, box), UNIT)


def fitted_corners(pixels: UInt8[np.ndarray, "h w 3"], box: Box, template: Template) -> Corners | None:
    """Where the raster's corners TL TR BR BL lie in the photograph, px; None: keep those of the box.

    Maximises the enhanced correlation coefficient (Evangelidis & Psarakis 2008, eq. 9) of the face's hue near its rim,
    over affinities, then homographies; then the outline is put back into the box, which stays the truth.
    """
    if min(box[2] - box[0], box[3] - box[1]) < SMALLEST_PX:
        return None
    crop, valid, to_crop = _crop(pixels, box)
    to_template = np.array([[SIDE_PX, 0.0, MARGIN_PX], [0.0, SIDE_PX, MARGIN_PX], [0.0, 0.0, 1.0]])
    before, after = np.linalg.inv(to_template) @ np.linalg.inv(_HALF), _HALF @ to_crop
    start = after @ _into(template.outline, box) @ before
    warp, correlation = _aligned(template, _hue(crop, template.axis), valid, start)
    if warp is None or correlation < LEAST_CORRELATION:
        return None
    fitted = np.linalg.inv(after) @ warp @ np.linalg.inv(before)
    return _accepted(fitted, template.outline, box)


def project(matrix: Matrix, points: Float[np.ndarray, "k 2"]) -> Float[np.ndarray, "k 2"]:
    """Points through a homography."""
    moved = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    return moved[:, :2] / moved[:, 2:]


def _accepted(fitted: Matrix, outline: Float[np.ndarray, "points 2"], box: Box) -> Corners | None:
    """The corners with the fitted outline put back into the box, if neither it nor they have gone astray."""
    low, high = np.array(box[:2]), np.array(box[2:])
    seen = project(fitted, outline)
    changed = np.abs(np.concatenate([seen.min(0) - low, seen.max(0) - high])) / np.tile(high - low, 2)
    corners = project(_into(seen, box) @ fitted, UNIT)
    shifted = np.abs(corners - box_corners(outline, box)) / (high - low)
    sound = np.isfinite(corners).all() and changed.max() <= MOST_CHANGE and shifted.max() <= MOST_SHIFT
    return corners if sound else None


def _aligned(
    template: Template, hue: Float[np.ndarray, "y x"], valid: UInt8[np.ndarray, "y x"], start: Matrix
) -> tuple[Matrix | None, float]:
    """Template px -> crop px (pixel centres at integers), and the correlation reached; None: it did not converge."""
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, STEPS, 1e-5)
    warp, correlation = (start / start[2, 2]).astype(np.float32), -1.0
    try:
        for motion in template.motions:
            rows = 2 if motion == AFFINE else 3
            correlation, part = cv2.findTransformECCWithMask(
                template.hue, hue, template.rim, valid, warp[:rows].copy(), motion, stop, BLUR_PX
            )
            warp[:rows] = part
    except cv2.error:  # the correlation turned negative or the crop has no structure: OpenCV's only way to say so
        return None, -1.0
    return warp.astype(np.float64), float(correlation)


def _crop(
    pixels: UInt8[np.ndarray, "h w 3"], box: Box
) -> tuple[Float[np.ndarray, "y x 3"], UInt8[np.ndarray, "y x"], Matrix]:
    """The photograph round the box, where it is photograph, and the matrix photograph px -> crop px.

    The box becomes SIDE_PX x SIDE_PX, antialiased.
    """
    x1, y1, x2, y2 = box
    width, height = x2 - x1, y2 - y1
    height_px, width_px = pixels.shape[:2]
    left, top = max(floor(x1 - REACH * width), 0), max(floor(y1 - REACH * height), 0)
    right, bottom = min(ceil(x2 + REACH * width), width_px), min(ceil(y2 + REACH * height), height_px)
    window = pixels[top:bottom, left:right].astype(np.float32) / 255
    scale_x, scale_y = SIDE_PX / width, SIDE_PX / height
    to_crop = np.array(
        [[scale_x, 0.0, (REACH * width - x1) * scale_x], [0.0, scale_y, (REACH * height - y1) * scale_y], [0, 0, 1.0]]
    )
    soft = cv2.sepFilter2D(window, -1, _soft(scale_x), _soft(scale_y), borderType=cv2.BORDER_REPLICATE)
    offset = np.array([[1.0, 0.0, left], [0.0, 1.0, top], [0.0, 0.0, 1.0]])
    matrix = _HALF @ to_crop @ offset @ np.linalg.inv(_HALF)
    size = (ceil(SIDE_PX * (1 + 2 * REACH)),) * 2
    crop = cv2.warpPerspective(soft, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    valid = cv2.warpPerspective(np.ones(window.shape[:2], np.uint8), matrix, size)
    return crop, valid, to_crop


def _soft(scale: float) -> Float[np.ndarray, "k 1"]:
    """The Gaussian that a picture needs before it is scaled down, in its px; a single 1 where it is scaled up."""
    sigma = 0.45 * max(1 / scale**2 - 1, 0.0) ** 0.5
    return np.asarray(cv2.getGaussianKernel(2 * ceil(3 * sigma) + 1, max(sigma, 1e-3)))


def _hue(rgb: Float[np.ndarray, "h w 3"], axis: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "h w"]:
    """How far a colour leans towards the face's, in shares of its brightness: 0 for every grey."""
    return ((rgb @ axis) / (rgb.mean(-1) + 0.1)).astype(np.float32)


def _padded(plane: np.ndarray) -> np.ndarray:
    return np.pad(plane, MARGIN_PX)


def _disc(share: float) -> UInt8[np.ndarray, "k k"]:
    side = 2 * round(share * SIDE_PX) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))


def _into(points: Float[np.ndarray, "points 2"], box: Box) -> Matrix:
    """The scaling and shift that makes `box` the box about the points."""
    low, high = points.min(0), points.max(0)
    scale = (np.array(box[2:]) - box[:2]) / (high - low)
    shift = np.array(box[:2]) - low * scale
    return np.array([[scale[0], 0.0, shift[0]], [0.0, scale[1], shift[1]], [0.0, 0.0, 1.0]])
