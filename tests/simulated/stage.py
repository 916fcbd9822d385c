"""What stands before the simulated cameras: printed sheets, a sign with tags round it, what is behind; the light."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pypdfium2
from jaxtyping import Float, UInt8
from PIL import Image

from tests.simulated.camera import Camera, Light, Pose, View
from tests.simulated.press import Printer, Surface, painted, printed

BOARD_PX_PER_MM = 2


def sheet(pdf: Path, printer: Printer, *, page: int = 0, dpi: int = 200) -> Surface:
    """A page of a PDF on paper, at true size."""
    with pypdfium2.PdfDocument(str(pdf)) as document:
        width, height = document[page].get_size()
        picture = document[page].render(scale=dpi / 72).to_pil().convert("RGB")
    return printed(picture, printer, (width / 72 * 25.4, height / 72 * 25.4))


def board(
    face: Image.Image, face_mm: float, tags_mm: Mapping[int, Float[np.ndarray, "4 2"]], dictionary: int
) -> tuple[Surface, Float[np.ndarray, "2"]]:
    """A sign's face on a pale board with tags, and where on the board the face's top-left is, in mm.

    tags_mm: upright squares in mm from the face's top-left, in halves of a millimetre.
    """
    corners = np.concatenate([*tags_mm.values(), [[0, 0], [face_mm, face_mm]]])
    origin = np.floor(corners.min(0)) - 40
    width, height = (int(n) for n in BOARD_PX_PER_MM * (np.ceil(corners.max(0)) + 40 - origin))
    picture = Image.new("RGB", (width, height), (232, 232, 228))
    for number, square in tags_mm.items():
        (left, top), (right, _) = (BOARD_PX_PER_MM * (square[:2] - origin)).round().astype(int).tolist()
        marker = cv2.aruco.generateImageMarker(cv2.aruco.getPredefinedDictionary(dictionary), number, 8 * 32)
        # Sides of a tag need not be whole modules of pixels: the nearest one is at most a quarter of a millimetre off.
        tag = Image.fromarray(marker).resize((right - left, right - left), Image.Resampling.NEAREST)
        picture.paste(tag.point(lambda level: 28 + level * 204 // 255), (left, top))
    side, at = round(BOARD_PX_PER_MM * face_mm), tuple((-BOARD_PX_PER_MM * origin).astype(int).tolist())
    large = face.convert("RGBA").resize((side, side), Image.Resampling.LANCZOS)
    picture.paste(large.convert("RGB"), at, large.getchannel("A").point(lambda level: 255 * (level > 127)))
    return painted(picture, (width / BOARD_PX_PER_MM, height / BOARD_PX_PER_MM)), -origin


def clutter(rng: np.random.Generator, *, width: int = 800, height: int = 600) -> UInt8[np.ndarray, "h w 3"]:
    """Soft noise at all scales, and before it panels and chequers that a search for tags must not take for one."""
    picture = np.full((height, width, 3), rng.uniform(60, 170), np.float32) + rng.normal(0, 15, 3).astype(np.float32)
    for scale in (4, 16, 64):
        grid = height // scale + 2, width // scale + 2
        rough = (rng.normal(0, 22, (*grid, 1)) + rng.normal(0, 7, (*grid, 3))).astype(np.float32)
        picture += cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(6, 14)):
        cells, size = int(rng.integers(1, 9)), int(rng.integers(2, 16))
        code = 15 + rng.integers(0, 2, (cells, cells)) * rng.integers(120, 240)
        code = np.pad(code.astype(np.uint8), 1, constant_values=15).repeat(size, 0).repeat(size, 1)
        turn = cv2.getRotationMatrix2D((len(code) / 2, len(code) / 2), rng.uniform(0, 360), 1.0)
        turn[:, 2] += rng.uniform(0, (width, height))
        mask = cv2.warpAffine(np.ones_like(code), turn, (width, height))
        drawn = cv2.warpAffine(code, turn, (width, height), flags=cv2.INTER_LINEAR)
        picture = np.where(mask[..., None] > 0, drawn[..., None] * rng.uniform(0.8, 1, 3), picture)
    return picture.clip(0, 255).astype(np.uint8)


def draw_light(rng: np.random.Generator, *, brightest: float = 1.1) -> Light:
    """Sun, haze or shade, well exposed or under; `brightest` is the highest linear level of perfect white."""
    return Light(
        sun_kelvin=rng.uniform(4500, 6000),
        sky_kelvin=rng.uniform(7500, 15000),
        sun=rng.uniform(0, 0.9),
        exposure=brightest * 2 ** rng.uniform(-1.4, 0),
        gradient=tuple(rng.uniform(-0.25, 0.25, 2).tolist()),
        gloss=rng.uniform(0, 0.06),
        glare_uv=tuple(rng.uniform(0, 1, 2).tolist()),
    )


def draw_view(
    rng: np.random.Generator,
    camera: Camera,
    size_mm: tuple[float, float],
    *,
    distance_m: tuple[float, float],
    yaw_deg: float = 60.0,
) -> View:
    """Anywhere in the frame, whole. Distances are uniform in their logarithm; where it does not fit, it moves away."""
    pose = Pose(
        distance_m=float(np.exp(rng.uniform(*np.log(distance_m)))),
        yaw_deg=rng.uniform(-yaw_deg, yaw_deg),
        pitch_deg=rng.uniform(-20, 20),
        roll_deg=rng.uniform(-10, 10),
        bend=rng.uniform(-0.004, 0.004),
    )
    for _ in range(200):
        view = View(camera, replace(pose, at=tuple(rng.uniform(0.1, 0.9, 2).tolist())), size_mm)
        if view.whole:
            return view
        pose = replace(pose, distance_m=pose.distance_m * 1.01)
    raise ValueError(f"{size_mm} mm never fit before {camera.name} from {distance_m[0]} m on")
