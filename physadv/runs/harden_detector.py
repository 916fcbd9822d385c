"""`physadv harden` on photographs with boxes: a detector from which a printed artwork hides no signs."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from physadv import ranks
from physadv.config import QUICK, HardenOptions
from physadv.console import Console
from physadv.detection_data import drawn, hold_out, labelled
from physadv.errors import UserError
from physadv.files import prepare_folder, sha256, write_json
from physadv.harden.detect import Clean, Photographs, attackable, check_trainable
from physadv.harden.detect_judge import CHECK, JUDGE, Trial, check_of, operated
from physadv.harden.journal import Journal, check_tensorboard
from physadv.harden.loop import Epoch, Hardened, harden
from physadv.harden.recipe import Plan, parse_recipe
from physadv.report.harden_detector import detector_headline, write_detector_card, write_detector_page
from physadv.runs.shared import versions
from physadv.runs.train_detector import CHECKPOINT, HELD_OUT, ROOM, judge
from physadv.scenes import load_scenes
from physadv.scenes.canvas import spread
from physadv.scenes.spec import load_streets
from physadv.scenes.street import Street
from physadv.scenes.street_develop import develop_street
from physadv.targets import Detector
from physadv.targets.models import DETECTORS, save_target
from physadv.transforms.stages import derive
from physadv.transforms.world import World, load_world

OWN: dict[str, Any] = {
    "threat": ["patch:21%", "patch:21%@random", "patch:10%@random"],
    "world": "drive-by",
    "recipe": "universal",
    "epochs": 10,
    "batch": 16,
    "learning_rate": 1e-3,
    "weight_decay": 2e-2,
    "ema": 0.99,
    "attacked": 0.5,
    "frozen_norm": True,
    "inner_steps": 1,
    "resolution_px": 32,
    "judge_steps": JUDGE.steps,
}  # of options that were not given
SHARD, CLIP, STEP = 8, 10.0, 0.2
NOT_HERE = ("backgrounds", "limit", "quad", "label", "face_mm", "mask", "palette", "beta", "from_scratch", "candidates")
NOT_HERE_EITHER = ("unlabelled", "variant", "unlabelled_weight", "smoothing", "judge_restarts", "beside", "audit")
NOVEL = "stickers:two-bars"  # a mask that no training of patches has seen


@dataclass(frozen=True)
class _Given:
    """What is given, as objects. before: the detector as it was; target: what is trained, in place."""

    options: HardenOptions
    command: str
    before: Detector
    target: Detector
    learner: Photographs
    held: list[Street]
    judged: list[Street]
    classes: tuple[str, ...]
    world: World

    @property
    def told(self) -> dict[str, Any]:
        """What a checkpoint must agree on."""
        apart = {"out", "overwrite", "resume", "device", "tensorboard", "quick", "judge", "judge_limit", "judge_steps"}
        said = self.options.model_dump(mode="json", exclude=apart)
        return said | {"weights": self.before.weights_hash, "world_hash": self.world.hash}


def run_harden_detector(options: HardenOptions, target: Detector, *, command: str, console: Console) -> dict[str, Any]:
    """Train, judge, save: weights, metrics.json, report.html, card.md."""
    if ranks.size() > 1:
        raise UserError("A detector's loss is weighted by what a whole batch shows: train it with one process.")
    run = _given(options, target, command)
    if options.resume and not options.out.is_dir():
        raise UserError(f"There is no run in {options.out} to continue; check --out, or leave --resume out.")
    if ranks.rank() == 0:
        prepare_folder(options.out, overwrite=options.overwrite, resume=options.resume)
    ranks.agreed(0.0)
    hardened = _train(run, console)
    return _finish(run, hardened, console) if ranks.rank() == 0 else {}


def completed(options: HardenOptions) -> HardenOptions:
    """With a detector's own for options that were not given. UserError: one that does nothing here."""
    given = options.model_fields_set - (QUICK.keys() if options.quick else set())
    idle = [name.replace("_", "-") for name in (*NOT_HERE, *NOT_HERE_EITHER) if name in given]
    if idle:
        raise UserError(f"--{idle[0]} does nothing in the hardening of a detector (docs/hardening.md): leave it out.")
    return options.model_copy(update={name: OWN[name] for name in OWN.keys() - options.model_fields_set})


