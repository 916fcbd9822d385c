"""Street photographs become scenes: each in the top-left of a square, with the plane and the light of every sign."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import cos, pi, sin

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from kornia.geometry.transform import get_perspective_transform
from PIL import Image
from torch import Tensor

from physadv.errors import UserError
from physadv.files import open_image
from physadv.scenes.base import Faces, Scenes, floats
from physadv.scenes.classes import GTSRB, canonical
from physadv.scenes.faces import OUTLINE_POINTS, faces_for, has_art
from physadv.scenes.fit import UNIT, Template, box_corners, fitted_corners, template
from physadv.scenes.folder import slug
from physadv.scenes.light import fit_light
from physadv.scenes.photo import FACE_PX, joined
from physadv.scenes.store import canvases
from physadv.scenes.street import Annotation, Street

CHUNK = 16  # signs whose light is fitted at once: each needs its photograph as floats


@dataclass(frozen=True)
class Board:
    """A sign that is not drawn: a grey plate, as large as such signs are."""

    width_mm: float
    height_mm: float
    disc: bool = False


# Discs and squares: German size 2 (VwV-StVO to §§ 39-43, III). Traffic light: a head for 300 mm lenses is 350 mm wide
# (MUTCD 2009, section 4D.07: 12 inches); as high as the median box of roadsign/train makes it (2.16 times).
BOARDS = {
    "speedlimit": Board(600.0, 600.0, disc=True),
    "crosswalk": Board(600.0, 600.0),
    "trafficlight": Board(350.0, 750.0),
}
UNKNOWN = Board(600.0, 600.0)


def develop_street(
    streets: Sequence[Street],
    *,
    canvas_px: int,
    classes: Sequence[str] | None = None,
    face_mm: float | None = None,
    refine: bool = True,
    only_worn: bool = False,
) -> Scenes:
    """Photographs with 0 to N signs each, in 8 bit; what lies beyond a photograph's edge is its mirror image.

    classes: the signs that wear the artwork; None: all. face_mm: their width, where the class's own is not to be used.
    refine: the plane is fitted to the shape of a drawn sign (`scenes/fit.py`), not to its box alone; an annotated quad
    is used as it is. only_worn: leave out photographs in which no sign wears anything.
    Errors: UserError for no sign at all, none of the classes, or a picture that is not as large as its annotation says.
    """
    wanted = labels_worn(streets, classes)
    present = tuple(sorted({sign.label for street in streets for sign in street.signs}))
    if only_worn:
        streets = [street for street in streets if street.shows(wanted)]
    signs = [sign for street in streets for sign in street.signs]
    faces = joined([_face(name, face_mm if name in wanted else None) for name in present])
    face = torch.tensor([present.index(sign.label) for sign in signs])
    images, scale, extent_px, corners = _read(streets, faces, canvas_px=canvas_px, refine=refine)
    photograph = torch.tensor([row for row, street in enumerate(streets) for _ in street.signs])
    surface = (scale[photograph] @ get_perspective_transform(_raster(faces)[face], corners)).float()
    gain, bias = _light(images, photograph, surface, faces, face)
    return Scenes(
        images=images,
        surface=surface,
        faces=faces,
        face=face,
        labels=face,
        classes=present,
        names=tuple(street.name for street in streets),
        groups=tuple(street.group for street in streets),
        gain=gain,
        bias=bias,
        native_px=scale[:, :2, :2].diagonal(dim1=1, dim2=2).mean(1).float(),
        photograph=photograph,
        extent_px=extent_px,
        worn=torch.tensor([sign.label in wanted for sign in signs]),
    )


def labels_worn(streets: Sequence[Street], classes: Sequence[str] | None) -> set[str]:
    """The labels that wear the artwork (None: all that there are). UserError where one is not there, or no sign is."""
    labels = [sign.label for street in streets for sign in street.signs]
    if not labels:
        raise UserError(f"None of the {len(streets)} photographs has an annotated sign: annotate the signs in some.")
    wanted = set(labels) if classes is None else {canonical(slug(name)) for name in classes}
    missing = sorted(wanted - set(labels))
    if missing or not wanted:
        there = ", ".join(f"{name} ({labels.count(name)})" for name in sorted(set(labels)))
        raise UserError(f"The photographs have no signs of class {', '.join(missing) or '(none)'}; there are: {there}.")
    return wanted


# --- faces -----------------------------------------------------------------------------------------------------------


def _face(name: str, face_mm: float | None) -> Faces:
    """The drawn face of a GTSRB class; of any other, its board in grey."""
    if name in GTSRB:
        return faces_for([name], size_px=FACE_PX, face_mm=face_mm)
    board = BOARDS.get(name, UNKNOWN)
    scale = 1.0 if face_mm is None else face_mm / board.width_mm
    size_mm = torch.tensor([[board.width_mm, board.height_mm]]) * scale
    image = torch.full((1, 4, FACE_PX, FACE_PX), 0.5)
    image[:, 3] = _disc_alpha() if board.disc else 1.0
    return Faces(image, size_mm, _outline(board)[None] * size_mm[:, None], (name,))


def _outline(board: Board) -> Float[Tensor, "points 2"]:
    """Points on the outline in [0, 1]², clockwise: of a disc from the right, of a rectangle from the top left."""
    if board.disc:
        angles = [2 * pi * step / OUTLINE_POINTS for step in range(OUTLINE_POINTS)]
        return torch.tensor([[0.5 + 0.5 * cos(angle), 0.5 + 0.5 * sin(angle)] for angle in angles])
    along = torch.arange(OUTLINE_POINTS // 4) / (OUTLINE_POINTS // 4)
    low, high = torch.zeros_like(along), torch.ones_like(along)
    sides = ((along, low), (high, along), (1 - along, high), (low, 1 - along))
    return torch.cat([torch.stack(side, 1) for side in sides])


def _disc_alpha() -> Float[Tensor, "s s"]:
    steps = (torch.arange(FACE_PX) + 0.5) / FACE_PX - 0.5
    return ((0.5 - torch.hypot(steps[:, None], steps)) * FACE_PX + 0.5).clamp(0, 1)


def _raster(faces: Faces) -> Float[Tensor, "k 4 2"]:
    """Corners of the rasters, TL TR BR BL, mm."""
    return torch.from_numpy(UNIT) * faces.size_mm.double()[:, None]


# --- photographs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Print:
    """One photograph on its canvas, and the corners of its signs' rasters in px of the original."""

    pixels: UInt8[np.ndarray, "s s 3"]
    extent_px: tuple[int, int]
    corners: Float[np.ndarray, "m 4 2"]


