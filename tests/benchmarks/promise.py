"""Does the promise hold on photographs? Artworks under simulated cameras, beside what the worlds say of them.

    python tests/benchmarks/promise.py --out FOLDER --camera A [--photographs 100] [--backgrounds DIR] [--worlds W ...]

Six artworks are made for a staged stop sign (kept in FOLDER), printed by the simulated press, and photographed from the
same poses in the same lights, near and far. Every photograph is cut and judged as `capture` does it; from its pose the
worlds foretell the rate. Tune on A and B, judge on C and D (docs/capture.md). Finished photographs are kept in FOLDER,
so a stopped run goes on.
"""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

import physadv
from physadv.calibration import Measured, Profile, calibrate, chart_picture, fit_world, make_chart, read_chart
from physadv.calibration.face import Face
from physadv.calibration.photographed import Taken, fit_photographs, take
from physadv.calibration.sensor import blur_px
from physadv.capture.judge import cut_out, locate, world_at
from physadv.capture.photos import Photo, open_source
from physadv.capture.quads import Quad
from physadv.files import list_images, open_image, sha256, to_pil
from physadv.heldout import HeldOut
from physadv.objectives import Margin, parse_goal
from physadv.scenes.faces import draw_face
from physadv.stats import wilson
from physadv.targets import Classifier
from physadv.transforms.stages import derive
from tests.simulated import camera as cameras
from tests.simulated.camera import Camera, Light, View, photograph, save
from tests.simulated.press import INKJET, LASER, Printer, Surface, painted, printed
from tests.simulated.stage import clutter, draw_light, draw_view

SIGN_MM, PX_PER_MM = 750.0, 0.8
CHARTS, SIGNS = 6, 24  # photographs that a world is fitted to
BANDS_M = {"near": (4.0, 8.0), "far": (8.0, 16.0)}
# A camera that renders as none of the others does: a pale, soft, yellowish one that underexposes.
ODD = replace(
    cameras.A, name="an odd camera", disc_px=(1.6, 2.4), contrast=0.0, lift=0.1, saturation=0.5, sharpening=(0.2, 1.0),
    peaks_nm=(590, 545, 480), cast=0.3, electrons=900, read_electrons=12, jpeg=(60, 2),
)  # fmt: skip
CAMERAS: dict[str, tuple[Camera, Printer]] = {
    "A": (cameras.A, INKJET),
    "B": (cameras.B, LASER),
    "C": (cameras.C, INKJET),
    "D": (cameras.D, LASER),
    "odd": (ODD, LASER),
}


@dataclass(frozen=True)
class Made:
    """How an artwork was searched."""

    threat: str
    goal: str
    steps: int


ARTWORKS = {  # of sizes that succeed neither always nor never on cameras A and B
    "patch 6 %": Made("patch:6%", "untargeted", 60),
    "patch 7 %": Made("patch:7%", "untargeted", 60),
    "patch 10 % to 50": Made("patch:10%", "class:speed-limit-50", 60),
    "patch 12 % to 50": Made("patch:12%", "class:speed-limit-50", 60),
    "patch 12 % to 80": Made("patch:12%", "class:speed-limit-80", 60),
    "patch 14 % to 80": Made("patch:14%", "class:speed-limit-80", 60),
}


@dataclass(frozen=True)
class Shot:
    """One photograph of the sign: its place in the frame, what stands behind it, in which light; where it is kept."""

    band: str
    number: int
    view: View
    light: Light
    background: int


def scenes_of(backgrounds: Path | None) -> physadv.Scenes:
    return physadv.load_scenes("staged:stop", face_mm=SIGN_MM, backgrounds=backgrounds)


def artworks(folder: Path, target: Classifier, scenes: physadv.Scenes) -> dict[str, physadv.Artwork]:
    """Made once in drive-by, and kept."""
    found = {}
    for name, made in ARTWORKS.items():
        place = folder / name.replace(" ", "-").replace("%", "pc")
        if not (place / "artwork.json").is_file():
            threat = physadv.load_threat(made.threat, scenes, seed=0)
            settings = physadv.Settings(goal=made.goal, steps=made.steps, batch=16, views=1)
            world = physadv.load_world("drive-by")
            physadv.attack(target, scenes, threat, world=world, settings=settings, seed=0).artwork.save(place)
            print("made", name, flush=True)
        found[name] = physadv.load_artwork(place)
    return found


