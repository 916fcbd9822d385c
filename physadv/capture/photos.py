"""Photographs as they come: a folder, a video, a camera. One at a time in memory, whatever their number."""

import math
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

from physadv.errors import UserError
from physadv.files import formats, open_image

FILM_DIAGONAL_MM = math.hypot(36, 24)
CAMERA_FRAMES = 30
HEIC = frozenset({".heic", ".heif"})
VIDEOS = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"})
_TABLE_SUM = 3688  # of JPEG's example table for luminance, which the IJG's library calls quality 50
_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}  # FocalPlaneResolutionUnit; 2, the inch, is the default


@dataclass(frozen=True)
class Photo:
    """A photograph, upright, 8 bit, sRGB. group: what it shares with others (the video of a frame), or its own name.

    focal_px: None where neither the file nor the user says it; then no distance follows from it.
    time_s: of a frame, from the start of its video. quality: of a JPEG, 1 to 100; None: it is none.
    """

    name: str
    group: str
    pixels: UInt8[np.ndarray, "h w 3"]
    focal_px: float | None
    time_s: float | None = None
    quality: float | None = None


@dataclass(frozen=True)
class Skipped:
    """A file that is no photograph, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Folder:
    """Every file that lies directly in a folder, sorted by name; hidden files do not count."""

    paths: tuple[Path, ...]
    focal_px: float | None

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, done: Collection[str] = ()) -> Iterator[Photo | Skipped]:
        """One photograph after the other, less those named in `done`."""
        for path in self.paths:
            name = legible(path.name)
            if name not in done:
                known = name == path.name
                yield _read(path, self.focal_px) if known else Skipped(name, "its name is not in UTF-8; rename it")


@dataclass(frozen=True)
class Video:
    """Frames of a video file or of a camera (its index); frame i is called `NAME#i`, counted from 0.

    per_s: frames per second; None where the file does not say it.
    """

    source: Path | int
    frames: int
    focal_px: float | None
    per_s: float | None = None

    def __len__(self) -> int:
        return self.frames

    @property
    def name(self) -> str:
        return self.source.name if isinstance(self.source, Path) else f"camera-{self.source}"

    def read(self, done: Collection[str] = ()) -> Iterator[Photo | Skipped]:
        """One frame after the other, less those named in `done`; one that cannot be decoded ends the video."""
        stream = _opened(self.source)
        try:
            for index in range(self.frames):
                name = f"{self.name}#{index:06d}"
                if name in done:
                    if not stream.grab():  # it was said where the video ends
                        return
                    continue
                found, frame = stream.read()
                if not found:
                    yield Skipped(name, "the video ends here or is damaged; export it again")
                    return
                time_s = index / self.per_s if self.per_s else None
                yield Photo(name, self.name, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), self.focal_px, time_s)
        finally:
            stream.release()


Source = Folder | Video


def open_source(source: str, *, focal_px: float | None, frames: int | None = None) -> Source:
    """A folder of photographs, a photograph, a video, or the index of a camera ("0").

    focal_px: of all of them, instead of what their EXIF says. frames: of a video (default: all) or camera (30).
    UserError: there is no such thing, or nothing in it.
    """
    path = Path(source)
    if legible(source) != source:
        raise UserError(f"The name of {legible(source)} is not in UTF-8; rename it.")
    if source.isdigit() and not path.exists():
        stream = _opened(int(source))
        per_s = _per_s(stream)
        stream.release()
        return Video(int(source), frames or CAMERA_FRAMES, focal_px, per_s)
    if path.is_file() and path.suffix.lower() in VIDEOS:
        return _video(path, focal_px, frames)
    if frames is not None:
        raise UserError("--frames is for a video or a camera: leave it out.")
    if path.is_file():
        return Folder((path,), focal_px)
    if not path.is_dir():
        raise UserError(f"{source} is no folder, photograph, video or number of a camera; check the path.")
    found = sorted(one for one in path.iterdir() if one.is_file() and not one.name.startswith("."))
    if not found:
        raise UserError(f"{source} holds no file; give the folder of the photographs.")
    return Folder(tuple(found), focal_px)


def legible(name: str) -> str:
    """A file's name; bytes in it that are no UTF-8 are written as Python does."""
    return name.encode(errors="backslashreplace").decode()


