"""`physadv attack` and `evaluate`: search, judge, save."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from physadv import ranks
from physadv.approach import Approaches
from physadv.attacks import Attacked, attack, attack_each, check
from physadv.config import AttackOptions, EvaluateOptions, SearchOptions
from physadv.console import Console
from physadv.errors import UserError
from physadv.evaluation import Evaluation, alone, evaluate
from physadv.files import prepare_folder, write_json
from physadv.handwork import check_on_face
from physadv.lagrangian import Closest, check_closest, closest
from physadv.question import Target, check_question, classifier_only, goal_of
from physadv.report import write_report
from physadv.runs.drive import drive_towards, films
from physadv.runs.shared import check_device, load_all, scenes_of, threat_of, versions
from physadv.scenes import Scenes
from physadv.threats import Artwork, covered_share, load_artwork, load_threat
from physadv.threats.base import Threat
from physadv.threats.printed import faces_in_use
from physadv.threats.sought import Sought
from physadv.transforms.world import World

JUDGED_VIEWS = 200


def run_attack(options: AttackOptions, *, command: str, console: Console) -> dict[str, Any]:
    """Search, judge, save: artwork, metrics.json, report.html."""
    target, world, scenes, judged = load_all(options)
    goal = goal_of(target, options.goal)
    options = options.model_copy(update={"goal": goal.name})
    threat = fits = threat_of(options.threat, options, scenes)
    if options.judge:
        judged = scenes_of(
            options.model_copy(update={"limit": None}),
            options.judge,
            options.judge_backgrounds or options.backgrounds,
            target,
        ).to(options.device)
        check_question(target, judged, goal)
        fits = _elsewhere(threat, options, judged)
    elif options.judge_backgrounds:
        judged = scenes_of(options, options.scenes, options.judge_backgrounds, target).to(options.device)
    options = _completed(options, world, target)
    how: dict[str, Any] = {"world": world, "settings": options.settings(), "seed": options.seed}
    if options.closest:
        how |= {"distance": options.closest, "rounds": options.rounds, "success": options.needed}
    if options.closest:
        check_closest(classifier_only(target, "--closest"), scenes, threat, **how)
    else:
        check(target, scenes, threat, **how)
    if options.resume and not options.out.is_dir():
        raise UserError(f"There is no run in {options.out} to continue; check --out, or leave --resume out.")
    out = prepare_folder(options.out, overwrite=options.overwrite, resume=options.resume)
    how["report"] = console.attack
    if options.closest:
        found: Attacked = closest(classifier_only(target, "--closest"), scenes, threat, **how)
    else:
        checkpoint = out / "checkpoint.safetensors"
        found = attack(target, scenes, threat, **how, checkpoint=checkpoint, resume=options.resume)
    artwork = found.artwork.at(fits.artwork(found.artwork.rgb).place_mm)
    result = _evaluate(options, target, judged, artwork, world, fits, console)
    drives = _drives(options, target, judged, artwork, world, console)
    return _finish(_Outcome(options, command, target, judged, artwork, result, found, drives), out)


def run_evaluate(options: EvaluateOptions, *, command: str, console: Console) -> dict[str, Any]:
    """Judge what is given; metrics.json and report.html. Several processes share the views, and the first writes."""
    check_device(options.device)
    with ranks.joined(options.device):
        _check_shared(options)
        console = console if ranks.rank() == 0 else Console(quiet=True)
        return _judged(options, command, console)


def _check_shared(options: EvaluateOptions) -> None:
    """UserError: several processes, and something they cannot share."""
    if ranks.size() > 1 and options.device != "cpu":
        raise UserError("Several processes share an evaluation on the CPU only: use --device cpu, or one process.")


def _judged(options: EvaluateOptions, command: str, console: Console) -> dict[str, Any]:
    """What the first process wrote; {} in the others."""
    if options.artwork and options.attack:
        raise UserError("--artwork judges what is there and --attack makes something new: give one of them.")
    if options.artwork and options.artwork.resolve() == options.out.resolve():
        raise UserError(f"{options.out} holds the artwork itself; choose another --out for its figures.")
    target, world, searched, scenes = load_all(options)
    goal = goal_of(target, _intended(options))
    options = options.model_copy(update={"goal": goal.name})
    check_question(target, scenes, goal)
    settings = options.settings(per_scene=True)
    artwork, found, threat = None, None, None
    if options.artwork:
        artwork = load_artwork(options.artwork).to(options.device)
        threat, artwork = _refit(artwork, scenes)
        check_on_face(artwork, scenes.faces.size_mm[faces_in_use(scenes)])
    if options.attack:
        threat = threat_of(options.attack, options, scenes)
        check(target, searched, threat, world=world, settings=settings, seed=options.seed)
    if ranks.rank() == 0:
        prepare_folder(options.out, overwrite=options.overwrite)
    ranks.agreed(0.0)
    if options.attack and threat:
        how: dict[str, Any] = {"world": world, "settings": settings, "report": console.attack}
        found = attack_each(target, searched, threat, seed=options.seed, shared=True, **how)
        artwork = found.artwork
        threat = threat.at(artwork.place_mm) if isinstance(threat, Sought) else threat
    result = _evaluate(options, target, scenes, artwork, world, threat, console, shared=True)
    if ranks.rank() > 0:
        return {}
    result = replace(result, verdict=alone(result.verdict))
    drives = _drives(options, target, scenes, artwork, world, console)
    return _finish(_Outcome(options, command, target, scenes, artwork, result, found, drives), options.out)


def _intended(options: EvaluateOptions) -> str:
    """The --goal; without one, that of the attack which made the artwork."""
    if options.artwork is None or "goal" in options.model_fields_set:
        return options.goal
    return str(load_artwork(options.artwork).record.get("run", {}).get("goal", options.goal))


def _completed(options: AttackOptions, world: World, target: Target) -> AttackOptions:
    """With what --closest takes by default. UserError: --resume with it, or its own options without it."""
    if options.closest is None:
        if options.model_fields_set & {"rounds", "needed"}:
            raise UserError("--rounds and --needed belong to --closest: add it, or leave them out.")
        return options
    if options.resume:
        raise UserError("--closest cannot continue an earlier run: leave --resume out.")
    return options.nearest(chance=world.random or target.randomised)


def _elsewhere(threat: Threat, options: AttackOptions, judged: Scenes) -> Threat:
    """The threat on the signs that judge."""
    if threat.per_image:
        raise UserError(f"{threat.name} changes one photograph, which no other can wear: leave --judge out.")
    return threat_of(options.threat, options, judged)


def _refit(artwork: Artwork, scenes: Scenes) -> tuple[Threat | None, Artwork]:
    """An artwork that was placed by its faces takes the places that its threat has on these.

    UserError: artworks that were made one per scene, for other scenes.
    """
    made_for = artwork.record.get("scenes", list(scenes.names))
    if (len(artwork) > 1 or not artwork.printed) and (len(artwork) != len(scenes) or made_for != list(scenes.names)):
        raise UserError(
            f"The artwork holds {len(artwork)}, one per scene, for {len(scenes)} scenes: give the scenes of its attack."
        )
    name = str(artwork.record.get("threat", ""))
    if len(artwork.place_mm) == 1 and "@random" not in name:
        return None, artwork
    mask = artwork.record.get("run", {}).get("config", {}).get("mask")
    threat = load_threat(name, scenes, seed=0, mask=mask, resolution_px=max(artwork.rgb.shape[-2:]))
    if isinstance(threat, Sought):
        return threat.at(artwork.place_mm), artwork
    return threat, artwork.at(threat.place_mm)


def _evaluate(
    options: SearchOptions,
    target: Target,
    scenes: Scenes,
    artwork: Artwork | None,
    world: World,
    threat: Threat | None,
    console: Console,
    *,
    shared: bool = False,
) -> Evaluation:
    views = options.judge_views or max(1 if target.frame.whole else 20, JUDGED_VIEWS // len(scenes))
    how: dict[str, Any] = {"world": world, "goal": options.goal, "views": views, "seed": options.seed}
    with console.status() as say:
        return evaluate(target, scenes, artwork, threat=threat, shared=shared, report=say, **how)


def _drives(
    options: SearchOptions, target: Target, scenes: Scenes, artwork: Artwork | None, world: World, console: Console
) -> Approaches | None:
    with console.status() as say:
        say("drives towards the sign")
        return drive_towards(options, target, scenes, artwork, world)


@dataclass(frozen=True)
class _Outcome:
    """A run that is over: what was asked, what was judged, what was found."""

    options: SearchOptions
    command: str
    target: Target
    scenes: Scenes
    artwork: Artwork | None
    result: Evaluation
    found: Attacked | None
    drives: Approaches | None

    @property
    def history(self) -> list[dict[str, float]]:
        return list(self.found.history) if self.found else []


def _finish(outcome: _Outcome, out: Path) -> dict[str, Any]:
    """Write what was found: the artwork with its record, metrics.json, report.html."""
    run, artwork, result = _description(outcome), outcome.artwork, outcome.result
    metrics = result.metrics | {"run": run, "history": outcome.history}
    if outcome.drives is not None:
        metrics |= {"approach": outcome.drives.to_json()}
    if isinstance(outcome.found, Closest):
        metrics |= {"closest": outcome.found.to_json()}
    if artwork is not None and outcome.found is not None:
        names = list(outcome.scenes.names)
        record = {"threat": run["threat"], "scenes": names, "run": run, "metrics": result.metrics}
        artwork = replace(artwork, record=dict(artwork.record) | record)
        artwork.save(out)
    write_json(out / "metrics.json", metrics)
    title = f"{outcome.target.name} · {run['scenes']['spec']} · {run['threat'] or 'clean'}"
    page = out / "report.html"
    shown = replace(result, metrics=metrics)
    how: dict[str, Any] = {"history": outcome.history, "run": run, "films": films(outcome.drives)}
    write_report(page, title=title, evaluation=shown, artwork=artwork, **how)
    return metrics


def _description(outcome: _Outcome) -> dict[str, Any]:
    """`run` of docs/metrics.md."""
    options, scenes, artwork, share = outcome.options, outcome.scenes, outcome.artwork, None
    worn = scenes.labels if scenes.worn is None else scenes.labels[scenes.worn]
    if artwork is not None:
        share = float(covered_share(artwork, scenes.faces.area_mm2[faces_in_use(scenes)]).mean())
    return {
        "command": outcome.command,
        "config": options.model_dump(mode="json", exclude={"out", "overwrite", "resume"}),
        "target": {"name": outcome.target.name, "weights_hash": outcome.target.weights_hash},
        "scenes": {
            "spec": getattr(options, "judge", None) or options.scenes,
            "n": len(scenes),
            "groups": len(set(scenes.groups)),
            "classes": sorted({scenes.classes[int(label)] for label in worn}),
        },
        "threat": None if artwork is None else str(artwork.record.get("threat", "imported")),
        "goal": options.goal,
        "world": outcome.result.metrics["world"],
        "seed": options.seed,
        "seconds": outcome.found.seconds if outcome.found else None,
        "photographs": outcome.found.photographs if outcome.found else None,
        "covered_share": share,
        "printed": artwork is None or artwork.printed,
        "versions": versions(),
    }
