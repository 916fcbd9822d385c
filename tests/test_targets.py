"""f: frozen means bit-identical, any torch module gets in, and what does not fit is refused with a reason."""

import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import physadv.targets as targets
from physadv.errors import UserError
from physadv.scenes.classes import GTSRB
from physadv.targets.base import Classifier, Frame, check_logits, frozen, weights_hash
from physadv.targets.fake import blind_classifier, fake_classifier
from physadv.targets.models import ARCHITECTURES, build, read_classifier, save_classifier
from physadv.targets.spec import KINDS, align_labels, list_targets, load_target

NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self, outputs=5):
        super().__init__()
        self.head = torch.nn.Linear(3, outputs)
    def forward(self, images):
        return self.head(images.mean((2, 3)))
"""


class Tiny(nn.Module):
    """Convolution, batch norm and dropout, so that a forgotten eval() shows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.drop, self.head = nn.Dropout(), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.conv(images)).relu()).mean((2, 3)))


@pytest.fixture
def tiny() -> Tiny:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = Tiny()
        module.norm.running_mean.uniform_(-1, 1)
    return module.eval()


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., str]:
    """Writes NET and more into a file; returns the spec of its factory `make`."""

    def write(code: str = "def make(): return Net()", *, file: str = "mine.py", factory: str = "make") -> str:
        (tmp_path / file).write_text(NET + code)
        return f"python:{tmp_path / file}:{factory}"

    return write


