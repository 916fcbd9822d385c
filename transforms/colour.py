"""sRGB <-> linear light, and the colour of black-body light."""

from functools import cache

import torch
from jaxtyping import Float
from kornia.augmentation._2d.intensity.planckian_jitter import get_planckian_coeffs
from torch import Tensor

LUMINANCE = (0.2126, 0.7152, 0.0722)  # ITU-R BT.709
KNEE = 0.0031306684425006  # linear light where the two pieces of sRGB meet; the standard rounds it to 0.0031308
_KNEE_SRGB = 12.92 * KNEE
_KELVIN = (3000.0, 15000.0)  # span of Kornia's black-body table, 500 K apart
_NEUTRAL = 7  # its row of 6,500 K


def to_linear(encoded: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """sRGB in [0, 1] -> linear light (IEC 61966-2-1).

    The straight piece up to the knee and the curve from there on, added: no comparison per value, which costs more.
    """
    curve = encoded.clamp(min=_KNEE_SRGB).add_(0.055).log_().mul_(2.4).exp_()
    return encoded.clamp(max=_KNEE_SRGB).div_(12.92).sub_(KNEE).add_(curve, alpha=1.055**-2.4)


def to_srgb(linear: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Linear light -> sRGB (IEC 61966-2-1)."""
    curve = linear.clamp(min=KNEE).log_().div_(2.4).exp_()
    return linear.clamp(max=KNEE).mul_(12.92).sub_(_KNEE_SRGB + 0.055).add_(curve, alpha=1.055)


def luminance(linear: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1 h w"]:
    """Relative luminance of linear RGB."""
    return (linear * linear.new_tensor(LUMINANCE)[:, None, None]).sum(1, keepdim=True)


def saturation_matrix(saturation: Float[Tensor, " n"]) -> Float[Tensor, "n 3 3"]:
    """s·I + (1 − s)·1·luminanceᵀ: 0 is grey, 1 the identity."""
    grey = saturation.new_tensor(LUMINANCE).expand(3, 3)
    return saturation[:, None, None] * torch.eye(3, device=saturation.device) + (1 - saturation)[:, None, None] * grey


@cache
def _planckian() -> Float[Tensor, "steps 2"]:
    """Kornia's table: red and blue relative to green."""
    return get_planckian_coeffs("blackbody")


def planckian_gain(kelvin: Float[Tensor, " n"]) -> Float[Tensor, "n 3"]:
    """RGB gains of a black body for a camera balanced to 6,500 K, at equal luminance (Kornia's table, interpolated)."""
    table = _planckian().to(kelvin)
    position = (kelvin.clamp(*_KELVIN) - _KELVIN[0]) / 500.0
    low = position.floor().long().clamp(max=len(table) - 2)
    red, blue = (torch.lerp(table[low], table[low + 1], (position - low)[:, None]) / table[_NEUTRAL]).unbind(1)
    gain = torch.stack([red, torch.ones_like(red), blue], 1)
    return gain / (gain * gain.new_tensor(LUMINANCE)).sum(1, keepdim=True)
