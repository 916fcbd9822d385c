"""What is printed on traffic signs, as polygons: lettering after DIN 1451 and the pictograms of the drawn faces.

A glyph is a list of polygons (n, 2) in mm, x right, y down, origin at its centre unless said otherwise. Letters are
drawn from strokes, not from a font file, so that a face is the same on every machine.
"""

from typing import TypeAlias

import numpy as np
from jaxtyping import Float

Points: TypeAlias = Float[np.ndarray, "_ 2"]
Glyph: TypeAlias = list[Points]


def line(*points: tuple[float, float]) -> Points:
    return np.array(points, dtype=np.float64)


def arc(cx: float, cy: float, rx: float, ry: float, start_deg: float, end_deg: float) -> Points:
    """Points of an ellipse; 0° is +x and angles grow clockwise, because y points down."""
    steps = max(2, round(abs(end_deg - start_deg) / 4) + 1)
    angle = np.radians(np.linspace(start_deg, end_deg, steps))
    return np.stack([cx + rx * np.cos(angle), cy + ry * np.sin(angle)], axis=1)


def disc(cx: float, cy: float, radius: float) -> Points:
    return arc(cx, cy, radius, radius, 0, 360)


def box(x1: float, y1: float, x2: float, y2: float) -> Points:
    return line((x1, y1), (x2, y1), (x2, y2), (x1, y2))


def stroke(*path: Points, width: float) -> Points:
    """The outline of a pen of `width` drawn along the joined paths: flat ends, mitred corners."""
    points = np.concatenate(path)
    moves = np.linalg.norm(np.diff(points, axis=0), axis=1) > 1e-9
    points = points[np.concatenate([[True], moves])]
    step = np.diff(points, axis=0)
    normal = np.stack([-step[:, 1], step[:, 0]], axis=1) / np.linalg.norm(step, axis=1, keepdims=True)
    before, after = np.concatenate([normal[:1], normal]), np.concatenate([normal, normal[-1:]])
    offset = (before + after) / (1 + (before * after).sum(axis=1, keepdims=True)) * (width / 2)
    return np.concatenate([points + offset, (points - offset)[::-1]])


def loop(*path: Points, width: float) -> Glyph:
    """A closed stroke, as two halves that overlap: one polygon would show its seam."""
    points = np.concatenate(path)
    half = len(points) // 2
    return [stroke(points[: half + 2], width=width), stroke(points[half:], points[:3], width=width)]


def place(glyph: Glyph, *, x: float = 0, y: float = 0, scale: float = 1, turn_deg: float = 0) -> Glyph:
    """Scale, turn clockwise, then move."""
    c, s = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    rotation = np.array([[c, s], [-s, c]])
    return [scale * points @ rotation + (x, y) for points in glyph]


def mirrored(glyph: Glyph) -> Glyph:
    return [points * (-1, 1) for points in glyph]


# --- lettering: cap height 1, x from 0 to the letter's width ---------------------------------------------------------


def _letter(char: str, wide: float, pen: float) -> Glyph:
    """One of "01235678STOP" in a box of wide x 1, drawn with a pen of width `pen`."""
    left, right, top, low, mid = pen / 2, wide - pen / 2, pen / 2, 1 - pen / 2, 0.47
    cx, r, up, down = wide / 2, (right - left) / 2, (mid - pen / 2) / 2, (1 - pen / 2 - mid) / 2
    match char:
        case "0" | "O":
            return loop(arc(cx, top + r, r, r, 180, 360), arc(cx, low - r, r, r, 0, 180), width=pen)
        case "1":
            flag = line((wide - pen, 0), (wide - 2.2 * pen, 0.14), (wide - 2.2 * pen, 0.14 + 1.2 * pen), (wide, pen))
            return [box(wide - pen, 0, wide, 1), flag]
        case "2":
            curve = arc(cx, top + r, r, r, 185, 392)
            return [stroke(curve, line((0.8 * pen, low)), width=pen), box(0, 1 - pen, wide, 1)]
        case "3":
            upper = arc(cx, top + up, 0.93 * r, up, 190, 450)
            lower = arc(cx, low - down, r, down, 270, 535)
            notch = cx - 0.5 * pen
            return [stroke(upper, line((notch, mid)), width=pen), stroke(line((notch, mid)), lower, width=pen)]
        case "5":
            tall = (low - 0.37) / 2
            hook = line((right, top), (left, top), (left, 0.53))
            return [stroke(hook, width=pen), stroke(arc(cx, low - tall, r, tall, 208, 525), width=pen)]
        case "6":
            tall = (low - 0.40) / 2
            t = np.linspace(0, 1, 16)[:, None]
            start, pull, end = line((left, low - tall)), line((left, 0.33)), line((cx + 0.1, 0.05))
            neck = (1 - t) ** 2 * start + 2 * t * (1 - t) * pull + t**2 * end
            return [*loop(arc(cx, low - tall, r, tall, 0, 360), width=pen), stroke(neck, width=pen)]
        case "7":
            return [stroke(line((0, top), (right - 0.35 * pen, top), (0.42 * wide, 1)), width=pen)]
        case "8":
            upper, lower = arc(cx, top + up, 0.9 * r, up, 0, 360), arc(cx, low - down, r, down, 0, 360)
            return loop(upper, width=pen) + loop(lower, width=pen)
        case "S":
            upper, lower = arc(cx, top + up, r, up, 340, 90), arc(cx, low - down, r, down, 270, 520)
            return [stroke(upper, lower, width=pen)]
        case "T":
            return [box(0, 0, wide, pen), box(cx - pen / 2, 0, cx + pen / 2, 1)]
        case "P":
            bowl = 0.26
            curve = arc(right - bowl, top + bowl, bowl, bowl, 270, 450)
            return [box(0, 0, pen, 1), stroke(line((left, top)), curve, line((left, top + 2 * bowl)), width=pen)]
    raise KeyError(char)


