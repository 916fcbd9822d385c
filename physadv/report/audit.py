"""`report.html` of `physadv audit`: one page that says whether the figure can be trusted."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from physadv.audit import Audit, Case
from physadv.audit.case import JUDGED
from physadv.audit.suite import NAIVE, Tally, Trial, Tried
from physadv.files import to_pil
from physadv.heldout import HeldOut
from physadv.objectives.goals import ABSTAIN
from physadv.report.embed import data_uri
from physadv.report.headline import FEW_VIEWS, LOW_ACCURACY
from physadv.report.template import flat, write_page
from physadv.report.words import count, goal_class, percent, rate_text, signed
from physadv.targets.base import frozen
from physadv.threats.base import Artwork
from physadv.transforms.stages import derive

SCENES_SHOWN = 6
_GAIN = 10  # of the differences that a norm ball allows, which nobody would see


@dataclass(frozen=True)
class Standing:
    """How many of n scenes no attack has broken, before and after this one."""

    name: str
    before: int
    after: int
    n: int


@dataclass(frozen=True)
class Answer:
    """A photograph and what the deployed target says it shows. verdict: correct, abstains, misread or goal."""

    picture: str
    name: str
    verdict: str


@dataclass(frozen=True)
class Example:
    """A scene, what the strongest attack made of it, and their difference round grey."""

    scene: str
    truth: str
    clean: Answer
    attacked: Answer
    difference: str
    attack: str
    broken: bool


def write_audit(path: Path, audit: Audit, metrics: Mapping[str, Any]) -> None:
    """One self-contained HTML file, written whole or not at all. metrics: docs/audit.md, with `run`."""
    case, run = audit.case, metrics["run"]
    trials = [(one.trial, said) for one, said in zip(audit.tally.tried, metrics["trials"], strict=True)]
    context = {
        "title": f"{run['target']['name']} · {run['scenes']['spec']} · audit",
        "metrics": metrics,
        "run": run,
        "remarks": remarks(audit, metrics),
        "defended": case.defended,
        "naive_tried": NAIVE in audit.tally,
        "points": signed(round(100 * _fall(metrics["robust_accuracy"]))),
        "steps": standing(audit.tally),
        "raised": [flag for flag in audit.flags if flag.raised],
        "quiet": [flag for flag in audit.flags if not flag.raised],
        "trials": [said | {"how": how(trial)} for trial, said in trials],
        "examples": examples(audit),
        "gain": gain(case),
        "goal": goal_class(run["goal"]),
        "judged": JUDGED if case.random else 1,
        "detector": case.goal_of(case.deployed).abstain is not None,
        "config": flat(run["config"]),
    }
    write_page(path, "audit.html.j2", context)


def _fall(robust: Mapping[str, Any]) -> float:
    return float(robust["adaptive"]["rate"] - robust["naive"]["rate"])


def remarks(audit: Audit, metrics: Mapping[str, Any]) -> list[str]:
    """What a reader has to know before any figure."""
    case, clean = audit.case, metrics["clean_accuracy"]
    said = []
    if not case.defended:
        said.append(
            "There is no defence: naive and adaptive attacks meet the same target and differ only in how hard they try."
        )
    if NAIVE not in audit.tally:
        said.append("The target gives scores only: there is no naive attack to compare with, only a search.")
    if metrics["abstains_on_clean"] > 0:
        said.append(
            f"The target abstains on {percent(metrics['abstains_on_clean'])} of the clean photographs. To abstain is "
            "wrong in the clean accuracy and right under attack, so that robust accuracy can exceed it."
        )
    if clean["rate"] < LOW_ACCURACY:
        said.append(f"The target reads only {rate_text(clean)} of the scenes correctly without any attack.")
    if clean["n"] < FEW_VIEWS:
        said.append(f"Only {count(clean['n'], 'scene')}: intervals are wide; audit more (--limit).")
    return said


def _attacks(tally: Tally) -> list[Tried]:
    """The trials that count: those within the budget that do more than validate others."""
    return [one for one in tally.tried if one.trial.kind != "validity" and not one.trial.boundless]


def standing(tally: Tally) -> list[Standing]:
    """What is left of the scenes after each attack that counts, in the order of the suite."""
    broken = tally.clean.broken.cpu().clone()
    n = len(broken)
    steps = [Standing("no attack", n, n - int(broken.sum()), n)]
    for one in _attacks(tally):
        broken[one.rows[one.answers.broken.cpu()]] = True
        steps.append(Standing(one.trial.name, steps[-1].after, n - int(broken.sum()), n))
    return steps


def how(trial: Trial) -> str:
    """The settings that tell a trial from the others."""
    settings = trial.settings
    said = [settings.objective, count(settings.steps, "step")]
    said += [count(settings.restarts, "start")] if settings.restarts > 1 else []
    said += [f"{count(settings.views, 'view')} each"] if settings.views > 1 else []
    return ", ".join(said)


def gain(case: Case) -> int:
    """What differences are multiplied by: a printed artwork is plain to see."""
    return 1 if case.threat.ball is None else _GAIN


def examples(audit: Audit) -> list[Example]:
    """Scenes at equal distances through all of them, whatever became of them."""
    last = len(audit.case) - 1
    rows = sorted({round(last * step / (SCENES_SHOWN - 1)) for step in range(SCENES_SHOWN)})
    with frozen(audit.case.deployed.module):
        return [_example(audit, row) for row in rows]


def _example(audit: Audit, row: int) -> Example:
    case = audit.case
    one, at = strongest(audit.tally, row)
    clean, clean_answer = _shown(case, row, None)
    attacked, attacked_answer = _shown(case, row, one.found.artwork.take(torch.tensor([at])))
    difference = (0.5 + gain(case) * (attacked - clean)).clamp(0, 1)
    truth = case.plain.classes[int(case.truth[row])]
    broken = bool(one.answers.broken[at])
    scene = case.scenes.names[row]
    return Example(scene, truth, clean_answer, attacked_answer, data_uri(to_pil(difference)), one.trial.name, broken)


def strongest(tally: Tally, row: int) -> tuple[Tried, int]:
    """The attack that pushed a scene furthest by the margin that judges, and where the scene stands in it."""
    tried = [(one, one.rows.tolist().index(row)) for one in _attacks(tally) if row in one.rows.tolist()]
    return min(tried, key=lambda found: float(found[0].answers.margin[found[1]]))


@torch.no_grad()
def _shown(case: Case, row: int, artwork: Artwork | None) -> tuple[Float[Tensor, "3 h w"], Answer]:
    """One view of a scene, the same with and without an artwork."""
    rows = torch.tensor([row])
    seed = derive(case.seed, "pictures", row)
    held_out = HeldOut(case.deployed, case.scenes.take(rows), case.world, 1, seed, case.threat.take(rows))
    (photograph,) = held_out.photographs(artwork)
    name = case.deployed.classes[int(case.deployed(photograph).argmax(1))]
    truth = case.plain.classes[int(case.truth[row])]
    return photograph[0], Answer(data_uri(to_pil(photograph[0])), name, _verdict(name, truth, case.goal))


def _verdict(name: str, truth: str, goal: str) -> str:
    if name == truth:
        return "correct"
    if name == ABSTAIN:
        return "abstains"
    return "goal" if name == goal_class(goal) else "misread"
