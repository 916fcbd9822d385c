"""Networks of usual sizes with random weights: how long they take does not depend on what they know."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from physadv.targets.blocks import Residual, conv, stage


class FourConvolutions(nn.Module):
    """Four 3 × 3 convolutions, each with ReLU and 2 × 2 max pooling; 0.24 M parameters, input 64 px."""

    input_size = 64

    def __init__(self, classes: int, widths: tuple[int, ...] = (32, 64, 128, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *widths), widths, strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        return self.head(self.features(images).mean((2, 3)))


class ResNet18(nn.Module):
    """A stem and four stages of two basic blocks; 11.2 M parameters, input 224 px (He et al. 2016)."""

    input_size = 224

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        first = nn.Sequential(Residual(64, 64, stride=1), Residual(64, 64, stride=1))
        self.stages = nn.Sequential(first, stage(64, 128), stage(128, 256), stage(256, 512))
        self.head = nn.Linear(512, classes)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        return self.head(self.stages(self.stem(images)).mean((2, 3)))


class ResNet50(nn.Module):
    """Stages of 3, 4, 6, 3 bottlenecks; 25.6 M parameters for 1,000 classes, input 224 px (He et al. 2016)."""

    input_size = 224

    def __init__(self, classes: int, depths: tuple[int, ...] = (3, 4, 6, 3)) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        blocks, before = [], 64
        for number, depth in enumerate(depths):
            for block in range(depth):
                blocks.append(_Bottleneck(before, 64 * 2**number, stride=2 if number and not block else 1))
                before = 256 * 2**number
        self.stages = nn.Sequential(*blocks)
        self.head = nn.Linear(before, classes)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        return self.head(self.stages(self.stem(images)).mean((2, 3)))


class _Bottleneck(nn.Module):
    """1 x 1 to `width`, 3 x 3, 1 x 1 to four times that, and the way past."""

    def __init__(self, before: int, width: int, *, stride: int) -> None:
        super().__init__()
        after = 4 * width
        narrow, middle = conv(before, width, kernel=1), conv(width, width, stride)
        self.branch = nn.Sequential(*narrow, nn.ReLU(), *middle, nn.ReLU(), *conv(width, after, kernel=1))
        changes = stride != 1 or before != after
        self.shortcut = nn.Sequential(*conv(before, after, stride, kernel=1)) if changes else nn.Identity()

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d k l"]:
        return torch.relu(self.shortcut(features) + self.branch(features))


class ViTSmall(nn.Module):
    """Patches of 16 px and twelve blocks of width 384, six heads; 21.4 M parameters, input 224 px.

    Dosovitskiy et al. 2021, in the size of Touvron et al. 2021; the mean of the tokens answers.
    """

    input_size = 224

    def __init__(self, classes: int, width: int = 384, depth: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.position = nn.Parameter(0.02 * torch.randn(1, (self.input_size // 16) ** 2, width))
        self.blocks = nn.Sequential(*(_Block(width) for _ in range(depth)), nn.LayerNorm(width))
        self.head = nn.Linear(width, classes)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        tokens = self.patches(images).flatten(2).mT + self.position
        return self.head(self.blocks(tokens).mean(1))


class _Block(nn.Module):
    """Attention, then two layers, each normalised before and added to its input."""

    def __init__(self, width: int, heads: int = 6) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.asked, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mixed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: Float[Tensor, "b k w"]) -> Float[Tensor, "b k w"]:
        query, key, value = self.asked(self.before(tokens)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = tokens + self.out(seen)
        return tokens + self.mixed(tokens)
