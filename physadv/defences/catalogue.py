"""Defences by name: `jpeg:75` in, a defence out."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from physadv.defences.base import Defence
from physadv.defences.bits import Bits
from physadv.defences.jpeg import Jpeg
from physadv.defences.lgs import LocalGradients
from physadv.defences.mahalanobis import Mahalanobis
from physadv.defences.median import Median
from physadv.defences.own import own
from physadv.defences.palette import KMeans
from physadv.defences.pruning import Pruning
from physadv.defences.resize_pad import ResizePad
from physadv.defences.softmax import Softmax
from physadv.defences.squeezing import Squeezing
from physadv.defences.thermometer import Thermometer
from physadv.errors import UserError


@dataclass(frozen=True)
class DefenceRow:
    """One line of the list of defences. kind: what keeps a naive attacker off, if anything does."""

    name: str
    example: str
    kind: str
    meaning: str
    paper: str


_ROWS = (
    DefenceRow("jpeg", "jpeg:75", "shattered", "a real JPEG of this quality", "Guo 2018"),
    DefenceRow("bits", "bits:4", "shattered", "this many bits per channel", "Xu 2018"),
    DefenceRow("thermometer", "thermometer:16", "shattered", "a comparison code of this many levels", "Buckman 2018"),
    DefenceRow("kmeans", "kmeans:32", "shattered", "a palette of this many colours, fitted", "Chen 2018"),
    DefenceRow("resize-pad", "resize-pad:0.85", "random", "random size, at least this share, and place", "Xie 2018"),
    DefenceRow("pruning", "pruning:1", "random", "activations dropped; draws per activation", "Dhillon 2018"),
    DefenceRow("mahalanobis", "mahalanobis", "detector", "distance of the features from every class", "Lee 2018"),
    DefenceRow("squeezing", "squeezing:4", "detector", "answer changes with this many bits, or a median", "Xu 2018"),
    DefenceRow("softmax", "softmax", "detector", "largest probability too small", "Hendrycks 2017"),
    DefenceRow("lgs", "lgs:0.5", "smoothing", "steep regions dimmed with this strength", "Naseer 2019"),
    DefenceRow("median", "median:3", "smoothing", "median filter of this window in px", "Xu 2018"),
)
_WHOLE: dict[str, Callable[[int], Defence]] = {
    "jpeg": Jpeg,
    "bits": Bits,
    "thermometer": Thermometer,
    "kmeans": KMeans,
    "squeezing": Squeezing,
    "median": Median,
}
_REAL: dict[str, Callable[[float], Defence]] = {"resize-pad": ResizePad, "pruning": Pruning, "lgs": LocalGradients}
_PLAIN: dict[str, Callable[[], Defence]] = {"mahalanobis": Mahalanobis, "softmax": Softmax}
_EXAMPLES = {row.name: row.example for row in _ROWS} | {"python": "python:FILE.py:FACTORY"}


def list_defences() -> tuple[DefenceRow, ...]:
    return _ROWS


def load_defence(text: str) -> Defence:
    """`name:number` -> the defence, not fitted yet; without a number, that of the example.

    UserError: an unknown name, a number that is none or out of range, a factory that fails.
    """
    kind, _, rest = text.strip().partition(":")
    if kind not in _EXAMPLES:
        near = get_close_matches(kind, _EXAMPLES, n=1, cutoff=0.5)
        hint = f"did you mean {_EXAMPLES[near[0]]}?" if near else f"there are {', '.join(_EXAMPLES.values())}."
        raise UserError(f"There is no defence {text!r}: {hint}")
    if kind == "python":
        return own(rest, text)
    if kind in _PLAIN:
        if rest:
            raise UserError(f"{kind} takes no number, such as {rest!r}: write {kind}.")
        return _PLAIN[kind]()
    rest = rest or _EXAMPLES[kind].partition(":")[2]
    try:
        return _WHOLE[kind](int(rest)) if kind in _WHOLE else _REAL[kind](float(rest))
    except ValueError as error:
        number = "a whole number" if kind in _WHOLE else "a number"
        raise UserError(f"{kind} takes {number}, not {rest!r}: write {_EXAMPLES[kind]}.") from error
