"""`onnx:`: the scores of the torch module it came from, no gradient, no file or code from elsewhere."""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from physadv.errors import UserError
from physadv.evaluation import accuracy
from physadv.scenes.classes import GTSRB
from physadv.scenes.spec import load_scenes
from physadv.targets.base import Frame, device_of
from physadv.targets.fake import fake_classifier
from physadv.targets.onnx import EXTERNAL, TENSORS
from physadv.targets.spec import load_target
from physadv.transforms.world import load_world

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'physadv[onnx]'")
onnx = pytest.importorskip("onnx", reason="onnx is not installed: it writes the models of these tests")
FLOAT, INT = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64

CLASSES = 3
POOL = [("ReduceMean", ["images"], ["pooled"], {"axes": [2, 3], "keepdims": 0})]
LINEAR = [*POOL, ("Gemm", ["pooled", "weight", "bias"], ["logits"], {"transB": 1})]


@pytest.fixture
def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, CLASSES))


def images(count: int, size_px: int = 16) -> Tensor:
    return torch.rand(count, 3, size_px, size_px, generator=torch.Generator().manual_seed(count))


def save(
    path: Path,
    nodes: list[tuple[str, list[str], list[str], dict[str, Any]]],
    weights: dict[str, Tensor],
    *,
    takes: tuple[Any, ...] = ("b", 3, 16, 16),
    returns: tuple[Any, ...] | None = ("b", CLASSES),
    kind: int = FLOAT,
    gives: int | None = FLOAT,
) -> str:
    """Writes a model by hand; returns its spec."""
    helper = onnx.helper
    made = [helper.make_node(name, inputs, outputs, **more) for name, inputs, outputs, more in nodes]
    tensors = [onnx.numpy_helper.from_array(value.detach().numpy(), name) for name, value in weights.items()]
    given = helper.make_tensor_value_info("images", kind, takes)
    answer = helper.make_tensor_value_info("logits", gives, returns) if gives else _sequence()
    graph = helper.make_graph(made, "graph", [given], [answer], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return f"onnx:{path}"


def _sequence() -> Any:
    return onnx.helper.make_tensor_sequence_value_info("logits", FLOAT, None)


def save_net(net: nn.Sequential, path: Path, *, batch: int | str = "b", side: int | str = 16) -> str:
    nodes = [
        ("Conv", ["images", "0.weight", "0.bias"], ["conv"], {}),
        ("Relu", ["conv"], ["relu"], {}),
        ("Flatten", ["relu"], ["flat"], {}),
        ("Gemm", ["flat", "3.weight", "3.bias"], ["logits"], {"transB": 1}),
    ]
    return save(path, nodes, net.state_dict(), takes=(batch, 3, side, side), returns=(batch, CLASSES))


def save_linear(path: Path, weight: Tensor | None = None, **more: Any) -> str:
    weight = torch.eye(CLASSES) if weight is None else weight
    return save(path, LINEAR, {"weight": weight, "bias": torch.zeros(len(weight))}, **more)


@pytest.mark.parametrize("batch", ["b", 1, 4])
@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_its_scores_are_those_of_the_torch_module(
    net: nn.Sequential, tmp_path: Path, batch: int | str, count: int
) -> None:
    classifier = load_target(save_net(net, tmp_path / "net.onnx", batch=batch))
    inputs = images(count).to(memory_format=torch.channels_last).requires_grad_()
    logits = classifier(inputs)
    torch.testing.assert_close(logits, net(images(count)).detach())
    assert not logits.requires_grad


def test_only_scores_can_be_had_of_it(net: nn.Sequential, tmp_path: Path) -> None:
    classifier = load_target(save_net(net, tmp_path / "net.onnx"))
    assert not classifier.differentiable
    assert not classifier.to("cpu").differentiable
    assert fake_classifier().differentiable


def test_the_hash_is_that_of_the_file(net: nn.Sequential, tmp_path: Path) -> None:
    classifier = load_target(save_net(net, tmp_path / "net.onnx"))
    digest = hashlib.sha256((tmp_path / "net.onnx").read_bytes()).hexdigest()
    assert classifier.weights_hash == digest[:16]


def test_it_moves_in_name_with_its_device(net: nn.Sequential, tmp_path: Path) -> None:
    """The session stays on the CPU; images and logits are where everything else is."""
    classifier = load_target(save_net(net, tmp_path / "net.onnx"))
    assert device_of(classifier.module.to("meta")) == torch.device("meta")
    assert classifier.module.state_dict() == {}
    with pytest.raises(UserError, match="nonsense"):
        load_target(f"onnx:{tmp_path / 'net.onnx'}", device="nonsense")


def test_it_knows_its_size_and_the_json_beside_it_the_rest(net: nn.Sequential, tmp_path: Path) -> None:
    spec = save_net(net, tmp_path / "net.onnx")
    assert load_target(spec).frame == Frame(16, 0.1)
    assert load_target(spec).classes == ("class-0", "class-1", "class-2")
    (tmp_path / "net.json").write_text(json.dumps({"classes": ["stop", "yield", "danger"], "context": 0.25}))
    assert load_target(spec).frame == Frame(16, 0.25)
    assert load_target(spec).classes == ("stop", "yield", "danger")


def test_an_open_size_is_said_by_the_json(net: nn.Sequential, tmp_path: Path) -> None:
    pooled = save_linear(tmp_path / "pooled.onnx", takes=(None, 3, None, None))
    assert load_target(pooled).frame.size_px == 64
    spec = save_net(net, tmp_path / "net.onnx", side="side")
    with pytest.raises(UserError, match=r"fails on images of shape \(2, 3, 64, 64\)"):
        load_target(spec)
    (tmp_path / "net.json").write_text('{"input_size": 16}')
    assert load_target(spec).frame.size_px == 16


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1]", "must hold an object"), ('{"classes": ["a", "b"]}', "3 logits but names 2"), ('{"input_size": 20}', "20")],
)
def test_a_wrong_json_beside_it_is_refused(net: nn.Sequential, tmp_path: Path, text: str, message: str) -> None:
    spec = save_net(net, tmp_path / "net.onnx")
    (tmp_path / "net.json").write_text(text)
    with pytest.raises(UserError, match=message):
        load_target(spec)


