"""Tags, colour strip, seams and placement template, measured on the rendered page."""

import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from physadv.calibration.chart import Chart, make_chart, read_chart
from physadv.calibration.difference import linear
from physadv.errors import UserError
from physadv.handwork import SHEET_FACE_PX, faces_for, to_pil
from physadv.printing import Sheet, Tile, load_sheet, make_sheet
from physadv.printing.paper import QUIET_MODULES, TAG_MODULES, frames
from physadv.printing.template import outline_of

pdfium = pytest.importorskip("pypdfium2", reason="rendering the sheet needs pypdfium2 (extra: dev)")
DPI = 200
PX = DPI / 25.4
STRIP = [tuple(colour) for colour in make_chart(24).rgb.tolist()]
DICTIONARIES = {"36h11": cv2.aruco.DICT_APRILTAG_36h11, "4x4_50": cv2.aruco.DICT_4X4_50}


def sheet_of(folder: Path, width_mm: float, height_mm: float, *, image: Image.Image | None = None, **options) -> Sheet:
    options = {"title": "A sheet", "artwork_hash": "h", "dpi": 72, **options}
    picture = image or Image.new("RGBA", (8, 8), (0, 120, 200, 255))
    return make_sheet(picture, width_mm=width_mm, height_mm=height_mm, folder=folder, **options)


def rendered(path: Path, number: int = 0, *, dpi: int = DPI) -> np.ndarray:
    with pdfium.PdfDocument(str(path)) as document:
        page = document[number]
        width, height = (int(side * dpi / 72) - 0.01 for side in page.get_size())
        page.set_mediabox(0, page.get_height() - height * 72 / dpi, width * 72 / dpi, page.get_height())
        return np.array(page.render(scale=dpi / 72).to_pil().convert("RGB"))


def found(page: np.ndarray, family: str) -> dict[int, np.ndarray]:
    """Corners in mm by number."""
    detector = cv2.aruco.ArucoDetector(cv2.aruco.getPredefinedDictionary(DICTIONARIES[family]))
    corners, ids, _ = detector.detectMarkers(page[..., 1].copy())
    numbers = [] if ids is None else ids.ravel()
    return {int(i): (c[0] + 0.5) / PX for i, c in zip(numbers, corners, strict=True)}


@pytest.mark.parametrize("renderer", ["pdfium", "poppler"])
def test_a_100_mm_square_is_100_mm(tmp_path, renderer):
    if renderer == "poppler" and shutil.which("pdftoppm") is None:
        pytest.skip("poppler's pdftoppm is not installed")
    sheet = sheet_of(tmp_path, 100.0, 100.0, image=Image.new("RGBA", (10, 10), "black"), tags="none")
    path, dpi = tmp_path / "sheet.pdf", 300
    if renderer == "poppler":
        command = ["pdftoppm", "-r", str(dpi), "-png", "-singlefile", str(path), str(tmp_path / "page")]
        subprocess.run(command, check=True)
        page = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
    else:
        page = rendered(path, dpi=dpi)[..., 1]
    x0, y0, x1, y1 = (edge * dpi / 25.4 for edge in sheet.pages[0].artwork[0].box_mm)
    ink = 1 - page / 255
    across = ink[round((y0 + y1) / 2), round(x0) - 30 : round(x1) + 30].sum() / dpi * 25.4
    down = ink[round(y0) - 10 : round(y1) + 30, round((x0 + x1) / 2)].sum() / dpi * 25.4
    assert (across, down) == pytest.approx((100 + 0.1, 100 + 0.1), abs=0.1)  # half of the cut line lies outside


@pytest.mark.parametrize("tags", ["apriltag", "aruco"])
@pytest.mark.parametrize("at", ["page", "round", "beside"])
def test_tags_are_where_the_json_says_and_stand_free(tmp_path, tags, at):
    sheet = sheet_of(tmp_path, 90.0, 70.0, tags=tags, tags_at=at, strip=STRIP, place_mm=(200.0, 300.0, 290.0, 370.0))
    page = rendered(tmp_path / "sheet.pdf")
    (laid,) = load_sheet(tmp_path).pages
    seen = found(page, laid.tags[0].family)
    assert sorted(seen) == [tag.id for tag in laid.tags] == [0, 1, 2, 3]
    for tag in laid.tags:
        assert np.abs(seen[tag.id] - tag.corners_mm).max() < 0.25
        (left, top), _, (right, bottom), _ = tag.corners_mm
        quiet = QUIET_MODULES * (right - left) / TAG_MODULES[tag.family]
        ring = page[round((top - quiet) * PX) : round((bottom + quiet) * PX)]
        ring = ring[:, round((left - quiet) * PX) : round((right + quiet) * PX)].copy()
        ring[round(quiet * PX) - 1 : 1 - round(quiet * PX), round(quiet * PX) - 1 : 1 - round(quiet * PX)] = 255
        ring[:2], ring[-2:], ring[:, :2], ring[:, -2:] = 255, 255, 255, 255
        assert ring.min() == 255
    shift = np.subtract(laid.artwork[0].place_mm, laid.artwork[0].box_mm)[:2]
    for tag, own in zip(laid.tags, sheet.tags, strict=at != "page"):
        assert np.add(tag.corners_mm, shift) == pytest.approx(np.array(own.corners_mm))
    assert (sheet.tags == ()) == (at == "page")


