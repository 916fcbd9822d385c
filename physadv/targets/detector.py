"""f: the detector under attack. Letterbox and normalisation are inside, and differentiable."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from kornia.geometry.bbox import nms
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad
from torch.nn.utils.rnn import pad_sequence

from physadv.errors import UserError
from physadv.targets.base import Frame, device_of, frozen, one_line, weights_hash
from physadv.targets.boxes import Detections, Raw, area

FEWEST_SCORE = 0.01  # detections below do not change an average precision by a tenth of a point
MOST = 100  # detections of an image, as COCO counts them
CANDIDATES = 1000  # boxes that NMS looks at
FARTHEST_PX = 1e6  # a box that reaches beyond must not cost the others their digits
ROUNDING = 1e-4  # by which a score may leave [0, 1]


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
        if not FEWEST_SCORE <= self.threshold < 1:
            raise UserError(
                f"The operating threshold of {self.name} is {self.threshold:g}; give {FEWEST_SCORE:g} or more, below 1."
            )
        if self.nms_iou is not None and not 0 < self.nms_iou <= 1:
            raise UserError(f"The nms_iou of {self.name} is {self.nms_iou:g}; give one in (0, 1], or none for no NMS.")
        repeated = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if repeated:
            raise UserError(f"{self.name} names a class twice: {', '.join(repeated)}; give every output its own name.")
        if not self.classes:
            raise UserError(f"{self.name} names no class; it needs at least one.")

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
        return self.kept(self(images))

    def kept(self, raw: Raw) -> Detections:
        """Of what it said of some images, what is left after NMS."""
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
    return Detections(*(pad_sequence([*column], batch_first=True) for column in zip(*found, strict=True)))


def _suppress(
    boxes: Float[Tensor, "k 4"], scores: Float[Tensor, "k c"], nms_iou: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    real = area(boxes) > 0  # two boxes of no area have no IoU
    box, label = ((scores >= FEWEST_SCORE) & real[:, None]).nonzero().unbind(1)
    score = scores[box, label]
    order = score.argsort(descending=True, stable=True)[:CANDIDATES]
    box, label, score = box[order], label[order], score[order]
    if nms_iou is not None and len(box):
        some = boxes[box].double().clamp(-FARTHEST_PX, FARTHEST_PX)
        apart = some + label[:, None] * (some.max() - some.min() + 1)  # classes do not meet
        first = torch.arange(len(box), 0, -1, device=box.device)  # kornia's own order of equal scores is any
        kept = nms(apart, first, nms_iou)
        box, label, score = box[kept], label[kept], score[kept]
    return boxes[box][:MOST], score[:MOST], label[:MOST]


def check_boxes(detector: Detector) -> Raw:
    """What it returns for two grey images; a UserError where that is no boxes with scores for its classes."""
    raw = probe_boxes(detector.module, detector.frame, name=detector.name)
    if raw.scores.shape[2] != len(detector.classes):
        raise UserError(
            f"{detector.name} returns the scores of {raw.scores.shape[2]} classes but names {len(detector.classes)}; "
            "make the two agree."
        )
    return raw


def probe_boxes(module: nn.Module, frame: Frame, *, name: str) -> Raw:
    """What the frozen module returns for a dark and a light grey image: finite boxes (2, k, 4), scores (2, k, c)."""
    grey = torch.tensor([0.25, 0.75], device=device_of(module)).reshape(2, 1, 1, 1)
    images = grey.expand(2, 3, frame.size_px, frame.size_px).contiguous()
    with frozen(module), torch.no_grad():
        try:
            answer = module(images)
        except Exception as error:
            raise UserError(
                f"{name} fails on images of shape {tuple(images.shape)} ({one_line(error)}); "
                "it must take (b, 3, h, w) at its input_size."
            ) from error
    return _checked(answer, name)


def _checked(answer: object, name: str) -> Raw:
    if not isinstance(answer, (tuple, list)) or len(answer) != 2 or not all(_is_float(part) for part in answer):
        raise UserError(f"{name} returns {_kind(answer)}; a detector returns two float tensors, (boxes, scores).")
    boxes, scores = answer
    if (
        boxes.ndim != 3
        or scores.ndim != 3
        or boxes.shape[2] != 4
        or scores.shape[2] < 1
        or not (boxes.shape[:2] == scores.shape[:2] == (2, boxes.shape[1]))
    ):
        raise UserError(
            f"{name} returns boxes {tuple(boxes.shape)} and scores {tuple(scores.shape)} for 2 images; "
            "a detector returns boxes (2, k, 4) and scores (2, k, number of classes)."
        )
    if not torch.isfinite(boxes).all() or not torch.isfinite(scores).all():
        raise UserError(f"{name} returns NaN or infinite boxes or scores for grey images; check its weights.")
    low, high = (float(end) for end in scores.aminmax()) if scores.numel() else (0.0, 0.0)
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise UserError(f"{name} returns scores from {low:.3g} to {high:.3g}; they must lie in [0, 1]: add a sigmoid.")
    return Raw(boxes, scores)


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _kind(answer: object) -> str:
    if isinstance(answer, Tensor):
        return f"one {answer.dtype} tensor {tuple(answer.shape)}"
    if isinstance(answer, (tuple, list)):
        return f"({', '.join(type(part).__name__ for part in answer)})"
    return f"a {type(answer).__name__}"
