"""Random size and place: the image is shrunk at random and put somewhere on black.

Xie, Wang, Zhang, Ren & Yuille, "Mitigating adversarial effects through randomization", ICLR 2018. There the network
takes a larger canvas; here the canvas stays, because the target's input size is fixed.
Fails because the attacker draws, too, and descends on the mean: expectation over transformation (Athalye, Engstrom,
Ilyas & Kwok, ICML 2018; Athalye, Carlini & Wagner, ICML 2018, section 5).
"""

import torch
from torch.nn.functional import affine_grid, grid_sample

from physadv.defences.purifier import Images, Purifier
from physadv.errors import UserError


class ResizePad(Purifier):
    """side ← s · side with s uniform in [smallest, 1], its place uniform over the canvas."""

    randomised = True
    differentiable = True

    def __init__(self, smallest: float) -> None:
        super().__init__(f"resize-pad:{smallest:g}")
        if not 0 < smallest < 1:
            raise UserError(f"The smallest size is a share of the side between 0 and 1, not {smallest:g}: 0.85, say.")
        self.smallest = smallest

    def change(self, images: Images, *, generator: torch.Generator) -> Images:
        u = torch.rand(len(images), 3, generator=generator).to(images)
        size = self.smallest + (1 - self.smallest) * u[:, 0]
        centre = (1 - size)[:, None] * (2 * u[:, 1:] - 1)  # in the canvas's [-1, 1]
        zoom = torch.eye(2).to(images) / size[:, None, None]
        theta = torch.cat([zoom, (-centre / size[:, None])[..., None]], 2)
        grid = affine_grid(theta, list(images.shape), align_corners=False)
        return grid_sample(images, grid, padding_mode="zeros", align_corners=False)
