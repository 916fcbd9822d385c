"""What the columns of a detector's output are: said in its json by one word, `"layout"`, or in plain text."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from physadv.errors import UserError
from physadv.targets.adapters.foreign import COCO, Settings
from physadv.targets.adapters.names import COCO_80


@dataclass(frozen=True)
class Layout:
    """A tensor (b, k, columns) of 4 coordinates in px, perhaps objectness, and the score of every class.

    corners: the coordinates are x1 y1 x2 y2, not cx cy w h. objectness: a score that multiplies those of the classes.
    columns: how many there are, where the classes are known; then (b, columns, k) is understood too.
    """

    corners: bool
    objectness: bool
    columns: int | None = None

    def boxes(self, answers: tuple[Tensor, ...]) -> tuple[Float[Tensor, "b k 4"], Float[Tensor, "b k c"]]:
        """Boxes xyxy and scores, of one tensor or of two: coordinates and scores."""
        table = torch.cat([answer.to(answers[0].dtype) for answer in answers], -1)
        if table.ndim == 3 and self.columns not in (None, table.shape[2]) and table.shape[1] == self.columns:
            table = table.transpose(1, 2)
        boxes, scores = table[..., :4], table[..., 4:]
        if self.objectness:
            scores = scores[..., :1] * scores[..., 1:]
        return boxes if self.corners else corners(boxes), scores


LAYOUTS = {
    "xyxy-scores": Layout(corners=True, objectness=False),
    "xyxy-obj-scores": Layout(corners=True, objectness=True),
    "cxcywh-scores": Layout(corners=False, objectness=False),
    "cxcywh-obj-scores": Layout(corners=False, objectness=True),
}


def corners(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """cx cy w h -> x1 y1 x2 y2."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def described(settings: Settings, name: str) -> tuple[dict[str, Any], Layout]:
    """What a json with `"task": "detection"` says, completed from its plain text where it gives no `layout`."""
    said = dict(settings) if "layout" in settings else dict(settings) | _from_text(settings)
    layout = LAYOUTS.get(str(said.get("layout")))
    if layout is None:
        raise UserError(
            f"{name} is a detector, but its json does not say what its output is: "
            f'add "layout": one of {", ".join(LAYOUTS)}.'
        )
    classes = COCO_80 if said.get("classes") == COCO else said.get("classes")
    columns = 4 + layout.objectness + len(classes) if isinstance(classes, (list, tuple)) else None
    return said, Layout(layout.corners, layout.objectness, columns)


def _from_text(settings: Settings) -> dict[str, Any]:
    """`layout`, `pad` and `classes` of a json that tells them in words, as far as they can be told.

    output.columns "cx, cy, w, h ..., objectness, ...", input.resize "... pad with 114/255", classes "COCO-80 ...".
    """
    found: dict[str, Any] = {}
    columns = re.fullmatch(r"(cx, cy, w, h|x1, y1, x2, y2)\b(.*)", _text(settings, "output", "columns"), re.S)
    if columns:
        shape = "cxcywh" if columns[1].startswith("cx") else "xyxy"
        found["layout"] = f"{shape}-obj-scores" if "objectness" in columns[2] else f"{shape}-scores"
    pad = re.search(r"\bpad with (\d+(?:\.\d+)?)(?:/(\d+))?", _text(settings, "input", "resize"))
    if pad:
        found["pad"] = float(pad[1]) / float(pad[2] or 1)
    if str(settings.get("classes")).startswith("COCO-80"):
        found["classes"] = COCO
    return found


def _text(settings: Settings, *keys: str) -> str:
    value: Any = settings
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""
