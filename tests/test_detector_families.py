"""`hf:`, `torchvision:`, `ultralytics:`: what the library itself answers, with gradients, where the library imports."""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from physadv.errors import UserError
from physadv.targets.adapters.names import COCO_80
from physadv.targets.base import frozen
from physadv.targets.boxes import Raw, area
from physadv.targets.detector import Detector, suppress
from physadv.targets.spec import load_target

# These libraries warn of each other's deprecations, and ultralytics logs while it opens a file.
pytestmark = pytest.mark.filterwarnings("ignore")


def imported(name: str) -> Any:
    """The library; the test is skipped, with the reason, where it cannot be imported."""
    try:
        return importlib.import_module(name)
    except Exception as error:
        pytest.skip(f"{name} cannot be imported in this environment ({type(error).__name__}: {error})"[:300])


def pictures(count: int, side: int) -> Tensor:
    """Random pictures of 8 bit with detail of every size, so that a network says something else everywhere."""
    generator = torch.Generator().manual_seed(count)
    sizes = [size for size in (4, 8, 16, 32) if size <= side] + [side]
    layers = [torch.rand(count, 3, size, size, generator=generator) - 0.5 for size in sizes]
    whole = sum(nn.functional.interpolate(layer, (side, side), mode="bilinear") for layer in layers)
    return ((whole / 2 + 0.5).clamp(0, 1) * 255).round() / 255


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield


