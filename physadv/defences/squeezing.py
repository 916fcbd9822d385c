"""Feature squeezing: an image whose answer changes when it loses detail is suspicious.

Xu, Evans & Qi, "Feature squeezing: detecting adversarial examples in deep neural networks", NDSS 2018: the largest L1
distance between the softmax of the image, of its bit-reduced and of its median-filtered version.
Fails because an image can fool all versions at once: He, Wei, Chen, Carlini & Song, "Adversarial example defenses:
ensembles of weak defenses are not strong", WOOT 2017.
"""

import torch
from jaxtyping import Float
from kornia.filters import median_blur
from torch import Tensor, nn

from physadv.defences.base import straight_through
from physadv.defences.bits import quantised
from physadv.defences.detector import Detector, Images, Logits
from physadv.errors import UserError


class Squeezing(Detector):
    """score = max_s −log Σ_j min(p_j, q_j): it grows with |p − q|₁ = 2 − 2 Σ_j min, and never goes flat."""

    def __init__(self, depth: int) -> None:
        super().__init__(f"squeezing:{depth}")
        if not 1 <= depth <= 8:
            raise UserError(f"A channel is squeezed to 1 to 8 bits, not {depth}: write squeezing:4.")
        self.depth = depth

    def scored(self, module: nn.Module, images: Images) -> tuple[Logits, Float[Tensor, " n"]]:
        reduced = straight_through(quantised(images, self.depth), images)
        logits, *squeezed = module(torch.cat([images, reduced, median_blur(images, 3)])).chunk(3)
        own = logits.log_softmax(1)
        overlaps = [torch.minimum(own, other.log_softmax(1)).logsumexp(1) for other in squeezed]
        return logits, -torch.stack(overlaps).amin(0)
