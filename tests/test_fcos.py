"""The shipped kind of detector: where its points are, what its boxes mean, and that gradients come through."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from physadv.errors import UserError
from physadv.targets import Detector, Frame, build, check_boxes, frozen
from physadv.targets.fcos import LARGEST, STRIDES_PX, SignsDet, points
from physadv.targets.models import read_classifier, read_target, save_target

CLASSES = ("crosswalk", "speedlimit", "stop", "trafficlight")
COUNTS = [(320 // stride) ** 2 for stride in STRIDES_PX]


@pytest.fixture
def module() -> SignsDet:
    return build("signs-det", classes=4, seed=0).eval()


@pytest.fixture
def detector(module: SignsDet) -> Detector:
    return Detector.of(module, classes=CLASSES, frame=Frame(320, whole=True, pad=114 / 255), name="signs")


def images(count: int, *, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 320, 320, generator=torch.Generator().manual_seed(seed))


def silenced(module: SignsDet, last: list[float]) -> SignsDet:
    """The same boxes, relative to its point, at every point."""
    nn.init.zeros_(module.regress[-1].weight)
    module.regress[-1].bias.data = torch.tensor(last, dtype=torch.float32)
    return module


def test_it_answers_at_every_point_of_three_grids(detector: Detector) -> None:
    raw = check_boxes(detector)
    assert raw.boxes.shape == (2, sum(COUNTS), 4)
    assert raw.scores.shape == (2, sum(COUNTS), 4)


def test_it_is_small(module: SignsDet, detector: Detector, tmp_path: Path) -> None:
    assert 0.9e6 < sum(one.numel() for one in module.parameters()) < 1.1e6
    assert save_target(tmp_path, detector, "signs-det", {}).stat().st_size <= 5e6


def test_points_are_the_centres_of_their_cells() -> None:
    found = points(2, 3, 8, like=torch.zeros(1))
    assert found.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]


def test_places_are_those_that_predict_uses(module: SignsDet) -> None:
    with torch.no_grad():
        boxes, _ = silenced(module, [0, 0, 0, 0]).predict(images(1))
    places = module.places(images(1))
    assert torch.equal((boxes[0, :, :2] + boxes[0, :, 2:]) / 2, places[:, :2])
    assert [int((places[:, 2] == stride).sum()) for stride in STRIDES_PX] == COUNTS
    assert places[COUNTS[0]].tolist() == [8, 8, 16]


def test_boxes_are_offset_and_size_in_strides(module: SignsDet) -> None:
    with torch.no_grad():
        boxes, _ = silenced(module, [0.5, -1.0, 0.0, float(torch.tensor(2.0).log())]).predict(images(1))
    first = [boxes[0, sum(COUNTS[:level])] / stride for level, stride in enumerate(STRIDES_PX)]
    for box in first:  # point (0.5, 0.5), centre (1, -0.5), sides 4 and 8 strides
        torch.testing.assert_close(box, torch.tensor([-1.0, -4.5, 3.0, 3.5]))


def test_a_wild_size_stays_finite(module: SignsDet) -> None:
    with torch.no_grad():
        boxes, _ = silenced(module, [0, 0, 1000, 1000]).predict(images(1))
    widest = 4 * 32 * torch.tensor(LARGEST).exp()
    torch.testing.assert_close((boxes[..., 2:] - boxes[..., :2]).amax(), widest)


def test_a_new_network_says_two_percent(module: SignsDet) -> None:
    with torch.no_grad():
        _, scores = module(images(2))
    assert 0.01 < scores.median() < 0.03


@pytest.mark.parametrize("level", range(3))
def test_gradients_of_scores_and_boxes_reach_the_picture_round_the_point(module: SignsDet, level: int) -> None:
    place = sum(COUNTS[:level]) + COUNTS[level] // 2 + (320 // STRIDES_PX[level]) // 2
    for part in (0, 1):
        picture = images(1).requires_grad_()
        with frozen(module):
            module(picture)[part][0, place].sum().backward()
        gradient = picture.grad.abs().sum((0, 1))
        assert torch.isfinite(gradient).all()
        x, y, stride = (int(one) for one in module.places(picture)[place])
        assert gradient[y - stride // 2 : y + stride // 2, x - stride // 2 : x + stride // 2].sum() > 0


def test_the_finest_grid_sees_the_coarsest_features(module: SignsDet) -> None:
    module(images(1))[1][0, 0].sum().backward()
    assert all(part[0].weight.grad.abs().sum() > 0 for part in module.lateral)


def test_a_batch_is_its_pictures_one_by_one(module: SignsDet) -> None:
    with torch.no_grad():
        together = module(images(3))
        apart = [module(one[None]) for one in images(3)]
    for part in (0, 1):
        torch.testing.assert_close(together[part], torch.cat([one[part] for one in apart]), rtol=1e-4, atol=1e-4)


def test_a_saved_detector_is_the_same_when_loaded(detector: Detector, tmp_path: Path) -> None:
    kept = replace(detector, threshold=0.37, nms_iou=0.6)
    save_target(tmp_path, kept, "signs-det", {"seed": 7})
    loaded, record = read_target(tmp_path, name="signs")
    assert isinstance(loaded, Detector)
    assert replace(loaded, module=detector.module) == kept
    assert record == {"seed": 7}
    with torch.no_grad():
        assert torch.equal(loaded(images(1)).scores, detector(images(1)).scores)


def test_a_detector_is_no_classifier(detector: Detector, tmp_path: Path) -> None:
    save_target(tmp_path, detector, "signs-det", {})
    with pytest.raises(UserError, match="is a detector"):
        read_classifier(tmp_path, name="mine")
