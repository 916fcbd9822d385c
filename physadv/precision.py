"""How well a detector finds what there is to be seen: AP50, precision and recall, false boxes, and their intervals."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from jaxtyping import Bool, Float, Int
from torch import Tensor

from physadv.stats import Rate, cluster_rate, effective_views, student, wilson_interval
from physadv.targets.boxes import MATCH_IOU, UNKNOWN, Detections, Seen, iou

RECALLS = np.linspace(0, 1, 101)  # at which COCO asks for the precision
RESAMPLES = 1000


@dataclass(frozen=True)
class Matched:
    """The detections of one class, surest first: the image of each, its score, and whether it is the first of its sign.

    signs: how many signs of the class each image shows.
    """

    image: Int[np.ndarray, " d"]
    score: Float[np.ndarray, " d"]
    right: Bool[np.ndarray, " d"]
    signs: Int[np.ndarray, " n"]


@dataclass(frozen=True)
class Average:
    """An average precision, the number of signs it is of, and its 95 % interval; None where there is no sign."""

    value: float | None
    signs: int
    lo: float | None
    hi: float | None

    def to_json(self) -> dict[str, Any]:
        return {"ap": self.value, "signs": self.signs, "ci95": None if self.lo is None else [self.lo, self.hi]}


@dataclass(frozen=True)
class Operating:
    """One class at one threshold. precision: of the boxes, those first on a sign; recall: of the signs, those found."""

    precision: Rate
    recall: Rate

    @property
    def tp(self) -> int:
        return self.recall.k

    @property
    def fp(self) -> int:
        return self.precision.n - self.precision.k

    @property
    def fn(self) -> int:
        return self.recall.n - self.recall.k


def average_precision(
    detections: Detections, seen: Seen, *, classes: Sequence[int], iou: float = MATCH_IOU
) -> dict[int, float | None]:
    """COCO's 101-point average precision of each class, by faster-coco-eval; None where no sign of it is to be seen.

    The detections must reach down to the score of 0.01 (`Detector.detect`), at most 100 in an image. The library has
    the last word on the value; `match` and `resampled` are here for the intervals, and agree with it to 1e-6
    (tests/test_precision.py).
    """
    wanted = sorted({int(label) for label in classes} - {UNKNOWN})
    common = {
        "images": [{"id": row + 1} for row in range(len(detections))],
        "categories": [{"id": label + 1, "name": str(label)} for label in wanted],
    }
    truth = [_entry(*one) for one in zip(seen.image.tolist(), seen.label.tolist(), seen.box.tolist(), strict=True)]
    judge = COCOeval_faster(
        _dataset(common, [one for one in truth if one["category_id"] - 1 in wanted]),
        _dataset(common, [one for one in _entries(detections) if one["category_id"] - 1 in wanted]),
        "bbox",
        print_function=_silent,
    )
    judge.params.iouThrs = np.array([iou])
    judge.evaluate()
    judge.accumulate()
    found = np.asarray(judge.eval["precision"]).reshape(len(RECALLS), len(wanted), -1, 3)[:, :, 0, -1]
    means = {label: float(found[:, row].mean()) for row, label in enumerate(wanted) if found[0, row] >= 0}
    return {int(label): means.get(int(label)) for label in classes}


def _dataset(common: Mapping[str, Any], entries: list[dict[str, Any]]) -> COCO:
    numbered = [one | {"id": row + 1} for row, one in enumerate(entries)]
    return COCO(dict(common) | {"annotations": numbered}, print_function=_silent)


def _entries(detections: Detections) -> list[dict[str, Any]]:
    image, rank = (detections.scores > 0).nonzero(as_tuple=True)
    columns = (image, detections.labels[image, rank], detections.boxes[image, rank], detections.scores[image, rank])
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [_entry(row, label, box) | {"score": score} for row, label, box, score in rows]


def _entry(image: int, label: int, box: list[float]) -> dict[str, Any]:
    left, top, right, bottom = box
    width, height = max(0.0, right - left), max(0.0, bottom - top)  # COCO overlooks boxes of negative area
    return {
        "image_id": image + 1,
        "category_id": label + 1,
        "bbox": [left, top, width, height],
        "area": width * height,
        "iscrowd": 0,
    }


def _silent(*_: object) -> None:
    """Where the library's progress goes."""


