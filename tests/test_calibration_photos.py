"""Photographs of a known sign: measured, made a world of, judged; the strip of a sheet; the photograph foretold."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pypdfium2
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from physadv.calibration import Face, calibrate, fit_camera, load_chart, make_chart, read_chart, read_sign, world_yaml
from physadv.calibration.chart import Chart, Reading
from physadv.calibration.check import new_photographs
from physadv.calibration.compare import Verdict, judge_world
from physadv.calibration.difference import difference, encoded, linear
from physadv.calibration.fit import PrintMap
from physadv.calibration.photographed import Seen, Taken, fit_photographs, parts, seen_of
from physadv.calibration.profile import Measured
from physadv.calibration.strip import Strip
from physadv.capture.pose import Pose
from physadv.capture.quads import read_quads
from physadv.cli import app
from physadv.errors import UserError
from physadv.files import open_image
from physadv.printing.sheet import make_sheet
from physadv.runs.fit_world import Halves, halved
from physadv.scenes.faces import draw_face
from physadv.threats import Artwork
from physadv.transforms.camera import Defocus, Jpeg, Motion, Sharpen
from physadv.transforms.light import Gradient
from physadv.transforms.world import World, load_world
from tests.foretold_print import Pair, error, fit_sheeting, foretell, pair, proof

QUAD = np.array([[40.0, 30.0], [190.0, 22.0], [198.0, 180.0], [34.0, 168.0]])
GAIN, OFFSET = np.array([0.5, 0.45, 0.4]), np.array([0.02, 0.02, 0.03])


def face() -> Face:
    rgba = np.asarray(draw_face("stop", size_px=512)).astype(np.float32) / 255
    return Face(rgba[..., :3].copy(), rgba[..., 3].copy(), np.ones(rgba.shape[:2], np.float32))


def photograph(
    *,
    gain: np.ndarray = GAIN,
    offset: np.ndarray = OFFSET,
    sigma_px: float = 0.8,
    shot: float = 0.0,
    shadow: float = 0.0,
    seed: int = 0,
) -> np.ndarray:
    """A stop sign before grey: drawn five times too large, and averaged, as a sensor does."""
    scale, size = 5, (240, 210)
    picture = np.asarray(draw_face("stop", size_px=900)).astype(np.float32) / 255
    source = np.array([[0, 0], [900, 0], [900, 900], [0, 900]], np.float32) - 0.5
    matrix = cv2.getPerspectiveTransform(source, (QUAD * scale - 0.5).astype(np.float32))
    light = np.dstack([linear(picture[..., :3]), picture[..., 3]]).astype(np.float32)
    big = cv2.warpPerspective(light, matrix, (size[0] * scale, size[1] * scale))
    shown = (big[..., :3] * gain + offset) * big[..., 3:] + 0.2 * (1 - big[..., 3:])
    big = cv2.GaussianBlur(shown.astype(np.float32), (0, 0), sigma_px * scale)
    small = cv2.resize(big, size, interpolation=cv2.INTER_AREA).astype(float)
    small[:, 110:] *= 1 - shadow
    noise = np.sqrt(shot * small) * np.random.default_rng(seed).standard_normal(small.shape)
    return encoded(small + noise)


def test_gains_offset_blur_and_noise_are_measured() -> None:
    sign = read_sign(photograph(shot=0.001), face(), QUAD, name="one")
    assert sign.gain == pytest.approx(GAIN, rel=0.04)
    assert sign.offset == pytest.approx(OFFSET, abs=0.01)
    assert sign.blur_px == pytest.approx(0.8, abs=0.16)
    assert sign.shot == pytest.approx(0.001, rel=0.25)
    assert sign.shade == 0
    assert np.hypot(*sign.slope) < 0.06


def test_corners_a_little_off_are_moved() -> None:
    sign = read_sign(photograph(), face(), QUAD + 1.5, name="one")
    assert np.abs(sign.corners_px - QUAD).max() < 0.4
    assert sign.blur_px == pytest.approx(0.8, abs=0.16)


def test_a_shadow_is_no_slope_and_the_light_is_that_beside_it() -> None:
    sign = read_sign(photograph(shadow=0.6), face(), QUAD, name="one")
    assert sign.shade == pytest.approx(0.6, abs=0.12)
    assert sign.slope == (0, 0)
    assert sign.gain == pytest.approx(GAIN, rel=0.15)


def test_an_overexposed_face_is_measured_by_what_is_not_clipped() -> None:
    sign = read_sign(photograph(gain=3 * GAIN), face(), QUAD, name="one")
    assert sign.clipped > 0.1
    assert sign.gain == pytest.approx(3 * GAIN, rel=0.35)


@pytest.mark.parametrize(("quad", "fault"), [(QUAD / 20, "smaller"), (QUAD + 100, "outside")])
def test_signs_that_cannot_be_measured_are_said(quad: np.ndarray, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        read_sign(photograph(), face(), quad, name="one")


def test_light_is_told_in_the_worlds_words() -> None:
    sign = read_sign(photograph(gain=0.5 * np.ones(3), offset=np.zeros(3)), face(), QUAD, name="one")
    seen = seen_of(sign, face())
    assert seen.stops == pytest.approx(-1, abs=0.1)
    assert seen.kelvin == pytest.approx(6500, rel=0.08)
    assert seen.saturation == pytest.approx(1, abs=0.1)
    assert seen.veil < 0.02
    warm = replace(sign, gain=np.array([0.62, 0.5, 0.28]))
    assert seen_of(warm, face()).kelvin < 5500
    veiled = seen_of(replace(sign, offset=np.full(3, 0.1)), face())
    assert veiled.veil == pytest.approx(1 / 6, abs=0.03)


def many(count: int) -> list[Seen]:
    generator = np.random.default_rng(0)
    fields = [name for name in Seen.__dataclass_fields__ if name != "tint"]
    return [
        Seen(**{name: float(generator.random()) for name in fields}, tint=generator.normal(0, 0.1, 3))
        for _ in range(count)
    ]


@pytest.mark.parametrize("count", [4, 7, 20, 41])
def test_components_share_out_the_photographs(count: int) -> None:
    found = parts(many(count))
    assert sorted(np.concatenate(found)) == list(range(count))
    assert all(len(part) >= 3 for part in found)
    assert max(map(len, found)) <= 2 * min(map(len, found))  # each component is drawn as often as any other


def taken(count: int) -> list[Taken]:
    image = photograph(shot=0.001)
    sign = read_sign(image, face(), QUAD, name="one")
    figures = np.array([0.4, 0.4, -2.2])
    gains = np.random.default_rng(1).uniform(0.4, 1.2, count)
    return [Taken(replace(sign, gain=sign.gain * g), Pose(6.0, 0.0, 0.0, 0.0, 1500.0), figures) for g in gains]


def test_a_world_of_photographs_is_written_and_read(tmp_path: Path) -> None:
    base = load_world("drive-by")
    world = fit_photographs(taken(8), face(), base, name="street")
    (tmp_path / "street.yaml").write_bytes(world_yaml(world))
    again = load_world(str(tmp_path / "street.yaml"))
    assert len(world.components) == 2
    assert again.hash == world.hash != base.hash
    with pytest.raises(UserError, match="4 or more"):
        fit_photographs(taken(3), face(), base, name="street")
    with pytest.raises(UserError, match="plain one"):
        fit_photographs(taken(8), face(), load_world("promise"), name="street")


@pytest.mark.parametrize(
    ("qualities", "expected"),
    [([80.0, 90.0, 80.0, 90.0], (80 - 10 / 3, 90 + 10 / 3)), ([80.0, None, 80.0, 90.0], (50.0, 95.0))],
    ids=["all are JPEG", "one is not"],
)
def test_the_worlds_jpeg_is_that_of_the_files(qualities: list[float | None], expected: tuple[float, float]) -> None:
    """As wide as the uniform distribution that four come from; where one file is no JPEG, the base's."""
    shots = [replace(one, quality=quality) for one, quality in zip(taken(4), qualities, strict=True)]
    world = fit_photographs(shots, face(), load_world("drive-by"), name="street")
    assert world.components[0].get(Jpeg).quality == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("blur_px", "sigma_px", "amount"),
    [
        ([0.4, 0.6, 0.4, 0.6], (0.4 - 0.2 / 3, 0.6 + 0.2 / 3), (0.0, 0.0)),
        ([-0.5, -0.5, -0.5, -0.5], (0.0, 0.0), (0.25, 0.25)),
        ([-0.3, 0.3, 0.0, 0.0], (0.0, 0.5), (0.0, 0.25)),
    ],
    ids=["blurred", "sharpened", "both"],
)
def test_photographs_blurred_and_sharpened(
    blur_px: list[float], sigma_px: tuple[float, float], amount: tuple[float, float]
) -> None:
    shots = [replace(one, blur_px=blur) for one, blur in zip(taken(4), blur_px, strict=True)]
    stages = fit_photographs(shots, face(), load_world("drive-by"), name="street").components[0]
    assert stages.get(Defocus).sigma_px == pytest.approx(sigma_px, abs=1e-4)
    assert stages.get(Sharpen).amount == pytest.approx(amount, abs=1e-4)


