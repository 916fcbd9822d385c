"""Stochastic activation pruning: every layer drops activations at random, small ones first, and scales up the rest.

Dhillon, Azizzadenesheli, Lipton, Bernstein, Kossaifi, Khanna & Anandkumar, "Stochastic activation pruning for robust
adversarial defense", ICLR 2018. r = ratio · size draws with replacement, p ∝ |a|, keep an activation at all with
q = 1 − (1 − p)^r and hold a / q then; here each is kept with this q on its own, which is the same but for the total.
Fails because the pruned network is the plain one in the mean: Athalye, Carlini & Wagner, ICML 2018, section 5.
"""

from contextlib import ExitStack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from physadv.defences.base import straight_through
from physadv.defences.purifier import Images, Purifier
from physadv.errors import UserError


class Pruning(Purifier):
    """Prunes what goes into every convolution and linear layer but the first, which sees the image."""

    randomised = True

    def __init__(self, ratio: float) -> None:
        super().__init__(f"pruning:{ratio:g}")
        if not 0 < ratio < float("inf"):
            raise UserError(f"Draws per activation must be more than 0, not {ratio:g}: write pruning:1.")
        self.ratio = ratio

    def answer(
        self, module: nn.Module, images: Images, *, adaptive: bool, generator: torch.Generator
    ) -> Float[Tensor, "n c"]:
        def prune(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            pruned = self._pruned(inputs[0], generator)
            return (straight_through(pruned, inputs[0]) if adaptive else pruned, *inputs[1:])

        with ExitStack() as hooks:
            for layer in layers(module)[1:]:
                hooks.callback(layer.register_forward_pre_hook(prune).remove)
            return module(images)

    def _pruned(self, activations: Float[Tensor, "n ..."], generator: torch.Generator) -> Float[Tensor, "n ..."]:
        size = activations.abs()
        p = size / size.flatten(1).sum(1).clamp(min=1e-12).reshape(-1, *[1] * (size.ndim - 1))
        q = -torch.expm1(self.ratio * size[0].numel() * torch.log1p(-p.clamp(max=1 - 1e-6)))
        kept = torch.rand(q.shape, generator=generator).to(q.device) < q
        return torch.where(kept, activations / torch.where(kept, q, 1), 0)


def layers(module: nn.Module) -> list[nn.Module]:
    """The layers to prune in front of. UserError: fewer than two, as in an exported program."""
    found: list[nn.Module] = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    if len(found) < 2:
        raise UserError(
            "Pruning needs a target with layers of torch.nn; for an exported program give its python: source."
        )
    return found
