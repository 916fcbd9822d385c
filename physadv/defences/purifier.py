"""Defences that change the image and leave the answer to the target: f(g(x))."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from physadv.defences.base import Defence, check_fitted, straight_through
from physadv.targets.base import Classifier

Images = Float[Tensor, "n 3 h w"]


class Purifier(nn.Module):
    """Subclasses say `change`, and where the identity does not resemble it, `stand_in`.

    differentiable: autograd's gradient of `change` is the right one, so that the adaptive attacker takes it, too.
    """

    abstains = False
    randomised = False
    differentiable = False

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    @property
    def fitted(self) -> bool:
        return True

    def fit(self, target: Classifier, images: Images, labels: Int[Tensor, " n"]) -> Defence:
        return self

    def change(self, images: Images, *, generator: torch.Generator) -> Images:
        """g(x), of the same shape."""
        raise NotImplementedError

    def stand_in(self, images: Images) -> Images:
        """Something differentiable that resembles `change`: its derivative is used, not its value."""
        return images

    def answer(
        self, module: nn.Module, images: Images, *, adaptive: bool, generator: torch.Generator
    ) -> Float[Tensor, "n c"]:
        check_fitted(self)
        changed = self.change(images, generator=generator)
        if adaptive and not self.differentiable:
            changed = straight_through(changed, self.stand_in(images))
        return module(changed)