def detector_plan(options: HardenOptions) -> Plan:
    """The outer loop. UserError: no such recipe, an impossible batch or share."""
    recipe = replace(parse_recipe(options.recipe), step_size=STEP)
    recipe = replace(recipe, steps=options.inner_steps or recipe.steps)
    names = ("epochs", "batch", "learning_rate", "weight_decay", "ema", "attacked", "awp", "frozen_norm", "patience")
    given = {name: getattr(options, name) for name in names}
    return Plan(recipe=recipe, shard=SHARD, clip=CLIP, **given)


def _given(options: HardenOptions, target: Detector, command: str) -> _Given:
    """Everything that can be wrong with the options is found here, before anything is written."""
    options = completed(options)
    plan, world = detector_plan(options), load_world(options.world)
    check_trainable(target, plan)
    if options.tensorboard:
        check_tensorboard()
    if world.reserved:
        raise UserError(f"The world {world.name!r} only judges: a training in it would spoil the promise.")
    for one in target.module.parameters():
        one.requires_grad_(True)
    before = replace(target, module=deepcopy(target.module))
    streets = [known_to(target, one) for one in load_streets(options.scenes)]
    trained, held = hold_out(streets, share=HELD_OUT, seed=options.seed)
    judged = held if options.judge is None else [known_to(target, one) for one in load_streets(options.judge)]
    if options.judge is not None:
        _check_apart(judged, streets)
    if options.judge_limit:
        judged = [judged[row] for row in spread([one.group for one in judged], min(options.judge_limit, len(judged)))]
    scenes = develop_street(trained, canvas_px=target.frame.size_px).to(options.device)
    classes = tuple(options.classes or attackable(target, scenes))
    _check_shown(classes, held, judged)
    how: dict[str, Any] = {"classes": classes, "threats": options.threats, "world": world, "plan": plan}
    learner = Photographs.of(
        target, scenes, _clean(options, target, trained), **how, seed=options.seed, resolution_px=options.resolution_px
    )
    return _Given(options, command, before, target, learner, held, judged, classes, world)


def _check_shown(classes: Sequence[str], held: Sequence[Street], judged: Sequence[Street]) -> None:
    """UserError: no sign of the classes is there to choose the weights by, or to judge."""
    for streets, what in ((held, "held-out"), (judged, "judging")):
        if not {sign.label for one in streets for sign in one.signs} & {*classes}:
            raise UserError(
                f"None of the {len(streets)} {what} photographs shows {' or '.join(classes)}: give more photographs, "
                "other --classes or another --seed."
            )


def _check_apart(judged: Sequence[Street], seen: Sequence[Street]) -> None:
    """UserError: photographs that judge are among those of the training."""
    known = {sha256(one.path) for one in seen}
    shared = sum(sha256(one.path) in known for one in judged)
    if shared:
        raise UserError(
            f"{shared} of the {len(judged)} photographs of --judge are also in --scenes: give others, or leave --judge "
            "out."
        )


def known_to(target: Detector, street: Street) -> Street:
    """Without the boxes of classes that the detector does not have."""
    return replace(street, signs=tuple(sign for sign in street.signs if sign.label in target.classes))


def _clean(options: HardenOptions, target: Detector, streets: Sequence[Street]) -> Clean:
    longest_px = round(ROOM * target.frame.size_px)
    photographs = [labelled(one, target.classes, longest_px=longest_px) for one in streets]
    faces = None if options.staged in (None, "none") else load_scenes(str(options.staged)).faces
    pasted = [] if faces is None else drawn(faces, target.classes)
    return Clean.of(photographs, pasted, classes=len(target.classes), seed=options.seed)


def _train(run: _Given, console: Console) -> Hardened:
    options, learner = run.options, run.learner
    held = _trial(run, run.held, options.threats[0])
    seed = derive(options.seed, "check")
    held = replace(held, settings=CHECK, resolution_px=options.resolution_px, seed=seed)
    console.say(
        f"{options.recipe} ({learner.plan.recipe.paper}): {learner.plan.epochs} epochs of {learner.steps} steps, "
        f"{learner.plan.batch} photographs each; {len(run.held)} photographs are held out"
    )
    journal = Journal(options.out if ranks.rank() == 0 else None, tensorboard=options.tensorboard)

    def report(epoch: Epoch) -> None:
        journal.epoch(epoch)
        console.hardening(epoch)

    how: dict[str, Any] = {"told": run.told, "checkpoint": options.out / CHECKPOINT, "report": report}
    with console.steps("step") as progress:

        def after_step(step: int, steps: int, loss: float) -> None:
            journal.step(step, loss)
            progress(step, steps, loss)

        check = check_of(run.target, run.held, held)
        hardened = harden(run.target.module, learner, check=check, after_step=after_step, **how)
    journal.close()
    return hardened


