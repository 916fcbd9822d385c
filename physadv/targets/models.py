"""Small networks by name, and the one file format they are kept in."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from physadv.errors import UserError
from physadv.files import read_tensors, write_tensors
from physadv.targets.base import Classifier, Frame, set_eval
from physadv.targets.blocks import conv, stage
from physadv.targets.detector import Detector
from physadv.targets.fcos import SignsDet

WEIGHTS_FILE = "model.safetensors"
MEAN, STD = 0.45, 0.25


class SmallCNN(nn.Module):
    """VGG-like: four blocks of two 3x3 convolutions, global average pooling; 0.85 M parameters, input 48 px."""

    def __init__(self, classes: int, widths: tuple[int, ...] = (32, 64, 128, 192), input_size: int = 48) -> None:
        super().__init__()
        self.input_size = input_size
        blocks = [_vgg_block(before, after) for before, after in zip((3, *widths), widths, strict=False)]
        self.features = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(widths[-1], classes))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        return self.head(self.features((images - MEAN) / STD).mean((2, 3)))


def _vgg_block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(*conv(before, after), nn.ReLU(), *conv(after, after), nn.ReLU(), nn.MaxPool2d(2))


class TinyCNN(SmallCNN):
    """The same at half the width, input 32 px: a ninth of the work, for learning curves on a processor."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes, (16, 32, 64, 96), 32)


class SmallResNet(nn.Module):
    """Residual: a stem and four stages of two basic blocks; 2.4 M parameters, input 64 px (He et al. 2016)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.input_size = 64
        widths = (32, 64, 128, 224)
        self.stem = nn.Sequential(*conv(3, widths[0]), nn.ReLU())
        self.stages = nn.Sequential(
            *(stage(before, after) for before, after in zip((widths[0], *widths), widths, strict=False))
        )
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(widths[-1], classes))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        return self.head(self.stages(self.stem((images - MEAN) / STD)).mean((2, 3)))


ARCHITECTURES: dict[str, Callable[[int], nn.Module]] = {
    "tiny-cnn": TinyCNN,
    "small-cnn": SmallCNN,
    "small-resnet": SmallResNet,
}
DETECTORS: dict[str, type[SignsDet]] = {"signs-det": SignsDet}


def build(arch: str, *, classes: int, seed: int) -> nn.Module:
    """A new network with initial weights that depend on `seed` alone; the global generator is left as it was."""
    known = ARCHITECTURES | DETECTORS
    if arch not in known:
        raise UserError(f"There is no architecture '{arch}'; there are {', '.join(known)}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return known[arch](classes)


def save_target(place: str | Path, target: Classifier | Detector, arch: str, record: dict[str, Any]) -> Path:
    """Write weights and what rebuilds the target to a .safetensors file, or into a folder; returns the file."""
    path = Path(place) if Path(place).suffix == ".safetensors" else Path(place) / WEIGHTS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata: dict[str, Any] = {
        "arch": arch,
        "classes": target.classes,
        "frame": asdict(target.frame),
        "record": record,
    }
    if isinstance(target, Detector):
        metadata |= {"threshold": target.threshold, "nms_iou": target.nms_iou}
    write_tensors(path, target.module.state_dict(), metadata)
    return path


def read_target(place: str | Path, *, name: str) -> tuple[Classifier | Detector, dict[str, Any]]:
    """The classifier or detector kept at `place`, in evaluation mode, and its record."""
    path = Path(place) / WEIGHTS_FILE if Path(place).is_dir() else Path(place)
    if not path.exists():
        raise UserError(f"There is no weight file {path}; give a .safetensors file or a folder with {WEIGHTS_FILE}.")
    tensors, metadata = read_tensors(path)
    arch, classes, frame, record = _parse(metadata, path)
    module = build(arch, classes=len(classes), seed=0)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(
            f"The tensors in {path} do not fit a {arch} with {len(classes)} classes; it was saved by something else."
        ) from error
    set_eval(module)
    if arch not in DETECTORS:
        return Classifier.of(module, classes=classes, frame=frame, name=name), record
    threshold, nms_iou = _operating(metadata, path)
    detector = Detector.of(module, classes=classes, frame=frame, name=name)
    return replace(detector, threshold=threshold, nms_iou=nms_iou), record


def save_classifier(place: str | Path, classifier: Classifier, arch: str, record: dict[str, Any]) -> Path:
    """`save_target` of a classifier."""
    return save_target(place, classifier, arch, record)


def read_classifier(place: str | Path, *, name: str) -> tuple[Classifier, dict[str, Any]]:
    """`read_target` where it has to be a classifier."""
    target, record = read_target(place, name=name)
    if not isinstance(target, Classifier):
        raise UserError(f"{name} is a detector, and a classifier is needed here; give another weight file.")
    return target, record


def _operating(metadata: dict[str, Any], path: Path) -> tuple[float, float | None]:
    try:
        return metadata["threshold"], metadata["nms_iou"]
    except KeyError as error:
        raise UserError(f"{path} holds a detector without its {error}; save it with save_target.") from error


def _parse(metadata: dict[str, Any], path: Path) -> tuple[str, tuple[str, ...], Frame, dict[str, Any]]:
    try:
        return metadata["arch"], tuple(metadata["classes"]), Frame(**metadata["frame"]), metadata["record"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} does not say which architecture and classes its weights are for; "
            "save it with physadv, or load your own model with python:FILE.py:FACTORY."
        ) from error
