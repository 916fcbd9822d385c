"""The attacks of an audit, naive and adaptive, and what each of them breaks."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from physadv.attacks import Attacked, Step, attack_each
from physadv.audit.case import Answers, Case
from physadv.audit.effort import Effort
from physadv.heldout import varies
from physadv.optimisers import make_optimiser
from physadv.scenes.canvas import spread
from physadv.settings import Settings
from physadv.transforms.stages import derive

Kind = Literal["naive", "adaptive", "validity"]

CONFIDENCES = (10.0, 30.0)  # kappa of transferred examples, in logits
EOT_VIEWS = 4  # draws of a randomised defence, or of the world, in every step
FEW_STEPS = 3
SEARCH_BY = "random-search"
LONGER = 4  # times the steps, for what still stands
UNBOUNDED_STEPS = 30


@dataclass(frozen=True)
class Trial:
    """One attack. against: the variant that it optimises on; every trial is judged on the deployed target.

    subset: only the scenes of a comparison. survivors: only those that no trial before it has broken.
    boundless: without the threat's budget.
    """

    name: str
    kind: Kind
    against: Literal["plain", "naive", "deployed"]
    settings: Settings
    subset: bool = False
    survivors: bool = False
    boundless: bool = False

    @property
    def photographs(self) -> int:
        """Shown to the target for each scene, at most, held-out checks included."""
        said = self.settings
        checks = said.steps / said.check_every * (8 if said.views > 1 else 1)
        return round(said.restarts * (said.steps * said.views + checks))


@dataclass(frozen=True)
class Tried:
    """What a trial did to the scenes `rows`."""

    trial: Trial
    rows: Int[Tensor, " m"]
    answers: Answers
    found: Attacked


@dataclass
class Tally:
    """What has been tried so far on n scenes."""

    clean: Answers
    tried: list[Tried] = field(default_factory=list)

    def broken(self, *kinds: Kind) -> Bool[Tensor, " n"]:
        """The worst case of every scene over the clean photograph and all trials of these kinds."""
        return self.clean.broken.cpu() | self.broken_by([one for one in self.tried if one.trial.kind in kinds])

    def broken_by(self, tried: list[Tried]) -> Bool[Tensor, " n"]:
        """The worst case of every scene over these trials, as far as they keep to the budget."""
        worst = torch.zeros_like(self.clean.broken.cpu())
        for one in tried:
            if not one.trial.boundless:
                worst[one.rows[one.answers.broken.cpu()]] = True
        return worst

    def __getitem__(self, name: str) -> Tried:
        return next(one for one in self.tried if one.trial.name == name)

    def __contains__(self, name: str) -> bool:
        return any(one.trial.name == name for one in self.tried)


NAIVE, FEW, UNBOUNDED, SEARCH = "naive pgd", "naive pgd, few steps", "naive pgd, no budget", "random search"


def suite(case: Case, effort: Effort) -> list[Trial]:
    """Naive first, then what is made for this target, cheap before dear; those that validate the others last."""
    base = _base(case, effort)
    eot = replace(base, views=EOT_VIEWS if case.random else 1)
    asked = make_optimiser(SEARCH_BY).evaluations if case.deployed.randomised else 1  # where views stay, it remembers
    steps = max(effort.queries // (eot.views * asked), 1)
    black = replace(eot, optimiser=SEARCH_BY, common=True, check_every=25, steps=steps)
    if not case.plain.differentiable:
        return [Trial(SEARCH, "adaptive", "deployed", black)]
    few, boundless = replace(base, steps=FEW_STEPS), replace(base, steps=UNBOUNDED_STEPS)
    return [
        Trial(NAIVE, "naive", "naive", base),
        *_transfers(case, base),
        *_adaptive(eot, effort),
        Trial(SEARCH, "adaptive", "deployed", black, subset=True),
        Trial(FEW, "validity", "naive", few, subset=True),
        *([Trial(UNBOUNDED, "validity", "naive", boundless, subset=True, boundless=True)] if case.threat.ball else []),
    ]


def _base(case: Case, effort: Effort) -> Settings:
    """The naive attack: one photograph of each scene a step, or several where the world itself is random."""
    return Settings(
        goal=case.goal,
        kappa=0.0,
        steps=effort.steps,
        batch=effort.batch,
        views=EOT_VIEWS if varies(case.plain, case.scenes, case.world, case.threat) else 1,
        per_scene=True,
        early_stop=True,
        check_every=5,
        held_out=1,
    )


def _transfers(case: Case, base: Settings) -> list[Trial]:
    """High-confidence examples of the undefended target, shown to the defended one."""
    confident = replace(base, early_stop=False, check_every=base.steps)
    return [
        Trial(transfer(kappa), "adaptive", "plain", replace(confident, kappa=kappa), survivors=True)
        for kappa in CONFIDENCES
        if case.defended
    ]


def transfer(kappa: float) -> str:
    return f"transfer, kappa {kappa:g}"


def _adaptive(eot: Settings, effort: Effort) -> list[Trial]:
    """EOT over what is random, stand-ins for what has no gradient, detectors inside the loss."""
    other = replace(eot, objective="cross-entropy")
    long = replace(eot, steps=LONGER * effort.steps, restarts=effort.restarts, kappa=5.0, check_every=2)
    named = {"margin": eot, "cross-entropy": other, "more steps and restarts": long}
    return [Trial(f"adaptive pgd, {how}", "adaptive", "deployed", said, survivors=True) for how, said in named.items()]


def attempt(case: Case, trial: Trial, tally: Tally, effort: Effort, report: Callable[[Step], None]) -> Tried:
    """Attack the scenes of a trial and judge what came of it on the deployed target."""
    rows = rows_of(case, trial, tally, effort)
    threat = case.boundless if trial.boundless else case.threat
    how: dict[str, Any] = {"world": case.world, "settings": trial.settings, "report": report}
    scenes = case.scenes.take(rows)
    seed = derive(case.seed, trial.name)
    found = attack_each(getattr(case, trial.against), scenes, threat.take(rows), seed=seed, **how)
    return Tried(trial, rows, case.judge(rows, found.artwork, threat), found)


def rows_of(case: Case, trial: Trial, tally: Tally, effort: Effort) -> Int[Tensor, " m"]:
    """The scenes that a trial attacks."""
    if trial.subset:
        return torch.tensor(spread(case.scenes.groups, effort.compared))
    left = ~tally.broken("naive", "adaptive") if trial.survivors else torch.ones(len(case), dtype=torch.bool)
    return left.nonzero()[:, 0]
