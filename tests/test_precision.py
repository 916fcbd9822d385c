"""Average precision agrees with the reference to the last digit, counts with a hand, and intervals cover."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from physadv.detection_metrics import summary
from physadv.precision import (
    Matched,
    average,
    average_precision,
    curve,
    fall,
    false_boxes,
    match,
    precision_recall,
    resampled,
    weighted,
)
from physadv.stats import wilson
from physadv.targets.boxes import UNKNOWN, Detections, Seen

DOCS = Path(__file__).parent.parent / "docs" / "metrics.md"
STOP, YIELD, CAR = 0, 1, 2
SIGN = (10.0, 10.0, 50.0, 50.0)
HALF = (30.0, 10.0, 70.0, 50.0)  # shares a third with SIGN
NEAR = (10.0, 10.0, 50.0, 48.0)  # IoU 0.95
ELSEWHERE = (200.0, 200.0, 240.0, 240.0)


def seen_of(*signs: tuple[int, int, tuple[float, ...]]) -> Seen:
    image, label, box = zip(*signs, strict=True) if signs else ((), (), ())
    return Seen(
        image=torch.tensor(image, dtype=torch.long),
        label=torch.tensor(label, dtype=torch.long),
        box=torch.tensor(box, dtype=torch.float32).reshape(-1, 4),
        worn=torch.ones(len(image), dtype=torch.bool),
    )


def found(images: int, *boxes: tuple[int, int, float, tuple[float, ...]]) -> Detections:
    """(image, label, score, box), padded as a detector pads."""
    rows = [[one for one in boxes if one[0] == image] for image in range(images)]
    most = max(1, *map(len, rows))
    box, score, label = torch.zeros(images, most, 4), torch.zeros(images, most), torch.zeros(images, most).long()
    for image, row in enumerate(rows):
        for k, one in enumerate(row):
            box[image, k], score[image, k], label[image, k] = torch.tensor(one[3]), one[2], one[1]
    return Detections(box, score, label)


def random_case(seed: int, images: int = 40, *, boxes: int = 30, levels: int | None = None) -> tuple[Detections, Seen]:
    """Signs, crowded; near and far boxes of three classes; levels: so many different scores, hence ties."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    signs = images * 2
    corner = uniform(signs, 2) * 120
    box = torch.cat([corner, corner + 20 + 60 * uniform(signs, 2)], 1)
    image = torch.randint(images, (signs,), generator=generator).sort().values
    seen = Seen(image, torch.randint(2, (signs,), generator=generator), box, torch.ones(signs, dtype=torch.bool))
    corner = uniform(images, boxes, 2) * 120
    guess = torch.cat([corner, corner + 20 + 60 * uniform(images, boxes, 2)], 2)
    score, label = uniform(images, boxes) ** 4, torch.randint(3, (images, boxes), generator=generator)
    for row in range(signs):
        slot = int(torch.randint(boxes, (1,), generator=generator))
        guess[image[row], slot] = box[row] + 4 * torch.randn(4, generator=generator)
        score[image[row], slot], label[image[row], slot] = uniform(1), seen.label[row]
    score[uniform(images, boxes) < 0.2] = 0
    return Detections(guess, score if levels is None else (score * levels).round() / levels, label), seen


def test_average_precision_by_hand():
    """Right at 0.9, wrong at 0.8, right at 0.7, one sign missed: 34 recalls at 1, 33 at 2/3, the rest at 0."""
    seen = seen_of((0, STOP, SIGN), (1, STOP, SIGN), (2, STOP, SIGN), (2, YIELD, ELSEWHERE))
    detections = found(3, (0, STOP, 0.9, NEAR), (0, STOP, 0.8, HALF), (1, STOP, 0.7, SIGN), (2, CAR, 0.99, SIGN))
    measured = average_precision(detections, seen, classes=[STOP, YIELD, CAR])
    assert measured == {STOP: pytest.approx((34 + 33 * 2 / 3) / 101, abs=1e-9), YIELD: 0.0, CAR: None}
    assert curve(match(detections, seen, label=STOP)) == pytest.approx([1.0] * 34 + [2 / 3] * 33 + [0.0] * 34)
    assert curve(match(detections, seen, label=CAR)) is None


@pytest.mark.parametrize("levels", [None, 12])
@pytest.mark.parametrize("seed", range(6))
def test_own_matching_is_the_reference_s(seed, levels):
    detections, seen = random_case(seed, levels=levels)
    reference = average_precision(detections, seen, classes=[0, 1])
    for label in (0, 1):
        ours = curve(match(detections, seen, label=label))
        assert 0.05 < reference[label] < 0.95
        assert np.mean(ours) == pytest.approx(reference[label], abs=1e-6)


