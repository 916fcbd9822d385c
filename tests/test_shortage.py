"""Memory that is short: the same step in parts, no crash, and one sentence where not even one photograph fits."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from physadv.attacks import attack
from physadv.errors import UserError
from physadv.objectives.expectation import parse_expectation
from physadv.problem import make_problem
from physadv.question import answer
from physadv.scenes import load_scenes
from physadv.settings import Settings
from physadv.shortage import short
from physadv.targets import Classifier, load_target
from physadv.targets.base import frozen
from physadv.targets.fake import fake_classifier
from physadv.threats import load_threat
from physadv.transforms.world import load_world

ROOT = Path(__file__).parents[1]


class Narrow(nn.Module):
    """Has no room for more than `most` images at once."""

    def __init__(self, module: nn.Module, most: int) -> None:
        super().__init__()
        self.module, self.most = module, most
        self.shown: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shown.append(len(images))
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.module(images)


def narrow(most: int) -> Classifier:
    target = fake_classifier()
    return replace(target, module=Narrow(target.module, most))


def searched(target: Classifier, said: list[str] | None = None) -> Tensor:
    scenes = load_scenes("staged:stop")
    settings = Settings(steps=6, batch=4, views=3, held_out=16, check_every=3)
    how = {"world": load_world("drive-by"), "settings": settings, "seed": 0}
    report = (lambda step: said.append(step.note)) if said is not None else (lambda step: None)
    threat = load_threat("stickers:two-bars", scenes, seed=0)
    return attack(target, scenes, threat, **how, report=report).artwork.rgb  # type: ignore[arg-type]


@pytest.mark.parametrize("expectation", ["mean", "cvar:0.5"])
@pytest.mark.parametrize("kind", ["builtin:gtsrb", "builtin:signs-det"])
def test_a_step_in_parts_has_the_gradient_of_the_whole_step(kind: str, expectation: str) -> None:
    target, scenes = load_target(kind), load_scenes("staged:stop")
    goal = "hide" if target.frame.whole else "untargeted"
    settings = Settings(goal=goal, batch=3, views=2, held_out=0, expectation=expectation)
    threat = load_threat("patch:20%", scenes, seed=0, resolution_px=16)
    whole = make_problem(target, scenes, threat, world=load_world("drive-by"), settings=settings, seed=0)
    theta, resting = whole.init(restart=0), torch.zeros(1, dtype=torch.bool)
    gradients = []
    with frozen(target.module):
        for parts in (1, 2, 4):
            at = theta.clone().requires_grad_()
            loss = replace(whole, parts=parts).landscape(0, resting).loss(at)
            gradients.append((loss.detach(), *torch.autograd.grad(loss.sum(), at)))
    assert whole.expectation == parse_expectation(expectation)
    for loss, gradient in gradients[1:]:
        torch.testing.assert_close(loss, gradients[0][0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradient, gradients[0][1], rtol=1e-3, atol=1e-6)


def test_a_search_that_runs_short_halves_goes_on_and_says_so() -> None:
    said: list[str] = []
    tight = narrow(4)
    found = searched(tight, said)
    assert "4 parts" in said[0]
    assert not any(said[1:]), "parts are found once"
    assert max(tight.module.shown) == 16
    assert tight.module.shown[-1] <= 4
    torch.testing.assert_close(found, searched(fake_classifier()), atol=2 / 255, rtol=0)


def test_photographs_that_judge_are_halved_too() -> None:
    images = torch.rand(7, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    target = narrow(2)
    torch.testing.assert_close(answer(target, images), fake_classifier()(images))
    assert [count for count in target.module.shown if count <= 2] == [2, 2, 2, 1]


def test_no_room_for_one_is_one_sentence() -> None:
    with pytest.raises(UserError, match="single photograph"):
        searched(narrow(0))


def test_other_errors_are_not_taken_for_a_shortage() -> None:
    assert not short(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert short(MemoryError())


@pytest.mark.parametrize(
    "said",
    [
        "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: 9 bytes.",
        "CUDA error: out of memory",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "std::bad_alloc",
    ],
)
def test_what_allocators_say_is_known(said: str) -> None:
    assert short(RuntimeError(said))


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on address space is Linux's")
def test_with_little_memory_a_real_search_ends() -> None:
    """A limit that one step's activations exceed: the allocator refuses, and the search goes on in parts."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "memory was short" in done.stdout


LIMITED = """
import resource
from pathlib import Path
import torch
torch.set_num_threads(1)
from physadv.attacks import attack
from physadv.bench.models import FourConvolutions
from physadv.scenes import load_scenes
from physadv.settings import Settings
from physadv.targets import Classifier, Frame, load_target
from physadv.threats import load_threat
from physadv.transforms.world import load_world

module = FourConvolutions(43, widths=(256, 64, 64, 64)).eval()
target = Classifier.of(module, classes=load_target("builtin:gtsrb").classes, frame=Frame(96, 0.1), name="wide")
scenes = load_scenes("staged:stop")
threat = load_threat("stickers:two-bars", scenes, seed=0)
how = dict(world=load_world("digital"), seed=0)
few = Settings(steps=1, batch=1, views=1, held_out=1)
attack(target, scenes, threat, settings=few, **how)
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 180 * 2**20,) * 2)
many = Settings(steps=2, batch=32, views=1, held_out=8)
found = attack(target, scenes, threat, settings=many, **how, report=lambda step: print(step.note))
assert found.artwork.rgb.isfinite().all()
"""
