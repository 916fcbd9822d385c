"""What a hardening leaves: weights, and a table of what they resist, before and after."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from physadv.config import THREAT, AuditOptions, HardenOptions
from physadv.console import Console
from physadv.files import read_tensors, write_json, write_tensors
from physadv.harden.classify import Source
from physadv.harden.judge import PICTURES, Ledger, Outcome, clean_rates, compare, fingerprint, matrix
from physadv.harden.loop import Hardened
from physadv.harden.mixture import CUT_OUT
from physadv.harden.recipe import Plan
from physadv.harden.trials import SIZES, Trial, Tries, trained_sizes, trials
from physadv.question import classifier_only
from physadv.report.card import write_card
from physadv.report.harden import harden_headline, write_harden_report
from physadv.runs.audit import run_audit
from physadv.runs.shared import versions
from physadv.scenes import Scenes
from physadv.targets import Classifier, load_target
from physadv.targets.models import read_target, save_target
from physadv.transforms.world import World

SUBMITTED = ("submit", "sweep", "submit_processes", "submit_minutes")
JUDGED, STATE = "judged.json", "state.safetensors"
NO_PART = ("out", "overwrite", "resume", "device", "tensorboard", "quick", "audit", "beside", *SUBMITTED)
JUDGES = ("judge", "judge_limit", "judge_steps", "judge_restarts")
UNDEFENDED, THIS = "undefended", "this one"


@dataclass(frozen=True)
class Given:
    """What is given, as objects. before: the target as it was; target: what is trained, in place.

    arch: None of somebody else's module. beside: what else is in the matrix of sizes, by its spec.
    """

    options: HardenOptions
    command: str
    arch: str | None
    before: Classifier
    target: Classifier
    world: World
    plan: Plan
    sources: tuple[Source, ...]
    held: Scenes
    judged: Scenes
    beside: Mapping[str, Classifier]

    @property
    def tries(self) -> Tries:
        return Tries(steps=self.options.judge_steps, restarts=self.options.judge_restarts)

    @property
    def told(self) -> dict[str, Any]:
        """What a checkpoint must agree on."""
        said = self.options.model_dump(mode="json", exclude={*NO_PART, *JUDGES})
        images = [len(one.scenes) for one in self.sources]
        return said | {"weights": self.before.weights_hash, "world_hash": self.world.hash, "images": images}

    @property
    def trials(self) -> list[Trial]:
        """What judges."""
        options = self.options
        how: dict[str, Any] = {"mask": options.mask, "palette": options.palette, "staged": self.judged.staged}
        return trials(options.threats, world=self.world, tries=self.tries, **how)


def finish(run: Given, hardened: Hardened, out: Path, console: Console) -> dict[str, Any]:
    """Save the weights, judge what was loaded back, and write it all down."""
    after = saved(run, hardened.module, out)
    options, scenes, chosen = run.options, run.judged, run.trials
    told = {name: getattr(options, name) for name in ("judge", "judge_limit", "scenes", "seed")}
    ledger = Ledger(out / JUDGED, told | {PICTURES: fingerprint(scenes)})
    with console.judging(len(chosen)) as done:
        pairs = compare(run.before, after, scenes, chosen, seed=options.seed, ledger=ledger, report=done)
    metrics: dict[str, Any] = {
        "clean": clean_rates(pairs, scenes.groups, seed=options.seed),
        "attacks": [pair.to_json(scenes.groups, seed=options.seed) for pair in pairs],
        "matrix": _matrix(run, after, ledger, console),
        "training": _training(run, hardened),
        "history": [asdict(epoch) for epoch in hardened.history],
        "load": how_to_load(run, out),
    }
    if options.audit:
        metrics["audit"] = _audit(run, out, console)
    metrics["run"] = _description(run, after)
    metrics["headline"] = harden_headline(metrics)
    shown = next((one for one in chosen if one.trained), chosen[0])
    write_json(out / "metrics.json", metrics)
    write_card(out / "card.md", metrics)
    write_harden_report(out / "report.html", metrics, before=run.before, after=after, scenes=scenes, trial=shown)
    return metrics


def how_to_load(run: Given, out: Path) -> str:
    """In one sentence."""
    if run.arch is not None:
        return f"Use it with --target safetensors:{out}."
    return (
        f"Load it in your FACTORY: module.load_state_dict(safetensors.torch.load_file({str(out / STATE)!r})); the rest "
        "of the module stays as it is."
    )


def saved(run: Given, module: nn.Module, out: Path) -> Classifier:
    """The hardened target as the file has it."""
    if run.arch is not None:
        sizes = [*trained_sizes(run.options.threats)]
        record = {"options": run.options.model_dump(mode="json", exclude={"out"}), "trained_sizes": sizes}
        save_target(out, replace(run.target, module=module), run.arch, record)
        return classifier_only(load_target(f"safetensors:{out}", device=run.options.device), "harden")
    write_tensors(out / STATE, module.state_dict())
    before, mine = run.before, deepcopy(run.before.module)
    mine.load_state_dict(read_tensors(out / STATE)[0])
    return Classifier.of(mine, classes=before.classes, frame=before.frame, name=f"{before.name}, hardened")


def _matrix(run: Given, after: Classifier, ledger: Ledger, console: Console) -> list[dict[str, Any]]:
    """Undefended, this one, and those of --beside, each under patches of every size."""
    own = trained_sizes(run.options.threats)
    targets, trained = {UNDEFENDED: run.before, THIS: after}, {UNDEFENDED: own, THIS: own}
    for spec, target in run.beside.items():
        targets[spec] = target
        kind, _, rest = spec.partition(":")
        trained[spec] = tuple(read_target(rest, name=spec)[1].get("trained_sizes", ())) if kind == "safetensors" else ()

    def report(name: str, size: float, outcome: Outcome) -> None:
        console.say(f"matrix: {name}, {size:g} %: {100 * outcome.right.float().mean().item():.0f} %")

    sizes = tuple(sorted({*map(float, SIZES), *own}))
    how: dict[str, Any] = {"tries": run.tries, "seed": run.options.seed, "ledger": ledger}
    how |= {"mask": run.options.mask, "palette": run.options.palette}
    return matrix(targets, run.judged, trained=trained, sizes=sizes, **how, report=report)


def _training(run: Given, hardened: Hardened) -> dict[str, Any]:
    plan = asdict(run.plan)
    recipe = plan.pop("recipe")
    return {
        "recipe": recipe,
        "plan": plan,
        "images": sum(len(one.scenes) for one in run.sources),
        "held_out": len(run.held),
        "steps": len(hardened.losses),
        "best_epoch": hardened.best_epoch,
        "seconds": hardened.seconds,
        "threads": torch.get_num_threads(),
    }


def _audit(run: Given, out: Path, console: Console) -> dict[str, Any]:
    """The flags of `physadv audit` on what was saved, under the first threat; a sought place becomes the centre."""
    if run.arch is None:
        console.say("the audit of a python: target is yours to run, with a FACTORY that loads the hardened weights")
        return {"skipped": "the hardened weights are loaded by your own FACTORY: run physadv audit on it"}
    options = run.options
    threat = next((text for text in options.threats if not text.startswith("shadow")), THREAT)
    how: dict[str, Any] = {
        "out": out / "audit",
        "target": f"safetensors:{out}",
        "scenes": options.judge,
        "classes": options.classes,
        "backgrounds": options.backgrounds if run.judged.staged else None,
        "limit": min(len(run.judged), 100),
        "world": options.world.split("+")[0],
        "threat": threat.replace("@worst", ""),
        "mask": options.mask if threat == "stickers" else None,
        "palette": options.palette if threat.partition(":")[0] in CUT_OUT else None,
        "seed": options.seed,
        "device": options.device,
        "overwrite": True,
        "steps": min(40, max(4, options.judge_steps)),
    }
    audited = AuditOptions(**how)
    found = run_audit(audited, command=run.command, console=console)
    return {name: found[name] for name in ("flags", "verdict", "robust_accuracy")} | {"threat": audited.threat}


def _description(run: Given, after: Classifier) -> dict[str, Any]:
    options, scenes = run.options, run.judged
    return {
        "command": run.command,
        "config": options.model_dump(mode="json", exclude={"out", "overwrite", "resume"}),
        "target": {"name": run.before.name, "weights_hash": run.before.weights_hash},
        "hardened": {"name": after.name, "weights_hash": after.weights_hash},
        "threats": [*options.threats],
        "world": {"name": run.world.name, "hash": run.world.hash},
        "scenes": {
            "spec": options.judge or f"held-out {'views' if scenes.staged else 'signs'} of {options.scenes}",
            "n": len(scenes),
            "groups": len(set(scenes.groups)),
            "chose": options.judge is None,
        },
        "seed": options.seed,
        "versions": versions(),
    }
