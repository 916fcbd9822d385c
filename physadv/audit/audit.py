"""The audit: probes, suite, worst case per scene, flags, verdict."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from physadv.attacks import Step
from physadv.audit.case import Case
from physadv.audit.effort import Effort
from physadv.audit.flags import Flag, Probed, flags
from physadv.audit.probes import is_random, slope
from physadv.audit.suite import Tally, Trial, Tried, attempt, rows_of, suite
from physadv.scenes.canvas import spread
from physadv.stats import Rate, cluster_rate
from physadv.targets.base import frozen
from physadv.transforms.stages import derive

Report = Callable[[Trial, int], Callable[[Step], None]]  # a trial and its scenes -> what to call after each step


@dataclass(frozen=True)
class Audit:
    """metrics: as in docs/audit.md. tally: what every trial did."""

    metrics: dict[str, Any]
    flags: list[Flag]
    tally: Tally
    case: Case


def audit(case: Case, *, effort: Effort, softmax: bool = False, report: Report | None = None) -> Audit:
    """Run the suite on a case.

    softmax: the target as given answers with probabilities (the case holds their logarithm).
    report: called when a trial begins.
    """
    start = time.monotonic()
    with frozen(case.plain.module), frozen(case.deployed.module), frozen(case.naive.module):
        rows = torch.arange(len(case))
        few = torch.tensor(spread(case.scenes.groups, effort.compared))
        random = is_random(case, few)
        case = case.as_random() if random else case
        probed = Probed(
            slope=slope(case, few) if case.plain.differentiable else None,
            random=random,
            softmax=softmax,
            abstains=case.goal_of(case.deployed).abstain is not None,
            defended=case.defended,
        )
        tally = Tally(case.judge(rows, None, case.threat))
        for trial in suite(case, effort):
            scenes = len(rows_of(case, trial, tally, effort))
            if scenes:
                step = report(trial, scenes) if report else lambda step: None
                tally.tried.append(attempt(case, trial, tally, effort, step))
    found = flags(probed, tally)
    return Audit(_metrics(case, tally, found, time.monotonic() - start), found, tally, case)


def _metrics(case: Case, tally: Tally, found: list[Flag], seconds: float) -> dict[str, Any]:
    wrong = ~tally.clean.correct.cpu()
    naive, robust = tally.broken("naive"), tally.broken("naive", "adaptive")
    return {
        "clean_accuracy": _rate(case, ~wrong),
        "abstains_on_clean": tally.clean.abstains.mean().item(),
        "risk": {"clean": _rate(case, tally.clean.broken.cpu()), "robust": _rate(case, robust)},
        "robust_accuracy": {"naive": _rate(case, ~naive), "adaptive": _rate(case, ~robust)},
        "trials": [_trial(case, one) for one in tally.tried],
        "flags": {flag.name: {"raised": flag.raised, "seen": flag.seen, "advice": flag.advice} for flag in found},
        "verdict": verdict(found, _rate(case, ~robust)),
        "seconds": seconds,
    }


def _trial(case: Case, tried: Tried) -> dict[str, Any]:
    groups = [case.scenes.groups[row] for row in tried.rows.tolist()]
    rate = cluster_rate(tried.answers.broken.cpu(), groups, seed=derive(case.seed, "bootstrap"))
    return {
        "name": tried.trial.name,
        "kind": tried.trial.kind,
        "broken": rate.to_json(),
        "photographs": tried.found.photographs,
        "seconds": tried.found.seconds,
    }


def _rate(case: Case, counted: Bool[Tensor, " n"]) -> dict[str, Any]:
    rate: Rate = cluster_rate(counted, case.scenes.groups, seed=derive(case.seed, "bootstrap"))
    return rate.to_json()


def verdict(found: list[Flag], robust: dict[str, Any]) -> str:
    """One sentence."""
    raised = [flag.name for flag in found if flag.raised]
    lo, hi = (100 * edge for edge in robust["ci95"])
    figure = f"{100 * robust['rate']:.0f} % [{lo:.0f}–{hi:.0f}] of the scenes stand against everything tried here"
    if not raised:
        return f"{figure[0].upper()}{figure[1:]}, and there is no sign that the attacks failed."
    return f"{len(raised)} warning{'s' if len(raised) > 1 else ''} ({', '.join(raised)}): {figure}; read the advice."
