"""Files in and out: what is read is right, what is bad is one sentence, what is written is whole."""

import io
import json
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from safetensors.torch import save_file

from physadv import files
from physadv.errors import UserError


def _saved(folder: Path, name: str, image: Image.Image, **options: object) -> Path:
    image.save(folder / name, **options)
    return folder / name


def _picture(mode: str = "RGB", size: tuple[int, int] = (8, 6)) -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    levels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], bands), dtype=np.uint8)
    return Image.merge(mode, [Image.fromarray(levels[..., band]) for band in range(bands)])


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# --- pictures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.ppm", "a.tif"])
def test_lossless_pictures_come_back_unchanged(tmp_path: Path, name: str) -> None:
    image = _picture()
    assert files.open_image(_saved(tmp_path, name, image)).tobytes() == image.tobytes()


def test_path_may_be_text(tmp_path: Path) -> None:
    assert files.open_image(str(_saved(tmp_path, "a.png", _picture()))).size == (8, 6)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees to see it upright
    image = _picture()
    opened = files.open_image(_saved(tmp_path, "a.png", image, exif=exif))
    assert opened.tobytes() == image.transpose(Image.Transpose.ROTATE_270).tobytes()


@pytest.mark.parametrize(("dtype", "suffix"), [(np.uint16, "png"), (np.uint16, "tif"), (np.int32, "tif")])
def test_16_bit_grey_keeps_its_range(tmp_path: Path, dtype: type, suffix: str) -> None:
    levels = np.array([[0, 257 * 100], [257 * 200 + 120, 65535]], dtype)
    opened = files.open_image(_saved(tmp_path, f"a.{suffix}", Image.fromarray(levels)))
    assert np.asarray(opened)[..., 1].tolist() == [[0, 100], [200, 255]]


