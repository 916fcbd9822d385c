"""Several runs side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physadv.errors import UserError
from physadv.files import open_image, read_json
from physadv.report.embed import data_uri
from physadv.report.template import flat, write_page
from physadv.report.words import RateJson, rate_text

RATES = (
    ("accuracy", "read correctly without artwork"),
    ("clean", "goal reached without artwork"),
    ("attacked", "attack success"),
    ("promise", "promise (unseen worlds)"),
    ("worst_world", "weakest world"),
    ("clean_accuracy", "clean accuracy"),
)


@dataclass(frozen=True)
class Run:
    """One run's figures, its artwork as a picture, and its settings as text."""

    name: str
    rates: dict[str, RateJson]
    picture: str | None
    settings: dict[str, str]


@dataclass(frozen=True)
class Row:
    """One line of a table: a value per run, and whether the runs disagree."""

    label: str
    values: tuple[Any, ...]
    differs: bool = False


def compare_reports(path: Path, runs: Sequence[Path]) -> None:
    """One self-contained HTML file with the rates, artworks and settings of several runs.

    UserError: fewer than two runs, or one that has no metrics.json of physadv.
    """
    if len(runs) < 2:
        raise UserError("A comparison needs at least two runs; give two or more output folders.")
    loaded = [_load(folder, name) for folder, name in zip(runs, _names(runs), strict=True)]
    settings = [
        _row(key, [run.settings.get(key, "–") for run in loaded]) for key in _keys([r.settings for r in loaded])
    ]
    labels = _keys([run.rates for run in loaded])
    context = {
        "runs": loaded,
        "rates": [Row(label, tuple(run.rates.get(label) for run in loaded)) for label in _ordered(labels)],
        "differing": [row for row in settings if row.differs],
        "same": [row for row in settings if not row.differs],
    }
    write_page(path, "compare.html.j2", context)


def _names(runs: Sequence[Path]) -> list[str]:
    """The folders' own names, or their whole paths where two are called the same."""
    names = [folder.resolve().name for folder in runs]
    return names if len(set(names)) == len(names) else [str(folder) for folder in runs]


def _load(folder: Path, name: str) -> Run:
    path = next((folder / name for name in ("metrics.json", "audit.json") if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder} holds no metrics.json or audit.json; give the output folder of a finished run.")
    metrics = read_json(path)
    try:
        return Run(name, _rates(metrics), _picture(folder), _settings(metrics))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} does not hold the figures of a run ({error!r}); run it again.") from error


def _rates(metrics: Mapping[str, Any]) -> dict[str, RateJson]:
    rates = {label: metrics[key] for key, label in RATES if key in metrics}
    rates |= {f"robust accuracy, {how}": rate for how, rate in metrics.get("robust_accuracy", {}).items()}
    rates |= {f"{what} control": rate for what, rate in metrics.get("controls", {}).items()}
    rates |= {f"world {name}": rate for name, rate in metrics.get("worlds", {}).items()}
    for rate in rates.values():
        rate_text(rate)  # a KeyError here rather than half-way through the page
    return rates


def _ordered(labels: Sequence[str]) -> list[str]:
    """The headline figures and controls first, then every world."""
    return sorted(labels, key=lambda label: label.startswith("world "))


def _settings(metrics: Mapping[str, Any]) -> dict[str, str]:
    run = dict(metrics["run"])
    config = flat(run.pop("config"))
    flags = [name for name, flag in metrics.get("flags", {}).items() if flag["raised"]]
    warnings = {"warnings": ", ".join(flags) or "none"} if "flags" in metrics else {}
    return warnings | flat({key: value for key, value in run.items() if key not in ("command", "seconds")}) | config


def _picture(folder: Path) -> str | None:
    art = next((folder / name for name in ("art.png", "art-0000.png") if (folder / name).is_file()), None)
    if art is None:
        return None
    image = open_image(art, mode="RGBA")
    alpha = next((folder / name for name in ("alpha.png", "alpha-0000.png") if (folder / name).is_file()), None)
    if alpha is not None:
        cover = open_image(alpha, mode="L")
        if cover.size == image.size:
            image.putalpha(cover)
    return data_uri(image)


def _keys(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every key of any table, in the order of first appearance."""
    return list(dict.fromkeys(key for table in tables for key in table))


def _row(label: str, values: list[str]) -> Row:
    return Row(label, tuple(values), differs=len(set(values)) > 1)
