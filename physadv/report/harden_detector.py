"""Tables, headline, card and page of a hardened detector."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from physadv.files import write_atomic
from physadv.report import charts
from physadv.report.template import flat, write_page
from physadv.report.words import count, percent, rate_text

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
SIDES = ("before", "after")


def detector_tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Heads and rows: signs hidden by fresh artworks, and the average precision without any."""
    head = ("signs hidden by a fresh artwork", "threat", "training", "before", "after", "AP50 with it, before", "after")
    rows: list[tuple[str, ...]] = []
    for one in metrics["attacks"]:
        hidden = [rate_text(one[side]["attacked"]) for side in SIDES]
        points = [f"{one[side]['ap50']['artwork']['ap']:.2f}" for side in SIDES]
        rows.append((one["class"], one["threat"], "trained on" if one["trained"] else "new", *hidden, *points))
    before, after = (metrics["detection"][side] for side in SIDES)
    clean: list[tuple[str, ...]] = [
        (name, _ap(before["classes"][name]["ap50"]), _ap(one["ap50"])) for name, one in after["classes"].items()
    ]
    clean.append(("mean", _ap(before["mean"]), _ap(after["mean"])))
    return [(head, rows), (("AP50 without any artwork", *SIDES), clean)]


def detector_headline(metrics: Mapping[str, Any]) -> str:
    """What fresh artworks of the kind that was trained on hide, and the price."""
    said = [
        f"{one['class']} {percent(one['before']['attacked']['rate'])} → {percent(one['after']['attacked']['rate'])}"
        for one in metrics["attacks"]
        if one["trained"]
    ]
    before, after = (metrics["detection"][side]["mean"]["ap"] for side in SIDES)
    threat = metrics["run"]["threats"][0]
    return f"Signs hidden by a fresh {threat}: {', '.join(said)}. Mean AP50 without it: {before:.3f} → {after:.3f}."


def write_detector_card(path: Path, metrics: Mapping[str, Any]) -> None:
    """card.md: data, threat, recipe, figures, command, limits."""
    run, training = metrics["run"], metrics["training"]
    plan, recipe, config = training["plan"], training["recipe"], run["config"]
    lines = [
        f"# {run['target']['name']}, hardened",
        "",
        metrics["headline"],
        "",
        f"- **Weights**: {run['hardened']['weights_hash']}, from {run['target']['weights_hash']}; operating threshold "
        f"{run['hardened']['threshold']:.2f}, before {run['target']['threshold']:.2f}.",
        f"- **Data**: {count(training['images'], 'photograph')} of {config['scenes']}; {training['held_out']} of other "
        "groups chose epoch and threshold.",
        f"- **Threat**: {', '.join(run['threats'])}, in the world {run['world']['name']} ({run['world']['hash']}).",
        f"- **Recipe**: {recipe['name']} ({recipe['paper']}): {recipe['steps']} inner steps, {plan['epochs']} epochs, "
        f"batch {plan['batch']}, peak rate {plan['learning_rate']:g}; the weights of epoch {training['best_epoch']}.",
        f"- **Time**: {training['seconds'] / 60:.1f} minutes on {config['device']}.",
        f"- **Judged on**: {run['scenes']['spec']}, {count(run['scenes']['n'], 'photograph')}"
        + ("; these also chose epoch and threshold, so that the figures flatter." if run["scenes"]["chose"] else "."),
        f"- **Use**: {metrics['load']}",
        "",
        "## Figures",
        "",
    ]
    for table in detector_tables(metrics):
        lines += [*_markdown(table), ""]
    lines += ["## Command", "", f"    {run['command']}", "", "## Limits", "", *(f"- {one}" for one in LIMITS)]
    write_atomic(path, ("\n".join(lines) + "\n").encode())


LIMITS = (
    "Hidden means: found without the artwork, not found with it, at the operating threshold; an attack that was not "
    "tried may hide more.",
    "It holds for prints of these sizes on these classes. Against phantoms (--goal create) nothing was trained.",
)


def write_detector_page(path: Path, metrics: Mapping[str, Any]) -> None:
    """One self-contained HTML file."""
    run = metrics["run"]
    context = {
        "title": f"{run['target']['name']}, hardened · {', '.join(run['threats'])}",
        "metrics": metrics,
        "run": run,
        "tables": detector_tables(metrics),
        "curves": charts.epochs(metrics["history"]),
        "frame": charts,
        "config": flat(run["config"]),
        "plan": flat(metrics["training"]["plan"]),
    }
    write_page(path, "harden_detector.html.j2", context)


def _ap(one: Mapping[str, Any]) -> str:
    low, high = one["ci95"] if one["ci95"] else (None, None)
    return "no signs" if one["ap"] is None else f"{one['ap']:.3f} [{low:.3f}–{high:.3f}]"


def _markdown(table: Table) -> list[str]:
    head, rows = table
    return [f"| {' | '.join(cells)} |" for cells in (head, tuple("---" for _ in head), *rows)]
