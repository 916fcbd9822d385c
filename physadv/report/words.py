"""Rates, intervals and names as text."""

from collections.abc import Iterable, Mapping
from typing import Any

RateJson = Mapping[str, Any]
"""`Rate.to_json()`: rate, k, n, ci95."""

NOUNS = {
    "stickers": "sticker",
    "patch": "patch",
    "ring": "ring",
    "poster": "poster",
    "linf": "perturbation",
    "l2": "perturbation",
}


def percent(rate: float | None) -> str:
    """`93 %`; with decimals where it would read 0 or 100 and is not."""
    return "no cases" if rate is None else f"{_short(rate)} %"


def interval(said: RateJson) -> str:
    """`[88–96]`, in percent; empty where there were no cases."""
    return "" if said["ci95"] is None else f"[{_short(said['ci95'][0])}–{_short(said['ci95'][1])}]"


def rate_text(said: RateJson) -> str:
    """`93 % [88–96]`."""
    return f"{percent(said['rate'])} {interval(said)}".rstrip()


def _short(rate: float) -> str:
    share = round(100 * rate, 3)
    if 0 < share < 0.5:
        return f"{share:.1g}"
    if 99.5 <= share < 100:
        return f"{100 - float(f'{100 - share:.1g}'):g}"
    return str(round(share))


def signed(value: float) -> str:
    """Three digits and a true minus."""
    return f"{value:.3g}".replace("-", "−")


def count(n: int, word: str) -> str:
    """`1 scene`, `2 scenes`."""
    return f"{n} {word if n == 1 else plural(word)}"


def plural(word: str) -> str:
    """`stickers`, `patches`."""
    return f"{word}es" if word.endswith("ch") else f"{word}s"


def noun(threat: str | None) -> str:
    """What the adversary adds, in a word: `stickers:two-bars` -> `sticker`."""
    return NOUNS.get((threat or "").partition(":")[0], "artwork")


def plain_compares(threat: str | None) -> bool:
    """Whether a plain artwork of the same shape is a control; one that hides the whole face or photograph is none."""
    return (threat or "").partition(":")[0] not in ("poster", "linf", "l2")


def signs(names: Iterable[str]) -> str:
    """`the stop sign`, `the stop and yield signs`, `signs of 12 classes`."""
    names = list(dict.fromkeys(names))
    if len(names) > 3:
        return f"signs of {len(names)} classes"
    *first, last = names
    return f"the {', '.join(first)} and {last} signs" if first else f"the {last} sign"


def goal_class(goal: str) -> str | None:
    """The class that is to be answered; None where any wrong answer will do."""
    return goal.partition(":")[2] or None


def deed(goal: str, names: Iterable[str]) -> str:
    """What the artwork makes a target do: `misread the stop sign`, `miss the stop sign`."""
    kind, _, wanted = goal.partition(":")
    match kind:
        case "hide":
            return f"miss {signs(names)}"
        case "relabel":
            return f"take {signs(names)} for {wanted}"
        case "create":
            return f"see {wanted} on {signs(names).removesuffix(' sign')}"
        case "class":
            return f"read {signs(names)} as {wanted}"
    return f"misread {signs(names)}"


def right(goal: str, names: Iterable[str]) -> str:
    """What a target does that is not fooled: `reads the stop sign correctly`, `finds the stop sign`."""
    kind, _, wanted = goal.partition(":")
    if kind == "create":
        return f"sees no {wanted} on {signs(names).removesuffix(' sign')}"
    return f"finds {signs(names)}" if kind in ("hide", "relabel") else f"reads {signs(names)} correctly"


def rightly(goal: str) -> str:
    """`read correctly`, `found`: of the cases that count."""
    kind = goal.partition(":")[0]
    return {"hide": "found", "relabel": "found", "create": "judged rightly"}.get(kind, "read correctly")
