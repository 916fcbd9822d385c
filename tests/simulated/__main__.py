"""Photographs of a printed sheet by a simulated camera, for who has no printer at hand (docs/print-and-capture.md).

    python -m tests.simulated --sheet DIR --camera A --out photos --count 40 [--face stop] [--face-mm 600] [--whole]

DIR is what `physadv print` wrote. A sheet for a sign is cut out along the artwork's box and laid on the sign's face,
round which stand four plates with a tag each; their places are written to OUT.tags.yaml, for `capture --tags`. With
--whole the sheet is hung uncut, with its own tags. A sheet of its own, as the colour chart's, is photographed alone.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import yaml
from jaxtyping import Float
from PIL import Image

from physadv.files import to_pil
from physadv.printing import Sheet, load_sheet
from physadv.scenes import load_scenes
from tests.simulated import camera as cameras
from tests.simulated.camera import Camera, photograph, save
from tests.simulated.press import INKJET, LASER, Printer, Surface
from tests.simulated.stage import BOARD_PX_PER_MM, board, clutter, draw_light, draw_view, sheet

PRINTERS = {"inkjet": INKJET, "laser": LASER}
TAG, GAP, WHITE = 0.2, 0.2, 0.05  # of the face's width: a tag's side, how far from the face it is, and its white rim


def main() -> None:
    """Take the photographs; they are the same whenever they are asked for."""
    told = _told()
    camera: Camera = getattr(cameras, told.camera)
    thing = stand(told.sheet, PRINTERS[told.printer], told)
    told.out.mkdir(parents=True, exist_ok=True)
    for number in range(told.count):
        rng = np.random.default_rng([told.seed, number])
        view = draw_view(rng, camera, thing.size_mm, distance_m=tuple(told.distance_m), yaw_deg=told.yaw_deg)
        pixels = photograph(thing, camera, view.pose, draw_light(rng, brightest=0.9), clutter(rng), rng=rng)
        save(pixels, camera, told.out / f"photo-{number:03d}.jpg")
    print(f"{told.count} photographs by {camera.name} ({camera.focal_px:g} px) are in {told.out}")


def stand(folder: Path, printer: Printer, told: argparse.Namespace) -> Surface:
    """What is put before the camera."""
    where = load_sheet(folder)
    page = sheet(folder / "sheet.pdf", printer, dpi=round(25.4 * BOARD_PX_PER_MM))
    if where.origin == "artwork":
        return page
    tags = {} if told.whole else tags_round(told.face_mm)
    face = to_pil(load_scenes(f"staged:{told.face}", face_mm=told.face_mm).faces.images[0])
    plate, origin = board(face, told.face_mm, tags, cv2.aruco.DICT_APRILTAG_36h11)
    plate = _plates(plate, origin, face, told.face_mm, tags)
    if told.whole:
        (tile,) = where.pages[0].artwork
        return plate.covered(page, (origin + np.subtract(tile.place_mm[:2], tile.box_mm[:2])).tolist())
    named = {"family": "36h11", "tags": {number: square.tolist() for number, square in tags.items()}}
    told.out.parent.mkdir(parents=True, exist_ok=True)
    told.out.with_name(f"{told.out.name}.tags.yaml").write_text(yaml.safe_dump(named), encoding="utf-8")
    return _dressed(plate, origin, folder, where, printer)


def tags_round(face_mm: float) -> dict[int, Float[np.ndarray, "4 2"]]:
    """Four tags beyond the corners of the face, clockwise from the top left, in mm from the face's top-left."""
    side, gap = round(TAG * face_mm), round(GAP * face_mm)
    square = np.array([[0.0, 0], [side, 0], [side, side], [0, side]]) - side - gap
    far = face_mm + side + 2 * gap
    return {number: square + np.multiply(far, at) for number, at in enumerate([(0, 0), (1, 0), (1, 1), (0, 1)])}


def _plates(
    plate: Surface,
    origin: Float[np.ndarray, "2"],
    face: Image.Image,
    face_mm: float,
    tags: dict[int, Float[np.ndarray, "4 2"]],
) -> Surface:
    """The board less all that is neither face nor tag nor a tag's white rim."""
    scale = BOARD_PX_PER_MM
    kept = np.zeros(plate.index.shape, bool)
    for square in tags.values():
        low, high = (origin + square[0] - WHITE * face_mm), (origin + square[2] + WHITE * face_mm)
        (x0, y0), (x1, y1) = (scale * low).round().astype(int), (scale * high).round().astype(int)
        kept[max(y0, 0) : y1, max(x0, 0) : x1] = True
    side, (left, top) = round(scale * face_mm), (scale * origin).round().astype(int)
    kept[top : top + side, left : left + side] = np.asarray(face.getchannel("A").resize((side, side))) > 127
    return replace(plate, index=np.where(kept, plate.index, -1))


def _dressed(plate: Surface, origin: Float[np.ndarray, "2"], folder: Path, where: Sheet, printer: Printer) -> Surface:
    """The board with every tile cut out by its box and laid in its place."""
    for number, page in enumerate(where.pages):
        paper = sheet(folder / "sheet.pdf", printer, page=number, dpi=round(25.4 * BOARD_PX_PER_MM))
        for tile in page.artwork:
            plate = plate.covered(_cut(paper, tile.box_mm), (origin + tile.place_mm[:2]).tolist())
    return plate


def _cut(paper: Surface, box_mm: tuple[float, ...]) -> Surface:
    x0, y0, x1, y1 = (round(mm * paper.index.shape[1] / paper.size_mm[0]) for mm in box_mm)
    return Surface(paper.spectra, paper.index[y0:y1, x0:x1], (box_mm[2] - box_mm[0], box_mm[3] - box_mm[1]))


def _told() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulated", description=__doc__.splitlines()[0])
    parser.add_argument("--sheet", type=Path, required=True, help="folder of sheet.pdf and sheet.json")
    parser.add_argument("--camera", choices=["A", "B", "C"], default="A")
    parser.add_argument("--printer", choices=list(PRINTERS), default="inkjet")
    parser.add_argument("--out", type=Path, required=True, help="folder for the photographs")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--face", default="stop")
    parser.add_argument("--face-mm", type=float, default=600.0, help="width of the sign's face")
    parser.add_argument("--whole", action="store_true", help="hang the sheet uncut, with its own tags")
    parser.add_argument("--distance-m", type=float, nargs=2, default=(2.0, 8.0), metavar=("FROM", "TO"))
    parser.add_argument("--yaw-deg", type=float, default=40.0, help="at most, to either side")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