def _video(path: Path, focal_px: float | None, frames: int | None) -> Video:
    stream = _opened(path)
    count, per_s = int(stream.get(cv2.CAP_PROP_FRAME_COUNT)), _per_s(stream)
    if count <= 0:  # a stream that does not say how long it is
        count = 0
        while stream.grab():
            count += 1
    stream.release()
    if not count:
        raise UserError(f"The video {path} holds no frame that can be decoded; export it again.")
    return Video(path, min(count, frames or count), focal_px, per_s)


def _per_s(stream: cv2.VideoCapture) -> float | None:
    said = float(stream.get(cv2.CAP_PROP_FPS))
    return said if math.isfinite(said) and 0.1 < said < 10_000 else None


def _opened(source: Path | int) -> cv2.VideoCapture:
    stream = cv2.VideoCapture(str(source) if isinstance(source, Path) else source)
    if not stream.isOpened():
        what = f"The video {source}" if isinstance(source, Path) else f"The camera {source}"
        raise UserError(f"{what} cannot be opened; check it with another program, or give a folder of pictures.")
    return stream


def _read(path: Path, focal_px: float | None) -> Photo | Skipped:
    if path.suffix.lower() in HEIC and not _heif():
        return Skipped(path.name, "HEIC needs pillow-heif (pip install pillow-heif), or export it as JPEG")
    try:
        image = open_image(path)
    except UserError as error:
        return Skipped(path.name, str(error).removeprefix(f"{path} "))
    pixels = np.asarray(image)
    return Photo(path.name, path.name, pixels, focal_px or exif_focal_px(path), quality=jpeg_quality(path))


def jpeg_quality(path: Path) -> float | None:
    """Of a JPEG, 1 to 100 as the IJG's library counts: from its luminance table's sum. None: it is no JPEG."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path, formats=formats()) as image:
            tables = getattr(image, "quantization", None)
    if not tables:
        return None
    percent = 100 * sum(tables[min(tables)]) / _TABLE_SUM
    return 100 - percent / 2 if percent <= 100 else 5000 / percent


@cache
def _heif() -> bool:
    """Whether Pillow reads HEIC, by pillow-heif."""
    try:
        import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return False
    return True


def exif_focal_px(path: Path) -> float | None:
    """The focal length in px of the picture as stored, or None where its EXIF does not say it.

    From the resolution of the focal plane where that is given, else from the 35 mm equivalent, which goes by the
    diagonal (CIPA DCG-001) and is rounded to a millimetre: 2 % for a phone's 26 mm.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on size and odd metadata: open_image has judged the file
        try:
            with Image.open(path, formats=formats()) as image:
                tags, size_px = image.getexif().get_ifd(ExifTags.IFD.Exif), image.size
        except Exception:  # metadata of other programs raise whatever they like, and are no reason to lose a photograph
            return None
    return _from_plane(tags, max(size_px)) or _from_film(tags, size_px)


def _from_plane(tags: dict[int, object], side_px: int) -> float | None:
    base = ExifTags.Base
    focal_mm, per_unit = _number(tags.get(base.FocalLength)), _number(tags.get(base.FocalPlaneXResolution))
    unit = tags.get(base.FocalPlaneResolutionUnit, 2)
    if not focal_mm or not per_unit or unit not in _UNIT_MM:
        return None
    # The resolution counts the camera's own pixels; a copy scaled down has fewer.
    taken_px = max(_number(tags.get(base.ExifImageWidth)) or 0, _number(tags.get(base.ExifImageHeight)) or 0)
    return focal_mm * per_unit / _UNIT_MM[unit] * (side_px / taken_px if taken_px else 1.0)


def _from_film(tags: dict[int, object], size_px: tuple[int, int]) -> float | None:
    film_mm = _number(tags.get(ExifTags.Base.FocalLengthIn35mmFilm))
    return film_mm / FILM_DIAGONAL_MM * math.hypot(*size_px) if film_mm else None


def _number(value: object) -> float | None:
    """A positive, finite number (EXIF holds fractions of 0 as well), or None."""
    try:
        number = float(Fraction(str(value))) if isinstance(value, str) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > 0 else None