def test_another_overlap_and_another_reference():
    detections, seen = random_case(3)
    strict = average_precision(detections, seen, classes=[0], iou=0.7)[0]
    assert np.mean(curve(match(detections, seen, label=0, iou=0.7))) == pytest.approx(strict, abs=1e-6)
    assert strict < average_precision(detections, seen, classes=[0])[0]


def test_weights_are_copies():
    """A resample is judged as the reference judges a folder in which photographs stand several times or not at all."""
    detections, seen = random_case(1)
    group = np.arange(40) // 2
    times = np.random.default_rng(0).integers(0, 4, (3, 20))
    ours = weighted(match(detections, seen, label=0), group, times.astype(float))
    for row, count in enumerate(times):
        rows = np.repeat(np.arange(40), count[group])
        copies = [
            (new, one) for new, old in enumerate(rows) for one in (seen.image == int(old)).nonzero()[:, 0].tolist()
        ]
        image, one = (torch.tensor(column) for column in zip(*copies, strict=True))
        copied = Seen(image, seen.label[one], seen.box[one], seen.worn[one])
        reference = average_precision(detections.take(torch.from_numpy(rows)), copied, classes=[0])
        assert ours[row] == pytest.approx(reference[0], abs=1e-6)


@pytest.mark.parametrize(
    ("signs", "boxes", "ap"),
    [
        ([SIGN], [(10.0, 10.0, 50.0, 30.0)], 1.0),  # IoU 0.5 exactly is enough
        (
            [(0.0, 0.0, 40.0, 40.0), (20.0, 0.0, 60.0, 40.0)],
            [(10.0, 0.0, 50.0, 40.0), (20.0, 0.0, 60.0, 40.0)],
            51 / 101,
        ),
        ([(0.0, 0.0, 40.0, 40.0), (20.0, 0.0, 60.0, 40.0)], [(10.0, 0.0, 50.0, 40.0), (0.0, 0.0, 40.0, 40.0)], 1.0),
    ],
)
def test_borders_are_the_reference_s(signs, boxes, ap):
    """Of two signs that a box overlaps equally it takes the last, so that the next box may be left without."""
    seen = seen_of(*((0, STOP, box) for box in signs))
    detections = found(1, *((0, STOP, 0.9 - 0.1 * row, box) for row, box in enumerate(boxes)))
    assert average_precision(detections, seen, classes=[STOP])[STOP] == pytest.approx(ap)
    assert np.mean(curve(match(detections, seen, label=STOP))) == pytest.approx(ap)


def test_a_box_inside_out_is_wrong():
    seen, inverted = seen_of((0, STOP, SIGN)), (50.0, 10.0, 10.0, 50.0)
    detections = found(1, (0, STOP, 0.9, inverted), (0, STOP, 0.8, SIGN))
    assert average_precision(detections, seen, classes=[STOP])[STOP] == pytest.approx(0.5)
    assert np.mean(curve(match(detections, seen, label=STOP))) == pytest.approx(0.5)


def test_nothing_found_and_nothing_to_find(capsys, caplog):
    seen, nothing = seen_of((0, STOP, SIGN)), found(2)
    assert average_precision(nothing, seen, classes=[STOP, YIELD, UNKNOWN]) == {STOP: 0.0, YIELD: None, UNKNOWN: None}
    assert average_precision(found(2, (0, STOP, 0.5, SIGN)), seen_of(), classes=[STOP]) == {STOP: None}
    judged = average([match(nothing, seen, label=STOP)], ["a", "b"], value=0.0, seed=0)
    assert (judged.value, judged.signs, judged.lo) == (0.0, 1, 0.0)
    assert 0.5 < judged.hi < 1  # one sign says little
    absent = average([match(nothing, seen, label=YIELD)], ["a", "b"], value=None, seed=0)
    assert absent.to_json() == {"ap": None, "signs": 0, "ci95": None}
    assert capsys.readouterr() == ("", "")
    assert not caplog.records


