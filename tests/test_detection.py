"""Attacks on detectors: objectives by hand, a rate counted by hand, a whole attack and the command line on toys."""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import physadv.cli
from physadv.attacks import Attacked, attack
from physadv.errors import UserError
from physadv.evaluation import evaluate
from physadv.heldout import HeldOut
from physadv.objectives import Detection, make_detection_objective, parse_detection_goal
from physadv.problem import make_problem
from physadv.question import check_question, goal_of, labels_of
from physadv.scenes import load_scenes
from physadv.scenes.base import Faces, Scenes
from physadv.settings import Settings
from physadv.targets import Detector, weights_hash
from physadv.targets.base import Frame
from physadv.targets.boxes import UNKNOWN, Detections, Raw, Seen, together
from physadv.targets.detector import letterbox, suppress
from physadv.targets.fake import COLOURED, fake_detector
from physadv.threats import Artwork, load_threat
from physadv.threats.base import Threat
from physadv.transforms.camera import Noise
from physadv.transforms.light import Exposure
from physadv.transforms.print import Ink
from physadv.transforms.stages import Stages
from physadv.transforms.view import Pinhole, Relative
from physadv.transforms.world import DIGITAL, World

CLASSES = ("a", "b", "c")
TAU = math.log(0.3 / 0.7)


def logit(score: float) -> float:
    return math.log(score / (1 - score))


def objective(goal: str, *, threshold: float = 0.3, kappa: float = 5.0, name: str = "margin") -> Detection:
    return make_detection_objective(name, parse_detection_goal(goal, CLASSES), threshold=threshold, kappa=kappa)


# --- objectives: three images, the first with one sign, the second with none, the third with four ---------------------

SEEN = Seen(
    image=torch.tensor([0, 2, 2, 2, 2]),
    label=torch.tensor([0, 1, 0, UNKNOWN, 2]),
    box=torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 60, 60], [0, 50, 10, 60], [60, 0, 80, 20]]),
    worn=torch.tensor([True, True, False, True, True]),
)
BOXES = torch.tensor(
    [
        [[0.0, 0, 10, 10], [0, 0, 10, 5.1], [0, 0, 10, 4.9], [3, 0, 13, 10]],  # IoU 1, 0.51, 0.49, 0.54
        [[0.0, 0, 10, 10], [5, 5, 9, 9], [0, 0, 80, 80], [1, 1, 2, 2]],
        [[20.0, 20, 40, 38], [0, 50, 10, 60], [50, 50, 60, 60], [65, 5, 70, 10]],  # the last lies inside its sign
    ]
)
SCORES = torch.tensor(
    [
        [[0.2, 0.1, 0.0], [0.6, 0.8, 0.1], [0.9, 0.9, 0.9], [0.5, 0.3, 0.7]],
        [[0.9, 0.9, 0.9]] * 4,
        [[0.3, 0.4, 0.2], [0.8, 0.7, 0.6], [0.9, 0.9, 0.9], [0.6, 0.1, 0.9]],
    ]
)


def raw(*, grad: bool = False) -> Raw:
    return Raw(BOXES, SCORES.clone().requires_grad_(grad))


@pytest.mark.parametrize(
    ("goal", "margins"),
    [
        ("hide", [logit(0.6) - TAU, logit(0.4) - TAU, -69 - TAU]),  # nothing of IoU 0.5 on the last sign
        ("relabel:c", [max(logit(0.6), TAU) - logit(0.7), max(logit(0.4), TAU) - logit(0.2), TAU + 69]),
        ("create:c", [TAU - logit(0.9), TAU - logit(0.2), TAU - logit(0.6), TAU - logit(0.9)]),
    ],
)
def test_the_loss_is_the_margin_counted_by_hand(goal: str, margins: list[float]) -> None:
    for kappa in (0.0, 2.0, 100.0):
        losses = objective(goal, kappa=kappa).loss(raw(), SEEN)
        expected = torch.tensor([max(margin, -kappa) for margin in margins])
        torch.testing.assert_close(losses, expected, atol=1e-4, rtol=0)


