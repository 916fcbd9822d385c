"""Where a search begins without a gradient: a piece of another sign's face, in the same place on this one.

What a patch does best is to make one sign of another (a 3 an 8); such a piece is most of the way there. Compare CutMix
(Yun et al. 2019), which gives such pictures both labels; here the sign under the piece is still what is asked for.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import grid_sample

from physadv.scenes.base import Faces, Scenes
from physadv.threats.base import Theta, Threat
from physadv.transforms.colour import to_srgb

_PAPER = 0.2  # linear light of mid grey, where the other face has ended


def pieces(scenes: Scenes, threat: Threat, *, seed: int) -> Theta:
    """For the artwork of each scene: what another class's face, stretched over this one, has in its place."""
    generator = torch.Generator().manual_seed(seed)
    count = len(scenes.faces.images)
    own = scenes.face
    donor = (own + 1 + torch.randint(max(count - 1, 1), own.shape, generator=generator).to(own.device)) % count
    artwork = threat.artwork(threat.init(scenes, generator=generator, per_scene=True))
    place = artwork.place_mm.expand(len(own), 4) / scenes.faces.size_mm[own].repeat(1, 2)
    return _cut(scenes.faces, donor, place, (artwork.rgb.shape[2], artwork.rgb.shape[3]))


def _cut(
    faces: Faces, donor: Int[Tensor, " n"], place: Float[Tensor, "n 4"], size_px: tuple[int, int]
) -> Float[Tensor, "n 3 h w"]:
    """The rectangles `place` (xyxy, in sides of the face) of the faces `donor`, over paper."""
    height, width = size_px
    y, x = ((torch.arange(side, device=place.device) + 0.5) / side for side in (height, width))
    at_x = place[:, 0, None] + (place[:, 2] - place[:, 0])[:, None] * x
    at_y = place[:, 1, None] + (place[:, 3] - place[:, 1])[:, None] * y
    grid = torch.stack([at_x[:, None, :].expand(-1, height, -1), at_y[:, :, None].expand(-1, -1, width)], 3)
    texels = faces.images.shape[-1] * float((place[:, 2] - place[:, 0]).mean()) / width
    level = min(max(round(math.log2(max(texels, 1))), 0), len(faces.light) - 1)
    found = grid_sample(faces.light[level][donor], 2 * grid - 1, align_corners=False)
    return to_srgb((found[:, :3] + _PAPER * (1 - found[:, 3:])).clamp(0, 1))
