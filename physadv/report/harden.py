"""`report.html` of `physadv harden`, its tables, and its answer in one sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from physadv.attacks import attack_each
from physadv.files import to_pil
from physadv.harden.mixture import load_one
from physadv.harden.trials import Trial
from physadv.heldout import HeldOut, varies
from physadv.question import truth_of
from physadv.report import charts
from physadv.report.embed import data_uri
from physadv.report.harden_detector import detector_tables
from physadv.report.template import flat, write_page
from physadv.report.words import percent, rate_text
from physadv.scenes import Scenes
from physadv.scenes.canvas import spread
from physadv.targets import Classifier
from physadv.targets.base import frozen
from physadv.threats.base import Artwork
from physadv.transforms.stages import derive

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
SHOWN = 8


@dataclass(frozen=True)
class Said:
    """A photograph and what a target says it shows."""

    picture: str
    name: str
    right: bool


@dataclass(frozen=True)
class Example:
    """One sign: as it is, with the artwork made against the target as it was, and against the hardened one."""

    scene: str
    truth: str
    clean: tuple[Said, Said]
    attacked: tuple[Said, Said]


def harden_headline(metrics: Mapping[str, Any]) -> str:
    """The first trained threat where there is one, what is new and fares worst, and the price."""
    first = next((one for one in metrics["attacks"] if one["trained"]), metrics["attacks"][0])
    was, now = (percent(first[side]["robust"]["rate"]) for side in ("before", "after"))
    kind = "of the kind it was trained on" if first["trained"] else "none of which is of the kind it was trained on"
    start = (
        f"Under fresh attacks {kind} ({first['name']}, {first['world']}) it answers {now} of the signs rightly, "
        f"before {was}"
    )
    unseen = [one for one in metrics["attacks"] if not one["trained"]]
    worst = min(unseen, key=lambda one: one["after"]["robust"]["rate"])
    clean = metrics["clean"][first["world"]]
    return (
        f"{start}; of what it was not trained on, {worst['name']} ({worst['world']}) leaves the least: "
        f"{percent(worst['after']['robust']['rate'])}. Without any artwork: {percent(clean['before']['rate'])} before, "
        f"{percent(clean['after']['rate'])} after."
    )


def demo_headline(metrics: Mapping[str, Any]) -> str:
    """What became of the same attack, and what that cost."""
    hardened = metrics["hardened"]
    clean = hardened["clean"]
    return (
        f"Hardened for {hardened['seconds']:.0f} s, the same attack, made afresh, succeeds in "
        f"{rate_text(hardened['attacked'])} of the views instead of {rate_text(metrics['attacked'])}; without a "
        f"sticker it reads {percent(clean['after']['rate'])} of all drawn signs, before "
        f"{percent(clean['before']['rate'])}."
    )


def points(difference: Mapping[str, Any]) -> str:
    """`+63.0 [57.1, 68.4]`, in percentage points."""
    if difference["difference"] is None:
        return "no cases"
    low, high = difference["ci95"]
    return f"{_point(difference['difference'])} [{_point(low)}, {_point(high)}]"


def new(row: Mapping[str, Any]) -> str:
    """`trained on`, or `new: size, world`."""
    return "trained on" if row["trained"] else f"new: {', '.join(row['novel'])}"


def tried(row: Mapping[str, Any]) -> str:
    """`5 x 100`, starts and steps."""
    return "" if row["tries"] is None else f"{row['tries']['restarts']} x {row['tries']['steps']}"


def harden_tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Heads and rows of what the command line prints."""
    if "detection" in metrics:
        return detector_tables(metrics)
    head = ("right without and with the artwork", "world", "training", "starts x steps", "before", "after", "points")
    rows: list[tuple[str, ...]] = [
        ("no artwork", world, "", "", rate_text(one["before"]), rate_text(one["after"]), points(one["difference"]))
        for world, one in metrics["clean"].items()
    ]
    for one in metrics["attacks"]:
        sides = (rate_text(one[side]["robust"]) for side in ("before", "after"))
        rows.append((one["name"], one["world"], new(one), tried(one), *sides, points(one["difference"])))
    return [(head, rows), matrix_table(metrics["matrix"])]


