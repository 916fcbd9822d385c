"""`physadv audit`: the suite, naive and adaptive, and what its flags say of it."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from physadv.attacks import Step, check
from physadv.audit import Case, audit
from physadv.audit.effort import Effort
from physadv.audit.probes import clean_images, with_logits
from physadv.audit.suite import Trial, suite
from physadv.config import AuditOptions
from physadv.console import Console, duration
from physadv.defences import Detector, defend
from physadv.defences.detector import FEWEST
from physadv.errors import UserError
from physadv.files import prepare_folder, write_json
from physadv.framed import framed
from physadv.heldout import HeldOut
from physadv.objectives import Margin, parse_goal
from physadv.question import classifier_only, truth_of
from physadv.report.audit import write_audit
from physadv.runs.shared import check_device, fitted, scenes_of, threat_of, versions
from physadv.scenes import Scenes
from physadv.stats import cluster_rate
from physadv.targets import Classifier, load_target
from physadv.targets.base import frozen
from physadv.threats import load_threat, parse_threat
from physadv.threats.ball import L2, Linf
from physadv.transforms.stages import derive
from physadv.transforms.world import DIGITAL, World, load_world

_DIGITAL_BOUNDLESS, _PRINTED_BOUNDLESS = "linf:1", "poster:1"
_TIMED = 16  # photographs of the warm-up
_RANDOM_VIEWS = 600  # photographs that the risk under random views is measured on


def run_audit(options: AuditOptions, *, command: str, console: Console) -> dict[str, Any]:
    """Audit; metrics in audit.json, a page in report.html."""
    check_device(options.device)
    raw = scenes_of(options, options.scenes, options.backgrounds).to(options.device)
    given = classifier_only(load_target(options.target, device=options.device), "audit")
    if options.defence:
        console.say(f"putting {options.defence} in front; where it learns from photographs, it does so now")
    case, softmax = _case(options, raw, given)
    effort = options.effort()
    _check(case, effort)
    progress = _progress(case, effort, console)
    out = prepare_folder(options.out, overwrite=options.overwrite)
    found = audit(case, effort=effort, softmax=softmax, report=progress)
    console.say(f"risk in random views of {options.world}: up to {_RANDOM_VIEWS} photographs")
    found.metrics["risk"]["views"] = _risk_in_views(options, case, raw)
    metrics = found.metrics | {"run": _description(options, command, case)}
    write_json(out / "audit.json", metrics)
    write_audit(out / "report.html", found, metrics)
    return metrics


def _case(options: AuditOptions, raw: Scenes, given: Classifier) -> tuple[Case, bool]:
    """The case, and whether the target answers with probabilities.

    A norm ball is a change of the target's own input: the scenes are then clean views as the target sees them.
    UserError: no scene but of the goal's class, and whatever is wrong with the options.
    """
    spec = parse_threat(options.threat, mask=options.mask, palette=options.palette)
    ball, world = isinstance(spec, Linf | L2), load_world(options.world)
    if world.reserved:
        raise UserError(f"The world {world.name!r} only judges: an audit attacks in it; choose another --world.")
    raw = _not_of_goal(options, raw, given)
    scenes = _as_seen(options, raw, given, world) if ball else raw
    threat = threat_of(options.threat, options, scenes)
    boundless = load_threat(_DIGITAL_BOUNDLESS if ball else _PRINTED_BOUNDLESS, scenes, seed=options.seed)
    world = DIGITAL if ball else world
    case = Case(given, given, given, scenes, threat, boundless, world, options.goal, options.seed)
    plain = with_logits(given, clean_images(case, torch.arange(min(len(scenes), _TIMED))))
    return _defended(options, replace(case, plain=plain, naive=plain, deployed=plain)), plain is not given


def _not_of_goal(options: AuditOptions, scenes: Scenes, target: Classifier) -> Scenes:
    """Signs that are what the goal wants to be read cannot be attacked."""
    goal = parse_goal(options.goal, target.classes)
    kept = (truth_of(scenes, target.classes) != (-1 if goal.target is None else goal.target)).cpu().nonzero()[:, 0]
    if not len(kept):
        raise UserError(f"All scenes are of the goal's class {options.goal!r}; choose another --goal or other scenes.")
    return scenes.take(kept)


def _defended(options: AuditOptions, case: Case) -> Case:
    """Behind the --defence; a detector alarms at 5 % of these very scenes, whatever it learnt from."""
    defence = fitted(options, case.plain)
    if defence is None:
        return case
    if isinstance(defence, Detector) and len(case) >= FEWEST:
        with frozen(case.plain.module):
            defence = defence.calibrate(case.plain, clean_images(case, torch.arange(len(case))))
    naive, deployed = (defend(case.plain, defence, adaptive=side, seed=options.seed) for side in (False, True))
    return replace(case, naive=naive, deployed=deployed)


def _check(case: Case, effort: Effort) -> None:
    """The UserError that the suite would raise, before anything is written."""
    for trial in suite(case, effort):
        how: dict[str, Any] = {"world": case.world, "settings": trial.settings, "seed": case.seed}
        check(getattr(case, trial.against), case.scenes, case.threat, **how)


def _as_seen(options: AuditOptions, raw: Scenes, target: Classifier, world: World) -> Scenes:
    world = world if raw.staged else DIGITAL
    wanted = options.limit or len(raw)
    views = -(-wanted // len(raw)) if raw.staged else 1
    scenes = framed(HeldOut(target, raw, world, views, derive(options.seed, "photographs")))
    return scenes.take(torch.arange(min(wanted, len(scenes))))


def _risk_in_views(options: AuditOptions, case: Case, raw: Scenes) -> dict[str, Any]:
    """Wrong answers, abstentions not counted, in random views of --world without any attack."""
    views = max(1, _RANDOM_VIEWS // len(raw))
    world = load_world(options.world)
    with frozen(case.deployed.module):
        held_out = HeldOut(case.deployed, raw, world, views, derive(options.seed, "random views"))
        (logits,) = held_out.answers(None)
    wrong = Margin(parse_goal("untargeted", case.deployed.classes)).success(logits, held_out.truth)
    groups = [raw.groups[row] for row in held_out.scene.tolist()]
    return cluster_rate(wrong.cpu(), groups, seed=derive(options.seed, "bootstrap")).to_json() | {"world": world.name}


def _progress(case: Case, effort: Effort, console: Console) -> Callable[[Trial, int], Callable[[Step], None]]:
    """A line per trial, with an upper bound of the time left; a bar on a terminal."""
    cost, trials = _seconds_per_photograph(case), suite(case, effort)
    scenes = {trial.name: min(len(case), effort.compared) if trial.subset else len(case) for trial in trials}

    def left(following: list[Trial]) -> str:
        return duration(sum(cost * trial.photographs * scenes[trial.name] for trial in following))

    console.say(f"{len(trials)} attacks on {len(case)} scenes: at most {left(trials)}, mostly much less")

    def begin(trial: Trial, attacked: int) -> Callable[[Step], None]:
        following = trials[trials.index(trial) :]
        standing = [one.name for one in following if one.survivors] if trial.survivors else []
        scenes.update(dict.fromkeys([trial.name, *standing], attacked))
        console.say(f"{trial.name}: {attacked} scenes, at most {left(following)} left")
        return console.attack if console.rich.is_terminal else lambda step: None

    return begin


def _seconds_per_photograph(case: Case) -> float:
    """Forward and backward of the deployed target, measured."""
    images = clean_images(case, torch.arange(min(len(case), _TIMED)))
    with frozen(case.deployed.module):
        for _ in range(2):  # the first one warms up
            start = time.monotonic()
            pixels = images.clone().requires_grad_(case.plain.differentiable)
            logits = case.deployed(pixels)
            if logits.requires_grad:
                torch.autograd.grad(logits.sum(), pixels)
    return (time.monotonic() - start) / len(images)


def _description(options: AuditOptions, command: str, case: Case) -> dict[str, Any]:
    scenes = case.scenes
    return {
        "command": command,
        "config": options.model_dump(mode="json", exclude={"out", "overwrite"}),
        "target": {"name": case.deployed.name, "weights_hash": case.deployed.weights_hash},
        "defence": options.defence,
        "abstains": case.deployed.classes != case.plain.classes,
        "scenes": {"spec": options.scenes, "n": len(scenes), "groups": len(set(scenes.groups))},
        "threat": case.threat.name,
        "goal": options.goal,
        "world": {"name": case.world.name, "hash": case.world.hash},
        "seed": options.seed,
        "versions": versions(),
    }
