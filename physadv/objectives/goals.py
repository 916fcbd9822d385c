"""What the adversary wants the target to say."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from jaxtyping import Int
from torch import Tensor

from physadv.errors import UserError
from physadv.scenes.classes import canonical

ABSTAIN = "abstain"  # the class slug of the answer "I do not know"
OF_DETECTORS = ("hide", "create", "relabel")


@dataclass(frozen=True)
class Goal:
    """`target`: the class to be answered (row of classes); None: any but the truth.

    abstain: the row of the answer "I do not know" of a target that has one; to give it is as good as to be right.
    """

    name: str
    target: int | None = None
    abstain: int | None = None

    @property
    def kind(self) -> str:
        """untargeted, class; of detectors: hide, create, relabel."""
        return self.name.partition(":")[0]


def parse_goal(text: str, classes: Sequence[str]) -> Goal:
    """`untargeted` or `class:NAME`. UserError: unknown goal or class, or a goal of detectors."""
    kind, _, name = text.strip().partition(":")
    if kind in OF_DETECTORS:
        raise UserError(f"The goal {kind!r} needs a detector; with a classifier use untargeted or class:NAME.")
    if kind == "untargeted" and not name:
        return Goal("untargeted", abstain=_abstain(classes))
    if kind != "class":
        raise UserError(f"There is no goal {text!r}: use untargeted or class:NAME.")
    return Goal(f"class:{name}", _row(name, classes), _abstain(classes))


def parse_detection_goal(text: str, classes: Sequence[str]) -> Goal:
    """`hide`, `create:NAME` or `relabel:NAME`; `untargeted` is `hide`. UserError: unknown goal or class."""
    kind, _, name = text.strip().partition(":")
    if kind in ("hide", "untargeted") and not name:
        return Goal("hide")
    if kind not in OF_DETECTORS or kind == "hide" or not name:
        raise UserError(f"There is no goal {text!r} for a detector: use hide, create:NAME or relabel:NAME.")
    known = {canonical(own): own for own in classes}
    name = known.get(canonical(name), name)
    return Goal(f"{kind}:{name}", _row(name, classes))


def _row(name: str, classes: Sequence[str]) -> int:
    if name not in classes:
        near = get_close_matches(name, classes, n=1, cutoff=0)
        hint = f"did you mean {near[0]!r}?" if near else "it has none."
        raise UserError(f"The target knows no class {name!r}: {hint}")
    return list(classes).index(name)


def _abstain(classes: Sequence[str]) -> int | None:
    return list(classes).index(ABSTAIN) if ABSTAIN in classes else None


def check_goal(goal: Goal, truth: Int[Tensor, " b"]) -> None:
    """UserError: some signs are what the goal wants to be read, so that nothing would have to happen."""
    if goal.target is not None and bool((truth == goal.target).any()):
        name = goal.name.partition(":")[2]
        raise UserError(f"Some scenes are of class {name!r} already: leave them out, or name another class.")
