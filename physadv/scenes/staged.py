"""`staged:FACE`: a sign's face by itself; the world poses it, in metres, over backgrounds."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import pad

from physadv.errors import UserError
from physadv.files import image_tensor, list_images, open_image
from physadv.scenes.base import Faces, Scenes
from physadv.scenes.classes import GTSRB
from physadv.scenes.faces import faces_for, has_art, outline_from_alpha, read_face
from physadv.scenes.folder import slug
from physadv.scenes.photo import FACE_PX, class_names, joined

BACKGROUND_PX = 160
PROCEDURAL = 64  # half of them for the search, half to judge
PAPER_MM = {"a4": (210.0, 297.0), "a3": (297.0, 420.0), "a2": (420.0, 594.0), "a1": (594.0, 841.0)}


def staged(
    faces: str,
    *,
    backgrounds: Path | None,
    label: str | None,
    face_mm: float | None,
    background_px: int = BACKGROUND_PX,
) -> Scenes:
    """One scene per comma-separated face: a picture file, the slug of a drawn sign (`all`: every one), or blank paper.

    Its light is the world's: gain 1, bias 0. background_px: side of the pictures behind it.
    """
    parts = [part.strip() for part in faces.split(",") if part.strip()]
    if parts == ["all"]:
        parts = [name for name in GTSRB if has_art(name)]
    if not parts:
        raise UserError("staged: needs a face: a picture file or the name of a sign, for example staged:stop.")
    if label is not None and len(parts) > 1:
        raise UserError("One label cannot name several staged faces: name each file by its class.")
    return _scenes(
        joined([_face(part, label=label, face_mm=face_mm) for part in parts]), _backgrounds(backgrounds, background_px)
    )


def procedural_backgrounds(count: int, *, seed: int) -> Float[Tensor, "m 3 s s"]:
    """Sky over foliage, walls and road, made of gradients and fractal noise: enough to pose a sign with no pictures.

    Each has a ragged skyline, which may lie outside the picture, and an exposure of its own.
    """
    generator = torch.Generator().manual_seed(seed)
    horizon, ragged, exposure, tilt = torch.rand(4, count, 1, 1, generator=generator)
    sky = _mixed(SKIES, 0.2 * _noise(count, slope=2.2, generator=generator) + 0.8 * _down(), generator)
    ground = _mixed(GROUNDS, _noise(count, slope=1.15, generator=generator), generator)
    relief = 0.3 * ragged * (_noise(count, slope=1.7, generator=generator) - 0.5) + 0.1 * (tilt - 0.5) * _down().T
    below = ((_down() - 1.4 * horizon + 0.3 - relief) * 60).sigmoid()[:, None]
    return ((sky + below * (ground - sky)) * (0.45 + 0.65 * exposure[:, None])).clamp(0, 1)


def _face(part: str, *, label: str | None, face_mm: float | None) -> Faces:
    path = Path(part)
    if path.suffix or path.is_file():
        return read_face(path, name=slug(label or path.stem), face_mm=face_mm, size_px=FACE_PX)
    name = slug(part)
    if name in PAPER_MM:
        return _blank(name, PAPER_MM[name])
    if not has_art(name):
        drawn = [known for known in GTSRB if has_art(known)]
        nearest = ", ".join(get_close_matches(name, drawn, 1, cutoff=0.0))
        raise UserError(f"No sign {part!r} is drawn here (nearest: {nearest}): give a picture, staged:FACE.png.")
    return faces_for([name], size_px=FACE_PX, face_mm=face_mm)


def _blank(name: str, size_mm: tuple[float, float]) -> Faces:
    """A sheet of white paper on a wall: what a poster is printed on."""
    image, size = torch.ones(1, 4, FACE_PX, FACE_PX), torch.tensor([size_mm])
    return Faces(image, size, outline_from_alpha(image[0, 3], size[0])[None], (name,))


def _scenes(faces: Faces, backgrounds: Tensor) -> Scenes:
    count, classes = len(faces), class_names(faces.names)
    surface = torch.diag_embed(pad(FACE_PX / faces.size_mm, (0, 1), value=1.0))
    return Scenes(
        images=faces.images[:, :3].clone(),
        surface=surface,
        faces=faces,
        face=torch.arange(count),
        labels=torch.tensor([classes.index(name) for name in faces.names]),
        classes=classes,
        names=faces.names,
        groups=faces.names,
        gain=torch.ones(count, 3),
        bias=torch.zeros(count, 3),
        native_px=torch.ones(count),
        backgrounds=backgrounds,
    )


def _backgrounds(folder: Path | None, size_px: int) -> Float[Tensor, "m 3 s s"]:
    """The central squares of a folder's pictures, or made ones (at `BACKGROUND_PX`, whatever is asked for)."""
    if folder is None:
        return procedural_backgrounds(PROCEDURAL, seed=0)
    paths = list_images(folder)
    size = (size_px, size_px)
    return torch.stack([image_tensor(ImageOps.fit(open_image(path), size, Image.Resampling.BICUBIC)) for path in paths])


# sRGB ends of each ground's own gradient: (dark, light).
SKIES = (
    ((0.45, 0.60, 0.80), (0.80, 0.88, 0.95)),  # clear
    ((0.62, 0.64, 0.66), (0.86, 0.87, 0.88)),  # overcast
    ((0.30, 0.38, 0.52), (0.85, 0.72, 0.60)),  # evening
)
GROUNDS = (
    ((0.07, 0.12, 0.05), (0.42, 0.52, 0.24)),  # foliage
    ((0.10, 0.09, 0.06), (0.46, 0.38, 0.26)),  # bare wood and earth
    ((0.40, 0.34, 0.29), (0.66, 0.60, 0.53)),  # plaster
    ((0.30, 0.16, 0.12), (0.56, 0.34, 0.27)),  # brick
    ((0.22, 0.22, 0.23), (0.48, 0.48, 0.48)),  # asphalt and concrete
)


def _mixed(palettes: Sequence, share: Float[Tensor, "m s s"], generator: torch.Generator) -> Float[Tensor, "m 3 s s"]:
    """A palette for each picture, drawn; `share` of its light end."""
    rows = torch.randint(len(palettes), (len(share),), generator=generator)
    dark, light = torch.tensor(palettes)[rows, :, :, None, None].unbind(1)
    return dark + share[:, None] * (light - dark)


def _down() -> Float[Tensor, "s s"]:
    return torch.linspace(0, 1, BACKGROUND_PX)[:, None].expand(-1, BACKGROUND_PX)


def _noise(count: int, *, slope: float, generator: torch.Generator) -> Float[Tensor, "m s s"]:
    """Noise in [0, 1] whose amplitude falls as 1 / frequency ** slope."""
    size = (BACKGROUND_PX, BACKGROUND_PX)
    across, down = torch.fft.rfftfreq(BACKGROUND_PX), torch.fft.fftfreq(BACKGROUND_PX)[:, None]
    frequency = (across**2 + down**2).sqrt().clamp_min(1 / BACKGROUND_PX)
    field = torch.fft.irfft2(torch.fft.rfft2(torch.randn(count, *size, generator=generator)) / frequency**slope, s=size)
    std, mean = torch.std_mean(field, dim=(1, 2), keepdim=True)
    return ((field - mean) / (4 * std) + 0.5).clamp(0, 1)
