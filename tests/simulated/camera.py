"""Four cameras that photograph printed things: an independent opponent for capture and calibrate (docs/capture.md).

NumPy, OpenCV and Pillow; nothing of physadv, least of all its transforms. Light is 16 spectral bands until it meets the
sensor. Camera coordinates: x right, y down, z forward. Photographs: pixel centres at +0.5. Poses are against the ray to
the thing: yaw positive when its right side recedes, pitch when its top does, roll clockwise.
"""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8, UInt16
from PIL import ExifTags, Image

from tests.simulated.press import BAND_NM, Surface, bump, decoded, encoded, eye, planck

FINE = 4  # samples of a pixel across and down
CELL_PX = 4  # the way back from a pixel to the sheet is followed exactly at the middle of such cells
EDGE_PX = 12


@dataclass(frozen=True)
class Camera:
    """One camera. centre_px: principal point from the middle. distortion: k1, k2. peaks_nm, widths_nm: R, G, B filters.

    electrons: at the end of the scale. disc_px, motion_px: ranges of the blur's radius and of the shutter's path.
    contrast: share of a smoothstep in the tone curve; lift: its black. sharpening: amount, sigma in px.
    cast: standard deviation of the white balance in stops. jpeg: quality, Pillow's subsampling (0: 4:4:4, 2: 4:2:0).
    exif: what the file says of the focal length, whose 35 mm equivalent is rounded to a whole millimetre.
    """

    name: str
    size_px: tuple[int, int]
    focal_px: float
    centre_px: tuple[float, float]
    distortion: tuple[float, float]
    peaks_nm: tuple[float, float, float]
    widths_nm: tuple[float, float, float]
    vignetting: float
    electrons: float
    read_electrons: float
    disc_px: tuple[float, float]
    motion_px: tuple[float, float]
    contrast: float
    lift: float
    saturation: float
    sharpening: tuple[float, float]
    cast: float
    jpeg: tuple[int, int]
    exif: Literal["film", "plane", "none"]

    @property
    def sensitivity(self) -> Float[np.ndarray, "16 3"]:
        return np.stack([bump(p, w) for p, w in zip(self.peaks_nm, self.widths_nm, strict=True)], 1)


A = Camera(
    name="a phone", size_px=(1600, 1200), focal_px=1213.0, centre_px=(7.0, -5.0), distortion=(0.012, -0.009),
    peaks_nm=(602, 536, 462), widths_nm=(34, 40, 28), vignetting=0.25, electrons=4000, read_electrons=4,
    disc_px=(0.5, 1.1), motion_px=(0.0, 1.0), contrast=0.45, lift=0.0, saturation=1.15, sharpening=(0.7, 0.9),
    cast=0.08, jpeg=(91, 2), exif="film",
)  # fmt: skip
B = Camera(
    name="a dashcam", size_px=(1280, 720), focal_px=940.0, centre_px=(-9.0, 6.0), distortion=(-0.06, 0.012),
    peaks_nm=(612, 530, 455), widths_nm=(44, 46, 36), vignetting=0.45, electrons=1800, read_electrons=7,
    disc_px=(0.7, 1.3), motion_px=(0.0, 2.0), contrast=0.2, lift=0.02, saturation=1.0, sharpening=(1.0, 1.2),
    cast=0.15, jpeg=(84, 2), exif="none",
)  # fmt: skip
C = Camera(
    name="a system camera", size_px=(1920, 1280), focal_px=1810.0, centre_px=(4.0, 6.0), distortion=(-0.025, 0.02),
    peaks_nm=(596, 540, 468), widths_nm=(38, 36, 30), vignetting=0.35, electrons=9000, read_electrons=3,
    disc_px=(0.4, 1.4), motion_px=(0.0, 1.5), contrast=0.3, lift=0.01, saturation=1.08, sharpening=(0.4, 0.7),
    cast=0.1, jpeg=(95, 1), exif="plane",
)  # fmt: skip
D = Camera(
    name="an action camera", size_px=(1920, 1440), focal_px=1480.0, centre_px=(-6.0, 9.0), distortion=(-0.04, 0.015),
    peaks_nm=(606, 533, 460), widths_nm=(40, 42, 32), vignetting=0.4, electrons=2800, read_electrons=5,
    disc_px=(0.5, 1.2), motion_px=(0.0, 1.8), contrast=0.38, lift=0.005, saturation=1.1, sharpening=(0.8, 1.0),
    cast=0.12, jpeg=(88, 2), exif="film",
)  # fmt: skip