def test_of_two_measured_blurs_the_smaller_counts() -> None:
    """What is a little off its place looks blurred."""
    shots = [replace(one, blur_px=9.0) for one in taken(4)]
    stages = fit_photographs(shots, face(), load_world("drive-by"), name="street").components[0]
    assert stages.get(Defocus).sigma_px == pytest.approx([taken(4)[0].sign.blur_px] * 2, abs=1e-4)


def test_a_face_drawn_otherwise_tells_no_blur() -> None:
    """Then lens and shutter stay the base's."""
    shots, base = [replace(one, sign=replace(one.sign, left=0.3)) for one in taken(4)], load_world("drive-by")
    stages = fit_photographs(shots, face(), base, name="street").components[0]
    for family in (Defocus, Motion, Sharpen):
        assert stages.get(family) == base.components[0].get(family)
    assert fit_photographs(taken(4), face(), base, name="street").components[0].get(Motion) == Motion()


def test_one_half_is_fitted_and_the_other_judges() -> None:
    shots, base, verdict = taken(9), load_world("drive-by"), Verdict(0.5, {})
    fitted: list[Taken] = []
    judges: list[tuple[str, list[Taken]]] = []

    def fit(some: Sequence[Taken]) -> World:
        fitted.extend(some)
        return fit_photographs(some, face(), base, name="street")

    def judge(world: World, some: Sequence[Taken]) -> Verdict:
        judges.append((world.name, list(some)))
        return verdict

    rows = halved(shots, base, fit, judge).rows()
    (before, judging), (after, same) = judges
    assert (before, after) == ("drive-by", "street")
    assert [one is other for one, other in zip(judging, same, strict=True)] == [True] * len(judging)
    assert {id(one) for one in fitted} | {id(one) for one in judging} == {id(one) for one in shots}
    assert len(fitted) + len(judging) == 9
    assert abs(len(fitted) - len(judging)) == 1
    assert rows == [("drive-by", verdict), ("fitted to the other half", verdict)]


