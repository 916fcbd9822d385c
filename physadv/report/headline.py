"""The verdict in one sentence, and what a careful reader has to know about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from physadv.report.words import RateJson, deed, interval, noun, percent, plain_compares, plural, rate_text, right

FEW_VIEWS = 30  # below this even 0 of n leaves more than 11 % possible
LOW_ACCURACY = 0.8


@dataclass(frozen=True)
class Subject:
    """Who does what to whom."""

    target: str
    classes: Sequence[str]  # of the signs in view
    threat: str | None
    goal: str
    artworks: int = 1
    searched: bool = True  # by this run; else the artwork was given

    @property
    def deed(self) -> str:
        """`misread the stop sign`, `miss the stop sign`."""
        return deed(self.goal, self.classes)

    def verdict(self, found: str, given: str) -> str:
        """The start of a sentence on what it does not do."""
        if self.searched:
            return f"No {self.thing} of this kind was found that {found}"
        return f"This {self.thing} does not {given}"

    @property
    def thing(self) -> str:
        return noun(self.threat)


def headline(metrics: Mapping[str, Any], subject: Subject) -> str:
    """One sentence in plain words: success, a failure, or that nothing can be said."""
    views = metrics["accuracy"]["n"]
    if "attacked" not in metrics:
        share = f"{percent(metrics['accuracy']['rate'])} of {views} held-out views {interval(metrics['accuracy'])}"
        return f"{subject.target} {right(subject.goal, subject.classes)} in {share}."
    attacked = metrics["attacked"]
    if not attacked["n"]:
        return (
            f"Nothing can be said about this {subject.thing}: {subject.target} {right(subject.goal, subject.classes)} "
            f"in none of {views} held-out views, even without it."
        )
    if not attacked["k"]:
        return (
            f"{subject.verdict('makes', 'make')} {subject.target} {subject.deed}: "
            f"none of {attacked['n']} held-out views {interval(attacked)}."
        )
    success = _success(metrics, subject)
    if no_better_than_plain(metrics, subject.threat):
        return f"{subject.verdict('does', 'do')} clearly better than a plain one: {success}"
    return success[0].upper() + success[1:]


def no_better_than_plain(metrics: Mapping[str, Any], threat: str | None) -> bool:
    """Whether a plain or random control reaches into the artwork's interval."""
    known = [control["rate"] for control in metrics["controls"].values() if control["rate"] is not None]
    ci95 = metrics["attacked"]["ci95"]
    return plain_compares(threat) and ci95 is not None and bool(known) and max(known) >= ci95[0]


def _success(metrics: Mapping[str, Any], subject: Subject) -> str:
    attacked, controls = metrics["attacked"], metrics["controls"]
    these = (
        f"this {subject.thing} makes"
        if subject.artworks == 1
        else f"these {subject.artworks} {plural(subject.thing)} make"
    )
    plain = "controls: " + ", ".join(f"{what} {percent(rate['rate'])}" for what, rate in controls.items())
    return (
        f"{these} {subject.target} {subject.deed} "
        f"in {percent(attacked['rate'])} of held-out views {interval(attacked)}; "
        f"promise in unseen worlds {rate_text(metrics['promise'])}"
        f"{'; ' + plain if plain_compares(subject.threat) else ''}."
    )


def remarks(metrics: Mapping[str, Any], threat: str | None, *, printed: bool) -> list[str]:
    """What qualifies the headline, and what to do about each."""
    accuracy, attacked = metrics["accuracy"], metrics.get("attacked")
    said = []
    if not accuracy["k"]:
        said.append("Check that the target's classes, input size and context fit these scenes.")
    elif accuracy["rate"] < LOW_ACCURACY:
        said.append(
            f"The target reads only {rate_text(accuracy)} of the views correctly without artwork. The others do not "
            "count, but a target this unsure is easily pushed: try a milder world, closer views or a better target."
        )
    if attacked and 0 < attacked["n"] < FEW_VIEWS:
        said.append(f"Only {attacked['n']} views count, so intervals are wide: judge on more views (--judge-views).")
    if attacked and attacked["k"]:
        said += _doubts(attacked, metrics, threat)
    if attacked and not plain_compares(threat):
        said.append(
            "Plain or random colours in its place hide the whole sign, beyond what it may change: no controls here."
        )
    if attacked and not printed:
        said.append("This is a digital perturbation of the photograph itself: no printer can make it.")
    return said


def closest_words(closest: Mapping[str, Any]) -> str:
    """How near the least visible artworks are, or that there is none."""
    reached, count = sum(closest["reached"]), len(closest["reached"])
    unit, needed = closest["unit"], percent(closest["needed"])
    if not reached:
        return (
            f"least visible: the goal was never reached in {needed} of the views that choose; what was kept came "
            "nearest to it. Give more room (--threat), --steps or --rounds, or ask for less (--needed)."
        )
    lengths = [length for length in closest["distance"] if length is not None]
    if count == 1:
        return f"least visible: {lengths[0]:.3g} ({unit})"
    median = "more than any found" if closest["median"] is None else f"{closest['median']:.3g}"
    return f"least visible: reached for {reached} of {count}; median distance {median} ({unit})"


def _doubts(attacked: RateJson, metrics: Mapping[str, Any], threat: str | None) -> list[str]:
    said, promise = [], metrics["promise"]
    if no_better_than_plain(metrics, threat):
        said.append(
            "Here it cannot be told from a plain or random artwork of the same shape: covering the sign may be "
            "all that works here. Judge on more views or signs, search longer, or give it another area."
        )
    if promise["ci95"] is not None and promise["ci95"][1] < attacked["ci95"][0]:
        said.append(
            f"In unseen worlds the rate falls to {rate_text(promise)}: expect that of a real print, not the figure of "
            "the world it was made for."
        )
    return said
