"""`kind:rest` -> Classifier: how anybody's own model gets in."""

import hashlib
import importlib.util
import io
import json
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from physadv import ASSETS
from physadv.errors import UserError
from physadv.files import existing_file, read_json
from physadv.scenes.classes import GTSRB
from physadv.targets.base import Classifier, Frame, check_logits, device_of, one_line, probe, set_eval, weights_hash
from physadv.targets.models import read_classifier
from physadv.targets.onnx import Scored

DEFAULT_PX, DEFAULT_CONTEXT = 64, 0.1
BUILTIN = {"gtsrb": "43 German traffic signs (GTSRB), a small VGG-like network"}
UNBOUNDED = 2**31
# The members of an exported program that torch unpickles; the json ones are of its first format.
PICKLES = (".pt", "serialized_state_dict.json", "serialized_constants.json")


def load_target(spec: str, *, device: torch.device | str = "cpu") -> Classifier:
    """The classifier that `spec` names, in evaluation mode on `device`, tried on two grey images.

    Errors: UserError for an unknown kind, a missing file, a factory that fails, or an output that is no logits.
    """
    kind, _, rest = spec.partition(":")
    if kind not in KINDS or not rest:
        raise UserError(f"'{spec}' is no target: {_hint(kind, rest)}")
    classifier = KINDS[kind](rest, spec)
    try:
        return classifier.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"{spec} cannot be moved to the device '{device}' ({one_line(error)}); try cpu.") from error


def _hint(kind: str, rest: str) -> str:
    if kind in KINDS:
        return f"write what comes after '{kind}:', as in {EXAMPLES[kind]}."
    by_suffix = {".py": "python", ".pt2": "export", ".onnx": "onnx", ".safetensors": "safetensors"}
    guess = by_suffix.get(Path(kind).suffix) or ("builtin" if kind in BUILTIN else None)
    if guess:
        return f"did you mean {guess}:{kind}{':' + rest if rest else ''}?"
    near = get_close_matches(kind, KINDS, n=1)
    return (f"did you mean {near[0]}:{rest}? " if near else "") + f"The kinds are {', '.join(EXAMPLES.values())}."


def list_targets() -> tuple[tuple[str, str], ...]:
    """(spec, what it is): first the shipped targets, then the kinds of one's own."""
    shipped = tuple((f"builtin:{name}", text) for name, text in BUILTIN.items())
    return (
        *shipped,
        (EXAMPLES["python"], "your own torch module: FACTORY() returns it"),
        (EXAMPLES["export"], "a program saved with torch.export.save"),
        (EXAMPLES["onnx"], "an ONNX model: scores without gradients (needs onnxruntime)"),
        (EXAMPLES["safetensors"], "weights that physadv saved, for instance by `physadv train`"),
    )


def align_labels(scenes_classes: tuple[str, ...], target_classes: tuple[str, ...]) -> Int[Tensor, " c"]:
    """Row of `target_classes` for each of `scenes_classes`, matched by slug: target label = map[scene label]."""
    rows = {name: row for row, name in enumerate(target_classes)}
    missing = [name for name in scenes_classes if name not in rows]
    if missing:
        near = get_close_matches(missing[0], target_classes, n=1)
        raise UserError(
            f"The target does not know {_some(missing)}{f' (is {missing[0]} its {near[0]}?)' if near else ''}; "
            f"its classes are {_some(target_classes)}. Rename them, or keep only shared ones with --classes."
        )
    return torch.tensor([rows[name] for name in scenes_classes], dtype=torch.int64)


def _some(names: list[str] | tuple[str, ...], shown: int = 6) -> str:
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")


# --- builtin:NAME and safetensors:FILE|DIR