def test_margin_mean_pulls_at_all_boxes_of_the_sign() -> None:
    """Half the surest, half the mean of the boxes with IoU 0.5; success asks for the surest alone."""
    mean = objective("hide", name="margin-mean", kappa=100.0)
    average = (logit(0.2) + logit(0.6) + logit(0.5)) / 3
    expected = [(logit(0.6) + average) / 2 - TAU, logit(0.4) - TAU, -69 - TAU]
    torch.testing.assert_close(mean.loss(raw(), SEEN), torch.tensor(expected), atol=1e-4, rtol=0)
    assert torch.equal(mean.success(raw(), SEEN), objective("hide").success(raw(), SEEN))
    answers = raw(grad=True)
    (gradient,) = torch.autograd.grad(mean.loss(answers, SEEN)[0], answers.scores)
    assert (gradient[0, :, 0] > 0).tolist() == [True, True, False, True]


@pytest.mark.parametrize("threshold", [0.05, 0.25, 0.3, 0.5, 0.65, 0.9])
@pytest.mark.parametrize("boxes", [1, 3, 8, 33])
def test_a_detection_counts_from_the_threshold_on(threshold: float, boxes: int) -> None:
    seen = SEEN.take(torch.tensor([0]))
    for score, found in ((threshold, True), (threshold - 1e-4, False), (threshold + 1e-4, True)):
        answers = Raw(torch.tensor([[[0.0, 0, 10, 10]]]).repeat(1, boxes, 1), torch.full((1, boxes, 3), score))
        hide, create = objective("hide", threshold=threshold), objective("create:a", threshold=threshold)
        assert hide.eligible(answers, seen).tolist() == [found]
        assert hide.success(answers, seen).tolist() == [not found]
        if score != threshold:
            assert create.success(answers, seen).tolist() == [found]
            assert create.eligible(answers, seen).tolist() == [not found]


@pytest.mark.parametrize(("bottom", "found"), [(5.01, True), (4.99, False), (19.9, True), (20.1, False)])
def test_a_detection_is_of_a_sign_from_iou_a_half_on(bottom: float, found: bool) -> None:
    seen = SEEN.take(torch.tensor([0]))
    answers = Raw(torch.tensor([[[0.0, 0, 10, bottom]]]), torch.full((1, 1, 3), 0.9))
    assert objective("hide").eligible(answers, seen).tolist() == [found]


def detections(*found: list[tuple[tuple[float, ...], float, int]]) -> Detections:
    """Of each image: box, score, label; surest first, padded with zeros."""
    most = max(map(len, found))
    padded = [[*image, *[((0.0, 0.0, 0.0, 0.0), 0.0, 0)] * (most - len(image))] for image in found]
    columns = [[[one[part] for one in image] for image in padded] for part in range(3)]
    return Detections(torch.tensor(columns[0]), torch.tensor(columns[1]), torch.tensor(columns[2]))


A, B, C = (0.0, 0.0, 10.0, 10.0), (20.0, 20.0, 40.0, 40.0), (60.0, 0.0, 80.0, 20.0)


@pytest.mark.parametrize(
    ("goal", "found", "won", "eligible"),
    [
        ("hide", [[(A, 0.9, 0)], [], [(B, 0.9, 1), (C, 0.9, 2)]], [False, False, False], [True, True, True]),
        ("hide", [[(A, 0.2, 0)], [], [(B, 0.9, 0), (C, 0.9, 1)]], [True, True, True], [False, False, False]),
        ("hide", [[], [(A, 0.9, 0)], []], [True, True, True], [False, False, False]),
        ("relabel:c", [[(A, 0.9, 2)], [], [(B, 0.9, 2), (B, 0.8, 1)]], [True, True, False], [False, True, False]),
        ("relabel:c", [[(A, 0.9, 2), (A, 0.9, 0)], [], [(B, 0.2, 2)]], [False, False, False], [True, False, False]),
        ("create:c", [[(A, 0.9, 2)], [], [(B, 0.2, 2)]], [True, False, False, False], [False, True, True, True]),
        (
            "create:c",
            [[((1.0, 1.0, 4.0, 4.0), 0.9, 2)], [], []],
            [True, False, False, False],
            [False, True, True, True],
        ),
        ("create:c", [[((0.0, 0.0, 10.0, 21.0), 0.9, 2)], [], []], [False] * 4, [True] * 4),
    ],
)
def test_success_on_detections(goal: str, found: list[Any], won: list[bool], eligible: list[bool]) -> None:
    asked, answers = objective(goal), detections(*found)
    assert asked.success(answers, SEEN).tolist() == won
    assert asked.eligible(answers, SEEN).tolist() == eligible


