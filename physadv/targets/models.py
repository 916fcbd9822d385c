"""Three small networks by name, and the one file format they are kept in."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from physadv.errors import UserError
from physadv.files import read_tensors, write_tensors
from physadv.targets.base import Classifier, Frame, set_eval

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
    return nn.Sequential(*_conv(before, after), nn.ReLU(), *_conv(after, after), nn.ReLU(), nn.MaxPool2d(2))


def _conv(before: int, after: int, stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(after)


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
        self.stem = nn.Sequential(*_conv(3, widths[0]), nn.ReLU())
        self.stages = nn.Sequential(
            *(_stage(before, after) for before, after in zip((widths[0], *widths), widths, strict=False))
        )
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(widths[-1], classes))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        return self.head(self.stages(self.stem((images - MEAN) / STD)).mean((2, 3)))


def _stage(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(_Residual(before, after, stride=2), _Residual(after, after, stride=1))


class _Residual(nn.Module):
    """relu(x + conv(relu(conv(x)))); a strided 1x1 convolution on the way past where the shape changes."""

    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_conv(before, after, stride), nn.ReLU(), *_conv(after, after))
        changes = stride != 1 or before != after
        shortcut = (nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))
        self.shortcut = nn.Sequential(*shortcut) if changes else nn.Identity()

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d k l"]:
        return torch.relu(self.shortcut(features) + self.branch(features))


ARCHITECTURES: dict[str, Callable[[int], nn.Module]] = {
    "tiny-cnn": TinyCNN,
    "small-cnn": SmallCNN,
    "small-resnet": SmallResNet,
}


def build(arch: str, *, classes: int, seed: int) -> nn.Module:
    """A new network with initial weights that depend on `seed` alone; the global generator is left as it was."""
    if arch not in ARCHITECTURES:
        raise UserError(f"There is no architecture '{arch}'; there are {', '.join(ARCHITECTURES)}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARCHITECTURES[arch](classes)


def save_classifier(place: str | Path, classifier: Classifier, arch: str, record: dict[str, Any]) -> Path:
    """Write weights and what rebuilds the classifier to a .safetensors file, or into a folder; returns the file."""
    path = Path(place) if Path(place).suffix == ".safetensors" else Path(place) / WEIGHTS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"arch": arch, "classes": classifier.classes, "frame": asdict(classifier.frame), "record": record}
    write_tensors(path, classifier.module.state_dict(), metadata)
    return path


def read_classifier(place: str | Path, *, name: str) -> tuple[Classifier, dict[str, Any]]:
    """The classifier kept at `place`, in evaluation mode, and its record."""
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
    return Classifier.of(module, classes=classes, frame=frame, name=name), record


def _parse(metadata: dict[str, Any], path: Path) -> tuple[str, tuple[str, ...], Frame, dict[str, Any]]:
    try:
        return metadata["arch"], tuple(metadata["classes"]), Frame(**metadata["frame"]), metadata["record"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} does not say which architecture and classes its weights are for; "
            "save it with physadv, or load your own model with python:FILE.py:FACTORY."
        ) from error
