"""Boxes, curves and strips say what was measured, in the picture and in words."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from jinja2 import ChoiceLoader, DictLoader, Environment, FileSystemLoader, StrictUndefined
from PIL import Image

import physadv.report
from physadv.detection_metrics import summary
from physadv.files import image_tensor
from physadv.report.detection import (
    COLOURS,
    MARKS,
    SAID,
    boxes_on,
    context,
    film,
    film_strip,
    marks,
    pairs,
    spread,
)
from physadv.report.detection_plots import (
    FLOOR,
    HEIGHT,
    LEFT,
    LINE_PX,
    RIGHT,
    TOP,
    WIDTH,
    apart,
    approach_plot,
    precision_curves,
    score,
    tables,
)
from physadv.report.words import interval, percent, rate_text
from physadv.stats import wilson
from physadv.targets import load_target
from physadv.targets.boxes import UNKNOWN, Detections, Seen, together
from physadv.targets.detector import letterbox

CLASSES = ("stop", "yield", "car")
SIGN, OTHER, ELSEWHERE = (10.0, 10.0, 50.0, 50.0), (100.0, 20.0, 140.0, 60.0), (20.0, 100.0, 60.0, 140.0)
VOID = {"meta", "link", "img", "br", "line", "polyline", "circle", "polygon"}
PAGE = """{% extends "base.html.j2" %}{% import "detection.html.j2" as detector %}
{% block title %}detector{% endblock %}{% block page %}{{ detector.sections(told) }}{% endblock %}"""


class Balanced(HTMLParser):
    """Tags with their attributes; one that is not closed is an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def page_of(told: dict) -> str:
    folder = Path(physadv.report.__file__).parent
    environment = Environment(
        loader=ChoiceLoader([DictLoader({"page.html.j2": PAGE}), FileSystemLoader(folder)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "interval": interval, "rate": rate_text}
    return environment.get_template("page.html.j2").render(told=told)


def seen_of(*signs: tuple[int, tuple[float, ...]], image: int = 0) -> Seen:
    return Seen(
        image=torch.full((len(signs),), image, dtype=torch.long),
        label=torch.tensor([label for label, _ in signs], dtype=torch.long),
        box=torch.tensor([box for _, box in signs], dtype=torch.float32).reshape(-1, 4),
        worn=torch.ones(len(signs), dtype=torch.bool),
    )


def found(*boxes: tuple[int, float, tuple[float, ...]]) -> Detections:
    rows = [*boxes, (0, 0.0, (0.0, 0.0, 0.0, 0.0))]
    return Detections(
        torch.tensor([[box for *_, box in rows]]),
        torch.tensor([[score for _, score, _ in rows]]),
        torch.tensor([[label for label, *_ in rows]]),
    )


def said(detections: Detections, seen: Seen, counted: tuple[int, ...] = (0, 1)) -> list[str]:
    return [one.label for one in marks(detections, seen, threshold=0.3, classes=CLASSES, counted=counted)]


def test_every_kind_of_mark():
    seen = seen_of((0, SIGN), (1, OTHER))
    assert said(found((0, 0.9, SIGN), (1, 0.3, OTHER)), seen) == ["✓ stop 0.90", "✓ yield 0.30"]
    assert said(found((0, 0.9, SIGN), (1, 0.29, OTHER)), seen) == ["✗ yield", "✓ stop 0.90"]
    assert said(found((1, 0.9, SIGN), (2, 0.8, OTHER)), seen) == ["✗ stop", "✗ yield", "≠ yield 0.90", "≠ car 0.80"]
    assert said(found((0, 0.9, SIGN), (1, 0.5, OTHER), (0, 0.4, ELSEWHERE)), seen)[2:] == ["+ stop 0.40"]
    assert said(found((2, 0.9, ELSEWHERE)), seen_of()) == []  # cars are nobody's business
    assert said(found(), seen_of()) == []


def test_a_sign_the_detector_cannot_know():
    seen = seen_of((UNKNOWN, SIGN))
    assert said(found(), seen) == []
    assert said(found((0, 0.9, SIGN)), seen) == ["≠ stop 0.90"]
    assert said(found((2, 0.9, SIGN)), seen) == []


@pytest.mark.parametrize(
    ("kind", "box"), [("right", (0, 0.9, SIGN)), ("wrong", (1, 0.9, SIGN)), ("false", (0, 0.9, ELSEWHERE))]
)
def test_boxes_stand_where_they_belong(kind, box):
    """Twice the size; the colour of the kind on the edge of the box, the photograph untouched within."""
    image = torch.full((3, 160, 160), 0.5)
    picture = boxes_on(
        image, found(box), seen_of((0, SIGN)), threshold=0.3, classes=CLASSES, counted=[0, 1], labels=False
    )
    assert picture.size == (320, 320)
    colour = tuple(bytes.fromhex(COLOURS[kind][1:]))
    left, top, right, bottom = (2 * int(edge) for edge in box[2])
    assert picture.getpixel(((left + right) // 2, top)) == colour
    assert picture.getpixel((right, (top + bottom) // 2)) == colour
    assert picture.getpixel(((left + right) // 2, (top + bottom) // 2)) == (128, 128, 128)
    assert picture.getpixel((300, 20)) == (128, 128, 128)


def test_the_truth_is_dashed():
    picture = np.asarray(
        boxes_on(
            torch.full((3, 160, 160), 0.5), found(), seen_of((0, SIGN)), threshold=0.3, classes=CLASSES, counted=[0]
        )
    )
    edge = picture[100, 22:98].tolist()  # the lower edge, below the label
    assert [255, 255, 255] in edge
    assert [32, 32, 32] in edge


def test_labels_keep_clear_of_each_other():
    """Two boxes in a corner: both labels inside the picture, neither over the other."""
    image, seen = torch.full((3, 200, 200), 0.5), seen_of((0, (0.0, 0.0, 40.0, 40.0)), (1, (2.0, 2.0, 44.0, 44.0)))
    both = found((0, 0.9, (0.0, 0.0, 40.0, 40.0)), (1, 0.8, (2.0, 2.0, 44.0, 44.0)))
    how = {"threshold": 0.3, "classes": CLASSES, "counted": [0, 1]}
    plain, labelled = (np.asarray(boxes_on(image, both, seen, labels=on, **how)).astype(int) for on in (False, True))
    blue = np.array(list(bytes.fromhex(COLOURS["right"][1:])))
    added = (labelled != plain).any(2) & (np.abs(labelled - blue).sum(2) < 12)
    rows = np.flatnonzero(added.sum(1) > 20)
    assert len(rows) >= 2 * 14
    assert len(np.unique(np.diff(rows))) >= 1


def test_large_photographs_stay_as_they_are():
    image = torch.zeros(3, 800, 700)
    how = {"threshold": 0.3, "classes": CLASSES, "counted": [0]}
    assert boxes_on(image, found(), seen_of(), **how).size == (700, 800)


def test_pairs_say_in_words_what_they_show():
    images = torch.full((3, 3, 160, 160), 0.5)
    one = found((0, 0.9, SIGN))
    clean = Detections(*(torch.cat([part] * 3) for part in (one.boxes, one.scores, one.labels)))
    hidden = Detections(clean.boxes, clean.scores * 0.1, clean.labels)
    how = {"threshold": 0.3, "classes": CLASSES, "counted": [0], "extent_px": torch.tensor([[120.0, 80.0]] * 3)}
    made = pairs(["a", "b", "c"], (images, clean), (images, hidden), seen_of((0, SIGN), image=1), **how, limit=2)
    assert [pair.where for pair in made] == ["a", "b"]
    assert made[1].clean.alt == "Photograph with 1 sign. Found: stop 0.90."
    assert made[1].attacked.alt == "Photograph with 1 sign. Missed: stop."
    assert made[0].clean.alt == "Photograph with 0 signs. False box: stop 0.90."
    assert made[0].attacked.alt == "Photograph with 0 signs. Nothing to be found, nothing found."
    picture = base64.b64decode(made[0].clean.picture.partition(",")[2])
    assert Image.open(io.BytesIO(picture)).size == (240, 160)
    assert pairs(["a"], (images, clean), None, seen_of(), **how)[0].attacked is None


def judged(**reach: float | None) -> dict:
    """Curves that are 1 up to a recall, or nowhere."""
    curve = {
        arm: [1.0 if share is not None and row / 100 <= share else 0.0 for row in range(101)]
        for arm, share in reach.items()
    }
    ap = {arm: {"ap": float(np.mean(one)), "signs": 20, "ci95": [0.1, 0.9]} for arm, one in curve.items()}
    boxes = {arm: {"per_image": 0.25, "boxes": 5, "images": 20, "ci95": [0.1, 0.5]} for arm in reach}
    rates = {arm: wilson(round(20 * (share or 0)), 20).to_json() for arm, share in reach.items()}
    one = {"signs": 20, "ap50": ap, "precision": rates, "recall": rates, "false_boxes": boxes, "curve": curve}
    unseen = {**one, "signs": 0, "ap50": {arm: {"ap": None, "signs": 0, "ci95": None} for arm in reach}}
    classes = {"stop": one, "yield": unseen | {"curve": dict.fromkeys(reach)}}
    return {"threshold": 0.3, "iou": 0.5, "images": 20, "classes": classes, "mean": ap, "false_boxes": boxes}


def test_precision_curves_end_where_the_recall_ends():
    (plot,) = precision_curves(judged(clean=0.97, artwork=0.3, grey=0.96, random=0.95))
    assert plot.title == "stop"
    assert [line.name for line in plot.lines] == ["clean", "artwork", "grey", "random"]
    width = WIDTH - LEFT - RIGHT
    assert [line.points[-1][0] for line in plot.lines] == pytest.approx(
        [LEFT + share * width for share in (0.97, 0.3, 0.96, 0.95)]
    )
    assert all(line.points[0] == (LEFT, TOP) for line in plot.lines)
    assert [line.leader for line in plot.lines] == [True, False, True, True]
    margin = sorted(line.label_at[1] for line in plot.lines if line.leader)
    assert min(np.diff(margin)) >= LINE_PX
    assert plot.alt == "stop: clean 0.97, artwork 0.31, grey 0.96, random 0.95"


def test_labels_of_many_short_curves_stand_in_the_margin():
    (plot,) = precision_curves(judged(clean=0.4, artwork=0.3, grey=0.35, random=0.95))
    assert all(line.leader for line in plot.lines)
    heights = sorted(line.label_at[1] for line in plot.lines)
    assert min(np.diff(heights)) >= LINE_PX


def test_a_curve_of_nothing():
    (plot,) = precision_curves(judged(clean=0.5, artwork=None))
    assert [line.said for line in plot.lines] == ["clean 0.50", "artwork 0.00"]
    assert len(plot.lines[1].points) == 1
    assert plot.lines[1].label_at[1] <= FLOOR


@pytest.mark.parametrize("heights", [[20.0, 21.0, 22.0], [240.0, 241.0, 246.0, 244.0], [50.0], [], [14.0, 200.0]])
def test_labels_stand_apart(heights):
    moved = apart(heights)
    assert sorted(range(len(heights)), key=lambda row: heights[row]) == sorted(
        range(len(heights)), key=lambda row: moved[row]
    )
    assert all(high - low >= LINE_PX - 1e-9 for low, high in zip(sorted(moved), sorted(moved)[1:], strict=False))
    assert all(TOP <= height <= FLOOR for height in moved)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0.00"), (1.0, "1.00"), (0.9962, "0.996"), (0.0001, "0.001"), (0.972, "0.97")],
)
def test_scores_do_not_round_to_certainty(value, text):
    assert score(value) == text


def test_tables_hold_every_arm():
    stop, unseen, together = tables(judged(clean=1.0, white=0.5))
    assert [row.arm for row in stop.rows] == ["clean", "white"]
    assert stop.rows[0].cells[0] == ("1.00", "[0.10–0.90]")
    assert stop.rows[0].cells[1][0] == "100 %"
    assert stop.rows[1].cells[3] == ("0.25", "[0.10–0.50]")
    assert unseen.rows[0].cells[0] == ("–", "")
    assert together.rows[1].cells[1] == ("", "")


def drives(braking_m: float = 15.0) -> dict:
    far = [40.0, 30.0, 20.0, 10.0, 5.0]
    clean = [[False, True, False, True, True], [False, False, True, True, True]]
    attacked = [[False, False, False, False, False], [False, False, False, True, False]]
    told = {"distances_m": far, "braking_m": braking_m}
    told["approaches"] = [{"clean": a, "attacked": b} for a, b in zip(clean, attacked, strict=True)]
    for side, late, never in (("clean", 0, 0), ("attacked", 2, 1)):
        told[side] = {"late": wilson(late, 2).to_json(), "never": wilson(never, 2).to_json()}
    return told


def test_what_has_been_found_stays_found():
    plot = approach_plot(drives())
    assert [line.said for line in plot.lines] == ["without 100 %", "artwork 50 %"]
    floor, height = HEIGHT - 44, HEIGHT - 44 - TOP
    clean = [round((floor - y) / height, 2) for _, y in plot.lines[0].points]
    assert clean == sorted(clean)
    assert set(clean) == {0.0, 0.5, 1.0}
    across = LEFT + (1 - 15 / 40) * (WIDTH - LEFT - RIGHT)
    assert plot.rule == (pytest.approx(across), "braking distance 15 m")
    x = [point[0] for point in plot.lines[0].points]
    assert x == sorted(x)
    assert approach_plot(drives(braking_m=84.0)).rule is None


def test_film_strip_shows_the_whole_drive():
    assert spread(5, 8) == [0, 1, 2, 3, 4]
    assert spread(14, 8) == [0, 2, 4, 6, 7, 9, 11, 13]
    pictures = [Image.new("RGB", (20, 20), (row, 0, 0)) for row in range(14)]
    strip = film_strip(pictures, [40.0 - row for row in range(14)], [row > 9 for row in range(14)], braking_m=33.0)
    assert [frame.distance for frame in strip][:2] == ["40.0 m", "38.0 m"]
    assert [frame.early for frame in strip] == [True] * 5 + [False] * 3
    assert [frame.found for frame in strip] == [False] * 6 + [True] * 2
    assert len(film("a", strip, strip).frames) == 8


def test_template_and_python_agree():
    text = (Path(physadv.report.__file__).parent / "detection.html.j2").read_text()
    for kind, colour in COLOURS.items():
        assert f".is.{kind} {{ color: {colour}; }}" in text
        assert f'"{kind}": "{MARKS[kind]}"' in text
        assert f'"{kind}": "{SAID[kind]}"' in text


def covered(images: torch.Tensor, seen: Seen, share: float, *, seed: int | None) -> torch.Tensor:
    """A grey (or, with a seed, blocky random) square over a share of every sign."""
    worn = images.clone()
    generator = torch.Generator().manual_seed(seed or 0)
    for image, box in zip(seen.image.tolist(), seen.box.tolist(), strict=True):
        middle = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
        half = [share**0.5 * (box[2] - box[0]) / 2, share**0.5 * (box[3] - box[1]) / 2]
        (left, right), (top, bottom) = (
            (max(0, round(m - h)), round(m + h) + 1) for m, h in zip(middle, half, strict=True)
        )
        part = worn[image, :, top:bottom, left:right]
        colours = torch.rand(3, 4, 4, generator=generator)[None]
        part[:] = 0.5 if seed is None else torch.nn.functional.interpolate(colours, part.shape[1:])[0]
    return worn


@pytest.fixture(scope="module")
def street(data):
    """Real photographs with signs of each kind, and what the real detector finds in them, bare or with squares."""
    target = load_target(f"export:{data / 'models' / 'yolox_nano_coco_416.pt2'}")
    names = {row: name for row, name in enumerate(target.classes) if name in ("stop-sign", "traffic-light")}
    folder = data / "roadsign" / "test"
    told = json.loads((folder / "instances.json").read_text())
    labels = {"stop": "stop-sign", "trafficlight": "traffic-light"}
    label_of = {one["id"]: labels.get(one["name"]) for one in told["categories"]}
    row_of = {None: UNKNOWN} | {name: row for row, name in names.items()}
    wanted = [one["image_id"] for one in told["annotations"] if one["category_id"] == 1][:12]
    wanted += [one["image_id"] for one in told["annotations"] if one["category_id"] != 1][:18]
    photographs = [one for one in told["images"] if one["id"] in wanted]
    images, extents, signs = [], [], []
    for photograph in photographs:
        picture = image_tensor(Image.open(folder / "images" / photograph["file_name"]).convert("RGB"))
        boxed, scale = letterbox(picture[None], target.frame)
        images.append(boxed)
        extents.append([scale * edge for edge in (photograph["width"], photograph["height"])])
        mine = [one for one in told["annotations"] if one["image_id"] == photograph["id"]]
        corners = [[scale * edge for edge in (x, y, x + w, y + h)] for x, y, w, h in (one["bbox"] for one in mine)]
        rows = [row_of[label_of[one["category_id"]]] for one in mine]
        signs.append(seen_of(*zip(rows, map(tuple, corners), strict=True), image=len(signs)))
    clean, seen = torch.cat(images), together(signs)
    arms = {"clean": clean, "artwork": covered(clean, seen, 0.6, seed=3)}
    arms |= {"grey": covered(clean, seen, 0.1, seed=None), "random": covered(clean, seen, 0.2, seed=5)}
    with torch.no_grad():
        detections = {arm: target.detect(one) for arm, one in arms.items()}
    return target, [one["file_name"] for one in photographs], torch.tensor(extents), arms, detections, seen, names


def zoomed(image: torch.Tensor, box: list[float], distance_m: float) -> torch.Tensor:
    """The photograph as from farther away or nearer: a window round the sign, enlarged."""
    size, middle = image.shape[-1], [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
    span = size * min(1.0, distance_m / 40)
    left, top = (min(max(0.0, m - span / 2), size - span) for m in middle)
    window = image[None, :, round(top) : round(top + span), round(left) : round(left + span)]
    return torch.nn.functional.interpolate(window, (size, size), mode="bilinear", antialias=True)[0]


def filmed(street, row: int) -> tuple[dict, list]:
    """A drive towards the first sign of photograph `row`, by enlarging it."""
    target, _, _, arms, _, seen, names = street
    metres = [round(40 * 0.1 ** (step / 13), 2) for step in range(14)]
    box = seen.take(seen.image == row).box[0].tolist()
    strips, hits = [], {}
    for side, arm in (("clean", "clean"), ("attacked", "artwork")):
        frames = torch.stack([zoomed(arms[arm][row], box, distance) for distance in metres])
        with torch.no_grad():
            detections = target.detect(frames)
        sure = (detections.scores >= target.threshold) & torch.isin(detections.labels, torch.tensor(list(names)))
        hits[side] = sure.any(1).tolist()
        how = {"threshold": target.threshold, "classes": target.classes, "counted": names, "labels": False}
        drawn = [boxes_on(frames[k], detections.take(torch.tensor([k])), seen_of(), **how) for k in range(len(frames))]
        strips.append(film_strip(drawn, metres, hits[side], braking_m=13.9))
    return hits, strips


def drive_of(hits: dict, count: int = 40) -> dict:
    """Forty drives like one, each with its own luck."""
    generator, told = (
        np.random.default_rng(0),
        {"distances_m": [round(40 * 0.1 ** (step / 13), 2) for step in range(14)]},
    )
    told |= {"braking_m": 13.9, "approaches": []}
    for _ in range(count):
        lucky = {side: (generator.random(14) < np.where(one, 0.6, 0.05)).tolist() for side, one in hits.items()}
        told["approaches"].append(lucky)
    early = np.array(told["distances_m"]) >= told["braking_m"]
    for side in hits:
        rows = np.array([one[side] for one in told["approaches"]])
        told[side] = {"late": wilson(int((~rows[:, early].any(1)).sum()), count).to_json()}
        told[side]["never"] = wilson(int((~rows.any(1)).sum()), count).to_json()
    return told


def test_page_of_real_detections(street, tmp_path):
    target, groups, extent_px, arms, detections, seen, names = street
    told = summary(detections, seen, names=names, threshold=target.threshold, groups=groups, seed=0)
    assert told["classes"]["stop-sign"]["ap50"]["clean"]["ap"] > 0.9
    assert told["classes"]["stop-sign"]["fall"]["artwork"]["ap"] > 0.3
    how = {"threshold": target.threshold, "classes": target.classes, "counted": names, "extent_px": extent_px}
    both = [(arms[arm], detections[arm]) for arm in ("clean", "artwork")]
    shown = pairs(groups, *both, seen, **how)
    stop = (seen.label == target.classes.index("stop-sign")).nonzero()[0, 0]
    hits, (clean, attacked) = filmed(street, int(seen.image[stop]))
    html = page_of(
        context(
            told,
            pairs=shown,
            groups=f"{len(set(groups))} photographs",
            approach=drive_of(hits),
            films=[film("One drive", clean, attacked)],
        )
    )
    (tmp_path / "page.html").write_text(html)
    parsed = Balanced(html)
    assert not re.findall(r'(?:src|href)="(?!data:)', html)
    images = [attrs for tag, attrs in parsed.tags if tag == "img"]
    assert len(images) == 2 * len(shown) + 2 * len(clean)
    assert all(attrs["alt"] for attrs in images)
    assert len(html) < 6_000_000
    assert json.dumps(told)