def sign(artwork: physadv.Artwork | None, printer: Printer) -> Surface:
    """The painted sign, the printed artwork on it."""
    side = round(SIGN_MM * PX_PER_MM)
    plate = painted(draw_face("stop", size_px=side), (SIGN_MM, SIGN_MM))
    if artwork is None:
        return plate
    left, top, right, bottom = artwork.place_mm[0].tolist()
    picture = to_pil(torch.cat([artwork.rgb[0], artwork.alpha[0]])[:3])
    picture.putalpha(Image.fromarray((artwork.alpha[0, 0].numpy() * 255).round().astype(np.uint8)))
    size = (max(1, round((right - left) * PX_PER_MM)), max(1, round((bottom - top) * PX_PER_MM)))
    piece = printed(picture.resize(size, Image.Resampling.NEAREST), printer, (right - left, bottom - top))
    return plate.covered(piece, (left, top))


def shots(camera: Camera, photographs: int, *, purpose: str) -> Iterator[Shot]:
    """Poses and lights, the same for every artwork."""
    for number in range(photographs):
        for band, span_m in BANDS_M.items():
            rng = np.random.default_rng(derive(0, purpose, camera.name, band, number) % 2**63)
            view = draw_view(rng, camera, (SIGN_MM, SIGN_MM), distance_m=span_m, yaw_deg=45.0)
            yield Shot(band, number, view, draw_light(rng), int(rng.integers(1 << 30)))


def taken_photo(surface: Surface, camera: Camera, shot: Shot, behind: Sequence[Path], path: Path) -> tuple[Photo, Quad]:
    """Photographed, written as a JPEG and read again; the sign's corners are known."""
    rng = np.random.default_rng([shot.background, shot.number])
    background = _background(behind, shot.background, rng)
    pixels = photograph(surface, camera, shot.view.pose, shot.light, background, rng=rng, margin_px=24)
    save(pixels, camera, path)
    focal_px = camera.focal_px if camera.exif == "none" else None
    (photo,) = open_source(str(path), focal_px=focal_px).read()
    assert isinstance(photo, Photo)
    square = SIGN_MM * np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    return replace(photo, name=f"{shot.band}-{shot.number}"), Quad(shot.view.project(square))