def _read(
    streets: Sequence[Street], faces: Faces, *, canvas_px: int, refine: bool
) -> tuple[UInt8[Tensor, "b 3 c c"], Float[Tensor, "b 3 3"], Float[Tensor, "b 2"], Float[Tensor, "m 4 2"]]:
    """Canvases, the scalings photograph px -> canvas px, the photographs' extents, and the corners of every sign."""
    outlines = (faces.outline_mm / faces.size_mm[:, None]).double().numpy()
    shapes = {name: (outlines[row], template(faces, row) if refine else None) for row, name in enumerate(faces.names)}
    images = canvases(len(streets), canvas_px)
    pixels = images.numpy()
    extents, corners = [], []
    with ThreadPoolExecutor() as pool:
        for row, one in enumerate(pool.map(partial(_print, shapes=shapes, canvas_px=canvas_px), streets)):
            pixels[row] = one.pixels.transpose(2, 0, 1)
            extents.append(one.extent_px)
            corners.append(one.corners)
    extent_px = torch.tensor(extents, dtype=torch.float64)
    sizes = torch.tensor([street.size_px for street in streets])
    scale = torch.diag_embed(torch.cat([extent_px / sizes, torch.ones(len(streets), 1)], 1))
    return images, scale, extent_px.float(), torch.from_numpy(np.concatenate(corners))


def _print(street: Street, *, shapes: dict[str, tuple[np.ndarray, Template | None]], canvas_px: int) -> _Print:
    """A photograph from disk, read once: resized (antialiased bicubic), and its signs located at full resolution."""
    picture = open_image(street.path)
    if picture.size != street.size_px:
        said, found = (f"{width} x {height} px" for width, height in (street.size_px, picture.size))
        raise UserError(f"{street.path} is {found}, but is annotated as {said}: annotate the picture as it is.")
    width, height = (max(1, round(side * canvas_px / max(picture.size))) for side in picture.size)
    resized = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
    pixels = np.asarray(picture)
    corners = [_corners(sign, pixels, *shapes[sign.label]) for sign in street.signs]
    return _Print(_filled(resized, canvas_px), (width, height), np.reshape(corners, (-1, 4, 2)))


def _filled(pixels: UInt8[np.ndarray, "h w 3"], canvas_px: int) -> UInt8[np.ndarray, "s s 3"]:
    """The canvas with the picture in its top-left; beyond its edge its mirror image, or its last pixels."""
    below, right = canvas_px - pixels.shape[0], canvas_px - pixels.shape[1]
    mirrors = below <= pixels.shape[0] and right <= pixels.shape[1]
    return cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_REFLECT if mirrors else cv2.BORDER_REPLICATE)


def _corners(
    sign: Annotation, pixels: UInt8[np.ndarray, "h w 3"], outline: Float[np.ndarray, "points 2"], shape: Template | None
) -> Float[np.ndarray, "4 2"]:
    """Of the face's raster in px of the photograph: the quad's, else the fitted ones, else those of the box."""
    if sign.quad is not None:
        return np.reshape(sign.quad, (4, 2)).astype(np.float64)
    fitted = None if shape is None else fitted_corners(pixels, sign.box, shape)
    return box_corners(outline, sign.box) if fitted is None else fitted


def _light(
    images: UInt8[Tensor, "b 3 c c"],
    photograph: Int[Tensor, " m"],
    surface: Float[Tensor, "m 3 3"],
    faces: Faces,
    face: Int[Tensor, " m"],
) -> tuple[Float[Tensor, "m 3"], Float[Tensor, "m 3"]]:
    """Gain and bias of every sign."""
    known = torch.tensor([has_art(name) for name in faces.names])
    lights = [
        fit_light(floats(images[photograph[rows]]), surface[rows], faces, face[rows], has_art=known)
        for rows in torch.arange(len(face)).split(CHUNK)
    ]
    gain, bias = (torch.cat(column) for column in zip(*lights, strict=True))
    return gain, bias
