"""A target as a search asks it: the same answers, sooner."""

from dataclasses import replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from physadv.errors import UserError
from physadv.targets.base import Classifier
from physadv.targets.detector import Detector
from physadv.targets.fused import Fused

T = TypeVar("T", bound=Classifier | Detector)

CLOSE = 1e-3  # of the norm: rounding in another order, no more


class Swift(nn.Module):
    """A network that is given its images channels last, half precision under `autocast`; it answers in float32."""

    def __init__(self, module: nn.Module, *, autocast: bool = False) -> None:
        super().__init__()
        self.module = module
        self.autocast = autocast

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Tensor | tuple[Tensor, ...]:
        """Logits; of a detector, boxes and scores."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.autocast):
            answer = self.module(images.contiguous(memory_format=torch.channels_last))
        return answer.float() if isinstance(answer, Tensor) else tuple(part.float() for part in answer)


def mixed(target: T, twin: nn.Module | None = None) -> T:
    """The same target under autocast. twin: a network that answers alike, instead of its own."""
    return replace(target, module=Swift(twin or target.module, autocast=True))


def swift(target: T, *, precision: str = "float32", compiled: bool = False) -> T:
    """The frozen target, norms folded and images channels last: two thirds of the time where there are convolutions.

    The target itself where that changes an answer or a gradient, or where its code cannot take such images.
    precision: bfloat16 is autocast. compiled: by torch.compile, on a GPU with CUDA graphs.
    UserError: it cannot be compiled here, or says something else then.
    """
    if not target.differentiable or target.randomised or isinstance(target.module, Swift):
        return target
    module = _folded(target)
    if compiled:
        module = _compiled(target, module)
    if module is target.module and precision == "float32":
        return target
    return replace(target, module=module if precision == "float32" else Swift(module, autocast=True))


def _folded(target: T) -> nn.Module:
    if not any(isinstance(part, nn.Conv2d) for part in target.module.modules()):
        return target.module
    twin = Fused.of(target.module).twin
    for one in twin.parameters():
        one.requires_grad_(False)
    hastened = Swift(twin)
    return hastened if _alike(target, hastened) else target.module


def _compiled(target: T, module: nn.Module) -> nn.Module:
    mode = "reduce-overhead" if target.device.type == "cuda" else "default"
    made = torch.compile(module, mode=mode, dynamic=False)
    assert isinstance(made, nn.Module)
    if not _alike(target, made):
        raise UserError(f"{target.name} cannot be compiled here, or answers otherwise then: leave --compiled out.")
    return made


def _alike(target: Classifier | Detector, other: nn.Module) -> bool:
    """Whether answers and gradients agree on two images of noise."""
    generator, size = torch.Generator().manual_seed(0), target.frame.size_px
    images = torch.rand(2, 3, size, size, generator=generator).to(target.device)
    try:
        found = _asked(other, images)
    except RuntimeError:  # `view` of what does not lie in one piece: such code is asked as it always was
        return False
    pairs = zip(_asked(target.module, images), found, strict=True)
    return all(bool((one - two).norm() <= CLOSE * one.norm()) for one, two in pairs)


def _asked(module: nn.Module, images: Float[Tensor, "n 3 h w"]) -> tuple[Tensor, ...]:
    images = images.requires_grad_()
    answer = module(images)
    parts: tuple[Tensor, ...] = (answer,) if isinstance(answer, Tensor) else tuple(answer)
    (gradient,) = torch.autograd.grad(torch.stack([part.float().square().sum() for part in parts]).sum(), images)
    return (*(part.detach() for part in parts), gradient)
