"""A sheet that hangs whole before a simulated camera: the paper in the views, and its colour strip."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from physadv.calibration import fit_print_map, make_chart
from physadv.calibration.strip import Strip
from physadv.capture.explain import Case, case_of
from physadv.capture.gap import split
from physadv.capture.hung import Printed, on_paper, tag_grey
from physadv.capture.judge import locate, world_at
from physadv.capture.layout import Layout, sheet_layout
from physadv.capture.measure import typical_ink
from physadv.capture.photos import Photo
from physadv.capture.swap import Found
from physadv.capture.table import Row
from physadv.cli import app
from physadv.config import CaptureOptions
from physadv.console import Console
from physadv.errors import UserError
from physadv.files import to_pil
from physadv.handwork import print_sheet
from physadv.objectives import Goal, Margin
from physadv.runs.capture import run_capture
from physadv.runs.fit_world import FACE_PX, KnownSign, dressed
from physadv.scenes import Scenes, load_scenes
from physadv.targets import Classifier, load_target
from physadv.threats import Artwork
from physadv.transforms.colour import to_linear
from physadv.transforms.print import Ink
from physadv.transforms.world import World, load_world

pytest.importorskip("pypdfium2", reason="rendering the sheet needs pypdfium2 (extra: dev)")

import cv2

from tests.simulated.camera import A, Pose, photograph
from tests.simulated.press import LASER, eye
from tests.simulated.stage import BOARD_PX_PER_MM, board, clutter, draw_light, sheet

SIGN_MM = 600.0


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return load_scenes("staged:stop", face_mm=SIGN_MM)


@pytest.fixture(scope="module")
def hung(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Artwork, Layout]:
    """Blocks of all colours on an A4 sheet, 150 mm wide, in the middle of the sign."""
    folder = tmp_path_factory.mktemp("blocks")
    rgb = torch.rand(1, 3, 3, 3, generator=torch.Generator().manual_seed(3))
    rgb = rgb.repeat_interleave(16, 2).repeat_interleave(16, 3)
    artwork = Artwork(rgb, torch.ones(1, 1, 48, 48), torch.tensor([[225.0, 225.0, 375.0, 375.0]]))
    artwork.save(folder)
    print_sheet(folder, None)
    return folder, artwork, sheet_layout(folder, artwork)


@pytest.fixture(scope="module")
def printed(hung: tuple[Path, Artwork, Layout]) -> Printed:
    """The laser printer's print map, from its 96 colours by daylight."""
    colours = make_chart(96).rgb.astype(np.uint8)
    light = LASER.reflectance(colours) @ eye()
    white = LASER.reflectance(np.full((1, 3), 255, np.uint8)) @ eye()
    return Printed(Strip(hung[0]), fit_print_map(colours / 255, np.clip(light / white, 0, 1), table=True))


def taken(folder: Path, scenes: Scenes, layout: Layout, number: int, *, distance_m: float) -> Photo:
    """The sheet on the sign, by the phone, each time from elsewhere and in other light."""
    assert layout.paper_mm is not None
    rng = np.random.default_rng(number)
    plate, origin = board(to_pil(scenes.faces.images[0]), SIGN_MM, {}, cv2.aruco.DICT_APRILTAG_36h11)
    paper = sheet(folder / "sheet.pdf", LASER, dpi=round(25.4 * BOARD_PX_PER_MM))
    plate = plate.covered(paper, (origin + layout.paper_mm[:2]).tolist())
    pose = Pose(distance_m, rng.uniform(-25, 25), rng.uniform(-10, 10))
    light = draw_light(rng, brightest=0.8)
    pixels = photograph(plate, A, pose, light, clutter(rng), rng=rng, margin_px=24)
    return Photo(f"{number}", f"{number}", pixels, A.focal_px)


def test_the_white_of_the_sheet_is_in_the_views(hung: tuple[Path, Artwork, Layout]) -> None:
    """In its place to a texel, the artwork where it was, white round it, tags grey."""
    _, artwork, layout = hung
    whole = on_paper(artwork, layout)
    assert layout.paper_mm is not None
    torch.testing.assert_close(whole.place_mm, torch.tensor([layout.paper_mm]), atol=1.6, rtol=0)
    left, top = ((artwork.place_mm - whole.place_mm)[0, :2] / 3.125).round().int().tolist()
    torch.testing.assert_close(whole.rgb[..., top : top + 48, left : left + 48], artwork.rgb)
    assert float(whole.alpha.min()) == 1.0
    assert whole.rgb[0, :, 5, whole.rgb.shape[-1] // 2].tolist() == [1, 1, 1]
    greys = torch.tensor([tag_grey(layout.family, number) for number in layout.corners_mm])
    share = float(torch.isclose(whole.rgb[0, 0, ..., None], greys).any(-1).float().mean())
    assert share == pytest.approx(4 * 20**2 / (210 * 297), rel=0.25)


@pytest.mark.parametrize(("family", "share"), [("36h11", 0.27), ("4x4_50", 0.22)])
def test_a_tag_from_afar_is_as_bright_as_its_white_modules(family: str, share: float) -> None:
    greys = torch.tensor([tag_grey(family, number) for number in range(4)])
    assert float(to_linear(greys).mean()) == pytest.approx(share, abs=0.01)


def test_the_strip_tells_the_sheets_colours(
    hung: tuple[Path, Artwork, Layout], scenes: Scenes, printed: Printed
) -> None:
    """Light from the face in both; print by the strip of each photograph, or as the world draws it: paired."""
    folder, artwork, layout = hung
    world = load_world("drive-by")
    target, prior = load_target("builtin:gtsrb"), typical_ink(world.components[0].get(Ink))
    nearer = []
    for number in range(2):
        photo = taken(folder, scenes, layout, number, distance_m=0.8)
        case = measured(photo, scenes, artwork, layout, target, printed)
        assert case.camera is not None
        assert case.hung is not None
        strip = printed.response(case.hung, case.camera, case.measured.light, prior)
        without, with_strip = (colours(case, scenes, world, target, response) for response in (None, strip))
        nearer.append(without - with_strip)
    print("nearer by CIEDE2000:", np.round(nearer, 1))
    assert min(nearer) > 0
    assert np.mean(nearer) > 1


def test_a_strip_that_is_far_or_of_another_printer_is_not_believed(
    hung: tuple[Path, Artwork, Layout], scenes: Scenes, printed: Printed
) -> None:
    folder, _, layout = hung
    assert printed.camera(taken(folder, scenes, layout, 0, distance_m=3.5)) is None
    near = taken(folder, scenes, layout, 0, distance_m=0.8)
    assert printed.camera(near) is not None
    shuffled = fit_print_map(make_chart(96).srgb, np.random.default_rng(0).random((96, 3)), table=True)
    assert Printed(printed.strip, shuffled).camera(near) is None


def measured(
    photo: Photo, scenes: Scenes, artwork: Artwork, layout: Layout, target: Classifier, printed: Printed
) -> Case:
    plane = locate(photo, layout, scenes).plane
    corners = plane.project(SIGN_MM * np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])).ravel().tolist()
    row = Row(
        photo.name, photo.name, **dict(zip(("x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4"), corners, strict=True))
    )
    case = case_of(
        photo, row, scenes=scenes, artwork=artwork, work="art", target=target, paper_mm=layout.paper_mm,
        hung=on_paper(artwork, layout), printed=printed,
    )  # fmt: skip
    assert case is not None
    return case


