"""`physadv harden`: options in, adversarial training, and what it bought (`runs/hardened.py`)."""

import hashlib
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from physadv import ASSETS, ranks
from physadv.config import HardenOptions
from physadv.console import Console
from physadv.errors import UserError
from physadv.files import prepare_folder, read_tensors
from physadv.harden.classify import Signs, Source, labelled_source
from physadv.harden.journal import Journal, check_tensorboard
from physadv.harden.loop import Epoch, Hardened, harden
from physadv.harden.mixture import load_mixture, parse_mixture
from physadv.harden.recipe import Plan
from physadv.harden.trials import Tries
from physadv.harden.unlabelled import targets_of, unlabelled_source
from physadv.harden.watch import checker, held_out_scenes
from physadv.question import classifier_only, truth_of
from physadv.runs.harden_detector import run_harden_detector
from physadv.runs.hardened import Given, finish, saved
from physadv.runs.shared import check_device, scenes_of
from physadv.scenes import Scenes, load_scenes
from physadv.scenes.canvas import spread
from physadv.targets import Classifier, Detector, load_target
from physadv.targets.models import WEIGHTS_FILE, build
from physadv.transforms.world import load_world

CHECKPOINT = "checkpoint.safetensors"
FIXED = ("export", "onnx")  # kinds of targets whose weights cannot be trained
STAGED = 4  # one image in so many of a shard is staged, where there are photographs, too
FACE_VIEWS = 32  # of each staged face in an epoch, where there are no photographs
CHECK = Tries(steps=10, restarts=1, batch=96)  # after every epoch


def run_harden(options: HardenOptions, *, command: str, console: Console) -> dict[str, Any]:
    """Train, judge, save: weights, metrics.json, report.html, card.md. Of several processes the first writes."""
    options = options.hurried()
    check_device(options.device)
    check_trainable(options.target)
    with ranks.joined(options.device) as device:
        options = options.model_copy(update={"device": device})
        console = console if ranks.rank() == 0 else Console(quiet=True)
        target = load_target(options.target, device=device)
        if isinstance(target, Detector):
            return run_harden_detector(options, target, command=command, console=console)
        run = _given(options, target, command)
        out = prepared(options)
        hardened = _train(run, out, console)
        if ranks.rank() > 0:
            return {}
        return finish(run, hardened, out, console)


def train_only(options: HardenOptions, *, command: str, console: Console) -> tuple[Given, Classifier]:
    """Train and save, and judge nothing: the hardened classifier as its file has it."""
    run = _given(options, classifier_only(load_target(options.target, device=options.device), "the demo"), command)
    out = prepared(options)
    return run, saved(run, _train(run, out, console).module, out)


def check_trainable(spec: str) -> None:
    """UserError: weights that cannot be trained here."""
    kind = spec.partition(":")[0]
    if kind in FIXED:
        raise UserError(
            f"{spec} is a fixed program whose weights cannot be trained: give the module itself with "
            "--target python:FILE.py:FACTORY."
        )


def prepared(options: HardenOptions) -> Path:
    """The output folder, made by the first process before any other looks into it."""
    out = options.out
    if options.resume and not out.is_dir():
        raise UserError(f"There is no run in {out} to continue; check --out, or leave --resume out.")
    if ranks.rank() == 0:
        prepare_folder(out, overwrite=options.overwrite, resume=options.resume)
    ranks.agreed(0.0)
    return out


def _given(options: HardenOptions, target: Classifier, command: str) -> Given:
    """Everything that can be wrong with the options is found here, before anything is written."""
    if options.tensorboard:
        check_tensorboard()
    parse_mixture(options.threats, mask=options.mask, palette=options.palette)
    _check_idle(options)
    plan, world, arch = options.plan(), load_world(options.world), arch_of(options.target)
    if world.reserved:
        raise UserError(f"The world {world.name!r} only judges: a training in it would spoil the promise.")
    before = replace(target, module=deepcopy(target.module))
    _check_parameters(target)
    scenes, held = held_out_scenes(scenes_of(options, options.scenes, options.backgrounds, target))
    judged = held
    if options.judge is not None:
        judged = load_scenes(options.judge, classes=options.classes, backgrounds=_pictures(options))
    beside = {
        spec: classifier_only(load_target(spec, device=options.device), "--beside") for spec in options.beside or ()
    }
    for one in (target, *beside.values()):
        truth_of(judged, one.classes)
    if options.judge_limit:
        judged = judged.take(torch.tensor(spread(judged.groups, min(options.judge_limit, len(judged)))))
    if options.from_scratch:
        target = replace(target, module=_fresh(options, arch, target))
    sources = _sources(options, before, scenes, plan)
    if options.judge is not None and not judged.staged:
        _check_apart(judged, [*(one.scenes for one in sources), held])
    held, judged = held.to(options.device), judged.to(options.device)
    return Given(options, command, arch, before, target, world, plan, sources, held, judged, beside)


def _check_idle(options: HardenOptions) -> None:
    """UserError: an option without the one that it is for."""
    if options.audit and options.judge is None:
        raise UserError("--audit attacks signs that no training saw: name them with --judge, or leave --audit out.")
    targets_of(options.variant)
    idle = sorted({"variant", "unlabelled_weight"} & options.model_fields_set)
    if idle and options.unlabelled is None:
        raise UserError(f"--{idle[0].replace('_', '-')} is for photographs without labels: add --unlabelled.")