def match(detections: Detections, seen: Seen, *, label: int, iou: float = MATCH_IOU) -> Matched:
    """COCO's matching: in each image, surest first, every detection takes the free sign of its class it overlaps most.

    It is right if it overlaps one by `iou` or more. A second box on a sign is wrong.
    """
    kept = ((detections.labels == label) & (detections.scores > 0)).cpu().numpy()
    boxes, scores = detections.boxes.double().cpu().numpy(), detections.scores.double().cpu().numpy()
    ours = seen.take(seen.label == label)
    truth, where = ours.box.double().cpu().numpy(), ours.image.cpu().numpy()
    images, sure, right = [], [], []
    for row in np.flatnonzero(kept.any(1)):
        score = scores[row, kept[row]]
        order = np.argsort(-score, kind="stable")
        images.append(np.full(len(order), row))
        sure.append(score[order])
        right.append(_taken(_overlaps(boxes[row, kept[row]][order], truth[where == row]), iou))
    image, score, first = (np.concatenate([np.zeros(0), *one]) for one in (images, sure, right))
    order = np.argsort(-score, kind="stable")
    signs = np.bincount(where, minlength=len(detections))
    return Matched(image[order].astype(np.int64), score[order], first[order].astype(bool), signs)


def _overlaps(one: Float[np.ndarray, "d 4"], other: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "d m"]:
    """Intersection over union of each with each, in double precision."""
    shared = np.minimum(one[:, None, 2:], other[:, 2:]) - np.maximum(one[:, None, :2], other[:, :2])
    inter = shared.clip(min=0).prod(-1)
    area, others = (one[:, 2:] - one[:, :2]).prod(-1), (other[:, 2:] - other[:, :2]).prod(-1)
    return inter / np.maximum(area[:, None] + others - inter, 1e-12)


def _taken(overlaps: Float[np.ndarray, "d m"], iou: float) -> Bool[np.ndarray, " d"]:
    """Which rows get a column, each column once; the last of equals, as COCO."""
    free, right = np.ones(overlaps.shape[1], dtype=bool), np.zeros(len(overlaps), dtype=bool)
    for row, one in enumerate(overlaps):
        if not (free & (one >= iou)).any():
            continue
        left = np.where(free, one, -1.0)
        free[len(left) - 1 - int(left[::-1].argmax())] = False
        right[row] = True
    return right


def curve(matched: Matched) -> list[float] | None:
    """The best precision at each of the 101 recalls or beyond, 0 where no threshold reaches it; its mean is the AP."""
    signs = int(matched.signs.sum())
    if not signs:
        return None
    tp = np.cumsum(matched.right)
    best = _envelope(tp / np.arange(1, len(tp) + 1))
    place = np.searchsorted(tp / signs, RECALLS)
    return [float(best[i]) if i < len(best) else 0.0 for i in place]


def _envelope(precision: Float[np.ndarray, "*r t"]) -> Float[np.ndarray, "*r t"]:
    """The highest from here on."""
    return np.maximum.accumulate(precision[..., ::-1], -1)[..., ::-1]


def resampled(
    matched: Matched, groups: Sequence[str], *, seed: int, resamples: int = RESAMPLES
) -> Float[np.ndarray, " r"]:
    """The AP of groups of images drawn with replacement; NaN where none of them shows a sign.

    groups: one per image. The same seed and groups draw the same images, so that differences are paired.
    """
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(group.max()) + 1
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return weighted(matched, group, times.astype(float))


