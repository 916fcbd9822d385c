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
    """`93 %`; it reads 0 or 100 only where it is exactly that."""
    return "no cases" if rate is None else f"{_whole(rate)} %"


def interval(said: RateJson) -> str:
    """`[88–96]`, in percent; empty where there were no cases."""
    return "" if said["ci95"] is None else f"[{_whole(said['ci95'][0])}–{_whole(said['ci95'][1])}]"


def rate_text(said: RateJson) -> str:
    """`93 % [88–96]`."""
    return f"{percent(said['rate'])} {interval(said)}".rstrip()


def _whole(rate: float) -> str:
    rounded = round(100 * rate)
    if rounded == 0 and rate > 0:
        return "<1"
    if rounded == 100 and rate < 1:
        return ">99"
    return str(rounded)


def noun(threat: str | None) -> str:
    """What the adversary adds, in a word: `stickers:two-bars` -> `sticker`."""
    return NOUNS.get((threat or "").partition(":")[0], "artwork")


def signs(names: Iterable[str]) -> str:
    """`the stop sign`, `the stop and yield signs`, `signs of 12 classes`."""
    names = list(dict.fromkeys(names))
    if len(names) > 3:
        return f"signs of {len(names)} classes"
    *first, last = names
    return f"the {', '.join(first)} and {last} signs" if first else f"the {last} sign"


def goal_class(goal: str) -> str | None:
    """The class that is to be answered; None where any wrong answer will do."""
    kind, _, name = goal.partition(":")
    return name if kind == "class" else None
