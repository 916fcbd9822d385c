"""Large folders of whatever lies in them: processed, or named and skipped; killed, and gone on with; never a crash."""

import csv
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from physadv.capture import open_source, read_quads
from physadv.capture.photos import Photo, Skipped, jpeg_quality
from physadv.capture.table import read
from physadv.cli import app
from physadv.config import CaptureOptions
from physadv.console import Console
from physadv.errors import UserError
from physadv.runs import run_capture
from tests.test_capture_track import TOY

CORNERS = "10,10,70,10,70,70,10,70"
HEAD = "file,x1,y1,x2,y2,x3,y3,x4,y4"


def picture(size: tuple[int, int] = (80, 80), level: int = 40) -> Image.Image:
    """Dark, so that the toy reads it as a stop sign."""
    return Image.new("RGB", size, (level,) * 3)


def rotated(path: Path) -> None:
    """Stored lying, shown upright: 80 x 60 px as it is held. The sign's half is dark, the other bright."""
    stored = Image.new("RGB", (60, 80), "white")
    stored.paste((40, 40, 40), (0, 0, 60, 40))  # the right half once turned clockwise by 90 degrees
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(path, exif=exif)


def deep(path: Path) -> None:
    Image.fromarray(np.full((80, 80), 40 * 257, np.uint16)).save(path)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_colour(path: Path) -> None:
    """16 bit per channel, as a raw converter writes it; Pillow cannot, so by hand."""
    rows = b"".join(b"\0" + struct.pack(">240H", *[40 * 257] * 240) for _ in range(80))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 80, 80, 16, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


GOOD = {
    "bw.png": lambda path: picture().convert("1").save(path),
    "cmyk.jpg": lambda path: picture().convert("CMYK").save(path),
    "deep.png": deep,
    "deep-colour.png": deep_colour,
    "grey.jpg": lambda path: picture().convert("L").save(path),
    "half.webp": lambda path: picture().save(path),
    "palette.gif": lambda path: picture().convert("P").save(path),
    "plain.JPG": lambda path: picture().save(path, "JPEG"),
    "tile.tiff": lambda path: picture().save(path),
}
BAD = {
    "cut.jpg": lambda path: path.write_bytes(noise_bytes()[:900]),
    "empty.jpg": lambda path: path.touch(),
    "huge.png": lambda path: path.write_bytes(png_header(40_000, 40_000)),
    "notes.txt": lambda path: path.write_text("Tuesday, overcast"),
    "one.png": lambda path: Image.new("RGB", (1, 1)).save(path),
    "page.html.jpg": lambda path: path.write_text("<html>not found</html>"),
    "rubbish.png": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256))),
}


def noise_bytes() -> bytes:
    buffer = BytesIO()
    Image.effect_noise((90, 90), 90).save(buffer, "JPEG")
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(99)))


@pytest.fixture
def options(tmp_path: Path) -> CaptureOptions:
    folder = tmp_path / "photos"
    folder.mkdir()
    (tmp_path / "toy.py").write_text(TOY)
    return CaptureOptions(
        photos=str(folder),
        quads=tmp_path / "quads.csv",
        target=f"python:{tmp_path / 'toy.py'}:make",
        out=tmp_path / "out",
        views=1,
        gap=0,
    )


def quads(options: CaptureOptions, names: list[str], corners: str = CORNERS) -> None:
    assert options.quads is not None
    options.quads.write_text("\n".join([HEAD, *(f"{name},{corners}" for name in names)]))


def test_every_kind_of_file_is_judged_or_named(options: CaptureOptions) -> None:
    folder = Path(str(options.photos))
    for name, write in (GOOD | BAD).items():
        write(folder / name)
    (folder / "more").mkdir()  # a folder in the folder, and a hidden file
    (folder / ".DS_Store").write_bytes(b"\0\0")
    quads(options, [*GOOD, *BAD])
    metrics = run_capture(options, command="", console=Console())
    assert metrics["photographs"] == {"judged": len(GOOD), "skipped": len(BAD)}
    reasons = {one["file"]: one["reason"] for one in metrics["skipped"]}
    assert reasons.keys() == BAD.keys()
    assert "too large" in reasons["huge.png"]
    assert "damaged" in reasons["cut.jpg"]
    assert all(len(reason) > 20 for reason in reasons.values())
    page = (options.out / "report.html").read_text()
    assert all(name in page for name in BAD)
    with (options.out / "captures.csv").open(newline="") as file:
        answers = {row["file"]: row["answer"] for row in csv.DictReader(file)}
    assert all(answers[name] == "stop" for name in GOOD)