def _background(behind: Sequence[Path], which: int, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    return np.asarray(open_image(behind[which % len(behind)])) if behind else clutter(rng)


@dataclass(frozen=True)
class Row:
    """One photograph of one artwork: whether the goal was reached, and the share of views foretold, by world."""

    artwork: str
    band: str
    number: int
    observed: bool
    foretold: dict[str, float]


def rows(
    folder: Path,
    key: str,
    photographs: int,
    *,
    target: Classifier,
    scenes: physadv.Scenes,
    made: dict[str, physadv.Artwork],
    worlds: dict[str, physadv.World],
    behind: Sequence[Path],
    views: int,
) -> list[Row]:
    """Every photograph judged and foretold; observations are kept in FOLDER/KEY.jsonl."""
    camera, printer = CAMERAS[key]
    kept = folder / f"{key}.jsonl"
    known = _known(kept, _basis(made, behind))
    surfaces: dict[str, Surface] = {}
    found = []
    for shot in shots(camera, photographs, purpose="judge"):
        seen = known.get((shot.band, shot.number))
        if seen is None:
            surfaces = surfaces or {name: sign(artwork, printer) for name, artwork in made.items()}
            seen = _observe(surfaces, camera, shot, target, scenes, behind, folder / f"{key}.jpg")
            with kept.open("a") as file:
                file.write(json.dumps({"band": shot.band, "number": shot.number, "seen": seen}) + "\n")
        told = {name: _foretell(world, shot, target, scenes, made, views) for name, world in worlds.items()}
        for name in made:
            rates = {world: told[world][name] for world in worlds}
            found.append(Row(name, shot.band, shot.number, seen[name], rates))
    return found


def _basis(made: dict[str, physadv.Artwork], behind: Sequence[Path]) -> dict[str, str]:
    """What observations depend on beside the camera: the artworks, and what stands behind the sign."""
    worn = {name: sha256(artwork.rgb.numpy().tobytes())[:12] for name, artwork in made.items()}
    return worn | {"backgrounds": sha256(" ".join(path.name for path in behind).encode())[:12]}


def _known(path: Path, basis: dict[str, str]) -> dict[tuple[str, int], dict[str, bool]]:
    """The observations in a file that begins with their basis; a line that a kill tore is dropped from it."""
    if not path.is_file():
        path.write_text(json.dumps(basis) + "\n")
        return {}
    whole = path.read_text().rpartition("\n")[0]
    first, *lines = [json.loads(line) for line in whole.splitlines()]
    if first != basis:
        raise SystemExit(f"{path} holds other artworks or backgrounds; give another --out, or remove it.")
    path.write_text(whole + "\n")
    return {(one["band"], one["number"]): one["seen"] for one in lines}


def _observe(
    surfaces: dict[str, Surface],
    camera: Camera,
    shot: Shot,
    target: Classifier,
    scenes: physadv.Scenes,
    behind: Sequence[Path],
    path: Path,
) -> dict[str, bool]:
    """Whether each artwork reaches its goal in the photograph from there, by the code of `capture`."""
    crops = []
    for surface in surfaces.values():
        photo, quad = taken_photo(surface, camera, shot, behind, path)
        crops.append(cut_out(photo, locate(photo, quad, scenes).plane, scenes, target.frame).picture)
    with torch.no_grad():
        logits = target(torch.stack(crops))
    return dict(zip(surfaces, _won(logits, list(surfaces), target, scenes), strict=True))


def _won(logits: Float[Tensor, "n c"], names: Sequence[str], target: Classifier, scenes: physadv.Scenes) -> list[bool]:
    truth = torch.tensor([target.classes.index(scenes.classes[int(scenes.labels[0])])])
    return [
        bool(Margin(parse_goal(ARTWORKS[name].goal, target.classes)).success(one[None], truth)[0])
        for name, one in zip(names, logits, strict=True)
    ]


def _foretell(
    world: physadv.World,
    shot: Shot,
    target: Classifier,
    scenes: physadv.Scenes,
    made: dict[str, physadv.Artwork],
    views: int,
) -> dict[str, float]:
    """The share of views from that pose in which each artwork reaches its goal, all in the same light."""
    photo = Photo(f"{shot.band}-{shot.number}", "", np.zeros((*shot.view.camera.size_px[::-1], 3), np.uint8), None)
    square = SIGN_MM * np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    photo = replace(photo, focal_px=shot.view.camera.focal_px)
    pose = locate(photo, Quad(shot.view.project(square)), scenes).pose
    there = world_at(world, pose, scenes.faces.size_mm[0])
    held_out = HeldOut(target, scenes, there, views, derive(0, "promise", photo.name))
    answers = held_out.answers(*made.values())
    rates = {}
    for name, answer in zip(made, answers, strict=True):
        margin = Margin(parse_goal(ARTWORKS[name].goal, target.classes))
        rates[name] = float(margin.success(answer, held_out.truth).float().mean())
    return rates


def fitted(folder: Path, key: str, scenes: physadv.Scenes, behind: Sequence[Path]) -> physadv.World:
    """A world of the camera's own photographs: of the chart, for the printer, and of the clean sign, for the rest."""
    camera, printer = CAMERAS[key]
    profile = _profile(camera, printer, folder / f"{key}-chart.jpg", behind)
    base, _ = fit_world(profile, physadv.load_world("drive-by"), name=f"fitted to {key}")
    face = _face()
    taken: list[Taken] = []
    plate = sign(None, printer)
    for shot in shots(camera, SIGNS // len(BANDS_M), purpose="fit"):
        photo, quad = taken_photo(plate, camera, shot, behind, folder / f"{key}-sign.jpg")
        taken.append(take(photo, quad, face, scenes))
    return fit_photographs(taken, face, base, name=base.name)


def _face() -> Face:
    rgba = np.asarray(draw_face("stop", size_px=768)).astype(np.float32) / 255
    return Face(rgba[..., :3].copy(), rgba[..., 3].copy(), np.ones(rgba.shape[:2], np.float32))


def _profile(camera: Camera, printer: Printer, path: Path, behind: Sequence[Path]) -> Profile:
    chart = make_chart(96)
    assert chart.size_mm is not None
    surface = printed(chart_picture(96).resize((900, 640), Image.Resampling.NEAREST), printer, chart.size_mm)
    measured = []
    for number in range(CHARTS):
        rng = np.random.default_rng([number, 91])
        view = draw_view(rng, camera, chart.size_mm, distance_m=(0.5, 0.7), yaw_deg=20)
        light = draw_light(rng, brightest=0.9)
        background = _background(behind, number, rng)
        pixels = photograph(surface, camera, view.pose, light, background, rng=rng, margin_px=24)
        save(pixels, camera, path)
        image = np.asarray(open_image(path)) / 255
        corners = view.project(np.multiply(chart.size_mm, [[0.0, 0], [1, 0], [1, 1], [0, 1]]))
        reading = read_chart(image, chart, corners, name=str(number))
        measured.append(Measured(str(number), reading, blur_px(image, chart, corners)))
    return calibrate(chart, measured, name="96 patches")


def table(found: Sequence[Row], worlds: Sequence[str]) -> str:
    """Cells of artwork and distance; the mean absolute difference of each world, and what chance alone would give."""
    lines = [f"| artwork | distance | observed | {' | '.join(worlds)} |", "|---" * (3 + len(worlds)) + "|"]
    for name, band, cell in cells(found):
        observed = wilson(sum(row.observed for row in cell), len(cell))
        told = [f"{100 * float(np.mean([row.foretold[w] for row in cell])):.0f}" for w in worlds]
        low, high = observed.lo or 0.0, observed.hi or 0.0
        rate = f"{100 * observed.k / observed.n:.0f} [{100 * low:.0f}–{100 * high:.0f}]"
        lines.append(f"| {name} | {band} | {rate} | {' | '.join(told)} |")
    for world in worlds:
        apart, floor, ends = difference(found, world)
        lines.append(
            f"\n{world}: mean absolute difference {100 * apart:.1f} points [{100 * ends[0]:.1f}–{100 * ends[1]:.1f}], "
            f"of which chance alone {100 * floor:.1f}"
        )
    return "\n".join(lines) + "\n"


def cells(found: Sequence[Row]) -> list[tuple[str, str, list[Row]]]:
    keys = dict.fromkeys((row.artwork, row.band) for row in found)
    return [(name, band, [r for r in found if (r.artwork, r.band) == (name, band)]) for name, band in keys]


def difference(found: Sequence[Row], world: str) -> tuple[float, float, tuple[float, float]]:
    """Mean over cells of |observed − foretold|; its binomial floor, √(2 p (1 − p) / π n); a bootstrap's 95 %."""
    apart, floor, parts = [], [], []
    for _, _, cell in cells(found):
        seen = np.array([row.observed for row in cell], float)
        told = np.array([row.foretold[world] for row in cell])
        apart.append(abs(seen.mean() - told.mean()))
        floor.append(math.sqrt(2 * seen.mean() * (1 - seen.mean()) / math.pi / len(seen)))
        parts.append(seen - told)
    return float(np.mean(apart)), float(np.mean(floor)), _ends(_resampled(parts))


def improvement(found: Sequence[Row], default: str, better: str) -> tuple[float, tuple[float, float]]:
    """By how much the mean absolute difference of `better` is smaller, photographs resampled in pairs."""
    parts = {
        world: [np.array([row.observed - row.foretold[world] for row in cell]) for _, _, cell in cells(found)]
        for world in (default, better)
    }
    gain = _resampled(parts[default]) - _resampled(parts[better])
    plain = [np.mean([abs(part.mean()) for part in parts[world]]) for world in (default, better)]
    return float(plain[0] - plain[1]), _ends(gain)


def _resampled(parts: Sequence[Float[np.ndarray, " n"]], resamples: int = 2000) -> Float[np.ndarray, " b"]:
    """The mean absolute difference of cells whose photographs are drawn again; poses are shared by artworks."""
    size = min(len(part) for part in parts)
    picks = np.random.default_rng(0).integers(0, size, (resamples, size))
    return np.mean([np.abs(part[picks].mean(1)) for part in parts], axis=0)


def _ends(values: Float[np.ndarray, " b"]) -> tuple[float, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--camera", choices=CAMERAS, default="A")
    parser.add_argument("--photographs", type=int, default=100)
    parser.add_argument("--views", type=int, default=16)
    parser.add_argument("--backgrounds", type=Path)
    parser.add_argument("--worlds", nargs="*", default=["drive-by", "promise"])
    parser.add_argument("--fit", action="store_true", help="Also a world fitted to the camera's own photographs.")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    target = physadv.load_target("builtin:gtsrb")
    scenes = scenes_of(options.backgrounds)
    made = artworks(options.out, target, scenes)
    behind = list_images(options.backgrounds) if options.backgrounds else []
    worlds = {Path(name).stem: physadv.load_world(name) for name in options.worlds}
    if options.fit:
        worlds["fitted"] = fitted(options.out, options.camera, scenes, behind)
    how = {"target": target, "scenes": scenes, "made": made, "worlds": worlds, "behind": behind}
    found = rows(options.out, options.camera, options.photographs, views=options.views, **how)
    (options.out / f"{options.camera}-rows.json").write_text(json.dumps([asdict(row) for row in found]))
    print(table(found, list(worlds)))
    for name in worlds:
        if options.fit and name != "fitted":
            gain, ends = improvement(found, name, "fitted")
            print(f"fitted against {name}: {100 * gain:.1f} points nearer [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]")


if __name__ == "__main__":
    main()
