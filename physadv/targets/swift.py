"""A target as a search asks it: the same answers, sooner."""

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from physadv.errors import UserError
from physadv.targets.base import Classifier, frozen
from physadv.targets.detector import Detector
from physadv.targets.fused import Fused

T = TypeVar("T", bound=Classifier | Detector)

CLOSE = 1e-3  # of the norm: rounding in another order, no more
HALF = 0.2  # under autocast


class Swift(nn.Module):
    """A network that is given its images channels last, or half precision under `autocast`; it answers in float32."""

    def __init__(self, module: nn.Module, *, channels_last: bool, autocast: bool = False) -> None:
        super().__init__()
        self.module = module
        self.channels_last = channels_last
        self.autocast = autocast

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Tensor | tuple[Tensor, ...]:
        """Logits; of a detector, boxes and scores."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.autocast):
            answer = self.module(laid(images, channels_last=self.channels_last))
        return answer.float() if isinstance(answer, Tensor) else tuple(part.float() for part in answer)


def laid(images: Float[Tensor, "n 3 h w"], *, channels_last: bool) -> Float[Tensor, "n 3 h w"]:
    """The images, channels last if the network that is asked can take them so."""
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


@dataclass(frozen=True)
class Twin:
    """What a search may ask in place of a network: its norms folded, its images channels last.

    Each only where answers and gradients stay what they were, tried on noise.
    """

    fused: Fused
    channels_last: bool

    @classmethod
    def of(cls, target: Classifier | Detector) -> "Twin":
        plain = Fused(target.module, target.module, ())
        if not target.differentiable or target.randomised or isinstance(target.module, Swift):
            return cls(plain, channels_last=False)
        with frozen(target.module):
            if any(isinstance(part, nn.Conv2d) for part in target.module.modules()):
                folded = Fused.of(target.module)
                for fused, last in ((folded, True), (folded, False), (plain, True)):
                    if _alike(target, Swift(fused.twin, channels_last=last)):
                        return cls(fused, last)
        return cls(plain, channels_last=False)

    def asked(self, target: T, *, autocast: bool = False) -> T:
        """The target asked that way, with the weights that its network has now."""
        module = self.fused.refresh()
        if module is target.module and not self.channels_last and not autocast:
            return target
        return replace(target, module=Swift(module, channels_last=self.channels_last, autocast=autocast))


def swift(target: T, *, precision: str = "float32", compiled: bool = False) -> T:
    """The frozen target as a search asks it: two thirds of the time where there are convolutions.

    precision: bfloat16 is autocast. compiled: by torch.compile, on a GPU with CUDA graphs.
    UserError: it cannot be compiled here, or says something else then.
    """
    if not target.differentiable or target.randomised or isinstance(target.module, Swift):
        return target
    asked = Twin.of(target).asked(target, autocast=precision == "bfloat16")
    return _compiled(target, asked, CLOSE if precision == "float32" else HALF) if compiled else asked


def _compiled(target: T, asked: T, close: float) -> T:
    mode = "reduce-overhead" if target.device.type == "cuda" else "default"
    made = torch.compile(asked.module, mode=mode, dynamic=False)
    assert isinstance(made, nn.Module)
    if not _alike(target, made, close):
        raise UserError(f"{target.name} cannot be compiled here, or answers otherwise then: leave --compiled out.")
    return replace(target, module=made)


def _alike(target: Classifier | Detector, other: nn.Module, close: float = CLOSE) -> bool:
    """Whether answers and gradients agree on two images of noise."""
    generator, size = torch.Generator().manual_seed(0), target.frame.size_px
    images = torch.rand(2, 3, size, size, generator=generator).to(target.device)
    try:
        found = _asked(other, images)
    except RuntimeError:  # `view` of what does not lie in one piece: such code is asked as it always was
        return False
    pairs = zip(_asked(target.module, images), found, strict=True)
    return all(bool((one - two).norm() <= close * one.norm()) for one, two in pairs)


def _asked(module: nn.Module, images: Float[Tensor, "n 3 h w"]) -> tuple[Tensor, ...]:
    images = images.requires_grad_()
    answer = module(images)
    parts: tuple[Tensor, ...] = (answer,) if isinstance(answer, Tensor) else tuple(answer)
    (gradient,) = torch.autograd.grad(torch.stack([part.float().square().sum() for part in parts]).sum(), images)
    return (*(part.detach() for part in parts), gradient)