def test_no_detection_at_all_hides_every_sign() -> None:
    nothing = Detections(torch.empty(3, 0, 4), torch.empty(3, 0), torch.empty(3, 0, dtype=torch.long))
    assert objective("hide").success(nothing, SEEN).all()
    assert not objective("create:c").success(nothing, SEEN).any()
    assert not objective("relabel:c").success(nothing, SEEN).any()
    assert not objective("hide").eligible(nothing, SEEN).any()
    assert torch.isfinite(objective("relabel:c").loss(nothing, SEEN)).all()


def test_images_without_the_object_are_no_case() -> None:
    """The loss is of signs: more images without one change neither it nor its mean."""
    asked, answers = objective("hide", kappa=50.0), raw()
    assert asked.cases(SEEN).image.tolist() == [0, 2, 2]
    assert asked.cases(SEEN).label.tolist() == [0, 1, 2], "neither unworn nor unknown"
    assert objective("create:c").cases(SEEN).label.tolist() == [0, 1, UNKNOWN, 2]
    losses = asked.loss(answers, SEEN)
    more = Raw(torch.cat([BOXES, BOXES[1:2], BOXES[1:2]]), torch.cat([SCORES, SCORES[1:2], SCORES[1:2]]))
    assert torch.equal(asked.loss(more, SEEN), losses)
    nothing = SEEN.take(SEEN.image == 1)
    assert asked.loss(answers, nothing).shape == (0,)
    assert asked.success(answers, nothing).shape == asked.eligible(answers, nothing).shape == (0,)


@pytest.mark.parametrize(("goal", "reached"), [("hide", (1, 0)), ("relabel:c", (3, 2)), ("create:c", (2, 2))])
def test_the_gradient_reaches_the_box_that_counts(goal: str, reached: tuple[int, int]) -> None:
    """Of the first sign, and no other box of its image; none of the image without a sign."""
    answers = raw(grad=True)
    losses = objective(goal, kappa=50.0).loss(answers, SEEN)
    (gradient,) = torch.autograd.grad(losses[0], answers.scores, retain_graph=True)
    assert gradient[0, reached[0], reached[1]].abs() > 0.1
    assert not gradient[1:].any()
    (whole,) = torch.autograd.grad(losses.sum(), answers.scores)
    assert not whole[1].any()
    if goal == "create:c":
        assert whole[2, 3, 2] < 0


def test_an_objective_of_no_such_name_or_kappa() -> None:
    with pytest.raises(UserError, match="use margin or margin-mean"):
        objective("hide", name="cross-entropy")
    with pytest.raises(UserError, match="0 or more"):
        objective("hide", kappa=-1.0)
    for text, sentence in (
        ("hide:a", "use hide, create:NAME or relabel:NAME"),
        ("class:a", "use hide, create:NAME or relabel:NAME"),
        ("create:", "use hide"),
        ("relabel:d", "knows no class 'd'"),
    ):
        with pytest.raises(UserError, match=sentence):
            parse_detection_goal(text, CLASSES)
    assert parse_detection_goal("untargeted", CLASSES).kind == "hide"


# --- what is left after NMS -------------------------------------------------------------------------------------------


def test_the_surest_box_of_each_class_is_left() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 4], [30, 30, 40, 40]]])
    scores = torch.tensor([[[0.6, 0.9], [0.8, 0.005], [0.7, 0.0], [0.3, 0.0]]])
    left = suppress(Raw(boxes, scores), 0.5)
    torch.testing.assert_close(left.scores, torch.tensor([[0.9, 0.8, 0.7, 0.3]]))
    assert left.labels.tolist() == [[1, 0, 0, 0]]
    assert left.boxes[0].tolist() == boxes[0, [0, 1, 2, 3]].tolist()
    assert suppress(Raw(boxes, scores), None).scores.shape == (1, 5)
    assert suppress(Raw(boxes, scores), 0.3).scores.shape == (1, 3)


def test_images_have_as_many_detections_as_they_have() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]]).repeat(3, 1, 1)
    scores = torch.tensor([[[0.9], [0.8]], [[0.0], [0.0]], [[0.001], [0.02]]])
    left = suppress(Raw(boxes, scores), 0.5)
    torch.testing.assert_close(left.scores, torch.tensor([[0.9, 0.8], [0.0, 0.0], [0.02, 0.0]]))
    nothing = suppress(Raw(boxes, 0 * scores), 0.5)
    assert (nothing.boxes.shape, nothing.scores.shape, nothing.labels.shape) == ((3, 0, 4), (3, 0), (3, 0))
    none = suppress(Raw(torch.empty(2, 0, 4), torch.empty(2, 0, 3)), 0.5)
    assert none.scores.shape == (2, 0)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 96), (160, 120)])
