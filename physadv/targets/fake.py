"""A tiny classifier that needs no weight file: the double to test against."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from physadv.scenes.classes import GTSRB
from physadv.targets.base import Classifier, Frame

SEED, GAIN = 0, 20.0


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


def fake_classifier(*, classes: tuple[str, ...] = GTSRB, size_px: int = 32, context: float = 0.1) -> Classifier:
    """A FakeTarget as Classifier: always the same weights, a millisecond per batch."""
    return Classifier.of(FakeTarget(len(classes)), classes=classes, frame=Frame(size_px, context), name="fake")


def blind_classifier(
    *, answer: str = "stop", classes: tuple[str, ...] = GTSRB, size_px: int = 32, context: float = 0.1
) -> Classifier:
    """A classifier that ignores its input and always says `answer`: what no attack can change."""
    module = BlindTarget(len(classes), classes.index(answer))
    return Classifier.of(module, classes=classes, frame=Frame(size_px, context), name="blind")
