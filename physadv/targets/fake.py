"""A tiny classifier and a tiny detector that need no weight file: the doubles to test against."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from physadv.scenes.classes import GTSRB
from physadv.targets.base import Classifier, Frame
from physadv.targets.detector import Detector

SEED, GAIN = 0, 20.0
COLOURED = ("stop", "trafficlight", "crosswalk")  # red, green, blue


class FakeTarget(nn.Module):
    """logits = GAIN * D (mean colour - 0.5): each class wants the image to drift in its own direction of colour.

    The rows of D are unit vectors, so every class is the answer to some image.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        directions = torch.randn(classes, 3, generator=torch.Generator().manual_seed(SEED))
        self.directions = nn.Parameter(nn.functional.normalize(directions, dim=1))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        return GAIN * (images.mean((2, 3)) - 0.5) @ self.directions.T


class BlindTarget(nn.Module):
    """Always the same answer; the gradient of the images exists and is zero."""

    def __init__(self, classes: int, answer: int) -> None:
        super().__init__()
        self.answer = nn.Parameter(nn.functional.one_hot(torch.tensor(answer), classes).float())

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        return self.answer + 0 * images.mean((1, 2, 3))[:, None]


class FakeDetector(nn.Module):
    """score = sigmoid(GAIN * (mean hue in the box - least)) of the squares on a grid, `sizes_px` wide, a quarter apart.

    The hue of class c is channel c less the mean of the other two: red, green, blue things.
    """

    def __init__(self, classes: int, sizes_px: tuple[int, ...], least: float) -> None:
        super().__init__()
        self.sizes_px = sizes_px
        self.hues = nn.Parameter(1.5 * torch.eye(3)[:classes] - 0.5)
        self.least = nn.Parameter(torch.tensor(least))

    def forward(self, images: Float[Tensor, "n 3 s s"]) -> tuple[Float[Tensor, "n k 4"], Float[Tensor, "n k c"]]:
        hue = torch.einsum("ck,nkyx->ncyx", self.hues, images)
        means = [avg_pool2d(hue, size, stride=max(1, size // 4)) for size in self.sizes_px]
        boxes = torch.cat([self._grid(size, *mean.shape[-2:]) for size, mean in zip(self.sizes_px, means, strict=True)])
        scores = (GAIN * (torch.cat([mean.flatten(2) for mean in means], 2) - self.least)).sigmoid()
        return boxes.expand(len(images), -1, -1), scores.mT

    def _grid(self, size: int, rows: int, columns: int) -> Float[Tensor, "k 4"]:
        steps = torch.arange(max(rows, columns), device=self.hues.device) * max(1, size // 4)
        corner = torch.cartesian_prod(steps[:rows], steps[:columns]).flip(1).float()
        return torch.cat([corner, corner + size], 1)


def fake_classifier(*, classes: tuple[str, ...] = GTSRB, size_px: int = 32, context: float = 0.1) -> Classifier:
    """A FakeTarget as Classifier: always the same weights, a millisecond per batch."""
    return Classifier.of(FakeTarget(len(classes)), classes=classes, frame=Frame(size_px, context), name="fake")


def blind_classifier(
    *, answer: str = "stop", classes: tuple[str, ...] = GTSRB, size_px: int = 32, context: float = 0.1
) -> Classifier:
    """A classifier that ignores its input and always says `answer`: what no attack can change."""
    module = BlindTarget(len(classes), classes.index(answer))
    return Classifier.of(module, classes=classes, frame=Frame(size_px, context), name="blind")


def fake_detector(
    *,
    classes: tuple[str, ...] = COLOURED,
    size_px: int = 64,
    sizes_px: tuple[int, ...] = (8, 12, 18, 27, 40),
    least: float = 0.2,
) -> Detector:
    """A FakeDetector as Detector; with least = 9, one that never finds anything."""
    module = FakeDetector(len(classes), sizes_px, least)
    return Detector.of(module, classes=classes, frame=Frame(size_px, whole=True, pad=0.5), name="fake")