def export(module: nn.Module, path: Path, *, batch: int = 4, limits: tuple[int, int] | None = None) -> str:
    """Saves the module as a program for `batch` images of 16 px, or any number within `limits`; returns the spec."""
    shapes = ({0: torch.export.Dim("b", min=limits[0], max=limits[1])},) if limits else None
    program = torch.export.export(module, (images(batch),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return f"export:{path}"


def images(count: int, size_px: int = 16) -> Tensor:
    return torch.rand(count, 3, size_px, size_px, generator=torch.Generator().manual_seed(count))


def bytes_of(module: nn.Module) -> dict[str, bytes]:
    return {name: value.clone().numpy().tobytes() for name, value in module.state_dict().items()}


# --- frozen


def test_frozen_leaves_the_state_bit_identical_and_gives_gradients_to_the_input_only(tiny: Tiny) -> None:
    before = bytes_of(tiny)
    tiny.train()
    inputs = images(4).requires_grad_()
    with frozen(tiny):
        tiny(inputs).square().sum().backward()
        assert not any(parameter.requires_grad for parameter in tiny.parameters())
    assert inputs.grad is not None
    assert inputs.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in tiny.parameters())
    assert bytes_of(tiny) == before


def test_frozen_is_evaluation_mode(tiny: Tiny) -> None:
    expected = tiny(images(4))
    tiny.train()
    with frozen(tiny):
        assert torch.equal(tiny(images(4)), expected)


@pytest.mark.parametrize("fails", [False, True])
def test_frozen_restores_every_flag_by_itself(tiny: Tiny, fails: bool) -> None:
    tiny.train()
    tiny.norm.eval()
    tiny.conv.weight.requires_grad_(False)
    modes = {name: part.training for name, part in tiny.named_modules()}
    flags = {name: parameter.requires_grad for name, parameter in tiny.named_parameters()}
    before = bytes_of(tiny)
    try:
        with frozen(tiny):
            assert not any(part.training for part in tiny.modules())
            tiny(images(2))
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert {name: part.training for name, part in tiny.named_modules()} == modes
    assert {name: parameter.requires_grad for name, parameter in tiny.named_parameters()} == flags
    assert len(set(modes.values())) == len(set(flags.values())) == 2
    assert bytes_of(tiny) == before


def test_an_exported_program_can_be_frozen(tiny: Tiny, tmp_path: Path) -> None:
    module = load_target(export(tiny, tmp_path / "tiny.pt2")).module
    with pytest.raises(NotImplementedError):
        module.eval()
    before = bytes_of(module)
    inputs = images(4).requires_grad_()
    with frozen(module):
        module(inputs).square().sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.abs().sum() > 0
    assert all(parameter.grad is None and parameter.requires_grad for parameter in module.parameters())
    assert bytes_of(module) == before


# --- classifier, frame, hash


def test_the_hash_names_the_weights(tiny: Tiny) -> None:
    first = weights_hash(tiny)
    assert len(first) == 16
    assert int(first, 16) >= 0
    assert weights_hash(tiny.train()) == first
    with torch.no_grad():
        tiny.head.bias[0] = torch.nextafter(tiny.head.bias[0], torch.tensor(9.0))
    second = weights_hash(tiny)
    tiny.norm.running_var.mul_(2)
    assert len({first, second, weights_hash(tiny)}) == 3


def test_the_hash_reads_every_dtype_and_layout() -> None:
    assert weights_hash(nn.Linear(2, 2).bfloat16()) != weights_hash(nn.Linear(2, 2).half())
    dense = torch.arange(6.0).reshape(2, 3)
    for value in (dense.T.contiguous().T, torch.ones(1).as_strided((1,), (0,)), torch.ones(0), torch.tensor(3)):
        copy = value.clone(memory_format=torch.contiguous_format)
        own, other = nn.Module(), nn.Module()
        own.register_buffer("value", value)
        other.register_buffer("value", copy)
        assert weights_hash(own) == weights_hash(other)


def test_two_weights_that_change_places_change_the_hash() -> None:
    def pair(first: float, second: float) -> nn.Module:
        return nn.ParameterDict({"a": nn.Parameter(torch.tensor(first)), "b": nn.Parameter(torch.tensor(second))})

    assert weights_hash(pair(1.0, 2.0)) != weights_hash(pair(2.0, 1.0))


@pytest.mark.parametrize(("size_px", "context"), [(4, 0.1), (0, 0.1), (48, -0.1), (48, 3.0), (48, float("nan"))])
def test_a_frame_is_validated(size_px: int, context: float) -> None:
    with pytest.raises(UserError):
        Frame(size_px, context)


@pytest.mark.parametrize(("classes", "message"), [(("stop", "stop"), "twice: stop"), (("stop",), "two classes")])
def test_class_names_are_validated(tiny: Tiny, classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Classifier.of(tiny, classes=classes, frame=Frame(16, 0.1), name="tiny")


def test_a_classifier_moves() -> None:
    moved = fake_classifier().to("meta")
    assert moved.device == torch.device("meta")
    assert moved.module.directions.device == torch.device("meta")


class Returns(nn.Module):
    def __init__(self, make: Callable[[int], object]) -> None:
        super().__init__()
        self.make = make

    def forward(self, images: Tensor) -> object:
        return self.make(len(images))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda n: torch.zeros(n, 4), "4 logits but names 3"),
        (lambda n: torch.zeros(n, 3, 1), r"shape \(2, 3, 1\)"),
        (lambda n: torch.zeros(3), r"shape \(3,\)"),
        (lambda n: torch.zeros(2 * n, 3), r"shape \(4, 3\)"),
        (lambda n: torch.zeros(n, 3, dtype=torch.int64), "int64"),
        (lambda n: (torch.zeros(n, 3), None), "a tuple"),
        (lambda n: torch.full((n, 3), float("nan")), "NaN"),
        (lambda n: torch.full((n, 3), float("inf")), "infinite"),
        (lambda n: torch.zeros(n, 3) @ torch.zeros(4, 4), "fails on images of shape"),
    ],
)
def test_what_is_no_logits_is_refused(make: Callable[[int], object], message: str) -> None:
    classifier = Classifier.of(Returns(make), classes=("a", "b", "c"), frame=Frame(16, 0.1), name="odd")
    with pytest.raises(UserError, match=message):
        check_logits(classifier)


def test_softmax_is_accepted() -> None:
    classifier = Classifier.of(
        Returns(lambda n: torch.rand(n, 3).softmax(1)), classes=("a", "b", "c"), frame=Frame(16, 0.1), name="softmax"
    )
    assert check_logits(classifier).shape == (2, 3)


# --- networks and weight files


@pytest.mark.parametrize(("arch", "size_px", "largest"), [("small-cnn", 48, 1.2e6), ("small-resnet", 64, 3e6)])
def test_networks(arch: str, size_px: int, largest: float) -> None:
    module = build(arch, classes=43, seed=3).eval()
    inputs = images(2, size_px).requires_grad_()
    logits = module(inputs)
    logits.square().sum().backward()
    assert module.input_size == size_px
    assert logits.shape == (2, 43)
    assert inputs.grad is not None
    assert inputs.grad.abs().sum() > 0
    assert 0.5 * largest < sum(parameter.numel() for parameter in module.parameters()) <= largest


