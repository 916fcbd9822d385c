"""The artwork, the face that wears it, and what the target saw, as pictures inside the page."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from physadv.evaluation import Verdict, poses
from physadv.files import to_pil
from physadv.report.detection import Pair, pairs
from physadv.report.embed import data_uri
from physadv.report.words import goal_class, signed
from physadv.targets import Detector
from physadv.targets.boxes import Detections, Seen
from physadv.threats.base import Artwork
from physadv.threats.printed import faces_in_use

FACE_PX = 640
ARTWORKS_SHOWN = 6
VIEWS_SHOWN = 12


@dataclass(frozen=True)
class Piece:
    """An artwork by itself and in its place."""

    artwork: str
    face: str | None
    size_mm: tuple[float, float]
    face_mm: tuple[float, float]
    face_name: str


@dataclass(frozen=True)
class Answer:
    """A photograph and what the target says it shows. verdict: correct, misread, or goal (the class asked for)."""

    picture: str
    name: str
    confidence: float
    verdict: str


@dataclass(frozen=True)
class View:
    """One held-out view, without and with the artwork."""

    where: str
    truth: str
    clean: Answer
    attacked: Answer | None
    counted: bool


def rgba(artwork: Artwork, row: int) -> Image.Image:
    """Artwork `row` with its coverage as alpha, a texel per pixel."""
    alpha = artwork.alpha[row % len(artwork.alpha)]
    return to_pil(torch.cat([artwork.rgb[row].detach().cpu(), alpha.detach().cpu()]))


def pieces(artwork: Artwork, verdict: Verdict) -> list[Piece]:
    """The first artworks, each in its place on the face of its scene."""
    return [_piece(artwork, verdict, row) for row in range(min(len(artwork), ARTWORKS_SHOWN))]


def _piece(artwork: Artwork, verdict: Verdict, row: int) -> Piece:
    scenes = verdict.held_out.scenes
    place = artwork.place_mm[row % len(artwork.place_mm)].cpu()
    used = faces_in_use(scenes)
    face = int(used[row % len(used)])
    faces, size_mm = scenes.faces, scenes.faces.size_mm[face].cpu()
    picture = rgba(artwork, row)
    shown = to_pil(faces.images[face]).resize(_face_px(size_mm), Image.Resampling.LANCZOS)
    worn = data_uri(_wear(shown, picture, place / size_mm.repeat(2))) if artwork.printed else None
    width, height = (place[2:] - place[:2]).tolist()
    return Piece(data_uri(picture), worn, (width, height), (float(size_mm[0]), float(size_mm[1])), faces.names[face])


def _face_px(size_mm: Float[Tensor, "2"]) -> tuple[int, int]:
    """Width and height of a face in its own proportions."""
    width, height = (FACE_PX * size_mm / size_mm.max()).round().int().tolist()
    return width, height


def _wear(face: Image.Image, artwork: Image.Image, place: Float[Tensor, "4"]) -> Image.Image:
    """The artwork laid over the face; `place` is xyxy as shares of the face."""
    left, top, right, bottom = (place * torch.tensor(face.size).repeat(2)).round().int().tolist()
    layer = Image.new("RGBA", face.size)
    layer.paste(artwork.resize((max(1, right - left), max(1, bottom - top)), Image.Resampling.NEAREST), (left, top))
    return Image.alpha_composite(face, layer)


def first_views(verdict: Verdict, artwork: Artwork | None, *, goal: str) -> list[View]:
    """The first views of the evaluation, whatever became of them, near to far."""
    held_out = verdict.held_out
    count = min(VIEWS_SHOWN, len(held_out))
    clean = _answers(verdict, None, verdict.clean[:count], goal)
    worn = _answers(verdict, artwork, verdict.attacked["artwork"][:count], goal) if artwork is not None else iter(())
    attacked: list[Answer | None] = [*worn] or [None] * count
    far, yaw = (values[:count].tolist() for values in poses(verdict))
    staged = held_out.scenes.staged
    views = [
        View(
            _where(far[i], yaw[i], staged=staged),
            held_out.target.classes[int(held_out.truth[i])],
            answer,
            attacked[i],
            ok,
        )
        for i, (answer, ok) in enumerate(zip(clean, verdict.correct[:count].tolist(), strict=True))
    ]
    order = sorted(range(count), key=lambda i: far[i] if staged else -far[i])
    return [views[i] for i in order]


@torch.no_grad()
def first_pairs(verdict: Verdict, artwork: Artwork | None) -> list[Pair]:
    """The first whole photographs of the evaluation with their boxes, those that carry the artwork before others."""
    held_out, rows = verdict.held_out, verdict.held_out.first
    target, truth, scenes = held_out.target, held_out.truth, held_out.scenes.take(held_out.scene[held_out.first])
    assert isinstance(target, Detector)
    assert isinstance(truth, Seen)

    def side(worn: Artwork | None, answers: Any) -> tuple[Float[Tensor, "n 3 h w"], Detections]:
        return next(held_out.photographs(worn)), answers.take(rows)

    position = torch.full((len(held_out),), -1).index_put((rows,), torch.arange(len(rows)))
    seen = replace(truth, image=position[truth.image.cpu()].to(truth.image.device))
    scale = target.frame.size_px / scenes.images.shape[-1]
    return pairs(
        scenes.names,
        side(None, verdict.clean),
        None if artwork is None else side(artwork, verdict.attacked["artwork"]),
        seen.take(seen.image >= 0),
        threshold=target.threshold,
        classes=target.classes,
        counted=verdict.counted,
        extent_px=None if scenes.extent_px is None else scenes.extent_px * scale,
    )


def _where(far: float, yaw_deg: float, *, staged: bool) -> str:
    return (
        f"{far:.1f} m, yaw {signed(round(yaw_deg))}°" if staged else f"{far:.0f} px wide, yaw {signed(round(yaw_deg))}°"
    )


@torch.no_grad()
def _answers(verdict: Verdict, artwork: Artwork | None, logits: Float[Tensor, "n c"], goal: str) -> Iterator[Answer]:
    """The photographs are taken anew: the same draws give the same pictures."""
    classes, truth = verdict.held_out.target.classes, verdict.held_out.truth
    photographs = next(verdict.held_out.photographs(artwork))
    confidence, answer = logits.softmax(1).max(1)
    for i in range(len(logits)):
        name = classes[int(answer[i])]
        wrong = "goal" if name == goal_class(goal) else "misread"
        judged = "correct" if bool(answer[i] == truth[i]) else wrong
        yield Answer(data_uri(to_pil(photographs[i])), name, float(confidence[i]), judged)
