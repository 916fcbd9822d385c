"""Files in and out: pictures, JSON, tensors, output folders. Whatever is wrong with one is a `UserError` that names it.

Writing is atomic: a reader sees the old file or the new one, never half of one, wherever the process was killed.
"""

import hashlib
import io
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageCms, ImageOps
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from physadv import __version__
from physadv.errors import UserError

# Raster formats that Pillow decodes by itself; EPS, for one, would start another program.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm"})
MIN_SIDE_PX = 2
MAX_SIDE_PX = 30_000
MAX_PIXELS = 100_000_000

RUN = "run.json"
# What the commands write, by name: all that `--overwrite` ever removes.
OUTPUTS = (
    "metrics.json",
    "audit.json",
    "report.html",
    "artwork.json",
    "art.png",
    "art-[0-9]*.png",
    "alpha.png",
    "alpha-[0-9]*.png",
    "sheet.json",
    "sheet.pdf",
    "checkpoint*.json",
    "checkpoint*.safetensors",
    "model.safetensors",
    "state.safetensors",
    "history.jsonl",
    "sweep.json",
    "judged.json",
    "card.md",
    "events.out.tfevents.*",
    "curve.json",
    "verified-curve.json",
    "samples.png",
    "demonstration.png",
    "captures.csv",
    "profile.json",
    "chart.json",
    "crop-[0-9]*.jpg",
    ".*.[0-9]*.part",
    RUN,
)


def open_image(path: str | Path, *, mode: Literal["RGB", "RGBA", "L"] = "RGB") -> Image.Image:
    """The picture in a file: upright, 8 bit, in sRGB; what was transparent is white unless `mode` is "RGBA".

    The size is judged by the header, before anything is decoded: 2 to 30,000 px a side and at most 100 megapixels.
    Errors: UserError if the file is missing, is no such picture, is damaged, or is too small or too large.
    """
    path = existing_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on size (judged in _check_size) and on odd metadata
        try:
            with Image.open(path, formats=formats()) as image:
                _check_size(path, *image.size)
                return _converted(ImageOps.exif_transpose(image), mode)
        except UserError:
            raise
        except Image.UnidentifiedImageError as error:
            raise UserError(f"{path} is not a picture physadv can read; save it as PNG or JPEG.") from error
        except Image.DecompressionBombError as error:
            raise UserError(_too_large(path)) from error
        except Exception as error:  # decoders of damaged files raise whatever they meet
            raise UserError(f"{path} is damaged or cut short ({error}); export or copy it again.") from error


def formats() -> tuple[str, ...]:
    """`FORMATS`, and HEIF where pillow-heif has registered itself with Pillow."""
    return (*FORMATS, "HEIF") if "HEIF" in Image.OPEN else FORMATS


def existing_file(path: str | Path) -> Path:
    """`path` if it is a file, else UserError."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; check the path.")
    if not path.is_file():
        raise UserError(f"{path} is not a file; give the path of one file.")
    return path


def _check_size(path: Path, width_px: int, height_px: int) -> None:
    if min(width_px, height_px) < MIN_SIDE_PX:
        raise UserError(f"{path} is {width_px} x {height_px} px; a picture needs at least {MIN_SIDE_PX} px a side.")
    if max(width_px, height_px) > MAX_SIDE_PX or width_px * height_px > MAX_PIXELS:
        raise UserError(_too_large(path, f" ({width_px} x {height_px} px)"))


def _too_large(path: Path, size: str = "") -> str:
    limits = f"{MAX_SIDE_PX:,} px a side and {MAX_PIXELS // 1_000_000} megapixels"
    return f"{path} is too large{size}; the limit is {limits}: scale it down."


def _converted(image: Image.Image, mode: str) -> Image.Image:
    image = _in_srgb(_in_8_bit(image))
    if mode != "RGBA" and image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    image = image.convert(mode)
    image.info.pop("icc_profile", None)  # the pixels are sRGB now, and a copy saved with the old profile would lie
    return image


def _in_8_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 bit, which Pillow would clip at 255, divided by 257; other modes as they are."""
    if not image.mode.startswith(("I", "F")):
        return image
    levels = np.asarray(image)
    if image.mode == "F" or levels.min() < 0 or levels.max() > 65535:
        raise ValueError("its pixels are neither 8 nor 16 bit")
    return Image.fromarray((levels / 257).round().astype(np.uint8))


