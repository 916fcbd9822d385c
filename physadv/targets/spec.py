"""`kind:rest` -> Classifier | Detector: how anybody's own model gets in."""

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from physadv import ASSETS
from physadv.errors import UserError
from physadv.files import existing_file
from physadv.targets.adapters.exported import export
from physadv.targets.adapters.foreign import beside, classifier_of
from physadv.targets.adapters.python import python
from physadv.targets.adapters.torchvision import torchvision
from physadv.targets.adapters.transformers import hf
from physadv.targets.adapters.ultralytics import ultralytics
from physadv.targets.base import Classifier, check_logits, one_line
from physadv.targets.detector import Detector, check_boxes
from physadv.targets.models import read_target
from physadv.targets.onnx import Scored

BUILTIN = {
    "gtsrb": "43 German traffic signs (GTSRB), a small VGG-like network",
    "signs-det": "a detector of signs in street photographs, FCOS-like, 1 M parameters",
}


def load_target(spec: str, *, device: torch.device | str = "cpu") -> Classifier | Detector:
    """The classifier or detector that `spec` names, in evaluation mode on `device`, tried on two grey images.

    Errors: UserError for an unknown kind, a missing file, a failing factory, or an output of neither logits nor boxes.
    """
    kind, _, rest = spec.partition(":")
    if kind not in KINDS or not rest:
        raise UserError(f"'{spec}' is no target: {_hint(kind, rest)}")
    target = KINDS[kind](rest, spec)
    try:
        return target.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"{spec} cannot be moved to the device '{device}' ({one_line(error)}); try cpu.") from error


def _hint(kind: str, rest: str) -> str:
    if kind in KINDS:
        return f"write what comes after '{kind}:', as in {EXAMPLES[kind]}."
    guess = BY_SUFFIX.get(Path(kind).suffix) or ("builtin" if kind in BUILTIN else None)
    if guess:
        return f"did you mean {guess}:{kind}{':' + rest if rest else ''}?"
    near = get_close_matches(kind, KINDS, n=1)
    return (f"did you mean {near[0]}:{rest}? " if near else "") + f"The kinds are {', '.join(EXAMPLES.values())}."


def list_targets() -> tuple[tuple[str, str], ...]:
    """(spec, what it is): first the shipped targets, then the kinds of one's own."""
    shipped = tuple((f"builtin:{name}", text) for name, text in BUILTIN.items())
    return (
        *shipped,
        (EXAMPLES["python"], "your own torch module, a classifier or a detector: FACTORY() returns it"),
        (EXAMPLES["export"], "a program saved with torch.export.save"),
        (EXAMPLES["onnx"], "an ONNX model: scores without gradients (needs onnxruntime)"),
        (EXAMPLES["safetensors"], "weights that physadv saved, for instance by `physadv train`"),
        (EXAMPLES["hf"], "a detector of transformers: RT-DETR, DETR, YOLOS ... (needs transformers)"),
        (EXAMPLES["torchvision"], "Faster R-CNN, RetinaNet, SSD, FCOS; NAME:WEIGHTS for your own (needs torchvision)"),
        (EXAMPLES["ultralytics"], "a YOLO, v5u to v11 (needs ultralytics, which is AGPL-3.0)"),
    )


def align_labels(scenes_classes: tuple[str, ...], target_classes: tuple[str, ...]) -> Int[Tensor, " c"]:
    """Row of `target_classes` for each of `scenes_classes`, matched by slug: target label = map[scene label]."""
    rows = {name: row for row, name in enumerate(target_classes)}
    missing = [name for name in scenes_classes if name not in rows]
    if missing:
        near = get_close_matches(missing[0], target_classes, n=1)
        raise UserError(
            f"The target does not know {_some(missing)}{f' (is {missing[0]} its {near[0]}?)' if near else ''}; "
            f"its classes are {_some(target_classes)}. Rename them, or keep only shared ones with --classes."
        )
    return torch.tensor([rows[name] for name in scenes_classes], dtype=torch.int64)


def _some(names: list[str] | tuple[str, ...], shown: int = 6) -> str:
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")


# --- builtin:NAME and safetensors:FILE|DIR


def _builtin(rest: str, name: str) -> Classifier | Detector:
    if rest not in BUILTIN:
        raise UserError(f"There is no {name}; shipped are {', '.join(f'builtin:{known}' for known in BUILTIN)}.")
    path = ASSETS / "weights" / f"{rest}.safetensors"
    if not path.is_file():
        raise UserError(f"The weights of {name} are missing from this installation ({path}); install physadv again.")
    return _safetensors(str(path), name)


def _safetensors(rest: str, name: str) -> Classifier | Detector:
    target, _ = read_target(rest, name=name)
    if isinstance(target, Detector):
        check_boxes(target)
    else:
        check_logits(target)
    return target


# --- onnx:FILE.onnx


def _onnx(rest: str, name: str) -> Classifier:
    path = existing_file(rest)
    module = Scored(path, name)
    size = {} if module.input_size is None else {"input_size": module.input_size}
    classifier = classifier_of(module, size | beside(path), name)
    return replace(classifier, weights_hash=module.weights_hash, differentiable=False)


KINDS: dict[str, Callable[[str, str], Classifier | Detector]] = {
    "builtin": _builtin,
    "python": python,
    "export": export,
    "onnx": _onnx,
    "safetensors": _safetensors,
    "hf": hf,
    "torchvision": torchvision,
    "ultralytics": ultralytics,
}
EXAMPLES = {
    "builtin": "builtin:gtsrb",
    "python": "python:FILE.py:FACTORY",
    "export": "export:FILE.pt2",
    "onnx": "onnx:FILE.onnx",
    "safetensors": "safetensors:FILE_OR_DIR",
    "hf": "hf:DIR_OR_REPO",
    "torchvision": "torchvision:NAME",
    "ultralytics": "ultralytics:FILE.pt",
}
BY_SUFFIX = {".py": "python", ".pt2": "export", ".onnx": "onnx", ".safetensors": "safetensors"}