def lettering(text: str, *, height_mm: float, wide: float, pen: float, gap: float) -> Glyph:
    """`text` centred on the origin; letter width, pen and gap are shares of the height (a 1 is narrower)."""
    widths = [2.2 * pen if char == "1" else wide for char in text]
    x, glyph = -(sum(widths) + gap * (len(text) - 1)) / 2, list[Points]()
    for char, width in zip(text, widths, strict=True):
        glyph += place(place(_letter(char, width, pen), x=x, y=-0.5), scale=height_mm)
        x += width + gap
    return glyph


# --- pictograms ------------------------------------------------------------------------------------------------------


def arrow_head(*, half: float, barb: float, stem: float) -> Points:
    """The open arrow head of the mandatory signs, pointing up from the stem to its tip at the origin, edges at 45°."""
    inner = half + barb - (half - stem / 2)
    right = line((0, 0), (half, half), (half, half + barb), (stem / 2, inner))
    return np.concatenate([right, (right * (-1, 1))[:0:-1]])


def arrow(*path: Points, stem: float, half: float, barb: float) -> Glyph:
    """A stroke along the joined path that ends in an arrow head whose tip is the last point."""
    points = np.concatenate(path)
    tip, direction = points[-1], points[-1] - points[-2]
    direction = direction / np.linalg.norm(direction)
    turn_deg = float(np.degrees(np.arctan2(direction[1], direction[0]))) + 90
    head = place([arrow_head(half=half, barb=barb, stem=stem)], turn_deg=turn_deg, x=tip[0], y=tip[1])
    shaft = np.concatenate([points[:-1], [tip - 0.6 * stem * direction]])
    return [stroke(shaft, width=stem), *head]


def car() -> Glyph:
    """The car of the no-overtaking signs, 156 mm wide."""
    roof = stroke(line((-66, -24), (-54, -68), (54, -68), (66, -24)), width=8)
    return [box(-78, -26, 78, 30), roof, box(-66, 30, -46, 48), box(46, 30, 66, 48)]


def truck() -> Glyph:
    """A lorry driving to the left, 310 mm long."""
    cab = line((-155, 38), (-155, 0), (-118, -8), (-96, -50), (-60, -50), (-60, 38))
    return [box(-48, -92, 155, 14), cab, box(-155, 24, 155, 42), disc(-98, 44, 27), disc(104, 44, 27)]


def stripes() -> Glyph:
    """The five diagonal lines that end a restriction, chords of a disc of radius 290 mm."""
    halves = {offset: (290**2 - offset**2) ** 0.5 for offset in (-46, -23, 0, 23, 46)}
    lines = [box(-half, offset - 5.5, half, offset + 5.5) for offset, half in halves.items()]
    return place(lines, turn_deg=-45)


def bicycle() -> Glyph:
    """A bicycle facing left, 320 mm long."""
    frame = line((-95, 50), (-62, -52), (40, -52), (0, 50), (-68, -34))
    rims = [half for x in (-95, 95) for half in loop(arc(x, 50, 60, 60, 0, 360), width=10)]
    stays = [line((0, 50), (95, 50), (40, -52)), line((40, -52), (33, -72)), line((15, -74), (58, -74))]
    bars = [line((-62, -52), (-68, -92)), line((-90, -92), (-52, -92))]
    return [*rims, *(stroke(path, width=11) for path in (frame[:2], frame[1:4], frame[3:], *stays, *bars))]


def snowflake() -> Glyph:
    """A six-armed crystal, 230 mm across."""
    twigs = [line((-28, -90), (0, -60), (28, -90)), line((-24, -54), (0, -30), (24, -54))]
    arm = [stroke(path, width=14) for path in (line((0, 0), (0, -115)), *twigs)]
    return [points for turn in range(0, 360, 60) for points in place(arm, turn_deg=turn)]
