"""Scenes by name: `gtsrb:DIR`, `photo:FILE`, `staged:FACE`, `coco:FILE.json` ..., several joined by `+`."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from physadv.errors import UserError
from physadv.scenes.base import Faces, Scenes
from physadv.scenes.canvas import Photograph, spread
from physadv.scenes.classes import canonical
from physadv.scenes.folder import imagefolder, slug
from physadv.scenes.gtsrb import gtsrb
from physadv.scenes.photo import develop, photo
from physadv.scenes.staged import BACKGROUND_PX, staged
from physadv.scenes.store import joined
from physadv.scenes.street import Street, coco, yolo
from physadv.scenes.street_develop import develop_street, labels_worn

FOLDERS: dict[str, Callable[[Path], list[Photograph]]] = {"gtsrb": gtsrb, "imagefolder": imagefolder}
STREETS = ("coco", "yolo")
STREET_PX = 416
KINDS = (*FOLDERS, "photo", "staged", *STREETS)
SPLIT = re.compile(r"(.+\.ya?ml):(\w+)")
NEXT_SPEC = re.compile(r"\+(?=[a-z]{2,}:)")  # a path may hold a plus, a drive letter is one letter


def load_scenes(
    spec: str | Sequence[str],
    *,
    canvas_px: int | None = None,
    street_px: int | None = None,
    margin: float = 0.25,
    classes: Sequence[str] | None = None,
    limit: int | None = None,
    backgrounds: Path | None = None,
    quad: Sequence[float] | None = None,
    label: str | None = None,
    face_mm: float | None = None,
    only_worn: bool = False,
) -> Scenes:
    """Scenes of one spec, or of several joined by `+` (or in a list) that share their classes.

    canvas_px (96), margin: photographs become squares of side max(box) * (1 + 2 * margin), `canvas_px` wide.
    street_px: the side of the square for a whole photograph (`coco:`, `yolo:`: 416) and behind a staged sign (160).
    classes: keep the scenes of these, by slug or GTSRB number. limit: keep the first N, the tracks taking turns.
    Of whole photographs all are kept, and the signs of these classes wear the artwork; only_worn leaves out the others.
    backgrounds: a folder of pictures, for `staged:`. quad, label: corners (TL TR BR BL, px) and class, for `photo:`.
    face_mm: the width of the printed face where the sign's own is not to be used.
    Raises UserError for whatever cannot be read, found or merged.
    """
    specs = [spec] if isinstance(spec, str) else spec
    parts = [_split(part) for one in specs for part in NEXT_SPEC.split(one)]
    kinds = {kind for kind, _ in parts}
    for option, given, kind in (("quad", quad, "photo"), ("backgrounds", backgrounds, "staged")):
        if given is not None and kind not in kinds:
            raise UserError(f"{option} goes with {kind}: scenes, and there are none in {spec!r}: leave it out.")
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1 scene, not {limit}.")
    if kinds & set(STREETS):
        streets = _streets(parts, classes, limit, only_worn=only_worn, spec=spec)
        here = {sign.label for street in streets for sign in street.signs}
        worn = None if classes is None else [name for name in classes if canonical(slug(name)) in here]
        return develop_street(streets, canvas_px=canvas_px or street_px or STREET_PX, classes=worn, face_mm=face_mm)
    loaded = []
    for kind, rest in parts:
        if kind == "staged":
            scenes = staged(
                rest,
                backgrounds=backgrounds,
                label=label,
                face_mm=face_mm,
                background_px=street_px or BACKGROUND_PX,
            )
            loaded.append(_kept_staged(scenes, classes, limit))
        else:
            found = _kept(_photographs(kind, rest, quad=quad, label=label), classes, limit, where=f"{kind}:{rest}")
            loaded.append(develop(found, canvas_px=canvas_px or 96, margin=margin, face_mm=face_mm))
    merged = merge(loaded)
    return merged if limit is None else merged.take(torch.tensor(spread(merged.groups, limit)))


def load_streets(spec: str) -> list[Street]:
    """The whole photographs of `coco:` and `yolo:`, several joined by `+`, still on disk."""
    parts = [_split(part) for part in NEXT_SPEC.split(spec)]
    if any(kind not in STREETS for kind, _ in parts):
        raise UserError(f"{spec!r} has no boxes: a detector wants coco:FILE.json or yolo:FILE.yaml.")
    return [street for kind, rest in parts for street in _street(kind, rest)]


def merge(parts: Sequence[Scenes]) -> Scenes:
    """One set of scenes after the other; their classes must be the same, and all photographed or all staged."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if any(one.photograph is not None for one in parts):
        raise UserError("Whole photographs are joined where they are read: name their files in one spec, joined by +.")
    if any(one.classes != first.classes for one in parts):
        raise UserError("Scenes with different classes cannot be joined by +: name the folders after the same classes.")
    if any(one.staged != first.staged or one.images.shape[1:] != first.images.shape[1:] for one in parts):
        raise UserError("Photographed scenes cannot be joined with staged ones: attack them in two runs.")
    faces, rows = _merged_faces([one.faces for one in parts])
    tensors = ("surface", "labels", "gain", "bias", "native_px")
    together: dict[str, Any] = {name: torch.cat([getattr(one, name) for one in parts]) for name in tensors}
    together["images"] = joined([one.images for one in parts])
    for name in ("names", "groups"):
        together[name] = tuple(word for one in parts for word in getattr(one, name))
    face = torch.cat([row[one.face] for one, row in zip(parts, rows, strict=True)])
    return replace(first, **together, faces=faces, face=face)


