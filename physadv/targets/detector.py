"""f: the detector under attack. Letterbox and normalisation are inside, and differentiable."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from kornia.geometry.bbox import nms
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad
from torch.nn.utils.rnn import pad_sequence

from physadv.errors import UserError
from physadv.targets.base import Frame, device_of, weights_hash
from physadv.targets.boxes import Detections, Raw

FEWEST_SCORE = 0.01  # detections below do not change an average precision by a tenth of a point
MOST = 100  # detections of an image, as COCO counts them
CANDIDATES = 1000  # boxes that NMS looks at


@dataclass(frozen=True)
class Detector:
    """A module that maps square sRGB images in [0, 1] to boxes and scores before NMS, and all that has to be known.

    module: (n, 3, s, s) -> (boxes (n, k, 4) xyxy in its input's px, scores (n, k, c) in [0, 1]), s = frame.size_px.
    threshold: its operating point; a detection below does not count. nms_iou: None for detectors that need no NMS.
    """

    module: nn.Module
    classes: tuple[str, ...]
    frame: Frame
    name: str
    weights_hash: str
    threshold: float = 0.3
    nms_iou: float | None = 0.5
    differentiable: bool = True
    randomised: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise UserError(f"The operating threshold of {self.name} is {self.threshold:g}; give a score in (0, 1).")

    @classmethod
    def of(cls, module: nn.Module, *, classes: tuple[str, ...], frame: Frame, name: str) -> "Detector":
        """The detector around `module`, hashed as it is now."""
        return cls(module, classes, frame, name, weights_hash(module))

    def __call__(self, images: Float[Tensor, "n 3 h w"]) -> Raw:
        """Before NMS; boxes in px of the images given."""
        boxed, scale = letterbox(images, self.frame)
        boxes, scores = self.module(boxed)
        return Raw(boxes / scale, scores)

    def detect(self, images: Float[Tensor, "n 3 h w"]) -> Detections:
        """After NMS within each class; from the score of 0.01 up."""
        raw = self(images)
        return suppress(raw, self.nms_iou)

    @property
    def device(self) -> torch.device:
        return device_of(self.module)

    def to(self, device: torch.device | str) -> "Detector":
        """This detector on `device`; the module itself moves, as everywhere in torch."""
        return replace(self, module=self.module.to(device))


def letterbox(images: Float[Tensor, "n 3 h w"], frame: Frame) -> tuple[Float[Tensor, "n 3 s s"], float]:
    """The images in the top-left of a square, aspect kept, the rest `frame.pad`; and input px per px of the images."""
    height, width = images.shape[-2:]
    scale = frame.size_px / max(height, width)
    if scale != 1:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        images = interpolate(images, size, mode="bilinear", antialias=scale < 1, align_corners=False)
    height, width = images.shape[-2:]
    return pad(images, (0, frame.size_px - width, 0, frame.size_px - height), value=frame.pad), scale


def suppress(raw: Raw, nms_iou: float | None) -> Detections:
    """Non-maximum suppression within each class; the surest 100 detections of each image."""
    found = [_suppress(boxes, scores, nms_iou) for boxes, scores in zip(raw.boxes, raw.scores, strict=True)]
    return Detections(*(pad_sequence(column, batch_first=True) for column in zip(*found, strict=True)))


def _suppress(
    boxes: Float[Tensor, "k 4"], scores: Float[Tensor, "k c"], nms_iou: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    box, label = (scores >= FEWEST_SCORE).nonzero().unbind(1)
    score = scores[box, label]
    order = score.argsort(descending=True, stable=True)[:CANDIDATES]
    box, label, score = box[order], label[order], score[order]
    if nms_iou is not None and len(box):
        apart = boxes[box] + label[:, None] * (boxes.max() - boxes.min() + 1)  # classes do not meet
        kept = nms(apart, score, nms_iou)
        box, label, score = box[kept], label[kept], score[kept]
    return boxes[box][:MOST], score[:MOST], label[:MOST]
