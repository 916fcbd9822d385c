"""Bit-depth quantisation: fewer levels per channel, whose gradient is zero almost everywhere.

Xu, Evans & Qi, "Feature squeezing: detecting adversarial examples in deep neural networks", NDSS 2018, section III-A;
Guo, Rana, Cissé & van der Maaten, "Countering adversarial images using input transformations", ICLR 2018.
Fails because rounding is close to the identity: Athalye, Carlini & Wagner, ICML 2018, section 5.
"""

import torch

from physadv.defences.purifier import Images, Purifier
from physadv.errors import UserError


class Bits(Purifier):
    """Rounded to 2^depth levels in [0, 1]."""

    def __init__(self, depth: int) -> None:
        super().__init__(f"bits:{depth}")
        if not 1 <= depth <= 8:
            raise UserError(f"A channel is kept in 1 to 8 bits, not {depth}: write bits:4.")
        self.depth = depth

    def change(self, images: Images, *, generator: torch.Generator) -> Images:
        return quantised(images, self.depth)


def quantised(images: Images, depth: int) -> Images:
    steps = 2**depth - 1
    return (images * steps).round() / steps
