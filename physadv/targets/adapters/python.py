"""`python:FILE.py:FACTORY`: any torch module, and the import of a file that a user names."""

import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from torch import nn

from physadv.errors import UserError
from physadv.targets.adapters.foreign import classifier_of, detector_of, is_detection
from physadv.targets.base import Classifier, one_line
from physadv.targets.detector import Detector

EXAMPLE = "python:FILE.py:FACTORY"
CLASSIFIER_KEYS = ("input_size", "classes", "context")
DETECTOR_KEYS = ("task", "input_size", "classes", "pad", "threshold", "nms_iou")


def python(rest: str, name: str) -> Classifier | Detector:
    """What FACTORY() returns; a detector if its `task` is "detection"."""
    file, _, factory = (rest, "", "") if rest.endswith(".py") else rest.rpartition(":")
    path = Path(file).resolve()
    if not path.is_file():
        raise UserError(f"There is no file {file or rest}; write {EXAMPLE}.")
    with neighbours_importable(path.parent):
        module = _made(imported(path, name), factory, name)
    if is_detection({"task": getattr(module, "task", None)}):
        return detector_of(module, {key: getattr(module, key) for key in DETECTOR_KEYS if hasattr(module, key)}, name)
    return classifier_of(module, {key: getattr(module, key) for key in CLASSIFIER_KEYS if hasattr(module, key)}, name)


def imported(path: Path, name: str) -> ModuleType:
    """The file as a module of a package of its own, so that `from .neighbour import x` works too."""
    package = ModuleType("physadv_target_" + hashlib.sha256(str(path.parent).encode()).hexdigest()[:8])
    package.__path__ = [str(path.parent)]
    for stale in [known for known in sys.modules if known.partition(".")[0] == package.__name__]:
        del sys.modules[stale]
    found = importlib.util.spec_from_file_location(f"{package.__name__}.{path.stem}", path)
    if found is None or found.loader is None:
        raise UserError(f"{path} is no Python file; write {EXAMPLE}.")
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