def test_light_that_falls_off_is_the_worlds_gradient() -> None:
    """A face lit by `Gradient` in a frame with context, measured on the face alone, has its strength again."""
    frame, strength, context = 240, 0.4, 0.25
    params = {"strength": torch.tensor([strength]), "angle": torch.zeros(1)}
    gain = Gradient().fields(params, frame, frame)[0][0, 0, 0].double().numpy()
    inside = slice(round(frame * context / (1 + 2 * context)), round(frame * (1 + context) / (1 + 2 * context)))
    on_face = gain[inside]
    slope = (on_face[-1] - on_face[0]) / (1 - 1 / len(on_face))  # per face
    sign = replace(read_sign(photograph(), face(), QUAD, name="one"), slope=(slope, 0.0))
    assert seen_of(sign, face(), context=context).strength == pytest.approx(strength, rel=0.01)


def test_an_artwork_off_the_face_is_said(tmp_path: Path) -> None:
    """As of a sign whose size was forgotten."""
    box = torch.tensor([[800.0, 800.0, 900.0, 900.0]])
    Artwork(torch.rand(1, 3, 8, 8), torch.ones(1, 1, 8, 8), box).save(tmp_path / "art")
    (tmp_path / "photos.jsonl").write_text("")
    given = ["--photos", str(tmp_path), "--artwork", str(tmp_path / "art"), "--out", str(tmp_path / "street.yaml")]
    made = CliRunner().invoke(app, ["worlds", "fit", *given, "--face-mm", "600"])
    assert isinstance(made.exception, UserError)
    assert "lies off the sign" in str(made.exception)