def test_boxes_come_back_through_the_letterbox(height: int, width: int) -> None:
    """A red square is found where it was painted, whatever the photograph's shape."""
    scale = 64 / max(height, width)
    left, top, side = 12 / scale, 18 / scale, 18 / scale
    image = torch.full((1, 3, height, width), 0.5)
    image[0, :, round(top) : round(top + side), round(left) : round(left + side)] = RED
    found = fake_detector().detect(image)
    expected = torch.tensor([left, top, left + side, top + side])
    best = found.boxes[0][(found.labels[0] == 0) & (found.scores[0] > 0.3)]
    assert (best - expected).abs().amax(1).min() <= 4 / scale
    boxed, shrunk = letterbox(image, Frame(64, whole=True, pad=0.5))
    assert (boxed.shape, shrunk) == ((1, 3, 64, 64), scale)


def test_signs_of_several_batches_keep_their_images() -> None:
    parts = [SEEN, SEEN.take(SEEN.image == 1), SEEN]
    whole = together(parts, [3, 2, 3])
    assert whole.image.tolist() == [0, 2, 2, 2, 2, 5, 7, 7, 7, 7]
    mixed = together([replace(SEEN, image=SEEN.image + 1), SEEN])
    assert mixed.image.tolist() == [0, 1, 2, 2, 2, 2, 3, 3, 3, 3]


# --- photographs with painted signs -----------------------------------------------------------------------------------

SIZE, SIGN_MM = 64, 600.0
RED = torch.tensor([1.0, 0.2, 0.2])[:, None, None]
WEAK = torch.tensor([0.6, 0.3, 0.3])[:, None, None]
FAINT = torch.tensor([0.4, 0.3, 0.3])[:, None, None]
GREEN = torch.tensor([0.2, 0.9, 0.2])[:, None, None]
Painted = tuple[Tensor, int, int, str]  # colour, left, top, class


def square() -> Tensor:
    along, none, all_ = torch.arange(8) / 8, torch.zeros(8), torch.ones(8)
    sides = ((along, none), (all_, along), (1 - along, all_), (none, 1 - along))
    return SIGN_MM * torch.cat([torch.stack(side, 1) for side in sides])


def painted(*photographs: list[Painted], worn: str = "stop") -> Scenes:
    """Grey photographs with squares of 18 px; those of one class wear the artwork."""
    classes = ("stop", "trafficlight", "unheard-of")
    images, signs, of = torch.full((len(photographs), 3, SIZE, SIZE), 0.5), [], []
    for row, some in enumerate(photographs):
        for colour, left, top, name in some:
            images[row, :, top : top + 18, left : left + 18] = colour
            signs.append((left, top, classes.index(name)))
            of.append(row)
    scale = 18 / SIGN_MM
    surface = torch.tensor([[[scale, 0, left], [0, scale, top], [0, 0, 1]] for left, top, _ in signs])
    labels = torch.tensor([label for *_, label in signs])
    face = Faces(torch.ones(3, 4, 16, 16), torch.full((3, 2), SIGN_MM), square().repeat(3, 1, 1), classes)
    return Scenes(
        images=images,
        surface=surface,
        faces=face,
        face=labels,
        labels=labels,
        classes=classes,
        names=tuple(f"photograph {row}" for row in range(len(photographs))),
        groups=tuple(f"place {row}" for row in range(len(photographs))),
        gain=torch.ones(len(signs), 3),
        bias=torch.zeros(len(signs), 3),
        native_px=torch.ones(len(photographs)),
        photograph=torch.tensor(of),
        extent_px=torch.full((len(photographs), 2), float(SIZE)),
        worn=labels == classes.index(worn),
    )


def half(value: float = 0.5) -> Artwork:
    """A grey sheet over the left half of the sign."""
    return Artwork(torch.full((1, 3, 4, 2), value), torch.ones(1, 1, 4, 2), torch.tensor([[0.0, 0, 300, 600]]))


FIVE = (
    [],
    [(RED, 4, 8, "stop")],
    [(WEAK, 0, 0, "stop"), (RED, 40, 40, "stop")],
    [(WEAK, 4, 4, "stop"), (FAINT, 36, 4, "stop"), (GREEN, 20, 40, "trafficlight")],
    [(GREEN, 8, 8, "trafficlight"), (WEAK, 40, 40, "trafficlight")],
)


