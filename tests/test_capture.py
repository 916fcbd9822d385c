"""Photographs of the printed thing: read, measured, judged; and what cannot be is named and skipped."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import physadv.cli
from physadv.calibration.fit import LATTICE
from physadv.calibration.profile import VERSION
from physadv.capture import find, fit_plane, locate, open_source, pose_of, read_layout, read_quads, sheet_layout, table
from physadv.capture.judge import cut_out, world_at
from physadv.capture.layout import Layout
from physadv.capture.photos import FILM_DIAGONAL_MM, Photo, Skipped
from physadv.capture.pose import Pose
from physadv.capture.tags import FAMILIES
from physadv.config import CaptureOptions
from physadv.console import Console
from physadv.errors import UserError
from physadv.files import sha256
from physadv.handwork import print_sheet
from physadv.printing import load_sheet, make_sheet
from physadv.runs import run_capture
from physadv.scenes import load_scenes
from physadv.targets.base import Frame
from physadv.threats import Artwork
from physadv.transforms.view import Pinhole, Relative
from physadv.transforms.warp import pinhole, project, translation
from physadv.transforms.world import load_world

SIGN_MM, TAG_MM, GAP_MM = 750.0, 127.5, 37.75
TOY = """
import torch
from torch import nn


class Toy(nn.Module):
    input_size, classes, context = 16, ("stop", "yield"), 0.0

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(40.0))

    def forward(self, images):
        level = images.mean((1, 2, 3))
        return torch.stack([0 * level, self.scale * (level - 0.5)], 1)  # bright is a yield sign


def make():
    return Toy()
"""


def round_the_sign(family: str) -> Layout:
    """Tags as in data/captures."""
    far = SIGN_MM + 2 * GAP_MM + TAG_MM
    square = np.array([[0, 0], [TAG_MM, 0], [TAG_MM, TAG_MM], [0, TAG_MM]]) - GAP_MM - TAG_MM
    return Layout(family, {i: square + np.multiply(far, at) for i, at in enumerate([(0, 0), (1, 0), (1, 1), (0, 1)])})


def board(layout: Layout, to_px: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """A photograph of a white board with those tags: rendered 8 times as large, averaged in linear light."""
    fine = np.diag([8.0, 8.0, 1.0]) @ to_px
    canvas = np.full((8 * size_px[1], 8 * size_px[0]), 0.8, np.float32)
    dictionary = cv2.aruco.getPredefinedDictionary(FAMILIES[layout.family][0])
    modules = FAMILIES[layout.family][1]
    for number, corners in layout.corners_mm.items():
        tag = np.where(cv2.aruco.generateImageMarker(dictionary, number, modules * 16) > 0, 0.8, 0.04)
        side = modules * 16
        square = np.array([[0, 0], [side, 0], [side, side], [0, side]], np.float32)
        seen = cv2.perspectiveTransform(corners[None], fine)[0]
        matrix = cv2.getPerspectiveTransform(square - 0.5, seen.astype(np.float32) - 0.5)
        painted = cv2.warpPerspective(tag.astype(np.float32), matrix, canvas.shape[::-1], borderValue=-1, flags=0)
        canvas = np.where(painted >= 0, painted, canvas)
    linear = cv2.GaussianBlur(cv2.resize(canvas, size_px, interpolation=cv2.INTER_AREA), (0, 0), 0.7)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.repeat((255 * encoded).round().astype(np.uint8)[..., None], 3, 2)


def camera(pose: dict[str, float], focal_px: float, size_px: tuple[int, int]) -> np.ndarray:
    """Surface mm -> px with the sign at the centre of the photograph, by the project's own pinhole."""
    values = [torch.tensor([pose[name]]) for name in ("distance_m", "yaw_deg", "pitch_deg", "roll_deg")]
    matrix = pinhole(*values, torch.tensor([focal_px])) @ translation(torch.tensor([[-SIGN_MM / 2, -SIGN_MM / 2]]))
    return (translation(torch.tensor([size_px]) / 2) @ matrix)[0].double().numpy()


