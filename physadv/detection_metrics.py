"""What metrics.json says of a detector: every figure of every class, clean, with the artwork, and with its controls."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from physadv.precision import RESAMPLES, average, average_precision, curve, fall, false_boxes, match, operating
from physadv.stats import bootstrap_interval, effective_views, wilson_interval
from physadv.targets.boxes import MATCH_IOU, Detections, Seen


def summary(
    arms: Mapping[str, Detections],
    seen: Seen,
    *,
    names: Mapping[int, str],
    threshold: float,
    groups: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """What metrics.json says of a detector (docs/metrics.md, Detectors).

    arms: the detections on the same views without the artwork (first), with it, and with its controls.
    names: the classes of the scenes that the detector knows, by label. groups: one per view.
    """
    judged = {name: _judged(arms, seen, label, threshold, groups, seed) for label, name in names.items()}
    points = {arm: average_precision(one, seen, classes=list(names)) for arm, one in arms.items()}
    matched = {arm: [match(one, seen, label=label) for label in names] for arm, one in arms.items()}
    return {
        "threshold": threshold,
        "iou": MATCH_IOU,
        "images": len(groups),
        "classes": judged,
        "mean": {arm: average(matched[arm], groups, value=_mean(points[arm]), seed=seed).to_json() for arm in arms},
        "false_boxes": _false(arms, seen, names, threshold, groups, seed),
    }


def _mean(values: Mapping[int, float | None]) -> float | None:
    known = [value for value in values.values() if value is not None]
    return sum(known) / len(known) if known else None


def _judged(
    arms: Mapping[str, Detections], seen: Seen, label: int, threshold: float, groups: Sequence[str], seed: int
) -> dict[str, Any]:
    """One class under every arm."""
    matched = {arm: match(one, seen, label=label) for arm, one in arms.items()}
    points = {arm: average_precision(one, seen, classes=[label])[label] for arm, one in arms.items()}
    work = {arm: operating(one, threshold=threshold, groups=groups, seed=seed) for arm, one in matched.items()}
    first, *others = matched
    return {
        "signs": int(matched[first].signs.sum()),
        "ap50": {arm: average([one], groups, value=points[arm], seed=seed).to_json() for arm, one in matched.items()},
        "fall": {arm: fall(matched[first], matched[arm], groups, seed=seed).to_json() for arm in others},
        "precision": {arm: one.precision.to_json() for arm, one in work.items()},
        "recall": {arm: one.recall.to_json() for arm, one in work.items()},
        "false_boxes": _false(arms, seen, [label], threshold, groups, seed),
        "curve": {arm: curve(one) for arm, one in matched.items()},
    }


def _false(
    arms: Mapping[str, Detections],
    seen: Seen,
    counted: Collection[int],
    threshold: float,
    groups: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """False boxes per image: a bootstrap over groups, whose upper end is never below Wilson's of images with any."""
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    images, told = np.bincount(group).astype(float), {}
    for arm, one in arms.items():
        boxes = false_boxes(one, seen, counted=counted, threshold=threshold).cpu().numpy()
        low, high = bootstrap_interval(np.bincount(group, weights=boxes), images, seed, RESAMPLES)
        some = np.bincount(group, weights=boxes > 0)
        high = max(high, wilson_interval(float((boxes > 0).mean()), effective_views(some, images))[1])
        total = int(boxes.sum())
        told[arm] = {"per_image": total / len(groups), "boxes": total, "images": len(groups), "ci95": [low, high]}
    return told
