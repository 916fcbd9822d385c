"""Artworks without a model: apply them to a picture, import them, print them, look at a world."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from kornia.geometry.transform import get_perspective_transform
from torch import Tensor
from torch.nn.functional import grid_sample

from physadv.calibration.chart import chart_json, chart_picture, make_chart
from physadv.errors import UserError
from physadv.files import image_tensor, open_image, png_bytes, prepare_folder, sha256, to_pil, write_atomic, write_json
from physadv.printing import Inks, Sheet, load_inks, make_sheet
from physadv.scenes import load_scenes
from physadv.scenes.faces import faces_for, has_art
from physadv.scenes.photo import parse_quad, photo
from physadv.scenes.staged import staged
from physadv.targets.base import Frame
from physadv.threats import Artwork, load_artwork
from physadv.transforms.colour import to_linear, to_srgb
from physadv.transforms.warp import pixel_grid, project
from physadv.transforms.world import load_world

FACE_PX = 768
SHEET_FACE_PX = 1024  # the template follows its outline


def apply_artwork(
    folder: Path,
    path: Path,
    *,
    image: Path | None,
    quad: str | None,
    face: str,
    label: str | None,
    face_mm: float | None,
    overwrite: bool,
) -> None:
    """The artwork on the quad of a photograph, or on a sign's face, as a PNG."""
    check_free(path, ".png", overwrite=overwrite)
    if quad is not None and image is None:
        raise UserError("--quad says where the face is in --image FILE: give both or none.")
    artwork = _printable(load_artwork(folder))
    if image is None:
        faces = staged(face, backgrounds=None, label=label, face_mm=face_mm).faces
        check_on_face(artwork, faces.size_mm)
        picture = torch.nn.functional.interpolate(faces.images[:1], FACE_PX, mode="bicubic", antialias=True).clamp(0, 1)
        surface = torch.diag(torch.tensor([FACE_PX / faces.size_mm[0, 0], FACE_PX / faces.size_mm[0, 1], 1.0]))
        result = torch.cat([paste(picture[:, :3], surface, artwork), picture[:, 3:]], 1)
    else:
        result = _on_photograph(artwork, image, quad, label, face_mm)
    write_atomic(path, png_bytes(result[0]))


def _on_photograph(
    artwork: Artwork, image: Path, quad: str | None, label: str | None, face_mm: float | None
) -> Float[Tensor, "1 3 h w"]:
    if quad is None:
        raise UserError("--image needs --quad: the four corners of the sign's face in px, 'x,y x,y x,y x,y'.")
    size_mm = _face_size_mm(label, face_mm)
    check_on_face(artwork, size_mm[None])
    width_mm, height_mm = size_mm.tolist()
    (shot,) = photo(image, quad=parse_quad(quad), label=label or "sign")
    corners_mm = torch.tensor([[[0.0, 0.0], [width_mm, 0.0], [width_mm, height_mm], [0.0, height_mm]]])
    surface = get_perspective_transform(corners_mm, torch.tensor(shot.quad).reshape(1, 4, 2))
    return paste(image_tensor(open_image(image))[None], surface[0], artwork)


def _face_size_mm(label: str | None, face_mm: float | None) -> Float[Tensor, "2"]:
    if label is not None and has_art(label):
        return faces_for([label], face_mm=face_mm).size_mm[0]
    if face_mm is None:
        raise UserError("How large is the face? Give --label stop (or another class), or --face-mm.")
    return torch.tensor([face_mm, face_mm])