def _merged_faces(parts: Sequence[Faces]) -> tuple[Faces, list[torch.Tensor]]:
    """Each different face once, and for each part the row its faces have now."""
    kept: list[tuple[Faces, int]] = []
    rows = []
    for part in parts:
        row = []
        for index in range(len(part)):
            same = (place for place, (other, at) in enumerate(kept) if _same_face(other, at, part, index))
            row.append(next(same, len(kept)))
            if row[-1] == len(kept):
                kept.append((part, index))
        rows.append(torch.tensor(row))
    tensors = ("images", "size_mm", "outline_mm")
    stacked = {name: torch.stack([getattr(one, name)[at] for one, at in kept]) for name in tensors}
    return Faces(**stacked, names=tuple(one.names[at] for one, at in kept)), rows


def _same_face(one: Faces, at: int, other: Faces, index: int) -> bool:
    return (
        one.names[at] == other.names[index]
        and torch.equal(one.size_mm[at], other.size_mm[index])
        and torch.equal(one.images[at], other.images[index])
    )


def _split(spec: str) -> tuple[str, str]:
    kind, colon, rest = spec.strip().partition(":")
    if kind not in KINDS:
        nearest = get_close_matches(kind, KINDS, 1, cutoff=0.0)[0]
        raise UserError(f"{spec!r} names no kind of scenes; nearest: {nearest}: (kinds: {', '.join(KINDS)}).")
    if not (colon and rest):
        raise UserError(f"{spec!r} is incomplete: write {kind}:PATH.")
    return kind, rest


def _photographs(kind: str, rest: str, *, quad: Sequence[float] | None, label: str | None) -> list[Photograph]:
    path = Path(rest).expanduser()
    if kind == "photo":
        return photo(path, quad=quad, label=None if label is None else slug(label))
    if not path.is_dir():
        raise UserError(f"{kind}:{rest}: there is no folder {path}: check the path.")
    return FOLDERS[kind](path)


def _streets(
    parts: Sequence[tuple[str, str]],
    classes: Sequence[str] | None,
    limit: int | None,
    *,
    only_worn: bool,
    spec: str | Sequence[str],
) -> list[Street]:
    """Whole photographs of several files; `limit` of them: first those with the artwork, the groups taking turns."""
    if any(kind not in STREETS for kind, _ in parts):
        raise UserError(f"{spec!r} joins whole photographs with signs cut out: attack them in two runs.")
    found = [street for kind, rest in parts for street in _street(kind, rest)]
    worn = labels_worn(found, classes)
    kept = [street for street in found if street.shows(worn)] if only_worn else found
    if limit is None:
        return kept
    with_it, without = ([street for street in kept if street.shows(worn) is shows] for shows in (True, False))
    return _spread(with_it, limit) + _spread(without, max(0, limit - len(with_it)))


def _spread(streets: list[Street], limit: int) -> list[Street]:
    return [streets[row] for row in spread([street.group for street in streets], limit)]


def _street(kind: str, rest: str) -> list[Street]:
    """`coco:FILE.json`, `yolo:FILE.yaml` or, for another split than train, `yolo:FILE.yaml:val`."""
    if kind == "coco":
        return coco(Path(rest))
    split = SPLIT.fullmatch(rest)
    return yolo(Path(split[1]), split[2]) if split else yolo(Path(rest))


def _kept(found: list[Photograph], classes: Sequence[str] | None, limit: int | None, *, where: str) -> list[Photograph]:
    """Photographs of the wanted classes, the first `limit` of them with the groups taking turns."""
    _require(classes, [one.label for one in found], where)
    wanted = found if classes is None else [one for one in found if one.label in set(map(slug, classes))]
    return wanted if limit is None else [wanted[row] for row in spread([one.group for one in wanted], limit)]


def _kept_staged(scenes: Scenes, classes: Sequence[str] | None, limit: int | None) -> Scenes:
    names = scenes.faces.names
    _require(classes, names, "staged:")
    rows = [row for row, name in enumerate(names) if classes is None or name in set(map(slug, classes))]
    return scenes.take(torch.tensor(rows[:limit]))


def _require(classes: Sequence[str] | None, labels: Sequence[str], where: str) -> None:
    """Every wanted class is there; else say what is."""
    missing = [name for name in classes or () if slug(name) not in set(labels)]
    if missing:
        there = ", ".join(f"{name} ({count})" for name, count in sorted(Counter(labels).items()))
        raise UserError(f"{where} has no scenes of class {', '.join(missing)}; there are: {there}.")
