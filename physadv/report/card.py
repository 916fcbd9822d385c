"""card.md: what whoever is handed the weights has to know."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from physadv.files import write_atomic
from physadv.report.harden import Table, harden_tables
from physadv.report.words import count


def write_card(path: Path, metrics: Mapping[str, Any]) -> None:
    """Markdown, written whole or not at all."""
    write_atomic(path, card(metrics).encode())


def card(metrics: Mapping[str, Any]) -> str:
    """Data, threat, recipe, time, figures, command, limits."""
    run, training = metrics["run"], metrics["training"]
    plan, recipe, config = training["plan"], training["recipe"], run["config"]
    minutes = training["seconds"] / 60
    judged = run["scenes"]
    lines = [
        f"# {run['target']['name']}, hardened",
        "",
        metrics["headline"],
        "",
        f"- **Weights**: {run['hardened']['weights_hash']}, from {run['target']['weights_hash']}"
        + (" of the same architecture, trained anew." if config["from_scratch"] else ", trained further."),
        f"- **Data**: {count(training['images'], 'image')} of {config['scenes']}"
        + (f" beside {config['staged']}" if config["staged"] not in (None, "none") else "")
        + f"; {count(training['held_out'], 'scene')} "
        + ("before other backgrounds" if config["scenes"].startswith("staged:") else "of other signs")
        + " chose the weights.",
        f"- **Threat**: {', '.join(run['threats'])}, in the world {run['world']['name']} ({run['world']['hash']}).",
        f"- **Recipe**: {recipe['name']} ({recipe['paper']}): {count(recipe['steps'], 'inner step')}, "
        f"{count(plan['epochs'], 'epoch')}, batch {plan['batch']}, learning rate {plan['learning_rate']:g}; "
        f"the weights of epoch {training['best_epoch']}.",
        f"- **Time**: {minutes:.1f} minutes on {config['device']} ({count(training['threads'], 'thread')}).",
        f"- **Judged on**: {judged['spec']}, {count(judged['n'], 'scene')} of {count(judged['groups'], 'sign')}"
        + ("; these signs also chose the weights, so that the figures flatter." if judged["chose"] else "."),
        f"- {metrics['load']}",
        "",
        "## Figures",
        "",
        "Share of the signs answered rightly, without the artwork and with it, under attacks made afresh for each "
        "target; 95 % intervals over signs. `new` says what of an attack the training never saw.",
        "",
    ]
    for table in harden_tables(metrics):
        lines += [*_markdown(table), ""]
    lines += ["## Command", "", f"    {run['command']}", "", "## Limits", ""]
    lines += [f"- {limit}" for limit in limits(metrics)]
    return "\n".join(lines) + "\n"


def limits(metrics: Mapping[str, Any]) -> list[str]:
    """What the figures do not say."""
    said = [
        "Robust accuracy is an upper bound: an attack that was not tried may break more.",
        "It holds for what was tried: these sizes, places, masks and worlds. Against anything that looks different, "
        "assume the figure of the undefended model.",
    ]
    weak = [one["name"] for one in metrics["attacks"] if one["after"]["robust"]["rate"] < 0.5]
    if weak:
        said.append(f"Less than half of the signs stand against {', '.join(dict.fromkeys(weak))}.")
    if metrics["run"]["scenes"]["chose"]:
        said.append("The signs that judge also chose the weights (--judge gives others).")
    return said


def _markdown(table: Table) -> list[str]:
    head, rows = table
    return [_line(head), _line(tuple("---" for _ in head)), *map(_line, rows)]


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