@pytest.mark.parametrize("paper", ["a4", "a3", "letter", "300x210mm", "210x150mm"])
@pytest.mark.parametrize("at", ["page", "round", "beside", "none"])
def test_the_strip_is_read_back_by_the_chart_reader(tmp_path, paper, at):
    how = {"tags": "none"} if at == "none" else {"tags_at": at}
    size_mm = (60.0, 28.0) if paper == "210x150mm" else (60.0, 100.0)
    sheet = sheet_of(tmp_path, *size_mm, paper=paper, strip=STRIP, **how)
    (laid,) = sheet.pages
    on_piece = at == "round" or (at == "beside" and size_mm[1] == 100)
    assert [patch.rgb for patch in sheet.strip] == (STRIP if on_piece else [])
    width, height = laid.size_mm
    boxes = np.array([patch.box_mm for patch in laid.strip]) / (width, height, width, height)
    chart = Chart(np.array([patch.rgb for patch in laid.strip]), boxes, laid.size_mm)
    page = rendered(tmp_path / "sheet.pdf", dpi=100) / 255
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]]) * 100 / 25.4
    reading = read_chart(page, chart, np.minimum(corners, page.shape[1::-1]), name="page")
    assert [patch.rgb for patch in laid.strip] == STRIP
    assert reading.mean == pytest.approx(linear(chart.srgb), abs=1e-3)


@pytest.mark.parametrize("paper", ["a4", "a3", "letter", "297x210mm", "210x150mm"])
@pytest.mark.parametrize("family", ["36h11", "4x4_50", None])
def test_nothing_on_a_page_lies_on_anything_else(paper, family):
    for frame in frames(paper, family=family, strip=STRIP):
        boxes = [frame.area_mm, frame.header_mm, frame.footer_mm, *(patch.box_mm for patch in frame.strip)]
        left, top, right, _ = frame.ruler_mm
        boxes += [(left, top, right, top + 11), *((*tag.corners_mm[0], *tag.corners_mm[2]) for tag in frame.tags)]
        for i, one in enumerate(boxes):
            assert min(one[:2]) >= 0
            assert np.less_equal(one[2:], frame.size_mm).all()
            for other in boxes[:i]:
                apart = max(one[0] - other[2], other[0] - one[2], one[1] - other[3], other[1] - one[3])
                assert apart > -1e-6


def test_a_poster_keeps_its_tags_when_it_is_tiled(tmp_path):
    sheet = sheet_of(tmp_path, 300.0, 200.0, tags_at="round", strip=STRIP)
    assert len(sheet.pages) > 1
    x0, y0, x1, y1 = sheet.pieces[0].place_mm
    poster = np.full((round((y1 - y0) * PX), round((x1 - x0) * PX), 3), 255, np.uint8)
    for number, page in enumerate(sheet.pages):
        picture = rendered(tmp_path / "sheet.pdf", number)
        for tile in page.artwork:
            left, top, right, bottom = (round(edge * PX) for edge in tile.box_mm)
            x, y = round((tile.place_mm[0] - x0) * PX), round((tile.place_mm[1] - y0) * PX)
            piece = picture[top:bottom, left:right]
            room = poster[y : y + bottom - top, x : x + right - left]
            room[:] = piece[: room.shape[0], : room.shape[1]]
    seen = found(poster, "36h11")
    assert sorted(seen) == [0, 1, 2, 3]
    for tag in sheet.tags:
        assert np.abs(seen[tag.id] + (x0, y0) - tag.corners_mm).max() < 0.5


def test_crosses_of_neighbours_join_the_artwork_within_half_a_millimetre(tmp_path):
    sheet = sheet_of(tmp_path, 300.0, 100.0, tags="none")
    (number, left), (other, right) = ((n, tile) for n, page in enumerate(sheet.pages) for tile in page.artwork)
    for height_mm in (-3.0, 103.0):
        ends = (number, left, left.box_mm[2] - 10), (other, right, right.box_mm[0])
        at = [cross_mm(tmp_path, n, tile.box_mm[1] + height_mm, x) + shift_mm(tile) for n, tile, x in ends]
        assert at == pytest.approx([right.place_mm[0]] * 2, abs=0.1)