def _builtin(rest: str, name: str) -> Classifier:
    if rest not in BUILTIN:
        raise UserError(f"There is no {name}; shipped are {', '.join(f'builtin:{known}' for known in BUILTIN)}.")
    path = ASSETS / "weights" / f"{rest}.safetensors"
    if not path.is_file():
        raise UserError(f"The weights of {name} are missing from this installation ({path}); install physadv again.")
    return _safetensors(str(path), name)


def _safetensors(rest: str, name: str) -> Classifier:
    classifier, _ = read_classifier(rest, name=name)
    check_logits(classifier)
    return classifier


# --- what python:, export: and onnx: share


def _assemble(module: nn.Module, settings: Mapping[str, Any], name: str) -> Classifier:
    """The classifier of a foreign module, with what it says of itself and defaults for the rest."""
    size_px = _number(settings, "input_size", DEFAULT_PX, name)
    context = _number(settings, "context", DEFAULT_CONTEXT, name)
    if size_px != int(size_px):
        raise UserError(f"input_size of {name} must be a whole number of px, not {size_px}.")
    frame = Frame(int(size_px), float(context))
    set_eval(module)
    before = weights_hash(module)
    classes = settings.get("classes")
    if classes is None:
        classes = _default_classes(probe(module, frame, name=name).shape[1])
    classifier = Classifier(module, _names(classes, name), frame, name, before)
    check_logits(classifier)
    if weights_hash(module) != before:
        raise UserError(f"{name} changes its own weights or buffers when called; make its forward leave them alone.")
    return classifier


def _default_classes(outputs: int) -> tuple[str, ...]:
    return GTSRB if outputs == len(GTSRB) else tuple(f"class-{row}" for row in range(outputs))


def _number(settings: Mapping[str, Any], key: str, default: float, name: str) -> float:
    value = settings.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"{key} of {name} must be a number, not {value!r}.")
    return value


def _names(classes: object, name: str) -> tuple[str, ...]:
    if not isinstance(classes, (list, tuple)) or not all(isinstance(slug, str) for slug in classes):
        raise UserError(f"classes of {name} must be a list of names, one per logit.")
    return tuple(classes)


# --- python:FILE.py:FACTORY


def _python(rest: str, name: str) -> Classifier:
    file, _, factory = (rest, "", "") if rest.endswith(".py") else rest.rpartition(":")
    path = Path(file).resolve()
    if not path.is_file():
        raise UserError(f"There is no file {file or rest}; write {EXAMPLES['python']}.")
    with neighbours_importable(path.parent):
        module = _made(imported(path, name), factory, name)
    settings = {key: getattr(module, key) for key in ("input_size", "classes", "context") if hasattr(module, key)}
    return _assemble(module, settings, name)


def imported(path: Path, name: str) -> ModuleType:
    """The file as a module of a package of its own, so that `from .neighbour import x` works too."""
    package = ModuleType("physadv_target_" + hashlib.sha256(str(path.parent).encode()).hexdigest()[:8])
    package.__path__ = [str(path.parent)]
    for stale in [known for known in sys.modules if known.partition(".")[0] == package.__name__]:
        del sys.modules[stale]
    found = importlib.util.spec_from_file_location(f"{package.__name__}.{path.stem}", path)
    if found is None or found.loader is None:
        raise UserError(f"{path} is no Python file; write {EXAMPLES['python']}.")
    module = importlib.util.module_from_spec(found)
    sys.modules.update({package.__name__: package, module.__name__: module})
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(f"{name}: importing {path.name} fails ({one_line(error)}).") from error
    return module


@contextmanager
def neighbours_importable(folder: Path) -> Iterator[None]:
    """`folder` is on sys.path inside; plain neighbours are forgotten after, lest the next target gets them by name."""
    if any(Path(entry).resolve() == folder for entry in sys.path):
        yield
        return
    before = {known.partition(".")[0] for known in sys.modules}
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for known in [known for known in sys.modules if known.partition(".")[0] not in before]:
            if _lies_in(sys.modules[known], folder, known.partition(".")[0]):
                del sys.modules[known]