@pytest.mark.parametrize(
    ("takes", "kind", "message"),
    [
        (("b", 16, 16, 3), FLOAT, r"of shape \(b, 16, 16, 3\); .* \(b, 3, h, w\)"),
        (("b", 1, 16, 16), FLOAT, r"\(b, 1, 16, 16\)"),
        (("b", 3, 16), FLOAT, r"\(b, 3, 16\)"),
        (("b", 3, 16, 24), FLOAT, "square input"),
        (("b", 3, 16, 16), onnx.TensorProto.DOUBLE, r"takes tensor\(double\)"),
    ],
)
def test_what_takes_no_square_images_is_refused(
    tmp_path: Path, takes: tuple[Any, ...], kind: int, message: str
) -> None:
    nodes = [("Identity", ["images"], ["logits"], {})]
    with pytest.raises(UserError, match=message):
        load_target(save(tmp_path / "odd.onnx", nodes, {}, takes=takes, kind=kind, returns=takes, gives=kind))


@pytest.mark.parametrize(
    ("last", "returns", "gives", "message"),
    [
        (("Unsqueeze", ["pooled", "one"], ["logits"], {}), ("b", 1, 3), FLOAT, r"tensor\(float\) of shape \(b, 1, 3\)"),
        (("Unsqueeze", ["pooled", "one"], ["logits"], {}), None, FLOAT, r"\(b, 1, 3\); a classifier"),
        (("ArgMax", ["pooled"], ["logits"], {"axis": 1}), ("b", 1), INT, "returns torch.int64 values"),
        (("Log", ["negative"], ["logits"], {}), ("b", 3), FLOAT, "NaN or infinite"),
        (("SplitToSequence", ["pooled"], ["logits"], {}), None, None, r"returns seq\(tensor\(float\)\)"),
    ],
)
def test_what_returns_no_logits_is_refused(
    tmp_path: Path, last: Any, returns: tuple[Any, ...] | None, gives: int | None, message: str
) -> None:
    nodes = [*POOL, ("Neg", ["pooled"], ["negative"], {}), last]
    spec = save(tmp_path / "odd.onnx", nodes, {"one": torch.tensor([1])}, returns=returns, gives=gives)
    with pytest.raises(UserError, match=message):
        load_target(spec)


def test_an_output_that_does_not_say_its_shape_is_tried(tmp_path: Path) -> None:
    spec = save(tmp_path / "open.onnx", [*POOL, ("Squeeze", ["pooled"], ["logits"], {})], {}, returns=None)
    assert len(load_target(spec).classes) == 3


def test_one_tensor_in_and_one_out(tmp_path: Path) -> None:
    model = onnx.load(save_linear(tmp_path / "good.onnx").removeprefix("onnx:"))
    more = onnx.helper.make_tensor_value_info("pooled", FLOAT, ("b", 3))
    for values, name, message in (
        (model.graph.output, "two.onnx", r"returns 2 tensors \(logits, pooled\)"),
        (model.graph.input, "both.onnx", r"takes 2 tensors \(images, other\)"),
    ):
        values.append(more)
        (tmp_path / name).write_bytes(model.SerializeToString())
        values.pop()
        more.name = "other"
        with pytest.raises(UserError, match=message):
            load_target(f"onnx:{tmp_path / name}")


def test_a_size_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 8 px"):
        load_target(save_linear(tmp_path / "small.onnx", takes=("b", 3, 4, 4)))