def test_a_network_depends_on_its_seed_alone() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = weights_hash(build("small-cnn", classes=5, seed=3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(9)
    assert weights_hash(build("small-cnn", classes=5, seed=3)) == first
    assert weights_hash(build("small-cnn", classes=5, seed=4)) != first


def test_an_unknown_architecture_lists_those_there_are() -> None:
    with pytest.raises(UserError, match="small-cnn, small-resnet"):
        build("resnet9000", classes=5, seed=0)


@pytest.fixture
def small() -> Classifier:
    module = build("small-cnn", classes=2, seed=0)
    return Classifier.of(module, classes=("stop", "yield"), frame=Frame(48, 0.2), name="small")


@pytest.mark.parametrize("place", ["run", "run-0.1", "victim.safetensors"])
def test_a_saved_classifier_is_the_same_when_loaded(small: Classifier, tmp_path: Path, place: str) -> None:
    record = {"epochs": 3, "seed": 7}
    path = save_classifier(tmp_path / place, small, "small-cnn", record)
    loaded = load_target(f"safetensors:{tmp_path / place}")
    assert path.is_file()
    assert replace(loaded, module=small.module, name="small") == small
    assert not any(part.training for part in loaded.module.modules())
    with frozen(small.module):
        assert torch.equal(loaded(images(2, 48)), small(images(2, 48)))
    assert read_classifier(path, name="again")[1] == record


def test_the_shipped_network_fits_a_small_file(tmp_path: Path) -> None:
    module = build("small-cnn", classes=43, seed=0)
    classifier = Classifier.of(module, classes=GTSRB, frame=Frame(48, 0.1), name="victim")
    assert save_classifier(tmp_path, classifier, "small-cnn", {}).stat().st_size <= 4.9e6


def test_weight_files_that_do_not_fit_are_refused(small: Classifier, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no weight file"):
        load_target(f"safetensors:{tmp_path / 'none.safetensors'}")
    with pytest.raises(UserError, match="There is no weight file"):
        load_target(f"safetensors:{tmp_path}")
    torch.save(small.module.state_dict(), tmp_path / "pickle.pt")
    with pytest.raises(UserError, match="pickle"):
        load_target(f"safetensors:{tmp_path / 'pickle.pt'}")
    save_classifier(tmp_path / "other", small, "small-resnet", {})
    with pytest.raises(UserError, match="do not fit a small-resnet"):
        load_target(f"safetensors:{tmp_path / 'other'}")
    save_classifier(tmp_path / "unknown", small, "vit", {})
    with pytest.raises(UserError, match="no architecture 'vit'"):
        load_target(f"safetensors:{tmp_path / 'unknown'}")


def test_weights_saved_by_something_else_are_refused(small: Classifier, tmp_path: Path) -> None:
    save_file(small.module.state_dict(), tmp_path / "bare.safetensors")
    with pytest.raises(UserError, match="does not say which architecture"):
        load_target(f"safetensors:{tmp_path / 'bare.safetensors'}")


def test_weights_that_give_nan_are_refused(small: Classifier, tmp_path: Path) -> None:
    nn.init.constant_(small.module.head[1].bias, float("nan"))
    save_classifier(tmp_path, small, "small-cnn", {})
    with pytest.raises(UserError, match="NaN"):
        load_target(f"safetensors:{tmp_path}")


# --- specs


def test_the_shipped_victim() -> None:
    classifier = load_target("builtin:gtsrb")
    assert classifier.classes == GTSRB
    assert classifier.name == "builtin:gtsrb"
    assert classifier.module.input_size == classifier.frame.size_px


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("buildin:gtsrb", "did you mean builtin:gtsrb"),
        ("gtsrb", "did you mean builtin:gtsrb"),
        ("model.pt2", "did you mean export:model.pt2"),
        ("model.py:make", "did you mean python:model.py:make"),
        ("xyzzy:1", "The kinds are builtin:gtsrb, python:"),
        ("export:", "as in export:FILE.pt2"),
        ("", "The kinds are"),
        ("builtin:vgg", "shipped are builtin:gtsrb"),
        ("python:none.py:make", "no file none.py"),
        ("python:none.py", "no file none.py"),
        ("export:none.pt2", "none.pt2 does not exist"),
    ],
)
def test_a_wrong_spec_says_what_to_write(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_target(spec)


def test_a_missing_shipped_file_is_an_installation_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("physadv.targets.spec.ASSETS", tmp_path)
    with pytest.raises(UserError, match="install physadv again"):
        load_target("builtin:gtsrb")


def test_an_unusable_device_is_refused(python: Callable[..., str]) -> None:
    with pytest.raises(UserError, match="nonsense"):
        load_target(python(), device="nonsense")


def test_every_listed_target_has_a_kind_that_loads() -> None:
    listed = dict(list_targets())
    assert {spec.partition(":")[0] for spec in listed} == set(KINDS)
    assert {"builtin", "python", "export", "onnx", "safetensors", "hf", "torchvision", "ultralytics"} == set(KINDS)
    assert all(listed.values())


def test_the_public_names_are_exact() -> None:
    assert sorted(targets.__all__) == targets.__all__
    assert all(hasattr(targets, name) for name in targets.__all__)
    assert set(ARCHITECTURES) == {"tiny-cnn", "small-cnn", "small-resnet"}


# --- python:


def test_a_module_of_ones_own_gets_defaults(python: Callable[..., str]) -> None:
    spec = python()
    classifier = load_target(spec)
    assert classifier.frame == Frame(64, 0.1)
    assert classifier.classes == tuple(f"class-{row}" for row in range(5))
    assert classifier.name == spec
    assert classifier.weights_hash == weights_hash(classifier.module)
    assert not classifier.module.training
    assert load_target(python("def make(): return Net(43)", file="gtsrb.py")).classes == GTSRB


def test_a_module_says_what_it_is(python: Callable[..., str]) -> None:
    code = """
def make():
    net = Net(2)
    net.input_size, net.classes, net.context = 40, ["stop", "yield"], 0
    return net
"""
    classifier = load_target(python(code))
    assert classifier.frame == Frame(40, 0.0)
    assert classifier.classes == ("stop", "yield")


def test_a_class_is_a_factory(python: Callable[..., str]) -> None:
    assert len(load_target(python(factory="Net")).classes) == 5


@pytest.mark.parametrize("line", ["from neighbour import OUTPUTS", "from .neighbour import OUTPUTS"])
def test_neighbours_can_be_imported_and_do_not_leak_into_the_next_target(tmp_path: Path, line: str) -> None:
    for folder, outputs in (("a", 3), ("b", 4)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "neighbour.py").write_text(f"OUTPUTS = {outputs}")
        (tmp_path / folder / "mine.py").write_text(f"{NET}\n{line}\ndef make(): return Net(OUTPUTS)")
        before = list(sys.path)
        assert len(load_target(f"python:{tmp_path / folder / 'mine.py'}:make").classes) == outputs
        assert sys.path == before
    assert "neighbour" not in sys.modules


def test_an_edited_neighbour_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"{NET}\nfrom .neighbour import OUTPUTS\ndef make(): return Net(OUTPUTS)")
    for outputs in (3, 14):
        (tmp_path / "neighbour.py").write_text(f"OUTPUTS = {outputs}")
        assert len(load_target(f"python:{tmp_path / 'mine.py'}:make").classes) == outputs


def test_what_a_neighbouring_environment_holds_stays_imported(tmp_path: Path) -> None:
    package = tmp_path / "env" / "lib_of_env_below"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    code = f"import sys\nsys.path.append({str(package.parent)!r})\nimport lib_of_env_below\nsys.path.pop()\n"
    (tmp_path / "mine.py").write_text(NET + code)
    load_target(f"python:{tmp_path / 'mine.py'}:Net")
    assert sys.modules.pop("lib_of_env_below")


@pytest.mark.parametrize(
    ("code", "factory", "message"),
    [
        ("def make(): return Net()", "made", r"'made' is no factory.*Net, make"),
        ("", "", "'' is no factory.*Net"),
        ("make = Net()", "make", "name one that returns the module"),
        ("make = 3", "make", "'make' is no factory"),
        ("def make(): raise ValueError('no weights')", "make", r"make\(\) fails \(ValueError: no weights\)"),
        ("def make(): raise SystemExit", "make", r"make\(\) fails \(SystemExit\)"),
        ("def make(path): return Net()", "make", r"make\(\) fails \(TypeError"),
        ("def make(): return 3", "make", "returns a int; it must return a torch.nn.Module"),
        ("import nowhere_to_be_found", "make", "importing mine.py fails .*nowhere_to_be_found"),
        ("def make(:", "make", "importing mine.py fails .SyntaxError"),
        ("raise SystemExit(2)", "make", "importing mine.py fails .SystemExit"),
        ("class make(Net):\n  def forward(self, x): return x", "make", r"shape \(2, 3, 64, 64\)"),
        ("class make(Net):\n  def forward(self, x): return self.head(x)", "make", "fails on images of shape"),
        ("class make(Net):\n  def forward(self, x): return super().forward(x) / 0 * 0", "make", "NaN"),
        ("class make(Net):\n  classes = ['a', 'b']", "make", "5 logits but names 2"),
        ("class make(Net):\n  classes = 5", "make", "list of names"),
        ("class make(Net):\n  classes = 'a b c d e'", "make", "list of names"),
        ("class make(Net):\n  input_size = (48, 48)", "make", "input_size .* must be a number"),
        ("class make(Net):\n  input_size = 48.5", "make", "whole number"),
        ("class make(Net):\n  input_size = 2", "make", "at least 8 px"),
        ("class make(Net):\n  context = 9", "make", "context"),
        (
            "class make(Net):\n  def forward(self, x):\n    self.head.weight.data += 1\n    return super().forward(x)",
            "make",
            "changes its own weights or buffers",
        ),
    ],
)
def test_a_file_that_does_not_work_says_why(python: Callable[..., str], code: str, factory: str, message: str) -> None:
    spec = python(code, factory=factory).removesuffix(":")
    path = list(sys.path)
    with pytest.raises(UserError, match=message):
        load_target(spec)
    assert sys.path == path


# --- export:


@pytest.mark.parametrize(("batch", "limits"), [(4, None), (4, (1, 4)), (5, (4, 6)), (1, None)])
@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_an_exported_program_takes_any_batch(
    tiny: Tiny, tmp_path: Path, batch: int, limits: tuple[int, int] | None, count: int
) -> None:
    classifier = load_target(export(tiny, tmp_path / "tiny.pt2", batch=batch, limits=limits))
    inputs = images(count).requires_grad_()
    logits = classifier(inputs)
    logits[:, 1].sum().backward()
    reference = images(count).requires_grad_()
    expected = tiny(reference)
    expected[:, 1].sum().backward()
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(inputs.grad, reference.grad)


def test_an_exported_program_knows_its_size_and_the_json_beside_it_the_rest(tiny: Tiny, tmp_path: Path) -> None:
    spec = export(tiny, tmp_path / "tiny.pt2")
    bare = load_target(spec)
    assert bare.frame == Frame(16, 0.1)
    assert bare.classes == ("class-0", "class-1", "class-2")
    (tmp_path / "tiny.json").write_text(json.dumps({"classes": ["stop", "yield", "danger"], "context": 0.25}))
    described = load_target(spec)
    assert described.frame == Frame(16, 0.25)
    assert described.classes == ("stop", "yield", "danger")
    assert described.weights_hash == bare.weights_hash


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not valid JSON"), ("[1]", "must hold an object"), ('{"classes": ["a", "b"]}', "3 logits but names 2")],
)
def test_a_wrong_json_beside_the_program_is_refused(tiny: Tiny, tmp_path: Path, text: str, message: str) -> None:
    spec = export(tiny, tmp_path / "tiny.pt2")
    (tmp_path / "tiny.json").write_text(text)
    with pytest.raises(UserError, match=message):
        load_target(spec)


