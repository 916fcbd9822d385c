"""A colour chart: as a picture to print, as boxes on its face, and as it is read from a photograph."""

from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image

from physadv.calibration.difference import lab, linear
from physadv.errors import UserError
from physadv.files import read_json

VERSION = 1
PX_PER_MM = 5
_GAP_MM = 1.2
# Columns, rows, mm from patch to patch, mm of white border: at least half a patch, so that the outer edges stand free.
_LAYOUTS = {24: (6, 4, 26.0, 12.0), 96: (12, 8, 13.0, 12.0), 256: (16, 16, 10.0, 10.0)}
INNER = 0.6  # share of a patch's side that is read: its border is blurred
_PIXELS_MIN = 9
_TRIMMED = 0.1  # share of the pixels left out at either end: dust, a bird's shadow
_ORDERED = 0.6  # rank correlation with the chart: its photographs have 0.83 and more, what is none of it 0.2 at most
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
_CLIPPED = 0.02  # share of pixels at an end of the scale from which a patch is not to be trusted


@dataclass(frozen=True)
class Chart:
    """Patches on a white face. box_uv: xyxy in shares of the face, origin at its top-left; size_mm: of the face."""

    rgb: Int[np.ndarray, "n 3"]
    box_uv: Float[np.ndarray, "n 4"]
    size_mm: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.rgb)

    @property
    def srgb(self) -> Float[np.ndarray, "n 3"]:
        """The colours asked for, sRGB in [0, 1]."""
        return self.rgb / 255

    def take(self, rows: Int[np.ndarray, " m"]) -> "Chart":
        return Chart(self.rgb[rows], self.box_uv[rows], self.size_mm)


@dataclass(frozen=True)
class Reading:
    """The patches of one photograph, in linear RGB: robust means, variances of single pixels, and what clipped."""

    mean: Float[np.ndarray, "n 3"]
    variance: Float[np.ndarray, "n 3"]
    clipped: Bool[np.ndarray, " n"]


def make_chart(patches: int) -> Chart:
    """The chart of 24, 96 or 256 patches: always the same colours, in an order in which neighbours are unlike.

    The colours are the corners of the RGB cube, greys, and then always the colour farthest (in L*a*b*) from all before.
    """
    if patches not in _LAYOUTS:
        raise UserError(f"A chart has {', '.join(map(str, _LAYOUTS))} patches, not {patches}.")
    columns, rows, pitch_mm, border_mm = _LAYOUTS[patches]
    size_mm = columns * pitch_mm + 2 * border_mm, rows * pitch_mm + 2 * border_mm
    # Shuffled, so that light falling off over the chart is not mistaken for a trend of the colours.
    rgb = _colours(patches)[np.random.default_rng(patches).permutation(patches)]
    across, down = np.meshgrid(np.arange(columns), np.arange(rows))
    low = border_mm + pitch_mm * np.stack([across, down], -1).reshape(-1, 2) + _GAP_MM / 2
    boxes_mm = np.concatenate([low, low + pitch_mm - _GAP_MM], 1)
    return Chart(rgb, boxes_mm / np.tile(size_mm, 2), size_mm)


def chart_picture(patches: int) -> Image.Image:
    """The chart as a picture at `PX_PER_MM`; its width on paper is `make_chart(patches).size_mm[0]`."""
    chart = make_chart(patches)
    assert chart.size_mm is not None
    width, height = (round(side * PX_PER_MM) for side in chart.size_mm)
    pixels = np.full((height, width, 3), 255, np.uint8)
    for rgb, box in zip(chart.rgb, chart.box_uv * (width, height, width, height), strict=True):
        left, top, right, bottom = box.round().astype(int)
        pixels[top:bottom, left:right] = rgb
    return Image.fromarray(pixels)


@cache
def _colours(patches: int) -> Int[np.ndarray, "n 3"]:
    """Nested: the first 24 of 256 are the 24."""
    levels = np.round(np.linspace(0, 255, 9)).astype(int)
    grid = np.array(list(product(levels, repeat=3)))
    greys = np.repeat(np.array([51, 102, 153, 204])[:, None], 3, 1)
    chosen = [*product((0, 255), repeat=3), *map(tuple, greys)]
    space = lab(linear(grid / 255))
    nearest = np.full(len(grid), np.inf)
    for colour in lab(linear(np.array(chosen) / 255)):
        nearest = np.minimum(nearest, ((space - colour) ** 2).sum(1))
    while len(chosen) < patches:
        farthest = int(nearest.argmax())
        chosen.append(tuple(grid[farthest]))
        nearest = np.minimum(nearest, ((space - space[farthest]) ** 2).sum(1))
    return np.array(chosen[:patches])


def strip(chart: Chart, patches: int) -> Int[np.ndarray, " m"]:
    """Rows of the patches that a colour strip would hold: those nearest to the first of `make_chart`, each once."""
    wanted, space = lab(linear(_colours(patches) / 255)), lab(linear(chart.srgb))
    apart = np.linalg.norm(wanted[:, None] - space[None], axis=2)
    rows: list[int] = []
    for distances in apart:
        order = [int(row) for row in distances.argsort() if int(row) not in rows]
        rows += order[:1]
    return np.array(sorted(rows))


def chart_json(chart: Chart) -> dict[str, Any]:
    """What `load_chart` reads (docs/calibration.md)."""
    width, height = chart.size_mm or (1.0, 1.0)
    patches = [
        {"rgb": rgb.tolist(), "box_uv": box.tolist()}
        | ({"box_mm": (box * (width, height, width, height)).round(3).tolist()} if chart.size_mm else {})
        for rgb, box in zip(chart.rgb, chart.box_uv, strict=True)
    ]
    return {"version": VERSION, "size_mm": chart.size_mm and list(chart.size_mm), "patches": patches}