@dataclass(frozen=True)
class Pose:
    """Of a thing's middle. at: in shares of the frame. bend: its sides out of the plane, in shares of its width."""

    distance_m: float
    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
    roll_deg: float = 0.0
    at: tuple[float, float] = (0.5, 0.5)
    bend: float = 0.0


@dataclass(frozen=True)
class Light:
    """Sun beside sky, both black bodies. exposure: linear level of perfect white.

    gradient: relative change across and down the thing. gloss: the sky's reflection at its brightest, and everywhere
    a fifth of that, in shares of perfect white; glare_uv: where it is brightest.
    """

    sun_kelvin: float = 5400.0
    sky_kelvin: float = 11000.0
    sun: float = 0.7
    exposure: float = 0.8
    gradient: tuple[float, float] = (0.0, 0.0)
    gloss: float = 0.0
    glare_uv: tuple[float, float] = (0.5, 0.5)


@dataclass(frozen=True)
class View:
    """A thing of that size before a camera: mm on it <-> px of the photograph."""

    camera: Camera
    pose: Pose
    size_mm: tuple[float, float]

    def project(self, points_mm: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Where points of the thing are in the photograph."""
        turn, shift = self._placed()
        flat = points_mm - np.divide(self.size_mm, 2)
        seen = np.column_stack([flat, self._bend() * flat[:, 0] ** 2]) @ turn.T + shift
        plane = seen[:, :2] / seen[:, 2:]
        return self.camera.focal_px * _distorted(plane, self.camera.distortion) + self._centre()

    def back(self, points_px: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Where the rays through those px meet the bent thing."""
        turn, shift = self._placed()
        distorted = (points_px - self._centre()) / self.camera.focal_px
        plane = distorted
        for _ in range(12):
            plane = plane + distorted - _distorted(plane, self.camera.distortion)
        ray, eye_mm = np.column_stack([plane, np.ones(len(plane))]) @ turn, -shift @ turn
        reach = -eye_mm[2] / ray[:, 2]
        for _ in range(8):
            across = eye_mm[0] + reach * ray[:, 0]
            reach = (self._bend() * across**2 - eye_mm[2]) / ray[:, 2]
        return (eye_mm + reach[:, None] * ray)[:, :2] + np.divide(self.size_mm, 2)

    @property
    def outline_px(self) -> Float[np.ndarray, "80 2"]:
        side = np.linspace(0, 1, 21)[:-1, None] * [1.0, 0.0]
        square = np.concatenate([side, side[:, ::-1] + [1, 0], 1 - side, [0, 1] - side[:, ::-1]])
        return self.project(square * self.size_mm)

    @property
    def whole(self) -> bool:
        """Whether nothing of the thing lies outside the photograph."""
        outline = self.outline_px
        return bool((outline > EDGE_PX).all() and (outline < np.subtract(self.camera.size_px, EDGE_PX)).all())

    def _centre(self) -> Float[np.ndarray, "2"]:
        return np.divide(self.camera.size_px, 2) + self.camera.centre_px

    def _bend(self) -> float:
        return 4 * self.pose.bend / self.size_mm[0]

    def _placed(self) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]:
        """The thing's axes as columns, and its middle in mm."""
        aim = (np.multiply(self.pose.at, self.camera.size_px) - self._centre()) / self.camera.focal_px
        ray = np.array([*aim, 1.0]) / math.hypot(*aim, 1.0)
        yaw, pitch, roll = (math.radians(a) for a in (self.pose.yaw_deg, self.pose.pitch_deg, self.pose.roll_deg))
        yawed = np.array([[math.cos(yaw), 0, -math.sin(yaw)], [0, 1, 0], [math.sin(yaw), 0, math.cos(yaw)]])
        pitched = np.array([[1, 0, 0], [0, math.cos(pitch), math.sin(pitch)], [0, -math.sin(pitch), math.cos(pitch)]])
        rolled = np.array([[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]])
        return _towards(ray) @ rolled @ pitched @ yawed, 1000 * self.pose.distance_m * ray