def test_the_rate_is_the_one_counted_by_hand() -> None:
    """Half of a sign is covered: a red one is still found, a weak one is not, and the faint one never was."""
    target = replace(fake_detector(), threshold=0.5)
    how: dict[str, Any] = {"world": DIGITAL, "views": 1, "seed": 0, "worlds": ()}
    found = evaluate(target, painted(*FIVE), half(), goal="hide", **how)
    metrics = found.metrics
    assert (metrics["accuracy"]["k"], metrics["accuracy"]["n"]) == (4, 5)
    assert (metrics["clean"]["k"], metrics["clean"]["n"]) == (1, 5)
    assert (metrics["attacked"]["k"], metrics["attacked"]["n"]) == (2, 4)
    assert (metrics["attacked"]["unconditional"]["k"], metrics["attacked"]["unconditional"]["n"]) == (3, 5)
    assert (metrics["controls"]["grey"]["k"], metrics["controls"]["grey"]["n"]) == (2, 4)
    assert found.verdict.scene.tolist() == [1, 2, 2, 3, 3]
    assert found.verdict.success("artwork").tolist() == [False, True, False, True, True]

    assert {"clean", "attacked", "controls", "promise", "worlds", "cells", "detection", "world"} <= set(metrics)
    assert set(metrics["controls"]) == {"grey", "white", "black", "random"}
    detection = metrics["detection"]
    assert detection["images"] == 5
    assert detection["threshold"] == 0.5
    stop = detection["classes"]["stop"]
    assert set(detection["classes"]) == {"stop", "trafficlight"}
    assert stop["signs"] == 5
    assert (stop["recall"]["clean"]["k"], stop["recall"]["clean"]["n"]) == (4, 5)
    assert (stop["recall"]["artwork"]["k"], stop["recall"]["artwork"]["n"]) == (2, 5)
    assert set(stop["ap50"]) == {"clean", "artwork", "grey", "white", "black", "random"}
    assert stop["ap50"]["artwork"]["ap"] < stop["ap50"]["clean"]["ap"]
    assert detection["file"]["classes"]["stop"]["recall"]["clean"] == stop["recall"]["clean"]
    light = detection["classes"]["trafficlight"]
    assert light["ap50"]["artwork"]["ap"] == light["ap50"]["clean"]["ap"]
    assert "risk" not in metrics


def test_photographs_in_which_nothing_wears_it_keep_their_answers() -> None:
    target, scenes = fake_detector(), painted(*FIVE)
    noisy = World("noisy", (Stages(camera=(Noise((0.001, 0.003), (0.01, 0.02)),)),))
    held_out = HeldOut(target, scenes, noisy, 3, 7)
    clean, covered = held_out.answers(None, half())
    (alone,) = held_out.answers(half())
    still = torch.isin(held_out.scene, torch.tensor([0, 4]))
    for one in (covered, alone):
        for name in ("scores", "boxes", "labels"):
            most = min(getattr(part, name).shape[1] for part in (clean, one))
            same = [getattr(part, name)[still, :most] for part in (clean, one)]
            torch.testing.assert_close(*same, atol=1e-6, rtol=0)
    most = min(clean.scores.shape[1], covered.scores.shape[1])
    moved = (clean.scores[~still, :most] - covered.scores[~still, :most]).abs().amax(1)
    assert (moved > 1e-3).all()
    assert torch.equal(held_out.truth.image.unique(), (held_out.scene != 0).nonzero()[:, 0])


def test_labels_are_the_detectors_own() -> None:
    target, scenes = fake_detector(classes=("crosswalk", "stop-sign", "bus")), painted(*FIVE)
    assert labels_of(target, scenes).tolist() == [1, 1, 1, 1, 1, UNKNOWN, UNKNOWN, UNKNOWN]
    check_question(target, scenes, goal_of(target, "hide"))
    lights = painted(*FIVE, worn="trafficlight")
    with pytest.raises(UserError, match=r"no class for .*choose signs it knows with --classes"):
        check_question(target, lights, goal_of(target, "hide"))
    check_question(target, lights, goal_of(target, "create:bus"))
    for goal in ("relabel:stop-sign", "create:stop-sign"):
        with pytest.raises(UserError, match="Some scenes are of class 'stop-sign' already"):
            check_question(target, scenes, goal_of(target, goal))


# --- a whole attack ---------------------------------------------------------------------------------------------------

