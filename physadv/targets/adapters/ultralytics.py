"""`ultralytics:FILE.pt`: the YOLOs of ultralytics, v5u to v11. The library is AGPL-3.0 and no dependency of physadv."""

import os
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from physadv.errors import UserError
from physadv.files import existing_file
from physadv.targets.adapters.columns import corners
from physadv.targets.adapters.foreign import DETECTOR_PX, PAD, beside, detector_of, needed
from physadv.targets.adapters.names import slugs
from physadv.targets.base import one_line
from physadv.targets.detector import Detector

THRESHOLD, NMS_IOU = 0.25, 0.7  # of its own `predict`


def ultralytics(rest: str, name: str) -> Detector:
    """The detector in FILE.pt, which is a pickle and runs code when it is opened; or NAME.yaml, untrained.

    A json beside the file may say otherwise: input_size, classes, pad, threshold, nms_iou.
    """
    path = Path(rest)
    if path.suffix not in (".pt", ".yaml"):
        raise UserError(f"{name} is neither weights nor a plan; write ultralytics:FILE.pt.")
    if path.suffix == ".pt":
        existing_file(path)  # what is missing, the library would download
    os.environ.setdefault("YOLO_OFFLINE", "true")
    library = needed("ultralytics", name, extra="ultralytics")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            opened = library.YOLO(rest, task="detect")
    except Exception as error:
        raise UserError(f"ultralytics cannot open {rest} ({one_line(error)}); give a .pt of its own.") from error
    settings = _settings(opened, name) | (beside(path) if path.is_file() else {})
    return detector_of(Rows(opened.model), settings, name)


class Rows(nn.Module):
    """Every row of a YOLO before NMS. A head that needs none (v10) answers with its one-to-one branch, all of it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model.float()
        if suppresses_itself(model):
            model.model[-1].postprocess = _as_it_is

    def forward(self, images: Float[Tensor, "b 3 s s"]) -> tuple[Float[Tensor, "b k 4"], Float[Tensor, "b k c"]]:
        answer = self.model(images)
        table = answer[0] if isinstance(answer, (tuple, list)) else answer
        if suppresses_itself(self.model):
            return table[..., :4], table[..., 4:]
        return corners(table[:, :4].transpose(1, 2)), table[:, 4:].transpose(1, 2)


def suppresses_itself(model: Any) -> bool:
    """Whether its head needs no NMS."""
    return bool(getattr(model.model[-1], "end2end", False))


def _as_it_is(table: Tensor, *_: object) -> Tensor:
    return table


def _settings(opened: Any, name: str) -> dict[str, Any]:
    model = opened.model
    head = type(model.model[-1]).__name__ if hasattr(model, "model") else type(model).__name__
    if opened.task != "detect" or head not in ("Detect", "v10Detect"):
        raise UserError(f"{name} is no YOLO for boxes ({opened.task}, {head}); load it with python: or hf:.")
    size = opened.overrides.get("imgsz", DETECTOR_PX)
    names = [model.names[row] for row in sorted(model.names)]
    return {
        "input_size": max(size) if isinstance(size, (list, tuple)) else size,
        "classes": None if all(name.isdigit() for name in names) else slugs(names),
        "pad": PAD,
        "threshold": THRESHOLD,
        "nms_iou": None if suppresses_itself(model) else NMS_IOU,
    }
