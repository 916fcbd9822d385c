"""The target as a search asks it: the same answers and gradients, or the target itself."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import which

import pytest
import torch
from torch import Tensor, nn

from physadv.bench.models import FourConvolutions, ResNet18, ViTSmall
from physadv.errors import UserError
from physadv.targets import Classifier, Frame, load_target
from physadv.targets.base import frozen
from physadv.targets.blocks import Residual, conv
from physadv.targets.fused import Fused
from physadv.targets.swift import CLOSE, Swift, Twin, swift

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def same_weights() -> Iterator[None]:
    """Every network of these tests is random: the same one each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class Flat(nn.Module):
    """`view` instead of `flatten`: refuses what lies channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4 * 16 * 16, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images)
        return self.head(features.view(len(images), -1))


class Shared(nn.Module):
    """One convolution with two norms: it cannot be folded into both."""

    def __init__(self) -> None:
        super().__init__()
        one = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.first, self.second = nn.Sequential(one, nn.BatchNorm2d(3)), nn.Sequential(one, nn.BatchNorm2d(3))

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images).relu()).mean((2, 3))


def trained(module: nn.Module) -> nn.Module:
    """With statistics that are not those of a fresh norm."""
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean = 0.3 * torch.randn(part.num_features, generator=generator)
            part.running_var = 0.5 + torch.rand(part.num_features, generator=generator)
            part.weight.data = 0.5 + torch.rand(part.num_features, generator=generator)
            part.bias.data = 0.3 * torch.randn(part.num_features, generator=generator)
    return module.eval()


def classifier(module: nn.Module, *, size_px: int = 16) -> Classifier:
    names = tuple(f"class {row}" for row in range(43 if size_px > 16 else 3))
    return Classifier.of(trained(module), classes=names, frame=Frame(size_px), name="network")


def gradient(target: Classifier, images: Tensor) -> Tensor:
    images = images.clone().requires_grad_()
    return torch.autograd.grad(target(images).square().sum(), images)[0]


@pytest.mark.parametrize("module", [ResNet18, FourConvolutions])
def test_answers_and_gradients_are_those_of_the_network(module: type[nn.Module]) -> None:
    target = classifier(module(43), size_px=64)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with frozen(target.module):
        quick = swift(target)
        assert isinstance(quick.module, Swift)
        torch.testing.assert_close(quick(images), target(images), rtol=1e-4, atol=1e-4)
        slow, fast = gradient(target, images), gradient(quick, images)
        assert (slow - fast).norm() < CLOSE * slow.norm(), "a tie of a pooling may fall the other way"


def test_every_norm_of_a_residual_network_is_folded() -> None:
    quick = swift(
        classifier(nn.Sequential(*conv(3, 4), Residual(4, 3, stride=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    )
    assert isinstance(quick.module, Swift)
    assert not [part for part in quick.module.modules() if isinstance(part, nn.BatchNorm2d)]


def test_the_shipped_detector_answers_alike() -> None:
    target = load_target("builtin:signs-det")
    quick = swift(target)
    assert isinstance(quick.module, Swift)
    images = torch.rand(2, 3, 320, 320, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(quick(images).scores, target(images).scores, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(quick(images).boxes, target(images).boxes, rtol=1e-3, atol=1e-2)


def test_code_that_it_would_break_is_asked_as_it_always_was() -> None:
    target = classifier(Flat())
    assert swift(target) is target
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(swift(target, precision="bfloat16")(images), target(images), atol=0.05, rtol=0.05)


def test_a_convolution_with_two_norms_is_not_folded() -> None:
    target = classifier(Shared())
    twin, images = Twin.of(target), torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(7))
    assert twin.fused.twin is target.module
    torch.testing.assert_close(twin.asked(target)(images), target(images))
    assert not torch.allclose(Fused.of(target.module).twin(images), target(images), atol=0.01), "folding changes it"


def test_a_twin_follows_the_weights() -> None:
    target = classifier(ResNet18(43), size_px=64)
    twin, images = Twin.of(target), torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(8))
    before = target(images)
    with torch.no_grad():
        for one in target.module.parameters():
            one.mul_(0.9)
    assert not torch.allclose(target(images), before, rtol=0.01)
    torch.testing.assert_close(twin.asked(target)(images), target(images), rtol=1e-3, atol=1e-4)


def test_what_has_no_convolution_and_what_is_swift_already_stay_as_they_are() -> None:
    patches = classifier(ViTSmall(43, width=12, depth=1).blocks)
    assert swift(patches) is patches
    quick = swift(classifier(FourConvolutions(43), size_px=32), precision="bfloat16")
    assert swift(quick) is quick


@pytest.mark.parametrize("module", [ResNet18, FourConvolutions])
def test_the_network_itself_is_left_as_it_was(module: type[nn.Module]) -> None:
    target = classifier(module(43), size_px=64)
    before = {name: value.clone() for name, value in target.module.state_dict().items()}
    flags = [one.requires_grad for one in target.module.parameters()]
    swift(target)
    after = target.module.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert [one.requires_grad for one in target.module.parameters()] == flags


# --- other precision, compiled


def test_half_precision_is_asked_for_and_answers_in_full() -> None:
    target = classifier(ResNet18(43), size_px=64)
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    half = swift(target, precision="bfloat16")(images)
    assert half.dtype == torch.float32
    assert not torch.equal(half, target(images))
    torch.testing.assert_close(half, target(images), atol=0.05, rtol=0.05)


COMPILED = """
import torch
from physadv.attacks import attack
from physadv.scenes import load_scenes
from physadv.settings import Settings
from physadv.targets import load_target
from physadv.threats import load_threat
from physadv.transforms.world import load_world

target, scenes, found = load_target("builtin:gtsrb"), load_scenes("staged:stop"), []
threat, world = load_threat("stickers:two-bars", scenes, seed=0), load_world("drive-by")
for compiled in (False, True):
    settings = Settings(steps=20, batch=8, views=1, held_out=32, compiled=compiled)
    found.append(attack(target, scenes, threat, world=world, settings=settings, seed=0))
plain, made = found
torch.testing.assert_close(plain.artwork.rgb, made.artwork.rgb, atol=0.05, rtol=0)
assert abs(plain.history[-1]["success"] - made.history[-1]["success"]) < 0.1
"""


@pytest.mark.slow
@pytest.mark.skipif(which("g++") is None, reason="torch.compile needs a C++ compiler on a processor")
def test_compiled_is_the_same_search() -> None:
    """In a process without the tests' type checks, which a tracing compiler trips over."""
    done = subprocess.run([sys.executable, "-c", COMPILED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_compiled_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(module: nn.Module, **how: object) -> nn.Module:
        return Refusing()

    class Refusing(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", refuses)
    with pytest.raises(UserError, match="leave --compiled out"):
        swift(classifier(FourConvolutions(43), size_px=32), compiled=True)
