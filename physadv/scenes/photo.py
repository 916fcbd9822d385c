"""Photographs of signs, read and cropped into scenes; and the loader of a single photograph with its quad."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from kornia.geometry.transform import get_perspective_transform
from torch import Tensor

from physadv.errors import UserError
from physadv.files import open_image
from physadv.scenes.base import Faces, Scenes
from physadv.scenes.canvas import Canvas, Photograph, crop
from physadv.scenes.classes import GTSRB
from physadv.scenes.faces import faces_for, has_art, outline_from_alpha
from physadv.scenes.light import fit_light
from physadv.scenes.store import canvases

Corners = Float[Tensor, "b 4 2"]
FACE_PX = 128
UNKNOWN_MM = 600.0


def photo(file: Path, *, quad: Sequence[float] | None, label: str | None) -> list[Photograph]:
    """`photo:FILE`: the quad is the image of the face's corners, x and y of TL TR BR BL in px."""
    if quad is None:
        corners = "--quad x1,y1,x2,y2,x3,y3,x4,y4 (TL TR BR BL, in px)"
        raise UserError(f"photo:{file} needs the four corners of the sign's face: {corners}.")
    if label is None:
        raise UserError(f"photo:{file} needs the name of the sign's class, for example --label stop.")
    return [Photograph(Path(file), label, group=str(file), name=Path(file).stem, quad=_checked(quad))]


def parse_quad(text: str | None) -> list[float] | None:
    """`x,y x,y x,y x,y` -> eight numbers. UserError: anything else."""
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise UserError(f"--quad is {text!r}; write four corners in px: 'x,y x,y x,y x,y'.") from error
    if len(numbers) != 8:
        raise UserError(f"--quad holds {len(numbers)} numbers; write four corners in px: 'x,y x,y x,y x,y'.")
    return numbers


def class_names(labels: Sequence[str]) -> tuple[str, ...]:
    """The 43 GTSRB slugs where they hold every label, else the labels themselves, sorted."""
    return GTSRB if set(labels) <= set(GTSRB) else tuple(sorted(set(labels)))


def joined(faces: Sequence[Faces]) -> Faces:
    """One face after the other."""
    tensors = {name: torch.cat([getattr(one, name) for one in faces]) for name in ("images", "size_mm", "outline_mm")}
    return Faces(**tensors, names=tuple(name for one in faces for name in one.names))


def develop(photographs: Sequence[Photograph], *, canvas_px: int, margin: float, face_mm: float | None) -> Scenes:
    """Read, crop and light every photograph: canvases of `canvas_px`, the plane and the light of each."""
    labels = [one.label for one in photographs]
    classes = class_names(labels)
    present = sorted(set(labels), key=classes.index)
    faces = joined([_face(name, face_mm) for name in present])
    face = torch.tensor([present.index(label) for label in labels])
    images, crops, seen = _read(photographs, canvas_px=canvas_px, margin=margin)
    surface = (crops @ get_perspective_transform(_face_corners(photographs, faces, face), seen)).float()
    gain, bias = fit_light(images, surface, faces, face, has_art=torch.tensor([has_art(name) for name in present]))
    return Scenes(
        images=images,
        surface=surface,
        faces=faces,
        face=face,
        labels=torch.tensor([classes.index(label) for label in labels]),
        classes=classes,
        names=tuple(one.name for one in photographs),
        groups=tuple(one.group for one in photographs),
        gain=gain,
        bias=bias,
        native_px=crops[:, 0, 0].float(),
    )


def _face(name: str, face_mm: float | None) -> Faces:
    """The face of a class; of one that GTSRB does not have, a grey square (600 mm)."""
    if name in GTSRB:
        return faces_for([name], size_px=FACE_PX, face_mm=face_mm)
    size = torch.full((1, 2), UNKNOWN_MM if face_mm is None else face_mm)
    image = torch.full((1, 4, FACE_PX, FACE_PX), 0.5).index_fill_(1, torch.tensor(3), 1.0)
    return Faces(image, size, outline_from_alpha(image[0, 3], size[0])[None], (name,))


def _read(
    photographs: Sequence[Photograph], *, canvas_px: int, margin: float
) -> tuple[UInt8[Tensor, "b 3 c c"], Float[Tensor, "b 3 3"], Corners]:
    """Canvases, the matrices photograph px -> canvas px, and the sign's corners in photograph px."""
    images = canvases(len(photographs), canvas_px)
    pixels = images.numpy()
    crops, corners = [], []
    one = partial(_canvas, canvas_px=canvas_px, margin=margin)
    with ThreadPoolExecutor() as pool:
        for row, (canvas, seen) in enumerate(pool.map(one, photographs)):
            pixels[row] = canvas.pixels.transpose(2, 0, 1)
            crops.append(canvas.matrix)
            corners.append(seen)
    return images, torch.tensor(crops, dtype=torch.float64), torch.tensor(corners, dtype=torch.float64)


def _canvas(one: Photograph, *, canvas_px: int, margin: float) -> tuple[Canvas, list[list[float]]]:
    """One photograph from disk: its canvas and the four corners of the sign in it."""
    pixels = np.asarray(open_image(one.path))
    if one.quad is not None:
        corners = [[x, y] for x, y in zip(one.quad[::2], one.quad[1::2], strict=True)]
        (x1, y1), (x2, y2) = np.min(corners, 0).tolist(), np.max(corners, 0).tolist()
    else:
        x1, y1, x2, y2 = one.box or (0.0, 0.0, float(pixels.shape[1]), float(pixels.shape[0]))
        corners = [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]
    try:
        return crop(pixels, (x1, y1, x2, y2), canvas_px=canvas_px, margin=margin), corners
    except UserError as error:
        raise UserError(f"{one.path}: {error}") from None


def _face_corners(photographs: Sequence[Photograph], faces: Faces, face: Tensor) -> Corners:
    """What the corners in the photograph are on the surface: a quad the raster's corners, a box the outline's."""
    boxed = torch.tensor([one.quad is None for one in photographs])[:, None]
    low = torch.where(boxed, faces.outline_mm.amin(1)[face], 0.0).double()
    high = torch.where(boxed, faces.outline_mm.amax(1)[face], faces.size_mm[face]).double()
    x1, y1, x2, y2 = *low.unbind(1), *high.unbind(1)
    return torch.stack([torch.stack(corner, 1) for corner in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))], 1)


def _checked(quad: Sequence[float]) -> tuple[float, ...]:
    """Eight finite numbers that go round a convex quadrilateral clockwise (on the screen)."""
    values = tuple(float(value) for value in quad)
    if len(values) != 8 or not np.isfinite(values).all():
        raise UserError(f"A quad is eight numbers, x and y of TL TR BR BL in px; got {len(values)}: {values}.")
    corners = np.array(values).reshape(4, 2)
    sides = np.roll(corners, -1, 0) - corners
    after = np.roll(sides, -1, 0)
    turns = sides[:, 0] * after[:, 1] - sides[:, 1] * after[:, 0]
    if (turns < 1).any():
        raise UserError(f"The quad {values} is not convex in the order TL TR BR BL: check its corners and their order.")
    return values