def test_a_turned_photograph_is_judged_upright(options: CaptureOptions) -> None:
    """Its dark half is on the right once it is upright: only there the sign is a stop sign."""
    rotated(Path(str(options.photos)) / "turned.jpg")
    quads(options, ["turned.jpg"], "42,5,78,5,78,55,42,55")
    assert run_capture(options, command="", console=Console())["observed"]["k"] == 0
    quads(options, ["turned.jpg"], "2,5,38,5,38,55,2,55")
    again = run_capture(options.model_copy(update={"overwrite": True}), command="", console=Console())
    assert again["observed"]["k"] == 1


@pytest.mark.parametrize(
    "corners",
    [
        "900,900,970,900,970,970,900,970",
        "-1e7,-1e7,1e7,-1e7,1e7,1e7,-1e7,1e7",
        "10,10,70,10,10,70,70,70",
        "5,5,5,5,5,5,5,5",
    ],
)
def test_a_quad_that_cannot_be_is_named(options: CaptureOptions, corners: str) -> None:
    """Outside the photograph, thousands of times as large, crossed, a point: no crash, no gigabytes."""
    picture().save(Path(str(options.photos)) / "a.png")
    quads(options, ["a.png"], corners)
    metrics = run_capture(options, command="", console=Console())
    assert metrics["photographs"] == {"judged": 0, "skipped": 1}
    assert "mend" in metrics["advice"][0]


def test_a_folder_of_nothing_else_still_gives_a_report(options: CaptureOptions) -> None:
    (Path(str(options.photos)) / "notes.txt").write_text("notes")
    quads(options, [])
    metrics = run_capture(options, command="", console=Console())
    assert metrics["observed"]["n"] == 0
    assert metrics["gap"] is None
    assert "No photograph could be judged" in (options.out / "report.html").read_text()


def test_a_capture_that_judges_nothing_says_so_and_fails(options: CaptureOptions) -> None:
    (Path(str(options.photos)) / "notes.txt").write_text("notes")
    quads(options, [])
    given = ["--quads", str(options.quads), "--target", options.target, "--out", str(options.out)]
    run = CliRunner().invoke(app, ["capture", str(options.photos), *given])
    assert run.exit_code != 0
    assert isinstance(run.exception, UserError)
    assert "No photograph of 1 could be judged; notes.txt:" in str(run.exception)


def test_tables_among_the_photographs_are_none(options: CaptureOptions) -> None:
    folder = Path(str(options.photos))
    picture().save(folder / "a.png")
    inside = options.model_copy(update={"quads": folder / "corners.csv"})
    quads(inside, ["a.png"])
    (folder / "photos.jsonl").write_text("{}")
    assert run_capture(inside, command="", console=Console())["photographs"] == {"judged": 1, "skipped": 0}


def test_semicolons_part_columns_too(tmp_path: Path) -> None:
    """As spreadsheets write them where numbers have a comma."""
    table = "\n".join([HEAD.replace(",", ";") + ";focal_px", "a.png;" + CORNERS.replace(",", ",5;") + ",5;940,5"])
    (tmp_path / "quads.csv").write_text(table)
    quad = read_quads(tmp_path / "quads.csv")["a.png"]
    assert quad.corners_px[0].tolist() == [10.5, 10.5]
    assert quad.focal_px == 940.5


def test_a_photograph_without_a_row_is_named(options: CaptureOptions) -> None:
    picture().save(Path(str(options.photos)) / "a.png")
    quads(options, ["b.png"])
    assert "no row" in run_capture(options, command="", console=Console())["skipped"][0]["reason"]


def test_the_table_that_was_written_can_be_given_again(options: CaptureOptions) -> None:
    folder = Path(str(options.photos))
    picture().save(folder / "a.png")
    picture(level=220).save(folder / "b.png")
    (folder / "notes.txt").write_text("notes")
    quads(options, ["a.png", "b.png"])
    first = run_capture(options, command="", console=Console())
    changed = options.model_copy(update={"quads": options.out / "captures.csv", "out": options.out / "again"})
    second = run_capture(changed, command="", console=Console())
    assert second["observed"] == first["observed"]
    assert "no row" not in str(second["skipped"])  # it is no picture, before anybody asks where the sign is