def colours(case: Case, scenes: Scenes, world: World, target: Classifier, response: torch.Tensor | None) -> float:
    """Mean CIEDE2000 of the foretold artwork from the photographed one, all that is known measured."""
    there = world_at(world, case.pose, scenes.faces.size_mm[0])
    size, at = case.seen.shape[-1], case.artwork
    assert at is not None
    sign = inside(case, at, size)
    found = split(
        case.seen, Found(case.measured, case.plane, response), sign, group="", target=target, scenes=scenes,
        artwork=case.hung, objective=Margin(Goal("untargeted")), world=there, views=8, seed=case_seed(case),
        truth=case.truth,
    )  # fmt: skip
    return found.foretold["all"][2]


def case_seed(case: Case) -> int:
    return int(case.row.file)


def inside(case: Case, artwork: Artwork, size_px: int) -> torch.Tensor:
    """The px of the target's crop that show the artwork."""
    middle = (artwork.place_mm[0, :2] + artwork.place_mm[0, 2:]) / 2
    half = float(artwork.place_mm[0, 2] - artwork.place_mm[0, 0]) / 2 / SIGN_MM / 1.2 * size_px - 2
    centre = (middle / SIGN_MM + 0.1) / 1.2 * size_px
    place = torch.arange(size_px) + 0.5
    return ((place - centre[1]).abs() < half)[:, None] & ((place - centre[0]).abs() < half * 0.8)[None]


def test_the_paper_hides_the_face_that_a_world_is_fitted_to(hung: tuple[Path, Artwork, Layout], scenes: Scenes) -> None:
    folder, artwork, layout = hung
    shown = dressed(KnownSign(face_mm=SIGN_MM, artwork=folder, sheet=folder), artwork, scenes)
    left, top, right, bottom = (np.array(layout.paper_mm) / SIGN_MM * FACE_PX).round().astype(int)
    assert not shown.face.bare[top + 2 : bottom - 2, left + 2 : right - 2].any()
    outside = np.ones_like(shown.face.bare, bool)
    outside[top - 3 : bottom + 3, left - 3 : right + 3] = False
    assert shown.face.bare[outside].all()
    assert shown.worn is not None
    torch.testing.assert_close(shown.worn.rgb, on_paper(artwork, layout).rgb)
    for sign, fault in (
        (KnownSign(sheet=folder), "Which artwork is on the sheet"),
        (KnownSign(sheet=folder, artwork=folder, quads=folder), "give one of them"),
    ):
        with pytest.raises(UserError, match=fault):
            dressed(sign, artwork if sign.artwork else None, scenes)


def test_a_world_is_fitted_to_photographs_of_the_whole_sheet(
    hung: tuple[Path, Artwork, Layout], scenes: Scenes, tmp_path: Path
) -> None:
    folder, _, layout = hung
    photos, out = tmp_path / "photos", tmp_path / "street.yaml"
    photos.mkdir()
    for number in range(4):
        photo = taken(folder, scenes, layout, number, distance_m=0.9)
        Image.fromarray(photo.pixels).save(photos / f"{number}.png")
    given = ["--photos", str(photos), "--artwork", str(folder), "--sheet", str(folder), "--face-mm", str(SIGN_MM)]
    made = CliRunner().invoke(app, ["worlds", "fit", *given, "--out", str(out)])
    assert made.exit_code == 0, made.output
    assert "left out" not in made.output
    assert load_world(str(out)).name == "street"


def test_a_profile_needs_a_sheet(tmp_path: Path) -> None:
    options = CaptureOptions(photos=str(tmp_path), quads=tmp_path / "q.csv", profile=tmp_path, out=tmp_path / "out")
    (tmp_path / "q.csv").write_text("file,x1,y1,x2,y2,x3,y3,x4,y4\n")
    with pytest.raises(UserError, match="give --sheet"):
        run_capture(options, command="", console=Console())