def _check_apart(judged: Scenes, seen: Sequence[Scenes]) -> None:
    """UserError: pictures that judge are among those that are trained on or choose the weights."""
    known = {mark for one in seen if not one.staged for mark in _marks(one)}
    shared = sum(mark in known for mark in _marks(judged))
    if shared:
        raise UserError(
            f"{shared} of the {len(judged)} photographs of --judge are also trained on or choose the weights: give "
            "photographs of other signs, or leave --judge out."
        )


def _marks(scenes: Scenes) -> list[bytes]:
    """A hash of each picture."""
    return [hashlib.sha256(image.contiguous().numpy().tobytes()).digest() for image in scenes.images.cpu()]


def _pictures(options: HardenOptions) -> Path | None:
    return options.backgrounds if "staged:" in str(options.judge) else None


def arch_of(spec: str) -> str | None:
    """The architecture that a weight file of ours names; None of somebody else's module."""
    kind, _, rest = spec.partition(":")
    if kind == "python":
        return None
    path = ASSETS / "weights" / f"{rest}.safetensors" if kind == "builtin" else Path(rest)
    arch = read_tensors(path / WEIGHTS_FILE if path.is_dir() else path)[1].get("arch")
    return None if arch is None else str(arch)


def _check_parameters(target: Classifier) -> None:
    for one in target.module.parameters():
        one.requires_grad_(True)
    if not target.differentiable or not any(True for _ in target.module.parameters()):
        raise UserError(f"{target.name} has no weights that can be trained: give the module itself (python:).")


def _fresh(options: HardenOptions, arch: str | None, target: Classifier) -> nn.Module:
    if arch is None:
        raise UserError("--from-scratch builds an architecture of ours anew: let your FACTORY return new weights.")
    return build(arch, classes=len(target.classes), seed=options.seed).to(options.device)


def _sources(options: HardenOptions, before: Classifier, scenes: Scenes, plan: Plan) -> tuple[Source, ...]:
    """Photographs, staged faces beside them, and what has no labels."""
    if scenes.staged:
        scenes = scenes.take(torch.arange(len(scenes)).repeat(FACE_VIEWS))
    beside = None
    if options.staged not in (None, "none") and not scenes.staged:
        beside = load_scenes(str(options.staged), backgrounds=options.backgrounds)
    colours: dict[str, Any] = {"mask": options.mask, "palette": options.palette}
    how = colours | {"resolution_px": options.resolution_px, "seed": options.seed}

    def source(one: Scenes, share: int) -> Source | None:
        one = one.to(options.device)
        threats = load_mixture(options.threats, one, **how)
        return labelled_source(before, one, threats, share=share) if threats else None

    second = None if beside is None else source(beside, plan.shard // STAGED)
    first = source(scenes, plan.shard - (second.share if second else 0))
    if first is None:
        raise UserError(
            "linf and l2 change a photograph, and staged signs have none: give photographs, or other threats."
        )
    made = [first, *([second] if second else [])]
    return tuple(made if options.unlabelled is None else _with_unlabelled(options, before, made, how))


def _with_unlabelled(
    options: HardenOptions, before: Classifier, made: list[Source], how: dict[str, Any]
) -> list[Source]:
    """Half of the shard goes to photographs whose labels nobody looked at."""
    first, *rest = made
    scenes = load_scenes(str(options.unlabelled)).to(options.device)
    share = first.share // 2
    threats = load_mixture(options.threats, scenes, **how)
    if not threats:
        raise UserError("linf and l2 change a photograph: give --unlabelled photographs, not staged signs.")
    said: dict[str, Any] = {"variant": options.variant, "weight": options.unlabelled_weight}
    return [
        replace(first, share=first.share - share),
        *rest,
        unlabelled_source(before, scenes, threats, share=share, **said),
    ]


def _train(run: Given, out: Path, console: Console) -> Hardened:
    options = run.options
    colours: dict[str, Any] = {"mask": options.mask, "palette": options.palette}
    check = checker(run.target, run.held, options.threats, world=run.world, **colours, tries=CHECK, seed=options.seed)
    learner = Signs.of(run.target, run.sources, world=run.world, plan=run.plan, seed=options.seed)
    images = sum(one.share for one in run.sources) * learner.plan.batch // learner.plan.shard * learner.steps
    console.say(
        f"{options.recipe} ({run.plan.recipe.paper}): {run.plan.epochs} epochs of {learner.steps} steps, "
        f"{images} images each; {len(run.held)} scenes are held out"
    )
    journal = Journal(out if ranks.rank() == 0 else None, tensorboard=options.tensorboard)

    def report(epoch: Epoch) -> None:
        journal.epoch(epoch)
        console.hardening(epoch)

    how: dict[str, Any] = {"told": run.told, "checkpoint": out / CHECKPOINT, "check": check, "report": report}
    with console.steps("step") as progress:

        def after_step(step: int, steps: int, loss: float) -> None:
            journal.step(step, loss)
            progress(step, steps, loss)

        hardened = harden(run.target.module, learner, after_step=after_step, **how)
    journal.close()
    return hardened
