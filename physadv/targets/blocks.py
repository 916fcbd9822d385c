"""Convolutions that the small networks are made of."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def conv(before: int, after: int, stride: int = 1, *, kernel: int = 3) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution and its batch normalisation."""
    return nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(after)


def stage(before: int, after: int, *, blocks: int = 2) -> nn.Sequential:
    """Residual blocks, the first of which halves the resolution."""
    first = Residual(before, after, stride=2)
    return nn.Sequential(first, *(Residual(after, after, stride=1) for _ in range(blocks - 1)))


class Residual(nn.Module):
    """relu(x + conv(relu(conv(x)))); a strided 1x1 convolution on the way past where the shape changes."""

    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*conv(before, after, stride), nn.ReLU(), *conv(after, after))
        changes = stride != 1 or before != after
        shortcut = (nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))
        self.shortcut = nn.Sequential(*shortcut) if changes else nn.Identity()

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d k l"]:
        return torch.relu(self.shortcut(features) + self.branch(features))
