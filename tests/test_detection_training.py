"""Training of detectors: boxes move with their signs, who answers for what, the loss, the loop, the command."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from physadv import detection_training
from physadv.augment import DISTRACTOR, Augmentation, Cutout, Labelled, augmented, cut
from physadv.config import TrainOptions
from physadv.console import Console
from physadv.detection_data import best_threshold, classes_of, drawn, found, hold_out, label_of, labelled
from physadv.detection_training import DetectorRecipe, assign, detection_loss, eligible, giou, train_detector
from physadv.errors import UserError
from physadv.precision import average_precision
from physadv.runs import run_train
from physadv.runs.train_detector import mean_ap
from physadv.scenes.faces import faces_for
from physadv.scenes.street import Annotation, Street, coco
from physadv.targets import Detector, build
from physadv.targets.boxes import Detections, Seen, iou
from physadv.targets.models import read_target

ASSETS = Path(__file__).parents[1] / "assets"
RED, BLUE = (230, 20, 30), (20, 40, 230)


def picture(
    *signs: tuple[tuple[int, int, int, int], tuple[int, int, int], int], size: tuple[int, int] = (200, 150)
) -> Labelled:
    """Plain rectangles before grey noise; size: width, height."""
    image = np.random.default_rng(size[0]).integers(90, 130, (size[1], size[0], 1)).repeat(3, 2).astype(np.uint8)
    for (left, top, right, bottom), colour, _ in signs:
        image[top:bottom, left:right] = colour
    boxes = np.array([box for box, _, _ in signs], np.float32).reshape(-1, 4)
    return Labelled(image, boxes, np.array([label for _, _, label in signs], np.int64))


def coloured(one: Labelled) -> np.ndarray | None:
    """The box of the pixels that have a colour; None where there are hardly any."""
    image = one.image.astype(int)
    rows, columns = np.nonzero(image.max(2) - image.min(2) > 70)
    return None if len(rows) < 30 else np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


# --- augmentation


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_boxes_move_with_what_is_in_them(mosaic: float) -> None:
    others = [picture(size=(160 + 8 * row, 200)) for row in range(20)]
    photographs = [picture(((60, 40, 120, 90), RED, 1)), *others]
    how, overlaps = Augmentation(160, mosaic=mosaic, pasted=0), []
    for seed in range(60):
        seen = augmented(photographs, 0, [], how, seed=seed)
        assert seen.image.shape == (160, 160, 3)
        assert seen.image.dtype == np.uint8
        truth = coloured(seen)
        if truth is not None and len(seen.boxes) == 1:
            assert seen.labels.tolist() == [1]
            overlaps.append(iou(torch.from_numpy(seen.boxes), torch.from_numpy(truth).float()[None]).item())
    assert len(overlaps) > 30, "most windows lie on the sign"
    assert np.median(overlaps) > 0.9


def test_the_seed_decides_every_pixel() -> None:
    photographs = [picture(((60, 40, 120, 90), RED, 1)), picture(((20, 20, 80, 90), BLUE, 0))]
    cutouts = [one for photograph in photographs for one in cut(photograph)]
    first, again, other = (augmented(photographs, 0, cutouts, Augmentation(128), seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.boxes, again.boxes)
    assert not np.array_equal(first.image, other.image)


def test_photographs_without_signs_can_be_augmented() -> None:
    for seed in range(5):
        seen = augmented([picture()], 0, [], Augmentation(96), seed=seed)
        assert seen.boxes.shape == (0, 4)
        assert seen.labels.shape == (0,)


@pytest.mark.parametrize(("label", "boxes"), [(3, True), (DISTRACTOR, False)])
def test_a_distractor_is_pasted_without_a_box(label: int, boxes: bool) -> None:
    sign = Cutout(np.full((40, 40, 4), (*RED, 255), np.uint8), label)
    how = Augmentation(160, mosaic=0.0, pasted=4)
    seen = [augmented([picture()], 0, [sign], how, seed=seed) for seed in range(20)]
    assert sum(coloured(one) is not None for one in seen) > 10
    assert any(len(one.boxes) for one in seen) == boxes
    assert {int(one) for photograph in seen for one in photograph.labels} <= {label}


def test_nothing_is_pasted_over_a_sign() -> None:
    whole = picture(((0, 0, 160, 160), BLUE, 0), size=(160, 160))
    how = Augmentation(160, mosaic=0.0, pasted=4, zoom=(1.0, 1.0001))
    sign = Cutout(np.full((40, 40, 4), (*RED, 255), np.uint8), 1)
    assert {int(one) for seed in range(10) for one in augmented([whole], 0, [sign], how, seed=seed).labels} == {0}


def test_cut_outs_fade_in_and_leave_out_what_is_small() -> None:
    (sign,) = cut(picture(((60, 40, 120, 90), RED, 1), ((10, 10, 22, 22), BLUE, 0)))
    assert sign.label == 1
    assert sign.image.shape == (50, 60, 4)
    assert sign.image[25, 30].tolist() == [*RED, 255]
    assert sign.image[0, 30, 3] < 80 < sign.image[3, 30, 3]


# --- data


def street(path: Path, group: str, *signs: Annotation, size_px: tuple[int, int] = (200, 150)) -> Street:
    return Street(path, path.stem, group, size_px, signs)


def test_photographs_of_a_group_stay_together() -> None:
    streets = [street(Path(f"{row}.jpg"), f"place {row // 3}") for row in range(60)]
    trained, held = hold_out(streets, share=0.2, seed=0)
    assert len(trained) == 48
    assert not {one.group for one in trained} & {one.group for one in held}
    assert hold_out(streets, share=0.2, seed=0) == (trained, held)
    assert hold_out(streets, share=0.2, seed=1) != (trained, held)
    with pytest.raises(UserError, match="one group"):
        hold_out(streets[:3], share=0.2, seed=0)


def test_large_photographs_are_made_smaller_with_their_boxes(tmp_path: Path) -> None:
    Image.new("RGB", (800, 400), RED).save(tmp_path / "large.png")
    one = street(tmp_path / "large.png", "a", Annotation("stop", (80, 40, 400, 200)), size_px=(800, 400))
    seen = labelled(one, ("stop",), longest_px=400)
    assert seen.image.shape == (200, 400, 3)
    assert seen.boxes.tolist() == [[40, 20, 200, 100]]


@pytest.mark.parametrize(
    ("face", "label"),
    [("stop", 2), ("speed-limit-30", 1), ("end-of-speed-limit-80", DISTRACTOR), ("yield", DISTRACTOR)],
)
def test_drawn_faces_are_of_a_class_by_name(face: str, label: int) -> None:
    assert label_of(face, ("crosswalk", "speedlimit", "stop", "trafficlight")) == label


def test_drawn_faces_lose_their_margin() -> None:
    (stop,) = drawn(faces_for(["stop"], size_px=256), ("stop",))
    assert max(stop.image.shape[:2]) == 128
    alpha = stop.image[..., 3]
    assert all(edge.any() for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]))
    assert alpha[0, 0] == 0, "an octagon has no corner there"


def test_photographs_without_a_box_teach_nothing() -> None:
    with pytest.raises(UserError, match="no box"):
        classes_of([street(Path("a.jpg"), "a")])


def test_the_threshold_has_the_best_f1() -> None:
    box = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10], [80, 0, 90, 10]])
    scores = torch.tensor([[0.9, 0.8, 0.6, 0.4, 0.2]])
    detections = Detections(box[None], scores, torch.zeros(1, 5, dtype=torch.long))
    signs = box[[0, 1, 3]]  # the third and the fifth are false
    none = torch.zeros(3, dtype=torch.long)
    seen = Seen(none, none, signs, none.bool())
    # F1 after 1..5 detections: 2/4, 4/5, 4/6, 6/7, 6/8
    assert best_threshold(detections, seen, classes=1) == pytest.approx(0.3)


# --- assignment and loss


def test_points_inside_a_sign_or_close_to_a_small_one_may_answer() -> None:
    places = torch.tensor([[4.0, 4, 8], [12, 4, 8], [60, 60, 32], [20, 20, 32], [50, 20, 8]])
    signs = torch.tensor([[0.0, 0, 6, 6], [10, 10, 60, 30]])
    expected = [[True, False, False, True, False], [False, False, False, True, True]]
    assert eligible(places, signs).tolist() == expected


def test_the_best_point_should_say_its_iou() -> None:
    sign, label = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([1])
    boxes = torch.tensor([[0.0, 0, 10, 8], [0, 0, 10, 5], [0, 0, 10, 10], [0, 0, 10, 9]])
    scores = torch.tensor([[0.9, 0.5], [0.9, 0.5], [0.9, 0.5], [0.9, 0.25]])
    given = assign(boxes, scores, torch.tensor([[True, True, False, True]]), sign, label)
    assert given.owner.tolist() == [0, 0, -1, 0]
    metric = [0.5 * 0.8**6, 0.5 * 0.5**6, 0.25 * 0.9**6]
    expected = [0.9 * one / max(metric) for one in metric]
    torch.testing.assert_close(given.quality[[0, 1, 3]], torch.tensor(expected))
    assert given.quality[2] == 0


def test_ten_points_answer_for_a_sign_and_each_for_one_only() -> None:
    left = torch.rand(40, 1, generator=torch.Generator().manual_seed(0))
    boxes = torch.cat([left, left, 10 + left, 10 + left], 1)
    boxes[20:] += 5
    signs = torch.tensor([[0.0, 0, 10, 10], [5, 5, 15, 15]])
    given = assign(boxes, torch.full((40, 1), 0.5), torch.ones(2, 40, dtype=torch.bool), signs, torch.tensor([0, 0]))
    assert [int((given.owner == row).sum()) for row in (0, 1)] == [10, 10]
    assert (given.owner[:20] <= 0).all()
    assert set(given.owner[20:].tolist()) == {-1, 1}


def test_a_point_between_two_signs_answers_for_the_closer_one() -> None:
    signs = torch.tensor([[0.0, 0, 10, 10], [2, 0, 12, 10]])
    box = torch.tensor([[1.5, 0, 11.5, 10]])
    given = assign(box, torch.full((1, 1), 0.5), torch.ones(2, 1, dtype=torch.bool), signs, torch.tensor([0, 0]))
    assert given.owner.tolist() == [1]
    torch.testing.assert_close(given.quality, torch.tensor([9.5 / 10.5]))


def test_a_sign_that_no_box_meets_has_no_point() -> None:
    far = torch.tensor([[50.0, 50, 60, 60]])
    given = assign(
        far,
        torch.full((1, 1), 0.5),
        torch.ones(1, 1, dtype=torch.bool),
        torch.tensor([[0.0, 0, 5, 5]]),
        torch.tensor([0]),
    )
    assert given.owner.tolist() == [-1]
    assert torch.isfinite(given.quality).all()


def test_giou_by_hand() -> None:
    one = torch.tensor([[0.0, 0, 2, 2]]).expand(4, 4)
    other = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [4, 0, 6, 2], [1, 1, 3, 3]])
    torch.testing.assert_close(giou(one, other), torch.tensor([1.0, 1 / 3, -1 / 3, 1 / 7 - 2 / 9]))


def test_the_loss_by_hand() -> None:
    places = torch.tensor([[4.0, 4, 8], [12, 4, 8]])
    truth = [(torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([0]))]
    boxes = torch.tensor([[[0.0, 0, 8, 6], [8, 0, 16, 8]]])
    logits = torch.tensor([[[2.0], [-1.0]]])
    here, there = logits.sigmoid()[0, :, 0].tolist()
    asked = 0.75  # the IoU; GIoU is the same, since the box lies in the sign
    entropy = -asked * (asked * math.log(here) + (1 - asked) * math.log(1 - here))
    silence = -0.75 * there**2 * math.log(1 - there)
    expected = (entropy + silence + 2 * asked * (1 - 0.75)) / 1  # by the scores asked for, 1 at least
    assert detection_loss(boxes, logits, places, truth).item() == pytest.approx(expected)


def test_the_loss_falls_with_better_boxes_and_scores() -> None:
    places = torch.tensor([[4.0, 4, 8], [12, 4, 8]])
    truth = [(torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([0]))]

    def loss(box: list[float], here: float, there: float) -> float:
        boxes = torch.tensor([[box, [8, 0, 16, 8]]]).float()
        return detection_loss(boxes, torch.tensor([[[float(here)], [float(there)]]]), places, truth).item()

    good = loss([0, 0, 8, 8], 4, -4)
    assert good < loss([0, 0, 8, 6], 4, -4)
    assert good < loss([0, 0, 8, 8], 0, -4)
    assert good < loss([0, 0, 8, 8], 4, 0)


def test_a_batch_without_signs_only_asks_for_silence() -> None:
    logits = torch.zeros(2, 3, 2, requires_grad=True)
    none = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    loss = detection_loss(torch.zeros(2, 3, 4), logits, torch.zeros(3, 3), [none, none])
    loss.backward()
    assert torch.isfinite(loss)
    assert (logits.grad > 0).all()


def test_rare_classes_come_more_often() -> None:
    photographs = [picture(((60, 40, 120, 90), RED, 0))] * 9 + [picture(((60, 40, 120, 90), RED, 1))]
    turns = detection_training.repeats(photographs, 2, common=0.4)
    assert turns[:9].tolist() == [1.0] * 9
    assert turns[9] == pytest.approx(2.0)  # sqrt(0.4 / 0.1)


# --- the loop


def test_every_epoch_has_its_own_order(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    monkeypatch.setattr(detection_training, "augmented", lambda all_, row, *rest, seed: rows.append(row) or all_[row])
    photographs, recipe = [picture(((60, 40, 120, 90), RED, 0))] * 50, DetectorRecipe(batch=10)
    for epoch in (0, 1, 1):
        list(detection_training._batches(photographs, [], torch.ones(50), recipe, 160, epoch, 5, 0))
    assert rows[:50] != rows[50:100] == rows[100:]


@pytest.fixture(scope="module")
def photographs() -> list[Labelled]:
    """Red and blue squares, somewhere."""
    random, found = np.random.default_rng(1), []
    for row in range(8):
        side = int(random.integers(40, 90))
        left, top = (int(random.integers(0, 300 - side)) for _ in range(2))
        colour = (RED, BLUE)[row % 2]
        found.append(picture(((left, top, left + side, top + side), colour, row % 2), size=(320, 300)))
    return found


def trained(
    photographs: list[Labelled], *, seed: int = 0, checkpoint: Path | None = None, check=None, **recipe
) -> Detector:
    return train_detector(
        "signs-det",
        photographs,
        classes=("red", "blue"),
        drawn=[],
        recipe=DetectorRecipe(**({"epochs": 2, "batch": 4} | recipe)),
        seed=seed,
        device="cpu",
        check=check or (lambda detector: 0.0),
        report=lambda epoch: None,
        checkpoint=checkpoint,
    )


def test_the_seed_decides_every_bit_of_the_weights(photographs: list[Labelled]) -> None:
    hashes = []
    with torch.random.fork_rng():
        for seed, elsewhere in ((0, 1), (0, 2), (1, 2)):
            torch.manual_seed(elsewhere)
            before = torch.get_rng_state()
            hashes.append(trained(photographs, seed=seed, epochs=1).weights_hash)
            assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    assert hashes[0] == hashes[1] != hashes[2]


class Killed(Exception):
    pass


def test_a_killed_training_goes_on_to_the_same_bits(
    photographs: list[Labelled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(photographs, epochs=3)
    loss_of, steps = detection_training.loss_of, []

    def dies(*args) -> torch.Tensor:
        steps.append(1)
        if len(steps) == 4:
            raise Killed
        return loss_of(*args)

    monkeypatch.setattr(detection_training, "loss_of", dies)
    with pytest.raises(Killed):
        trained(photographs, epochs=3, checkpoint=tmp_path / "checkpoint.safetensors")
    resumed = trained(photographs, epochs=3, checkpoint=tmp_path / "checkpoint.safetensors")
    assert len(steps) == 4 + 4, "an epoch of two steps was kept"
    assert resumed.weights_hash == whole.weights_hash
    with pytest.raises(UserError, match="other options"):
        trained(photographs, epochs=4, checkpoint=tmp_path / "checkpoint.safetensors")


def test_a_classifier_is_no_detector(photographs: list[Labelled]) -> None:
    with pytest.raises(UserError, match="no detector"):
        detection_training.start("small-cnn", classes=2, recipe=DetectorRecipe(), device=torch.device("cpu"), seed=0)


@pytest.mark.slow
def test_it_learns_to_find_squares(photographs: list[Labelled], tmp_path: Path) -> None:
    streets = write(tmp_path, photographs)
    merits: list[float] = []

    def check(detector: Detector) -> float:
        merits.append(mean_ap(average_precision(*found(detector, streets), classes=[0, 1])))
        return merits[-1]

    trained(photographs, epochs=30, ema=0.9, check=check)
    assert merits[-1] > 0.5


# --- the command


def write(folder: Path, photographs: list[Labelled], classes: tuple[str, ...] = ("red", "blue")) -> list[Street]:
    """A COCO data set of them."""
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": classes[0]}, {"id": 2, "name": classes[1]}],
    }
    for row, one in enumerate(photographs):
        Image.fromarray(one.image).save(folder / f"{row}.png")
        content["images"].append({"id": row, "file_name": f"{row}.png", "width": 320, "height": 300})
        for (left, top, right, bottom), label in zip(one.boxes.tolist(), one.labels.tolist(), strict=True):
            sign = {"image_id": row, "category_id": label + 1, "bbox": [left, top, right - left, bottom - top]}
            content["annotations"].append(sign | {"id": len(content["annotations"])})
    (folder / "instances.json").write_text(json.dumps(content))
    return coco(folder / "instances.json")


def train(**options) -> dict:
    with Console() as console:
        return run_train(TrainOptions(**options), console=console)


def test_the_command_trains_judges_and_keeps_a_detector(photographs: list[Labelled], tmp_path: Path) -> None:
    write(tmp_path, photographs, ("stop", "trafficlight"))
    spec, out = f"coco:{tmp_path / 'instances.json'}", tmp_path / "out"
    told = train(scenes=spec, judge=spec, arch="signs-det", epochs=1, batch=4, staged="staged:stop,yield", out=out)
    assert told["photographs"]["classes"].keys() == {"stop", "trafficlight"}
    assert told["photographs"]["images"] == 8
    assert told["photographs"]["mean"]["signs"] == 8
    record = json.loads((out / "metrics.json").read_text())
    assert record["photographs"] == {"trained": 7, "held out": 1}
    assert record["staged"] == {"stop": "stop", "yield": None}
    detector, kept = read_target(out, name="mine")
    assert kept == record
    assert (detector.classes, detector.threshold) == (("stop", "trafficlight"), record["threshold"])
    assert (detector.frame.size_px, detector.frame.whole) == (320, True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"arch": "small-cnn"}, "cannot be trained on"),
        ({"arch": "signs-det", "scenes": "staged:stop"}, "cannot be trained on"),
        ({"arch": "signs-det", "world": "night"}, "--world does nothing"),
        ({"arch": "signs-det", "judge": "gtsrb:there"}, "has no boxes"),
        (
            {"arch": "small-cnn", "scenes": "staged:stop", "resume": True},
            "--resume continues the training of a detector",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    photographs: list[Labelled], tmp_path: Path, options: dict, said: str
) -> None:
    write(tmp_path, photographs)
    with pytest.raises(UserError, match=said):
        train(**({"scenes": f"coco:{tmp_path / 'instances.json'}", "out": tmp_path / "out"} | options))
    assert not (tmp_path / "out").exists()


# --- what is shipped


@pytest.fixture(scope="module")
def shipped() -> Detector:
    detector, _ = read_target(ASSETS / "weights" / "signs-det.safetensors", name="builtin:signs-det")
    assert isinstance(detector, Detector)
    return detector


def test_the_shipped_detector_is_what_the_command_makes(shipped: Detector) -> None:
    assert shipped.classes == ("crosswalk", "speedlimit", "stop", "trafficlight")
    new = build("signs-det", classes=4, seed=0).state_dict()
    assert {name: one.shape for name, one in shipped.module.state_dict().items()} == {
        name: one.shape for name, one in new.items()
    }
    assert (ASSETS / "weights" / "signs-det.safetensors").stat().st_size <= 5e6


@pytest.mark.slow
def test_the_shipped_detector_is_worth_attacking(shipped: Detector, data: Path) -> None:
    streets = coco(data / "roadsign" / "test" / "instances.json")
    points = average_precision(*found(shipped, streets), classes=range(4))
    assert points[shipped.classes.index("stop")] >= 0.9
    assert sum(points.values()) / 4 >= 0.75
