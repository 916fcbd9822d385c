"""Noise and sharpness of a photograph of a chart."""

import numpy as np
import torch
from jaxtyping import Bool, Float

from physadv.calibration.chart import INNER, Chart, Reading, homography, project
from physadv.calibration.difference import linear

_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
_SIGMAS_PX = np.geomspace(0.2, 8, 38)
_SHIFTS_PX = np.linspace(-1.5, 1.5, 21)
_PIXELS_MAX = 250  # of one edge: more than that only take longer
_CONTRAST = 0.35  # of an edge, as a share of the paper beside it
_PIXEL_VARIANCE = 1 / 12  # of a box one px wide, which is no fault of the lens


def noise(reading: Reading) -> tuple[float, float]:
    """shot, read of variance = shot · light + read², from the pixels of each patch; halftone and JPEG are in it.

    Errors of a variance grow with it, so every patch is weighted by 1 / (fitted variance)².
    """
    light, variance = reading.mean[~reading.clipped].ravel(), reading.variance[~reading.clipped].ravel()
    terms = np.column_stack([light, np.ones_like(light)])
    fitted = np.full_like(variance, variance.mean())
    shot = read2 = 0.0
    for _ in range(5):
        weight = 1 / np.maximum(fitted, 1e-9)
        shot, read2 = non_negative(terms * weight[:, None], variance * weight)
        fitted = shot * light + read2
    return shot, float(np.sqrt(read2))


def non_negative(terms: Float[np.ndarray, "n 2"], right: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Least squares of two coefficients that are not below zero."""
    both = np.linalg.lstsq(terms, right, rcond=None)[0]
    if (both >= 0).all():
        return float(both[0]), float(both[1])
    alone = (terms * right[:, None]).sum(0) / (terms**2).sum(0)
    misses = ((terms * alone - right[:, None]) ** 2).sum(0)
    return (float(max(alone[0], 0)), 0.0) if misses[0] < misses[1] else (0.0, float(max(alone[1], 0)))


def blur_px(image: Float[np.ndarray, "h w 3"], chart: Chart, corners_px: Float[np.ndarray, "4 2"]) -> float | None:
    """Sigma of the Gaussian by which the patches' outer edges are spread, beyond the pixel itself; None: no edge.

    Edges that face another patch are left out (the gap between is too narrow). Every edge may lie up to 1.5 px from
    where the corners say it is, and has its own two shades; all have one sigma.
    """
    matrix = homography(np.asarray(corners_px, float))
    profiles = [_profile(image, matrix, box, side) for box, side in _free_edges(chart.box_uv)]
    paper = max((light[outside].mean() for _, light, outside in profiles if outside.any()), default=0.0)
    misses = [_misses(apart, light) for apart, light, outside in profiles if _stands_out(light, outside, paper)]
    if not misses:
        return None
    total = np.sum(misses, axis=0)
    best = int(total.argmin())
    return float(np.sqrt(max(_SIGMAS_PX[best] ** 2 - _PIXEL_VARIANCE, 0.0)))


def _free_edges(boxes: Float[np.ndarray, "n 4"]) -> list[tuple[Float[np.ndarray, "4"], int]]:
    """Boxes and sides (0 left, 1 top, 2 right, 3 bottom) beyond which there is half a patch of paper."""
    found = []
    for box in boxes:
        for side in range(4):
            beyond = _window(box, side)
            touched = ((boxes[:, :2] < beyond[2:]) & (boxes[:, 2:] > beyond[:2])).all(1).sum() > 1  # itself is one
            if not touched and (beyond >= 0).all() and (beyond <= 1).all():
                found.append((box, side))
    return found


def _window(box: Float[np.ndarray, "4"], side: int) -> Float[np.ndarray, "4"]:
    """Half a patch to either side of an edge, along the inner part of it."""
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    axis = side % 2
    low, high = centre - half * INNER, centre + half * INNER
    low[axis], high[axis] = box[side] - half[axis], box[side] + half[axis]
    return np.concatenate([low, high])


def _profile(
    image: Float[np.ndarray, "h w 3"], matrix: Float[np.ndarray, "3 3"], box: Float[np.ndarray, "4"], side: int
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"], Bool[np.ndarray, " m"]]:
    """Distance to an edge in px (outside: above 0), luminance, and which pixels lie well outside."""
    left, top, right, bottom = _window(box, side)
    quad = project(matrix, np.array([[left, top], [right, top], [right, bottom], [left, bottom]]))
    (x0, y0), (x1, y1) = np.maximum(np.floor(quad.min(0)), 0).astype(int), np.ceil(quad.max(0)).astype(int)
    window = image[y0:y1, x0:x1]
    places = np.stack(np.meshgrid(np.arange(window.shape[1]) + x0, np.arange(window.shape[0]) + y0), -1) + 0.5
    uv = project(np.linalg.inv(matrix), places)
    inside = ((uv > (left, top)) & (uv < (right, bottom))).all(-1)
    every = max(1, int(inside.sum()) // _PIXELS_MAX)
    apart = _distance_px(places[inside][::every], matrix, box, side)
    return apart, linear(window[inside][::every]) @ _LUMINANCE, apart > 0.5 * apart.max(initial=0)


def _distance_px(
    places: Float[np.ndarray, "m 2"], matrix: Float[np.ndarray, "3 3"], box: Float[np.ndarray, "4"], side: int
) -> Float[np.ndarray, " m"]:
    """Signed distance of pixels to a side of a box, which is a straight line in the photograph."""
    ends = np.array([[box[0], box[1]], [box[2], box[3]]])
    ends[:, side % 2] = box[side]
    start, end = project(matrix, ends)
    middle = project(matrix, (box[:2] + box[2:]) / 2)
    along = (end - start) / np.linalg.norm(end - start)
    normal = np.array([-along[1], along[0]])
    return (places - start) @ normal * -np.sign((middle - start) @ normal)


def _stands_out(light: Float[np.ndarray, " m"], outside: Bool[np.ndarray, " m"], paper: float) -> bool:
    if outside.sum() < 5 or (~outside).sum() < 5:
        return False
    return bool(light[outside].mean() - light[~outside].min() > _CONTRAST * paper)


def _misses(apart: Float[np.ndarray, " m"], light: Float[np.ndarray, " m"]) -> Float[np.ndarray, " sigmas"]:
    """For every sigma, the squared error of the best edge, relative to the spread of the pixels."""
    shifted = (apart - _SHIFTS_PX[:, None]) / _SIGMAS_PX[:, None, None]
    edge = torch.special.ndtr(torch.from_numpy(shifted)).numpy()
    edge = edge - edge.mean(-1, keepdims=True)
    centred = light - light.mean()
    slope = (edge @ centred) / np.maximum((edge**2).sum(-1), 1e-12)
    rest = (centred**2).sum() - slope**2 * (edge**2).sum(-1)
    return rest.min(1) / (centred**2).sum()
