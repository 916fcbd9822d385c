"""`export:FILE.pt2`: a program of torch.export, opened without running anything that it could bring along."""

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from physadv.errors import UserError
from physadv.files import existing_file
from physadv.targets.adapters.columns import Layout, described
from physadv.targets.adapters.foreign import beside, classifier_of, detector_of, is_detection
from physadv.targets.base import Classifier, device_of, one_line
from physadv.targets.detector import Detector

UNBOUNDED = 2**31
# The members of an exported program that torch unpickles; the json ones are of its first format.
PICKLES = (".pt", "serialized_state_dict.json", "serialized_constants.json")


def export(rest: str, name: str) -> Classifier | Detector:
    """The program; a detector if the json beside it says so."""
    path = existing_file(rest)
    program = _opened(path)
    settings = beside(path)
    if is_detection(settings):
        settings, layout = described(settings, name)
        detector = ExportedBoxes(program, layout, name)
        return detector_of(detector, {"input_size": detector.input_size} | settings, name)
    module = Exported(program, name)
    return classifier_of(module, {"input_size": module.input_size} | settings, name)


def _opened(path: Path) -> ExportedProgram:
    _refuse_code(path)
    try:
        return torch.export.load(path)
    except Exception as error:
        raise UserError(
            f"torch {torch.__version__} cannot read {path} ({one_line(error)}); export it again with this version."
        ) from error


def _refuse_code(path: Path) -> None:
    """Refuse an archive in which `torch.export.load` would meet a pickle that can run code."""
    remedy = "is not loaded; export the module alone, with plain tensors"
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            for name in (name for name in names if name.endswith(PICKLES)):
                torch.load(io.BytesIO(archive.read(name)), weights_only=True)
            configs = [json.loads(archive.read(name)) for name in names if name.endswith("_config.json")]
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} contains pickled code and {remedy}.") from error
    except (zipfile.BadZipFile, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is no exported program ({one_line(error)}); use torch.export.save.") from error
    if not any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
        raise UserError(f"{path} is no exported program but a pickle or TorchScript; use torch.export.save.")
    if len(names) != len({name.lower() for name in names}) or not all(_plain(config) for config in configs):
        raise UserError(f"{path} contains pickled objects and {remedy}.")


def _plain(config: dict[str, Any]) -> bool:
    """Whether a table of contents names raw tensors only."""
    payloads = config["config"].values()
    return all(not one["use_pickle"] and one["path_name"].startswith(("weight_", "tensor_")) for one in payloads)


class Exported(nn.Module):
    """An exported program of one image batch; batches it was not exported for are split, or padded and cut."""

    def __init__(self, program: ExportedProgram, name: str) -> None:
        super().__init__()
        _refuse_training_mode(program, name)
        shape = _input_shape(program, name)
        self.check_outputs(len(program.graph_signature.user_outputs), name)
        self.program = program
        self.graph = program.module()
        self.fewest, self.most = _batch_limits(program, shape[0])
        self.input_size = int(shape[2])

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Any:
        (logits,) = self.answers(images)
        return logits

    def answers(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, ...]:
        """What the program returns for any number of images."""
        if self.fewest <= len(images) <= self.most:
            return _tuple(self.graph(images))
        parts = [self._padded(chunk) for chunk in images.split(self.most)]
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    def _padded(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, ...]:
        copies = max(self.fewest - len(images), 0)
        padded = torch.cat((images, images[-1:].detach().expand(copies, -1, -1, -1)))
        return tuple(answer[: len(images)] for answer in _tuple(self.graph(padded)))

    def to(self, device: torch.device | str) -> "Exported":  # type: ignore[override]
        """Devices are burnt into the graph, so moving the parameters would not do."""
        if device_of(self) != torch.device(device):
            self.program = move_to_device_pass(self.program, str(device))
            self.graph = self.program.module()
        return self

    def check_outputs(self, count: int, name: str) -> None:
        if count != 1:
            raise UserError(f"{name} returns {count} tensors; export a module that returns its logits alone.")


class ExportedBoxes(Exported):
    """An exported detector: one tensor with a column for every number of a box, or the boxes and their scores."""

    def __init__(self, program: ExportedProgram, layout: Layout, name: str) -> None:
        super().__init__(program, name)
        self.layout = layout

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
        return self.layout.boxes(self.answers(images))

    def check_outputs(self, count: int, name: str) -> None:
        if count not in (1, 2):
            raise UserError(f"{name} returns {count} tensors; export a detector that returns one, or boxes and scores.")


def _tuple(answer: Tensor | tuple[Tensor, ...] | list[Tensor]) -> tuple[Tensor, ...]:
    return (answer,) if isinstance(answer, Tensor) else tuple(answer)


def _input_shape(program: ExportedProgram, name: str) -> torch.Size:
    inputs = program.graph_signature.user_inputs
    if len(inputs) != 1:
        raise UserError(f"{name} must take the images alone; export such a module.")
    node = next(node for node in program.graph.nodes if node.name == inputs[0])
    value = node.meta["val"]
    if value.ndim != 4 or value.shape[1] != 3 or value.dtype != torch.float32:
        raise UserError(f"{name} takes {value.dtype} {tuple(value.shape)}; export it for float32 images (b, 3, h, w).")
    if value.shape[2] != value.shape[3]:
        raise UserError(f"{name} takes {value.shape[2]} x {value.shape[3]} px; export it for a square input.")
    return value.shape


def _batch_limits(program: ExportedProgram, size: int | torch.SymInt) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    limits = program.range_constraints[size.node.expr]
    return int(limits.lower), int(min(limits.upper, UNBOUNDED))


def _refuse_training_mode(program: ExportedProgram, name: str) -> None:
    for node in program.graph.nodes:
        norm = str(node.target) == "aten.batch_norm.default" and node.args[3] is not None and node.args[5]
        dropout = str(node.target) == "aten.dropout.default" and node.args[2]
        if norm or dropout:
            raise UserError(f"{name} was exported in training mode; call .eval() before torch.export.export.")