def weighted(
    matched: Matched, group: Int[np.ndarray, " n"], times: Float[np.ndarray, "r g"]
) -> Float[np.ndarray, " r"]:
    """The AP if the images of group j were there times[i, j] times.

    Only right detections raise a recall, and the envelope peaks at them, so counts are needed there alone: two products
    of (r, g) with (g, right ones) serve all resamples.
    """
    tp, boxes = (times @ one.T for one in _counts(matched, group, times.shape[1]))
    signs = times @ np.bincount(group, weights=matched.signs, minlength=times.shape[1])
    recall = tp / np.maximum(signs, 1)[:, None]
    steps = np.diff(np.searchsorted(RECALLS, recall, side="right"), axis=1, prepend=0)
    area = (_envelope(tp / np.maximum(boxes, 1)) * steps).sum(1) / len(RECALLS)
    return np.where(signs > 0, area, np.nan)


def _counts(
    matched: Matched, group: Int[np.ndarray, " n"], groups: int
) -> tuple[Float[np.ndarray, "t g"], Float[np.ndarray, "t g"]]:
    """Right boxes, and all boxes, of each group down to every right one."""
    hits = int(matched.right.sum())
    upto = np.cumsum(matched.right) - matched.right  # the next right box
    counts = []
    for kept in (matched.right, upto < hits):
        cell = upto[kept] * groups + group[matched.image[kept]]
        counts.append(np.bincount(cell, minlength=hits * groups).reshape(hits, groups).cumsum(0).astype(float))
    return counts[0], counts[1]


def average(
    matched: Sequence[Matched], groups: Sequence[str], *, value: float | None, seed: int, resamples: int = RESAMPLES
) -> Average:
    """The AP of one class, or its mean over several, with an interval. value: as `average_precision` has it.

    The union of two intervals, as for rates (`stats.cluster_rate`): the bootstrap's percentiles over groups, and
    Wilson's on the effective number of signs. An AP is nearly the mean over signs of the precision at which each is
    found, a number in [0, 1], whose variance is at most p(1 − p) (Bhatia and Davis 2000): Wilson's is on the safe side.
    Simulated coverage: 90 to 99 % for 6 to 54 groups of 1 to 10 views and APs of 0.16 to 0.95, where the percentiles
    alone cover 60 to 96 % (tests/test_precision.py).
    """
    seen = [one for one in matched if one.signs.any()]
    if value is None or not seen:
        return Average(None, 0, None, None)
    boot = np.mean([resampled(one, groups, seed=seed, resamples=resamples) for one in seen], 0)
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    signs = sum(int(one.signs.sum()) for one in seen)
    k_g, n_g = np.sum([_shares(one, group, signs / len(seen)) for one in seen], 0)
    some = n_g > 0
    wide = wilson_interval(value, effective_views(k_g[some], n_g[some]))
    low, high = np.nanquantile(boot, (0.025, 0.975))
    return Average(value, signs, float(min(low, wide[0], value)), float(max(high, wide[1], value)))


def _shares(
    matched: Matched, group: Int[np.ndarray, " n"], signs: float
) -> tuple[Float[np.ndarray, " g"], Float[np.ndarray, " g"]]:
    """What each group adds to the AP, and its signs, scaled to `signs` in all."""
    best = _envelope(np.cumsum(matched.right) / np.arange(1, len(matched.right) + 1)) * matched.right
    count, scale = int(group.max()) + 1, signs / matched.signs.sum()
    k_g = np.bincount(group[matched.image], weights=best, minlength=count)
    return scale * k_g, scale * np.bincount(group, weights=matched.signs, minlength=count)


