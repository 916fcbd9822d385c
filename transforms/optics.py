"""Blur as one banded matrix per axis: K_y · image · K_xᵀ."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

_BAND = 9  # a pixel of a dense product costs a ninth of one tap of a sum of shifted images, per pixel of the frame


@dataclass(frozen=True)
class Blur:
    """Each view's kernel along y and x: its taps at distance 0, 1, ..., reach px (0 beyond).

    Rows are normalised over what lies in the frame: no light is lost at the edges.
    """

    down: Float[Tensor, "n reach"]
    along: Float[Tensor, "n reach"]
    rows: Float[Tensor, "n height"]  # the sum of the taps in the frame, for every pixel of an axis
    columns: Float[Tensor, "n width"]
    height: int
    width: int

    @property
    def reach(self) -> int:
        return self.down.shape[1] - 1

    def take(self, rows: Int[Tensor, " r"] | slice) -> "Blur":
        down, along, of_rows, of_columns = (part[rows] for part in (self.down, self.along, self.rows, self.columns))
        return Blur(down, along, of_rows, of_columns, self.height, self.width)

    def whole(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The images blurred; without gradient."""
        if self.reach == 0:
            return images
        if _BAND * (2 * self.reach + 1) > min(self.height, self.width):
            return separable(images, _toeplitz(self.down, self.rows), _toeplitz(self.along, self.columns))
        return _shifted(_shifted(images, self.down, self.rows, 2), self.along, self.columns, 3)

    def window(
        self,
        patch: Float[Tensor, "n c h w"],
        top: Int[Tensor, " n"],
        left: Int[Tensor, " n"],
        *,
        to: tuple[Int[Tensor, " n"], Int[Tensor, " n"], int, int],
    ) -> Float[Tensor, "n c y x"]:
        """What a patch at (top, left) of otherwise dark frames is within the window `to`: top, left, height, width."""
        if self.reach == 0:
            return patch
        rows = _between(self.down, self.rows, top, patch.shape[2], to[0], to[2])
        columns = _between(self.along, self.columns, left, patch.shape[3], to[1], to[3])
        wide = torch.bmm(patch.flatten(1, 2), columns.mT).unflatten(1, patch.shape[1:3])
        return rows[:, None] @ wide


def blur_of(spread: Float[Tensor, "n 4"], height: int, width: int, *, halo: Float[Tensor, "n 2"] | None = None) -> Blur:
    """Gaussian with the variance of lens and shutter together. halo: amount and variance of a sharpening after it."""
    down, along = _kernels(spread, height, width, halo)
    reach = max(int((taps != 0).any(0).sum()) for taps in (down, along))
    down, along = (pad(taps, (0, max(0, reach - taps.shape[1])))[:, :reach] for taps in (down, along))
    return Blur(down, along, _sums(down, height), _sums(along, width), height, width)


def blur_matrices(
    spread: Float[Tensor, "n 4"], height: int, width: int, *, halo: Float[Tensor, "n 2"] | None = None
) -> tuple[Float[Tensor, "n h h"], Float[Tensor, "n w w"]]:
    """The same as matrices, rows summing to 1."""
    down, along = _kernels(spread, height, width, halo)
    return _toeplitz(down, _sums(down, height)), _toeplitz(along, _sums(along, width))


def _kernels(
    spread: Float[Tensor, "n 4"], height: int, width: int, halo: Float[Tensor, "n 2"] | None
) -> tuple[Float[Tensor, "n height"], Float[Tensor, "n width"]]:
    """Along y and x. Sharpened: (1 + amount) · kernel − amount · kernel as much wider as the halo."""

    def along(axis: int, size: int) -> Float[Tensor, "n {size}"]:
        variance, length = spread[:, axis], spread[:, 2 + axis]
        taps = _taps(variance, length, size)
        if halo is None:
            return taps
        return taps + halo[:, :1] * (taps - _taps(variance + halo[:, 1], length, size))

    return along(1, height), along(0, width)


def _taps(variance: Float[Tensor, " n"], length: Float[Tensor, " n"], size: int) -> Float[Tensor, "n size"]:
    # A pixel integrates the kernel over its own width: a difference of error functions, exact down to sigma 0.
    gap = torch.arange(size, device=variance.device, dtype=variance.dtype)
    total = variance + length**2 / 12  # a shutter of length L has variance L² / 12
    scale = (2 * total).clamp(min=1e-8).sqrt()[:, None]
    return torch.erf((gap + 0.5) / scale) - torch.erf((gap - 0.5) / scale)


def _sums(taps: Float[Tensor, "n k"], size: int) -> Float[Tensor, "n size"]:
    """Of the taps that lie in the frame, for every pixel of an axis."""
    reach = min(taps.shape[1], size)
    one_sided = taps[:, :reach].cumsum(1)
    inward = one_sided[:, torch.arange(size, device=taps.device).clamp(max=reach - 1)]
    return inward + inward.flip(1) - taps[:, :1]


def _toeplitz(taps: Float[Tensor, "n k"], sums: Float[Tensor, "n size"]) -> Float[Tensor, "n size size"]:
    start = torch.zeros(len(taps), dtype=torch.long, device=taps.device)
    return _between(taps, sums, start, sums.shape[1], start, sums.shape[1])


def _between(
    taps: Float[Tensor, "n k"],
    sums: Float[Tensor, "n size"],
    start: Int[Tensor, " n"],
    count: int,
    to: Int[Tensor, " n"],
    length: int,
) -> Float[Tensor, "n length count"]:
    """Rows `to`, ... of the matrix of an axis, columns `start`, ..."""
    rows = to[:, None] + torch.arange(length, device=taps.device)
    columns = start[:, None] + torch.arange(count, device=taps.device)
    gap = (rows[:, :, None] - columns[:, None]).abs_().clamp_(max=taps.shape[1])
    found = pad(taps, (0, 1)).gather(1, gap.flatten(1)).view_as(gap)
    return found.div_(sums.gather(1, rows)[:, :, None])


def _shifted(
    images: Float[Tensor, "n c h w"], taps: Float[Tensor, "n k"], sums: Float[Tensor, "n size"], axis: int
) -> Float[Tensor, "n c h w"]:
    """The sum of the images shifted along an axis, each with its tap."""
    size, reach = images.shape[axis], taps.shape[1] - 1
    middle = sums[:, size // 2, None]
    weight = (taps / middle)[:, :, None, None, None]
    blurred = images * weight[:, 0]
    for gap in range(1, reach + 1):
        for to, start in ((0, gap), (gap, 0)):
            shifted = images.narrow(axis, start, size - gap)
            blurred.narrow(axis, to, size - gap).addcmul_(shifted, weight[:, gap])
    lost = (middle / sums).reshape((-1, 1, size, 1) if axis == 2 else (-1, 1, 1, size))
    for start in (0, size - reach):
        blurred.narrow(axis, start, reach).mul_(lost.narrow(axis, start, reach))
    return blurred


def separable(
    images: Float[Tensor, "n c h w"], rows: Float[Tensor, "n h h"], columns: Float[Tensor, "n w w"]
) -> Float[Tensor, "n c h w"]:
    """Apply both matrices to every channel."""
    return rows[:, None] @ images @ columns[:, None].mT