def cross_mm(folder: Path, number: int, y_mm: float, near_mm: float) -> float:
    """Where the upright of a cross stands on a page, seen in a gap of the dashed trim line beside it."""
    dpi = 600
    px = dpi / 25.4
    start, top = round((near_mm - 1.5) * px), round((y_mm - 0.8) * px)
    page = rendered(folder / "sheet.pdf", number, dpi=dpi)[..., 1]
    rows = 255.0 - page[top : round((y_mm + 0.8) * px), start : start + round(3 * px)]
    ink = rows[rows.sum(1).argmin()]
    assert 0.1 < ink.sum() / 255 / px < 0.2
    return float((np.arange(len(ink)) + start + 0.5) @ ink / ink.sum() / px)


def shift_mm(tile: Tile) -> float:
    return tile.place_mm[0] - tile.box_mm[0]


def octagon(size: int = 512) -> Image.Image:
    face = Image.new("RGBA", (size, size))
    low, high = 0.2929 * size, 0.7071 * size
    corners = [(low, 0), (high, 0), (size, low), (size, high), (high, size), (low, size), (0, high), (0, low)]
    ImageDraw.Draw(face).polygon(corners, fill=(165, 30, 35, 255))
    return face


def test_the_template_shows_sign_and_artwork_at_true_size(tmp_path):
    place = (60.0, 80.0, 120.0, 120.0)
    face = {"place_mm": place, "face_mm": (180.0, 180.0), "face_image": octagon()}
    sheet = sheet_of(tmp_path, 60.0, 40.0, template=True, **face)
    assert sheet.template == "template.pdf"
    page = rendered(tmp_path / "template.pdf").astype(int)
    area = page[round(45 * PX) : round(245 * PX)]
    rows, columns = np.nonzero(area.max(2) < 80)
    wide = columns[np.isin(rows, rows[np.argsort(rows)][len(rows) // 2])]
    assert (wide.max() + 1 - wide.min()) / PX == pytest.approx(180.4, abs=0.4)
    red = np.nonzero((area[..., 0] > 150) & (area[..., 1] < 120))
    assert (np.ptp(red[1]) + 1) / PX == pytest.approx(60.2, abs=0.4)
    assert (np.ptp(red[0]) + 1) / PX == pytest.approx(40.2, abs=0.4)
    assert (red[1].min() - wide.min()) / PX == pytest.approx(60, abs=0.4)


def test_the_outline_of_a_face_is_straight_between_its_corners():
    (outline,) = outline_of(octagon(), (900.0, 900.0))
    assert 8 <= len(outline) <= 24
    assert cv2.contourArea(outline.astype(np.float32)) == pytest.approx(900**2 * (1 - 2 * 0.2929**2), rel=0.005)


@pytest.mark.parametrize("name", ["stop", "yield", "no-entry"])
def test_the_outline_of_a_drawn_face_has_no_stairs(name):
    faces = faces_for([name], size_px=SHEET_FACE_PX)
    (outline,) = outline_of(to_pil(faces.images[0]), tuple(faces.size_mm[0].tolist()))
    (loosest, *_) = sorted(np.linalg.norm(outline - np.roll(outline, 1, axis=0), axis=1))
    assert len(outline) < 100
    assert loosest > 2 * float(faces.size_mm[0, 0]) / SHEET_FACE_PX


def test_a_template_larger_than_the_paper_is_tiled_and_skips_empty_pages(tmp_path):
    face = {"place_mm": (400.0, 400.0, 460.0, 440.0), "face_mm": (900.0, 900.0), "face_image": octagon()}
    sheet_of(tmp_path, 60.0, 40.0, template=True, **face)
    with pdfium.PdfDocument(str(tmp_path / "template.pdf")) as document:
        words = [page.get_textpage().get_text_bounded() for page in document]
    assert 12 <= len(words) < 30
    assert sum("piece 1" in page for page in words) >= 1
    assert all("row" in page and "200 mm" in page and "Test artefact" in page for page in words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tags": "qr"}, "apriltag, aruco, none"),
        ({"tags_at": "above"}, "page, round, beside"),
        ({"tags": "none", "tags_at": "round"}, "there are none"),
        ({"template": True}, "which sign"),
    ],
)
def test_bad_input_is_one_sentence_and_no_file(tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        sheet_of(tmp_path / "new", 80.0, 80.0, **options)
    assert not (tmp_path / "new").exists()


def test_tags_round_several_parts_are_refused(tmp_path):
    two = Image.new("RGBA", (9, 3))
    two.paste("red", (0, 0, 3, 3))
    two.paste("red", (6, 0, 9, 3))
    with pytest.raises(UserError, match="2 parts"):
        sheet_of(tmp_path, 90.0, 30.0, image=two, tags_at="round")
