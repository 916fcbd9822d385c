"""JPEG compression: a real codec, whose gradient is none.

Dziugaite, Ghahramani & Roy, "A study of the effect of JPG compression on adversarial images", 2016 (arXiv 1608.00853);
Guo, Rana, Cissé & van der Maaten, "Countering adversarial images using input transformations", ICLR 2018.
Fails because a differentiable codec stands in for it (Shin & Song 2017); the identity, as in Athalye, Carlini & Wagner
(ICML 2018, section 5), loses what the codec removes: of 11 photographs that withstood it, 8 fell to the codec.
"""

import torch
from kornia.enhance import jpeg_codec_differentiable

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

    def stand_in(self, images: Images) -> Images:
        """The same codec, its rounding replaced by a cubic."""
        return jpeg_codec_differentiable(images, images.new_full((len(images),), float(self.quality)))