def test_quads_of_a_jsonl_count_from_the_middle_of_a_pixel(tmp_path: Path) -> None:
    path = tmp_path / "photos.jsonl"
    line = {"file": "a.png", "corners": [[1, 2], [3, 2], [3, 4], [1, 4]], "focal_px": 800.0, "condition": "sun"}
    path.write_text(json.dumps(line) + "\n\n")
    quad = read_quads(path)["a.png"]
    assert quad.corners_px.tolist() == [[1.5, 2.5], [3.5, 2.5], [3.5, 4.5], [1.5, 4.5]]
    assert (quad.focal_px, quad.condition, quad.label) == (800.0, "sun", None)
    for change, fault in (
        ({"corners": [[1, 2]]}, "line 1"),
        ({"corners": [[1, 2], [3, 2], [3, 4], [1, None]]}, "not a number"),
        ({"focal_px": -1}, "above 0"),
        ({"focal_px": "wide"}, "not a number"),
        ({"file": ""}, "no file"),
    ):
        path.write_text(json.dumps(line | change))
        with pytest.raises(UserError, match=fault):
            read_quads(path)
    path.write_text("{")
    with pytest.raises(UserError, match="line 1"):
        read_quads(path)


def test_the_focal_length_of_a_row_gives_the_distance(options: CaptureOptions) -> None:
    picture().save(Path(str(options.photos)) / "a.png")
    corners = [[9.5, 9.5], [69.5, 9.5], [69.5, 69.5], [9.5, 69.5]]
    table = options.out.parent / "photos.jsonl"
    table.write_text(json.dumps({"file": "a.png", "corners": corners, "focal_px": 240.0}))
    told = options.model_copy(update={"quads": table, "face_mm": 600.0})
    metrics = run_capture(told, command="", console=Console())
    assert metrics["by"]["distance_m"][0]["where"] == [0.0, 3.0]  # 600 mm at 240 px over 60 px: 2.4 m
    given = told.model_copy(update={"focal_px": 800.0, "out": options.out / "given"})
    assert run_capture(given, command="", console=Console())["by"]["distance_m"][0]["where"] == [6.0, 10.0]


def test_a_killed_run_goes_on(options: CaptureOptions, tmp_path: Path) -> None:
    """SIGKILL while it runs; what was judged is not judged again, and the end is as if nothing had happened."""
    folder, names = Path(str(options.photos)), [f"{i:02d}.png" for i in range(30)]
    for index, name in enumerate(names):
        picture(level=8 * index).save(folder / name)
    quads(options, names)
    words = [f"--{key.replace('_', '-')}={getattr(options, key)}" for key in ("quads", "target", "out", "views", "gap")]
    command = [sys.executable, "-m", "physadv.cli", "capture", str(folder), *words]
    table = options.out / "captures.csv"
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while run.poll() is None and time.monotonic() < deadline:
        if table.is_file() and table.read_bytes().count(b"\n") > 5:
            break
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    kept = table.read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    assert 5 <= kept.count(b"\n") < 31
    for name in names[: kept.count(b"\n") - 1]:
        (folder / name).write_bytes(b"")  # judged already: not read again
    again = run_capture(options.model_copy(update={"resume": True}), command="", console=Console())
    assert table.read_bytes().startswith(kept)
    assert again["photographs"] == {"judged": 30, "skipped": 0}
    assert again["observed"]["k"] == sum(8 * index > 127 for index in range(30))


ODD = (
    "Screenshot 9.41.07\u202fPM.png",
    "two  spaces.png",
    "line\nbreak\u2028s.png",
    "back\\n\\slash.png",
    "tab\t\x1c.png",
)


def test_a_finished_run_is_resumed_whatever_its_files_are_called(options: CaptureOptions) -> None:
    """macOS puts a narrow space into the names of screenshots."""
    folder = Path(str(options.photos))
    for name in ODD:
        picture().save(folder / name)
    assert options.quads is not None
    table = options.quads.with_suffix(".jsonl")
    corners = np.reshape([float(word) for word in CORNERS.split(",")], (4, 2)).tolist()
    table.write_text("\n".join(json.dumps({"file": name, "corners": corners}) for name in ODD))
    options = options.model_copy(update={"quads": table})
    first = run_capture(options, command="", console=Console())
    assert first["photographs"] == {"judged": len(ODD), "skipped": 0}
    assert {row.file for row in read(options.out / "captures.csv")} == set(ODD)
    again = run_capture(options.model_copy(update={"resume": True}), command="", console=Console())
    assert again == first