POSE = {"distance_m": 4.0, "yaw_deg": 24.0, "pitch_deg": -11.0, "roll_deg": 5.0}
SIZE_PX = (400, 360)


@pytest.fixture(scope="module", params=["36h11", "4x4_50"])
def photographed(request: pytest.FixtureRequest) -> tuple[Layout, np.ndarray, Photo]:
    layout = round_the_sign(request.param)
    to_px = camera(POSE, 900.0, SIZE_PX)
    return layout, to_px, Photo("board", "board", board(layout, to_px, SIZE_PX), 900.0)


def test_corners_are_found_to_a_tenth_of_a_pixel(photographed: tuple[Layout, np.ndarray, Photo]) -> None:
    layout, to_px, photo = photographed
    found = find(photo.pixels, layout.family, wanted=range(4))
    assert found.keys() == {0, 1, 2, 3}
    errors = [found[i] - cv2.perspectiveTransform(layout.corners_mm[i][None], to_px)[0] for i in range(4)]
    assert np.median(np.linalg.norm(errors, axis=-1)) < 0.12
    assert np.abs(np.mean(errors)) < 0.05  # half a pixel, were centres at integers


def test_the_pose_of_a_board_is_the_worlds(photographed: tuple[Layout, np.ndarray, Photo]) -> None:
    layout, _, photo = photographed
    sighting = locate(photo, layout, load_scenes("staged:stop", face_mm=SIGN_MM))
    assert sighting.found == 4
    assert sighting.measured
    assert sighting.plane.error_px < 0.3
    assert sighting.pose.distance_m == pytest.approx(POSE["distance_m"], rel=0.01)
    for name, tolerance in (("yaw_deg", 1.0), ("pitch_deg", 1.0), ("roll_deg", 0.3)):
        assert getattr(sighting.pose, name) == pytest.approx(POSE[name], abs=tolerance)


def test_a_face_off_the_axis_is_turned_against_its_own_ray() -> None:
    corners = np.array([[0.0, 0], [750, 0], [750, 750], [0, 750]])
    centred = camera(POSE | {"roll_deg": 0.0, "pitch_deg": 0.0}, 900.0, SIZE_PX)
    intrinsic = np.array([[900.0, 0, 200], [0, 900, 180], [0, 0, 1]])
    aside = cv2.Rodrigues(np.array([0.0, 0.2, 0.0]))[0]  # the camera looks past the sign
    moved = intrinsic @ aside @ np.linalg.inv(intrinsic) @ centred
    px = cv2.perspectiveTransform(corners[None], moved)[0]
    pose = pose_of(corners, px, centre_mm=np.array([375.0, 375.0]), focal_px=900.0, size_px=SIZE_PX)
    assert pose.yaw_deg == pytest.approx(24.0, abs=0.01)
    assert pose.distance_m == pytest.approx(4.0, rel=1e-4)


def test_a_face_square_to_the_camera_has_a_pose() -> None:
    """OpenCV's IPPE makes no numbers of these."""
    square = np.array([[0.0, 0], [600, 0], [600, 600], [0, 600]])
    px = np.array([[14.0, 14], [82, 14], [82, 82], [14, 82]])
    pose = pose_of(square, px, centre_mm=np.array([300.0, 300.0]), focal_px=300.0, size_px=(128, 96))
    assert pose.distance_m == pytest.approx(np.hypot(300 * 600 / 68, 16 / 68 * 600) / 1000, rel=1e-3)
    assert pose.roll_deg == pytest.approx(0, abs=0.01)


def test_planes_seen_from_behind_or_collapsed_are_refused() -> None:
    square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    with pytest.raises(UserError, match="clockwise"):
        fit_plane(square, square[::-1])
    with pytest.raises(UserError, match="corners"):
        fit_plane(square, np.zeros((4, 2)))