def matrix_table(matrix: Sequence[Mapping[str, Any]]) -> Table:
    """Trained on (rows) x attacked with (columns)."""
    sizes = [f"{cell['size']:g} %" for cell in matrix[0]["cells"]]
    rows: list[tuple[str, ...]] = [
        (row["name"], on(row), *(f"{percent(cell['robust']['rate'])}{'*' * cell['trained']}" for cell in row["cells"]))
        for row in matrix
    ]
    return ("robust by size of the patch (* trained on)", "trained on", *sizes), rows


def on(row: Mapping[str, Any]) -> str:
    if row["name"] == "undefended":
        return "no attack"
    return ", ".join(f"{size:g}" for size in row["trained_on"]) + " %" if row["trained_on"] else "other threats"


def _point(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def write_harden_report(
    path: Path, metrics: Mapping[str, Any], *, before: Classifier, after: Classifier, scenes: Scenes, trial: Trial
) -> None:
    """One self-contained HTML file, written whole or not at all. metrics: docs/hardening.md."""
    run = metrics["run"]
    context = {
        "title": f"{run['target']['name']}, hardened · {', '.join(run['threats'])}",
        "metrics": metrics,
        "run": run,
        "points": points,
        "new": new,
        "tried": tried,
        "on": on,
        "curves": charts.epochs(metrics["history"]),
        "frame": charts,
        "examples": examples(before, after, scenes, trial, seed=run["seed"]),
        "trial": trial,
        "config": flat(run["config"]),
        "plan": flat(metrics["training"]["plan"]),
    }
    write_page(path, "harden.html.j2", context)


def examples(before: Classifier, after: Classifier, scenes: Scenes, trial: Trial, *, seed: int) -> list[Example]:
    """Signs of all tracks alike, whatever became of them, under one trial, with a fresh artwork for each target."""
    few = scenes.take(torch.tensor(spread(scenes.groups, min(SHOWN, len(scenes)))))
    was, now = (_seen(target, few, trial, seed=seed) for target in (before, after))
    names = [before.classes[row] for row in truth_of(few, before.classes).tolist()]
    return [
        Example(few.names[row], name, (was[0][row], now[0][row]), (was[1][row], now[1][row]))
        for row, name in enumerate(names)
    ]


@torch.no_grad()
def _seen(target: Classifier, scenes: Scenes, trial: Trial, *, seed: int) -> tuple[list[Said], list[Said]]:
    """The same view of each sign without and with an artwork made for it."""
    threat = load_one(
        trial.threat, scenes, mask=trial.mask, palette=trial.palette, resolution_px=trial.tries.resolution_px, seed=seed
    )
    random = varies(target, scenes, trial.world, threat)
    settings = trial.settings(random=random, ball=threat.ball is not None)
    with torch.enable_grad():
        worn = attack_each(target, scenes, threat, world=trial.world, settings=settings, seed=seed).artwork
    place = threat if threat.roams else None
    held_out = HeldOut(target, scenes, trial.world, 1, derive(seed, "pictures"), place)
    with frozen(target.module):
        sides = [_said(target, held_out, artwork) for artwork in (None, worn)]
    return sides[0], sides[1]


def _said(target: Classifier, held_out: HeldOut, artwork: Artwork | None) -> list[Said]:
    (photographs,) = held_out.photographs(artwork)
    answers, truth = target(photographs).argmax(1).tolist(), held_out.truth.tolist()
    return [
        Said(data_uri(to_pil(picture)), target.classes[answer], answer == wanted)
        for picture, answer, wanted in zip(photographs, answers, truth, strict=True)
    ]
