"""From street photographs and drawn faces to what a detector is trained and judged on."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from physadv.augment import DISTRACTOR, Cutout, Labelled
from physadv.errors import UserError
from physadv.files import image_tensor, open_image
from physadv.precision import match
from physadv.scenes.base import Faces
from physadv.scenes.classes import canonical
from physadv.scenes.street import Street
from physadv.targets.base import frozen
from physadv.targets.boxes import UNKNOWN, Detections, Seen, joined
from physadv.targets.detector import Detector
from physadv.transforms.stages import derive

FACE_PX = 128  # longer side of a drawn face that is pasted
LOWEST, HIGHEST = 0.05, 0.95  # operating thresholds


def classes_of(streets: Sequence[Street]) -> tuple[str, ...]:
    """The classes of the boxes, sorted. Errors: UserError where there is no box at all."""
    classes = tuple(sorted({sign.label for street in streets for sign in street.signs}))
    if not classes:
        raise UserError("There is no box in any of the photographs to train on; a detector learns from boxes.")
    return classes


def hold_out(streets: Sequence[Street], *, share: float, seed: int) -> tuple[list[Street], list[Street]]:
    """Photographs to train on, and those of about `share` of the groups, drawn by `seed`; at least one group each."""
    groups = sorted({street.group for street in streets})
    if len(groups) < 2:
        raise UserError("All photographs are of one group (place), so that none can be held out; give more of them.")
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(derive(seed, "held-out groups")))
    held = {groups[row] for row in order[: min(max(1, round(share * len(groups))), len(groups) - 1)].tolist()}
    return [one for one in streets if one.group not in held], [one for one in streets if one.group in held]


def labelled(street: Street, classes: Sequence[str], *, longest_px: int) -> Labelled:
    """The photograph and its boxes, made smaller where its longer side is above `longest_px`."""
    image = np.asarray(open_image(street.path))
    scale = min(1.0, longest_px / max(image.shape[:2]))
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    boxes = np.array([sign.box for sign in street.signs], np.float32).reshape(-1, 4) * np.float32(scale)
    labels = np.array([list(classes).index(sign.label) for sign in street.signs], np.int64)
    return Labelled(image, boxes, labels)


def drawn(faces: Faces, classes: Sequence[str]) -> list[Cutout]:
    """Faces as cut-outs. One that is of no class is pasted without a box: it is not to be found."""
    labels = [label_of(name, classes) for name in faces.names]
    return [_cutout(image, label) for image, label in zip(faces.images, labels, strict=True)]


def label_of(name: str, classes: Sequence[str]) -> int:
    """The class a drawn face is of, by name: stop of `stop`, speed-limit-30 of `speedlimit`; else DISTRACTOR."""
    name = canonical(name)
    if name in classes:
        return list(classes).index(name)
    fits = [row for row, one in enumerate(classes) if name.replace("-", "").startswith(one.replace("-", ""))]
    return fits[0] if len(fits) == 1 else DISTRACTOR


def _cutout(image: Tensor, label: int) -> Cutout:
    """RGBA (4, h, w) in [0, 1], without its transparent margin."""
    pixels = (255 * image.permute(1, 2, 0)).round().byte().numpy()
    rows, columns = (np.flatnonzero((pixels[..., 3] > 0).any(axis)) for axis in (1, 0))
    pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = min(1.0, FACE_PX / max(pixels.shape[:2]))
    return Cutout(cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), label)


def found(detector: Detector, streets: Sequence[Street]) -> tuple[Detections, Seen]:
    """What the detector finds in each photograph, at its own size, and what there is."""
    detections = []
    with frozen(detector.module), torch.no_grad():
        for street in streets:
            image = image_tensor(open_image(street.path))[None].to(detector.device)
            detections.append(_on_cpu(detector.detect(image)))
    signs = [(row, sign) for row, street in enumerate(streets) for sign in street.signs]
    known = [detector.classes.index(one.label) if one.label in detector.classes else UNKNOWN for _, one in signs]
    seen = Seen(
        image=torch.tensor([row for row, _ in signs], dtype=torch.long),
        label=torch.tensor(known, dtype=torch.long),
        box=torch.tensor([sign.box for _, sign in signs]).reshape(-1, 4),
        worn=torch.zeros(len(signs), dtype=torch.bool),
    )
    return joined(detections), seen


def _on_cpu(found: Detections) -> Detections:
    return Detections(found.boxes.cpu(), found.scores.cpu(), found.labels.cpu())


def best_threshold(detections: Detections, seen: Seen, *, classes: int) -> float:
    """The score with the best F1 over all classes, halfway to the next lower one; within [0.05, 0.95]."""
    parts = [match(detections, seen, label=label) for label in range(classes)]
    scores = np.concatenate([part.score for part in parts])
    right = np.concatenate([part.right for part in parts])
    if not right.any():
        return 0.3
    order = np.argsort(-scores, kind="stable")
    hits, signs = right[order].cumsum(), sum(int(part.signs.sum()) for part in parts)
    best = int((2 * hits / (np.arange(len(hits)) + 1 + signs)).argmax())
    below = scores[order][min(best + 1, len(order) - 1)]
    return float(np.clip((scores[order][best] + below) / 2, LOWEST, HIGHEST))