def _towards(ray: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """The smallest turn of the optical axis onto a ray (Rodrigues)."""
    cross = np.array([[0, 0, ray[0]], [0, 0, ray[1]], [-ray[0], -ray[1], 0]])
    return np.eye(3) + cross + cross @ cross / (1 + ray[2])


def _distorted(plane: Float[np.ndarray, "n 2"], k: tuple[float, float]) -> Float[np.ndarray, "n 2"]:
    r2 = (plane**2).sum(1, keepdims=True)
    return plane * (1 + k[0] * r2 + k[1] * r2**2)


def photograph(
    surface: Surface | None,
    camera: Camera,
    pose: Pose,
    light: Light,
    background: UInt8[np.ndarray, "_ _ 3"],
    *,
    rng: np.random.Generator,
    margin_px: int | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """What the camera makes of the thing, or of the background alone, before it is written as JPEG.

    margin_px: only so much round the thing is developed, the rest of the frame is grey; a small thing takes a tenth of
    the time.
    """
    lamp = light.sun * planck(light.sun_kelvin) + (1 - light.sun) * planck(light.sky_kelvin)
    white = lamp @ camera.sensitivity
    matrix = colour_matrix(camera)
    view = None if surface is None else View(camera, pose, surface.size_mm)
    part = np.s_[:, :] if view is None or margin_px is None else _part(view, margin_px)
    raw = np.maximum(cv2.transform(_backdrop(background, camera, part), np.linalg.inv(matrix)), 0)
    kernel = _kernel(camera, rng)
    if surface is not None and view is not None:
        _lay_in(raw, surface, view, light, lamp, kernel, (part[1].start or 0, part[0].start or 0))
    raw *= _vignette(camera)[part][..., None]
    balance = 2 ** rng.normal(0, camera.cast, 3)
    mosaic = _sensed(raw, light.exposure * white / white.max(), camera, rng)
    colours = cv2.cvtColor(mosaic, cv2.COLOR_BAYER_RGGB2RGB_EA).astype(np.float32)
    shown = _developed(cv2.transform(colours, matrix * (white.max() / white * balance / balance[1] / 65535)), camera)
    if margin_px is None:
        return shown
    frame = np.full((*camera.size_px[::-1], 3), 128, np.uint8)
    frame[part] = shown
    return frame


def _part(view: "View", margin_px: int) -> tuple[slice, slice]:
    """Rows and columns round the thing, from even numbers on, so that the mosaic stays as it is."""
    low = np.maximum(view.outline_px.min(0) - margin_px, 0).astype(int) // 2 * 2
    high = np.minimum(view.outline_px.max(0) + margin_px, view.camera.size_px).astype(int) // 2 * 2
    return slice(low[1], high[1]), slice(low[0], high[0])


def _backdrop(
    background: UInt8[np.ndarray, "_ _ 3"], camera: Camera, part: tuple[slice, ...]
) -> Float32[np.ndarray, "h w 3"]:
    """A part of a picture that is cut and enlarged to the frame, in linear light."""
    width, height = camera.size_px
    scale = max(width / background.shape[1], height / background.shape[0])
    large = cv2.resize(background, None, fx=scale * 1.001, fy=scale * 1.001, interpolation=cv2.INTER_CUBIC)
    return decoded(np.arange(256) / 255).astype(np.float32)[large[:height, :width][part]]


def _kernel(camera: Camera, rng: np.random.Generator) -> Float32[np.ndarray, "k k"]:
    """Disc of defocus, drawn out along the shutter's path, in fine samples."""
    disc, path, turn = rng.uniform(*camera.disc_px), rng.uniform(*camera.motion_px), rng.uniform(0, math.pi)
    reach = FINE * math.ceil(disc + path / 2 + 1) - FINE // 2
    down, across = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    steps = FINE * path * np.linspace(-0.5, 0.5, 9)
    apart = [np.hypot(across - s * math.cos(turn), down - s * math.sin(turn)) for s in steps]
    kernel = np.sum([np.clip(FINE * disc + 0.5 - r, 0, 1) for r in apart], 0)
    return (kernel / kernel.sum()).astype(np.float32)


def _lay_in(
    raw: Float32[np.ndarray, "h w 3"],
    surface: Surface,
    view: View,
    light: Light,
    lamp: Float[np.ndarray, "16"],
    kernel: Float32[np.ndarray, "k k"],
    origin: tuple[int, int],
) -> None:
    """The thing over the background: 4 x 4 samples a pixel, blurred together with its outline. origin: of `raw`."""
    outline = view.outline_px
    low = np.maximum(np.floor(outline.min(0)).astype(int) - EDGE_PX, origin)
    end = np.minimum(np.add(origin, raw.shape[1::-1]), view.camera.size_px)
    cells = -(-(np.minimum(np.ceil(outline.max(0)).astype(int) + EDGE_PX, end) - low) // CELL_PX)
    grid = np.stack(np.meshgrid(*(np.arange(n) + 0.5 for n in cells)), -1) * CELL_PX + low
    there = view.back(grid.reshape(-1, 2)).reshape(grid.shape).astype(np.float32)
    there = cv2.resize(there, None, fx=CELL_PX * FINE, fy=CELL_PX * FINE, interpolation=cv2.INTER_LINEAR)
    picture = _lit(surface, view, light, lamp)
    scale = np.divide(picture.shape[1::-1], surface.size_mm).astype(np.float32)
    at = there * scale - np.float32(0.5)
    fine = cv2.remap(picture, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    seen = cv2.resize(cv2.filter2D(fine, -1, kernel), None, fx=1 / FINE, fy=1 / FINE, interpolation=cv2.INTER_AREA)
    left, top = low - origin
    window = raw[top : top + len(seen), left : left + seen.shape[1]]
    seen = seen[: window.shape[0], : window.shape[1]]
    window *= 1 - seen[..., 3:]
    window += seen[..., :3]


def _lit(surface: Surface, view: View, light: Light, lamp: Float[np.ndarray, "16"]) -> Float32[np.ndarray, "y x 4"]:
    """White-balanced sensor values and coverage at about the pitch of the fine samples, gradient and gloss included."""
    white = lamp @ view.camera.sensitivity
    sky = planck(light.sky_kelvin) @ view.camera.sensitivity / white
    palette = (surface.spectra * lamp) @ view.camera.sensitivity / white
    palette = np.concatenate([np.column_stack([palette, np.ones(len(palette))]), np.zeros((1, 4))]).astype(np.float32)
    picture = palette[surface.index]  # -1: the last row
    width, height = (max(2, round(n)) for n in np.minimum(picture.shape[1::-1], FINE * _extent_px(view)))
    picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    u, v = (np.arange(width) + 0.5) / width, ((np.arange(height) + 0.5) / height)[:, None]
    ramp = 1 + light.gradient[0] * (u - 0.5) + light.gradient[1] * (v - 0.5)
    glare = np.exp(-((u - light.glare_uv[0]) ** 2 + (v - light.glare_uv[1]) ** 2) / 0.08)
    picture[..., :3] *= ramp[..., None]
    picture[..., :3] += (light.gloss * (0.2 + 0.8 * glare))[..., None] * sky * picture[..., 3:]
    return picture


def _extent_px(view: View) -> Float[np.ndarray, "2"]:
    """Across and down, px that the thing would have if all of it were as near as its nearest part."""
    lattice = np.stack(np.meshgrid(*(np.linspace(0, side, 9) for side in view.size_mm)), -1)
    seen = view.project(lattice.reshape(-1, 2)).reshape(lattice.shape)
    return 8 * np.array([np.linalg.norm(np.diff(seen, axis=axis), axis=-1).max() for axis in (1, 0)])


@cache
def _vignette(camera: Camera) -> Float32[np.ndarray, "h w"]:
    width, height = camera.size_px
    across, down = (np.arange(width) + 0.5) / width - 0.5, ((np.arange(height) + 0.5) / height - 0.5)[:, None]
    r2 = ((across * width) ** 2 + (down * height) ** 2) / (width**2 + height**2) * 4
    return (1 - camera.vignetting * r2).astype(np.float32)


def _sensed(
    raw: Float32[np.ndarray, "h w 3"], gains: Float[np.ndarray, "3"], camera: Camera, rng: np.random.Generator
) -> UInt16[np.ndarray, "h w"]:
    """RGGB mosaic with shot and read noise, 12 bits in the upper part of 16."""
    mosaic = raw[..., 1] * np.float32(gains[1])
    mosaic[::2, ::2] = raw[::2, ::2, 0] * gains[0]
    mosaic[1::2, 1::2] = raw[1::2, 1::2, 2] * gains[2]
    spread = np.sqrt(mosaic / camera.electrons + np.float32(camera.read_electrons / camera.electrons) ** 2)
    noisy = mosaic + spread * rng.standard_normal(mosaic.shape, dtype=np.float32)
    return (np.clip(noisy, 0, 1) * 4095).round().astype(np.uint16) * 16


def _developed(linear: Float32[np.ndarray, "h w 3"], camera: Camera) -> UInt8[np.ndarray, "h w 3"]:
    """Tone curve, sharpening, 8 bits."""
    level = encoded(np.linspace(0, 1, 4096))
    curve = (1 - camera.contrast) * level + camera.contrast * (3 * level**2 - 2 * level**3)
    curve = (camera.lift + (1 - camera.lift) * curve).astype(np.float32)
    shown = curve[(np.clip(linear, 0, 1) * 4095).round().astype(np.int16)]
    amount, sigma = camera.sharpening
    soft = cv2.GaussianBlur(shown, (0, 0), sigma)
    return cv2.addWeighted(shown, 255 * (1 + amount), soft, -255 * amount, 0, dtype=cv2.CV_8U)


@cache
def colour_matrix(camera: Camera) -> Float[np.ndarray, "3 3"]:
    """White-balanced sensor -> linear sRGB by least squares over smooth spectra; white stays white. Then saturation."""
    rng = np.random.default_rng(3)
    peaks, widths = rng.uniform(380, 720, (400, 1)), rng.uniform(25, 120, (400, 1))
    humps = np.exp(-0.5 * ((BAND_NM - peaks) / widths) ** 2)
    spectra = rng.uniform(0.02, 0.3, (400, 1)) + rng.uniform(-1, 1, (400, 1)).clip(-0.2) * 0.6 * humps
    sensor = spectra * planck(5600) @ camera.sensitivity / (planck(5600) @ camera.sensitivity)
    # Rows that sum to 1: red and blue less green explain each colour less green.
    differences, wanted = sensor[:, [0, 2]] - sensor[:, [1]], spectra @ eye() - sensor[:, [1]]
    (red, blue) = np.linalg.lstsq(differences, wanted, rcond=None)[0]
    matrix = np.stack([red, 1 - red - blue, blue], 1)
    grey = np.array([0.2126, 0.7152, 0.0722])
    return (camera.saturation * np.eye(3) + (1 - camera.saturation) * grey) @ matrix


def save(pixels: UInt8[np.ndarray, "h w 3"], camera: Camera, path: Path) -> None:
    """A JPEG as the camera writes it."""
    quality, subsampling = camera.jpeg
    exif, base = Image.Exif(), ExifTags.Base
    exif[base.Model] = camera.name
    tags = exif.get_ifd(ExifTags.IFD.Exif)
    if camera.exif == "film":
        tags[base.FocalLengthIn35mmFilm] = round(camera.focal_px * math.hypot(36, 24) / math.hypot(*camera.size_px))
    elif camera.exif == "plane":
        tags[base.FocalLength], tags[base.FocalPlaneResolutionUnit] = camera.focal_px / 100, 4  # 100 px per mm
        tags[base.FocalPlaneXResolution] = 100.0
    Image.fromarray(pixels).save(path, quality=quality, subsampling=subsampling, exif=exif)
