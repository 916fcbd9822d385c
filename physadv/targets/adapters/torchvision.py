"""`torchvision:NAME`, `torchvision:NAME:WEIGHTS`: Faster R-CNN, RetinaNet, SSD and FCOS, decoded up to their NMS."""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from torch.nn.utils.rnn import pad_sequence

from physadv.errors import UserError
from physadv.files import existing_file, read_tensors
from physadv.targets.adapters.foreign import beside, detector_of, needed
from physadv.targets.adapters.names import slugs
from physadv.targets.base import one_line
from physadv.targets.detector import Detector

THRESHOLD = 0.5
OWN_BOXES = 20  # classes of a proposal that keep a box of their own: all that can have a score of 1/20
SMALLEST_PX = 0.01  # of a box that Faster R-CNN does not throw away
BoxesScores = tuple[Float[Tensor, "b k 4"], Float[Tensor, "b k c"]]


def torchvision(rest: str, name: str) -> Detector:
    """The detector NAME with the weights in a file, or with torchvision's own where they have been downloaded before.

    WEIGHTS: a state dict, .safetensors or .pth (read with weights_only). A json beside it may give its classes, without
    the background, and input_size, pad, threshold, nms_iou.
    """
    library = needed("torchvision", name, extra="torchvision")
    arch, _, file = rest.partition(":")
    known = library.models.list_models(module=library.models.detection)
    if arch not in known:
        near = [one for one in known if arch in one] or get_close_matches(arch, known, n=1)
        raise UserError(f"torchvision has no detector '{arch}'; it has {', '.join(near or known)}.")
    weights = library.models.get_model_weights(arch).DEFAULT
    settings = beside(existing_file(file)) if file else {}
    classes = settings.get("classes")
    if not isinstance(classes, list):
        classes = slugs(weights.meta["categories"])[1:]
    if file:
        with torch.random.fork_rng(devices=[]):
            model = library.models.get_model(arch, weights=None, weights_backbone=None, num_classes=len(classes) + 1)
        _fill(model, Path(file), arch, name)
    else:
        model = library.models.get_model(arch, weights=_downloaded(weights, arch, name))
    return of_model(model, {"classes": classes} | settings, name)


def of_model(model: Any, settings: dict[str, Any], name: str) -> Detector:
    """The detector around a model of torchvision.models.detection."""
    library = needed("torchvision", name, extra="torchvision")
    heads = getattr(model, "roi_heads", model)
    size = model.transform.fixed_size or (max(model.transform.min_size),)
    said = {"input_size": max(size), "threshold": THRESHOLD, "nms_iou": heads.nms_thresh}
    return detector_of(Undecided(model, library), said | settings, name)


class Undecided(nn.Module):
    """A torchvision detector up to its NMS: normalisation, backbone, heads, decoding. The images are not resized."""

    def __init__(self, model: Any, library: Any) -> None:
        super().__init__()
        self.model = model
        self.listed = library.models.detection.image_list.ImageList
        self.clipped = library.ops.clip_boxes_to_image
        self.decode = _decoder(model, library.models.detection)

    def forward(self, images: Float[Tensor, "b 3 s s"]) -> BoxesScores:
        transform = self.model.transform
        mean, std = (images.new_tensor(value)[:, None, None] for value in (transform.image_mean, transform.image_std))
        size = (images.shape[2], images.shape[3])
        batch = self.listed((images - mean) / std, [size] * len(images))
        features = self.model.backbone(batch.tensors)
        if isinstance(features, Tensor):
            features = OrderedDict([("0", features)])
        boxes, scores = self.decode(self.model, batch, features)
        return self.clipped(boxes, size), scores


def _decoder(model: Any, detection: Any) -> Callable[[Any, Any, dict[str, Tensor]], BoxesScores]:
    decoders = {detection.FasterRCNN: _proposals, detection.RetinaNet: _retina, detection.FCOS: _fcos}
    return next((decode for family, decode in decoders.items() if isinstance(model, family)), _ssd)


def _retina(model: Any, batch: Any, features: dict[str, Tensor]) -> BoxesScores:
    """Lin et al. 2017: a sigmoid per class at every anchor."""
    answer, anchors = _answer(model, batch, features)
    return _decoded(model, answer, anchors), answer["cls_logits"].sigmoid()[..., 1:]


