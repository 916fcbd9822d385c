"""Learning curves of a data set and a network: accuracy, standard and robust, of trainings on growing parts of it.

A part is made of whole signs (tracks), because photographs of one sign are nearly the same photograph. Parts of one
seed are nested: share f of every class's signs, at least one, in that seed's order.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from math import sqrt
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from physadv.errors import UserError
from physadv.files import read_json, sha256, write_json
from physadv.heldout import HeldOut
from physadv.question import truth_of
from physadv.scenes.base import Scenes
from physadv.scenes.store import digest
from physadv.targets.base import Classifier, frozen
from physadv.targets.models import build
from physadv.training import Recipe, train
from physadv.transforms.stages import derive
from physadv.transforms.world import DIGITAL

CONTEXT = 0.1
EFFORT = {"standard": 450.0, "robust": 1000.0}  # epochs · √photographs: a quarter of them is seen twice as often
BATCH, LEARNING_RATE = 64, 1e-2
ATTACK_STEPS = 10
TRAININGS = ("standard", "robust")
_PROBE = 128  # photographs that tell how long a training takes


@dataclass(frozen=True)
class Study:
    """What is measured: trainings of `arch` on parts of `scenes`, judged on `judge`, within ε of its photographs."""

    arch: str
    scenes: Scenes
    judge: Scenes
    shares: tuple[float, ...]
    seeds: int
    epsilon: float
    seed: int

    def __post_init__(self) -> None:
        if self.scenes.staged or self.judge.staged:
            raise UserError(
                "A learning curve counts photographs, and staged signs are drawn; give gtsrb: or imagefolder:."
            )
        if set(self.scenes.groups) & set(self.judge.groups) and set(self.scenes.names) & set(self.judge.names):
            raise UserError("--judge shows photographs that are trained on; give others, of signs that --scenes lacks.")

    @property
    def runs(self) -> list[tuple[int, float, str]]:
        """(seed, share, training): small parts first, so that the curve appears early."""
        return [(seed, share, how) for share, seed, how in product(self.shares, range(self.seeds), TRAININGS)]

    @cached_property
    def fingerprint(self) -> str:
        """What points must agree on to belong to one curve; more sizes or seeds may join it."""
        said = [self.arch, self.epsilon, self.seed, CONTEXT, EFFORT, ATTACK_STEPS, self.scenes.names, self.judge.names]
        pixels = [digest(one.images) for one in (self.scenes, self.judge)]
        return sha256(repr((said, pixels)).encode())[:16]

    @cached_property
    def judged_signs(self) -> Int[np.ndarray, " n"]:
        """Row of the physical sign of each photograph that judges."""
        return np.unique(np.asarray(self.judge.groups), return_inverse=True)[1]


@dataclass(frozen=True)
class Point:
    """One training and its judgement: photographs answered rightly of each judged sign, clean and under attack."""

    seed: int
    share: float
    training: str
    photographs: int
    signs: int
    clean: tuple[int, ...]
    robust: tuple[int, ...]
    seconds: float

    @property
    def key(self) -> tuple[int, float, str]:
        return self.seed, self.share, self.training


@dataclass(frozen=True)
class Done:
    """What is reported after a training."""

    point: Point
    number: int
    total: int
    judged: int
    seconds_left: float


def part(scenes: Scenes, share: float, *, seed: int) -> Scenes:
    """Share `share` of every class's signs, whole, at least one; a larger share of the same seed contains it."""
    kept: set[str] = set()
    groups, labels = np.asarray(scenes.groups), scenes.labels.cpu().numpy()
    for label in np.unique(labels):
        signs = np.unique(groups[labels == label])
        order = np.random.default_rng(derive(seed, "signs", int(label))).permutation(signs)
        kept.update(order[: max(1, round(share * len(signs)))].tolist())
    rows = [row for row, group in enumerate(scenes.groups) if group in kept]
    return scenes.take(torch.tensor(rows))


def input_px(arch: str) -> int:
    """What the network takes: photographs are cropped to it once, not at every step."""
    return int(build(arch, classes=2, seed=0).input_size)  # type: ignore[arg-type]


def epochs_for(photographs: float, training: str) -> int:
    """A function of n, the same beyond what is measured: EFFORT/√n, so that the work grows with √n."""
    return max(1, round(EFFORT[training] / sqrt(photographs)))


def measure(
    study: Study, path: Path, *, resume: bool, report: Callable[[Done], None] = lambda done: None
) -> list[Point]:
    """Every run of the study; each point is written to `path` at once, and with `resume` not measured again.

    UserError: the points at `path` belong to another study.
    """
    points = {point.key: point for point in (_read(study, path) if resume and path.is_file() else [])}
    todo = [run for run in study.runs if run not in points]
    work = {run: _work(study, *run) for run in todo}
    spent = worked = 0.0
    for number, run in enumerate(todo, start=1):
        points[run] = _point(study, *run)
        _write(study, path, [*points.values()])
        spent, worked = spent + points[run].seconds, worked + work.pop(run)
        left = spent / worked * sum(work.values())
        report(Done(points[run], number, len(todo), len(study.judge), left))
    return [points[run] for run in study.runs]


