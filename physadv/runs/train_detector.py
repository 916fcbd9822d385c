"""`physadv train` on photographs with boxes: a detector, its AP50, its operating threshold, its weights."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from physadv.config import TrainOptions
from physadv.console import Console
from physadv.detection_data import best_threshold, classes_of, drawn, found, hold_out, label_of, labelled
from physadv.detection_training import DetectorRecipe, train_detector
from physadv.errors import UserError
from physadv.files import prepare_folder, write_json
from physadv.precision import average, average_precision, match, operating
from physadv.runs.shared import check_device
from physadv.scenes import load_scenes
from physadv.scenes.spec import NEXT_SPEC, STREETS, load_streets
from physadv.scenes.street import Street
from physadv.targets.detector import Detector
from physadv.targets.models import DETECTORS, build, save_target

HELD_OUT = 0.1  # of the groups: they choose the operating threshold
ROOM = 1.25  # longer side of a photograph in memory, in sides of the input: there is something to zoom into
CHECKPOINT = "checkpoint.safetensors"
NOT_HERE = ("backgrounds", "classes", "limit", "quad", "label", "face_mm", "world", "context")


def trains_detector(options: TrainOptions) -> bool:
    """Whether there are photographs with boxes. Errors: UserError where scenes and --arch do not go together."""
    boxes = {spec.partition(":")[0] in STREETS for spec in NEXT_SPEC.split(options.scenes)}
    build(options.arch, classes=2, seed=0)
    if boxes != {options.arch in DETECTORS}:
        detectors = " or ".join(DETECTORS)
        raise UserError(
            f"--arch {options.arch} cannot be trained on {options.scenes}: a detector ({detectors}) learns from "
            "coco:FILE.json or yolo:FILE.yaml, a classifier from every other kind of scenes."
        )
    return options.arch in DETECTORS


def run_train_detector(options: TrainOptions, *, console: Console) -> dict[str, Any]:
    """Train, choose the threshold on groups held out, judge, save the weights."""
    check_device(options.device)
    idle = [name.replace("_", "-") for name in NOT_HERE if name in options.model_fields_set]
    if idle:
        raise UserError(
            f"--{idle[0]} does nothing in the training of a detector (docs/detector-training.md): leave it out."
        )
    streets = load_streets(options.scenes)
    judged = None if options.judge is None else load_streets(options.judge)
    classes = classes_of(streets)
    trained, held = hold_out(streets, share=HELD_OUT, seed=options.seed)
    faces = None if options.staged in (None, "none") else load_scenes(str(options.staged)).faces
    out = prepare_folder(options.out, overwrite=options.overwrite, resume=options.resume)
    detector = train_detector(
        options.arch,
        [labelled(one, classes, longest_px=round(ROOM * DETECTORS[options.arch].input_size)) for one in trained],
        classes=classes,
        drawn=[] if faces is None else drawn(faces, classes),
        recipe=recipe_of(options),
        seed=options.seed,
        device=options.device,
        check=lambda one: mean_ap(average_precision(*found(one, held), classes=range(len(classes)))),
        report=console.training,
        checkpoint=out / CHECKPOINT,
    )
    threshold = best_threshold(*found(detector, held), classes=len(classes))
    detector = replace(detector, threshold=threshold)
    accuracy = {"held-out photographs": judge(detector, held, seed=options.seed)}
    if judged is not None:
        accuracy["photographs"] = judge(detector, judged, seed=options.seed)
    record = {
        "options": options.model_dump(mode="json", exclude={"out"}),
        "photographs": {"trained": len(trained), "held out": len(held)},
        "staged": {} if faces is None else {name: _class_name(name, classes) for name in faces.names},
        "threshold": threshold,
        "accuracy": accuracy,
    }
    save_target(out, detector, options.arch, record)
    write_json(out / "metrics.json", record)
    return accuracy


def recipe_of(options: TrainOptions) -> DetectorRecipe:
    """The detectors' own recipe, with what was given."""
    given = {name: getattr(options, name) for name in ("epochs", "batch", "learning_rate")}
    return DetectorRecipe(**{name: value for name, value in given.items() if value is not None})


def judge(detector: Detector, streets: Sequence[Street], *, seed: int) -> dict[str, Any]:
    """AP50 of each class and in the mean, precision and recall at the threshold; intervals by bootstrap over groups."""
    detections, seen = found(detector, streets)
    groups = [street.group for street in streets]
    points = average_precision(detections, seen, classes=range(len(detector.classes)))
    matched = [match(detections, seen, label=label) for label in points]
    told: dict[str, Any] = {}
    for label, one in enumerate(matched):
        work = operating(one, threshold=detector.threshold, groups=groups, seed=seed)
        told[detector.classes[label]] = {
            "ap50": average([one], groups, value=points[label], seed=seed).to_json(),
            "precision": work.precision.to_json(),
            "recall": work.recall.to_json(),
        }
    return {
        "images": len(streets),
        "classes": told,
        "mean": average(matched, groups, value=mean_ap(points), seed=seed).to_json(),
    }


def mean_ap(points: Mapping[int, float | None]) -> float:
    """Over the classes of which there is a sign."""
    known = [value for value in points.values() if value is not None]
    return sum(known) / len(known) if known else 0.0


def _class_name(face: str, classes: Sequence[str]) -> str | None:
    label = label_of(face, classes)
    return None if label < 0 else classes[label]