def _ssd(model: Any, batch: Any, features: dict[str, Tensor]) -> BoxesScores:
    """Liu et al. 2016: a softmax over the classes and the background at every default box."""
    answer, anchors = _answer(model, batch, features)
    return _decoded(model, answer, anchors), answer["cls_logits"].softmax(-1)[..., 1:]


def _fcos(model: Any, batch: Any, features: dict[str, Tensor]) -> BoxesScores:
    """Tian et al. 2019: sqrt(sigmoid(class) · sigmoid(centreness)) at every point; in logarithms, for its gradient."""
    answer, anchors = _answer(model, batch, features)
    scores = ((logsigmoid(answer["cls_logits"]) + logsigmoid(answer["bbox_ctrness"])) / 2).exp()
    return model.box_coder.decode(answer["bbox_regression"], anchors), scores[..., 1:]


def _answer(model: Any, batch: Any, features: dict[str, Tensor]) -> tuple[dict[str, Tensor], Float[Tensor, "b k 4"]]:
    maps = list(features.values())
    return model.head(maps), torch.stack(model.anchor_generator(batch, maps))


def _decoded(model: Any, answer: dict[str, Tensor], anchors: Float[Tensor, "b k 4"]) -> Float[Tensor, "b k 4"]:
    codes = answer["bbox_regression"]
    return model.box_coder.decode_single(codes.reshape(-1, 4), anchors.reshape(-1, 4)).reshape(codes.shape)


def _proposals(model: Any, batch: Any, features: dict[str, Tensor]) -> BoxesScores:
    """Ren et al. 2015: the boxes of the second stage. Which proposals there are has no gradient; their answers have."""
    proposals, _ = model.rpn(batch, features)
    heads, counts = model.roi_heads, [len(one) for one in proposals]
    seen = heads.box_head(heads.box_roi_pool(features, proposals, batch.image_sizes))
    logits, codes = heads.box_predictor(seen)
    boxes = heads.box_coder.decode(codes, proposals)[:, 1:]
    scores = logits.softmax(-1)[:, 1:]
    side = batch.tensors.shape[-1]
    inside = boxes.clamp(0, side)
    scores = scores * ((inside[..., 2:] - inside[..., :2]) >= SMALLEST_PX).all(-1)
    rows = [own_boxes(*one) for one in zip(boxes.split(counts), scores.split(counts), strict=True)]
    return tuple(pad_sequence(list(column), batch_first=True) for column in zip(*rows, strict=True))  # type: ignore


def own_boxes(boxes: Float[Tensor, "r c 4"], scores: Float[Tensor, "r c"]) -> tuple[Tensor, Tensor]:
    """Boxes (k, 4) and scores (k, c) of proposals with a box for every class: one row each for the surest classes.

    The row of the surest class carries those classes, too, that have no row of their own.
    """
    most = min(OWN_BOXES, scores.shape[1])
    score, row = scores.topk(most)
    own = torch.zeros_like(scores)[:, None].repeat(1, most, 1).scatter(2, row[..., None], score[..., None])
    rest = scores.scatter(1, row, 0.0)
    own = torch.cat([own[:, :1] + rest[:, None], own[:, 1:]], 1)
    return boxes.gather(1, row[..., None].expand(-1, -1, 4)).flatten(0, 1), own.flatten(0, 1)


def _downloaded(weights: Any, arch: str, name: str) -> Any:
    """torchvision's own weights, if they lie where it would keep them: nothing is downloaded here."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not path.is_file():
        raise UserError(
            f"The weights of {name} are not on this machine; put {weights.url} into {path.parent}, or write "
            f"torchvision:{arch}:WEIGHTS."
        )
    return weights


def _fill(model: nn.Module, path: Path, arch: str, name: str) -> None:
    state = read_tensors(path)[0] if path.suffix == ".safetensors" else _unpickled(path)
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(
            f"The tensors in {path} do not fit {arch} ({one_line(error)}); if it has other classes than COCO's 90, "
            f"give them in {path.with_suffix('.json').name}."
        ) from error


def _unpickled(path: Path) -> Any:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"{path} is no state dict of plain tensors ({one_line(error)}); save one.") from error
    return state.get("model", state) if isinstance(state, dict) else state