def test_one_tag_or_tags_in_other_places_are_not_believed(photographed: tuple[Layout, np.ndarray, Photo]) -> None:
    layout, _, photo = photographed
    scenes = load_scenes("staged:stop", face_mm=SIGN_MM)
    hidden = Photo("half", "half", photo.pixels.copy(), None)
    hidden.pixels[:, 150:] = 128
    hidden.pixels[180:] = 128
    with pytest.raises(UserError, match="1 of 4 tags"):
        locate(hidden, layout, scenes)
    swapped = Layout(layout.family, {i: layout.corners_mm[j] for i, j in enumerate([0, 2, 1, 3])})
    with pytest.raises(UserError, match=r"contradict|wrong order"):
        locate(photo, swapped, scenes)


def test_the_crop_is_the_frame_round_the_outline(photographed: tuple[Layout, np.ndarray, Photo]) -> None:
    """A picture whose colour is its coordinate says itself where it was cut."""
    _, to_px, _ = photographed
    y, x = np.mgrid[0:360, 0:400]
    ramp = np.dstack([x * 255 / 400, y * 255 / 360, 0 * x]).round().astype(np.uint8)
    scenes = load_scenes("staged:stop", face_mm=SIGN_MM)
    outline = project(torch.tensor(to_px[None]), scenes.faces.outline_mm.double())[0].numpy()
    seen = cut_out(Photo("ramp", "ramp", ramp, None), fit_plane(*_four(to_px)), scenes, Frame(32, 0.25)).picture.numpy()
    low, high = outline.min(0), outline.max(0)
    side = 1.5 * (high - low).max()
    expected = ((low + high) / 2 + side * (np.array([[0.5 / 32], [31.5 / 32]]) - 0.5) - 0.5) / (400, 360)
    np.testing.assert_allclose([seen[0, 16, 0], seen[0, 16, -1]], expected[:, 0], atol=0.01)
    np.testing.assert_allclose([seen[1, 0, 16], seen[1, -1, 16]], expected[:, 1], atol=0.01)


def _four(to_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    corners = np.array([[0.0, 0], [SIGN_MM, 0], [SIGN_MM, SIGN_MM], [0, SIGN_MM]])
    return corners, cv2.perspectiveTransform(corners[None], to_px)[0]


def test_the_world_stands_where_the_photograph_was_taken() -> None:
    there = world_at(load_world("drive-by"), Pose(4.0, 24.0, -95.0, 5.0, 900.0), torch.tensor([SIGN_MM, SIGN_MM]))
    (stages,) = there.components
    pinholes = [one for one in stages.view if isinstance(one, Pinhole)]
    assert pinholes == [Pinhole((4.0, 4.0), (24.0, 24.0), (-80.0, -80.0), (5.0, 5.0), (900.0, 900.0))]
    assert not any(isinstance(one, Relative) for one in stages.view)
    assert stages.light == load_world("drive-by").components[0].light


# --- photographs -----------------------------------------------------------------------------------------------------


def exif(**tags: float) -> Image.Exif:
    data = Image.Exif()
    data.get_ifd(0x8769).update({int(key[1:], 16): value for key, value in tags.items()})
    return data


def test_orientation_and_focal_length_come_from_exif(tmp_path: Path) -> None:
    picture = Image.new("RGB", (60, 40), "red")
    turned = exif(xA405=26)
    turned[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=turned)
    picture.save(tmp_path / "b.jpg", exif=exif(x920A=4.0, xA20E=2540.0, xA210=2, xA002=120))
    picture.save(tmp_path / "c.jpg")
    phone, plane, plain = open_source(str(tmp_path), focal_px=None).read()
    assert phone.pixels.shape == (60, 40, 3)
    assert phone.focal_px == pytest.approx(26 / FILM_DIAGONAL_MM * np.hypot(60, 40))
    assert plane.focal_px == pytest.approx(4.0 * 100 * 60 / 120)
    assert plain.focal_px is None
    assert next(open_source(str(tmp_path), focal_px=50.0).read()).focal_px == 50.0


def test_odd_files_are_read_and_bad_ones_are_named(tmp_path: Path) -> None:
    Image.new("CMYK", (20, 20)).save(tmp_path / "cmyk.jpg")
    Image.fromarray(np.full((20, 20), 40000, np.uint16)).save(tmp_path / "deep.png")
    Image.effect_noise((90, 90), 90).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "notes.txt").write_text("notes")
    read = {one.name: one for one in open_source(str(tmp_path), focal_px=None).read(done={"whole.png"})}
    assert [name for name, one in read.items() if isinstance(one, Photo)] == ["cmyk.jpg", "deep.png"]
    assert read["deep.png"].pixels[0, 0].tolist() == [156, 156, 156]
    assert [name for name, one in read.items() if isinstance(one, Skipped)] == ["cut.png", "empty.jpg", "notes.txt"]


