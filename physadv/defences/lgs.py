"""Local gradients smoothing: wherever the image changes fast, as in a patch, it is dimmed.

Naseer, Khan & Porikli, "Local gradients smoothing: defense against localized adversarial attacks", WACV 2019, with
windows at every pixel. Fails because a patch can be smooth, and BPDA finds it: Chiang, Ni, Abdelkader, Zhu, Studer &
Goldstein, "Certified defenses for adversarial patches", ICLR 2020, section 3.
"""

import torch
from kornia.filters import sobel
from torch.nn.functional import avg_pool2d, max_pool2d

from physadv.defences.purifier import Images, Purifier
from physadv.errors import UserError

WINDOWS = 10  # to the side, as 15 px on the paper's images would be 20
THRESHOLD = 0.1


class LocalGradients(Purifier):
    """x · (1 − clip(λ g)), g: the steepness in [0, 1] per image, in windows where its mean exceeds a threshold."""

    def __init__(self, strength: float) -> None:
        super().__init__(f"lgs:{strength:g}")
        if not 0 < strength < float("inf"):
            raise UserError(f"λ of local gradients smoothing must be more than 0, not {strength:g}: write lgs:0.5.")
        self.strength = strength

    def change(self, images: Images, *, generator: torch.Generator) -> Images:
        steepness = sobel(images).mean(1, keepdim=True)
        low, high = (edge(steepness, (1, 2, 3), keepdim=True) for edge in (torch.amin, torch.amax))
        steepness = (steepness - low) / (high - low).clamp(min=1e-6)
        window = images.shape[-1] // WINDOWS // 2 * 2 + 1
        busy = avg_pool2d(steepness, window, stride=1, padding=window // 2) > THRESHOLD
        steepness = steepness * max_pool2d(busy.to(steepness), window, stride=1, padding=window // 2)
        return images * (1 - (self.strength * steepness).clamp(0, 1))