@pytest.mark.parametrize("levels", [np.full((3, 3), 0.5, np.float32), np.full((3, 3), 70_000, np.int32)])
def test_other_numbers_are_refused(tmp_path: Path, levels: np.ndarray) -> None:
    with pytest.raises(UserError, match="neither 8 nor 16 bit"):
        files.open_image(_saved(tmp_path, "a.tif", Image.fromarray(levels)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_is_white_unless_asked_for(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.paste((10, 10, 10, 255), (0, 0, 2, 4))
    path = _saved(tmp_path, "a.png", image.convert(mode))
    assert [files.open_image(path).getpixel(at) for at in ((0, 0), (3, 0))] == [(10, 10, 10), (255, 255, 255)]
    assert [files.open_image(path, mode="L").getpixel(at) for at in ((0, 0), (3, 0))] == [10, 255]
    assert [files.open_image(path, mode="RGBA").getpixel(at)[3] for at in ((0, 0), (3, 0))] == [255, 0]


def test_palette_transparency_survives(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    path = _saved(tmp_path, "a.png", image, transparency=b"\x00\xff")
    assert files.open_image(path).getpixel((0, 0)) == (255, 255, 255)
    assert files.open_image(path, mode="RGBA").getpixel((1, 0)) == (0, 0, 255, 255)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    path = _saved(tmp_path, "a.tif", Image.new("CMYK", (4, 4), (0, 255, 255, 0)))
    assert files.open_image(path).getpixel((1, 1)) == (255, 0, 0)


def test_embedded_profile_is_applied_and_a_broken_one_ignored(tmp_path: Path) -> None:
    """A profile with linear light: mid grey in it is much brighter in sRGB."""
    grey = Image.new("L", (4, 4), 128)
    linear = _linear_grey_profile()
    opened = files.open_image(_saved(tmp_path, "linear.png", grey, icc_profile=linear))
    assert opened.getpixel((0, 0)) == pytest.approx((188, 188, 188), abs=2)
    assert "icc_profile" not in opened.info
    broken = files.open_image(_saved(tmp_path, "broken.png", grey, icc_profile=b"no profile" * 20))
    assert broken.getpixel((0, 0)) == (128, 128, 128)
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    srgb = files.open_image(_saved(tmp_path, "srgb.png", _picture(), icc_profile=own))
    assert np.abs(np.asarray(srgb).astype(int) - np.asarray(_picture())).max() <= 1


def _linear_grey_profile() -> bytes:
    """The least ICC profile there is: grey, gamma 1, white point D50."""
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    curve = b"curv" + bytes(4) + struct.pack(">I", 0)
    tags = struct.pack(">I", 2) + b"wtpt" + struct.pack(">2I", 156, 20) + b"kTRC" + struct.pack(">2I", 176, 12)
    head = bytearray(128)
    head[8:12] = b"\x02\x40\x00\x00"
    head[12:24] = b"mntrGRAYXYZ "
    head[36:40] = b"acsp"
    head[68:80] = white[8:]
    head[0:4] = struct.pack(">I", 188)
    return bytes(head) + tags + white + curve


def test_missing_folder_and_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no picture")
    (tmp_path / "empty.png").touch()
    for name, sentence in (
        ("none.png", "does not exist"),
        ("", "is not a file"),
        ("a.txt", "not a picture"),
        ("empty.png", "not a picture"),
    ):
        with pytest.raises(UserError, match=sentence) as caught:
            files.open_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_formats_that_start_other_programs_are_not_opened(tmp_path: Path) -> None:
    path = _saved(tmp_path, "a.eps", _picture())
    with pytest.raises(UserError, match="not a picture"):
        files.open_image(path)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1)])
def test_one_pixel_is_too_small(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="at least 2 px a side"):
        files.open_image(_saved(tmp_path, "a.png", Image.new("RGB", size)))
    assert files.open_image(_saved(tmp_path, "b.png", Image.new("RGB", (2, 2)))).size == (2, 2)


@pytest.mark.parametrize("size", [(30_001, 2), (2, 30_001), (10_001, 10_000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_size_is_judged_by_the_header(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "bomb.png").write_bytes(_png_header(*size))
    with pytest.raises(UserError, match=r"bomb\.png is too large.*30,000 px a side and 100 megapixels"):
        files.open_image(tmp_path / "bomb.png")


def test_largest_allowed_size_gets_past_the_header_without_a_warning(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(_png_header(10_000, 10_000))
    with pytest.raises(UserError, match="cut short"):
        files.open_image(tmp_path / "large.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp", "ppm"])
def test_cut_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = _saved(tmp_path, f"a.{suffix}", _picture(size=(64, 64)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(UserError, match=r"cut short|not a picture"):
        files.open_image(path)


@given(st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "GIF"]), st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_are_opened_or_refused_in_one_sentence(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    _picture(size=(16, 16)).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(content)
    try:
        opened = files.open_image(path)
    except UserError:
        return
    assert opened.mode == "RGB"
    assert min(opened.size) >= 2


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("RGBA", 4), ("L", 1)])
def test_tensor_and_back(mode: str, channels: int) -> None:
    image = _picture(mode)
    tensor = files.image_tensor(image)
    assert tensor.shape == (channels, 6, 8)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    assert float(tensor[0, 2, 5]) == pytest.approx(np.asarray(image).reshape(6, 8, -1)[2, 5, 0] / 255)
    assert files.to_pil(tensor).mode == mode
    assert files.to_pil(tensor).tobytes() == image.tobytes()


def test_tensor_is_a_copy_and_other_modes_are_refused() -> None:
    image = _picture()
    before = image.tobytes()
    files.image_tensor(image).zero_()
    assert image.tobytes() == before
    with pytest.raises(ValueError, match="mode CMYK"):
        files.image_tensor(_picture("CMYK"))


def test_to_pil_rounds_clamps_and_takes_leaves() -> None:
    values = torch.tensor([-1.0, 0.4 / 255, 0.6 / 255, 2.0]).requires_grad_()
    assert np.asarray(files.to_pil(values.reshape(1, 1, 4))).tolist() == [[0, 0, 1, 255]]


def test_png_bytes_are_a_picture_that_comes_back(tmp_path: Path) -> None:
    tensor = files.image_tensor(_picture("RGBA"))
    files.write_atomic(tmp_path / "a.png", files.png_bytes(tensor))
    assert torch.equal(files.image_tensor(files.open_image(tmp_path / "a.png", mode="RGBA")), tensor)


def test_list_images_is_sorted_and_skips_the_rest(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "._a.jpg", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in files.list_images(tmp_path)] == ["a.jpg", "b.PNG"]


def test_list_images_wants_a_folder_with_pictures(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, sentence in (("none", "does not exist"), ("file", "is a file"), ("empty", "holds no picture")):
        with pytest.raises(UserError, match=sentence):
            files.list_images(tmp_path / name)


def test_real_photographs_open(data: Path) -> None:
    for folder in (data / "backgrounds", data / "captures" / "chart_p2"):
        for path in files.list_images(folder)[:5]:
            image = files.open_image(path)
            assert image.mode == "RGB"
            assert min(image.size) >= 32


# --- writing --------------------------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    files.write_atomic(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"a\.bin cannot be written \(No space left on device\)"):
        files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_replaces_and_honours_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    files.write_atomic(path, b"old")
    files.write_atomic(path, b"new")
    other = tmp_path / "b.bin"
    other.write_bytes(b"")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode == other.stat().st_mode
    assert sorted(tmp_path.iterdir()) == [path, other]


def test_write_into_no_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        files.write_atomic(tmp_path / "none" / "a.bin", b"")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        files.write_atomic(tmp_path / "file" / "a.bin", b"")


def test_json_keeps_order_and_text_and_comes_back(tmp_path: Path) -> None:
    value = {"z": [1, None], "a": {"Größe": 0.1}}
    files.write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert '  "a": {\n    "Größe": 0.1' in text
    assert text.index('"z"') < text.index('"a"')
    assert files.read_json(tmp_path / "a.json") == value


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a.json", {"rate": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1,}', b"\xff\xfe{}", b"[" * 100_000])
def test_bad_json_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match="not valid JSON"):
        files.read_json(tmp_path / "a.json")


def test_sha256_of_bytes_and_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256(b"abc") == files.sha256(tmp_path / "a") == known
    with pytest.raises(UserError, match="does not exist"):
        files.sha256(tmp_path / "b")


# --- tensors --------------------------------------------------------------------------------------------------------


def test_tensors_come_back_with_their_metadata(tmp_path: Path) -> None:
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    tensors = {"weight": weight, "same": weight, "turned": weight.T, "steps": torch.tensor(7)}
    metadata = {"seed": 3, "classes": ["stop", "yield"]}
    files.write_tensors(tmp_path / "a.safetensors", tensors, metadata)
    read, own = files.read_tensors(tmp_path / "a.safetensors")
    assert own == metadata
    assert set(read) == set(tensors)
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    metadata = {str(i): i for i in range(20)}
    for order, name in ((1, "a"), (-1, "b")):
        tensors = {key: torch.ones(2) for key in ("x", "y", "z")[::order]}
        files.write_tensors(tmp_path / name, tensors, dict(list(metadata.items())[::order]))
    assert files.sha256(tmp_path / "a") == files.sha256(tmp_path / "b")


def test_files_of_others_are_read(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors", {"format": "pt"})
    tensors, metadata = files.read_tensors(tmp_path / "a.safetensors")
    assert metadata == {"format": "pt"}
    assert tensors["w"].tolist() == [1, 1]


def test_read_tensors_do_not_hang_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    files.write_tensors(path, {"w": torch.arange(4.0)})
    tensors, _ = files.read_tensors(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert tensors["w"].tolist() == [0, 1, 2, 3]


class _Bomb:
    def __reduce__(self) -> tuple:
        return (os.mkdir, ("executed",))


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_pickles_are_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pt"
    torch.save(_Bomb(), path) if kind == "torch" else path.write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(UserError, match=r"a pickle, which can run code .* convert it with"):
        files.read_tensors(path)
    assert not Path("executed").exists()


@pytest.mark.parametrize("keep", [0, 4, 20, -1])
def test_cut_tensors_are_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.safetensors"
    files.write_tensors(path, {"w": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="not a safetensors file, or it is cut short"):
        files.read_tensors(path)


# --- folders --------------------------------------------------------------------------------------------------------


def test_new_and_empty_folders_are_made_and_marked(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "a" / "b", tmp_path / "empty"):
        assert files.prepare_folder(out, overwrite=False) == out
        assert "physadv" in json.loads((out / "run.json").read_text())


def test_an_earlier_run_needs_a_word(tmp_path: Path) -> None:
    files.prepare_folder(tmp_path, overwrite=False)
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match="--overwrite or --resume"):
        files.prepare_folder(tmp_path, overwrite=False)
    files.prepare_folder(tmp_path, overwrite=False, resume=True)
    assert (tmp_path / "metrics.json").exists()
    files.prepare_folder(tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_resume_keeps_what_the_marker_says(tmp_path: Path) -> None:
    files.write_json(tmp_path / "run.json", {"physadv": "0.0.1", "config": {"steps": 7}})
    files.prepare_folder(tmp_path, overwrite=False, resume=True)
    assert files.read_json(tmp_path / "run.json")["config"] == {"steps": 7}


@pytest.mark.parametrize("marker", [None, "{}", "[]", "{", '{"name": "another tool"}'])
@pytest.mark.parametrize("flag", ["overwrite", "resume"])
def test_folders_of_others_are_never_touched(tmp_path: Path, marker: str | None, flag: str) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    if marker is not None:
        (tmp_path / "run.json").write_text(marker)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match="none was touched"):
        files.prepare_folder(tmp_path, **{"overwrite": False, flag: True})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_overwrite_removes_the_outputs_of_this_run_and_no_others(tmp_path: Path) -> None:
    out, stage, elsewhere = tmp_path / "out", tmp_path / "out" / "attack", tmp_path / "elsewhere"
    for folder in (out, stage, elsewhere):
        files.prepare_folder(folder, overwrite=False)
        (folder / "metrics.json").write_text("{}")
        (folder / "checkpoint-00100.safetensors").touch()
    (out / "photos").mkdir()
    for stranger in ("my-photo.png", "notes.txt", "photos/metrics.json"):
        (out / stranger).touch()
    (out / "link").symlink_to(elsewhere)
    files.prepare_folder(out, overwrite=True)
    left = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert left == {"run.json", "my-photo.png", "notes.txt", "photos/metrics.json"}
    assert len(list(elsewhere.iterdir())) == 3


def test_a_file_or_both_words_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"is a file|cannot be made"):
            files.prepare_folder(out, overwrite=True)
    with pytest.raises(UserError, match="give one of them"):
        files.prepare_folder(tmp_path / "new", overwrite=True, resume=True)
    assert not (tmp_path / "new").exists()