def filmed(path: Path, *, levels: tuple[int, ...]) -> None:
    """A blue frame of each level."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for level in levels:
        writer.write(np.full((48, 64, 3), (level, 0, 0), np.uint8))
    writer.release()


def test_frames_of_a_video_share_a_group(tmp_path: Path) -> None:
    path = tmp_path / "walk.avi"
    filmed(path, levels=(0, 120, 240))
    video = open_source(str(path), focal_px=None)
    frames = list(video.read(done={"walk.avi#000001"}))
    assert len(video) == 3
    assert [frame.name for frame in frames] == ["walk.avi#000000", "walk.avi#000002"]
    assert {frame.group for frame in frames} == {"walk.avi"}
    assert frames[1].pixels[0, 0, 2] > 200  # blue: OpenCV's order is turned round


def test_a_video_that_is_shorter_than_it_says_ends_once(tmp_path: Path) -> None:
    path = tmp_path / "walk.avi"
    filmed(path, levels=(0, 120))
    video = replace(open_source(str(path), focal_px=None), frames=5)
    names = [one.name for one in video.read()]
    assert names == [f"walk.avi#{frame:06d}" for frame in range(3)]
    assert [type(one) for one in video.read(done=names[:1])] == [Photo, Skipped]
    assert not list(video.read(done=names))


# --- where the sign is -----------------------------------------------------------------------------------------------


def test_quads_are_read_and_faults_name_their_line(tmp_path: Path) -> None:
    path = tmp_path / "quads.csv"
    head = "file,x1,y1,x2,y2,x3,y3,x4,y4"
    path.write_text(f"{head},condition\na.png,1,2,3,2,3,4,1,4,sun\n", encoding="utf-8-sig")
    quad = read_quads(path)["a.png"]
    assert quad.corners_px.tolist() == [[1, 2], [3, 2], [3, 4], [1, 4]]
    assert (quad.condition, quad.label) == ("sun", None)
    for body, fault in (("a,1,2,3,2,3,4,1,x", "line 2"), ("a,1,2,3,2,3,4,1", "line 2"), ("a,1,2,3,2,3,4,1,inf", "inf")):
        path.write_text(f"{head}\n{body}\n")
        with pytest.raises(UserError, match=fault):
            read_quads(path)
    path.write_text("file,x1\na,1\n")
    with pytest.raises(UserError, match="y1"):
        read_quads(path)


def test_tags_of_a_sheet_lie_beside_the_artwork(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (8, 8), "red")
    size = {"width_mm": 80.0, "height_mm": 80.0}
    sheet = make_sheet(
        picture, **size, folder=tmp_path, title="t", artwork_hash="h", place_mm=(100.0, 50.0, 180.0, 130.0)
    )
    layout = sheet_layout(tmp_path, None)
    box, tag = sheet.pages[0].artwork[0].box_mm, sheet.pages[0].tags[0]
    expected = np.add(np.subtract(tag.corners_mm[0], box[:2]), (100, 50))
    np.testing.assert_allclose(layout.corners_mm[tag.id][0], expected)
    two = Image.new("RGBA", (9, 3))
    two.paste("red", (0, 0, 3, 3))
    two.paste("red", (6, 0, 9, 3))
    apart = tmp_path / "two"
    apart.mkdir()
    make_sheet(two, width_mm=90.0, height_mm=30.0, folder=apart, title="t", artwork_hash="h")
    with pytest.raises(UserError, match="2 pieces"):
        sheet_layout(apart, None)
    joined = tmp_path / "joined"
    make_sheet(picture, width_mm=300.0, height_mm=80.0, folder=joined, title="t", artwork_hash="h")
    with pytest.raises(UserError, match=r"one piece is in 2 tiles.*--tags-at round"):
        sheet_layout(joined, None)


def test_a_layout_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tags.yaml"
    layout = round_the_sign("4x4_50")
    tags = {number: corners.tolist() for number, corners in layout.corners_mm.items()}
    path.write_text(json.dumps({"family": "4x4_50", "tags": tags}))
    np.testing.assert_array_equal(read_layout(path).corners_mm[2], layout.corners_mm[2])
    path.write_text("family: 4x4_50\ntags: {0: [[1, 2]]}\n")
    with pytest.raises(UserError, match="four corners"):
        read_layout(path)
    path.write_text("tags: 3")
    with pytest.raises(UserError, match=r"capture\.md"):
        read_layout(path)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def shots(tmp_path: Path) -> dict[str, object]:
    """Two dark photographs, two bright ones, and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rows = ["file,x1,y1,x2,y2,x3,y3,x4,y4,condition"]
    for index, level in enumerate((40, 60, 200, 220)):
        Image.new("RGB", (80, 80), (level,) * 3).save(folder / f"{index}.png")
        rows.append(f"{index}.png,10,10,70,10,70,70,10,70,{'dark' if level < 128 else 'bright'}")
    (folder / "notes.txt").write_text("notes")
    (tmp_path / "quads.csv").write_text("\n".join(rows))
    (tmp_path / "toy.py").write_text(TOY)
    return {
        "photos": str(folder),
        "quads": tmp_path / "quads.csv",
        "target": f"python:{tmp_path / 'toy.py'}:make",
        "out": tmp_path / "out",
        "views": 3,
        "gap": 0,
    }


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "captures.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_counts_what_the_target_says(shots: dict[str, object], tmp_path: Path) -> None:
    metrics = run_capture(CaptureOptions(**shots), command="physadv capture", console=Console())
    assert (metrics["observed"]["k"], metrics["observed"]["n"], metrics["predicted"]["n"]) == (2, 4, 12)
    assert metrics["conditions"]["bright"]["observed"]["rate"] == 1.0
    assert metrics["conditions"]["dark"]["observed"]["rate"] == 0.0
    assert [one["file"] for one in metrics["skipped"]] == ["notes.txt"]
    rows = rows_of(tmp_path / "out")
    assert [row["answer"] for row in rows] == ["stop", "stop", "yield", "yield", ""]
    assert {row["distance_m"] for row in rows} == {""}  # nothing says the focal length
    assert sum(cell["observed"]["n"] for cell in metrics["cells"]) == 4
    page = (tmp_path / "out" / "report.html").read_text()
    assert "2 of 4" in page
    assert "notes.txt" in page
    assert page.count("data:image/jpeg") == 4


