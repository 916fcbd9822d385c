"""`onnx:` FILE.onnx, answered by onnxruntime on the CPU: scores without gradients."""

import hashlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from physadv.errors import UserError
from physadv.files import existing_file
from physadv.targets.base import one_line

# Where tensors lie in a model: message -> number of the field -> message in it (onnx.proto3).
TENSORS = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
}
EXTERNAL, KEY, VALUE = 13, 1, 2  # TensorProto.external_data, and what a StringStringEntryProto holds
SILENT = 4
DETECTORS = "Detectors come as export: or python:, with their gradients."


class Scored(nn.Module):
    """An ONNX model of one image batch. Logits have no gradient; batches other than a fixed one are split and padded.

    input_size: px, None where the model leaves it open. weights_hash: of the file and the data files it names.
    Nothing that the file could bring along is run: the session knows the standard operators alone.
    """

    def __init__(self, path: Path, name: str) -> None:
        super().__init__()
        files = (path, *_data_files(path))
        self.session = _session(path, name)
        self.input, shape = _input(self.session, name)
        _check_output(self.session, name)
        self.batch = shape[0] if isinstance(shape[0], int) else None
        self.input_size = next((side for side in shape[2:] if isinstance(side, int)), None)
        self.weights_hash = _hash(files)
        # It holds nothing but says, as parameters do elsewhere, on which device images and logits are.
        self.register_buffer("here", torch.empty(0), persistent=False)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Tensor:
        chunks = (images,) if self.batch is None else images.split(self.batch)
        return torch.cat([self._answer(chunk) for chunk in chunks])

    def _answer(self, images: Float[Tensor, "b 3 h w"]) -> Tensor:
        missing = max((self.batch or 0) - len(images), 0)
        padded = torch.cat((images, images[-1:].expand(missing, -1, -1, -1))).detach().float().cpu().contiguous()
        (logits,) = self.session.run(None, {self.input: padded.numpy()})
        return torch.from_numpy(logits)[: len(images)].to(images.device)


def _session(path: Path, name: str) -> Any:
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise UserError(f"{name} needs onnxruntime ({one_line(error)}): pip install 'physadv[onnx]'.") from error
    runtime.disable_telemetry_events()
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = SILENT  # what it has to say comes as an exception
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # torch needs the cores in between
    try:
        return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = " ".join(str(error).partition("failed:")[2].split()) or one_line(error)
        raise UserError(
            f"onnxruntime {runtime.__version__} cannot read {path} ({reason[:200]}); export it again, with standard "
            "operators alone."
        ) from error


def _input(session: Any, name: str) -> tuple[str, list[int | str | None]]:
    """Name and shape (b, 3, h, w) of the only input; sides that are not numbers are open."""
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise UserError(f"{name} takes {_listed(inputs)}; export a model that takes the images alone.")
    shape, kind = inputs[0].shape, inputs[0].type
    if len(shape) != 4 or kind != "tensor(float)" or (isinstance(shape[1], int) and shape[1] != 3):
        raise UserError(f"{name} takes {kind} of shape {_shape(shape)}; export it for float32 images (b, 3, h, w).")
    if len({side for side in shape[2:] if isinstance(side, int)}) == 2:
        raise UserError(f"{name} takes {shape[2]} x {shape[3]} px; export it for a square input.")
    return inputs[0].name, shape


def _check_output(session: Any, name: str) -> None:
    outputs = session.get_outputs()
    if len(outputs) != 1:
        raise UserError(f"{name} returns {_listed(outputs)}; a classifier returns its logits alone. {DETECTORS}")
    shape, kind = outputs[0].shape, outputs[0].type
    if not kind.startswith("tensor(") or len(shape) not in (0, 2):  # 0: the shape is not said
        raise UserError(
            f"{name} returns {kind} of shape {_shape(shape)}; a classifier returns its logits alone, (b, classes). "
            f"{DETECTORS}"
        )


def _listed(values: list[Any]) -> str:
    return f"{len(values)} tensors ({', '.join(value.name for value in values)})"


def _shape(shape: list[int | str | None]) -> str:
    return f"({', '.join('?' if side is None else str(side) for side in shape)})"


def _hash(files: tuple[Path, ...]) -> str:
    """16 hex digits of the sha256 over the bytes of the files, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


# --- weights kept in files of their own


def _data_files(path: Path) -> tuple[Path, ...]:
    """The files beside the model that hold its tensors.

    onnxruntime opens whatever the model names, before 1.24 even outside the folder, so this looks first.
    """
    folder = path.parent.resolve()
    try:
        locations = sorted(set(_locations(memoryview(path.read_bytes()), "ModelProto")))
        files = tuple((folder / location).resolve() for location in locations)
    except (ValueError, IndexError, RecursionError) as error:
        raise UserError(f"{path} is no ONNX model, or is cut short; export or copy it again.") from error
    for location, file in zip(locations, files, strict=True):
        if not file.is_relative_to(folder):
            raise UserError(f"{path} wants to read {location}, which is not in its folder; put its data beside it.")
        existing_file(file)
    return files


def _locations(message: memoryview, kind: str) -> Iterator[str]:
    """Every path that the tensors of a message name."""
    for number, content in _fields(message):
        if kind == "TensorProto" and number == EXTERNAL:
            entry = {field: bytes(text) for field, text in _fields(content)}
            if entry.get(KEY) == b"location":
                yield entry.get(VALUE, b"").decode()
        elif number in TENSORS.get(kind, {}):
            yield from _locations(content, TENSORS[kind][number])


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of the fields that have a length: texts, packed numbers and messages (protobuf's encoding)."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if tag >= 2**32 or wire not in (
            0,
            1,
            2,
            5,
        ):  # of a longer tag protobuf drops the rest, and reads another number
            raise ValueError(f"{tag} is no tag")
        if wire == 2:
            size, at = _varint(message, at)
            yield number, message[at : at + size]
            at += size
        elif wire == 0:
            _, at = _varint(message, at)
        else:
            at += 8 if wire == 1 else 4
    if at > len(message):
        raise ValueError("cut short")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number that starts at `at`, seven bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number without end")
