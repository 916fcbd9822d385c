"""What a detector says (boxes with scores, before and after NMS), what there is to be seen, and when the two agree."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MATCH_IOU = 0.5  # a detection is of a sign from here on (PASCAL VOC; AP50)
UNKNOWN = -1  # the label of what the detector has no class for


@runtime_checkable
class Answers(Protocol):
    """Boxes of n images, xyxy in their px, k each, and the score in [0, 1] of any class at every box."""

    @property
    def boxes(self) -> Float[Tensor, "n k 4"]: ...

    def scores_of(self, image: Int[Tensor, " m"], label: Int[Tensor, " m"]) -> Float[Tensor, "m k"]:
        """How sure it is of class label[j] at each box of image[j]; 0 where the class is UNKNOWN."""
        ...


@dataclass(frozen=True)
class Raw:
    """Every box before NMS, differentiable. Padding has score 0."""

    boxes: Float[Tensor, "n k 4"]
    scores: Float[Tensor, "n k c"]

    def scores_of(self, image: Int[Tensor, " m"], label: Int[Tensor, " m"]) -> Float[Tensor, "m k"]:
        return self.scores[image, :, label.clamp(min=0)] * (label >= 0)[:, None]


@dataclass(frozen=True)
class Detections:
    """What is left after NMS: each box has one class; surest first. Padding has score 0."""

    boxes: Float[Tensor, "n k 4"]
    scores: Float[Tensor, "n k"]
    labels: Int[Tensor, "n k"]

    def __len__(self) -> int:
        return len(self.boxes)

    def scores_of(self, image: Int[Tensor, " m"], label: Int[Tensor, " m"]) -> Float[Tensor, "m k"]:
        return self.scores[image] * (self.labels[image] == label[:, None])

    def take(self, rows: Int[Tensor, " m"]) -> "Detections":
        return Detections(self.boxes[rows], self.scores[rows], self.labels[rows])


@dataclass(frozen=True)
class Seen:
    """The signs in n images. image: the row of each one's; label: the detector's class, or UNKNOWN.

    worn: it carries the artwork.
    """

    image: Int[Tensor, " m"]
    label: Int[Tensor, " m"]
    box: Float[Tensor, "m 4"]
    worn: Bool[Tensor, " m"]

    def __len__(self) -> int:
        return len(self.image)

    def take(self, rows: Int[Tensor, " k"] | Bool[Tensor, " m"]) -> "Seen":
        """Some of the signs."""
        return Seen(self.image[rows], self.label[rows], self.box[rows], self.worn[rows])


def together(parts: Sequence[Seen], images: Sequence[int] = ()) -> Seen:
    """The signs of one after those of the other, sorted by image; images: of each, where all begin at 0."""
    starts = [sum(images[:row]) for row in range(len(parts))] if images else [0] * len(parts)
    shifted = [replace(part, image=part.image + start) for part, start in zip(parts, starts, strict=True)]
    columns = ([getattr(part, name) for part in shifted] for name in ("image", "label", "box", "worn"))
    whole = Seen(*map(torch.cat, columns))
    return whole.take(whole.image.argsort(stable=True))


def joined(parts: Sequence[Detections]) -> Detections:
    """The images of one after those of the other, padded to as many boxes."""
    most = max(part.boxes.shape[1] for part in parts)
    padded = [[_padded(one, most) for one in (part.boxes, part.scores, part.labels)] for part in parts]
    return Detections(*(torch.cat(column) for column in zip(*padded, strict=True)))


def _padded(values: Tensor, count: int) -> Tensor:
    missing = values.new_zeros(len(values), count - values.shape[1], *values.shape[2:])
    return torch.cat([values, missing], 1)


def area(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def overlap(one: Float[Tensor, "*n 4"], other: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Area that two boxes share, px²."""
    low, high = torch.maximum(one[..., :2], other[..., :2]), torch.minimum(one[..., 2:], other[..., 2:])
    return area(torch.cat([low, high], -1))


def iou(one: Float[Tensor, "*n 4"], other: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """Intersection over union; 0 for two empty boxes."""
    shared = overlap(one, other)
    return shared / (area(one) + area(other) - shared).clamp(min=1e-6)


def inside(boxes: Float[Tensor, "*n 4"], place: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """The share of each box that lies in a place."""
    return overlap(boxes, place) / area(boxes).clamp(min=1e-6)
