"""f: the classifier under attack, frozen, its normalisation inside."""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor, nn

from physadv.errors import UserError

SMALLEST_PX = 8
LARGEST_CONTEXT = 2.0


@dataclass(frozen=True)
class Frame:
    """The square that a target sees: of a classifier, round a sign's box; of a detector, the whole photograph.

    side = max(box width, box height) * (1 + 2 * context), centred on the box, resized to size_px * size_px.
    whole: the photograph in the square's top-left, aspect kept, the rest of the sRGB value `pad`.
    """

    size_px: int
    context: float = 0.0
    whole: bool = False
    pad: float = 0.0

    def __post_init__(self) -> None:
        if self.size_px < SMALLEST_PX:
            raise UserError(f"The input of a target must be at least {SMALLEST_PX} px wide, not {self.size_px}.")
        if not 0 <= self.context <= LARGEST_CONTEXT:
            raise UserError(
                f"The context is the margin round the sign's box as a share of its side, 0 to {LARGEST_CONTEXT:g}, "
                f"not {self.context:g}."
            )


@dataclass(frozen=True)
class Classifier:
    """A module that maps sRGB images in [0, 1] to logits, and all that has to be known to feed and name it.

    differentiable: False where only scores can be had, so that a search has to do without gradients.
    randomised: the same images get other logits every time.
    """

    module: nn.Module
    classes: tuple[str, ...]
    frame: Frame
    name: str
    weights_hash: str
    differentiable: bool = True
    randomised: bool = False

    def __post_init__(self) -> None:
        repeated = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if repeated:
            raise UserError(f"{self.name} names a class twice: {', '.join(repeated)}; give every output its own name.")
        if len(self.classes) < 2:
            raise UserError(f"{self.name} needs at least two classes, it has {len(self.classes)}.")

    @classmethod
    def of(cls, module: nn.Module, *, classes: tuple[str, ...], frame: Frame, name: str) -> "Classifier":
        """The classifier around `module`, hashed as it is now."""
        return cls(module, classes, frame, name, weights_hash(module))

    def __call__(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        return self.module(images)

    @property
    def device(self) -> torch.device:
        return device_of(self.module)

    def to(self, device: torch.device | str) -> "Classifier":
        """This classifier on `device`; the module itself moves, as everywhere in torch."""
        return replace(self, module=self.module.to(device))


def drawing(module: nn.Module, seed: int) -> AbstractContextManager[None]:
    """Inside, a module that draws at random does so from `seed`."""
    draws = getattr(module, "drawing", None)
    return draws(seed) if callable(draws) else nullcontext()


def device_of(module: nn.Module) -> torch.device:
    """Where the module's first parameter or buffer lives; the CPU if it has none."""
    first = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def weights_hash(module: nn.Module) -> str:
    """16 hex digits of the sha256 over the state dict: names and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            dense = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            digest.update(name.encode())
            digest.update(dense.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """The module in evaluation mode without trainable parameters; each flag is restored afterwards, whatever happens.

    The flags are set one by one, because an exported program refuses `.eval()` (its mode is baked in).
    Gradients reach the input; parameters get none, and the state dict is bit-identical before and after.
    """
    modes = [(part, part.training) for part in module.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        set_eval(module)
        for parameter, _ in trainable:
            parameter.requires_grad_(False)
        yield module
    finally:
        for part, mode in modes:
            part.training = mode
        for parameter, flag in trainable:
            parameter.requires_grad_(flag)


def set_eval(module: nn.Module) -> None:
    """`module.eval()` that an exported program accepts too."""
    for part in module.modules():
        part.training = False


def check_logits(classifier: Classifier) -> Float[Tensor, "2 c"]:
    """The logits of two grey images; a UserError where they are no usable logits for the classifier's classes."""
    logits = probe(classifier.module, classifier.frame, name=classifier.name)
    if logits.shape[1] != len(classifier.classes):
        raise UserError(
            f"{classifier.name} returns {logits.shape[1]} logits but names {len(classifier.classes)} classes; "
            "make the two agree."
        )
    return logits


def probe(module: nn.Module, frame: Frame, *, name: str) -> Float[Tensor, "2 c"]:
    """What the frozen module returns for a dark and a light grey image, checked to be finite logits (2, c)."""
    grey = torch.tensor([0.25, 0.75], device=device_of(module)).reshape(2, 1, 1, 1)
    images = grey.expand(2, 3, frame.size_px, frame.size_px).contiguous()
    with frozen(module), torch.no_grad():
        try:
            logits = module(images)
        except Exception as error:
            raise UserError(
                f"{name} fails on images of shape {tuple(images.shape)} ({one_line(error)}); "
                "it must take (b, 3, h, w) at its input_size."
            ) from error
    _check_finite_logits(logits, name)
    return logits


def _check_finite_logits(logits: object, name: str) -> None:
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        found = f"{logits.dtype} values" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise UserError(
            f"{name} returns {found}; it must return its logits alone, a float tensor (b, classes); a detector says "
            "task = 'detection'."
        )
    if logits.ndim != 2 or logits.shape[0] != 2 or logits.shape[1] < 2:
        raise UserError(
            f"{name} returns the shape {tuple(logits.shape)} for 2 images; a classifier returns (2, number of classes)."
        )
    if not torch.isfinite(logits).all():
        raise UserError(f"{name} returns NaN or infinite logits for grey images; check its weights and normalisation.")


def one_line(error: BaseException) -> str:
    """Kind and message of somebody else's exception, short enough for one sentence."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