def test_an_artwork_changes_what_is_foretold(shots: dict[str, object], tmp_path: Path) -> None:
    white = torch.ones(1, 3, 2, 2)
    Artwork(white, torch.ones(1, 1, 2, 2), torch.tensor([[0.0, 0.0, 700.0, 700.0]])).save(tmp_path / "white")
    shots |= {"world": "digital", "face_mm": 700.0}
    clean = run_capture(CaptureOptions(**shots), command="", console=Console())
    covered = CaptureOptions(**shots | {"out": tmp_path / "covered", "artwork": tmp_path / "white"})
    worn = run_capture(covered, command="", console=Console())
    assert clean["predicted_grey"] is None
    assert worn["predicted_grey"]["n"] == worn["predicted"]["n"]
    assert clean["predicted"]["k"] < worn["predicted"]["k"]
    assert clean["observed"] == worn["observed"]


@pytest.mark.parametrize(("given", "used"), [(None, 700.0), (650.0, 650.0)])
def test_the_face_is_as_wide_as_the_artworks(
    shots: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str], given: float | None, used: float
) -> None:
    """An artwork for a sign of 700 mm lies wholly on it; on the class's own it would foretell something else."""
    record = {"run": {"config": {"face_mm": 700.0}}}
    place = torch.tensor([[0.0, 0.0, 700.0, 700.0]])
    Artwork(torch.ones(1, 3, 2, 2), torch.ones(1, 1, 2, 2), place, record=record).save(tmp_path / "white")
    shots |= {"world": "digital", "artwork": tmp_path / "white", "face_mm": given}
    metrics = run_capture(CaptureOptions(**shots), command="", console=Console())
    assert metrics["run"]["config"]["face_mm"] == used
    assert "700 mm" in capsys.readouterr().err