def test_five_images_by_hand():
    """Found; found twice; at the threshold; below it; a sign that was never found, beside a false box."""
    seen = seen_of(*((row, STOP, SIGN) for row in range(5)))
    detections = found(
        5,
        (0, STOP, 0.9, SIGN),
        (1, STOP, 0.8, NEAR),
        (1, STOP, 0.6, SIGN),
        (2, STOP, 0.5, SIGN),
        (3, STOP, 0.49, SIGN),
        (4, STOP, 0.7, ELSEWHERE),
    )
    judged = precision_recall(detections, seen, label=STOP, threshold=0.5)
    assert (judged.tp, judged.fp, judged.fn) == (3, 2, 2)
    assert (judged.precision.rate, judged.recall.rate) == (3 / 5, 3 / 5)
    assert judged.precision.lo < 3 / 5 < judged.precision.hi
    assert precision_recall(detections, seen, label=STOP, threshold=0.95).precision.rate is None
    assert precision_recall(detections, seen, label=YIELD, threshold=0.5).recall.rate is None


def test_found_signs_are_counted_in_their_own_image():
    """Two signs in one image of which one is found: the rate's clusters must know which."""
    seen = seen_of((0, STOP, SIGN), (0, STOP, ELSEWHERE), (1, STOP, SIGN))
    detections = found(2, (0, STOP, 0.9, ELSEWHERE))
    judged = precision_recall(detections, seen, label=STOP, threshold=0.5, groups=["a", "a"])
    assert (judged.tp, judged.fn) == (1, 2)


def test_false_boxes():
    seen = seen_of((0, STOP, SIGN), (1, UNKNOWN, SIGN), (2, YIELD, SIGN))
    detections = found(
        4,
        (0, STOP, 0.9, SIGN),
        (0, STOP, 0.8, NEAR),  # a second one: not false
        (0, STOP, 0.7, HALF),  # overlaps a third of it
        (0, CAR, 0.9, ELSEWHERE),  # no class of the scenes
        (1, STOP, 0.9, SIGN),  # the detector has no class for that sign
        (1, CAR, 0.9, SIGN),
        (2, STOP, 0.9, SIGN),  # the wrong class
        (2, YIELD, 0.9, SIGN),
        (3, STOP, 0.3, ELSEWHERE),
        (3, STOP, 0.29, ELSEWHERE),
    )
    counts = false_boxes(detections, seen, counted=[STOP, YIELD, UNKNOWN], threshold=0.3)
    assert counts.tolist() == [1, 1, 1, 1]
    assert false_boxes(detections, seen, counted=[STOP], threshold=0.85).tolist() == [0, 1, 1, 0]
    assert false_boxes(detections, seen_of(), counted=[], threshold=0.3).tolist() == [0, 0, 0, 0]


def simulated(groups: int, views: int, generator: np.random.Generator, *, hidden: float = 0.0) -> list[Matched]:
    """A sign per photograph, found in a share of its views that is its own; false boxes now and then.

    The second: with an artwork that hides up to a share `hidden` of them, and makes the others less sure.
    """
    share, chance = generator.beta(20, 1, (groups, 1)), generator.random((groups, views))
    level = generator.normal(0, 1, (groups, 1)) + generator.normal(0, 1, (groups, views)) + 1
    left = 1 - hidden * generator.beta(2, 2, (groups, 1))
    false = np.repeat(np.arange(groups * views), generator.poisson(0.02, groups * views))
    sure = generator.normal(-0.5, 1, len(false))
    sides = []
    for hit, score in ((chance < share, level), (chance < share * left, level - 1.5 * hidden)):
        image, scores = np.concatenate([np.flatnonzero(hit), false]), np.concatenate([score[hit], sure])
        order = np.argsort(-scores)
        right = (np.arange(len(image)) < hit.sum())[order]
        sides.append(Matched(image[order], scores[order], right, np.ones(groups * views, dtype=np.int64)))
    return sides