def roughened(model: nn.Module, amount: float = 0.15) -> nn.Module:
    """Weights moved at random: a fresh network says nearly the same everywhere, and would hide what is mixed up."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(amount * torch.randn_like(parameter))
    return model.eval()


def measured(model: nn.Module, run: Callable[[], object]) -> None:
    """Batch norms that know their inputs: without, an untrained network says the same everywhere."""
    model.eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.train()
            part.reset_running_stats()
            part.momentum = None
    with torch.no_grad():
        run()
    model.eval()


def tamed(layers: dict[nn.Module, float], run: Callable[[], object]) -> None:
    """Last layers whose outputs have the given deviation: neither all the same nor all saturated; and a bias of it."""

    first: dict[nn.Module, Tensor] = {}

    def keep(layer: nn.Module, _: object, out: Tensor) -> None:
        first.setdefault(layer, out)

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    with torch.no_grad():
        run()
        for layer, out in first.items():
            layer.weight *= layers[layer] / (out - layer.bias.reshape(-1, *[1] * (out.ndim - 2))).std()
            layer.bias.copy_(layers[layer] * torch.rand_like(layer.bias))
    for hook in hooks:
        hook.remove()


def assert_differentiable_and_frozen(detector: Detector, images: Tensor) -> None:
    before = {name: value.clone() for name, value in detector.module.state_dict().items()}
    inputs = images.clone().requires_grad_()
    with frozen(detector.module):
        raw = detector(inputs)
        for part in (raw.scores, raw.boxes):
            (grad,) = torch.autograd.grad(part.sum(), inputs, retain_graph=True)
            assert torch.isfinite(grad).all()
            assert (grad.abs().sum((1, 2, 3)) > 0).all()
    after = detector.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def surest(raw: Raw, count: int) -> float:
    """A score that so many pairs of box and class exceed, halfway to the next."""
    scores = raw.scores.flatten().topk(min(count + 1, raw.scores.numel())).values
    return max(float(scores[-2:].mean()), 0.0101)


def assert_same_detections(found: Raw, detector: Detector, expected: list[dict[str, Tensor]], *, above: float) -> None:
    """After NMS, those of some area and surer than `above`: each has its twin (0.02 px, 1e-4), in any order."""
    mine = suppress(found, detector.nms_iou)
    pairs = 0
    for row, theirs in enumerate(expected):
        tables = [
            torch.cat([boxes / 0.02, scores[:, None] / 1e-4, labels[:, None] / 0.5], 1)[
                (scores > above) & (area(boxes) > 0)
            ]
            for boxes, scores, labels in (
                (mine.boxes[row], mine.scores[row], mine.labels[row]),
                (theirs["boxes"], theirs["scores"], theirs["labels"]),
            )
        ]
        assert len(tables[0]) == len(tables[1])
        if len(tables[0]):
            distance, twin = torch.cdist(tables[0], tables[1], p=torch.inf).min(1)
            assert distance.max() < 1
            assert len(twin.unique()) == len(twin)
        pairs += len(tables[0])
    assert pairs >= 8


# --- hf:

NAMES = {0: "Stop Sign", 1: "N/A", 2: "traffic light", 3: "N/A"}
SLUGS = ("stop-sign", "n-a-1", "traffic-light", "n-a-3")
SIDE = 64


def _resnet(library: Any) -> Any:
    return library.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, layer_type="basic", out_features=["stage4"]
    )


def _transformer() -> dict[str, Any]:
    return {
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "num_queries": 12,
    }


def _detr(library: Any, kind: str) -> Any:
    backbone = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    config = getattr(library, f"{kind}Config")
    return config(backbone_config=_resnet(library), id2label=NAMES, **backbone, **_transformer())


def _rt_detr(library: Any, kind: str) -> Any:
    backbone = library.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1] * 4,
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    return getattr(library, f"{kind}Config")(
        backbone_config=backbone,
        encoder_hidden_dim=32,
        encoder_in_channels=[8, 16, 16],
        decoder_in_channels=[32, 32, 32],
        hidden_expansion=0.5,
        num_denoising=0,
        id2label=NAMES,
        **_transformer(),
    )


def _yolos(library: Any, kind: str) -> Any:
    return getattr(library, f"{kind}Config")(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[SIDE, SIDE],
        num_detection_tokens=12,
        id2label=NAMES,
    )


HF = {
    "RTDetrV2": (_rt_detr, "RTDetr"),
    "RTDetr": (_rt_detr, "RTDetr"),
    "Detr": (_detr, "Detr"),
    "ConditionalDetr": (_detr, "ConditionalDetr"),
    "Yolos": (_yolos, "Yolos"),
}


def hf_saved(folder: Path, kind: str) -> tuple[Any, Any]:
    """A tiny model of the family and its image processor, saved into the folder."""
    library = imported("transformers")
    make, processor = HF[kind]
    model = getattr(library, f"{kind}ForObjectDetection")(make(library, kind))
    square = kind.startswith("RT")
    size = {"height": SIDE, "width": SIDE} if square else {"shortest_edge": SIDE, "longest_edge": SIDE}
    reader = getattr(library, f"{processor}ImageProcessor")(size=size)
    roughened(model).save_pretrained(folder)
    reader.save_pretrained(folder)
    return model, reader


def hf_expected(model: Any, reader: Any, images: Tensor, **options: Any) -> list[dict[str, Tensor]]:
    """The library's own way: processor, model, post-processing; every query, surest first."""
    levels = [(image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy() for image in images]
    with torch.no_grad():
        answer = model(**reader(levels, return_tensors="pt"))
    sizes = [(SIDE, SIDE)] * len(images)
    found = reader.post_process_object_detection(answer, threshold=0.0, target_sizes=sizes, **options)
    orders = [one["scores"].argsort(descending=True) for one in found]
    return [{key: value[order] for key, value in one.items()} for one, order in zip(found, orders, strict=True)]


@pytest.mark.parametrize("kind", HF)
def test_hf_answers_what_its_library_answers(tmp_path: Path, kind: str) -> None:
    model, reader = hf_saved(tmp_path, kind)
    detector = load_target(f"hf:{tmp_path}")
    assert isinstance(detector, Detector)
    assert (detector.classes, detector.frame.size_px, detector.nms_iou) == (SLUGS, SIDE, None)
    images = pictures(2, SIDE)
    expected = hf_expected(model, reader, images)
    with torch.no_grad():
        raw = detector(images)
    assert raw.scores.shape == (2, 12, 4)
    if kind in ("Detr", "Yolos"):  # one class per query
        best, label = raw.scores.max(2)
        raw = Raw(raw.boxes, raw.scores * nn.functional.one_hot(label, 4))
        assert (best.std(1) > 0).all()
    assert_same_detections(raw, detector, expected, above=surest(raw, 12))


@pytest.mark.parametrize("kind", HF)
def test_hf_gives_gradients_and_stays_as_it_is(tmp_path: Path, kind: str) -> None:
    hf_saved(tmp_path, kind)
    assert_differentiable_and_frozen(load_target(f"hf:{tmp_path}"), pictures(2, SIDE))


def test_hf_takes_its_settings_from_a_json_of_ours(tmp_path: Path) -> None:
    hf_saved(tmp_path, "Yolos")
    (tmp_path / "physadv.json").write_text(json.dumps({"input_size": 96, "threshold": 0.7, "classes": list("abcd")}))
    detector = load_target(f"hf:{tmp_path}")
    assert (detector.frame.size_px, detector.threshold, detector.classes) == (96, 0.7, ("a", "b", "c", "d"))


def test_hf_says_what_is_wrong(tmp_path: Path) -> None:
    imported("transformers")
    with pytest.raises(UserError, match="cannot load a detector with safetensors weights"):
        load_target(f"hf:{tmp_path}")
    hf_saved(tmp_path, "Yolos")
    preprocessor = tmp_path / "preprocessor_config.json"
    said = json.loads(preprocessor.read_text())
    for change, message in (
        ({"size": {"max_width": 3}}, "give height and width"),
        ({"image_mean": None}, "image_mean"),
    ):
        preprocessor.write_text(json.dumps(said | change))
        with pytest.raises(UserError, match=message):
            load_target(f"hf:{tmp_path}")
    preprocessor.unlink()
    with pytest.raises(UserError, match="has no preprocessor_config"):
        load_target(f"hf:{tmp_path}")
    save_file({"other": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="do not fit its config"):
        load_target(f"hf:{tmp_path}")


# --- torchvision:

TV = {
    "fasterrcnn_mobilenet_v3_large_fpn": 192,
    "fasterrcnn_resnet50_fpn_v2": 128,
    "retinanet_resnet50_fpn": 96,
    "fcos_resnet50_fpn": 96,
    "ssd300_vgg16": 300,
    "ssdlite320_mobilenet_v3_large": 320,
}
THREE = ["stop", "yield", "no-entry"]


def tv_model(name: str) -> Any:
    """An untrained model for three classes and the background, its last layers loud enough to have an opinion."""
    library = imported("torchvision")
    model = library.models.get_model(name, weights=None, weights_backbone=None, num_classes=4).eval()
    measured(model, lambda: model(list(pictures(4, TV[name]))))
    head = model.roi_heads.box_predictor if hasattr(model, "roi_heads") else model.head
    last = [
        (part, layer) for part, layer in head.named_modules() if any(key in part for key in ("cls", "bbox", "list"))
    ]
    layers = {layer: 1.5 if "cl" in part else 0.3 for part, layer in last if getattr(layer, "bias", None) is not None}
    if model.transform.fixed_size is None:
        model.transform.min_size, model.transform.max_size = (TV[name],), TV[name]
    tamed(layers, lambda: model(list(pictures(2, TV[name]))))
    return model


def tv_loaded(name: str, folder: Path, *, suffix: str = "safetensors") -> tuple[Any, Detector]:
    """The model, made to leave images of the test's size as they are, and the detector loaded from its weights."""
    model, side = tv_model(name), TV[name]
    if suffix == "safetensors":
        save_file(model.state_dict(), folder / "weights.safetensors")
    else:
        torch.save({"model": model.state_dict(), "epoch": 3}, folder / "weights.pth")
    (folder / "weights.json").write_text(json.dumps({"classes": THREE, "input_size": side}))
    detector = load_target(f"torchvision:{name}:{folder / 'weights'}.{suffix}")
    assert isinstance(detector, Detector)
    return model, detector


@pytest.mark.parametrize("name", TV)
def test_torchvision_answers_what_its_library_answers(tmp_path: Path, name: str) -> None:
    model, detector = tv_loaded(name, tmp_path)
    assert (detector.classes, detector.frame.size_px) == (tuple(THREE), TV[name])
    images = pictures(2, TV[name])
    with torch.no_grad():
        raw = detector(images)
        above = max(surest(raw, 90), 0.051)
        heads = getattr(model, "roi_heads", model)
        heads.score_thresh, heads.detections_per_img = above, 1000
        expected = model(list(images))
    for one in expected:
        one["labels"] = one["labels"] - 1
        rows = one["labels"] >= 0  # RetinaNet and FCOS have a background row, which no training ever turns on
        one.update({key: value[rows] for key, value in one.items()})
    assert_same_detections(raw, detector, expected, above=above)


@pytest.mark.parametrize("name", TV)
def test_torchvision_gives_gradients_and_stays_as_it_is(tmp_path: Path, name: str) -> None:
    _, detector = tv_loaded(name, tmp_path, suffix="pth")
    assert_differentiable_and_frozen(detector, pictures(2, TV[name]))


def test_torchvision_knows_the_classes_of_coco(tmp_path: Path) -> None:
    library = imported("torchvision")
    name = "ssdlite320_mobilenet_v3_large"
    torch.save(library.models.get_model(name, weights=None, weights_backbone=None).state_dict(), tmp_path / "w.pth")
    detector = load_target(f"torchvision:{name}:{tmp_path / 'w.pth'}")
    assert len(detector.classes) == 90
    assert [known for known in detector.classes if not known.startswith("n-a-")] == list(COCO_80)
    assert detector.classes.index("stop-sign") == 12


def test_torchvision_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported("torchvision")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        UserError, match=r"not on this machine; put https://.*ssdlite320_mobilenet.*torchvision:ssdlite320"
    ):
        load_target("torchvision:ssdlite320_mobilenet_v3_large")
    with pytest.raises(UserError, match=r"no detector 'fcos'; it has fcos_resnet50_fpn"):
        load_target("torchvision:fcos")
    with pytest.raises(UserError, match=r"none\.pth does not exist"):
        load_target("torchvision:fcos_resnet50_fpn:none.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="do not fit"):
        load_target(f"torchvision:ssdlite320_mobilenet_v3_large:{tmp_path / 'a.pth'}")
    torch.save(nn.Linear(1, 1), tmp_path / "code.pth")
    with pytest.raises(UserError, match="no state dict of plain tensors"):
        load_target(f"torchvision:ssdlite320_mobilenet_v3_large:{tmp_path / 'code.pth'}")


# --- ultralytics:

UNSUPPRESSED = ("yolov10n", "yolo26n")
YOLO = ("yolov5n", "yolov8n", "yolov9t", "yolo11n", *UNSUPPRESSED)
YOLO_SIDE = 96


def yolo_saved(plan: str, folder: Path) -> Any:
    """A small network of the plan, untrained but opinionated, in FOLDER/mine.pt; its module as the library has it."""
    library = imported("ultralytics")
    yolo = library.YOLO(f"{plan}.yaml", task="detect")
    yolo.model.names = dict(enumerate(["Stop Sign", *(f"thing {row}" for row in range(1, 80))]))
    measured(yolo.model, lambda: yolo.model(pictures(4, YOLO_SIDE)))
    head = yolo.model.model[-1]
    layers = {
        part: 1.5
        for name, part in head.named_modules()
        if "cv3" in name and isinstance(part, nn.Conv2d) and part.bias is not None
    }
    tamed(layers, lambda: yolo.model(pictures(2, YOLO_SIDE)))
    yolo.model.model[-1].end2end = plan in UNSUPPRESSED
    yolo.save(folder / "mine.pt")
    (folder / "mine.json").write_text(json.dumps({"input_size": YOLO_SIDE}))
    return library.YOLO(folder / "mine.pt").model.float().eval()


def yolo_detections(table: Tensor, detector: Detector, *, above: float) -> list[dict[str, Tensor]]:
    """By the library's own NMS, or, where it needs none, its top 300."""
    if table.shape[-1] == 6:
        rows = list(table)
    else:
        nms = imported("ultralytics.utils.nms").non_max_suppression
        rows = nms(table, above, detector.nms_iou, multi_label=True, max_det=100, max_nms=1000)
    columns = ({"boxes": row[:, :4], "scores": row[:, 4], "labels": row[:, 5].long()} for row in rows)
    return [{key: value[one["scores"] > above] for key, value in one.items()} for one in columns]


@pytest.mark.parametrize("plan", YOLO)
def test_ultralytics_answers_what_its_library_answers(tmp_path: Path, plan: str) -> None:
    model = yolo_saved(plan, tmp_path)
    detector = load_target(f"ultralytics:{tmp_path / 'mine.pt'}")
    assert isinstance(detector, Detector)
    assert detector.classes[:2] == ("stop-sign", "thing-1")
    assert (detector.frame.size_px, detector.nms_iou) == (YOLO_SIDE, None if plan in UNSUPPRESSED else 0.7)
    images = pictures(2, YOLO_SIDE)
    with torch.no_grad():
        raw = detector(images)
        table = model(images)[0]
    assert raw.scores.shape == (2, sum((YOLO_SIDE // stride) ** 2 for stride in (8, 16, 32)), 80)
    above = surest(raw, 90)
    assert_same_detections(raw, detector, yolo_detections(table, detector, above=above), above=above)


@pytest.mark.parametrize("plan", YOLO)
def test_ultralytics_gives_gradients_and_stays_as_it_is(tmp_path: Path, plan: str) -> None:
    yolo_saved(plan, tmp_path)
    assert_differentiable_and_frozen(load_target(f"ultralytics:{tmp_path / 'mine.pt'}"), pictures(2, YOLO_SIDE))


def test_ultralytics_builds_a_plan_without_weights_always_the_same() -> None:
    imported("ultralytics")
    first, second = (load_target("ultralytics:yolo11n.yaml") for _ in range(2))
    assert first.weights_hash == second.weights_hash
    assert (first.frame.size_px, first.classes[79]) == (640, "class-79")


def test_ultralytics_says_what_is_wrong(tmp_path: Path) -> None:
    imported("ultralytics")
    (tmp_path / "text.pt").write_text("no weights")
    for spec, message in (
        ("yolo11n.onnx", "neither weights nor a plan"),
        ("none.pt", "does not exist"),
        (str(tmp_path / "text.pt"), "cannot open"),
        ("nowhere.yaml", "cannot open"),
        ("rtdetr-l.yaml", "no YOLO for boxes"),
        ("yolo11n-seg.yaml", "no YOLO for boxes"),
    ):
        with pytest.raises(UserError, match=message):
            load_target(f"ultralytics:{spec}")


# --- where the library is not there


@pytest.mark.parametrize(
    ("spec", "library"),
    [("hf:x", "transformers"), ("torchvision:x", "torchvision"), ("ultralytics:x.yaml", "ultralytics")],
)
def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, spec: str, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf"needs {library}.*pip install 'physadv\["):
        load_target(spec)