def test_a_program_exported_in_training_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"call \.eval\(\)"):
        load_target(export(Tiny().train(), tmp_path / "training.pt2"))
    with pytest.raises(UserError, match=r"call \.eval\(\)"):
        load_target(export(nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(768, 3)), tmp_path / "dropout.pt2"))


def test_programs_that_are_no_classifiers_of_square_images_are_refused(tmp_path: Path) -> None:
    def save(module: nn.Module, *inputs: Tensor) -> str:
        torch.export.save(torch.export.export(module, inputs), tmp_path / "odd.pt2")
        return f"export:{tmp_path / 'odd.pt2'}"

    class Both(nn.Module):
        def forward(self, images: Tensor, other: Tensor) -> Tensor:
            return images + other

    class Pair(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return images.mean((2, 3)), images + 1

    for module, inputs, message in (
        (Both(), (images(2), images(2)), "images alone"),
        (Pair(), (images(2),), "returns 2 tensors.*logits alone"),
        (nn.Linear(4, 3), (torch.rand(2, 4),), r"takes torch.float32 \(2, 4\)"),
        (nn.Flatten(), (images(2).half(),), "takes torch.float16"),
        (nn.Flatten(), (torch.rand(2, 3, 16, 24),), "square"),
        (nn.Conv2d(3, 4, 3), (images(2),), r"shape \(2, 4, 14, 14\)"),
    ):
        with pytest.raises(UserError, match=message):
            load_target(save(module, *inputs))


def test_what_is_no_program_is_refused(small: Classifier, tmp_path: Path) -> None:
    (tmp_path / "text.pt2").write_text("no zip")
    torch.save(small.module.state_dict(), tmp_path / "weights.pt2")
    torch.save(small.module, tmp_path / "module.pt2")
    for file, message in (("text", "no exported program"), ("weights", "pickle or TorchScript"), ("module", "pickle")):
        with pytest.raises(UserError, match=message):
            load_target(f"export:{tmp_path / file}.pt2")


class Bomb:
    """A pickle that makes a folder when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("where", ["sample_inputs", "weights", "constants"])
def test_a_program_that_hides_code_is_refused_before_it_runs(tiny: Tiny, tmp_path: Path, where: str) -> None:
    export(tiny, tmp_path / "good.pt2")
    with zipfile.ZipFile(tmp_path / "good.pt2") as good, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as bad:
        for name in good.namelist():
            bad.writestr(name, _poisoned(name, good.read(name), where, Bomb(tmp_path / "boom")))
        if where == "constants":
            bad.writestr("good/data/constants/opaque_obj_0", pickle.dumps(Bomb(tmp_path / "boom")))
    with pytest.raises(UserError, match="pickled"):
        load_target(f"export:{tmp_path / 'bad.pt2'}")
    assert not (tmp_path / "boom").exists()


def _poisoned(name: str, content: bytes, where: str, bomb: Bomb) -> bytes:
    if where == "sample_inputs" and name.endswith("sample_inputs/model.pt"):
        return pickle.dumps(bomb, protocol=2)
    if where == "weights" and name.endswith("weights_config.json"):
        return content.replace(b'"use_pickle": false', b'"use_pickle": true')
    if where == "weights" and name.endswith("weight_0"):
        return pickle.dumps(bomb, protocol=2)
    if where == "constants" and name.endswith("constants_config.json"):
        return json.dumps({"config": {"x": {"path_name": "opaque_obj_0", "use_pickle": False}}}).encode()
    return content


# --- labels, doubles


def test_labels_are_matched_by_slug() -> None:
    rows = align_labels(("stop", "yield"), ("danger", "yield", "stop"))
    assert rows.tolist() == [2, 1]
    assert rows.dtype == torch.int64
    with pytest.raises(UserError, match=r"does not know stopp, bend \(is stopp its stop\?\)"):
        align_labels(("stopp", "yield", "bend"), ("yield", "stop"))


def test_the_fake_target_can_be_moved_to_every_class() -> None:
    classifier = fake_classifier()
    check_logits(classifier)
    corners = 0.5 + 0.5 * classifier.module.directions.detach()
    answers = classifier(corners[:, :, None, None].expand(-1, -1, 32, 32)).argmax(1)
    assert answers.tolist() == list(range(43))
    assert fake_classifier().weights_hash == classifier.weights_hash
    inputs = images(2, 32).requires_grad_()
    classifier(inputs)[:, 0].sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.abs().min() > 0


def test_the_blind_target_answers_the_same_with_zero_gradient() -> None:
    classifier = blind_classifier(answer="yield")
    inputs = images(4, 32).requires_grad_()
    with frozen(classifier.module):
        logits = classifier(inputs)
        logits.square().sum().backward()
    assert (logits.argmax(1) == GTSRB.index("yield")).all()
    assert inputs.grad is not None
    assert inputs.grad.count_nonzero() == 0