def covers(groups: int, views: int, judge: Callable[..., tuple[float, float]], *, hidden: float = 0.0) -> float:
    """How often the interval holds the truth, which 20,000 photographs tell."""
    generator, names = np.random.default_rng(7), [str(row // views) for row in range(groups * views)]
    before, after = (np.mean(curve(one)) for one in simulated(20_000, 10, generator, hidden=hidden))
    truth, hits = before - after if hidden else before, 0
    for seed in range(200):
        low, high = judge(*simulated(groups, views, generator, hidden=hidden), names, seed)
        hits += low <= truth <= high
    return hits / 200


def averaged(one: Matched, _: Matched, names: list[str], seed: int) -> tuple[float, float]:
    judged = average([one], names, value=float(np.mean(curve(one))), seed=seed, resamples=300)
    return judged.lo, judged.hi


def percentiles(one: Matched, _: Matched, names: list[str], seed: int) -> tuple[float, float]:
    low, high = np.quantile(resampled(one, names, seed=seed, resamples=300), (0.025, 0.975))
    return float(low), float(high)


def fallen(one: Matched, other: Matched, names: list[str], seed: int) -> tuple[float, float]:
    judged = fall(one, other, names, seed=seed, resamples=300)
    return judged.lo, judged.hi


@pytest.mark.parametrize(("groups", "views"), [(6, 10), (18, 1), (18, 10), (54, 1)])
def test_interval_covers(groups, views):
    assert covers(groups, views, averaged) >= 0.9


def test_percentiles_alone_do_not_cover():
    assert covers(18, 1, percentiles) < 0.75


@pytest.mark.parametrize("hidden", [0.1, 0.6])
@pytest.mark.parametrize(("groups", "views"), [(6, 10), (18, 1), (54, 1)])
def test_interval_of_a_fall_covers(groups, views, hidden):
    """Small falls too: of few photographs often none changes, and a bootstrap of no change is a point."""
    assert covers(groups, views, fallen, hidden=hidden) >= 0.9


def test_fall_is_paired():
    """The same boxes lose nothing, which is not proof that nothing can be lost; an artwork that hides all takes all."""
    detections, seen = random_case(2)
    names = [str(row) for row in range(40)]
    before = match(detections, seen, label=0)
    same = fall(before, before, names, seed=0)
    assert same.value == 0
    assert -0.15 < same.lo == -same.hi < -0.05
    gone = fall(before, match(found(40), seen, label=0), names, seed=0)
    whole = average_precision(detections, seen, classes=[0])[0]
    assert gone.value == pytest.approx(whole)
    assert gone.lo < whole < gone.hi
    worse = Detections(detections.boxes, detections.scores * (detections.scores > 0.2), detections.labels)
    lost = fall(before, match(worse, seen, label=0), names, seed=0)
    assert lost.value > 0
    assert lost.hi - lost.lo < 0.7 * (gone.hi - gone.lo)


def test_a_thousand_resamples_are_quick():
    detections, seen = random_case(0, images=200, boxes=100)
    start = time.perf_counter()
    one = match(detections, seen, label=0)
    drawn = resampled(one, [str(row) for row in range(200)], seed=0, resamples=1000)
    assert time.perf_counter() - start < 3
    assert len(drawn) == 1000
    assert len(np.unique(drawn)) > 900


def test_seed_decides():
    detections, seen = random_case(0)
    one, names = match(detections, seen, label=0), [str(row) for row in range(40)]
    assert np.array_equal(resampled(one, names, seed=1), resampled(one, names, seed=1))
    assert not np.array_equal(resampled(one, names, seed=1), resampled(one, names, seed=2))
    assert len(np.unique(resampled(one, ["a"] * 40, seed=1))) == 1


def test_summary_is_the_schema():
    detections, seen = random_case(5)
    weaker = Detections(detections.boxes, detections.scores * 0.6, detections.labels)
    arms = {"clean": detections, "artwork": weaker, "grey": detections}
    names = [str(row // 4) for row in range(40)]
    told = summary(arms, seen, names={0: "stop", 1: "yield"}, threshold=0.5, groups=names, seed=3)
    assert json.loads(json.dumps(told)) == told
    assert list(told["classes"]) == ["stop", "yield"]
    stop = told["classes"]["stop"]
    assert stop["ap50"]["clean"]["ap"] == average_precision(detections, seen, classes=[0])[0]
    assert stop["recall"]["artwork"]["k"] < stop["recall"]["clean"]["k"]
    assert stop["fall"]["grey"]["ap"] == 0
    assert told["mean"]["clean"]["ap"] == pytest.approx(
        (stop["ap50"]["clean"]["ap"] + told["classes"]["yield"]["ap50"]["clean"]["ap"]) / 2
    )
    low, high = told["mean"]["clean"]["ci95"]
    assert low < told["mean"]["clean"]["ap"] < high
    assert told["false_boxes"]["clean"]["boxes"] > told["false_boxes"]["artwork"]["boxes"]
    both = [told["classes"][name]["false_boxes"]["clean"]["boxes"] for name in told["classes"]]
    assert sum(both) == told["false_boxes"]["clean"]["boxes"]
    none = summary({"clean": found(40)}, seen, names={0: "stop"}, threshold=0.5, groups=names, seed=3)["false_boxes"]
    assert none["clean"]["ci95"] == [0, pytest.approx(wilson(0, 10).hi)]  # no box in ten places is no proof of none
    section = DOCS.read_text().partition("## Detectors")[2]
    assert {*told, *stop} <= set(re.findall(r"`(\w+)`", section))
