"""Detectors as targets: the real one as measured, any module or program; what does not fit is refused with a reason."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from physadv.errors import UserError
from physadv.files import image_tensor, open_image
from physadv.targets.adapters.columns import LAYOUTS, Layout, described
from physadv.targets.adapters.names import COCO_80, slug, slugs
from physadv.targets.adapters.torchvision import OWN_BOXES, own_boxes
from physadv.targets.base import Classifier, Frame, frozen, weights_hash
from physadv.targets.boxes import Raw
from physadv.targets.detector import Detector, check_boxes, letterbox, suppress
from physadv.targets.models import build, save_target
from physadv.targets.spec import load_target

YOLOX = "models/yolox_nano_coco_416.pt2"


def images(count: int, height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(count))


class Cells(nn.Module):
    """One box per cell of 8 px, of two classes: cx cy w h, objectness and scores in the columns of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.head = nn.Conv2d(3, 7, 8, stride=8)

    def forward(self, images: Tensor) -> Tensor:
        table = self.head(images).flatten(2).transpose(1, 2)
        return torch.cat([16 + 8 * table[..., :2], 8 * table[..., 2:4].exp(), table[..., 4:].sigmoid()], -1)


class Corners(Cells):
    """The same answer as (boxes xyxy, scores)."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        centre, size, objectness, scores = super().forward(images).split((2, 2, 1, 2), -1)
        return torch.cat([centre - size / 2, centre + size / 2], -1), objectness * scores


class Sideways(Cells):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).transpose(1, 2)


def export(module: nn.Module, path: Path, **said: object) -> str:
    """Saves the program for up to 4 images of 32 px, and the json beside it; returns the spec."""
    batch = {0: torch.export.Dim("b", min=1, max=4)}
    torch.export.save(torch.export.export(module.eval(), (images(3),), dynamic_shapes=(batch,)), path)
    path.with_suffix(".json").write_text(json.dumps({"task": "detection", **said}))
    return f"export:{path}"


# --- the real one


def test_the_real_detector_is_loaded_as_its_json_says(data: Path) -> None:
    detector = load_target(f"export:{data / YOLOX}")
    assert isinstance(detector, Detector)
    assert detector.frame == Frame(416, whole=True, pad=114 / 255)
    assert detector.classes == COCO_80
    assert (detector.classes[9], detector.classes[11]) == ("traffic-light", "stop-sign")
    assert detector.nms_iou == 0.5
    assert detector.differentiable
    photograph = image_tensor(open_image(data / "stop_rp2" / "photos_256" / "1.png"))[None]
    found = detector.detect(photograph)
    assert detector.classes[int(found.labels[0, 0])] == "stop-sign"
    assert found.scores[0, 0] > 0.5


def test_the_real_detector_gives_gradients_and_stays_as_it_is(data: Path) -> None:
    detector = load_target(f"export:{data / YOLOX}")
    before = weights_hash(detector.module)
    inputs = images(2, 60, 100).requires_grad_()
    with frozen(detector.module):
        detector(inputs).scores[..., 11].amax(1).sum().backward()
    assert inputs.grad is not None
    assert (inputs.grad.abs().sum((1, 2, 3)) > 0).all()
    assert weights_hash(detector.module) == before


@pytest.mark.slow
def test_the_real_detector_has_the_precision_that_was_measured_elsewhere(data: Path) -> None:
    """AP50 of 0.972 (stop) and 0.853 (traffic light) on roadsign/test, with another letterbox and another NMS."""
    reference = pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed: it counts the AP")
    folder = data / "roadsign" / "test"
    truth = json.loads((folder / "instances.json").read_text())
    detector = load_target(f"export:{data / YOLOX}")
    named = {category["name"]: category["id"] for category in truth["categories"]}
    rows = {9: named["trafficlight"], 11: named["stop"]}
    found: list[dict[str, object]] = []
    for image in truth["images"]:
        pixels = image_tensor(open_image(folder / "images" / Path(image["file_name"]).name))[None]
        with frozen(detector.module), torch.no_grad():
            answer = detector.detect(pixels)
        for box, score, label in zip(answer.boxes[0].tolist(), answer.scores[0], answer.labels[0], strict=True):
            if int(label) in rows and score >= 0.05:
                sides = [box[2] - box[0], box[3] - box[1]]
                entry = {"image_id": image["id"], "category_id": rows[int(label)], "score": float(score)}
                found.append(entry | {"bbox": [*box[:2], *sides]})
    counted = reference.COCO(truth)
    judge = reference.COCOeval_faster(counted, counted.loadRes(found), "bbox")
    judge.params.catIds = [rows[11], rows[9]]
    judge.evaluate()
    judge.accumulate()
    stop, light = judge.eval["precision"][0, :, :, 0, -1].mean(0)
    assert stop == pytest.approx(0.972, abs=0.01)
    assert light == pytest.approx(0.853, abs=0.01)


# --- letterbox, NMS


def test_a_box_comes_back_in_the_pixels_of_the_image() -> None:
    class Bright(nn.Module):
        """One box round what is brighter than the rest."""

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            rows, columns = (images.amax((1, axis)) > 0.5 for axis in (3, 2))
            ends = [(column.nonzero().min(), column.nonzero().max() + 1) for column in (columns[0], rows[0])]
            box = torch.stack([ends[0][0], ends[1][0], ends[0][1], ends[1][1]]).float()
            return box[None, None], torch.ones(1, 1, 1)

    detector = Detector.of(Bright(), classes=("a",), frame=Frame(64, whole=True, pad=0.5), name="bright")
    for height, width in ((32, 64), (128, 64), (64, 64), (96, 192)):
        image = torch.zeros(1, 3, height, width)
        image[..., height // 4 : height // 2, width // 4 : width // 2] = 1
        expected = torch.tensor([width / 4, height / 4, width / 2, height / 2])
        torch.testing.assert_close(detector(image).boxes[0, 0], expected)


def test_the_letterbox_pads_below_and_right() -> None:
    boxed, scale = letterbox(torch.ones(1, 3, 20, 40), Frame(10, whole=True, pad=0.25))
    assert (boxed.shape, scale) == ((1, 3, 10, 10), 0.25)
    torch.testing.assert_close(boxed[..., :5, :], torch.ones(1, 3, 5, 10))
    assert boxed[..., 5:, :].eq(0.25).all()


def test_of_equal_scores_the_first_is_kept_and_boxes_of_no_area_are_none() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 9], [50, 50, 50, 60], [20, 20, 30, 30]])
    for repeat in (1, 40):
        raw = Raw(boxes.repeat(repeat, 1)[None], torch.full((1, 5 * repeat, 1), 0.5))
        found = suppress(raw, 0.5)
        assert torch.equal(found.boxes[0], boxes[[0, 4]])


# --- python:


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., str]:
    """Writes a detector whose forward and attributes are given; returns its spec."""

    def write(answer: str = "boxes, scores", **attributes: object) -> str:
        said = {"task": "detection", "input_size": 32} | attributes
        lines = "\n".join(f"    {key} = {value!r}" for key, value in said.items())
        (tmp_path / "mine.py").write_text(
            f"import torch\nclass Net(torch.nn.Module):\n{lines}\n    def forward(self, images):\n"
            "        n, side = len(images), images.shape[-1]\n"
            "        boxes = images.new_tensor([[0, 0, side, side], [0, 0, side / 2, side / 2]]).repeat(n, 1, 1)\n"
            "        scores = torch.stack([images.mean((1, 2, 3)), images.amax((1, 2, 3))], 1)\n"
            "        scores = scores[..., None].repeat(1, 1, 3)\n"
            f"        return {answer}\n"
        )
        return f"python:{tmp_path / 'mine.py'}:Net"

    return write


def test_a_detector_of_ones_own_gets_defaults(python: Callable[..., str]) -> None:
    detector = load_target(python())
    assert isinstance(detector, Detector)
    assert detector.frame == Frame(32, whole=True, pad=114 / 255)
    assert detector.classes == ("class-0", "class-1", "class-2")
    assert (detector.threshold, detector.nms_iou) == (0.3, 0.5)
    raw = detector(images(2, 16, 24))
    torch.testing.assert_close(raw.boxes[1, 0], torch.tensor([0.0, 0, 24, 24]))


def test_a_detector_says_what_it_is(python: Callable[..., str]) -> None:
    said = {"input_size": 64, "classes": ["stop", "yield", "bend"], "pad": 0.25, "threshold": 0.6, "nms_iou": None}
    detector = load_target(python(**said))
    assert detector.frame == Frame(64, whole=True, pad=0.25)
    assert detector.classes == ("stop", "yield", "bend")
    assert (detector.threshold, detector.nms_iou) == (0.6, None)


def test_without_the_task_it_is_taken_for_a_classifier(python: Callable[..., str]) -> None:
    with pytest.raises(UserError, match="returns a tuple; it must return its logits"):
        load_target(python(task="classify"))
    assert isinstance(load_target(python("scores[:, 0]", task="classify", pad="same", threshold=None)), Classifier)


@pytest.mark.parametrize(
    ("answer", "attributes", "message"),
    [
        ("scores", {}, r"returns one torch.float32 tensor \(2, 2, 3\); a detector returns two"),
        ("[boxes, scores, scores]", {}, r"returns \(Tensor, Tensor, Tensor\)"),
        ("None", {}, "returns a NoneType"),
        ("boxes, scores.long()", {}, r"returns \(Tensor, Tensor\)"),
        ("boxes[:1], scores", {}, r"boxes \(1, 2, 4\) and scores \(2, 2, 3\)"),
        ("boxes[..., :3], scores", {}, r"boxes \(2, 2, 3\)"),
        ("boxes[:, :1], scores", {}, r"boxes \(2, 1, 4\)"),
        ("boxes, scores[..., :0]", {}, r"scores \(2, 2, 0\)"),
        ("boxes, scores[..., 0]", {}, r"scores \(2, 2\)"),
        ("boxes / 0, scores", {}, "NaN or infinite"),
        ("boxes, scores * float('nan')", {}, "NaN or infinite"),
        ("boxes, 2 * scores", {}, r"scores from 0.5 to 1.5; they must lie in \[0, 1\]"),
        ("boxes, scores - 0.5", {}, r"scores from -0.25"),
        ("boxes, scores @ boxes", {}, "fails on images of shape"),
        ("boxes, scores", {"classes": ["a", "b"]}, "scores of 3 classes but names 2"),
        ("boxes, scores", {"classes": ["a", "b", "a"]}, "names a class twice: a"),
        ("boxes, scores", {"classes": 3}, "list of names, one per class"),
        ("boxes, scores", {"classes": "coco"}, "scores of 3 classes but names 80"),
        ("boxes, scores", {"threshold": 0}, "threshold .* is 0"),
        ("boxes, scores", {"threshold": "low"}, "threshold .* must be a number"),
        ("boxes, scores", {"nms_iou": 2}, "nms_iou .* is 2"),
        ("boxes, scores", {"nms_iou": True}, "nms_iou .* must be a number"),
        ("boxes, scores", {"pad": 114}, "pad of .* not 114; 114/255 is common"),
        ("boxes, scores", {"input_size": 4}, "at least 8 px"),
        ("boxes, scores", {"input_size": 32.5}, "whole number"),
    ],
)
def test_what_is_no_detector_is_refused(
    python: Callable[..., str], answer: str, attributes: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_target(python(answer, **attributes))


def test_no_box_at_all_is_an_answer(python: Callable[..., str]) -> None:
    detector = load_target(python("boxes[:, :0], scores[:, :0]", classes=["a", "b", "c"]))
    assert isinstance(detector, Detector)
    assert check_boxes(detector).scores.shape == (2, 0, 3)
    assert detector.detect(images(2)).scores.shape == (2, 0)


# --- export:


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Cells(), {"layout": "cxcywh-obj-scores"}),
        (Sideways(), {"layout": "cxcywh-obj-scores", "classes": ["a", "b"]}),
        (Corners(), {"layout": "xyxy-scores"}),
        (Cells(), {"output": {"columns": "cx, cy, w, h (input px), objectness, 2 class scores; before NMS"}}),
    ],
)
@pytest.mark.parametrize("count", [1, 3, 9])
def test_an_exported_detector_answers_as_its_module(
    tmp_path: Path, module: nn.Module, said: dict[str, object], count: int
) -> None:
    detector = load_target(export(module, tmp_path / "mine.pt2", **said))
    assert isinstance(detector, Detector)
    assert detector.frame == Frame(32, whole=True, pad=114 / 255)
    inputs = images(count).requires_grad_()
    raw = detector(inputs)
    boxes, scores = Corners()(inputs)
    torch.testing.assert_close((raw.boxes, raw.scores), (boxes, scores))
    (grad,) = torch.autograd.grad(raw.scores.sum(), inputs)
    torch.testing.assert_close(grad, torch.autograd.grad(scores.sum(), inputs)[0])
    assert grad.abs().sum() > 0


def test_the_json_beside_a_program_says_the_rest(tmp_path: Path) -> None:
    said = {"classes": ["stop", "yield"], "pad": 0, "threshold": 0.4, "nms_iou": None, "layout": "xyxy-scores"}
    detector = load_target(export(Corners(), tmp_path / "mine.pt2", **said))
    assert isinstance(detector, Detector)
    assert (detector.classes, detector.frame.pad) == (("stop", "yield"), 0)
    assert (detector.threshold, detector.nms_iou) == (0.4, None)
    assert (
        detector.weights_hash
        == load_target(export(Corners(), tmp_path / "bare.pt2", layout="xyxy-scores")).weights_hash
    )


def test_an_exported_detector_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    class Three(Cells):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return tuple(super().forward(images).split((4, 1, 2), -1))

    for module, said, message in (
        (Cells(), {}, 'add "layout": one of xyxy-scores, xyxy-obj-scores, cxcywh-scores, cxcywh-obj-scores'),
        (Cells(), {"layout": "yolo"}, 'add "layout"'),
        (Cells(), {"output": "columns", "input": 3}, 'add "layout"'),
        (Three(), {"layout": "xyxy-scores"}, "returns 3 tensors"),
        (Cells(), {"layout": "cxcywh-obj-scores", "classes": "coco"}, "scores of 2 classes but names 80"),
        (Cells(), {"layout": "cxcywh-obj-scores", "classes": "all"}, "list of names"),
    ):
        with pytest.raises(UserError, match=message):
            load_target(export(module, tmp_path / "odd.pt2", **said))


def test_a_json_in_words_is_understood() -> None:
    words = {
        "input": {"resize": "pad with 0.5"},
        "output": {"columns": "x1, y1, x2, y2, 80 class scores"},
        "classes": "COCO-80 order",
    }
    said, layout = described({"task": "detection", **words}, "name")
    assert layout == Layout(corners=True, objectness=False, columns=84)
    assert (said["pad"], said["classes"]) == (0.5, "coco")
    said, layout = described({"task": "detection", **words, "layout": "cxcywh-scores", "pad": 0}, "name")
    assert (layout.corners, said["pad"], said["classes"]) == (False, 0, "COCO-80 order")
    assert all(layout.columns is None for layout in LAYOUTS.values())


# --- names, boxes per class


def test_names_become_slugs_of_their_own() -> None:
    assert len(set(COCO_80)) == 80
    assert all(slug(name) == name for name in COCO_80)
    assert slug("  Traffic Light (red)") == "traffic-light-red"
    assert slugs(["N/A", "stop", "N/A", "--", ""]) == ("n-a-0", "stop", "n-a-2", "class-3", "class-4")


@pytest.mark.parametrize("classes", [2, OWN_BOXES, OWN_BOXES + 10])
def test_a_proposal_keeps_a_box_for_each_of_its_surest_classes(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    boxes = torch.rand(3, classes, 4, generator=generator)
    scores = torch.rand(3, classes, generator=generator).requires_grad_()
    found, own = own_boxes(boxes, scores)
    most = min(classes, OWN_BOXES)
    assert own.shape == (3 * most, classes)
    torch.testing.assert_close(own.reshape(3, most, classes).sum(1), scores)
    assert ((own > 0).reshape(3, most, classes).sum(1) == 1).all()
    for row in range(3):
        surest = scores[row].argsort(descending=True)
        for label in surest[:most]:
            at = int(own.reshape(3, most, classes)[row, :, label].argmax())
            assert torch.equal(found.reshape(3, most, 4)[row, at], boxes[row, label])
        for label in surest[most:]:
            assert own.reshape(3, most, classes)[row, 0, label] == scores[row, label]
    (grad,) = torch.autograd.grad(own.sum(), scores)
    torch.testing.assert_close(grad, torch.ones_like(scores))


# --- shipped


def test_the_shipped_detector_is_read_from_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("physadv.targets.spec.ASSETS", tmp_path)
    with pytest.raises(UserError, match="weights of builtin:signs-det are missing"):
        load_target("builtin:signs-det")
    module, classes = build("signs-det", classes=2, seed=0), ("stop", "yield")
    made = Detector.of(module, classes=classes, frame=Frame(320, whole=True, pad=0.5), name="builtin:signs-det")
    save_target(tmp_path / "weights" / "signs-det.safetensors", replace(made, threshold=0.4), "signs-det", {})
    detector = load_target("builtin:signs-det")
    assert isinstance(detector, Detector)
    assert replace(detector, module=module) == replace(made, threshold=0.4)
    nn.init.constant_(module.scale, float("nan"))
    save_target(tmp_path / "weights" / "signs-det.safetensors", made, "signs-det", {})
    with pytest.raises(UserError, match="NaN"):
        load_target("builtin:signs-det")
