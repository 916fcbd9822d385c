"""A palette: every pixel takes the nearest of K colours, which clean images were clustered into (k-means).

Chen, Wu, Rastogi, Liang & Jha, "Improving adversarial robustness by data-specific discretization", 2018 (arXiv
1805.07816), later called "Towards understanding limitations of pixel discretization against adversarial attacks".
Fails, as that title says, unless the data hardly have more than K colours: BPDA passes, and near a border between two
clusters a small change becomes a large one.
"""

from copy import deepcopy
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from physadv.defences.purifier import Images, Purifier
from physadv.errors import UserError
from physadv.targets.base import Classifier

ROUNDS, PIXELS = 20, 20_000


class KMeans(Purifier):
    """x ↦ the nearest of K colours."""

    palette: Tensor

    def __init__(self, colours: int) -> None:
        super().__init__(f"kmeans:{colours}")
        if not 2 <= colours <= 256:
            raise UserError(f"A palette has 2 to 256 colours, not {colours}: write kmeans:32.")
        self.register_buffer("palette", torch.full((colours, 3), torch.nan))

    @property
    def fitted(self) -> bool:
        return not bool(self.palette.isnan().any())

    def fit(self, target: Classifier, images: Images, labels: Int[Tensor, " n"]) -> Self:
        """Lloyd's algorithm on pixels of these images, from colours at even ranks of brightness."""
        pixels = images.movedim(1, -1).reshape(-1, 3)
        pixels = pixels[torch.linspace(0, len(pixels) - 1, PIXELS, device=pixels.device).long()]
        fitted, colours = deepcopy(self), len(self.palette)
        ranks = torch.linspace(0, PIXELS - 1, colours, device=pixels.device).long()
        fitted.palette = pixels[pixels.sum(1).argsort(stable=True)[ranks]]
        for _ in range(ROUNDS):
            of = torch.nn.functional.one_hot(fitted._nearest(pixels), colours).to(pixels)
            count = of.sum(0)[:, None]
            fitted.palette = torch.where(count > 0, of.T @ pixels / count.clamp(min=1), fitted.palette)
        return fitted

    def _nearest(self, pixels: Float[Tensor, "... 3"]) -> Int[Tensor, "..."]:
        return (self.palette.square().sum(1) - 2 * pixels @ self.palette.T).argmin(-1)

    def change(self, images: Images, *, generator: torch.Generator) -> Images:
        return self.palette[self._nearest(images.movedim(1, -1))].movedim(-1, 1)