def paste(
    images: Float[Tensor, "1 3 h w"], surface: Float[Tensor, "3 3"], artwork: Artwork
) -> Float[Tensor, "1 3 h w"]:
    """The artwork as it is, blended in linear light: no printer, no light, no camera."""
    height, width = images.shape[-2:]
    place = artwork.place_mm[:1]
    points = project(surface.inverse()[None], pixel_grid(0, 0, height, width, device=images.device))
    unit = (points - place[:, None, :2]) / (place[:, None, 2:] - place[:, None, :2])
    layer = torch.cat([to_linear(artwork.rgb[:1]) * artwork.alpha[:1], artwork.alpha[:1]], 1)
    seen = grid_sample(layer, (2 * unit - 1).reshape(1, height, width, 2), align_corners=False)
    return to_srgb((to_linear(images) * (1 - seen[:, 3:]) + seen[:, :3]).clamp(0, 1))


def import_artwork(image: Path, folder: Path, *, width_mm: float, at: str, overwrite: bool) -> Artwork:
    """An existing patch as an artwork: its width on paper and its centre on the sign, in mm."""
    picture = image_tensor(open_image(image, mode="RGBA"))[None]
    try:
        x_mm, y_mm = (float(part) for part in at.split(","))
    except ValueError as error:
        raise UserError(
            f"--at is {at!r}; write the patch's centre in mm from the face's top-left, such as 450,640."
        ) from error
    if not 0 < width_mm < float("inf"):
        raise UserError(f"--width-mm is {width_mm:g}; give the width of the patch on paper, above 0.")
    height_mm = width_mm * picture.shape[-2] / picture.shape[-1]
    place = torch.tensor([[x_mm - width_mm / 2, y_mm - height_mm / 2, x_mm + width_mm / 2, y_mm + height_mm / 2]])
    artwork = Artwork(picture[:, :3], picture[:, 3:], place, {"threat": "imported", "image": image.name})
    artwork.save(prepare_folder(folder, overwrite=overwrite))
    return artwork


def print_sheet(
    artwork: Path | None,
    image: Path | None,
    *,
    width_mm: float | None = None,
    folder: Path | None = None,
    icc: Path | None = None,
    intent: str = "relative",
    strip: bool = True,
    **how: Any,
) -> Sheet:
    """sheet.pdf and sheet.json of an artwork, or of any picture at a given width; `how` is as for `make_sheet`."""
    if (artwork is None) == (image is None):
        raise UserError("Print either --artwork DIR or --image FILE with --width-mm.")
    how["inks"] = _inks(icc, intent)
    how["strip"] = [tuple(colour) for colour in make_chart(24).rgb.tolist()] if strip else ()
    if image is None:
        assert artwork is not None
        return _artwork_sheet(_printable(load_artwork(artwork)), folder or artwork, how)
    if width_mm is None or width_mm <= 0:
        raise UserError("--image needs --width-mm, its width on paper.")
    picture = open_image(image, mode="RGBA")
    height_mm = width_mm * picture.height / picture.width
    how |= {"folder": folder or Path(f"{image.stem}-sheet"), "title": image.name, "artwork_hash": sha256(image)}
    return make_sheet(picture, width_mm=width_mm, height_mm=height_mm, **how)


def print_chart(
    patches: int, *, folder: Path | None = None, icc: Path | None = None, intent: str = "relative", **how: Any
) -> Sheet:
    """sheet.pdf, sheet.json and chart.json of a colour chart, for `physadv calibrate`."""
    chart, picture = make_chart(patches), chart_picture(patches)
    assert chart.size_mm is not None
    width_mm, height_mm = chart.size_mm
    out = folder or Path(f"chart-{patches}")
    name = f"colour chart, {patches} patches"
    how |= {"folder": out, "title": name, "artwork_hash": sha256(picture.tobytes()), "inks": _inks(icc, intent)}
    sheet = make_sheet(picture.convert("RGBA"), width_mm=width_mm, height_mm=height_mm, **how)
    write_json(out / "chart.json", chart_json(chart))
    return sheet


def _inks(icc: Path | None, intent: str) -> Inks | None:
    if icc is None and intent != "relative":
        raise UserError("--intent says how --icc PRINTER.icc fits the colours: give both, or leave it out.")
    return None if icc is None else load_inks(icc, intent=intent)


