"""`physadv worlds fit`: a profile, photographs of a known sign, or both -> a world."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from physadv.calibration.compare import Verdict, foretold, judge_world
from physadv.calibration.face import Face
from physadv.calibration.locate import BESIDE
from physadv.calibration.photographed import FEWEST, Taken, fit_photographs, take
from physadv.calibration.profile import load_profile
from physadv.calibration.world import InkFit, fit_world, world_yaml
from physadv.capture.hung import on_paper
from physadv.capture.layout import Layout, check_sheet, read_layout, sheet_layout
from physadv.capture.photos import Photo, open_source
from physadv.capture.quads import Quad, read_quads
from physadv.console import Console
from physadv.errors import UserError
from physadv.files import RUN, open_image, write_atomic
from physadv.handwork import check_free, check_on_face
from physadv.scenes import Scenes
from physadv.scenes.faces import draw_face
from physadv.scenes.staged import staged
from physadv.threats import Artwork, load_artwork
from physadv.transforms.world import World, load_world

FACE_PX = 768
_VIEWS = 30  # from each pose that judges


@dataclass(frozen=True)
class KnownSign:
    """The sign in the photographs, what is on it, and what says where it is."""

    face: str = "stop"
    label: str | None = None
    face_mm: float | None = None
    artwork: Path | None = None
    tags: Path | None = None
    quads: Path | None = None
    sheet: Path | None = None


@dataclass(frozen=True)
class Halves:
    """One half of the photographs judges the base, and the world fitted to the other half."""

    base: str
    before: Verdict
    after: Verdict

    def rows(self) -> list[tuple[str, Verdict]]:
        return [(self.base, self.before), ("fitted to the other half", self.after)]

    def words(self) -> str:
        """What the table says of the fitted world. Each statistic alone counts at 5 % / 3."""
        alone = [name for name, p in self.after.ks.items() if p < 0.05 / len(self.after.ks)]
        if not self.after.rejected and not alone:
            return "not rejected at 5 %: these photographs cannot be told from views of the world fitted to the others"
        by = " and ".join(alone) or "all statistics together"
        return f"rejected at 5 %: views of the fitted world can still be told from photographs, by {by}"


@dataclass(frozen=True)
class Dressed:
    """The sign as it is in the photographs: its face, what hides it, and the tags that say where it is."""

    face: Face
    worn: Artwork | None
    layout: Layout | None


@dataclass(frozen=True)
class FittedWorld:
    """The world as written. ink: of a profile. halves: None without enough photographs."""

    world: World
    ink: InkFit | None
    halves: Halves | None


def run_fit_world(
    profile: Path | None,
    out: Path,
    *,
    base: str,
    overwrite: bool,
    console: Console,
    photos: Sequence[Path] | None = None,
    sign: KnownSign | None = None,
) -> FittedWorld:
    """Writes the world file. UserError: nothing to fit to, no such base, or the file is there already."""
    check_free(out, ".yaml", overwrite=overwrite)
    if profile is None and not photos:
        raise UserError("Fit to what? Give --profile, photographs of a sign as --photos, or both.")
    world, ink, halves = load_world(base), None, None
    if profile is not None:
        world, ink = fit_world(load_profile(profile), world, name=out.stem)
    if photos:
        world, halves = _fit_photos(photos, sign or KnownSign(), world, load_world(base), out.stem, console)
    write_atomic(out, world_yaml(world))
    return FittedWorld(load_world(str(out)), ink, halves)


def _fit_photos(
    photos: Sequence[Path], sign: KnownSign, world: World, base: World, name: str, console: Console
) -> tuple[World, Halves | None]:
    """The world of all photographs, and how a world of half of them stands before the other half."""
    scenes = staged(sign.face, backgrounds=None, label=sign.label, face_mm=sign.face_mm)
    artwork = load_artwork(sign.artwork) if sign.artwork else None
    if artwork is not None:
        check_on_face(artwork, scenes.faces.size_mm)
    shown = dressed(sign, artwork, scenes)
    measured = partial(take, face=shown.face, scenes=scenes, artwork=shown.worn)
    taken = [one for folder in photos for one in _taken(folder, sign, shown.layout, measured, console)]
    fit = partial(fit_photographs, face=shown.face, base=world, name=name)
    judge = partial(_judged, scenes=scenes, artwork=shown.worn)
    return fit(taken), halved(taken, base, fit, judge) if len(taken) >= 2 * FEWEST else None


def halved(
    taken: Sequence[Taken],
    base: World,
    fit: Callable[[Sequence[Taken]], World],
    judge: Callable[[World, Sequence[Taken]], Verdict],
) -> Halves:
    """Half of the photographs, drawn by lot, are fitted to; the others judge."""
    order = np.random.default_rng(0).permutation(len(taken))
    fitting, judging = ([taken[i] for i in half] for half in np.array_split(order, 2))
    return Halves(base.name, judge(base, judging), judge(fit(fitting), judging))


def dressed(sign: KnownSign, artwork: Artwork | None, scenes: Scenes) -> Dressed:
    """With the white of its sheet round the artwork, where that hangs whole. UserError: more than one says where."""
    if len([one for one in (sign.tags, sign.quads, sign.sheet) if one]) > 1:
        raise UserError("--sheet, --tags and --quads each say where the sign is: give one of them.")
    if sign.sheet is None:
        layout = read_layout(sign.tags) if sign.tags else None
        return Dressed(face_of(sign, artwork, scenes), artwork, layout)
    if artwork is None or sign.artwork is None:
        raise UserError("Which artwork is on the sheet? Give its folder as --artwork, too.")
    check_sheet(sign.sheet, sign.artwork, artwork)
    layout = sheet_layout(sign.sheet, artwork)
    worn = on_paper(artwork, layout)
    return Dressed(face_of(sign, worn, scenes), worn, layout)


def _judged(world: World, taken: Sequence[Taken], scenes: Scenes, artwork: Artwork | None) -> Verdict:
    made = foretold(world, [one.pose for one in taken], scenes, views=_VIEWS, seed=0, artwork=artwork)
    return judge_world(np.stack([one.figures for one in taken]), made, seed=0)


def _taken(
    path: Path, sign: KnownSign, layout: Layout | None, measured: Callable[..., Taken], console: Console
) -> list[Taken]:
    """The photographs of a folder in which the sign is found; of the others it says why not.

    UserError: nothing says where the sign is, or no photograph can be used.
    """
    folder, where = _where(path, sign, layout)
    source = open_source(str(folder), focal_px=None)
    found: list[Taken] = []
    with console.counting("measure", len(source)) as report:
        for photo in source.read():
            report(1)
            if photo.name in (BESIDE, RUN, path.name) or (isinstance(where, dict) and photo.name not in where):
                continue
            try:
                if not isinstance(photo, Photo):
                    raise UserError(photo.reason)
                found.append(measured(*_placed(photo, where)))
            except UserError as error:
                console.say(f"left out {photo.name}: {str(error).removeprefix(f'{photo.name}: ')}")
    if not found:
        raise UserError(f"Of {path}, no photograph of the sign could be measured; check what says where it is.")
    return found


def _placed(photo: Photo, where: Layout | dict[str, Quad]) -> tuple[Photo, Layout | Quad]:
    if isinstance(where, Layout):
        return photo, where
    quad = where[photo.name]
    focal_px = quad.focal_px or photo.focal_px
    return replace(photo, focal_px=focal_px), quad


def _where(path: Path, sign: KnownSign, layout: Layout | None) -> tuple[Path, Layout | dict[str, Quad]]:
    """The folder of the photographs, and what says where the sign is in them."""
    if path.suffix.lower() == ".jsonl":
        return path.parent, read_quads(path)
    if layout is not None:
        return path, layout
    table = sign.quads or (path if path.is_dir() else path.parent) / BESIDE
    if not table.is_file():
        raise UserError(
            f"Where is the sign in {path}? Give --sheet, --tags or --quads, or put {BESIDE} beside the photos."
        )
    return path, read_quads(table)


def face_of(sign: KnownSign, artwork: Artwork | None, scenes: Scenes) -> Face:
    """The face, sharp, and where it is bare of the artwork."""
    path = Path(sign.face)
    picture = open_image(path, mode="RGBA") if path.is_file() else draw_face(sign.face, size_px=FACE_PX)
    rgba = np.asarray(picture).astype(np.float32) / 255
    width_mm, height_mm = scenes.faces.size_mm[0].tolist()
    bare = np.ones(rgba.shape[:2], np.float32)
    if artwork is not None:
        _strike_out(bare, artwork, (width_mm, height_mm))
    return Face(rgba[..., :3].copy(), rgba[..., 3].copy(), bare)


def _strike_out(bare: Float[np.ndarray, "h w"], artwork: Artwork, size_mm: tuple[float, float]) -> None:
    """0 where the artwork covers the face."""
    height, width = bare.shape
    for place in artwork.place_mm.tolist():
        scale = width / size_mm[0], height / size_mm[1]
        left, top, right, bottom = (round(mm * scale[i % 2]) for i, mm in enumerate(place))
        size = max(bottom - top, 1), max(right - left, 1)
        alpha = torch.nn.functional.interpolate(artwork.alpha[:1], size=size, mode="bilinear")[0, 0].numpy()
        low_x, low_y, high_x, high_y = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
        part = alpha[low_y - top : high_y - top, low_x - left : high_x - left]
        bare[low_y:high_y, low_x:high_x] *= part < 0.01
