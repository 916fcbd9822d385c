"""An anchor-free detector of about 1 M parameters, after FCOS: every point of three grids names a class and a box.

Tian et al. 2019: boxes per point, a pyramid, one head with GroupNorm. Two departures: one score instead of class and
centreness, trained to be the IoU of the box (Li et al. 2020), and boxes as offset and size, so that a point beside a
small sign may answer for it.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from physadv.targets.blocks import conv, stage

MEAN, STD = 0.45, 0.25
STRIDES_PX = (8, 16, 32)
TYPICAL = 4.0  # sides of a box in strides where the network says 0
LARGEST = 4.0  # of the logarithm of a side, in units of the typical one
RARE = -4.0  # logit of every class at the start: 2 % (Lin et al. 2017)


class SignsDet(nn.Module):
    """Residual backbone, a pyramid of strides 8, 16 and 32 px, one head for all; 1.02 M parameters, input 320 px."""

    input_size = 320

    def __init__(self, classes: int, widths: tuple[int, ...] = (24, 32, 64, 112, 128), neck: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv(3, widths[0], 2), nn.ReLU())
        self.stages = nn.ModuleList(
            stage(before, after, blocks=blocks)
            for before, after, blocks in zip(widths, widths[1:], (1, 2, 2, 1), strict=False)
        )
        self.lateral = nn.ModuleList(nn.Sequential(*conv(width, neck, kernel=1)) for width in widths[2:])
        self.classify, self.regress = _tower(neck, classes), _tower(neck, 4)
        self.scale = nn.Parameter(torch.ones(len(STRIDES_PX)))
        nn.init.constant_(self.classify[-1].bias, RARE)  # type: ignore[arg-type]

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n k 4"], Float[Tensor, "n k c"]]:
        """Boxes xyxy px and a score in [0, 1] of every class, at every point."""
        boxes, logits = self.predict(images)
        return boxes, logits.sigmoid()

    def predict(self, images: Float[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n k 4"], Float[Tensor, "n k c"]]:
        """Boxes and logits."""
        boxes, logits = [], []
        for level, (features, stride_px) in enumerate(zip(self._pyramid(images), STRIDES_PX, strict=True)):
            raw = self.regress(features).float() * self.scale[level]
            boxes.append(_decode(raw, stride_px))
            logits.append(self.classify(features).float().flatten(2).mT)
        return torch.cat(boxes, 1), torch.cat(logits, 1)

    def places(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "k 3"]:
        """x, y and stride, px, of the points that answer."""
        grids = []
        for stride_px in STRIDES_PX:
            height, width = (-(-side // stride_px) for side in images.shape[-2:])
            grid = points(height, width, stride_px, like=images)
            grids.append(torch.cat([grid, grid.new_full((len(grid), 1), stride_px)], 1))
        return torch.cat(grids)

    def _pyramid(self, images: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n c _ _"]]:
        """Features per stride, each with those of the coarser ones added (Lin et al. 2017, feature pyramids)."""
        features, found = self.stem((images - MEAN) / STD), []
        for part in self.stages:
            features = part(features)
            found.append(features)
        levels = [lateral(one) for lateral, one in zip(self.lateral, found[1:], strict=True)]
        for fine in (1, 0):
            levels[fine] = levels[fine] + interpolate(levels[fine + 1], levels[fine].shape[-2:])
        return levels


def _tower(width: int, outputs: int) -> nn.Sequential:
    def block() -> tuple[nn.Module, ...]:
        return nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(8, width), nn.ReLU()

    last = nn.Conv2d(width, outputs, 3, padding=1)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(nn.ReLU(), *block(), *block(), last)


def points(height: int, width: int, stride_px: int, *, like: Tensor) -> Float[Tensor, "k 2"]:
    """Centres x, y of a grid's cells, px."""
    y, x = (torch.arange(count, device=like.device).add(0.5) * stride_px for count in (height, width))
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1).reshape(-1, 2)


def _decode(raw: Float[Tensor, "n 4 h w"], stride_px: int) -> Float[Tensor, "n k 4"]:
    """centre = point + stride * offset; side = 4 * stride * exp(size)."""
    centre = points(raw.shape[-2], raw.shape[-1], stride_px, like=raw) + stride_px * raw[:, :2].flatten(2).mT
    half = 0.5 * TYPICAL * stride_px * raw[:, 2:].flatten(2).mT.clamp(max=LARGEST).exp()
    return torch.cat([centre - half, centre + half], -1)
