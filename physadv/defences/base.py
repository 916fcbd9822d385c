"""g in front of f: a defence answers in the target's place, as deployed or as a naive attacker sees it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from physadv.errors import UserError
from physadv.files import sha256
from physadv.objectives.goals import ABSTAIN
from physadv.targets.base import Classifier, weights_hash
from physadv.transforms.stages import derive


@runtime_checkable
class Defence(Protocol):
    """One file per paper. Those shipped are modules, so that what they learnt moves and is hashed with the weights.

    name: the spec, for example jpeg:75. randomised: two calls differ. abstains: there is one logit more, the last.
    fitted: whether `fit` has been called, where it must be.
    """

    name: str
    randomised: bool
    abstains: bool

    @property
    def fitted(self) -> bool: ...

    def fit(self, target: Classifier, images: Float[Tensor, "n 3 h w"], labels: Int[Tensor, " n"]) -> "Defence":
        """A copy that knows what clean images look like; the defence itself where it has nothing to learn.

        images: at the target's input size. labels: rows of the target's classes.
        """
        ...

    def answer(
        self, module: nn.Module, images: Float[Tensor, "n 3 h w"], *, adaptive: bool, generator: torch.Generator
    ) -> Float[Tensor, "n k"]:
        """The module's logits, defended. Every image draws for itself, from `generator` (on the CPU) alone.

        adaptive: the gradient passes a stand-in where a step has none, and the verdict of a detector is inside.
        Otherwise the same answer with the gradient that autograd gives, and a detector does not exist.
        """
        ...


class Defended(nn.Module):
    """A module behind a defence: as random as that is, and the same again when it is made again with the same seed."""

    def __init__(self, module: nn.Module, defence: Defence, *, adaptive: bool, seed: int) -> None:
        super().__init__()
        self.module, self.defence, self.adaptive = module, defence, adaptive
        self.generator = torch.Generator().manual_seed(derive(seed, "defence", adaptive))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        return self.defence.answer(self.module, images, adaptive=self.adaptive, generator=self.generator)

    @contextmanager
    def drawing(self, seed: int) -> Iterator[None]:
        """Inside, what is random depends on `seed` and the calls made there; afterwards it goes on as before."""
        state = self.generator.get_state()
        self.generator.manual_seed(seed)
        try:
            yield
        finally:
            self.generator.set_state(state)

    def to(self, *args: Any, **kwargs: Any) -> "Defended":
        """As everywhere; the inner module by its own `to`, because an exported program needs more than its tensors."""
        self.module.to(*args, **kwargs)
        return super().to(*args, **kwargs)


def defend(target: Classifier, defence: Defence, *, adaptive: bool, seed: int) -> Classifier:
    """The target behind the defence: one more class, `abstain`, where that abstains.

    The hash is that of the defended weights, the defence's name and what it learnt; `adaptive` is not part of it.
    UserError: the defence is not fitted, or the target abstains already.
    """
    check_fitted(defence)
    if defence.abstains and ABSTAIN in target.classes:
        raise UserError(f"{target.name} has a class {ABSTAIN!r} already; put one detector in front of it, not two.")
    module = Defended(target.module, defence, adaptive=adaptive, seed=seed)
    return replace(
        target,
        module=module,
        classes=(*target.classes, ABSTAIN) if defence.abstains else target.classes,
        name=f"{target.name} behind {defence.name}",
        randomised=target.randomised or defence.randomised,
        weights_hash=sha256(f"{target.weights_hash}/{defence.name}/{weights_hash(module)}".encode())[:16],
    )


def check_fitted(defence: Defence) -> None:
    if not defence.fitted:
        raise UserError(
            f"{defence.name} must see clean images first: call its `fit` with photographs and labels of the target."
        )


class _StraightThrough(torch.autograd.Function):
    """The first argument's value, bit by bit, with the second one's gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, stand_in: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient


def straight_through(value: Float[Tensor, "*shape"], stand_in: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """BPDA: y = g(x) forward, the stand-in's derivative backward (Athalye, Carlini & Wagner, ICML 2018)."""
    return _StraightThrough.apply(value.detach(), stand_in)