ROAD = World(
    "road",
    (
        Stages(
            print=(Ink((0.3, 0.7), paper=(0.7, 0.9)),),
            light=(Exposure(photographed=(-0.3, 0.3)),),
            view=(Relative((-6.0, 6.0), roll_deg=(-2.0, 2.0)), Pinhole((0.6, 0.8))),
            camera=(Noise((0.0003, 0.001), (0.001, 0.005)),),
        ),
    ),
)
TRAIN = (
    [(RED, 4, 8, "stop")],
    [(RED, 8, 12, "stop"), (RED, 40, 40, "stop")],
    [],
    [(RED, 20, 24, "stop"), (GREEN, 42, 2, "trafficlight")],
    [(RED, 36, 8, "stop"), (RED, 8, 36, "stop"), (RED, 36, 38, "stop")],
    [(GREEN, 8, 8, "trafficlight")],
)
SETTINGS = Settings(goal="hide", steps=12, batch=3, views=1, held_out=8, check_every=3, step_size=0.1)


def searched(target: Detector, scenes: Scenes, threat: Threat, **how: Any) -> Attacked:
    return attack(target, scenes, threat, **({"world": ROAD, "settings": SETTINGS, "seed": 3} | how))


@pytest.mark.parametrize("goal", ["hide", "relabel:crosswalk", "create:crosswalk"])
def test_an_attack_succeeds_and_leaves_the_detector_as_it_was(goal: str) -> None:
    target, scenes = fake_detector(), painted(*TRAIN)
    before, modes = weights_hash(target.module), [part.requires_grad for part in target.module.parameters()]
    state = {name: value.clone() for name, value in target.module.state_dict().items()}
    threat = load_threat("patch:80%", scenes, seed=0, resolution_px=8)
    settings = replace(SETTINGS, goal=goal)
    found = searched(target, scenes, threat, settings=settings)
    assert weights_hash(target.module) == before
    assert all(torch.equal(value, state[name]) for name, value in target.module.state_dict().items())
    assert [part.requires_grad for part in target.module.parameters()] == modes
    assert all(part.grad is None for part in target.module.parameters())

    problem = make_problem(target, scenes, threat, world=ROAD, settings=settings, seed=3)
    assert len(problem.scenes) == 4, "photographs without a worn sign take no part"
    start = problem.judge(problem.init(restart=0))[0].float().mean()
    end = problem.judge(found.artwork.rgb)[0].float().mean()
    assert start < 0.5
    assert end > 0.9
    assert found.history[-1]["loss"] < found.history[0]["loss"]
    cases = [entry["success"] for entry in found.history if "success" in entry]
    assert len(cases) == 4
    assert max(cases) == pytest.approx(float(end))


def test_the_same_seed_gives_the_same_bits_and_so_does_a_resumed_search(tmp_path: Path) -> None:
    target, scenes = fake_detector(), painted(*TRAIN)
    threat = load_threat("patch:30%", scenes, seed=0, resolution_px=8)
    whole = searched(target, scenes, threat)
    assert torch.equal(searched(target, scenes, threat).artwork.rgb, whole.artwork.rgb)
    assert not torch.equal(searched(target, scenes, threat, seed=4).artwork.rgb, whole.artwork.rgb)

    class Killed(Exception):
        pass

    def kill(step: Any) -> None:
        if step.step == 7:
            raise Killed

    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Killed):
        searched(target, scenes, threat, checkpoint=path, report=kill)
    resumed = searched(target, scenes, threat, checkpoint=path, resume=True)
    assert torch.equal(resumed.artwork.rgb, whole.artwork.rgb)
    assert [entry["loss"] for entry in resumed.history] == [entry["loss"] for entry in whole.history]
    moved = replace(scenes, worn=torch.ones_like(scenes.labels, dtype=torch.bool))
    assert moved.worn is not None
    with pytest.raises(UserError, match="belongs to another run"):
        searched(target, replace(scenes, surface=scenes.surface + 0.1), threat, checkpoint=path, resume=True)


def test_a_search_that_sees_no_sign_says_so() -> None:
    """The only sign is out of the photograph, and the artwork with it."""
    scenes = painted([(RED, 4, 8, "stop")], [(RED, 20, 20, "stop")])
    away = replace(scenes, surface=scenes.surface + torch.tensor([[0.0, 0, 500], [0, 0, 0], [0, 0, 0]]))
    threat = load_threat("patch:30%", away, seed=0, resolution_px=8)
    settings = replace(SETTINGS, steps=2, check_every=2)
    with pytest.raises(UserError, match="No sign is in view"):
        searched(fake_detector(), away, threat, settings=settings)
    problem = make_problem(fake_detector(), away, threat, world=ROAD, settings=settings, seed=3)
    theta = problem.init(restart=0).requires_grad_()
    loss = problem.landscape(0, torch.zeros(1, dtype=torch.bool)).loss(theta)
    assert loss.tolist() == [0.0], "a step without a case pulls nowhere"


