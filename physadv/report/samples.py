"""`report.html` of `physadv samples`, and its answer in one sentence."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from physadv.report.template import flat, write_page
from physadv.report.words import percent, rate_text

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
MODEL = ("d", "sigma", "epsilon", "goal_error")


def theory_headline(theory: Mapping[str, Any]) -> str:
    """How many samples, standard and robust; or that no number is enough, as the best classifier misses the goal."""
    rows = {row["epsilon"]: row for row in theory["rows"]}
    standard, robust = rows[0.0], rows[theory["epsilon"]]
    goal = percent(theory["goal_error"])
    first = f"In {theory['d']} dimensions with noise σ = {theory['sigma']:.3g}"
    if standard["impossible"]:
        best = percent(standard["ceiling"])
        return f"{first}, {goal} error is impossible even without an adversary: the best classifier errs in {best}."
    start = f"{first}, {goal} error takes {samples(standard['needed'])}"
    if robust["impossible"]:
        return (
            f"{start}; against ε = {theory['epsilon']:g} it is impossible: with any number of samples, the best "
            f"classifier there is errs in {percent(robust['ceiling'])}."
        )
    return f"{start}, and {samples(robust['needed'])} against ε = {theory['epsilon']:g}."


def data_headline(data: Mapping[str, Any]) -> str:
    """What all photographs are foretold to give, and how many more the goal takes."""
    robust = data["curves"]["robust"]
    most = robust["measured"][-1]["photographs"]
    start = (
        f"Measured on up to {number(most)} photographs, adversarial training of {data['arch']} is foretold to answer "
        f"{forecast(robust['at_all'])} rightly under attack "
        f"(ε = {eps(data['epsilon'])}) with all {number(data['photographs'])}"
    )
    return f"{start}; {goal_sentence(data)}."


def goal_sentence(data: Mapping[str, Any]) -> str:
    """`80 % takes about 31,000 more labelled photographs (90 %: 12,000 to no upper bound)`."""
    answer, labelled = data["curves"]["robust"]["answer"], data["more"]["labelled"]
    goal = percent(answer["goal_accuracy"])
    if answer["verdict"] == "not reachable":
        top = percent(answer["ceiling"]["ci90"][1])
        return f"{goal} is not reachable by this curve: even without end it stays below {top}"
    if answer["verdict"] == "reached":
        return f"{goal} is reached with fewer than there are"
    if labelled["median"] is None:
        share = percent(1 - answer["reachable"])
        least = number(labelled["low"])
        return (
            f"whether any number of photographs reaches {goal} is open: {share} of the curves end below it, and it "
            f"takes at least {least} more"
        )
    low, high = number(labelled["low"]), number(labelled["high"])
    return f"{goal} takes about {number(labelled['median'])} more labelled photographs (90 %: {low} to {high})"


def data_remarks(data: Mapping[str, Any]) -> list[str]:
    """What qualifies the forecast."""
    said = []
    for name, one in data["backtest"].items():
        outside, runs = one["inside"].count(False), len(one["inside"])
        if 2 * outside > runs:  # one of three is no sign yet
            above = np.mean(one["runs"]) > one["foretold"]["median"]
            said.append(
                f"The {name} curve does not foretell its own last size well: without it, {outside} of {runs} trainings "
                f"there lie outside the 90 % interval {forecast(one['foretold'])}, and their mean lies "
                f"{'above' if above else 'below'} its median. Expect the true accuracy further "
                f"{'up' if above else 'down'} than foretold, or measure larger sizes (--sizes)."
            )
    return said


def write_samples_report(path: Path, metrics: Mapping[str, Any], pictures: Mapping[str, bytes]) -> None:
    """One self-contained HTML file, written whole or not at all. metrics: docs/samples.md; pictures: PNG by name."""
    run = metrics["run"]
    context = {
        "title": "samples · " + (run["config"]["scenes"] or "the Gaussian model"),
        "headline": metrics["headline"],
        "theory": metrics.get("theory"),
        "shown": metrics.get("demonstration"),
        "data": metrics.get("data"),
        "remarks": data_remarks(metrics["data"]) if "data" in metrics else [],
        "answer": goal_sentence(metrics["data"]) if "data" in metrics else "",
        "pictures": {name.partition(".")[0]: _uri(picture) for name, picture in pictures.items()},
        "number": number,
        "eps": eps,
        "run": run,
        "config": flat(_settings(metrics)),
        "little": little,
    }
    write_page(path, "samples.html.j2", context)


def sample_tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Heads and rows of what the command line prints."""
    if "data" in metrics:
        return [_measured_table(metrics["data"])]
    theory, shown = metrics["theory"], metrics["demonstration"]
    head = ("ε", f"samples for {percent(theory['goal_error'])} error", "ceiling (n → ∞)")
    rows: list[tuple[str, ...]] = [
        (f"{row['epsilon']:g}", "impossible" if row["impossible"] else f"{row['needed']:,}", little(row["ceiling"]))
        for row in theory["rows"]
    ]
    bound = theory["lower_bound"]["scaling"]
    rows.append(("every learner", f"c · {bound:.3g}, c unknown", "ε²√d / log d; σ = c₁·d^¼, ε ≤ ¼, error near ½"))
    found = shown["simulated"]
    vanishing: list[tuple[str, ...]] = [
        ("closed form", f"{100 * shown['standard']:.2f} %", percent(shown["robust"])),
        ("simulated", f"{100 * found['standard']['rate']:.2f} %", percent(found["robust"]["rate"])),
    ]
    return [
        (head, rows),
        ((f"θᵢ = 3/√d, d = {shown['d']}", "best error", f"any classifier's, ε = {shown['epsilon']:.3f}"), vanishing),
    ]