def _in_srgb(image: Image.Image) -> Image.Image:
    """Through the picture's own ICC profile if it has one that fits; phones save Display P3, print shops CMYK."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    if image.mode in ("P", "PA", "LA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        output = "RGBA" if image.mode == "RGBA" else "RGB"
        return ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode=output) or image
    except (ImageCms.PyCMSError, OSError):  # broken, or for other channels: then the numbers are all there is
        return image


def image_tensor(image: Image.Image) -> Float[Tensor, "c h w"]:
    """An 8-bit picture as numbers in [0, 1]: c is 3 for RGB, 4 for RGBA, 1 for L."""
    if image.mode not in ("RGB", "RGBA", "L"):
        raise ValueError(f"mode {image.mode} is none of RGB, RGBA, L: use open_image")
    pixels = torch.from_numpy(np.array(image))
    return pixels.reshape(image.height, image.width, -1).permute(2, 0, 1).contiguous().float() / 255


def to_pil(tensor: Float[Tensor, "c h w"]) -> Image.Image:
    """Numbers in [0, 1] as an 8-bit picture, rounded to the nearest level; the inverse of `image_tensor`."""
    levels = (tensor.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).squeeze(2).numpy())


def png_bytes(tensor: Float[Tensor, "c h w"]) -> bytes:
    """`to_pil(tensor)` as a PNG file, for `write_atomic`."""
    buffer = io.BytesIO()
    to_pil(tensor).save(buffer, "PNG")
    return buffer.getvalue()


def list_images(folder: str | Path) -> list[Path]:
    """The pictures that lie directly in a folder, sorted by name; hidden files do not count."""
    folder = Path(folder)
    if not folder.exists():
        raise UserError(f"{folder} does not exist; check the path.")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; give the folder that holds the pictures.")
    found = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    images = sorted(path for path in found if path.is_file())
    if not images:
        raise UserError(f"{folder} holds no picture ({', '.join(sorted(SUFFIXES))}); check the path.")
    return images


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write a whole file or nothing."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another folder or make room.") from error
    finally:
        if part.parent.is_dir():
            part.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Indented JSON in the order given. NaN and infinity, which JSON lacks, are a ValueError."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: str | Path) -> Any:
    path = existing_file(path)
    try:
        return json.loads(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); mend it or write it again.") from error


def sha256(source: bytes | Path) -> str:
    """Hexadecimal digest of bytes, or of a file."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with existing_file(source).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """A safetensors file with JSON metadata. The same tensors and metadata give the same bytes."""
    own = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    # One key, because safetensors writes several in random order.
    text = {"physadv": json.dumps(metadata or {}, sort_keys=True, allow_nan=False)}
    write_atomic(path, safetensors_bytes(own, text))


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a safetensors file, also of one written elsewhere. Nothing in it is ever executed."""
    path = existing_file(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        return tensors, json.loads(metadata["physadv"]) if "physadv" in metadata else metadata
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise UserError(_not_safetensors(path)) from error


def _not_safetensors(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(4)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return (
            f"{path} is not a safetensors file but a pickle, which can run code when it is opened; convert it with "
            "`safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'weights.safetensors')`."
        )
    return f"{path} is not a safetensors file, or it is cut short; download or export it again."


def prepare_folder(out: str | Path, *, overwrite: bool, resume: bool = False) -> Path:
    """The output folder of a run, made and marked with `run.json`.

    A folder that holds anything is refused unless it bears that mark. Then `resume` keeps what is there; `overwrite`
    removes the files of the earlier run: those called as in `OUTPUTS`, there and in marked subfolders, nothing else.
    """
    out = Path(out)
    if overwrite and resume:
        raise UserError("--overwrite starts anew and --resume continues; give one of them.")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give a folder to --out.")
    if out.is_dir() and any(out.iterdir()):
        _check_reusable(out, overwrite or resume)
        if overwrite:
            _remove_outputs(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be made ({error.strerror}); choose another --out.") from error
    if not _is_run(out):
        write_json(out / RUN, {"physadv": __version__})
    return out


def _check_reusable(out: Path, allowed: bool) -> None:
    if not _is_run(out):
        raise UserError(f"{out} holds files of others, and none was touched; choose another --out.")
    if not allowed:
        raise UserError(f"{out} holds an earlier run; add --overwrite or --resume, or choose another --out.")


def _is_run(folder: Path) -> bool:
    try:
        marker = json.loads((folder / RUN).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(marker, dict) and "physadv" in marker


def _remove_outputs(folder: Path) -> None:
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink() and _is_run(child):
            _remove_outputs(child)
    for pattern in OUTPUTS:
        for path in folder.glob(pattern):
            if path.is_file() or path.is_symlink():
                path.unlink()
