"""One target in the full drive-by world, ready to be asked: the bare model's step, and the attack's."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from physadv.bench.models import FourConvolutions, ResNet18, ResNet50, ViTSmall
from physadv.errors import UserError
from physadv.problem import Problem, make_problem
from physadv.question import Target, Truth, truth_in
from physadv.scenes import Scenes, load_scenes
from physadv.settings import Settings
from physadv.targets import Classifier, Detector, load_target
from physadv.targets.base import Frame
from physadv.threats import load_threat
from physadv.threats.base import Theta
from physadv.transforms.stages import derive
from physadv.transforms.world import Views, World, load_world

BATCH = 16
WORLD = "drive-by"
SCENES = "staged:stop"
THREAT = "stickers:two-bars"
CONTEXT = 0.1


@dataclass(frozen=True)
class Size:
    """A target of the benchmark. most: the ratio of the attack's step to the bare one that it must keep."""

    name: str
    note: str
    most: float
    module: type[nn.Module] | None = None
    size_px: int = 0


SIZES = (
    Size("cnn-64", "four convolutions, 64 px", 1.25, FourConvolutions, 64),
    Size("resnet18-224", "ResNet-18, 224 px", 1.10, ResNet18, 224),
    Size("vit-s-224", "ViT-S, 224 px", 1.10, ViTSmall, 224),
    Size("signs-det-320", "builtin:signs-det, 320 px", 1.10, None, 320),
    Size("signs-det-640", "builtin:signs-det, 640 px", 1.10, None, 640),
)


LARGE = (Size("resnet50-224", "ResNet-50, 224 px", 1.10, ResNet50, 224),)  # only where it is asked for


def size_of(name: str) -> Size:
    """UserError: no such target."""
    for size in SIZES + LARGE:
        if size.name == name:
            return size
    raise UserError(f"--only is {name!r}; there are {', '.join(size.name for size in SIZES + LARGE)}.")


def target_of(size: Size, *, seed: int, device: str) -> Target:
    """With random weights, or the shipped detector at another input size."""
    if size.module is None:
        detector = load_target("builtin:signs-det", device=device)
        assert isinstance(detector, Detector)
        return replace(detector, frame=replace(detector.frame, size_px=size.size_px))
    classes = load_target("builtin:gtsrb").classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = size.module(len(classes)).eval()
    frame = Frame(size.size_px, CONTEXT)
    return Classifier.of(module, classes=classes, frame=frame, name=size.name).to(device)


@dataclass(frozen=True)
class Case:
    """A problem, and photographs of its first step for the bare model."""

    size: Size
    problem: Problem

    def scenes(self) -> Scenes:
        """The scene of each view."""
        return self.problem.scenes.take(torch.zeros(self.problem.settings.batch, dtype=torch.long))

    def draw(self, world: World, step: int) -> Views:
        """What happens in the views of a step."""
        batch = self.problem.settings.batch
        return world.draw([*range(step * batch, (step + 1) * batch)], seed=derive(self.problem.seed, "attack"))

    @cached_property
    def shown(self) -> tuple[Float[Tensor, "n 3 h w"], Truth]:
        """Photographs with a random artwork on them, and what is to be answered."""
        problem, views = self.problem, self.draw(self.problem.world, 0)
        worn = problem.threat.artwork(problem.init(restart=0))
        images = problem.world.photograph(worn, self.scenes(), views, frame=problem.target.frame)
        return images.detach(), truth_in(problem.target, self.scenes(), views, world=problem.world)

    def bare(self) -> Float[Tensor, "n 3 h w"]:
        """Forward, the same loss, backward to the input."""
        return self._gradient(self.problem.target)

    def twin(self) -> Float[Tensor, "n 3 h w"]:
        """The same of what the search asks in place of the target."""
        return self._gradient(self.problem.asked)

    def _gradient(self, target: Target) -> Float[Tensor, "n 3 h w"]:
        images, truth = self.shown
        images = images.detach().requires_grad_()
        half = self.problem.settings.precision == "bfloat16"
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            loss = self.problem.objective.loss(target(images), truth).sum()
        return torch.autograd.grad(loss, images)[0]

    def stepper(self) -> Callable[[], Theta]:
        """Each call is the next step of an attack."""
        problem = self.problem
        theta = problem.init(restart=0)
        state, done = problem.optimiser.init(theta), 0
        resting = torch.zeros(len(theta), dtype=torch.bool, device=theta.device)

        def step() -> Theta:
            nonlocal theta, state, done
            landscape = problem.landscape(done, resting)
            theta, state, _ = problem.optimiser.step(theta, landscape, state)
            done += 1
            return theta

        return step


def case_of(
    size: Size, *, seed: int, device: str, batch: int = BATCH, precision: str = "float32", compiled: bool = False
) -> Case:
    """The shipped stop sign with two bars on it, one photograph of each view."""
    target = target_of(size, seed=seed, device=device)
    scenes = load_scenes(SCENES).to(device)
    threat = load_threat(THREAT, scenes, seed=seed)
    goal = "hide" if isinstance(target, Detector) else "untargeted"
    how = {"goal": goal, "precision": precision, "compiled": compiled}
    settings = Settings(batch=batch, views=1, held_out=1, steps=10**6, **how)  # type: ignore[arg-type]
    problem = make_problem(target, scenes, threat, world=load_world(WORLD), settings=settings, seed=seed)
    return Case(size, problem)


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
