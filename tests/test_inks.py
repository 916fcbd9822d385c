"""Colours for a printer: against the profile's own arithmetic, and as the PDF is rendered."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from physadv.calibration.difference import encoded, linear
from physadv.errors import UserError
from physadv.printing import load_inks, load_sheet, make_sheet
from tests.icc_profiles import GAMMA, PRIMARIES, narrow_primaries, narrow_rgb, press_cmyk

pdfium = pytest.importorskip("pypdfium2", reason="rendering the sheet needs pypdfium2 (extra: dev)")
COLOURS = np.array(
    [[255, 0, 0], [0, 0, 255], [128, 128, 128], [255, 255, 255], [180, 120, 100], [0, 200, 90]], np.uint8
)
PROFILES = {"rgb": narrow_rgb, "cmyk": press_cmyk}


@pytest.fixture(params=PROFILES)
def icc(request, tmp_path: Path) -> Path:
    path = tmp_path / f"{request.param}.icc"
    path.write_bytes(PROFILES[request.param]())
    return path


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "printer.icc"
    path.write_bytes(content)
    return path


def blocks() -> Image.Image:
    rgba = np.dstack([COLOURS.reshape(2, 3, 3), np.full((2, 3), 255)]).astype(np.uint8)
    return Image.fromarray(rgba)


def test_a_matrix_profile_is_the_matrix(tmp_path):
    inks = load_inks(written(tmp_path, narrow_rgb(0.3)))
    light = linear(COLOURS / 255) @ PRIMARIES.T @ np.linalg.inv(narrow_primaries(0.3)).T
    expected = np.clip(light, 0, 1) ** (1 / GAMMA)
    printed = inks.convert(Image.fromarray(COLOURS[None]))
    assert np.abs(np.asarray(printed)[0] / 255 - expected).max() < 0.015
    seen = np.clip(light, 0, 1) @ narrow_primaries(0.3).T @ np.linalg.inv(PRIMARIES).T
    assert np.abs(np.asarray(inks.seen(printed))[0] / 255 - encoded(seen)).max() < 0.015


def test_what_the_printer_can_make_is_in_its_gamut(tmp_path):
    inks = load_inks(written(tmp_path, narrow_rgb(0.3)))
    assert inks.out_of_gamut(COLOURS).tolist() == [True, True, False, False, False, True]
    assert not load_inks(written(tmp_path, narrow_rgb(0.0))).out_of_gamut(COLOURS).any()


def test_a_press_prints_no_ink_on_white_and_its_own_black(tmp_path):
    inks = load_inks(written(tmp_path, press_cmyk()))
    printed = inks.convert(Image.fromarray(np.array([[[255] * 3, [0] * 3, [128] * 3]], np.uint8)))
    assert printed.mode == "CMYK"
    white, black, grey = np.asarray(printed)[0].tolist()
    assert (max(white), min(black[:3])) == (0, pytest.approx(255, abs=6))
    assert max(grey[:3]) - min(grey[:3]) <= 2
    (seen,) = np.asarray(inks.seen(printed))
    assert seen[0].tolist() == [255] * 3
    assert linear(seen[1] / 255) == pytest.approx([0.03] * 3, abs=0.01)
    assert inks.out_of_gamut(np.zeros((1, 3), np.uint8)).all()


def sheet_of(folder: Path, **options):
    fixed = {"width_mm": 60.0, "height_mm": 40.0, "title": "t", "artwork_hash": "h"}
    return make_sheet(blocks(), folder=folder, **fixed, **options)


def test_the_pdf_holds_the_printers_colours_and_the_proof_shows_them(icc, tmp_path):
    inks = load_inks(icc)
    sheet = sheet_of(tmp_path, inks=inks, strip=[(255, 0, 0), (0, 128, 128)])
    with pdfium.PdfDocument(str(tmp_path / "sheet.pdf")) as document:
        images = [found.get_bitmap(scale_to_original=True) for found in document[0].get_objects((3,))]
        words = document[0].get_textpage().get_text_bounded()
    content = (tmp_path / "sheet.pdf").read_bytes()
    assert (b"ICCBased" in content, b"DeviceCMYK" in content) == (inks.mode == "RGB", inks.mode == "CMYK")
    assert len(images) == 3  # two patches and the artwork
    assert f"{icc.name}, relative" in words
    proof = np.asarray(Image.open(tmp_path / "proof.png").convert("RGB")).reshape(-1, 3)
    assert (proof == np.asarray(inks.seen(inks.convert(Image.fromarray(COLOURS[None]))))[0]).all()
    assert np.abs(proof.astype(int) - COLOURS).max() > 20
    assert load_sheet(tmp_path) == sheet


def test_json_says_for_which_printer(icc, tmp_path):
    sheet_of(tmp_path, inks=load_inks(icc, intent="perceptual"))
    printer = json.loads((tmp_path / "sheet.json").read_text())["printer"]
    assert (printer["profile"], printer["intent"], printer["proof"]) == (icc.name, "perceptual", "proof.png")
    assert len(printer["profile_hash"]) == 64
    assert 0.1 < printer["out_of_gamut"] < 0.9


def test_the_proof_of_an_earlier_sheet_goes_with_it(tmp_path):
    inks = load_inks(written(tmp_path, narrow_rgb()))
    sheet_of(tmp_path / "out", inks=inks)
    sheet_of(tmp_path / "out", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["sheet.json", "sheet.pdf"]
    (tmp_path / "out" / "proof.png").write_text("mine")
    sheet_of(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "proof.png").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no ICC profile"),
        (b"not a profile" * 20, "is no ICC profile"),
        (narrow_rgb()[:300], "is no ICC profile|cannot convert"),
        (ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(), "no RGB or CMYK printer"),
        (press_cmyk().replace(b"B2A", b"X2X"), "cannot convert"),
    ],
)
def test_what_is_no_printers_profile_is_refused(tmp_path, content, words):
    with pytest.raises(UserError, match=words):
        load_inks(written(tmp_path, content))


def test_unknown_intents_and_missing_profiles_are_refused(tmp_path):
    with pytest.raises(UserError, match="perceptual, relative"):
        load_inks(written(tmp_path, narrow_rgb()), intent="pretty")
    with pytest.raises(UserError, match="does not exist"):
        load_inks(tmp_path / "none.icc")
