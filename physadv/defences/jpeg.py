"""JPEG compression: a real codec, whose gradient is none.

Dziugaite, Ghahramani & Roy, "A study of the effect of JPG compression on adversarial images", 2016 (arXiv 1608.00853);
Guo, Rana, Cissé & van der Maaten, "Countering adversarial images using input transformations", ICLR 2018.
Fails because compression is close to the identity: Athalye, Carlini & Wagner, ICML 2018, section 5.
"""

import torch

from physadv.defences.purifier import Images, Purifier
from physadv.errors import UserError
from physadv.transforms.camera import Jpeg as Codec


class Jpeg(Purifier):
    """Encoded at this quality and decoded again, 8 bits per channel."""

    def __init__(self, quality: int) -> None:
        super().__init__(f"jpeg:{quality}")
        if not 1 <= quality <= 100:
            raise UserError(f"The quality of a JPEG is 1 to 100, not {quality}: write jpeg:75.")
        self.quality = quality

    def change(self, images: Images, *, generator: torch.Generator) -> Images:
        return Codec().apply(images.detach(), {"quality": torch.full((len(images),), float(self.quality))})
