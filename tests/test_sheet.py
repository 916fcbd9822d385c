"""The sheet is measured where it counts: on the rendered page."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from physadv.errors import UserError
from physadv.printing import Sheet, load_sheet, lost_tags, make_sheet
from physadv.printing.paper import QUIET_MODULES, TAG_MODULES, frames, paper_mm
from physadv.printing.reach import reach_words

pdfium = pytest.importorskip("pypdfium2", reason="rendering the sheet needs pypdfium2 (extra: dev)")
DPI = 300
PX = DPI / 25.4


def picture(alpha: np.ndarray, *, seed: int = 0) -> Image.Image:
    rgb = np.random.default_rng(seed).integers(0, 256, (*alpha.shape, 3))
    return Image.fromarray(np.dstack([rgb, 255 * alpha]).astype(np.uint8))


def square(n: int = 32) -> Image.Image:
    return picture(np.ones((n, n), bool))


def two_bars() -> Image.Image:
    alpha = np.zeros((100, 100), bool)
    alpha[20:30, 15:85] = alpha[70:80, 15:85] = True
    return picture(alpha)


def sheet_of(image: Image.Image, width_mm: float, height_mm: float, folder: Path, **options) -> Sheet:
    options = {"title": "A sheet", "artwork_hash": "sha256:0123", **options}
    return make_sheet(image, width_mm=width_mm, height_mm=height_mm, folder=folder, **options)


def rendered(folder: Path, number: int = 0, *, dpi: int = DPI) -> np.ndarray:
    """The page at dpi / 25.4 px per mm; the last part of a pixel is trimmed, or the renderer would stretch the page."""
    scale = dpi / 72
    with pdfium.PdfDocument(str(folder / "sheet.pdf")) as document:
        page = document[number]
        width, height = (int(side * scale) - 0.01 for side in page.get_size())
        page.set_mediabox(0, page.get_height() - height / scale, width / scale, page.get_height())
        return np.array(page.render(scale=scale).to_pil().convert("RGB"))


def line_centres(profile: np.ndarray) -> np.ndarray:
    """Sub-pixel centres (mm) of the dark lines across a profile of grey levels."""
    ink = 255.0 - profile
    at = np.arange(len(ink)) + 0.5
    runs = np.split(np.arange(len(ink)), np.flatnonzero(np.diff(ink > 20)) + 1)
    return np.array([np.average(at[run], weights=ink[run]) for run in runs if ink[run[0]] > 20]) / PX


def edges(profile: np.ndarray) -> np.ndarray:
    """Sub-pixel positions (mm) where a profile of grey levels crosses one half."""
    level = profile.astype(float) - 127.5
    before = np.flatnonzero(np.sign(level[:-1]) != np.sign(level[1:]))
    return (before + 0.5 + level[before] / (level[before] - level[before + 1])) / PX


def test_the_ruler_is_200_mm(tmp_path):
    sheet = sheet_of(square(), 80.0, 80.0, tmp_path)
    left, y, right, _ = sheet.pages[0].ruler_mm
    grey = rendered(tmp_path)[..., 1]
    ticks = line_centres(grey[round((y + 3.5) * PX)])
    assert len(ticks) == 21
    assert ticks[-1] - ticks[0] == pytest.approx(200, abs=0.1)
    assert ticks[[0, -1]] == pytest.approx([left, right], abs=0.1)
    assert np.diff(ticks) == pytest.approx(10, abs=0.1)
    assert len(line_centres(grey[round((y + 1.2) * PX)])) == 201


@pytest.mark.parametrize("paper", ["a4", "a3", "letter", "300x300mm"])
def test_an_80_mm_patch_is_80_mm(tmp_path, paper):
    pixels = np.full((80, 80, 4), 255, np.uint8)
    pixels[5:75, 5:75, :3] = 0
    sheet = sheet_of(Image.fromarray(pixels), 80.0, 80.0, tmp_path, paper=paper)
    x0, y0, x1, y1 = sheet.pages[0].artwork[0].box_mm
    grey = rendered(tmp_path)[..., 1]
    assert (x1 - x0, y1 - y0) == pytest.approx((80, 80))
    for profile, start in ((grey[round((y0 + 8) * PX)], x0), (grey[:, round((x0 + 8) * PX)], y0)):
        span = slice(round((start - 3) * PX), round((start + 83) * PX))
        cut = line_centres(profile[span])[[0, -1]] + span.start / PX
        assert cut == pytest.approx([start, start + 80], abs=0.1)
        assert cut[1] - cut[0] == pytest.approx(80, abs=0.1)
        inner = slice(round((start + 2) * PX), round((start + 78) * PX))
        assert edges(profile[inner]) + inner.start / PX == pytest.approx([start + 5, start + 75], abs=0.1)


@pytest.mark.parametrize("paper", ["a4", "a3", "letter", "210x150mm"])
def test_all_four_tags_are_detected_where_the_json_says(tmp_path, paper):
    sheet_of(square(), 40.0, 40.0, tmp_path, paper=paper)
    page = json.loads((tmp_path / "sheet.json").read_text())["pages"][0]
    grey = rendered(tmp_path)[..., 1]
    detector = cv2.aruco.ArucoDetector(cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11))
    corners, ids, _ = detector.detectMarkers(grey)
    found = {int(i): (c[0] + 0.5) / PX for i, c in zip(ids.ravel(), corners, strict=True)}
    assert sorted(found) == [0, 1, 2, 3]
    for tag in page["tags"]:
        assert tag["family"] == "36h11"
        assert np.abs(found[tag["id"]] - tag["corners_mm"]).max() < 0.2
    centres = [np.mean(tag["corners_mm"], 0) for tag in page["tags"]]
    right, down = centres[1] - centres[0], centres[2] - centres[1]
    assert right[0] > 0
    assert down[1] > 0
    assert centres[3] == pytest.approx(centres[0] + down)


def test_tags_keep_their_quiet_zone(tmp_path):
    sheet = sheet_of(square(), 194.0, 190.0, tmp_path)
    page = rendered(tmp_path)
    for tag in sheet.pages[0].tags:
        (left, top), _, (right, bottom), _ = tag.corners_mm
        quiet = QUIET_MODULES * (right - left) / TAG_MODULES[tag.family]
        ring = page[round((top - quiet) * PX) : round((bottom + quiet) * PX)]
        ring = ring[:, round((left - quiet) * PX) : round((right + quiet) * PX)].copy()
        inset = round(quiet * PX) - 1
        ring[inset:-inset, inset:-inset] = 255
        assert ring.min() == 255


def test_two_bars_are_two_pieces_and_nothing_else_is_inked(tmp_path):
    sheet = sheet_of(two_bars(), 200.0, 200.0, tmp_path, place_mm=(300.0, 250.0, 500.0, 450.0), face_mm=(900.0, 900.0))
    assert [piece.place_mm for piece in sheet.pieces] == [(330, 290, 470, 310), (330, 390, 470, 410)]
    assert (len(sheet.pages), sheet.origin) == (1, "sign")
    (frame, *_), page = frames("a4", family="36h11"), rendered(tmp_path)
    x0, y0, x1, y1 = frame.area_mm
    area = page[round(y0 * PX) : round(y1 * PX), round(x0 * PX) : round(x1 * PX)].copy()
    for tile in sheet.pages[0].artwork:
        left, top, right, bottom = ((c - o) * PX for c, o in zip(tile.box_mm, (x0, y0) * 2, strict=True))
        assert area[round(top) + 3 : round(bottom) - 3, round(left) + 3 : round(right) - 3].std() > 30
        area[round(top) - 80 : round(bottom) + 2, round(left) - 2 : round(right) + 3] = 255
    assert area.min() == 255


def test_every_piece_has_a_thin_black_cut_line(tmp_path):
    alpha = np.zeros((60, 60), bool)
    alpha[10:20, 10:50] = alpha[25:35, 10:50] = alpha[40:50, 10:50] = True
    image = Image.fromarray(np.dstack([np.full((60, 60, 3), 255), 255 * alpha]).astype(np.uint8))
    sheet = sheet_of(image, 180.0, 180.0, tmp_path)
    page = rendered(tmp_path, dpi=2 * DPI)
    assert len(sheet.pages[0].artwork) == 3
    for left, top, *_ in (tile.box_mm for tile in sheet.pages[0].artwork):
        across = page[round((top + 5) * 2 * PX), round((left - 1) * 2 * PX) : round((left + 1) * 2 * PX)]
        assert (across == across[:, :1]).all()
        assert (255.0 - across[:, 0]).sum() / 255 / (2 * PX) == pytest.approx(0.1, abs=0.03)


def test_pixels_are_printed_as_they_were_optimised(tmp_path):
    image = picture(np.ones((16, 16), bool), seed=3)
    sheet = sheet_of(image, 50.0, 30.0, tmp_path)
    x0, y0, *_ = sheet.pages[0].artwork[0].box_mm
    page = rendered(tmp_path)
    for share in (0.12, 0.5, 0.88):
        xs = ((x0 + (np.arange(16) + share) * 50 / 16) * PX).astype(int)
        ys = ((y0 + (np.arange(16) + share) * 30 / 16) * PX).astype(int)
        assert (page[np.ix_(ys, xs)] == np.asarray(image)[..., :3]).all()
    assert b"DCTDecode" not in (tmp_path / "sheet.pdf").read_bytes()
    assert b"/PrintScaling /None" in (tmp_path / "sheet.pdf").read_bytes()


def test_transparent_parts_and_holes_stay_white_and_are_outlined(tmp_path):
    alpha = np.ones((40, 40), bool)
    alpha[:20, 20:] = alpha[28:34, 8:14] = False
    image = Image.fromarray(np.dstack([np.full((40, 40, 3), (255, 0, 255)), 255 * alpha]).astype(np.uint8))
    sheet = sheet_of(image, 80.0, 80.0, tmp_path)
    x0, y0, *_ = sheet.pages[0].artwork[0].box_mm
    page = rendered(tmp_path)

    def at(x_mm: float, y_mm: float) -> list[int]:
        return page[int((y0 + y_mm) * PX), int((x0 + x_mm) * PX)].tolist()

    white, magenta = [255, 255, 255], [255, 0, 255]
    assert [at(60, 20), at(22, 62), at(42, 38), at(79, 1)] == [white] * 4
    assert [at(10, 10), at(60, 60), at(22, 54), at(38, 38)] == [magenta] * 4
    red = page[round((y0 + 62) * PX), round((x0 - 2) * PX) : round((x0 + 82) * PX), 0]
    assert line_centres(red) == pytest.approx([2, 18, 30, 82], abs=0.1)


@pytest.mark.parametrize("size_mm", [(500.0, 100.0), (300.0, 210.0)])
def test_tiles_join_to_the_whole_artwork_without_a_mark(tmp_path, size_mm):
    image = picture(np.ones((23, 31), bool), seed=1)
    sheet = sheet_of(image, *size_mm, tmp_path)
    assert sheet.pieces[0].rows * sheet.pieces[0].columns == len(sheet.pages) > 1
    points, expected = inner_points(image, size_mm)
    pages = [rendered(tmp_path, number) for number in range(len(sheet.pages))]
    assert mismatches(pages, sheet, points, expected) == 0
    assert mismatches(pages, sheet, points, expected, upside_down=True) > 0


def inner_points(image: Image.Image, size_mm: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """200,000 places on the artwork, clear of the pixel edges (where the renderer mixes) and of the cut line."""
    pitch = np.array(size_mm) / image.size
    points = np.random.default_rng(0).uniform(0.3, np.array(size_mm) - 0.3, (200_000, 2))
    clear = (np.abs(points / pitch - np.rint(points / pitch)) * pitch > 0.2).all(1)
    column, row = (points[clear] / pitch).astype(int).T
    return points[clear], np.asarray(image)[row, column, :3]


def mismatches(
    pages: list[np.ndarray], sheet: Sheet, points: np.ndarray, expected: np.ndarray, *, upside_down: bool = False
) -> int:
    """Points whose colour is wrong on the sheets laid over each other: row by row, the later on top.

    What lies within a printer's dot of the upper sheet's own edge is not judged.
    """
    seen, edge_mm = np.full(expected.shape, -1), 0.1
    tiles = [(number, tile) for number, page in enumerate(sheet.pages) for tile in page.artwork]
    for number, tile in sorted(tiles, key=lambda t: (t[1].row, t[1].column), reverse=upside_down):
        covered = ((points >= tile.place_mm[:2]) & (points <= tile.place_mm[2:])).all(1)
        x, y = ((points[covered] - tile.place_mm[:2] + tile.box_mm[:2]) * PX).astype(int).T
        seen[covered] = pages[number][y, x]
        on_edge = covered & (points < np.add(tile.place_mm[:2], edge_mm)).any(1)
        seen[on_edge] = expected[on_edge]
    return int((seen != expected).any(1).sum())


def test_neighbouring_tiles_overlap_by_10_mm(tmp_path):
    sheet = sheet_of(square(), 500.0, 100.0, tmp_path)
    tiles = [tile for page in sheet.pages for tile in page.artwork]
    assert [tile.column for tile in tiles] == [1, 2]
    assert tiles[0].place_mm[2] - tiles[1].place_mm[0] == pytest.approx(10)


def test_the_empty_middle_of_a_ring_takes_no_paper(tmp_path):
    y, x = np.mgrid[:60, :60] - 29.5
    ring = picture((np.hypot(x, y) < 30) & (np.hypot(x, y) > 26))
    sheet = sheet_of(ring, 900.0, 900.0, tmp_path, dpi=72)
    assert sum(len(page.artwork) for page in sheet.pages) < sheet.pieces[0].rows * sheet.pieces[0].columns


def test_speckle_stays_on_one_piece(tmp_path):
    alpha = np.zeros((40, 40), bool)
    alpha[::4, ::4] = True
    assert len(sheet_of(picture(alpha), 100.0, 100.0, tmp_path).pieces) == 1


def test_the_orientation_with_fewer_pages_is_taken(tmp_path):
    assert sheet_of(square(), 250.0, 100.0, tmp_path / "wide").pages[0].size_mm == (297.0, 210.0)
    assert sheet_of(square(), 100.0, 190.0, tmp_path / "tall").pages[0].size_mm == (210.0, 297.0)


def test_without_tags_there_are_none_and_more_room(tmp_path):
    sheet = sheet_of(square(), 194.0, 220.0, tmp_path, tags="none")
    assert [page.tags for page in sheet.pages] == [()]
    assert len(sheet_of(square(), 194.0, 220.0, tmp_path / "tags").pages) > 1


def test_the_words_are_on_every_page(tmp_path):
    sheet_of(square(), 500.0, 100.0, tmp_path, title="Zeichen \u505c", place_mm=(0.0, 0.0, 500.0, 100.0))
    with pdfium.PdfDocument(str(tmp_path / "sheet.pdf")) as document:
        pages = [page.get_textpage().get_text_bounded() for page in document]
    assert len(pages) == 2
    for number, words in enumerate(pages, 1):
        for phrase in (
            "Test artefact for robustness evaluation. Not for public roads.",
            "this line is 200 mm",
            "no fit-to-page",
            f"Page {number} of 2",
            "sha256:0123",
            "Zeichen ?",
            f"row 1 of 1, column {number} of 2",
        ):
            assert phrase in words


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "20 mm are read up to about 3.0 m"),
        (
            {"paper": "a3"},
            "28 mm are read up to about 4.2 m (focal length 3000 px: a phone) or 1.3 m (940 px).",
        ),
        ({"tags_at": "round"}, "16 mm are read up to about 2.4 m"),
    ],
)
def test_the_reach_of_the_tags_is_on_the_page(tmp_path, options, words):
    sheet = sheet_of(square(), 80.0, 80.0, tmp_path, **options)
    with pdfium.PdfDocument(str(tmp_path / "sheet.pdf")) as document:
        shown = document[0].get_textpage().get_text_bounded()
    assert words in reach_words(sheet.tags or sheet.pages[0].tags)
    assert reach_words(sheet.tags or sheet.pages[0].tags) in shown


def test_what_loses_its_tags_is_told_with_the_way_out(tmp_path):
    """One piece in two tiles, two pieces; whole, with tags round it, or without any there is nothing to lose."""
    tiled = lost_tags(sheet_of(square(), 300.0, 100.0, tmp_path / "tiled"))
    assert tiled is not None
    assert "one piece is in 2 tiles" in tiled
    assert "--tags-at round" in tiled
    pieces = lost_tags(sheet_of(two_bars(), 100.0, 100.0, tmp_path / "pieces"))
    assert pieces is not None
    assert pieces.startswith("2 pieces")
    assert "--tags-at" not in pieces
    assert lost_tags(sheet_of(square(), 80.0, 80.0, tmp_path / "whole")) is None
    assert lost_tags(sheet_of(square(), 300.0, 100.0, tmp_path / "round", tags_at="round")) is None
    assert lost_tags(sheet_of(square(), 300.0, 100.0, tmp_path / "none", tags="none")) is None


def test_the_thumbnail_shows_the_face(tmp_path):
    face = Image.new("RGBA", (50, 50), (0, 0, 255, 255))
    options = {"place_mm": (300.0, 300.0, 380.0, 380.0), "face_mm": (900.0, 900.0)}
    plain, shown = ({"folder": tmp_path / "plain"}, {"folder": tmp_path / "shown", "face_image": face})
    blue = []
    for extra in (plain, shown):
        sheet_of(square(), 80.0, 80.0, **options, **extra)
        page = rendered(extra["folder"], dpi=100).astype(int)[:142]
        blue.append(int((page[..., 2] - page[..., 0] > 60).sum()))
    assert blue[0] == 0
    assert blue[1] > 2000


def test_json_reads_back_as_it_was_made(tmp_path):
    sheet = sheet_of(two_bars(), 600.0, 600.0, tmp_path, face_mm=(900.0, 900.0))
    assert load_sheet(tmp_path) == sheet
    assert sheet.origin == "artwork"
    assert (sheet.version, sheet.artwork_hash) == (1, "sha256:0123")


@pytest.mark.parametrize("name", ["sheet.json", "sheet.pdf"])
def test_the_files_of_a_sheet_stand_for_its_folder(tmp_path, name):
    sheet = sheet_of(square(), 80.0, 80.0, tmp_path)
    assert load_sheet(tmp_path / name) == sheet
    with pytest.raises(UserError, match=r"no sheet.json in .*empty: give the folder"):
        load_sheet(tmp_path / "empty" / name)


def test_a_sheet_of_an_earlier_physadv_is_read(tmp_path):
    sheet = sheet_of(square(), 80.0, 80.0, tmp_path)
    content = json.loads((tmp_path / "sheet.json").read_text())
    for key in ("tags", "strip", "printer", "template"):
        del content[key]
    for page in content["pages"]:
        del page["strip"]
    (tmp_path / "sheet.json").write_text(json.dumps(content))
    assert load_sheet(tmp_path) == sheet


@pytest.mark.parametrize(("text", "words"), [(None, "no sheet.json"), ("{}", "not a sheet"), ("[", "not a sheet")])
def test_what_is_not_a_sheet_is_refused(tmp_path, text, words):
    if text is not None:
        (tmp_path / "sheet.json").write_text(text)
    with pytest.raises(UserError, match=words):
        load_sheet(tmp_path)


def test_a_sheet_of_another_version_is_refused(tmp_path):
    sheet_of(square(), 80.0, 80.0, tmp_path)
    path = tmp_path / "sheet.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(UserError, match="version 2"):
        load_sheet(tmp_path)


@pytest.mark.parametrize("method", ["write_bytes", "replace"])
@pytest.mark.parametrize("failing_call", [1, 2])
def test_a_failure_midway_leaves_nothing(tmp_path, monkeypatch, method, failing_call):
    original, calls = getattr(Path, method), []

    def fails(self, *arguments):
        calls.append(self)
        if len(calls) == failing_call:
            self.touch()
            raise OSError("disk full")
        return original(self, *arguments)

    monkeypatch.setattr(Path, method, fails)
    with pytest.raises(UserError, match="disk full"):
        sheet_of(square(), 80.0, 80.0, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_drawing_leaves_no_folder(tmp_path, monkeypatch):
    def fails(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("physadv.printing.sheet.draw_artwork", fails)
    with pytest.raises(KeyboardInterrupt):
        sheet_of(square(), 80.0, 80.0, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["sheet.pdf", "sheet.json"])
def test_nothing_is_overwritten_unasked(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=r"exists.*--overwrite"):
        sheet_of(square(), 80.0, 80.0, tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]
    sheet_of(square(), 80.0, 80.0, tmp_path, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sheet.json", "sheet.pdf"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"paper": "a9"}, "Unknown paper 'a9': use a4, a3, letter or"),
        ({"paper": "210x297"}, "Unknown paper"),
        ({"paper": "100x100mm"}, "too small for the 200 mm ruler and the four tags"),
        ({"paper": "210x100mm"}, "too small"),
        ({"paper": "150x150mm", "tags": "none"}, "too small for the 200 mm ruler:"),
        ({"dpi": 10}, "10 dpi"),
        ({"width_mm": 0.0}, "positive sizes"),
        ({"height_mm": float("nan")}, "positive sizes"),
        ({"width_mm": 90000.0}, "takes .* pages"),
        ({"place_mm": (0.0, 0.0, 90.0, 80.0)}, "same size"),
        ({"rgba": Image.new("RGBA", (8, 8))}, "transparent everywhere"),
    ],
)
def test_bad_input_is_one_sentence_and_no_file(tmp_path, options, words):
    arguments = {"rgba": square(8), "width_mm": 80.0, "height_mm": 80.0, "title": "t", "artwork_hash": "h", **options}
    with pytest.raises(UserError, match=words):
        make_sheet(folder=tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="another folder"):
            sheet_of(square(), 80.0, 80.0, folder)


@pytest.mark.parametrize(
    ("spec", "size"),
    [("A4", (210, 297)), ("letter", (215.9, 279.4)), ("700x500mm", (500, 700)), ("250.5x300mm", (250.5, 300))],
)
def test_paper_sizes(spec, size):
    assert paper_mm(spec) == size