def load_chart(path: str | Path) -> Chart:
    """Colours and boxes of a chart file; a chart of another maker needs only `rgb` and `box_uv` of each patch.

    Errors: UserError where colours or boxes are missing, or outside 0..255 and 0..1.
    """
    content = read_json(path)
    try:
        asked = np.array([patch["rgb"] for patch in content["patches"]], dtype=float).reshape(-1, 3)
        boxes = np.array([patch["box_uv"] for patch in content["patches"]], dtype=float).reshape(-1, 4)
        size = content.get("size_mm")
        size_mm = (float(size[0]), float(size[1])) if size else None
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{path} is no chart: every patch needs rgb and box_uv; see docs/calibration.md.") from error
    rgb = np.nan_to_num(asked, nan=-1).astype(int)
    coloured = bool(((rgb == asked) & (rgb >= 0) & (rgb <= 255)).all())
    boxed = bool((boxes >= 0).all() and (boxes <= 1).all() and (boxes[:, :2] < boxes[:, 2:]).all())
    if len(rgb) < 16 or len(rgb) != len(boxes) or not (coloured and boxed):
        raise UserError(
            f"{path} is no chart: it needs 16 patches or more, rgb of whole numbers in 0..255 and box_uv in 0..1."
        )
    return Chart(rgb, boxes, size_mm)


def homography(corners_px: Float[np.ndarray, "4 2"]) -> Float[np.ndarray, "3 3"]:
    """Face shares (u, v) -> px, from the face's corners: top left, top right, bottom right, bottom left."""
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    return cv2.getPerspectiveTransform(square, np.asarray(corners_px, np.float32)).astype(float)


def project(matrix: Float[np.ndarray, "3 3"], points: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
    """A homography acting on points."""
    mapped = points @ matrix[:, :2].T + matrix[:, 2]
    return mapped[..., :2] / mapped[..., 2:]


def read_chart(
    image: Float[np.ndarray, "h w 3"], chart: Chart, corners_px: Float[np.ndarray, "4 2"], *, name: str
) -> Reading:
    """The inner 60 % of every patch, pixel by pixel (nothing is resampled), in linear RGB.

    image: sRGB in [0, 1]; corners_px: of the chart's face, pixel centres at +0.5, from top left, clockwise.
    Errors: UserError where the corners leave the photograph, or the patches are too small to be read.
    """
    height, width = image.shape[:2]
    corners = np.asarray(corners_px, float)
    if (corners < -1).any() or (corners > (width + 1, height + 1)).any():
        raise UserError(f"{name}: the chart's corners lie outside its {width} x {height} px; check them.")
    matrix = homography(corners)
    means, variances, clipped = [], [], []
    for box in _inner(chart.box_uv):
        pixels = _pixels(image, matrix, box)
        if len(pixels) < _PIXELS_MIN:
            raise UserError(f"{name}: a patch of the chart has only {len(pixels)} px inside; go nearer to it.")
        light = linear(pixels)
        means.append(_trimmed_mean(light))
        variances.append(light.var(0, ddof=1))
        clipped.append(((pixels >= 254.5 / 255) | (pixels <= 0.5 / 255)).mean(0).max() > _CLIPPED)
    return Reading(np.array(means), np.array(variances), np.array(clipped))


def check_order(chart: Chart, reading: Reading, *, name: str) -> None:
    """UserError: the patches are not light and dark in the chart's order, whatever the printer, light and camera."""
    if (order := order_of(chart, reading)) < _ORDERED:
        raise UserError(
            f"{name}: its patches are not light and dark as the chart's (rank correlation {order:.2f}, {_ORDERED} is "
            "needed): it shows another chart or none, or the corners are wrong; check --chart, --corners and --sheet."
        )


def order_of(chart: Chart, reading: Reading) -> float:
    """Spearman's rank correlation of the patches' luminances, asked for and seen; 0 where all look alike."""
    asked, seen = (_ranks((light @ _LUMINANCE).round(6)) for light in (linear(chart.srgb), reading.mean))
    spread = asked.std() * seen.std()
    return 0.0 if spread == 0 else float(((asked - asked.mean()) * (seen - seen.mean())).mean() / spread)


def _ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """1 to n; equal values share their mean rank."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def _inner(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * INNER
    return np.concatenate([centre - half, centre + half], 1)


def _pixels(
    image: Float[np.ndarray, "h w 3"], matrix: Float[np.ndarray, "3 3"], box: Float[np.ndarray, "4"]
) -> Float[np.ndarray, "m 3"]:
    """The pixels whose centres fall into a box of the face."""
    left, top, right, bottom = box
    quad = project(matrix, np.array([[left, top], [right, top], [right, bottom], [left, bottom]]))
    (x0, y0), (x1, y1) = np.floor(quad.min(0)).astype(int), np.ceil(quad.max(0)).astype(int)
    x0, y0 = max(x0, 0), max(y0, 0)
    window = image[y0:y1, x0:x1]
    across, down = np.meshgrid(np.arange(window.shape[1]) + x0 + 0.5, np.arange(window.shape[0]) + y0 + 0.5)
    uv = project(np.linalg.inv(matrix), np.stack([across, down], -1))
    return window[((uv > (left, top)) & (uv < (right, bottom))).all(-1)]


def _trimmed_mean(light: Float[np.ndarray, "m 3"]) -> Float[np.ndarray, "3"]:
    """Mean without the highest and lowest tenth of each channel."""
    out = int(_TRIMMED * len(light))
    return np.sort(light, axis=0)[out : len(light) - out].mean(0)