def _lies_in(module: object, folder: Path, top: str) -> bool:
    """Whether the module is the neighbour `top`: not merely something in an environment kept below the folder."""
    file = Path(getattr(module, "__file__", None) or "").resolve()
    return file == folder / f"{top}.py" or file.is_relative_to(folder / top)


def _made(source: ModuleType, factory: str, name: str) -> nn.Module:
    make = getattr(source, factory, None) if factory else None
    if not callable(make) or isinstance(make, nn.Module):
        raise UserError(f"{name}: '{factory}' is no factory; name one that returns the module: {_callables(source)}.")
    try:
        module = make()
    except (Exception, SystemExit) as error:
        raise UserError(f"{name}: {factory}() fails ({one_line(error)}).") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"{name}: {factory}() returns a {type(module).__name__}; it must return a torch.nn.Module.")
    return module


def _callables(source: ModuleType) -> str:
    own = [key for key, value in vars(source).items() if getattr(value, "__module__", None) == source.__name__]
    return ", ".join(key for key in own if callable(getattr(source, key)) and key[0] != "_") or "the file has none"


# --- export:FILE.pt2


def _export(rest: str, name: str) -> Classifier:
    path = existing_file(rest)
    _refuse_code(path)
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise UserError(
            f"torch {torch.__version__} cannot read {path} ({one_line(error)}); export it again with this version."
        ) from error
    module = Exported(program, name)
    return _assemble(module, {"input_size": module.input_size} | _beside(path.with_suffix(".json")), name)


def _beside(path: Path) -> dict[str, Any]:
    settings = read_json(path) if path.is_file() else {}
    if not isinstance(settings, dict):
        raise UserError(f'{path} must hold an object such as {{"input_size": 48, "classes": ["stop", ...]}}.')
    return settings


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
        self.program = program
        self.graph = program.module()
        self.fewest, self.most = _batch_limits(program, shape[0])
        self.input_size = int(shape[2])

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Tensor:
        if self.fewest <= len(images) <= self.most:
            return self.graph(images)
        return torch.cat([self._padded(chunk) for chunk in images.split(self.most)])

    def _padded(self, images: Float[Tensor, "b 3 h w"]) -> Tensor:
        copies = max(self.fewest - len(images), 0)
        return self.graph(torch.cat((images, images[-1:].detach().expand(copies, -1, -1, -1))))[: len(images)]

    def to(self, device: torch.device | str) -> "Exported":  # type: ignore[override]
        """Devices are burnt into the graph, so moving the parameters would not do."""
        if device_of(self) != torch.device(device):
            self.program = move_to_device_pass(self.program, str(device))
            self.graph = self.program.module()
        return self


def _input_shape(program: ExportedProgram, name: str) -> torch.Size:
    signature = program.graph_signature
    if len(signature.user_inputs) != 1 or len(signature.user_outputs) != 1:
        raise UserError(f"{name} must take the images alone and return the logits alone; export such a module.")
    node = next(node for node in program.graph.nodes if node.name == signature.user_inputs[0])
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


# --- onnx:FILE.onnx


def _onnx(rest: str, name: str) -> Classifier:
    path = existing_file(rest)
    module = Scored(path, name)
    size = {} if module.input_size is None else {"input_size": module.input_size}
    classifier = _assemble(module, size | _beside(path.with_suffix(".json")), name)
    return replace(classifier, weights_hash=module.weights_hash, differentiable=False)


KINDS: dict[str, Callable[[str, str], Classifier]] = {
    "builtin": _builtin,
    "python": _python,
    "export": _export,
    "onnx": _onnx,
    "safetensors": _safetensors,
}
EXAMPLES = {
    "builtin": "builtin:gtsrb",
    "python": "python:FILE.py:FACTORY",
    "export": "export:FILE.pt2",
    "onnx": "onnx:FILE.onnx",
    "safetensors": "safetensors:FILE_OR_DIR",
}
