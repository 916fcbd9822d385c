"""`report.html` of one run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from physadv.evaluation import Evaluation
from physadv.report import charts
from physadv.report.detection import Film
from physadv.report.detection import context as detection_context
from physadv.report.headline import Subject, headline, remarks
from physadv.report.pictures import ARTWORKS_SHOWN, first_pairs, first_views, pieces
from physadv.report.template import flat, write_page
from physadv.report.words import deed, goal_class, noun, rightly, signs
from physadv.threats.base import Artwork
from physadv.threats.patch import RoamingPatch


def write_report(
    path: Path,
    *,
    title: str,
    evaluation: Evaluation,
    artwork: Artwork | None,
    history: Sequence[Mapping[str, Any]],
    run: Mapping[str, Any],
    films: Sequence[Film] = (),
) -> None:
    """One self-contained HTML file, written whole or not at all.

    history: `Attacked.history`, empty where nothing was searched. run: as under `run` in docs/metrics.md.
    films: of simulated drives, for a detector.
    """
    metrics, verdict = evaluation.metrics, evaluation.verdict
    scenes = verdict.held_out.scenes
    classes = run["scenes"]["classes"]
    whole = "detection" in metrics
    count = 1 if artwork is None else len(artwork)
    subject = Subject(run["target"]["name"], classes, run["threat"], run["goal"], count, searched=bool(history))
    context = {
        "title": title,
        "headline": headline(metrics, subject),
        "remarks": remarks(metrics, run["threat"], printed=artwork is None or artwork.printed),
        "metrics": metrics,
        "thing": noun(run["threat"]),
        "goal": goal_class(run["goal"]),
        "signs": signs(classes),
        "pieces": [] if artwork is None else pieces(artwork, verdict),
        "pieces_left_out": max(0, count - ARTWORKS_SHOWN),
        "printed": artwork is not None and artwork.printed,
        "roams": isinstance(verdict.held_out.threat, RoamingPatch),
        "views": [] if whole else first_views(verdict, artwork, goal=run["goal"]),
        "detection": _detection(evaluation, artwork, films) if whole else None,
        "deed": deed(run["goal"], classes),
        "rightly": rightly(run["goal"]),
        "cases": "signs" if whole else "views",
        "dots": charts.dots(metrics, run["threat"]) if "attacked" in metrics else [],
        "heat": charts.heat_map(metrics.get("cells", [])),
        "curves": charts.curves(history),
        "frame": charts,
        "run": run,
        "config": flat(run["config"]),
        "staged": scenes.staged,
        "groups": len(set(scenes.groups)),
    }
    write_page(path, "report.html.j2", context)


def _detection(evaluation: Evaluation, artwork: Artwork | None, films: Sequence[Film]) -> dict[str, Any]:
    """What detection.html.j2 shows."""
    metrics, scenes = evaluation.metrics, evaluation.verdict.held_out.scenes
    groups = len(set(scenes.groups))
    return detection_context(
        metrics["detection"],
        pairs=first_pairs(evaluation.verdict, artwork),
        groups=f"{groups} photographs",
        approach=metrics.get("approach"),
        films=films,
    )
