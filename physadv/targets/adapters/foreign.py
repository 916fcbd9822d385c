"""A module of somebody else's and what it says of itself -> Classifier | Detector, tried on two grey images."""

import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from physadv.errors import UserError
from physadv.files import read_json
from physadv.scenes.classes import GTSRB
from physadv.targets.adapters.names import COCO_80
from physadv.targets.base import Classifier, Frame, check_logits, one_line, probe, set_eval, weights_hash
from physadv.targets.detector import Detector, check_boxes, probe_boxes

Settings = Mapping[str, Any]
DEFAULT_PX, DEFAULT_CONTEXT = 64, 0.1
DETECTOR_PX, PAD, THRESHOLD, NMS_IOU = 640, 114 / 255, 0.3, 0.5
COCO = "coco"  # in place of a list of classes


def is_detection(settings: Settings) -> bool:
    return settings.get("task") == "detection"


def beside(path: Path) -> dict[str, Any]:
    """What stands in the json of the same stem; nothing where there is none."""
    file = path.with_suffix(".json")
    settings = read_json(file) if file.is_file() else {}
    if not isinstance(settings, dict):
        raise UserError(f'{file} must hold an object such as {{"input_size": 48, "classes": ["stop", ...]}}.')
    return settings


def needed(library: str, name: str, *, extra: str) -> Any:
    """A library that is not physadv's own dependency. UserError where it is missing or cannot be imported."""
    try:
        return importlib.import_module(library)
    except Exception as error:  # torchvision beside another torch than its own: a RuntimeError
        raise UserError(
            f"{name} needs {library}, which cannot be imported ({one_line(error)}): pip install 'physadv[{extra}]', "
            "in an environment where torch and torchvision are of the same release."
        ) from error


def classifier_of(module: nn.Module, settings: Settings, name: str) -> Classifier:
    """The classifier around `module`. Settings: input_size (64 px), classes, context (0.1)."""
    frame = Frame(_whole(settings, "input_size", DEFAULT_PX, name), _number(settings, "context", DEFAULT_CONTEXT, name))
    set_eval(module)
    before = weights_hash(module)
    classes = _names(settings, name)
    if classes is None:
        classes = _default_classes(probe(module, frame, name=name).shape[1])
    classifier = Classifier(module, classes, frame, name, before)
    check_logits(classifier)
    _refuse_changes(module, before, name)
    return classifier


def detector_of(module: nn.Module, settings: Settings, name: str) -> Detector:
    """The detector around `module`, a map as `Detector` says.

    Settings: input_size (640 px), classes (a list, or "coco"), pad (114/255), threshold (0.3), nms_iou (0.5; or None).
    """
    settings = {**settings, "task": "detection"}
    pad = _number(settings, "pad", PAD, name)
    if not 0 <= pad <= 1:
        raise UserError(f"pad of {name} is the grey round the photograph, 0 to 1, not {pad:g}; 114/255 is common.")
    frame = Frame(_whole(settings, "input_size", DETECTOR_PX, name), whole=True, pad=pad)
    set_eval(module)
    before = weights_hash(module)
    classes = _names(settings, name)
    if classes is None:
        classes = _numbered(probe_boxes(module, frame, name=name).scores.shape[2])
    unsuppressed = settings.get("nms_iou", NMS_IOU) is None
    detector = Detector(
        module,
        classes,
        frame,
        name,
        before,
        threshold=_number(settings, "threshold", THRESHOLD, name),
        nms_iou=None if unsuppressed else _number(settings, "nms_iou", NMS_IOU, name),
    )
    check_boxes(detector)
    _refuse_changes(module, before, name)
    return detector


def _refuse_changes(module: nn.Module, before: str, name: str) -> None:
    if weights_hash(module) != before:
        raise UserError(f"{name} changes its own weights or buffers when called; make its forward leave them alone.")


def _default_classes(outputs: int) -> tuple[str, ...]:
    return GTSRB if outputs == len(GTSRB) else _numbered(outputs)


def _numbered(outputs: int) -> tuple[str, ...]:
    return tuple(f"class-{row}" for row in range(outputs))


def _whole(settings: Settings, key: str, default: int, name: str) -> int:
    value = _number(settings, key, default, name)
    if value != int(value):
        raise UserError(f"{key} of {name} must be a whole number of px, not {value}.")
    return int(value)


def _number(settings: Settings, key: str, default: float, name: str) -> float:
    value = settings.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"{key} of {name} must be a number, not {value!r}.")
    return value


def _names(settings: Settings, name: str) -> tuple[str, ...] | None:
    classes = settings.get("classes")
    if classes is None:
        return None
    if classes == COCO and is_detection(settings):
        return COCO_80
    if not isinstance(classes, (list, tuple)) or not all(isinstance(slug, str) for slug in classes):
        each = "class" if is_detection(settings) else "logit"
        raise UserError(f"classes of {name} must be a list of names, one per {each}.")
    return tuple(classes)