def _trial(run: _Given, streets: Sequence[Street], threat: str) -> Trial:
    """Fresh artworks, searched on the photographs of the training, judged on `streets`."""
    judged = develop_street(streets, canvas_px=run.target.frame.size_px).to(run.options.device)
    there = tuple(name for name in run.classes if name in judged.classes)
    settings = replace(JUDGE, steps=run.options.judge_steps)
    return Trial(run.learner.scenes, judged, there, threat, run.world, settings, run.options.seed)


def _finish(run: _Given, hardened: Hardened, console: Console) -> dict[str, Any]:
    """Choose the threshold again, save, judge both detectors, and write it all down."""
    options, out = run.options, run.options.out
    after, _ = operated(replace(run.target, module=hardened.module), run.held)
    after = replace(
        Detector.of(after.module, classes=after.classes, frame=after.frame, name=f"{after.name}, hardened"),
        threshold=after.threshold,
        nms_iou=after.nms_iou,
    )
    arch = next(name for name, kind in DETECTORS.items() if isinstance(after.module, kind))
    save_target(out, after, arch, {"options": options.model_dump(mode="json", exclude={"out"})})
    sides = {"before": run.before, "after": after}
    metrics: dict[str, Any] = {
        "detection": {side: judge(one, run.judged, seed=options.seed) for side, one in sides.items()},
        "attacks": _attacks(run, sides, console),
        "training": _training(run, hardened),
        "history": [asdict(epoch) for epoch in hardened.history],
        "load": f"Use it with --target safetensors:{out}.",
        "run": _description(run, after),
    }
    metrics["headline"] = detector_headline(metrics)
    write_json(out / "metrics.json", metrics)
    write_detector_card(out / "card.md", metrics)
    write_detector_page(out / "report.html", metrics)
    return metrics


def _attacks(run: _Given, sides: dict[str, Detector], console: Console) -> list[dict[str, Any]]:
    """Each class under a fresh attack of the kind that was trained on, and of one that was not."""
    first, rows = run.options.threats[0], []
    for threat in (first,) if run.options.quick or first == NOVEL else (first, NOVEL):
        trial = _trial(run, run.judged, threat)
        for name in trial.classes:
            row: dict[str, Any] = {"threat": threat, "class": name, "trained": threat == first}
            for side, detector in sides.items():
                row[side] = _figures(trial.judge(detector, name).metrics, name)
                console.say(
                    f"{name}, {threat}, {side}: {row[side]['attacked']['k']} of {row[side]['attacked']['n']} hidden"
                )
            rows.append(row)
    return rows


def _figures(metrics: dict[str, Any], name: str) -> dict[str, Any]:
    """What is told of a class under an attack."""
    kept = {key: metrics[key] for key in ("accuracy", "attacked", "controls", "promise")}
    return kept | {
        "ap50": metrics["detection"]["classes"][name]["ap50"],
        "threshold": metrics["detection"]["threshold"],
    }


def _training(run: _Given, hardened: Hardened) -> dict[str, Any]:
    plan = asdict(run.learner.plan)
    recipe = plan.pop("recipe")
    return {
        "recipe": recipe,
        "plan": plan,
        "images": len(run.learner.clean),
        "held_out": len(run.held),
        "steps": len(hardened.losses),
        "best_epoch": hardened.best_epoch,
        "seconds": hardened.seconds,
        "threads": torch.get_num_threads(),
    }


def _description(run: _Given, after: Detector) -> dict[str, Any]:
    options, scenes = run.options, run.judged
    return {
        "command": run.command,
        "config": options.model_dump(mode="json", exclude={"out", "overwrite", "resume"}),
        "target": {"name": run.before.name, "weights_hash": run.before.weights_hash, "threshold": run.before.threshold},
        "hardened": {"name": after.name, "weights_hash": after.weights_hash, "threshold": after.threshold},
        "threats": [*options.threats],
        "world": {"name": run.world.name, "hash": run.world.hash},
        "scenes": {
            "spec": options.judge or f"held-out photographs of {options.scenes}",
            "n": len(scenes),
            "groups": len({one.group for one in scenes}),
            "chose": options.judge is None,
        },
        "seed": options.seed,
        "versions": versions(),
    }
