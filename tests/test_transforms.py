"""The battery that every transform family passes, and agreement with OpenCV's, Pillow's and Kornia's own versions."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields

import cv2
import kornia
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from physadv.transforms import warp
from physadv.transforms.base import Colour, Field, Optics, Params, Range, Transform
from physadv.transforms.camera import Balance, Defocus, Jpeg, Motion, Noise, Tone
from physadv.transforms.colour import LUMINANCE, planckian_gain, saturation_matrix, to_linear, to_srgb
from physadv.transforms.light import Exposure, Glare, Gradient, Shadow, Temperature, Veil
from physadv.transforms.mount import Bend, Placement
from physadv.transforms.optics import blur_matrices, separable
from physadv.transforms.print import MONOMIALS, Ink, monomials
from physadv.transforms.stages import FAMILIES, derive, uniforms
from physadv.transforms.texture import texture, white_noise
from physadv.transforms.view import Backdrop, Box, Pinhole, Relative
from physadv.transforms.weather import Dirt, Fog, Rain, Snow

Law = tuple[Callable[[Params], Tensor], Range]
"""Something computed from the parameters that must be uniform on a range."""

N = 4000


def par(name: str) -> Callable[[Params], Tensor]:
    return lambda params: params[name]


def log(name: str) -> Callable[[Params], Tensor]:
    return lambda params: params[name].log()


def stops(name: str) -> Callable[[Params], Tensor]:
    return lambda params: params[name].log2()


def turns(params: Params) -> Tensor:
    return params["angle"] / (2 * math.pi)


@dataclass(frozen=True)
class Case:
    """A transform that does something in every view, and what `sample` must be like.

    laws: quantities that are uniform on a range. rare: the same family with probability 0.3, and how its absence shows.
    """

    strong: Transform
    laws: dict[str, Law] = field(default_factory=dict)
    rare: tuple[Transform, Callable[[Params], Tensor]] | None = None


CASES: dict[type, Case] = {
    Ink: Case(
        Ink((0.5, 1.0), (0.1, 0.6), (0.6, 0.9), (0.0, 0.05), 0.1, 0.03),
        # With all ink the same, the constant term is black and the sum of all terms is white.
        {
            "black": (lambda params: black_of(params)[:, 0], (0.078**2.2, 0.15)),
        },
    ),
    Placement: Case(
        Placement(3.0, (-10.0, 10.0)),
        {
            "right": (lambda params: params["shift_mm"][:, 0], (-3, 3)),
            "down": (lambda params: params["shift_mm"][:, 1], (-3, 3)),
            "turn": (par("rotate_deg"), (-10, 10)),
        },
    ),
}
