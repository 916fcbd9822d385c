"""Names of classes as slugs, and the 80 classes of COCO in the order that detectors give them."""

import re
from collections import Counter
from collections.abc import Iterable

# fmt: off
COCO_80 = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic-light",
    "fire-hydrant", "stop-sign", "parking-meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports-ball", "kite", "baseball-bat", "baseball-glove", "skateboard", "surfboard",
    "tennis-racket", "bottle", "wine-glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot-dog", "pizza", "donut", "cake", "chair", "couch",
    "potted-plant", "bed", "dining-table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell-phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy-bear",
    "hair-drier", "toothbrush",
)
# fmt: on


def slug(name: str) -> str:
    """`Traffic Light` -> `traffic-light`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def slugs(names: Iterable[str]) -> tuple[str, ...]:
    """Each name as a slug of its own: what is empty or there twice (`N/A`) gets its row behind it."""
    plain = [slug(name) for name in names]
    count = Counter(plain)
    return tuple(
        name if name and count[name] == 1 else f"{name or 'class'}-{row}".strip("-") for row, name in enumerate(plain)
    )