@pytest.mark.parametrize(("shift", "rejected"), [(0.0, False), (1.2, True)])
def test_the_two_samples_are_told_apart_where_they_differ(shift: float, rejected: bool) -> None:
    """20 poses that differ much more from each other than what is tested differs from them."""
    share = []
    for seed in range(10):
        generator = np.random.default_rng(seed)
        pose = 10 * generator.normal(size=(20, 1, 3))
        every = pose + generator.normal(size=(20, 31, 3))
        every[:, 0, 1] += shift
        share.append(judge_world(every[:, 0], every[:, 1:], seed=0).rejected)
    assert (sum(share) >= 8) if rejected else (sum(share) <= 2)


def test_one_statistic_alone_is_told_by_name() -> None:
    generator = np.random.default_rng(0)
    every = generator.normal(size=(30, 41, 3))
    every[:, 0, 2] *= 0.01  # all in the middle of what is foretold
    ks = judge_world(every[:, 0], every[:, 1:], seed=0).ks
    assert ks["sharpness"] < 0.001 < 0.01 < min(ks["mean"], ks["contrast"])


def test_the_command_fits_a_world_to_photographs(tmp_path: Path) -> None:
    folder, lines = tmp_path / "photos", []
    folder.mkdir()
    for number, light in enumerate(np.linspace(0.5, 1.6, 8)):
        pixels = photograph(gain=light * GAIN, shot=0.001, seed=number)
        Image.fromarray(np.round(pixels * 255).astype(np.uint8)).save(folder / f"{number}.png")
        lines.append(json.dumps({"file": f"{number}.png", "corners": (QUAD - 0.5).tolist(), "focal_px": 1500.0}))
    (folder / "broken.jpg").write_bytes(b"no picture")
    lines.append(json.dumps({"file": "broken.jpg", "corners": QUAD.tolist()}))
    (folder / "photos.jsonl").write_text("\n".join(lines))
    out = tmp_path / "street.yaml"
    made = CliRunner().invoke(app, ["worlds", "fit", "--photos", str(folder), "--out", str(out)])
    assert made.exit_code == 0, made.output
    assert "left out broken.jpg" in made.output
    assert "fitted to the other half" in made.output
    assert "rejected at 5 %: " in made.output
    stops = [component.light[0].stops for component in load_world(str(out)).components]
    assert min(low for low, _ in stops) < -1.5
    assert max(high for _, high in stops) > -0.6


@pytest.mark.parametrize(
    ("p", "sharpness", "said"),
    [
        (0.6, 0.5, "not rejected at 5 %: "),
        (0.6, 0.03, "not rejected at 5 %: "),  # one of three
        (0.01, 0.5, "rejected at 5 %: views of the fitted world can still be told from photographs, by all statistics"),
        (0.6, 0.01, "rejected at 5 %: views of the fitted world can still be told from photographs, by sharpness"),
    ],
)
def test_the_judgement_of_a_world_is_said(p: float, sharpness: float, said: str) -> None:
    after = Verdict(p, {"mean": 0.4, "contrast": 0.3, "sharpness": sharpness})
    assert Halves("drive-by", after, after).words().startswith(said)


@pytest.mark.parametrize(("given", "fault"), [([], "Fit to what"), (["--photos", "."], "Where is the sign")])
def test_what_the_command_lacks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], fault: str
) -> None:
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(app, ["worlds", "fit", *given])
    assert isinstance(made.exception, UserError)
    assert fault in str(made.exception)
    assert not (tmp_path / "my-world.yaml").exists()


