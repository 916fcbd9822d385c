"""What a detector found, for the page: photographs with boxes, and the drive towards the sign."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from physadv.files import to_pil
from physadv.report import detection_plots as plots
from physadv.report.embed import data_uri
from physadv.report.words import count
from physadv.targets.boxes import MATCH_IOU, UNKNOWN, Detections, Seen, iou

PAIRS_SHOWN = 8
FRAMES_SHOWN = 8
ENLARGED_BELOW_PX = 640  # smaller photographs are drawn on at twice their size
MARKS = {"right": "✓", "wrong": "≠", "false": "+", "missed": "✗"}
COLOURS = {
    "right": "#0063b2",
    "wrong": "#b34700",
    "false": "#8f2d7c",
    "missed": "#9d1515",
}  # apart for the colour-blind
SAID = {"right": "found", "wrong": "wrong class", "false": "false box", "missed": "missed"}


@dataclass(frozen=True)
class Marked:
    """A box and what is to be said of it. kind: right, wrong (class), false (on no sign), missed."""

    kind: str
    box: tuple[float, float, float, float]
    name: str
    score: float | None = None

    @property
    def label(self) -> str:
        """As short as may be: it stands in the picture."""
        return f"{MARKS[self.kind]} {self.name}" + ("" if self.score is None else f" {self.score:.2f}")

    @property
    def words(self) -> str:
        return f"{SAID[self.kind]}: {self.name}" + ("" if self.score is None else f" {self.score:.2f}")


@dataclass(frozen=True)
class Shot:
    """A photograph with its boxes, as a picture and in words."""

    picture: str
    marks: tuple[Marked, ...]
    alt: str


@dataclass(frozen=True)
class Pair:
    """One view without and with the artwork."""

    where: str
    clean: Shot
    attacked: Shot | None


@dataclass(frozen=True)
class Frame:
    """One picture of a drive. early: from here the car can still stop."""

    picture: str
    distance: str
    found: bool
    early: bool


@dataclass(frozen=True)
class Film:
    """One drive, far to near, without and with the artwork."""

    title: str
    frames: tuple[tuple[Frame, Frame], ...]


def marks(
    detections: Detections, seen: Seen, *, threshold: float, classes: Sequence[str], counted: Collection[int]
) -> list[Marked]:
    """What became of the signs of one image, and the boxes beside them. detections: of that image alone.

    Boxes of classes that no scene has (`counted`) and that lie on no sign are left out: nothing is known of them.
    """
    boxes, scores, labels = detections.boxes[0].cpu(), detections.scores[0].cpu(), detections.labels[0].cpu()
    truth, known = seen.box.cpu(), seen.label.cpu()
    on = _overlaps(boxes, truth) >= MATCH_IOU
    kept = (scores >= threshold) & (scores > 0)
    hit = on & (labels[:, None] == known) & kept[:, None]
    said = [
        Marked("missed", _corners(truth[row]), classes[int(known[row])])
        for row in range(len(truth))
        if known[row] != UNKNOWN and not hit[:, row].any()
    ]
    for row in kept.nonzero()[:, 0].tolist():
        ours = int(labels[row]) in counted
        judged = on[row] if ours else on[row] & (known != UNKNOWN)
        if not (ours or judged.any()):
            continue
        kind = "right" if hit[row].any() else "wrong" if judged.any() else "false"
        said.append(Marked(kind, _corners(boxes[row]), classes[int(labels[row])], float(scores[row])))
    return said


def _overlaps(one: Float[Tensor, "k 4"], other: Float[Tensor, "m 4"]) -> Float[Tensor, "k m"]:
    shape = (len(one), len(other), 4)
    return iou(one.double()[:, None].expand(shape), other.double()[None].expand(shape))


def _corners(box: Float[Tensor, "4"]) -> tuple[float, float, float, float]:
    left, top, right, bottom = box.tolist()
    return left, top, right, bottom


def boxes_on(
    image: Float[Tensor, "3 h w"],
    detections: Detections,
    seen: Seen,
    *,
    threshold: float,
    classes: Sequence[str],
    counted: Collection[int],
    labels: bool = True,
) -> Image.Image:
    """The photograph: truth dashed, boxes in the colour of their kind; labels: name and score beside each."""
    said = marks(detections, seen, threshold=threshold, classes=classes, counted=counted)
    return drawn(image, said, seen.box, labels=labels)


def drawn(
    image: Float[Tensor, "3 h w"], said: Sequence[Marked], truth: Float[Tensor, "m 4"], *, labels: bool = True
) -> Image.Image:
    """`boxes_on` of what is known already."""
    picture = to_pil(image).convert("RGB")
    scale = 2 if max(picture.size) <= ENLARGED_BELOW_PX else 1
    picture = picture.resize((scale * picture.width, scale * picture.height), Image.Resampling.LANCZOS)
    pen, line = ImageDraw.Draw(picture), max(2, round(max(picture.size) / 200))
    for box in (truth.cpu() * scale).tolist():
        _dashed(pen, box, line)
    for one in said:
        if one.kind != "missed":
            _outlined(pen, [scale * edge for edge in one.box], COLOURS[one.kind], line)
    if labels:
        _label(pen, said, scale, picture.size)
    return picture


def _outlined(pen: ImageDraw.ImageDraw, box: Sequence[float], colour: str, line: int) -> None:
    """A box that stands out on any ground: the colour between two white lines."""
    left, top, right, bottom = box
    for grow, fill, width in ((line // 2 + 1, "white", line + 2), (0, colour, line)):
        pen.rectangle(_ordered(left - grow, top - grow, right + grow, bottom + grow), outline=fill, width=width)


def _ordered(left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
    return min(left, right), min(top, bottom), max(left, right), max(top, bottom)


def _dashed(pen: ImageDraw.ImageDraw, box: Sequence[float], line: int) -> None:
    """White dashes on a dark line, thin."""
    left, top, right, bottom = box
    width, dash = max(1, line // 2), 4 * line
    pen.rectangle(_ordered(left, top, right, bottom), outline="#202020", width=width)
    for (x0, y0), (x1, y1) in (
        ((left, top), (right, top)),
        ((right, top), (right, bottom)),
        ((right, bottom), (left, bottom)),
        ((left, bottom), (left, top)),
    ):
        length = max(abs(x1 - x0), abs(y1 - y0), 1e-6)
        for start in range(0, int(length) + 1, 2 * dash):
            near, far = start / length, min(1.0, (start + dash) / length)
            ends = [(x0 + share * (x1 - x0), y0 + share * (y1 - y0)) for share in (near, far)]
            pen.line(ends, fill="white", width=width)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf", size)


def _label(pen: ImageDraw.ImageDraw, said: Sequence[Marked], scale: int, size: tuple[int, int]) -> None:
    """A label beside each box, where no other label is if there is room: above it, below, inside."""
    font = _font(max(14, round(0.045 * size[0])))
    taken: list[tuple[float, float, float, float]] = []
    for one in said:
        left, top, right, bottom = (scale * edge for edge in one.box)
        width, height = pen.textlength(one.label, font=font) + 10, font.size * 1.3
        places = [(x, y) for y in (top - height - 4, bottom + 4, top + 4) for x in (left, right - width)]
        inside = [_held(place, (width, height), size) for place in places]
        free = [place for place in inside if not any(_meet(place, other) for other in taken)]
        place = (free or inside)[0]
        taken.append(place)
        pen.rounded_rectangle(place, radius=4, fill=COLOURS[one.kind], outline="white")
        pen.text((place[0] + 5, (place[1] + place[3]) / 2), one.label, fill="white", font=font, anchor="lm")


def _held(
    place: tuple[float, float], extent: tuple[float, float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """A rectangle moved into the picture."""
    x, y = (
        min(max(0.0, start), max(0.0, edge - long - 1)) for start, long, edge in zip(place, extent, size, strict=True)
    )
    return x, y, x + extent[0], y + extent[1]


def _meet(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def pairs(
    names: Sequence[str],
    clean: tuple[Float[Tensor, "n 3 h w"], Detections],
    attacked: tuple[Float[Tensor, "n 3 h w"], Detections] | None,
    seen: Seen,
    *,
    threshold: float,
    classes: Sequence[str],
    counted: Collection[int],
    extent_px: Float[Tensor, "n 2"] | None = None,
    limit: int = PAIRS_SHOWN,
) -> list[Pair]:
    """The first views, whatever became of them. extent_px: the photograph's part of its canvas."""

    def shot(side: tuple[Tensor, Detections], row: int) -> Shot:
        images, detections = side
        height, width = images.shape[2:] if extent_px is None else extent_px[row].flip(0).ceil().int().tolist()
        here = seen.take(seen.image == row)
        said = marks(detections.take(torch.tensor([row])), here, threshold=threshold, classes=classes, counted=counted)
        picture = drawn(images[row, :, :height, :width], said, here.box)
        return Shot(data_uri(picture), tuple(said), _alternative(said, len(here)))

    return [
        Pair(name, shot(clean, row), None if attacked is None else shot(attacked, row))
        for row, name in enumerate(names[:limit])
    ]


