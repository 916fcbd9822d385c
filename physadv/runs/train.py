"""`physadv train`: a classifier, its accuracy in every named world, its weights; or a detector."""

from typing import Any

from physadv.config import TrainOptions
from physadv.console import Console
from physadv.errors import UserError
from physadv.evaluation import accuracy
from physadv.files import prepare_folder, write_json
from physadv.runs.shared import check_device, scenes_of
from physadv.runs.train_detector import run_train_detector, trains_detector
from physadv.scenes import load_scenes
from physadv.targets.models import save_classifier
from physadv.training import Recipe, check_sources, train
from physadv.transforms.world import load_world, world_names


def run_train(options: TrainOptions, *, console: Console) -> dict[str, Any]:
    """Train, report the accuracy in every named world, save the weights; detectors: `runs/train_detector.py`."""
    if trains_detector(options):
        return run_train_detector(options, console=console)
    if options.resume:
        raise UserError("--resume continues the training of a detector; a classifier takes minutes: use --overwrite.")
    check_device(options.device)
    world = load_world(options.world)
    photographs = scenes_of(options, options.scenes, options.backgrounds)
    staged = None
    if options.staged not in (None, "none") and not photographs.staged:
        staged = load_scenes(str(options.staged), backgrounds=options.backgrounds)
    sources = [one.to(options.device) for one in (photographs, staged) if one is not None]
    judged = {} if options.judge is None else {"photographs": load_scenes(options.judge).to(options.device)}
    check_sources(options.arch, sources, [*judged.values()])
    out = prepare_folder(options.out, overwrite=options.overwrite)
    given = {name: getattr(options, name) for name in ("epochs", "batch", "learning_rate")}
    recipe = Recipe(**{name: value for name, value in given.items() if value is not None})
    target = train(
        options.arch,
        sources,
        world=world,
        context=options.context,
        recipe=recipe,
        seed=options.seed,
        report=console.training,
    )
    if staged is not None:
        judged["staged faces"] = sources[-1]
    worlds = ["digital", *world_names(), "promise"]
    metrics = {
        name: {where: accuracy(target, scenes, load_world(where), seed=options.seed).to_json() for where in worlds}
        for name, scenes in judged.items()
    }
    record = {"options": options.model_dump(mode="json", exclude={"out"}), "world": world.hash, "accuracy": metrics}
    save_classifier(out, target, options.arch, record)
    write_json(out / "metrics.json", record)
    return metrics
