"""Chart, print map, cameras, profile, and the world that follows from it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from physadv.calibration import (
    Camera,
    Measured,
    Profile,
    calibrate,
    chart_json,
    chart_picture,
    ciede2000,
    fit_camera,
    fit_print_map,
    fit_reflectances,
    fit_world,
    load_chart,
    load_profile,
    make_chart,
    read_chart,
    world_yaml,
)
from physadv.calibration.chart import Chart, Reading, check_order, homography, order_of, project, strip
from physadv.calibration.check import new_photographs
from physadv.calibration.difference import difference, encoded, linear
from physadv.calibration.locate import Sheet
from physadv.calibration.profile import Shot
from physadv.calibration.sensor import blur_px, noise
from physadv.calibration.world import fit_ink, kelvin_span, lights_of, printed, replaced, span
from physadv.capture.quads import read_quads
from physadv.cli import app
from physadv.config import CalibrateOptions
from physadv.console import Console
from physadv.errors import UserError
from physadv.files import open_image
from physadv.printing.sheet import make_sheet
from physadv.report.calibrate import verdict
from physadv.runs import run_calibrate
from physadv.scenes import load_scenes
from physadv.targets.base import Frame
from physadv.threats import Artwork
from physadv.transforms.light import Exposure, Temperature, Veil
from physadv.transforms.print import Ink
from physadv.transforms.stages import Stages
from physadv.transforms.view import Pinhole
from physadv.transforms.world import World, load_world

# Sharma, Wu & Dalal 2005, table 1: two L*a*b* colours and their CIEDE2000.
SHARMA = """
50.0000 2.6772 -79.7751 50.0000 0.0000 -82.7485 2.0425
50.0000 3.1571 -77.2803 50.0000 0.0000 -82.7485 2.8615
50.0000 2.8361 -74.0200 50.0000 0.0000 -82.7485 3.4412
50.0000 -1.3802 -84.2814 50.0000 0.0000 -82.7485 1.0000
50.0000 -1.1848 -84.8006 50.0000 0.0000 -82.7485 1.0000
50.0000 -0.9009 -85.5211 50.0000 0.0000 -82.7485 1.0000
50.0000 0.0000 0.0000 50.0000 -1.0000 2.0000 2.3669
50.0000 -1.0000 2.0000 50.0000 0.0000 0.0000 2.3669
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0009 7.1792
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0010 7.1792
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0011 7.2195
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0012 7.2195
50.0000 -0.0010 2.4900 50.0000 0.0009 -2.4900 4.8045
50.0000 -0.0010 2.4900 50.0000 0.0010 -2.4900 4.8045
50.0000 -0.0010 2.4900 50.0000 0.0011 -2.4900 4.7461
50.0000 2.5000 0.0000 50.0000 0.0000 -2.5000 4.3065
50.0000 2.5000 0.0000 73.0000 25.0000 -18.0000 27.1492
50.0000 2.5000 0.0000 61.0000 -5.0000 29.0000 22.8977
50.0000 2.5000 0.0000 56.0000 -27.0000 -3.0000 31.9030
50.0000 2.5000 0.0000 58.0000 24.0000 15.0000 19.4535
50.0000 2.5000 0.0000 50.0000 3.1736 0.5854 1.0000
50.0000 2.5000 0.0000 50.0000 3.2972 0.0000 1.0000
50.0000 2.5000 0.0000 50.0000 1.8634 0.5757 1.0000
50.0000 2.5000 0.0000 50.0000 3.2592 0.3350 1.0000
60.2574 -34.0099 36.2677 60.4626 -34.1751 39.4387 1.2644
63.0109 -31.0961 -5.8663 62.8187 -29.7946 -4.0864 1.2630
61.2901 3.7196 -5.3901 61.4292 2.2480 -4.9620 1.8731
35.0831 -44.1164 3.7933 35.0232 -40.0716 1.5901 1.8645
22.7233 20.0904 -46.6940 23.0331 14.9730 -42.5619 2.0373
36.4612 47.8580 18.3852 36.2715 50.5065 21.2231 1.4146
90.8027 -2.0831 1.4410 91.1528 -1.6435 0.0447 1.4441
90.9257 -0.5406 -0.9208 88.6381 -0.8985 -0.7239 1.5381
6.7747 -0.2908 -2.4247 5.8714 -0.0985 -2.2286 0.6377
2.0776 0.0795 -1.1350 0.9033 -0.0636 -0.5514 0.9082
"""

CORNERS = np.array([[26.0, 16.0], [212.0, 9.0], [216.0, 151.0], [22.0, 140.0]])
CAMERAS = (
    Camera(np.array([[0.55, 0.05, 0.0], [0.02, 0.6, 0.03], [0.0, 0.04, 0.5]]), np.array([0.01, 0.01, 0.02])),
    Camera(np.diag([0.35, 0.3, 0.2]), np.array([0.0, 0.0, 0.005])),
    Camera(np.diag([0.5, 0.6, 0.7]), np.array([0.03, 0.03, 0.03])),
)


def press(srgb: np.ndarray) -> np.ndarray:
    """A printer that is neither a polynomial nor a table."""
    light = linear(srgb) ** 1.2
    return 0.06 + 0.94 * (0.8 * light + 0.2 * light[:, [1, 2, 0]] * light)


def photograph(
    chart: Chart, camera: Camera, *, sigma_px: float = 0.0, shot: float = 0.0, read: float = 0.0, seed: int = 0
) -> np.ndarray:
    """A photograph of the chart in the given light: drawn five times too large, and averaged, as a sensor does."""
    scale = 5
    asked = np.asarray(chart_picture(len(chart)))
    packed, which = np.unique(asked.reshape(-1, 3) @ [65536, 256, 1], return_inverse=True)
    colours = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], 1)
    light = camera(press(colours / 255))[which].reshape(asked.shape).astype(np.float32)
    height, width = asked.shape[:2]
    source = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32) - 0.5
    matrix = cv2.getPerspectiveTransform(source, (CORNERS * scale - 0.5).astype(np.float32))
    paper = camera(np.ones(3)).tolist()
    big = cv2.warpPerspective(light, matrix, (240 * scale, 160 * scale), borderValue=paper)
    if sigma_px:
        big = cv2.GaussianBlur(big, (0, 0), sigma_px * scale)
    small = cv2.resize(big, (240, 160), interpolation=cv2.INTER_AREA).astype(float)
    spread = np.sqrt(shot * small + read**2)
    return encoded(small + spread * np.random.default_rng(seed).standard_normal(small.shape))


def read(chart: Chart, camera: Camera) -> Reading:
    """What an unerring photograph would read."""
    mean = camera(press(chart.srgb))
    return Reading(mean, np.full_like(mean, 1e-6), np.zeros(len(chart), bool))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photographs of a chart, its file, a table of corners, and what is no photograph."""
    folder = tmp_path_factory.mktemp("photos")
    chart = make_chart(24)
    (folder / "chart.json").write_text(json.dumps(chart_json(chart)))
    lines = ["file,x1,y1,x2,y2,x3,y3,x4,y4"]
    photos = folder / "photos"
    photos.mkdir()
    for number, camera in enumerate(CAMERAS):
        pixels = photograph(chart, camera, sigma_px=0.8, shot=0.001, read=0.003, seed=number)
        Image.fromarray(np.round(pixels * 255).astype(np.uint8)).save(photos / f"{number}.png")
        lines.append(f"{number}.png," + ",".join(map(str, CORNERS.ravel())))
    (photos / "broken.jpg").write_bytes(b"no picture")
    (folder / "corners.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def profile() -> Profile:
    chart = make_chart(96)
    return calibrate(chart, [Measured(str(i), read(chart, c), 0.5 + i) for i, c in enumerate(CAMERAS)], name="chart")


def test_ciede2000_gives_the_published_differences() -> None:
    table = np.array([line.split() for line in SHARMA.split("\n") if line], dtype=float)
    assert len(table) == 34
    assert ciede2000(table[:, :3], table[:, 3:6]) == pytest.approx(table[:, 6], abs=5e-5)
    assert ciede2000(table[:, 3:6], table[:, :3]) == pytest.approx(table[:, 6], abs=5e-5)


def test_difference_of_white_and_black_is_100() -> None:
    assert difference(np.ones((1, 3)), np.zeros((1, 3))) == pytest.approx(100, abs=1e-3)


@pytest.mark.parametrize("patches", [24, 96, 256])
def test_a_chart_is_unlike_colours_in_its_boxes(patches: int) -> None:
    chart, picture = make_chart(patches), np.asarray(chart_picture(patches))
    assert len(np.unique(chart.rgb, axis=0)) == patches
    assert {(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 255)} <= set(map(tuple, chart.rgb.tolist()))
    height, width = picture.shape[:2]
    centres = ((chart.box_uv[:, :2] + chart.box_uv[:, 2:]) / 2 * (width, height)).astype(int)
    assert (picture[centres[:, 1], centres[:, 0]] == chart.rgb).all()
    assert chart.size_mm is not None
    assert chart.size_mm[0] / chart.size_mm[1] == pytest.approx(width / height)
    assert (picture[0] == 255).all()


def test_small_charts_are_part_of_large_ones() -> None:
    colours = [set(map(tuple, make_chart(patches).rgb.tolist())) for patches in (24, 96, 256)]
    assert colours[0] < colours[1] < colours[2]
    assert set(map(tuple, make_chart(96).rgb[strip(make_chart(96), 24)].tolist())) == colours[0]


def test_there_are_three_charts() -> None:
    with pytest.raises(UserError, match="24, 96, 256"):
        make_chart(100)


def test_a_chart_file_is_read_back(tmp_path: Path) -> None:
    chart, path = make_chart(24), tmp_path / "chart.json"
    path.write_text(json.dumps(chart_json(chart)))
    again = load_chart(path)
    assert (again.rgb == chart.rgb).all()
    assert again.box_uv == pytest.approx(chart.box_uv)
    assert again.size_mm == chart.size_mm


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content.pop("patches"),
        lambda content: content["patches"][0].update(rgb=[0.5, 1.0, 0.25]),
        lambda content: content["patches"][0].pop("rgb"),
        lambda content: content["patches"][0].update(rgb=[300, 0, 0]),
        lambda content: content["patches"][0].update(box_uv=[0.5, 0.5, 0.4, 0.6]),
        lambda content: content.update(patches=content["patches"][:3]),
    ],
)
def test_what_is_no_chart_is_said(tmp_path: Path, spoil: Callable[[dict[str, object]], object]) -> None:
    content = chart_json(make_chart(24))
    spoil(content)
    (tmp_path / "chart.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="is no chart"):
        load_chart(tmp_path / "chart.json")


def test_patches_are_read_where_they_are() -> None:
    chart = make_chart(24)
    reading = read_chart(photograph(chart, CAMERAS[0]), chart, CORNERS, name="photo")
    assert reading.mean == pytest.approx(CAMERAS[0](press(chart.srgb)), abs=1e-3)
    assert not reading.clipped.any()


def test_a_spot_does_not_change_a_patch_and_clipping_is_told() -> None:
    chart, image = make_chart(24), photograph(make_chart(24), CAMERAS[0])
    before = read_chart(image, chart, CORNERS, name="photo")
    spotted = image.copy()
    spotted[44:46, 44:46] = 1.0
    after = read_chart(spotted, chart, CORNERS, name="photo")
    assert (spotted != image).any()
    assert after.mean == pytest.approx(before.mean, abs=5e-3)
    bright = Camera(1.8 * CAMERAS[0].matrix, CAMERAS[0].offset)
    clipped = read_chart(photograph(chart, bright), chart, CORNERS, name="photo").clipped
    assert (clipped == (bright(press(chart.srgb)) >= 1).any(1)).all()
    assert clipped.any()


def test_corners_outside_and_charts_too_small_are_said() -> None:
    chart, image = make_chart(24), photograph(make_chart(24), CAMERAS[0])
    with pytest.raises(UserError, match="photo: the chart's corners lie outside"):
        read_chart(image, chart, CORNERS + 100, name="photo")
    with pytest.raises(UserError, match="go nearer"):
        read_chart(image, chart, CORNERS / 10, name="photo")


def test_cameras_and_reflectances_are_found_up_to_what_is_fixed() -> None:
    chart = make_chart(96)
    readings = [read(chart, camera) for camera in CAMERAS]
    reflectance = fit_reflectances(chart, readings)
    assert reflectance[(chart.rgb == 255).all(1)][0] == pytest.approx(np.ones(3), abs=0.02)
    for reading in readings:
        camera = fit_camera(reflectance, reading.mean, reading.clipped)
        assert camera(reflectance) == pytest.approx(reading.mean, abs=1e-4)


def test_a_clipped_patch_does_not_move_the_camera() -> None:
    chart = make_chart(24)
    reading, reflectance = read(chart, CAMERAS[1]), press(chart.srgb)
    spoilt = reading.mean.copy()
    spoilt[3] = 1.0
    clipped = np.arange(24) == 3
    assert fit_camera(reflectance, spoilt, clipped).matrix == pytest.approx(CAMERAS[1].matrix, abs=1e-3)
    assert fit_camera(reflectance, spoilt, ~clipped & clipped).matrix != pytest.approx(CAMERAS[1].matrix, abs=1e-3)


def overexposed(chart: Chart, camera: Camera, times: float) -> Reading:
    """What the photograph shows of the chart where it was that many times as bright: its bright patches are white."""
    seen = times * read(chart, camera).mean
    return replace(read(chart, camera), mean=np.minimum(seen, 1), clipped=(seen >= 1).any(1))


@pytest.mark.parametrize("times", [1.8, 30.0, 1e6], ids=["some patches", "nearly all", "all"])
def test_clipped_patches_count_for_nothing(times: float) -> None:
    chart = make_chart(96)
    good, burnt = [read(chart, camera) for camera in CAMERAS[:2]], overexposed(chart, CAMERAS[2], times)
    assert burnt.clipped.sum() > 12
    known, found = (fit_reflectances(chart, readings) for readings in (good, [*good, burnt]))
    camera = fit_camera(known, found, np.zeros(96, bool))  # the mean camera is another one
    assert difference(camera(known), found).mean() < 0.3


def test_colours_that_only_clip_are_not_known() -> None:
    chart, reading = make_chart(96), read(make_chart(96), CAMERAS[1])
    reds = (chart.srgb[:, 0] > 0.9) & ~(chart.srgb == 1).all(1)
    burnt = replace(reading, mean=np.where(reds[:, None], 1.0, reading.mean), clipped=reds)
    found, whole = fit_reflectances(chart, [burnt]), fit_reflectances(chart, [reading])
    assert (np.isnan(found).all(1) == reds).all()
    assert found[~reds] == pytest.approx(whole[~reds])
    maps = [fit_print_map(chart.srgb, one, table=True) for one in (found, whole)]
    assert difference(*(one(chart.srgb[~reds]) for one in maps)).mean() < 1
    with pytest.raises(UserError, match="paper is clipped in every photograph"):
        fit_reflectances(chart, [replace(burnt, clipped=chart.srgb[:, 0] > 0.9)])


def test_print_map_is_exact_for_its_own_kind_and_the_table_takes_the_rest() -> None:
    asked, unseen = make_chart(96).srgb, np.random.default_rng(1).random((200, 3))
    cubic = fit_print_map(asked, (0.3 + 0.5 * asked) ** 3, table=False)
    assert cubic(unseen) == pytest.approx((0.3 + 0.5 * unseen) ** 3, abs=1e-6)
    errors = [
        difference(fit_print_map(asked, press(asked), table=table)(unseen), press(unseen)).mean()
        for table in (False, True)
    ]
    assert errors[1] < errors[0] < 1.5
    assert difference(fit_print_map(asked, press(asked), table=True)(asked), press(asked)).mean() < 0.1


def test_a_new_photograph_is_foretold_by_its_strip() -> None:
    chart = make_chart(96)
    errors = new_photographs(chart, [read(chart, camera) for camera in CAMERAS[:2]], [read(chart, CAMERAS[2])])
    assert errors.patches == 72
    assert errors.mean("table") < 0.3
    assert errors.mean("identity") > 10


def test_noise_is_measured() -> None:
    chart, (shot, read_noise) = make_chart(24), (0.002, 0.01)
    image = photograph(chart, CAMERAS[0], shot=shot, read=read_noise)
    found = noise(read_chart(image, chart, CORNERS, name="photo"))
    assert found == pytest.approx((shot, read_noise), rel=0.15)


@pytest.mark.parametrize("sigma_px", [0.5, 1.0, 1.8])
def test_blur_is_measured_where_corners_are_a_little_off(sigma_px: float) -> None:
    chart = make_chart(24)
    image = photograph(chart, CAMERAS[0], sigma_px=sigma_px, read=0.003)
    assert blur_px(image, chart, CORNERS + 0.6) == pytest.approx(sigma_px, rel=0.12)


def test_a_profile_is_read_back(profile: Profile, tmp_path: Path) -> None:
    (tmp_path / "profile.json").write_text(json.dumps(profile.to_json()))
    again = load_profile(tmp_path)
    colours = np.random.default_rng(0).random((50, 3))
    assert again.table(colours) == pytest.approx(profile.table(colours), abs=1e-4)
    assert again.polynomial(colours) == pytest.approx(profile.polynomial(colours), abs=1e-4)
    assert again.shots[1].camera.matrix == pytest.approx(profile.shots[1].camera.matrix, abs=1e-5)
    assert again.to_json() == profile.to_json()


@pytest.mark.parametrize("content", ["[]", '{"version": 2}', '{"version": 1, "print": {}}'])
def test_what_is_no_profile_is_said(tmp_path: Path, content: str) -> None:
    (tmp_path / "profile.json").write_text(content)
    with pytest.raises(UserError, match="physadv calibrate"):
        load_profile(tmp_path)


def test_ink_is_found_where_the_printer_is_one() -> None:
    ink = Ink(gamut=(0.8, 0.8), dot_gain=(0.3, 0.3), black=(0.02, 0.02))
    fit = fit_ink(printed(ink))
    assert fit.error < 0.5
    np.testing.assert_allclose(printed(replace(fit.ink, paper=(1.0, 1.0))), printed(ink), atol=0.02)
    assert fit.ink.jitter < 0.03
    assert fit.plain > 5


def test_a_measured_ink_is_what_was_measured_on_its_paper() -> None:
    measured = fit_ink(printed(Ink(gamut=(0.9, 0.9), dot_gain=(0.2, 0.2)))).ink
    drawn = replace(measured, paper=(0.5, 0.5), black=(0.1, 0.1), jitter=0.0)
    plain = replace(measured, paper=(1.0, 1.0), jitter=0.0)
    assert printed(drawn) == pytest.approx(0.1 + 0.4 * printed(plain), abs=2e-3)
    spread = replace(plain, jitter=0.1).sample(torch.rand(200, Ink.dims, generator=torch.Generator().manual_seed(0)))
    assert spread["response"][:, :, 0].std() == pytest.approx(0.1 / 3**0.5, rel=0.1), "black varies"
    assert spread["response"].sum(2).std(0).max() < 1e-5, "paper does not"


@pytest.mark.parametrize("response", [(0.5,) * 32, (11.0,) * 33])
def test_what_is_no_response_is_refused(response: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="33 coefficients"):
        Ink(response=response)


def test_light_is_told_from_camera() -> None:
    def shot(camera: Camera) -> Shot:
        return Shot("", camera, 0.0, 0.0, None, 0, 0.0)

    grey, dark = shot(Camera(0.75 * np.eye(3), np.zeros(3))), shot(Camera(0.375 * np.eye(3), np.zeros(3)))
    warm = shot(Camera(np.diag([0.9, 0.7, 0.4]), np.zeros(3)))
    veil = (Exposure((-0.5, -0.5)), Veil((0.2, 0.2)))
    matrix, offset = np.eye(3), np.zeros(3)
    for transform in veil:  # as the world lights what is paper there, three quarters of white
        step, add = (one[0].numpy() for one in transform.affine(transform.sample(torch.zeros(1, transform.dims))))
        matrix, offset = step @ matrix, step @ offset + 2**-0.5 * add
    veiled = shot(Camera(0.75 * matrix, offset))
    lights = lights_of((grey, dark, warm, veiled))
    assert lights.stops[[0, 1, 3]] == pytest.approx([0, -1, -0.5], abs=1e-6)
    assert lights.kelvin[0] == pytest.approx(6500, abs=50)
    assert lights.kelvin[2] < 5500
    assert lights.veil == pytest.approx([0, 0, 0, 0.2])
    assert lights.saturation[[0, 1, 3]] == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(("stops", "kelvin", "share"), [(-0.5, 6500.0, 0.2), (0.7, 4500.0, 0.1), (-2.0, 9000.0, 0.0)])
def test_light_comes_back_as_the_world_drew_it(stops: float, kelvin: float, share: float) -> None:
    """Black and white of paper of 0.75 in a world of that light alone, as a target sees them."""
    given = [Exposure(stops=(stops, stops)), Temperature(kelvin=(kelvin, kelvin)), Veil(share=(share, share))]
    paper = Ink(paper=(0.75, 0.75))
    bare = Stages(view=(Pinhole(distance_m=(6.0, 6.0), focal_px=(1500.0, 1500.0)),))
    world = World("given", (replaced(bare, [paper, *given]),), "")
    scenes = load_scenes("staged:stop").take(torch.zeros(1, dtype=torch.long))
    size = scenes.faces.size_mm[0]
    box = torch.cat([torch.zeros(2), size])[None]
    seen = []
    for grey in (0.0, 0.5):
        artwork = Artwork(torch.full((1, 3, 8, 8), grey), torch.ones(1, 1, 8, 8), box)
        with torch.no_grad():
            picture = world.photograph(artwork, scenes, world.draw(range(1), seed=0), frame=Frame(64, 0.1))
        seen.append(linear(picture[0, :, 24:40, 24:40].mean((1, 2)).double().numpy()))
    slope = (seen[1] - seen[0]) / linear(np.full(1, 0.5))
    lights = lights_of([Shot("", Camera(np.diag(slope), seen[0]), 0.0, 0.0, None, 0, 0.0)])
    assert lights.stops == pytest.approx([stops], abs=0.01)
    assert lights.veil == pytest.approx([share], abs=0.005)
    assert lights.kelvin == pytest.approx([kelvin], rel=0.015)


def test_a_span_is_wider_than_its_sample() -> None:
    values = np.random.default_rng(0).random((2000, 5))
    ends = np.array([span(row, (-9, 9)) for row in values])
    assert ends.mean(0) == pytest.approx([0, 1], abs=0.02)
    assert span(np.array([2.0]), (0, 9)) == (2, 2)


def test_a_span_of_temperatures_is_uniform_in_mired() -> None:
    """As `Temperature` draws them: 4500 to 9000 K are 222 to 111 mired."""
    drawn = np.random.default_rng(0).uniform(1e6 / 9000, 1e6 / 4500, (2000, 6))
    ends = np.array([kelvin_span(1e6 / row) for row in drawn])
    assert (1e6 / ends).mean(0) == pytest.approx([1e6 / 4500, 1e6 / 9000], rel=0.01)


def test_a_world_of_the_profile_is_written_and_read(profile: Profile, tmp_path: Path) -> None:
    base = load_world("drive-by")
    world, _ = fit_world(profile, base, name="mine")
    (tmp_path / "mine.yaml").write_bytes(world_yaml(world))
    again = load_world(str(tmp_path / "mine.yaml"))
    assert again.hash == world.hash != base.hash
    content = yaml.safe_load(world_yaml(world))
    assert content["view"]["pinhole"]["distance_m"] == [2, 20]
    low, high = content["camera"]["defocus"]["sigma_px"]
    assert low < 0.5
    assert high > 2.5
    assert content["light"]["exposure"]["photographed"] == [-0.5, 0.5]
    assert content["light"]["exposure"]["stops"][0] < min(lights_of(profile.shots).stops)


def test_one_photograph_says_nothing_of_the_spread_of_light(profile: Profile) -> None:
    world, _ = fit_world(replace(profile, shots=profile.shots[:1]), load_world("drive-by"), name="mine")
    content, base = yaml.safe_load(world_yaml(world)), load_world("drive-by")
    assert content["light"]["exposure"]["stops"] == [-1.9, 1.0]
    assert world.components[0].print != base.components[0].print


def test_a_world_is_fitted_to_a_plain_one(profile: Profile) -> None:
    with pytest.raises(UserError, match="plain one"):
        fit_world(profile, load_world("drive-by+night"), name="mine")


def test_the_default_world_is_as_it_was() -> None:
    assert load_world("drive-by").hash == "fb351df86b67"


def test_the_command_measures_and_reports(folder: Path, tmp_path: Path) -> None:
    chart, out = folder / "chart.json", tmp_path / "out"
    given = ["--chart", str(chart), "--corners", str(folder / "corners.csv"), "--out", str(out)]
    result = CliRunner().invoke(app, ["calibrate", str(folder / "photos"), *given])
    assert result.exit_code == 0, result.output
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["errors"]["new_colours"]["identity"] > 10 > 5 > metrics["errors"]["new_colours"]["polynomial-3"]
    assert [one["name"] for one in metrics["photographs"]] == ["0.png", "1.png", "2.png"]
    assert [one["name"] for one in metrics["skipped"]] == ["broken.jpg"]
    assert metrics["photographs"][0]["blur_px"] == pytest.approx(0.8, abs=0.12)
    assert metrics["photographs"][2]["kelvin"] > 7000
    page = (out / "report.html").read_text()
    assert "broken.jpg was left out" in page
    assert "polynomial of degree 3" in page
    assert "are judged.\nAbout 1 can" in page
    assert (
        '<div class="wide"><table class="sizes">\n<thead><tr><th scope="col">photograph' in page
    )  # scrolls on a phone
    world = tmp_path / "mine.yaml"
    made = CliRunner().invoke(app, ["worlds", "fit", "--profile", str(out), "--out", str(world)])
    assert made.exit_code == 0, made.output
    assert load_world(str(world)).name == "mine"


def test_notes_name_a_photograph_once_and_no_table(folder: Path, tmp_path: Path) -> None:
    """The tables lie beside the photographs; one photograph is not in them."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in (folder / "photos" / "0.png", folder / "photos" / "1.png", folder / "chart.json"):
        shutil.copy(path, photos)
    (photos / "where.csv").write_text("\n".join((folder / "corners.csv").read_text().splitlines()[:2]))
    given = [
        "--chart",
        str(photos / "chart.json"),
        "--corners",
        str(photos / "where.csv"),
        "--out",
        str(tmp_path / "out"),
    ]
    result = CliRunner().invoke(app, ["calibrate", str(photos), *given])
    assert result.exit_code == 0, result.output
    notes = [line for line in result.output.splitlines() if line.startswith("note:")]
    assert len(notes) == 1
    assert notes[0].startswith("note: 1.png was left out: nothing says")


def test_without_corners_the_command_says_what_to_give(folder: Path, tmp_path: Path) -> None:
    options = CalibrateOptions(photos=folder / "photos", chart=folder / "chart.json", out=tmp_path / "out")
    with Console() as console, pytest.raises(UserError, match="--corners"):
        run_calibrate(options, command="", console=console)
    assert not (tmp_path / "out").exists()


def test_what_does_not_show_the_chart_is_refused(folder: Path, tmp_path: Path) -> None:
    """Another chart, or corners turned by two: one sentence, and nothing written."""
    other, turned = tmp_path / "other.json", tmp_path / "turned.csv"
    other.write_text(json.dumps(chart_json(make_chart(96))))
    lines = (folder / "corners.csv").read_text().splitlines()
    around = [
        ",".join([name, *corners[2:], *corners[:2]]) for name, *corners in (line.split(",") for line in lines[1:])
    ]
    turned.write_text("\n".join([lines[0], *around]))
    for chart, corners in ((other, folder / "corners.csv"), (folder / "chart.json", turned)):
        options = CalibrateOptions(photos=folder / "photos", chart=chart, corners=corners, out=tmp_path / "out")
        with Console() as console, pytest.raises(UserError, match=r"no photograph of the chart.*the corners are wrong"):
            run_calibrate(options, command="", console=console)
        assert not (tmp_path / "out").exists()


def test_order_is_told_whatever_printer_and_light() -> None:
    chart = make_chart(24)
    for camera in CAMERAS:
        check_order(chart, read(chart, camera), name="one")
    grey = linear(chart.srgb) @ np.array([[0.2126], [0.7152], [0.0722]]) * np.ones(3)
    reading = Reading(grey, grey, np.zeros(24, bool))
    check_order(chart, reading, name="grey")  # a printer without colours
    check_order(chart, replace(reading, mean=np.clip(4 * grey, 0, 1)), name="overexposed")
    with pytest.raises(UserError, match="one: its patches"):
        check_order(chart, replace(reading, mean=np.full((24, 3), 0.5)), name="one")


def test_the_sheet_of_an_artwork_is_not_that_of_the_chart(tmp_path: Path) -> None:
    chart = make_chart(24)
    blocks = Image.new("RGBA", (40, 30), (120, 80, 60, 255))
    make_sheet(blocks, width_mm=150, height_mm=112, folder=tmp_path, title="artwork", artwork_hash="-")
    with pytest.raises(UserError, match="no sheet of this chart"):
        Sheet(tmp_path, chart)


@pytest.mark.parametrize(
    ("table", "patches", "said"),
    [(2.6, 96, "good: 2.6"), (5.0, 96, "fair: 5.0"), (8.0, 96, "poor: 8.0"), (13.0, 24, "photograph the chart of 96")],
)
def test_a_profile_is_judged(table: float, patches: int, said: str) -> None:
    assert said in verdict({"new_colours": {"table": table, "3x3+offset": 6.0, "patches": patches}})


def test_tags_of_the_sheet_say_where_the_chart_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chart, sheet, photos = make_chart(24), tmp_path / "sheet", tmp_path / "photos"
    photos.mkdir()
    assert chart.size_mm is not None
    width, height = chart.size_mm
    picture = chart_picture(24)
    page = make_sheet(picture, width_mm=width, height_mm=height, folder=sheet, title="chart", artwork_hash="-").pages[0]
    scale = 3
    paper = Image.new("RGB", tuple(round(scale * side) for side in page.size_mm), "white")
    left, top = (round(scale * side) for side in page.artwork[0].box_mm[:2])
    paper.paste(picture.resize((round(scale * width), round(scale * height)), Image.Resampling.BOX), (left, top))
    pixels = np.array(paper)
    family = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36H11)
    for tag in page.tags:
        (x0, y0), (x1, _) = (scale * np.array(tag.corners_mm)[[0, 1]]).round().astype(int)
        marker = cv2.aruco.generateImageMarker(family, tag.id, int(x1 - x0))
        pixels[y0 : y0 + len(marker), x0:x1] = marker[..., None]
    Image.fromarray(np.clip(pixels, 2, 253)).save(photos / "sheet.png")  # nothing is clipped
    (tmp_path / "chart.json").write_text(json.dumps(chart_json(chart)))
    options = CalibrateOptions(photos=photos, chart=tmp_path / "chart.json", sheet=sheet, out=tmp_path / "out")
    with Console() as console:
        metrics = run_calibrate(options, command="", console=console)
    assert metrics["errors"]["new_colours"]["identity"] < 0.5  # the sheet itself: every colour as it was asked for
    assert metrics["photographs"][0]["error"] < 0.5


@pytest.mark.parametrize("printer", ["chart_p2", "chart_p3"])
def test_photographs_of_another_renderer(data: Path, printer: str) -> None:
    captures = data / "captures"
    chart = load_chart(captures / "chart96.json")
    readings = []
    for line in (captures / printer / "photos.jsonl").read_text().splitlines():
        photo = json.loads(line)
        image = np.asarray(open_image(captures / printer / photo["file"])) / 255
        readings.append(read_chart(image, chart, np.array(photo["corners"]) + 0.5, name=photo["file"]))
    errors = new_photographs(chart, readings[::2], readings[1::2])
    assert errors.mean("table") < 2.5
    assert errors.mean("table") < errors.mean("polynomial-3") < errors.mean("3x3+offset") < errors.mean("identity")
    assert errors.mean("identity") > 20


@pytest.mark.parametrize(
    ("folders", "chart", "moved", "low", "high"),
    [
        (("chart_p2", "chart_p3"), "chart96", np.eye(3), 0.8, 1.0),
        (("chart_p2",), "chart96", [[1, 0, 0.018], [0, 1, 0], [0, 0, 1]], 0.9, 1.0),  # a quarter of a patch
        (("chart_p2",), "chart96", [[1, 0, 0.036], [0, 1, 0], [0, 0, 1]], 0.45, 0.8),  # half of one
        (("chart_p2",), "chart96", [[0.9, 0, 0.05], [0, 0.9, 0.05], [0, 0, 1]], 0.6, 0.85),  # 10 % too far in
        (("chart_p2",), "chart96", [[1, 0, 0.072], [0, 1, 0], [0, 0, 1]], -0.3, 0.3),  # a patch
        (("chart_p2",), "chart96", [[-1, 0, 1], [0, -1, 1], [0, 0, 1]], -0.3, 0.3),  # turned
        (("chart_p2",), "chart96", [[-1, 0, 1], [0, 1, 0], [0, 0, 1]], -0.3, 0.3),  # mirrored
        (("chart_p2",), "another", np.eye(3), -0.3, 0.3),
        (("stop_clean", "stop_noise_bars"), "chart96", np.eye(3), -0.3, 0.3),
    ],
)
def test_the_order_of_patches_tells_the_chart(
    data: Path, folders: tuple[str, ...], chart: str, moved: list[list[float]], low: float, high: float
) -> None:
    captures = data / "captures"
    patches = make_chart(96) if chart == "another" else load_chart(captures / "chart96.json")
    square, found = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]]), []
    for folder in folders:
        for name, quad in list(read_quads(captures / folder / "photos.jsonl").items())[:12]:
            corners = project(homography(quad.corners_px) @ np.array(moved, float), square)
            pixels = np.asarray(open_image(captures / folder / name)) / 255
            found.append(order_of(patches, read_chart(pixels, patches, corners, name=name)))
    print(folders, chart, f"{min(found):.2f} to {max(found):.2f}")
    assert low < min(found) <= max(found) < high


@pytest.mark.parametrize("photos", ["stop_clean", "stop_noise_bars"])
def test_signs_are_no_charts(data: Path, photos: str, tmp_path: Path) -> None:
    captures = data / "captures"
    given = {"photos": captures / photos, "chart": captures / "chart96.json", "out": tmp_path / "out"}
    with Console() as console, pytest.raises(UserError, match="shows another chart or none"):
        run_calibrate(CalibrateOptions(**given), command="", console=console)
    assert not (tmp_path / "out").exists()
