"""What is asked of a target: goal, truth and answer. The one place that tells detectors from classifiers.

A *case* is what an attack wins or loses: a view (classifiers), or a sign with the artwork in one view (detectors).
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from physadv.errors import UserError
from physadv.objectives import (
    DEFAULT_KAPPA,
    Detection,
    Goal,
    Objective,
    check_goal,
    make_detection_objective,
    make_objective,
    parse_detection_goal,
    parse_goal,
)
from physadv.scenes.base import Scenes
from physadv.scenes.classes import canonical
from physadv.shortage import in_halves
from physadv.targets import Classifier, Detector
from physadv.targets.boxes import MATCH_IOU, UNKNOWN, Detections, Seen, iou, joined, together
from physadv.targets.spec import align_labels
from physadv.transforms.geometry import check_frame
from physadv.transforms.world import Views, World

NOTHING = "nothing"  # what a detector says of a sign that it does not find

Target: TypeAlias = Classifier | Detector
Truth: TypeAlias = Any
"""What is to be answered: the row of the class of each view, (n,); of a detector, `Seen`."""
Answer: TypeAlias = Any
"""What is answered: logits (n, c); of a detector, `Detections`."""


def goal_of(target: Target, text: str) -> Goal:
    """UserError: no such goal for this kind of target, or no such class."""
    return (parse_detection_goal if isinstance(target, Detector) else parse_goal)(text, target.classes)


def check_question(target: Target, scenes: Scenes, goal: Goal) -> None:
    """UserError: the goal is there already, scenes of the other kind, or no class for the signs with the artwork."""
    check_frame(scenes, target.frame)
    labels = labels_of(target, scenes)
    if isinstance(target, Detector):
        worn = labels if scenes.worn is None else labels[scenes.worn]
        if goal.kind != "create" and not bool((worn != UNKNOWN).any()):
            names = ", ".join(sorted({scenes.classes[int(row)] for row in scenes.labels}))
            raise UserError(f"{target.name} has no class for {names}: choose signs it knows with --classes.")
        labels = worn
    check_goal(goal, labels)


def objective_of(target: Target, goal: Goal, *, name: str = "margin", kappa: float = DEFAULT_KAPPA) -> Objective:
    """The loss and the success test. UserError: no such objective."""
    if isinstance(target, Detector):
        return make_detection_objective(name, goal, threshold=target.threshold, kappa=kappa)
    return make_objective(name, goal, kappa=kappa)


def answer(target: Target, images: Float[Tensor, "n 3 h w"]) -> Answer:
    """What the target says in the end: logits, or what is left after NMS."""
    ask = target.detect if isinstance(target, Detector) else target
    return in_halves(ask, images, together=together_answers)


def answers(target: Target, images: Float[Tensor, "n 3 h w"]) -> tuple[Any, Answer]:
    """What a loss takes and what the target says in the end; of a classifier, the same logits."""
    if isinstance(target, Detector):
        raw = target(images)
        return raw, target.kept(raw)
    logits = target(images)
    return logits, logits


def heard(target: Target, said: Answer, truth: Truth) -> tuple[str, float, bool]:
    """Of the one sign in one image: what the target says it is, how surely, and whether it is that.

    A detector that finds nothing there says "nothing", with the score of the surest box at the sign.
    """
    if not isinstance(target, Detector):
        sure, row = said.softmax(1).max(1)
        return target.classes[int(row)], float(sure), int(row) == int(truth[0])
    there = iou(said.boxes[0], truth.box.expand_as(said.boxes[0])) >= MATCH_IOU
    scores = torch.cat([said.scores[0] * there, said.scores.new_zeros(1)])
    sure, at = scores.max(0)
    if sure < target.threshold:
        return NOTHING, float(sure), False
    label = int(said.labels[0, at])
    return target.classes[label], float(sure), label == int(truth.label[0])


def together_answers(parts: Sequence[Answer]) -> Answer:
    """Of one batch of images after the other."""
    if isinstance(parts[0], Detections):
        return joined(parts)
    return torch.cat([*parts])


def taken(answers: Answer, rows: Int[Tensor, " m"]) -> Answer:
    """Those of some images."""
    return answers.take(rows) if isinstance(answers, Detections) else answers[rows]


def labels_of(target: Target, scenes: Scenes) -> Int[Tensor, " m"]:
    """The row among the target's classes of every sign's; of a detector, UNKNOWN where it has none.

    UserError: a classifier does not know the class.
    """
    if not isinstance(target, Detector):
        return truth_of(scenes, target.classes)
    rows = {canonical(name): row for row, name in enumerate(target.classes)}
    known = torch.tensor([rows.get(canonical(name), UNKNOWN) for name in scenes.classes])
    return known.to(scenes.labels.device)[scenes.labels]


def truth_of(scenes: Scenes, classes: tuple[str, ...]) -> Int[Tensor, " b"]:
    """The row among a classifier's classes of each scene's. UserError: one that the scenes show is missing there."""
    shown, which = scenes.labels.cpu().unique(return_inverse=True)
    rows = align_labels(tuple(scenes.classes[row] for row in shown.tolist()), classes)
    return rows[which].to(scenes.labels.device)


def truth_in(target: Target, scenes: Scenes, views: Views, *, world: World) -> Truth:
    """What is to be answered in view i of scene i."""
    labels = labels_of(target, scenes)
    if not isinstance(target, Detector):
        return labels
    return world.seen(scenes.relabelled(labels), views, frame=target.frame)


def truth_at(target: Target, scenes: Scenes, box_px: Float[Tensor, "4"]) -> Truth:
    """What is to be answered of one image in which the first scene's sign is at `box_px` (xyxy)."""
    labels = labels_of(target, scenes)[:1]
    if not isinstance(target, Detector):
        return labels
    there = torch.ones(1, dtype=torch.bool, device=labels.device)
    return Seen(torch.zeros_like(labels), labels, box_px.to(labels.device).clamp(0, target.frame.size_px)[None], there)


def together_truths(parts: Sequence[Truth], images: Sequence[int]) -> Truth:
    """Of one batch of views after the other; images: how many each holds."""
    if isinstance(parts[0], Seen):
        return together(parts, images)
    return torch.cat([*parts])


def view_of_cases(objective: Objective, truth: Truth) -> Int[Tensor, " cases"]:
    """The row of each case's view."""
    if isinstance(truth, Seen) and isinstance(objective, Detection):
        return objective.cases(truth).image
    return torch.arange(len(truth), device=truth.device)


def classifier_only(target: Target, what: str) -> Classifier:
    """UserError: the target is a detector."""
    if isinstance(target, Detector):
        raise UserError(f"{what} needs a classifier so far, and {target.name} is a detector: use attack or evaluate.")
    return target
