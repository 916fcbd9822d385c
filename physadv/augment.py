"""Labelled photographs seen otherwise: other crops and sizes, four in one, signs pasted, other light and lenses.

The only module that imports albumentations, and only when something is augmented.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy.random import Generator, default_rng

GREY = 114  # what stands where no photograph is, as in the letterbox of a detector
VISIBLE = 0.35  # share of a box that has to be left for it to count
SMALLEST_PX = 3.0  # sides of boxes that are learned
DISTRACTOR = -1  # label of a cut-out that is not to be found
FEATHER = 0.06  # of a cut-out's side: its edge fades in

Boxes = Float[np.ndarray, "m 4"]


@dataclass(frozen=True)
class Labelled:
    """A photograph in 8-bit sRGB with boxes, xyxy px."""

    image: UInt8[np.ndarray, "h w 3"]
    boxes: Boxes
    labels: Int[np.ndarray, " m"]


@dataclass(frozen=True)
class Cutout:
    """A sign without its photograph: RGBA, and its class, or DISTRACTOR."""

    image: UInt8[np.ndarray, "h w 4"]
    label: int


@dataclass(frozen=True)
class Augmentation:
    """How much. mosaic: share of four photographs in one; pasted: cut-outs per picture, at most."""

    size_px: int
    mosaic: float = 0.5
    pasted: int = 2
    zoom: tuple[float, float] = (0.6, 1.6)
    tile_zoom: tuple[float, float] = (0.4, 1.2)
    side_px: tuple[float, float] = (9.0, 120.0)


def augmented(
    photographs: Sequence[Labelled], row: int, cutouts: Sequence[Cutout], how: Augmentation, *, seed: int
) -> Labelled:
    """photographs[row], or it and three others, size_px square."""
    rng = default_rng(seed)
    size = how.size_px
    if rng.random() < how.mosaic:
        others = rng.integers(len(photographs), size=3)
        tiles = [photographs[one] for one in (row, *others)]
        picture = _mosaic([tiles[one] for one in rng.permutation(4)], how, rng)
    else:
        picture = _tile(photographs[row], (size, size), size, how.zoom, rng)
    for _ in range(rng.integers(how.pasted + 1) if cutouts else 0):
        picture = _paste(picture, cutouts[int(rng.integers(len(cutouts)))], how, rng)
    return _otherwise(picture, int(rng.integers(2**31)))


def cut(photograph: Labelled, *, smallest_px: float = 20.0) -> list[Cutout]:
    """The signs of a photograph that are large enough to be pasted into another, with soft edges."""
    found = []
    for box, label in zip(photograph.boxes, photograph.labels, strict=True):
        left, top, right, bottom = np.round(box).astype(int).clip(0)
        face = photograph.image[top:bottom, left:right]
        if min(face.shape[:2]) >= smallest_px:
            found.append(Cutout(np.dstack([face, _soft_edges(*face.shape[:2])]), int(label)))
    return found


def _soft_edges(height: int, width: int) -> UInt8[np.ndarray, "h w"]:
    """Opaque, fading out towards the edge of the rectangle."""
    y, x = (np.minimum(np.arange(n) + 0.5, n - np.arange(n) - 0.5) / (FEATHER * n) for n in (height, width))
    return (255 * np.minimum(y[:, None], x[None]).clip(0, 1)).astype(np.uint8)


def _mosaic(tiles: Sequence[Labelled], how: Augmentation, rng: Generator) -> Labelled:
    """Four photographs round a common corner (Bochkovskiy et al. 2020)."""
    size = how.size_px
    x, y = (round(size * share) for share in rng.uniform(0.3, 0.7, 2))
    canvas, boxes, labels = np.empty((size, size, 3), np.uint8), [], []
    corners = ((0, 0, x, y), (x, 0, size, y), (0, y, x, size), (x, y, size, size))
    for tile, (left, top, right, bottom) in zip(tiles, corners, strict=True):
        part = _tile(tile, (bottom - top, right - left), size, how.tile_zoom, rng)
        canvas[top:bottom, left:right] = part.image
        boxes.append(part.boxes + _floats([left, top, left, top]))
        labels.append(part.labels)
    return Labelled(canvas, np.concatenate(boxes), np.concatenate(labels))


def _tile(one: Labelled, shape: tuple[int, int], size_px: int, zoom: tuple[float, float], rng: Generator) -> Labelled:
    """A window of `shape`, mostly on a sign, in the photograph at size_px for its longer side, zoomed."""
    low, high = np.log(zoom)
    scale = size_px / max(one.image.shape[:2]) * np.exp(rng.uniform(low, high))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    image = cv2.resize(one.image, None, fx=scale, fy=scale, interpolation=how)
    boxes = one.boxes * _floats([image.shape[1] / one.image.shape[1], image.shape[0] / one.image.shape[0]] * 2)
    sign = boxes[rng.integers(len(boxes))] if len(boxes) and rng.random() < 0.8 else None
    top, left = (
        _start(image.shape[axis], shape[axis], None if sign is None else sign[[1 - axis, 3 - axis]], rng)
        for axis in (0, 1)
    )
    canvas = np.full((*shape, 3), GREY, np.uint8)
    seen = image[max(top, 0) : top + shape[0], max(left, 0) : left + shape[1]]
    y, x = max(-top, 0), max(-left, 0)
    canvas[y : y + seen.shape[0], x : x + seen.shape[1]] = seen
    return _visible(canvas, boxes - _floats([left, top, left, top]), one.labels)


def _start(length: int, window: int, span: Float[np.ndarray, " 2"] | None, rng: Generator) -> int:
    """Where a window begins along a side: it covers the span, and either lies in the side or covers all of it."""
    low, high = min(0, length - window), max(0, length - window)
    if span is not None:
        near, far = np.clip([span[1] - window, span[0]], low, high)
        low, high = (near, far) if near <= far else (far, near)
    return round(rng.uniform(low, high))


def _visible(image: UInt8[np.ndarray, "h w 3"], boxes: Boxes, labels: Int[np.ndarray, " m"]) -> Labelled:
    """What is left of the boxes inside the image, without those that are hardly there."""
    height, width = image.shape[:2]
    inside = boxes.clip(0, _floats([width, height, width, height]))
    sides, whole = inside[:, 2:] - inside[:, :2], (boxes[:, 2:] - boxes[:, :2]).prod(1)
    kept = (sides.min(1, initial=np.inf) >= SMALLEST_PX) & (sides.prod(1) >= VISIBLE * whole)
    return Labelled(image, inside[kept].astype(np.float32), labels[kept])


def _paste(one: Labelled, cutout: Cutout, how: Augmentation, rng: Generator) -> Labelled:
    """The cut-out at a random place, size, width and brightness; the picture as it was where it would hide a sign."""
    side, squeeze = np.exp(rng.uniform(*np.log(how.side_px))), rng.uniform(0.7, 1.1)
    scale = side / max(cutout.image.shape[:2])
    width = round(cutout.image.shape[1] * scale * squeeze)
    height = round(cutout.image.shape[0] * scale)
    if min(width, height) < SMALLEST_PX or max(width, height) >= how.size_px:
        return one
    left, top = (int(rng.integers(how.size_px - length)) for length in (width, height))
    box = _floats([left, top, left + width, top + height])
    if _covers(box, one.boxes):
        return one
    sign = cv2.resize(cutout.image, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    colours = sign[..., :3] * rng.uniform(0.4, 1.1) * rng.uniform(0.9, 1.1, 3) + rng.uniform(0, 40)
    alpha, canvas = sign[..., 3:] / 255, one.image.copy()
    under = canvas[top : top + height, left : left + width]
    canvas[top : top + height, left : left + width] = (alpha * colours.clip(0, 255) + (1 - alpha) * under).round()
    if cutout.label == DISTRACTOR:
        return Labelled(canvas, one.boxes, one.labels)
    return Labelled(canvas, np.vstack([one.boxes, box[None]]), np.append(one.labels, cutout.label))


def _floats(values: Sequence[float]) -> Float[np.ndarray, " k"]:
    return np.asarray(values, np.float32)


def _covers(box: Float[np.ndarray, " 4"], boxes: Boxes) -> bool:
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    return bool(((high - low).min(1, initial=np.inf) > 0).any()) if len(boxes) else False


def _otherwise(one: Labelled, seed: int) -> Labelled:
    """Mirrored, tilted, in other light, blurred, noisy, compressed."""
    pipeline = _pipeline()
    pipeline.set_random_seed(seed)
    seen = pipeline(image=one.image, bboxes=one.boxes, labels=one.labels)
    boxes = np.asarray(seen["bboxes"], np.float32).reshape(-1, 4)
    return Labelled(seen["image"], boxes, np.asarray(seen["labels"], np.int64).reshape(-1))


@cache
def _pipeline() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations as A  # noqa: PLC0415 (seconds, and only training needs it)

    geometry = [
        A.HorizontalFlip(p=0.5),
        A.Affine(scale=(0.9, 1.1), rotate=(-6, 6), shear=(-6, 6), fill=GREY, p=0.5),
    ]
    light = [
        A.ColorJitter(brightness=(0.6, 1.4), contrast=(0.6, 1.4), saturation=(0.4, 1.6), hue=(-0.03, 0.03), p=0.8),
        A.RandomGamma(gamma_limit=(70, 140), p=0.3),
        A.ToGray(p=0.03),
    ]
    camera = [
        A.OneOf([A.MotionBlur(blur_limit=(3, 7)), A.GaussianBlur(blur_limit=(3, 5))], p=0.2),
        A.GaussNoise(std_range=(0.01, 0.06), p=0.2),
        A.ImageCompression(quality_range=(40, 95), p=0.2),
    ]
    boxes = A.BboxParams(
        "pascal_voc",
        label_fields=["labels"],
        min_visibility=VISIBLE,
        min_width=SMALLEST_PX,
        min_height=SMALLEST_PX,
        clip=True,
    )
    return A.Compose([*geometry, *light, *camera], bbox_params=boxes)