def _alternative(said: Sequence[Marked], signs: int) -> str:
    """What the picture shows, for those who do not see it."""
    told = "; ".join(one.words for one in said) or "nothing to be found, nothing found"
    return f"Photograph with {count(signs, 'sign')}. {told[0].upper()}{told[1:]}."


def film_strip(
    frames: Sequence[Image.Image],
    distances_m: Sequence[float],
    found: Sequence[bool],
    *,
    braking_m: float,
    limit: int = FRAMES_SHOWN,
) -> list[Frame]:
    """Frames of one drive from far to near, spread evenly if there are more than `limit`."""
    rows = spread(len(frames), limit)
    return [
        Frame(data_uri(frames[row]), f"{distances_m[row]:.1f} m", found[row], distances_m[row] >= braking_m)
        for row in rows
    ]


def spread(total: int, limit: int) -> list[int]:
    """At most `limit` rows of `total`, evenly, the first and the last among them."""
    if total <= limit:
        return list(range(total))
    return [round(row * (total - 1) / (limit - 1)) for row in range(limit)]


def film(title: str, clean: Sequence[Frame], attacked: Sequence[Frame]) -> Film:
    """The two strips of one drive, frame beside frame."""
    return Film(title, tuple(zip(clean, attacked, strict=True)))


def context(
    detection: Mapping[str, Any],
    *,
    pairs: Sequence[Pair],
    groups: str,
    approach: Mapping[str, Any] | None = None,
    films: Sequence[Film] = (),
) -> dict[str, Any]:
    """What `detector.sections` in detection.html.j2 shows. groups: what intervals are over, `18 photographs`."""
    return {
        "detection": detection,
        "pairs": pairs,
        "tables": plots.tables(detection),
        "curves": plots.precision_curves(detection),
        "groups": groups,
        "approach": approach,
        "chart": None if approach is None else plots.approach_plot(approach),
        "films": films,
        "size": plots,
    }
