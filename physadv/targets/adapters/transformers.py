"""`hf:DIR_OR_REPO`: detectors of transformers that answer with logits and boxes: RT-DETR, DETR, YOLOS and their kin."""

from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from physadv.errors import UserError
from physadv.files import read_json
from physadv.targets.adapters.columns import corners
from physadv.targets.adapters.foreign import DETECTOR_PX, PAD, beside, detector_of, needed
from physadv.targets.adapters.names import slugs
from physadv.targets.base import one_line
from physadv.targets.detector import Detector

PREPROCESSOR = "preprocessor_config.json"
THRESHOLD = 0.5


def hf(rest: str, name: str) -> Detector:
    """The detector in a folder, or of a repository of the Hugging Face hub; a folder is read without network.

    `physadv.json` in the folder may say otherwise: input_size, classes, pad, threshold, nms_iou.
    """
    library = needed("transformers", name, extra="hf")
    local = Path(rest).is_dir()
    model = _model(library, rest, name, local=local)
    preprocessing = _preprocessing(library, rest, name, local=local)
    module = Queries(model, preprocessing)
    settings = {
        "input_size": _size_px(preprocessing, name),
        "classes": slugs(model.config.id2label[row] for row in sorted(model.config.id2label)),
        "pad": sum(module.mean) / 3 if preprocessing.get("do_normalize") else PAD,
        "threshold": THRESHOLD,
        "nms_iou": None,
    }
    own = beside(Path(rest) / "physadv.json") if local else {}
    return detector_of(module, settings | own, name)


class Queries(nn.Module):
    """Boxes and scores of the queries: a softmax where the model can answer "no object", else a sigmoid per class."""

    def __init__(self, model: Any, preprocessing: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        normalised = bool(preprocessing.get("do_normalize"))
        self.mean = tuple(preprocessing["image_mean"]) if normalised else (0.0, 0.0, 0.0)
        self.std = tuple(preprocessing["image_std"]) if normalised else (1.0, 1.0, 1.0)
        rescales = preprocessing.get("do_rescale", True)
        self.scale = 255 * (preprocessing.get("rescale_factor", 1 / 255) if rescales else 1)

    def forward(self, images: Float[Tensor, "b 3 s s"]) -> tuple[Float[Tensor, "b q 4"], Float[Tensor, "b q c"]]:
        mean, std = (images.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        answer = self.model(pixel_values=(images * self.scale - mean) / std)
        rejects = answer.logits.shape[-1] == self.model.config.num_labels + 1
        scores = answer.logits.softmax(-1)[..., :-1] if rejects else answer.logits.sigmoid()
        return corners(answer.pred_boxes) * images.shape[-1], scores


def _model(library: Any, rest: str, name: str, *, local: bool) -> Any:
    try:
        model, info = library.AutoModelForObjectDetection.from_pretrained(
            rest, local_files_only=local, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:
        raise UserError(
            f"transformers cannot load a detector with safetensors weights from {rest} ({one_line(error)}); give a "
            "folder made by save_pretrained, or the name of a repository."
        ) from error
    if info["missing_keys"] or info["mismatched_keys"]:
        first = next(iter(info["missing_keys"] or info["mismatched_keys"]))
        raise UserError(f"The weights of {name} do not fit its config.json ({first}); save the detector again.")
    return model.float()


def _preprocessing(library: Any, rest: str, name: str, *, local: bool) -> dict[str, Any]:
    """What the image processor does, of its own json."""
    try:
        path = Path(rest) / PREPROCESSOR if local else Path(library.utils.cached_file(rest, PREPROCESSOR))
    except Exception as error:
        raise UserError(f"{name} has no {PREPROCESSOR} ({one_line(error)}); add its image processor's.") from error
    if not path.is_file():
        raise UserError(f"{name} has no {PREPROCESSOR}; save its image processor into the folder, too.")
    settings = read_json(path)
    if not isinstance(settings, dict) or (settings.get("do_normalize") and not _normalises(settings)):
        raise UserError(f"{path} does not say image_mean and image_std, three numbers each; save the processor again.")
    return settings


def _normalises(settings: dict[str, Any]) -> bool:
    values = [settings.get(key) for key in ("image_mean", "image_std")]
    return all(isinstance(value, list) and len(value) == 3 for value in values)


def _size_px(preprocessing: dict[str, Any], name: str) -> int:
    """Side of the square: the height and width the model was trained on, or the shorter side it resizes to."""
    size = preprocessing.get("size", DETECTOR_PX)
    if isinstance(size, int):
        return size
    keys = next((keys for keys in (("height", "width"), ("shortest_edge",)) if all(key in size for key in keys)), None)
    if keys is None:
        raise UserError(f"The size in {PREPROCESSOR} of {name} is {size}; give height and width, or shortest_edge.")
    return max(size[key] for key in keys)