def test_a_poster_on_a_wall_becomes_a_sign() -> None:
    target, scenes = fake_detector(), load_scenes("staged:a4", street_px=SIZE)
    threat = load_threat("poster:1", scenes, seed=0)
    settings = replace(SETTINGS, goal="create:stop", batch=1, views=4)
    problem = make_problem(target, scenes, threat, world=ROAD, settings=settings, seed=0)
    found = searched(target, scenes, threat, settings=settings, seed=0)
    start, end = (problem.judge(theta)[0].float().mean() for theta in (problem.init(restart=0), found.artwork.rgb))
    assert start < 0.3
    assert end > 0.8
    how: dict[str, Any] = {"world": ROAD, "goal": "create:stop", "views": 8, "seed": 5, "worlds": ()}
    metrics = evaluate(target, scenes, found.artwork, threat=threat, **how).metrics
    assert metrics["attacked"]["n"] >= 6
    assert metrics["attacked"]["rate"] > 0.8
    assert metrics["controls"]["grey"]["rate"] < 0.2
    assert metrics["detection"]["false_boxes"] is not None


@pytest.mark.parametrize(
    ("threat", "change", "sentence"),
    [
        ("linf:8/255", {}, "use a patch or stickers"),
        ("patch:30%", {"per_scene": True}, "one printed artwork for all photographs"),
        ("patch:30%", {"objective": "cross-entropy"}, "use margin or margin-mean"),
        ("patch:30%", {"goal": "class:stop"}, "use hide, create:NAME or relabel:NAME"),
        ("patch:30%", {"goal": "relabel:stop"}, "of class 'stop' already"),
    ],
)
def test_what_a_detector_is_not_attacked_by(threat: str, change: dict[str, Any], sentence: str) -> None:
    scenes = painted(*TRAIN)
    settings = replace(SETTINGS, **change)

    def tried() -> None:
        made = load_threat(threat, scenes, seed=0)
        make_problem(fake_detector(), scenes, made, world=ROAD, settings=settings, seed=0)

    with pytest.raises(UserError, match=sentence):
        tried()


def test_one_artwork_is_for_one_class() -> None:
    scenes = painted(*TRAIN)
    with pytest.raises(UserError, match="these photographs show stop, trafficlight: choose with --classes"):
        load_threat("patch:30%", replace(scenes, worn=None), seed=0)


# --- the command line -------------------------------------------------------------------------------------------------