def covering(folder: Path, level: float, *, size_mm: float = 700.0) -> None:
    """An artwork of one grey, over all of the sign."""
    rgb = torch.full((1, 3, 2, 2), level)
    Artwork(rgb, torch.ones(1, 1, 2, 2), torch.tensor([[0.0, 0.0, size_mm, size_mm]])).save(folder)


def test_artworks_of_one_name_are_told_apart(
    shots: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`art` of --artwork lies here, `art` of a row beside its table."""
    tables, here = tmp_path / "tables", tmp_path / "here"
    covering(tables / "art", 0.0)
    covering(here / "art", 1.0)
    monkeypatch.chdir(here)
    head, *rows = Path(str(shots["quads"])).read_text().splitlines()
    worn = [f"{head},artwork", f"{rows[0]},", f"{rows[1]},art", f"{rows[2]},", f"{rows[3]},art"]
    (tables / "quads.csv").write_text("\n".join(worn))
    shots |= {"world": "digital", "face_mm": 700.0, "quads": tables / "quads.csv", "artwork": Path("art")}
    run_capture(CaptureOptions(**shots), command="", console=Console())
    assert [row["predicted"] for row in rows_of(tmp_path / "out")] == ["3", "0", "3", "0", ""]


def test_the_sheet_of_another_artwork_is_refused(shots: dict[str, object], tmp_path: Path) -> None:
    """A sheet of `print --image` tells nothing of it, a clean sign has none, and one picture may be two PNGs."""
    one, two, picture = (tmp_path / name for name in ("one", "two", "picture"))
    for folder, level in ((one, 0.2), (two, 0.8)):
        covering(folder, level, size_mm=100.0)
    print_sheet(one, None)
    print_sheet(None, one / "art.png", width_mm=100.0, folder=picture)

    def skipped(sheet: Path, artwork: Path | None, number: int) -> int:
        given = {"quads": None, "face_mm": 700.0, "sheet": sheet, "artwork": artwork, "out": tmp_path / str(number)}
        return run_capture(CaptureOptions(**shots | given), command="", console=Console())["photographs"]["skipped"]

    with pytest.raises(UserError, match=r"another artwork than .*two: give --artwork"):
        skipped(one, two, 0)
    assert not (tmp_path / "0").exists()
    assert skipped(one, one, 1) == skipped(picture, two, 2) == skipped(one, None, 3) == 5
    Image.open(one / "art.png").save(one / "art.png", compress_level=0)
    for name in ("artwork.json", "sheet.json"):
        text = (one / name).read_text()
        (one / name).write_text(text.replace(load_sheet(one).artwork_hash, sha256(one / "art.png")))
    assert skipped(one, one, 4) == 5


def test_a_run_resumes_where_it_stopped(shots: dict[str, object], tmp_path: Path) -> None:
    whole = run_capture(CaptureOptions(**shots), command="", console=Console())
    path = tmp_path / "out" / "captures.csv"
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"2.png") + 9])  # killed in the middle of a row
    (tmp_path / "photos" / "0.png").write_bytes(b"")  # judged already: not read again
    again = run_capture(CaptureOptions(**shots, resume=True), command="", console=Console())
    assert path.read_bytes() == data
    assert again == whole
    with pytest.raises(UserError, match="another run"):
        run_capture(CaptureOptions(**shots | {"views": 4}, resume=True), command="", console=Console())


WORLD = """note: for a test
light:
  exposure: {{stops: [{stops}, {stops}]}}
view:
  relative: {{}}
"""


@pytest.mark.parametrize(
    "changed", ["nothing", "world", "quads", "artwork", "face", "weights", "tags", "sheet", "profile"]
)
def test_a_run_is_not_mixed_with_another(shots: dict[str, object], tmp_path: Path, changed: str) -> None:
    """Each file that an option names holds something else when the run is resumed."""
    layout = {i: corners.tolist() for i, corners in round_the_sign("36h11").corners_mm.items()}
    printer = {"polynomial": np.zeros((20, 3)).tolist(), "table": {"values": np.zeros((LATTICE**3, 3)).tolist()}}
    profile = {"version": VERSION, "print": printer, "photographs": [], "fitted_on": {}, "errors": {}}
    texts = {
        "world": (tmp_path / "world.yaml", WORLD.format(stops=-1.0), WORLD.format(stops=-1.1)),
        "quads": (tmp_path / "quads.csv", (quads := (tmp_path / "quads.csv").read_text()), quads.replace("70", "71")),
        "weights": (tmp_path / "toy.py", TOY, TOY.replace("40.0", "41.0")),
        "tags": (tmp_path / "tags.yaml", tags := json.dumps({"family": "36h11", "tags": layout}), f"{tags} "),
        "profile": (tmp_path / "profile.json", said := json.dumps(profile), f"{said} "),
    }
    for path, before, _ in texts.values():
        path.write_text(before)
    covering(tmp_path / "art", 0.5, size_mm=100.0)
    print_sheet(tmp_path / "art", None)
    Image.new("RGB", (20, 20), "red").save(tmp_path / "face.png")
    given = {"world": str(tmp_path / "world.yaml"), "artwork": tmp_path / "art", "face": str(tmp_path / "face.png")}
    given |= {"label": "stop", "face_mm": 700.0}
    if changed == "tags":
        given |= {"quads": None, "tags": tmp_path / "tags.yaml"}
    if changed in ("sheet", "profile"):
        given |= {"quads": None, "sheet": tmp_path / "art", "profile": tmp_path}
    options = CaptureOptions(**shots | given)
    run_capture(options, command="", console=Console())
    if changed in texts:
        path, _, after = texts[changed]
        path.write_text(after)
    elif changed == "artwork":
        covering(tmp_path / "art", 0.6, size_mm=100.0)
    elif changed == "face":
        Image.new("RGB", (20, 20), "blue").save(tmp_path / "face.png")
    elif changed == "sheet":
        print_sheet(tmp_path / "art", None, overwrite=True, paper="a3")
    resumed = options.model_copy(update={"resume": True})
    if changed == "nothing":
        run_capture(resumed, command="", console=Console())
        return
    with pytest.raises(UserError, match="belongs to another run"):
        run_capture(resumed, command="", console=Console())


def test_a_resumed_run_gives_the_same_gap(shots: dict[str, object], tmp_path: Path) -> None:
    options = CaptureOptions(**shots | {"gap": 2})
    whole = run_capture(options, command="", console=Console())
    path = tmp_path / "out" / "captures.csv"
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"2.png") + 9])
    again = run_capture(options.model_copy(update={"resume": True}), command="", console=Console())
    assert whole["gap"]["photographs"] == 2
    assert again == whole
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Why observed and predicted differ" in page
    assert 'href="#photo-1"' in page


def test_rows_survive_the_table(tmp_path: Path) -> None:
    row = table.Row("a,b.png", "g", yaw_deg=-0.0, success=False, found=3, skipped='say "x"\ny')
    table.append(tmp_path / "t.csv", row)
    assert table.read(tmp_path / "t.csv") == [
        table.Row("a,b.png", "g", yaw_deg=0.0, success=False, found=3, skipped='say "x" y')
    ]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"photos": None}, "Which photographs"),
        ({"photos": "nowhere"}, "check the path"),
        ({"quads": None}, "Where is the sign"),
        ({"goal": "class:stop"}, "already"),
        ({"frames": 3}, "--frames"),
        ({"resume": True}, "no run"),
    ],
)
def test_bad_input_writes_nothing(
    shots: dict[str, object], tmp_path: Path, change: dict[str, object], fault: str
) -> None:
    with pytest.raises(UserError, match=fault):
        run_capture(CaptureOptions(**shots | change), command="", console=Console())
    assert not (tmp_path / "out").exists()


def test_the_command_takes_the_photographs_by_place(
    shots: dict[str, object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"--{key}={value}" for key, value in shots.items() if key != "photos"]
    monkeypatch.setattr(sys, "argv", ["physadv", "capture", str(shots["photos"]), *options])
    with pytest.raises(SystemExit) as end:
        physadv.cli.main()
    assert end.value.code == 0
    assert "4 judged, 1 not" in capsys.readouterr().out


# --- the real thing --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "family"), [("tags_apriltag", "36h11"), ("tags_aruco", "4x4_50")])
def test_captured_tags_and_poses(data: Path, folder: str, family: str) -> None:
    """Wherever tags are 20 px: found, within 0.6 px; distance within 3 %, yaw within 2 degrees; nothing false."""
    layout, scenes = round_the_sign(family), load_scenes("staged:stop", face_mm=SIGN_MM)
    lines = (data / "captures" / folder / "photos.jsonl").read_text().splitlines()
    truth = {said["file"]: said for said in map(json.loads, lines)}
    corner_px, distance, yaw_deg, large, found = [], [], [], 0, 0
    for photo in open_source(str(data / "captures" / folder), focal_px=None).read():
        if isinstance(photo, Skipped):
            continue
        said = truth[photo.name]
        true = {int(number): np.array(corners) + 0.5 for number, corners in said["markers"].items()}
        tags = find(photo.pixels, family, wanted=range(4))
        assert tags.keys() <= true.keys()
        assert all(np.abs(corners - true[number]).max() < 10 for number, corners in tags.items())
        seen = [number for number, corners in true.items() if cv2.contourArea(corners.astype(np.float32)) >= 400]
        large, found = large + len(seen), found + len(tags.keys() & seen)
        corner_px += [np.linalg.norm(tags[n] - true[n], axis=1) for n in tags.keys() & seen]
        if len(tags) >= 2:
            known = Photo(photo.name, photo.group, photo.pixels, said["focal_px"])
            pose = locate(known, layout, scenes).pose
            distance.append(abs(pose.distance_m / said["distance"] - 1))
            yaw_deg.append(abs(pose.yaw_deg - said["yaw"]))
    assert found >= 0.95 * large
    assert np.median(corner_px) <= 0.4
    assert np.median(distance) <= 0.03
    assert np.median(yaw_deg) <= 2


@pytest.mark.slow
def test_real_photographs_go_through_with_quads(data: Path, tmp_path: Path) -> None:
    folder = data / "stop_rp2" / "photos_256"
    names = [path.name for path in sorted(folder.iterdir())]
    rows = ["file,x1,y1,x2,y2,x3,y3,x4,y4", *(f"{name},12,12,244,12,244,244,12,244" for name in names)]
    (tmp_path / "quads.csv").write_text("\n".join(rows))
    options = CaptureOptions(photos=str(folder), quads=tmp_path / "quads.csv", out=tmp_path / "out", views=1)
    metrics = run_capture(options, command="", console=Console())
    assert metrics["photographs"] == {"judged": 40, "skipped": 0}
    assert metrics["observed"]["rate"] < 0.2  # clean signs, and most are read as what they are
