"""Median filter: what is smaller than half the window disappears, noise and small patches alike.

Xu, Evans & Qi, "Feature squeezing: detecting adversarial examples in deep neural networks", NDSS 2018, section III-B.
Fails because a median has a gradient, that of the pixel it picks, and because whatever is larger than the window stays.
"""

import torch
from kornia.filters import median_blur

from physadv.defences.purifier import Images, Purifier
from physadv.errors import UserError


class Median(Purifier):
    """The median of a square window round each pixel, per channel."""

    differentiable = True

    def __init__(self, window_px: int) -> None:
        super().__init__(f"median:{window_px}")
        if not (3 <= window_px <= 31 and window_px % 2):
            raise UserError(f"The window of a median is odd, 3 to 31 px, not {window_px}: write median:3.")
        self.window_px = window_px

    def change(self, images: Images, *, generator: torch.Generator) -> Images:
        return median_blur(images, self.window_px)
