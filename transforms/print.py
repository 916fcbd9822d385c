"""Stage 1: what ink does to colours.

A halftone print is a mosaic of eight printed primaries (paper, C, M, Y, R, G, B, black); each takes the share of the
area that Demichel's equations give it, and the eye adds their light (Neugebauer 1937). The response is therefore a
polynomial in the artwork's colours: a matrix on MONOMIALS. A warp is linear, so the monomials of one artwork are warped
once, and every view applies its own printer afterwards, merged with its light and camera into one matrix.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from physadv.transforms.base import Params, Range, between, check_spans
from physadv.transforms.colour import to_linear, to_srgb

MONOMIALS = 11  # 1 r g b rg rb gb rgb rr gg bb

# Corners of the RGB cube in the order of the first eight monomials, and what four-colour printing makes of each (sRGB,
# relative to paper white): medians over two printers of a colour chart photographed by day, surface gloss included.
_CORNERS = torch.tensor(
    [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]]
).float()
_PRINTED = torch.tensor(
    [
        [78, 77, 91],
        [240, 73, 81],
        [96, 179, 91],
        [92, 94, 165],
        [240, 228, 48],
        [176, 87, 159],
        [97, 191, 215],
        [255, 255, 255],
    ]
)


def monomials(rgb: Float[Tensor, "#a 3 h w"], alpha: Float[Tensor, "#a 1 h w"]) -> Float[Tensor, "a 11 h w"]:
    """The artwork's linear colours as monomials, premultiplied by coverage; the constant one is the coverage itself."""
    red, green, blue = to_linear(rgb).unbind(1)
    one = torch.ones_like(red)
    pairs = (red * green, red * blue, green * blue, red * green * blue, red * red, green * green, blue * blue)
    return torch.stack((one, red, green, blue, *pairs), 1) * alpha


def _from_corners() -> Float[Tensor, "8 8"]:
    """Multilinear interpolation: values at the cube's corners -> coefficients of the first eight monomials."""
    r, g, b = _CORNERS.unbind(1)
    return torch.linalg.inv(torch.stack([torch.ones(8), r, g, b, r * g, r * b, g * b, r * g * b], 1))


@dataclass(frozen=True)
class Ink:
    """A random printer: Neugebauer primaries between a display's and a press's, dot gain, paper, lifted black.

    gamut: 0 keeps a display's primaries, 1 takes the press's, beyond 1 is worse. dot_gain: extra midtone darkening.
    paper: reflectance of the bare paper. black: added to every reflectance (gloss, thin ink). tint: of the paper.
    jitter: spread of each primary, linear. response: 33 coefficients on MONOMIALS (11 of red, of green, of blue; paper
    = 1) as measured on one printer, instead of gamut and dot gain.
    """

    dims: ClassVar[int] = 29
    gamut: Range = (0.0, 0.0)
    dot_gain: Range = (0.0, 0.0)
    paper: Range = (1.0, 1.0)
    black: Range = (0.0, 0.0)
    tint: float = 0.0
    jitter: float = 0.0
    response: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.response and (len(self.response) != 33 or not all(abs(one) <= 10 for one in self.response)):
            raise ValueError("response: give 33 coefficients, 11 each of red, green and blue")
        check_spans(
            self, gamut=(0, 2), dot_gain=(-0.9, 0.9), paper=(0.2, 1), black=(0, 0.3), tint=(0, 0.3), jitter=(0, 0.3)
        )

    def sample(self, u: Float[Tensor, "n 29"]) -> Params:
        inked = 1 - _CORNERS.prod(1, keepdim=True)  # paper has no ink to vary
        spread = self.jitter * (2 * u[:, 1:25].reshape(-1, 8, 3) - 1) * inked
        cream = 1 - self.tint * u[:, 25:26] * torch.tensor([0.0, 0.1, 1.0])
        white = between(u[:, 26], self.paper)[:, None, None] * cream[:, None]
        black = between(u[:, 27], self.black)[:, None, None]
        if self.response:
            flat = torch.zeros(len(u))
            measured = torch.tensor(self.response).view(3, 11) + _response(spread, flat)
            lifted = black.mT * torch.eye(1, 11)  # gloss and thin ink: the constant term alone
            return {"response": lifted + (white - black).mT * measured}
        press = torch.lerp(_CORNERS, to_linear(_PRINTED / 255), between(u[:, 0], self.gamut)[:, None, None])
        primaries = (press + spread).clamp(0, 1)
        return {"response": _response(black + (white - black) * primaries, between(u[:, 28], self.dot_gain))}

    def apply(self, images: Float[Tensor, "n 3 h w"], params: Params) -> Float[Tensor, "n 3 h w"]:
        terms = monomials(images, torch.ones_like(images[:, :1]))
        return to_srgb(torch.einsum("nif,nfhw->nihw", params["response"], terms).clamp(0, 1))


def _response(printed: Float[Tensor, "n 8 3"], gain: Float[Tensor, " n"]) -> Float[Tensor, "n 3 11"]:
    """Coefficients on MONOMIALS; dot gain replaces q by q + gain·(q² − q) in the single-channel terms."""
    linear = torch.einsum("fk,nkc->ncf", _from_corners(), printed)
    single = linear[:, :, 1:4] * gain[:, None, None]
    kept = torch.cat([linear[:, :, :1], linear[:, :, 1:4] - single, linear[:, :, 4:]], 2)
    return torch.cat([kept, single], 2)