TOY = """
from physadv.targets.fake import COLOURED, FakeDetector


class Toy(FakeDetector):
    task, input_size, classes = "detection", 64, COLOURED


def make():
    return Toy(3, (8, 12, 18, 27, 40), 0.2)
"""
QUICK = "--steps 3 --check-every 3 --held-out 4 --batch 2 --views 1 --step-size 0.2 --resolution-px 8"
ATTACK = f"attack --target python:toy.py:make --scenes coco:instances.json --threat patch:30% {QUICK}"
Ended = tuple[int, str, str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[[str], Ended]:
    """Runs a command line in a folder with a toy detector and four photographs; returns exit code, out and err."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(physadv.cli.out, "width", 500)
    (tmp_path / "toy.py").write_text(TOY)
    photographs(tmp_path)

    def call(line: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["physadv", *line.split()])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            physadv.cli.main()
        code = ended.value.code
        return (code if isinstance(code, int) else 0, *capsys.readouterr())

    return call


def photographs(folder: Path) -> None:
    """96 x 64 px: two with a stop sign, one with a traffic light as well, one with nothing."""
    (folder / "images").mkdir()
    signs = [[("stop", 12, 12)], [("stop", 48, 24), ("trafficlight", 12, 6)], [], [("stop", 60, 6), ("stop", 6, 30)]]
    annotations = []
    for number, some in enumerate(signs):
        pixels = np.full((64, 96, 3), 128, np.uint8)
        for name, left, top in some:
            pixels[top : top + 27, left : left + 27] = (255, 40, 40) if name == "stop" else (40, 230, 40)
            category = {"stop": 1, "trafficlight": 2}[name]
            annotations.append({"image_id": number, "category_id": category, "bbox": [left, top, 27, 27]})
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
    images = [{"id": row, "file_name": f"{row}.png", "width": 96, "height": 64} for row in range(len(signs))]
    categories = [{"id": 1, "name": "stop"}, {"id": 2, "name": "traffic light"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))


def test_the_command_line_from_attack_to_report(run: Callable[[str], Ended]) -> None:
    code, out, err = run(f"{ATTACK} --classes stop --goal hide --judge-views 3 --approaches 2 --out found")
    assert code == 0, err
    metrics = json.loads(Path("found/metrics.json").read_text())
    attacked = metrics["attacked"]
    assert f"({attacked['k']}/{attacked['n']})" in out
    assert metrics["accuracy"]["n"] == 4 * 3, "three views of four worn signs"
    assert set(metrics["detection"]["classes"]) == {"stop", "trafficlight"}
    assert metrics["run"]["scenes"]["classes"] == ["stop"]
    assert len(metrics["approach"]["approaches"]) == 2
    page = Path("found/report.html").read_text()
    assert "stop" in page
    assert "trafficlight" in page
    assert "http" not in page.replace("http://www.w3.org", ""), "self-contained"
    assert {path.name for path in Path("found").iterdir()} >= {"art.png", "alpha.png", "artwork.json"}

    judged = "evaluate --target python:toy.py:make --scenes coco:instances.json --classes stop --approaches 0"
    code, out, err = run(f"{judged} --artwork found --goal hide --judge-views 2 --out judged --threshold 0.5")
    assert code == 0, err
    again = json.loads(Path("judged/metrics.json").read_text())
    assert again["accuracy"]["n"] == 8
    assert again["detection"]["threshold"] == 0.5
    assert "approach" not in again
    assert Path("judged/report.html").is_file()
    code, out, err = run(f"{judged} --judge-views 1 --out clean --world digital")
    assert code == 0, err
    assert "attacked" not in json.loads(Path("clean/metrics.json").read_text())


HIDE = "--classes stop --goal hide"
CLASSIFIER = "attack --target builtin:gtsrb"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (f"{CLASSIFIER} --goal hide", "The goal 'hide' needs a detector"),
        (f"{CLASSIFIER} --threshold 0.5", "--threshold is for detectors"),
        (f"{CLASSIFIER} --scenes coco:instances.json --classes stop --goal untargeted", "single signs"),
        (f"{ATTACK} {HIDE} --threat linf:8/255", "use a patch or stickers"),
        (f"{ATTACK} {HIDE} --defence jpeg:75", "--defence is for classifiers"),
        (f"{ATTACK} {HIDE} --fit staged:all", "--defence is for classifiers"),
        (f"{ATTACK} {HIDE} --closest l2", "--closest needs a classifier"),
        (f"{ATTACK} {HIDE} --threshold 1.5", "threshold"),
        (f"{ATTACK} {HIDE} --objective cross-entropy", "use margin or margin-mean"),
        (f"{ATTACK} --goal hide --classes yield", "no signs of class yield"),
        (f"{ATTACK} --goal hide", "choose with --classes"),
        (f"{ATTACK} --classes stop --goal create:zebra", "knows no class 'zebra'"),
        (f"{ATTACK} --classes stop --goal relabel:stop", "of class 'stop' already"),
        (f"{ATTACK} --classes stop --goal class:stop", "use hide, create:NAME or relabel:NAME"),
        (f"{ATTACK} {HIDE} --scenes coco:none.json", "none.json"),
        ("audit --target python:toy.py:make --scenes staged:stop", "audit needs a classifier"),
        ("scan --target python:toy.py:make --scenes staged:stop", "scan needs a classifier"),
    ],
)
def test_bad_options_get_one_sentence(run: Callable[[str], Ended], line: str, sentence: str) -> None:
    code, out, err = run(f"{line} --out out")
    assert code == 2, out
    assert sentence in err
    assert err.strip().count("\n") == 0
    assert not Path("out").exists()


def test_the_shipped_double_is_small_and_red() -> None:
    target = fake_detector(classes=COLOURED[:2])
    assert (target.classes, target.frame.whole) == (("stop", "trafficlight"), True)
    assert target.detect(painted(*FIVE).images).scores.shape[0] == 5
    assert fake_detector(least=9.0).detect(painted(*FIVE).images).scores.numel() == 0