def estimate(study: Study, path: Path, *, resume: bool) -> float:
    """Seconds that `measure` will take, from a short training; about right for what a processor is doing now."""
    done = {point.key for point in (_read(study, path) if resume and path.is_file() else [])}
    few = study.scenes.take(torch.arange(min(_PROBE, len(study.scenes))))
    _trained(study, few, 1, "robust", seed=0)  # the first steps of a process are slow
    start = time.monotonic()
    _trained(study, few, 2, "robust", seed=0)
    each = (time.monotonic() - start) / (2 * len(few)) / _weight("robust")
    return each * sum(_work(study, *run) for run in study.runs if run not in done)


def _weight(training: str) -> float:
    """The work of a training step on one photograph, in passes through the network."""
    return 5.0 if training == "robust" else 3.0


def _work(study: Study, seed: int, share: float, training: str) -> float:
    """Passes through the network of one run."""
    n = share * len(study.scenes)
    return n * epochs_for(n, training) * _weight(training) + len(study.judge) * (2 * ATTACK_STEPS + 6)


def _point(study: Study, seed: int, share: float, training: str) -> Point:
    start = time.monotonic()
    scenes = part(study.scenes, share, seed=derive(study.seed, "part", seed))
    epochs, drawn = epochs_for(len(scenes), training), derive(study.seed, "training", seed)
    target = _trained(study, scenes, epochs, training, seed=drawn)
    clean, robust = judged(target, study.judge, study.epsilon, seed=derive(study.seed, "attack"))
    sizes, seconds = (len(scenes), len(set(scenes.groups))), time.monotonic() - start
    return Point(seed, share, training, *sizes, _by_sign(study, clean), _by_sign(study, robust), seconds)


def _by_sign(study: Study, right: Bool[Tensor, " n"]) -> tuple[int, ...]:
    return tuple(int(k) for k in np.bincount(study.judged_signs, weights=right.numpy()))


def _trained(study: Study, scenes: Scenes, epochs: int, training: str, *, seed: int) -> Classifier:
    recipe = Recipe(
        epochs=epochs,
        batch=BATCH,
        learning_rate=LEARNING_RATE,
        erasing=0.0,
        epsilon=study.epsilon if training == "robust" else 0.0,
    )
    return train(
        study.arch, [scenes], world=DIGITAL, context=CONTEXT, recipe=recipe, seed=seed, report=lambda progress: None
    )


def judged(
    target: Classifier, scenes: Scenes, epsilon: float, *, seed: int
) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " n"]]:
    """Which photographs are answered rightly as they are, and also after ten steps of PGD within ε (ℓ∞)."""
    truth = truth_of(scenes, target.classes)
    photographs = HeldOut(target, scenes, DIGITAL, 1, seed).photographs(None)
    clean, robust, first = [], [], 0
    with frozen(target.module):
        for images in photographs:
            labels = truth[first : first + len(images)]
            first += len(images)
            clean.append(_right(target, images, labels))
            attacked = _pgd(target, images, labels, epsilon, seed=derive(seed, "start", first))
            robust.append(clean[-1] & _right(target, attacked, labels))
    return torch.cat(clean), torch.cat(robust)


@torch.no_grad()
def _right(target: Classifier, images: Float[Tensor, "n 3 h w"], labels: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
    return (target(images).argmax(1) == labels).cpu()


def _pgd(
    target: Classifier, images: Float[Tensor, "n 3 h w"], labels: Int[Tensor, " n"], epsilon: float, *, seed: int
) -> Float[Tensor, "n 3 h w"]:
    """ℓ∞ descent on the true class from a random start: steps of ε/4 (Madry et al. 2018). Judged in float32."""
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed)).to(images.device)
    moved = (images + epsilon * (2 * noise - 1)).clamp(0, 1)
    low, high = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)
    for _ in range(ATTACK_STEPS):
        moved.requires_grad_()
        with torch.autocast(images.device.type, torch.bfloat16):
            loss = cross_entropy(target(moved.contiguous(memory_format=torch.channels_last)).float(), labels)
        (gradient,) = torch.autograd.grad(loss, moved)
        moved = (moved.detach() + epsilon / 4 * gradient.sign()).clamp(low, high)
    return moved


def _write(study: Study, path: Path, points: Sequence[Point]) -> None:
    write_json(path, {"fingerprint": study.fingerprint, "points": [asdict(point) for point in points]})


def _read(study: Study, path: Path) -> list[Point]:
    found = read_json(path)
    try:
        if found["fingerprint"] != study.fingerprint:
            raise UserError(f"{path} belongs to another curve; repeat that run's options, or start with --overwrite.")
        rows = [point | {name: tuple(point[name]) for name in ("clean", "robust")} for point in found["points"]]
        return [Point(**row) for row in rows]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} does not hold the points of a curve ({error!r}); start with --overwrite.") from error
