"""`coco:FILE.json`, `yolo:FILE.yaml`: whole photographs with 0 to N boxes each."""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from physadv.errors import UserError
from physadv.files import existing_file, formats, list_images, read_json
from physadv.scenes.classes import canonical

SPLITS = ("train", "val", "test")
Quad = tuple[float, ...]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Annotation:
    """A sign in a photograph. box: xyxy px, edges; quad: the face's corners TL TR BR BL in px, where annotated."""

    label: str
    box: Box
    quad: Quad | None = None


@dataclass(frozen=True)
class Street:
    """One photograph, still on disk, and every sign in it. group: photographs of one place (the cluster of intervals).

    size_px: width, height.
    """

    path: Path
    name: str
    group: str
    size_px: tuple[int, int]
    signs: tuple[Annotation, ...]

    def shows(self, labels: Collection[str]) -> bool:
        """Whether a sign in it has one of these labels."""
        return any(sign.label in labels for sign in self.signs)


# --- COCO ------------------------------------------------------------------------------------------------------------

Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Lenient(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Image(_Lenient):
    id: int | str
    file_name: str = Field(min_length=1)
    width: int | None = Field(None, gt=0)
    height: int | None = Field(None, gt=0)
    group: int | str | None = None


class _Sign(_Lenient):
    image_id: int | str
    category_id: int | str
    bbox: tuple[Finite, Finite, Finite, Finite]
    iscrowd: int = 0
    quad: tuple[Finite, Finite, Finite, Finite, Finite, Finite, Finite, Finite] | None = None


class _Category(_Lenient):
    id: int | str
    name: str = Field(min_length=1)


class _Coco(_Lenient):
    images: list[_Image] = Field(min_length=1)
    annotations: list[_Sign]
    categories: list[_Category]


def coco(file: Path) -> list[Street]:
    """The photographs of a COCO json: all of them, in its order, with the boxes that are no crowds.

    They lie in `images/` beside the json, or beside it. An annotation may have a `quad` (8 numbers: the face's corners
    TL TR BR BL), an image a `group`. Errors: UserError names the file and the entry.
    """
    file = Path(file).expanduser()
    content = _parsed(file)
    names = _by_id(file, "categories", content.categories)
    images = _by_id(file, "images", content.images)
    signs: dict[int | str, list[Annotation]] = defaultdict(list)
    for row, sign in enumerate(content.annotations):
        where = f"{file}: annotations[{row}]"
        if sign.image_id not in images:
            raise UserError(f"{where} is of image {sign.image_id!r}, which `images` does not list: mend its image_id.")
        if sign.category_id not in names:
            raise UserError(
                f"{where} has category {sign.category_id!r}, which `categories` lacks: mend its category_id."
            )
        if not sign.iscrowd:
            x, y, width, height = sign.bbox
            label = canonical(names[sign.category_id].name)
            signs[sign.image_id].append(_annotation(label, (x, y, x + width, y + height), sign.quad, where))
    paths = [_beside(file, image.file_name, row) for row, image in enumerate(content.images)]
    said = [(one.width, one.height) if one.width and one.height else None for one in content.images]
    streets = [
        Street(
            path=path,
            name=Path(image.file_name).with_suffix("").as_posix(),
            group=str(image.file_name if image.group is None else image.group),
            size_px=size_px,
            signs=tuple(signs[image.id]),
        )
        for image, path, size_px in zip(content.images, paths, _sizes(paths, said), strict=True)
    ]
    return _in_bounds(file, streets)


def _parsed(file: Path) -> _Coco:
    try:
        return _Coco.model_validate(read_json(file))
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        message = f"{first['msg'][0].lower()}{first['msg'][1:]}"
        raise UserError(f"{file}: {where or 'the content'}: {message}; write COCO's instances format.") from error


def _by_id(file: Path, kind: str, entries: Sequence[Any]) -> dict[int | str, Any]:
    found: dict[int | str, Any] = {}
    for row, entry in enumerate(entries):
        if entry.id in found:
            raise UserError(f"{file}: {kind}[{row}] has the id {entry.id!r} a second time: give every one its own.")
        found[entry.id] = entry
    return found


def _beside(file: Path, name: str, row: int) -> Path:
    for path in (file.parent / "images" / name, file.parent / name):
        if path.is_file():
            return path
    raise UserError(f"{file}: images[{row}]: there is no {name} in {file.parent / 'images'} or beside the json.")


def _annotation(label: str, box: Box, quad: Quad | None, where: str) -> Annotation:
    x1, y1, x2, y2 = box
    if not (x2 > x1 and y2 > y1):
        size = f"{x2 - x1:g} x {y2 - y1:g} px"
        raise UserError(f"{where}: its box is {size}: give a positive width and height or leave it out.")
    if quad is not None and not _convex(quad):
        raise UserError(f"{where}: its quad is not convex in the order TL TR BR BL: check its corners and their order.")
    return Annotation(label, box, quad)


def _convex(quad: Quad) -> bool:
    """Whether the corners go round a convex quadrilateral clockwise on the screen."""
    corners = np.reshape(quad, (4, 2))
    sides = np.roll(corners, -1, 0) - corners
    after = np.roll(sides, -1, 0)
    return bool((sides[:, 0] * after[:, 1] - sides[:, 1] * after[:, 0] > 0).all())


# --- YOLO ------------------------------------------------------------------------------------------------------------


def yolo(file: Path, split: str = "train") -> list[Street]:
    """One split of a `data.yaml` as ultralytics writes it: all of its photographs, sorted within each folder.

    `train`, `val`, `test`: a folder, a text file of pictures, or a list of them, below `path`. The labels of
    images/X.jpg are in labels/X.txt, `class cx cy w h` as shares of the photograph, or `class x1 y1 x2 y2 ...` (a
    polygon, whose box is taken); no such file: no signs. Errors: UserError names the file and the line.
    """
    file = Path(file).expanduser()
    content = _yaml(file)
    names = _names(file, content.get("names"))
    paths = _pictures(file, content, split)
    sizes = _sizes(paths, [None] * len(paths))
    streets = [
        Street(path, path.stem, str(path), size_px, _labels(_label_file(path), names, size_px))
        for path, size_px in zip(paths, sizes, strict=True)
    ]
    return _in_bounds(file, streets)


def _yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(existing_file(file).read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not readable YAML: {str(error).splitlines()[0]}; mend that line.") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} must hold keys and values, such as `names: [stop, yield]` and `train: images/train`.")
    return content


def _names(file: Path, names: Any) -> dict[int, str]:
    """Class number -> slug."""
    pairs = names if isinstance(names, Mapping) else dict(enumerate(names)) if isinstance(names, list) else {}
    if not pairs or not all(str(key).isdecimal() and isinstance(name, str | int) for key, name in pairs.items()):
        raise UserError(f"{file}: `names` must list the classes: [stop, yield], or {{0: stop, 1: yield}}.")
    return {int(key): canonical(str(name)) for key, name in pairs.items()}


def _pictures(file: Path, content: Mapping[str, Any], split: str) -> list[Path]:
    if split not in SPLITS or not content.get(split):
        there = ", ".join(name for name in SPLITS if content.get(name)) or "none"
        raise UserError(f"{file} has no split {split!r} (there: {there}); write yolo:{file.name}:SPLIT.")
    places = content[split] if isinstance(content[split], list) else [content[split]]
    root = content.get("path") or "."
    if not all(isinstance(place, str) for place in (*places, root)):
        raise UserError(f"{file}: `{split}` and `path` must be folders or text files, not {content[split]!r}.")
    base = file.parent / Path(root).expanduser()
    return [path for place in places for path in _listed(file, _found(file, base, place))]


def _found(file: Path, base: Path, place: str) -> Path:
    """The place below `path`; also where an export writes ../train/images and means train/images."""
    choices = (base / place, file.parent / place, file.parent / place.removeprefix("../"))
    for choice in choices:
        if choice.exists():
            return choice
    raise UserError(f"{file}: there is no {choices[0]}: check its `path`, `train`, `val` and `test`.")


def _listed(file: Path, place: Path) -> list[Path]:
    """The pictures of a folder, of its sub-folders too, or of a text file."""
    if place.is_dir():
        folders = sorted({path.parent for path in place.rglob("*") if path.suffix.lower() in Image.EXTENSION})
        pictures = [path for folder in folders for path in list_images(folder)]
    elif place.suffix.lower() == ".txt":
        try:
            lines = [line.strip() for line in place.read_text(encoding="utf-8-sig").splitlines()]
        except UnicodeDecodeError as error:
            raise UserError(f"{place} is no text file: write the path of a picture per line.") from error
        pictures = [existing_file(place.parent / line) for line in lines if line]
    else:
        pictures = [place]
    if not pictures:
        raise UserError(f"{file}: {place} holds no pictures: check the path.")
    return pictures


def _label_file(picture: Path) -> Path:
    """.../images/a.jpg -> .../labels/a.txt, the last `images` of the path; else beside the picture."""
    parts = list(picture.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _labels(file: Path, names: Mapping[int, str], size_px: tuple[int, int]) -> tuple[Annotation, ...]:
    if not file.is_file():
        return ()
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no text file: write `class cx cy w h` per line.") from error
    return tuple(
        _labelled(line.split(), names, size_px, f"{file}, line {row}")
        for row, line in enumerate(lines, 1)
        if line.strip()
    )


def _labelled(words: Sequence[str], names: Mapping[int, str], size_px: tuple[int, int], where: str) -> Annotation:
    try:
        number, *shares = (float(word) for word in words)
    except ValueError as error:
        raise UserError(
            f"{where}: {' '.join(words)!r} holds a word that is no number: write `class cx cy w h`."
        ) from error
    if len(shares) != 4 and (len(shares) < 6 or len(shares) % 2):
        raise UserError(
            f"{where} has {len(words)} columns: write `class cx cy w h` or a polygon `class x1 y1 x2 y2 ...`."
        )
    if number not in names:
        raise UserError(f"{where}: class {words[0]} is not one of `names` (0 to {max(names)}): mend the number.")
    if not all(math.isfinite(share) and -1 <= share <= 2 for share in shares):
        raise UserError(f"{where}: the box is not in shares of the photograph, 0 to 1: divide by its width and height.")
    return _annotation(names[int(number)], _share_box(shares, size_px), None, where)


def _share_box(shares: Sequence[float], size_px: tuple[int, int]) -> Box:
    width, height = size_px
    if len(shares) == 4:
        x, y, w, h = shares
        return ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
    xs, ys = shares[::2], shares[1::2]
    return (min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height)


# --- both ------------------------------------------------------------------------------------------------------------


def _sizes(paths: Sequence[Path], said: Sequence[tuple[int, int] | None]) -> list[tuple[int, int]]:
    """Width and height of every picture: what the file says of it, else from the picture's header."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda path, size: size or _header_size(path), paths, said))


def _header_size(path: Path) -> tuple[int, int]:
    """Width, height of the upright picture, without decoding it."""
    try:
        with Image.open(path, formats=formats()) as image:
            turned = image.getexif().get(ImageOps.ExifTags.Base.Orientation, 1) in range(5, 9)
            return (image.height, image.width) if turned else (image.width, image.height)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a picture physadv can read ({error}); save it as PNG or JPEG.") from error


def _in_bounds(file: Path, streets: list[Street]) -> list[Street]:
    """The same; UserError where a box lies wholly outside its photograph."""
    for street in streets:
        width, height = street.size_px
        for sign in street.signs:
            x1, y1, x2, y2 = sign.box
            if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
                box = ", ".join(f"{value:g}" for value in sign.box)
                raise UserError(
                    f"{file}: a {sign.label} at ({box}) lies outside {street.path.name}, {width} x {height} px."
                )
    return streets