def _artwork_sheet(artwork: Artwork, folder: Path, how: dict[str, Any]) -> Sheet:
    if len(artwork) > 1:
        raise UserError(
            "These are several artworks, one per scene; a sheet holds one: print art-0000.png with --image."
        )
    picture = to_pil(torch.cat([artwork.rgb[0], artwork.alpha[0]]))
    x0, y0, x1, y1 = artwork.place_mm[0].tolist()
    run = artwork.record.get("run", {})
    names = run.get("scenes", {}).get("classes", [])
    face = faces_for(names, size_px=SHEET_FACE_PX) if len(names) == 1 and has_art(names[0]) else None
    return make_sheet(
        picture,
        width_mm=x1 - x0,
        height_mm=y1 - y0,
        folder=folder,
        title=f"{artwork.record.get('threat', 'artwork')} {run.get('goal', '')}".strip(),
        artwork_hash=sha256(png_bytes(artwork.rgb[0])),
        place_mm=(x0, y0, x1, y1),
        face_mm=None if face is None else tuple(face.size_mm[0].tolist()),
        face_image=None if face is None else to_pil(face.images[0]),
        **how,
    )


def contact_sheet(
    name: str,
    path: Path,
    *,
    scenes: str,
    backgrounds: Path | None,
    artwork: Path | None,
    views: int,
    size_px: int,
    seed: int,
    overwrite: bool,
    columns: int = 12,
) -> None:
    """Photographs of a world in rows, as a PNG; with an artwork (the first of several), each row again with it on."""
    check_free(path, ".png", overwrite=overwrite)
    if views < 1:
        raise UserError(f"--views is {views}; give at least 1.")
    world = load_world(name)
    shown = load_scenes(scenes, backgrounds=backgrounds)
    worn = None if artwork is None else load_artwork(artwork).take(torch.tensor([0]))
    rows = torch.arange(views) % len(shown)
    shots = world.prepare(shown.take(rows), world.draw(range(views), seed=seed), frame=Frame(size_px, 0.15))
    strips = [_strips(shots.photograph(one), columns) for one in (None, worn)[: 1 if worn is None else 2]]
    write_atomic(path, png_bytes(torch.cat([strip for pair in zip(*strips, strict=True) for strip in pair], 1)))


def _strips(photographs: Float[Tensor, "n 3 s s"], columns: int) -> list[Float[Tensor, "3 h w"]]:
    """Photographs side by side, at most `columns` to a strip, with a white gap."""
    framed = torch.nn.functional.pad(photographs, (0, 2, 0, 2), value=1.0)
    columns = min(columns, len(framed))
    spare = torch.ones_like(framed[:1]).expand(-len(framed) % columns, -1, -1, -1)
    return [torch.cat(list(strip), 2) for strip in torch.cat([framed, spare]).split(columns)]


def _printable(artwork: Artwork) -> Artwork:
    """UserError: a norm ball's picture of one photograph, which no printer can put on a sign."""
    if not artwork.printed:
        raise UserError("This artwork changes a photograph's pixels and is no print; attack with stickers or a patch.")
    return artwork


def check_on_face(artwork: Artwork, size_mm: Float[Tensor, "n 2"]) -> None:
    """UserError: the artwork's box and a face have nothing in common, so that every figure would be of a bare sign."""
    place = artwork.place_mm.to(size_mm)
    if bool(((place[:, 2:] <= 0) | (place[:, :2] >= size_mm.amin(0))).any()):
        x, y = place[0, :2].tolist()
        raise UserError(f"The artwork lies off the sign (its corner is at x {x:g}, y {y:g} mm); give it another place.")


def check_free(path: Path, suffix: str, *, overwrite: bool) -> None:
    """UserError: the file is called otherwise, or exists and may not be replaced."""
    if path.suffix.lower() != suffix:
        raise UserError(f"{path} is to hold what is written here, a {suffix} file; choose such a name for --out.")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists; add --overwrite or choose another --out.")