def test_the_strip_of_a_sheet_gives_the_camera(tmp_path: Path) -> None:
    blocks = Image.new("RGBA", (40, 30), (120, 80, 60, 255))
    colours = [tuple(colour) for colour in make_chart(24).rgb.tolist()]
    size = {"width_mm": 150.0, "height_mm": 112.0}
    make_sheet(blocks, **size, folder=tmp_path, title="x", artwork_hash="-", strip=colours)
    with pypdfium2.PdfDocument(str(tmp_path / "sheet.pdf")) as document:
        page = np.asarray(document[0].render(scale=110 / 72).to_pil().convert("RGB")) / 255
    matrix, offset = np.array([[0.5, 0.04, 0.0], [0.02, 0.55, 0.03], [0.0, 0.05, 0.4]]), np.array([0.01, 0.02, 0.03])
    pixels = np.round(255 * encoded(linear(page) @ matrix.T + offset)).astype(np.uint8)
    strip = Strip(tmp_path)
    assert len(strip.chart) == 24
    reading = strip.read(pixels, name="page")
    camera = fit_camera(linear(strip.chart.srgb), reading.mean, reading.clipped)
    asked = np.random.default_rng(0).random((50, 3))
    assert difference(camera(linear(asked)), linear(asked) @ matrix.T + offset).mean() < 1
    with pytest.raises(UserError, match="tags found"):
        strip.read(np.full((300, 300, 3), 128, np.uint8), name="page")


# --- photographs by another renderer ---------------------------------------------------------------------------------


def chart_readings(captures: Path, printer: str) -> tuple[Chart, list[Reading]]:
    chart, found = load_chart(captures / "chart96.json"), []
    for name, quad in read_quads(captures / printer / "photos.jsonl").items():
        image = np.asarray(open_image(captures / printer / name)) / 255
        found.append(read_chart(image, chart, quad.corners_px, name=name))
    return chart, found


@pytest.mark.parametrize("printer", ["chart_p2", "chart_p3"])
def test_half_of_the_charts_foretells_the_other_half(data: Path, printer: str) -> None:
    """Mean CIEDE2000 <= 4 with a strip's worth of patches per photograph, whichever half it is."""
    chart, readings = chart_readings(data / "captures", printer)
    for one, other in ((readings[::2], readings[1::2]), (readings[1::2], readings[::2])):
        errors = new_photographs(chart, one, other, patches=24)
        print(f"\n{printer}: identity {errors.mean('identity'):.1f} -> table {errors.mean('table'):.2f}")
        assert errors.mean("table") <= 4 < 20 < errors.mean("identity")
        assert errors.mean("polynomial-3") <= 4


@pytest.mark.slow
def test_the_noise_bars_are_foretold(data: Path) -> None:
    """Light from the bare part of the face in the same photograph; paper and sheeting from the other half of them."""
    captures = data / "captures"
    chart, readings = chart_readings(captures, "chart_p2")
    profile = calibrate(chart, [Measured(str(i), one, None) for i, one in enumerate(readings)], name="chart_p2")
    fitted, plain = bars(captures, profile.table), bars(captures, None)
    white = linear(np.full(3, 245 / 255))
    for half, other in ((0, 1), (1, 0)):
        sheeting = fit_sheeting(fitted[half::2], white)
        bare = replace(sheeting, dark=np.zeros(3), paper=np.vstack([np.eye(3), np.zeros(3)]))
        before = np.mean([error(one, foretell(one, bare)) for one in plain[other::2]], axis=0)
        after = np.mean([error(one, foretell(one, sheeting)) for one in fitted[other::2]], axis=0)
        print(f"\nsign {before[0]:.2f} -> {after[0]:.2f}, bars alone {before[1]:.2f} -> {after[1]:.2f}")
        assert after[0] <= 8 < before[0]
        assert after[1] < before[1] - 5


def bars(captures: Path, print_map: PrintMap | None) -> list[Pair]:
    """Every photograph of the noise bars, measured on what they leave bare."""
    rgba = np.asarray(Image.open(captures / "stop_noise_bars.png").convert("RGBA")).astype(np.float32) / 255
    mask = np.asarray(Image.open(captures / "mask_bars.png")).astype(np.float32) / 255
    worn = Face(rgba[..., :3].copy(), rgba[..., 3].copy(), 1 - mask)
    light = linear(worn.srgb).astype(np.float32) if print_map is None else proof(worn.srgb, print_map)
    found = []
    for name, quad in read_quads(captures / "stop_noise_bars" / "photos.jsonl").items():
        image = np.asarray(open_image(captures / "stop_noise_bars" / name)) / 255
        found.append(pair(image, worn, read_sign(image, worn, quad.corners_px, name=name), light))
    return found