def _measured_table(data: Mapping[str, Any]) -> Table:
    curves = [data["curves"][name] for name in ("standard", "robust")]
    rows: list[tuple[str, ...]] = [
        (number(standard["photographs"]), rate_text(standard["accuracy"]), rate_text(robust["accuracy"]))
        for standard, robust in zip(*(curve["measured"] for curve in curves), strict=True)
    ]
    foretold = [forecast(curve["at_all"]) for curve in curves]
    rows.append((f"{number(data['photographs'])}, foretold [90 %]", *foretold))
    for name, one in data.get("verified", {}).items():
        measured = ", ".join(f"{100 * run:.1f} %" for run in one["runs"])
        columns = (measured, "") if name == "standard" else ("", measured)
        rows.append((f"verified: {sum(one['inside'])} of {len(one['inside'])} inside", *columns))
    return ("photographs", "standard training, clean", "adversarial training, attacked"), rows


def forecast(said: Mapping[str, Any]) -> str:
    """`62 % [55–68]`: a median with its 90 % interval."""
    low, high = said["ci90"]
    return f"{percent(said['median'])} [{100 * low:.0f}–{100 * high:.0f}]"


def _settings(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The options that mattered, with the values used."""
    config = metrics["run"]["config"]
    if "theory" in metrics:
        return {name: metrics["theory"][name] for name in MODEL} | {"seed": config["seed"]}
    return {name: value for name, value in config.items() if name not in MODEL} | {
        "epsilon": metrics["data"]["epsilon"]
    }


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def samples(n: int) -> str:
    return "1 sample" if n == 1 else f"{n:,} samples"


def number(n: float | None) -> str:
    """Two digits that matter; None is infinity."""
    if n is None:
        return "no upper bound"
    if n >= 1e7:
        return f"{n:.0e}".replace("e+0", " × 10^").replace("e+", " × 10^")
    return f"{float(f'{n:.3g}'):,.0f}"


def little(error: float) -> str:
    """Two digits of a percentage that may be next to nothing."""
    return f"{100 * error:.2g} %" if error >= 1e-6 else "< 0.0001 %"


def eps(epsilon: float) -> str:
    """In levels of 255: `2/255`."""
    return f"{255 * epsilon:.3g}/255"
