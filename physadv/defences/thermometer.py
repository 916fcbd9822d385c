"""Thermometer code: each value becomes K comparisons, and a comparison has no gradient.

Buckman, Roy, Raffel & Goodfellow, "Thermometer encoding: one hot way to resist adversarial examples", ICLR 2018.
There the network is trained on the code. Here the code is decoded again, to the middle of the values that share it, so
that it goes in front of a network that never saw it: the same shattered gradient, without the retraining.
Fails because code and decoding together are close to the identity: Athalye, Carlini & Wagner, ICML 2018, section 5.
"""

import torch

from physadv.defences.purifier import Images, Purifier
from physadv.errors import UserError


class Thermometer(Purifier):
    """code_k = [x ≥ k / K] for k = 1 … K − 1, decoded as (Σ_k code_k + ½) / K."""

    def __init__(self, levels: int) -> None:
        super().__init__(f"thermometer:{levels}")
        if not 2 <= levels <= 256:
            raise UserError(f"A thermometer has 2 to 256 levels, not {levels}: write thermometer:16.")
        self.levels = levels

    def change(self, images: Images, *, generator: torch.Generator) -> Images:
        marks = torch.arange(1, self.levels, device=images.device) / self.levels
        code = images[..., None] >= marks
        return (code.sum(-1) + 0.5) / self.levels