def fall(before: Matched, after: Matched, groups: Sequence[str], *, seed: int, resamples: int = RESAMPLES) -> Average:
    """AP before − AP after on the same images, with a paired interval.

    The union of three: the bootstrap's percentiles, Student's on the jackknife over groups (Efron and Tibshirani 1993,
    11), and Wilson's of a change of this size on the effective number of signs, because a few signs of which none
    changed prove little. Simulated coverage: 92 to 100 % for 6 to 54 groups, where the percentiles alone cover 54 to
    96 % (tests/test_precision.py).
    """
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    count, signs = int(group.max()) + 1, int(before.signs.sum())
    if not signs or count < 2:
        return Average(None, signs, None, None)
    one, other = (resampled(side, groups, seed=seed, resamples=resamples) for side in (before, after))
    times = np.vstack([np.ones(count), 1 - np.eye(count)])
    differences = weighted(before, group, times) - weighted(after, group, times)
    value = float(differences[0])
    half = _jackknife(differences[1:][np.isfinite(differences[1:])])
    ends = [*np.nanquantile(one - other, (0.025, 0.975)), value - half, value + half]
    ends += _change(value, before, after, group)
    return Average(value, signs, max(-1.0, float(min(ends))), min(1.0, float(max(ends))))


def _jackknife(left_out: Float[np.ndarray, " g"]) -> float:
    """t · sqrt((g − 1)/g · Σ (value without a group − their mean)²): half of Student's interval."""
    count = len(left_out)
    if count < 2:
        return 2.0
    return float(student(count - 1) * np.sqrt((count - 1) * left_out.var()))


def _change(value: float, before: Matched, after: Matched, group: Int[np.ndarray, " n"]) -> list[float]:
    """Ends of Wilson's interval of |value|, with its sign; with both where nothing changed."""
    signs = float(before.signs.sum())
    (k_g, n_g), (later, _) = (_shares(side, group, signs) for side in (before, after))
    some, side = n_g > 0, -1 if value < 0 else 1
    ends = wilson_interval(abs(value), effective_views(side * (k_g - later)[some], n_g[some]))
    return [turn * end for turn in ((side,) if value else (1, -1)) for end in ends]


def precision_recall(
    detections: Detections,
    seen: Seen,
    *,
    label: int,
    threshold: float,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> Operating:
    """Precision and recall of one class from the score `threshold` up. groups: of each image; None: each its own."""
    return operating(match(detections, seen, label=label), threshold=threshold, groups=groups, seed=seed)


def operating(matched: Matched, *, threshold: float, groups: Sequence[str] | None = None, seed: int = 0) -> Operating:
    """The same of detections already matched; those below the threshold took no sign from those above."""
    names = np.asarray([str(row) for row in range(len(matched.signs))] if groups is None else groups)
    kept = matched.score >= threshold
    image, right = matched.image[kept], matched.right[kept]
    found = np.bincount(image[right], minlength=len(names))
    owner = np.repeat(np.arange(len(names)), matched.signs)
    rank = np.arange(len(owner)) - np.repeat(np.cumsum(matched.signs) - matched.signs, matched.signs)
    return Operating(
        cluster_rate(right, names[image].tolist(), seed=seed),
        cluster_rate(rank < found[owner], names[owner].tolist(), seed=seed),
    )


def false_boxes(detections: Detections, seen: Seen, *, counted: Collection[int], threshold: float) -> Int[Tensor, " n"]:
    """How many boxes of the classes `counted`, from the score `threshold` up, lie on no sign of their class (IoU 0.5).

    Counted are the classes of the scenes: of others nothing is known. A sign whose class the detector lacks (UNKNOWN)
    excuses no box: a stop sign seen there is false. A second box on a sign is none, though it costs precision.
    """
    boxes = detections.boxes[seen.image].double()
    on = iou(boxes, seen.box[:, None].double().expand_as(boxes)) >= MATCH_IOU
    on &= detections.labels[seen.image] == seen.label[:, None]
    excused = torch.zeros_like(detections.labels)
    excused.index_add_(0, seen.image, on.to(excused.dtype))
    known = torch.tensor(sorted(set(counted) - {UNKNOWN}), dtype=torch.long, device=on.device)
    ours = torch.isin(detections.labels, known) & (detections.scores >= threshold) & (detections.scores > 0)
    return (ours & (excused == 0)).sum(1)