def test_what_is_no_model_is_refused(net: nn.Sequential, tmp_path: Path) -> None:
    save_net(net, tmp_path / "net.onnx")
    whole = (tmp_path / "net.onnx").read_bytes()
    for content in (
        b"no model at all",
        b"",
        whole[:-5],
        whole[: len(whole) // 2],
        b"\xff" * 40,
        b"\x0a\xff\xff\xff\x7f",
    ):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.onnx (is no ONNX model|\(No graph)"):
            load_target(f"onnx:{tmp_path / 'bad.onnx'}")
    with pytest.raises(UserError, match=r"did you mean onnx:net\.onnx"):
        load_target("net.onnx")
    with pytest.raises(UserError, match=r"none\.onnx does not exist"):
        load_target("onnx:none.onnx")


def test_operators_of_somebody_else_are_refused(tmp_path: Path) -> None:
    nodes = [("Mine", ["images"], ["logits"], {"domain": "com.mine"})]
    with pytest.raises(UserError, match=r"cannot read .*standard operators"):
        load_target(save(tmp_path / "mine.onnx", nodes, {}))


def test_without_onnxruntime_the_message_says_what_to_install(
    net: nn.Sequential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = save_net(net, tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'physadv\[onnx\]'"):
        load_target(spec)


def test_it_uses_as_many_threads_as_torch(net: nn.Sequential, tmp_path: Path) -> None:
    options = load_target(save_net(net, tmp_path / "net.onnx")).module.session.get_session_options()
    assert options.intra_op_num_threads == torch.get_num_threads()
    assert options.inter_op_num_threads == 1


# --- weights kept in files of their own


@pytest.fixture
def external(tmp_path: Path) -> Callable[[str], str]:
    """A linear model whose weights lie in `mine/weights` or `weights`, and which says that they lie in `location`."""
    (tmp_path / "mine").mkdir()
    for folder in (tmp_path, tmp_path / "mine"):
        (folder / "weights").write_bytes(torch.eye(CLASSES).numpy().tobytes())

    def write(location: str) -> str:
        model = onnx.load(save_linear(tmp_path / "mine" / "net.onnx").removeprefix("onnx:"))
        weight = model.graph.initializer[0]
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)
        (tmp_path / "mine" / "net.onnx").write_bytes(model.SerializeToString())
        return f"onnx:{tmp_path / 'mine' / 'net.onnx'}"

    return write


def test_weights_beside_the_model_are_read_and_hashed(external: Callable[[str], str], tmp_path: Path) -> None:
    before = load_target(external("weights"))
    torch.testing.assert_close(before(images(2)), images(2).mean((2, 3)))
    (tmp_path / "mine" / "weights").write_bytes((2 * torch.eye(CLASSES)).numpy().tobytes())
    after = load_target(external("weights"))
    torch.testing.assert_close(after(images(2)), 2 * images(2).mean((2, 3)))
    assert after.weights_hash != before.weights_hash


def test_weights_elsewhere_are_refused_before_onnxruntime_sees_them(
    external: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: pytest.fail("opened"))
    (tmp_path / "mine" / "link").symlink_to(tmp_path / "weights")
    for location in ("../weights", str(tmp_path / "weights"), "link", "x/../../weights"):
        with pytest.raises(UserError, match="not in its folder"):
            load_target(external(location))
    for location in ("none", "", "*/_ORT_MEM_ADDR_/*"):
        with pytest.raises(UserError, match=r"does not exist|not a file"):
            load_target(external(location))
    with pytest.raises(UserError, match="no ONNX model"):
        load_target(external("weights\0"))


def test_no_place_where_a_tensor_can_stand_is_forgotten() -> None:
    """Against onnx's own description of the format: every field through which a tensor can be reached."""

    def inner(message: Any) -> dict[int, Any]:
        return {field.number: field.message_type for field in message.fields if field.message_type}

    def reaches(message: Any, seen: tuple[str, ...] = ()) -> bool:
        if message.name == "TensorProto":
            return True
        return message.name not in seen and any(
            reaches(field, (*seen, message.name)) for field in inner(message).values()
        )

    found, left = {}, [onnx.ModelProto.DESCRIPTOR]
    while left:
        message = left.pop()
        if message.name not in found and message.name != "TensorProto":
            fields = {number: field for number, field in inner(message).items() if reaches(field)}
            found[message.name] = {number: field.name for number, field in fields.items()}
            left += fields.values()
    assert found == TENSORS
    assert onnx.TensorProto.DESCRIPTOR.fields_by_name["external_data"].number == EXTERNAL


# --- in use


def test_clean_views_are_judged_as_with_the_torch_module(tmp_path: Path) -> None:
    double = fake_classifier()
    directions = double.module.directions
    nodes = [*POOL, ("Gemm", ["pooled", "weight", "bias"], ["logits"], {"transB": 1})]
    weights = {"weight": 20 * directions, "bias": -10 * directions.sum(1)}
    spec = save(tmp_path / "fake.onnx", nodes, weights, takes=(8, 3, 32, 32), returns=(8, len(GTSRB)))
    classifier = load_target(spec)
    assert classifier.classes == GTSRB
    scenes, world = load_scenes("staged:stop,yield"), load_world("drive-by")
    assert accuracy(classifier, scenes, world, seed=0).k == accuracy(double, scenes, world, seed=0).k


def test_a_real_detector_is_no_classifier(data: Path) -> None:
    with pytest.raises(UserError, match=r"returns tensor\(float\) of shape \(1, 3549, 85\); a classifier returns"):
        load_target(f"onnx:{data / 'models' / 'yolox_nano_coco_416.onnx'}")
