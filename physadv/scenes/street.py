"""`coco:FILE.json`, `yolo:FILE.yaml`: whole photographs with 0 to N boxes each."""

from dataclasses import dataclass
from pathlib import Path

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
    """One photograph, still on disk, and every sign in it. group: photographs of one place (the cluster of intervals)."""

    path: Path
    name: str
    group: str
    size_px: tuple[int, int]
    signs: tuple[Annotation, ...]