@pytest.mark.slow
def test_a_hundred_megapixels_are_judged(options: CaptureOptions) -> None:
    """And one px more a side is named, not decoded."""
    folder = Path(str(options.photos))
    picture((10_000, 10_000)).save(folder / "large.jpg")
    picture((10_001, 10_000)).save(folder / "larger.jpg")
    quads(options, ["large.jpg", "larger.jpg"], "2000,2000,6000,2000,6000,6000,2000,6000")
    metrics = run_capture(options, command="", console=Console())
    assert metrics["photographs"] == {"judged": 1, "skipped": 1}
    assert "100 megapixels" in metrics["skipped"][0]["reason"]


@pytest.mark.slow
def test_a_thousand_photographs_take_no_more_memory_than_a_hundred(options: CaptureOptions) -> None:
    """Of 1 megapixel each, 3 MB decoded: kept, they would be 3 GB."""
    folder = Path(str(options.photos))
    picture((1000, 1000)).save(folder / "000000.jpg")
    for index in range(1, 1000):
        os.link(folder / "000000.jpg", folder / f"{index:06d}.jpg")
    names = [f"{index:06d}.jpg" for index in range(1000)]
    quads(options, names, "300,300,420,300,420,420,300,420")
    words = [f"--{key.replace('_', '-')}={getattr(options, key)}" for key in ("quads", "target", "out", "views", "gap")]
    script = (
        "import resource, sys, physadv.runs.capture as run\n"
        "append = run.table.append\n"
        "def watched(path, row):\n"
        "    if row.picture in (100, 999):\n"
        "        print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)\n"
        "    return append(path, row)\n"
        "run.table.append = watched\n"
        "sys.argv = ['physadv', *sys.argv[1:]]\n"
        "import physadv.cli; physadv.cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "capture", str(folder), *words], capture_output=True, text=True, check=True
    )
    peaks = [int(line.split()[1]) / 1024 for line in done.stdout.splitlines() if line.startswith("peak")]
    print(f"peak of the resident memory after 101 photographs {peaks[0]:.0f} MiB, after 1,000 {peaks[1]:.0f} MiB")
    assert peaks[1] - peaks[0] < 60
    assert "1000 judged, 0 not" in done.stdout
    assert (options.out / "report.html").stat().st_size < 30e6


def test_names_that_are_not_utf8_are_named(options: CaptureOptions) -> None:
    folder = os.fsencode(str(options.photos))
    for name in (b"caf\xe9.png", b"tea.png"):
        with open(os.path.join(folder, name), "wb") as file:
            picture().save(file, "PNG")
    quads(options, ["tea.png"])
    metrics = run_capture(options, command="", console=Console())
    assert metrics["photographs"] == {"judged": 1, "skipped": 1}
    (skipped,) = metrics["skipped"]
    assert (skipped["file"], "rename" in skipped["reason"]) == ("caf\\udce9.png", True)
    assert run_capture(options.model_copy(update={"resume": True}), command="", console=Console()) == metrics
    with pytest.raises(UserError, match=r"caf\\udce9\.png is not in UTF-8"):
        open_source(os.fsdecode(os.path.join(folder, b"caf\xe9.png")), focal_px=None)


def test_sources_say_what_they_hold(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    (tmp_path / "b.png").touch()
    found = list(open_source(str(tmp_path), focal_px=None).read())
    assert [type(one) for one in found] == [Photo, Skipped]
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match="cannot be opened"):
        open_source(str(tmp_path / "broken.mp4"), focal_px=None)


@pytest.mark.parametrize("quality", [30, 75, 92])
def test_a_jpeg_tells_its_quality(tmp_path: Path, quality: int) -> None:
    picture().save(tmp_path / "a.jpg", quality=quality)
    assert jpeg_quality(tmp_path / "a.jpg") == pytest.approx(quality, abs=0.5)
    (photo,) = open_source(str(tmp_path / "a.jpg"), focal_px=None).read()
    assert isinstance(photo, Photo)
    assert photo.quality == jpeg_quality(tmp_path / "a.jpg")


def test_what_is_no_jpeg_has_no_quality(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    assert jpeg_quality(tmp_path / "a.png") is None
