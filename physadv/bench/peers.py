"""A step of other tools on the same network and images: each by its own code, where it is installed.

A step is what one more iteration costs, (time of 1 + MORE iterations − time of one) / MORE, so that nothing that a tool
does once counts. Networks are handed over as they are, weights trainable; whoever does not freeze them pays for it.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from physadv.bench.clock import Clock, interleaved

MORE = 3
RADIUS, STEP = 8 / 255, 2 / 255
Iterations = Callable[[int], object]


@dataclass(frozen=True)
class Victim:
    """A classifier, and images with their labels."""

    module: nn.Module
    images: Float[Tensor, "n 3 s s"]
    labels: Int[Tensor, " n"]
    classes: int


def art_patch(victim: Victim) -> Iterations:
    """ART's AdversarialPatchPyTorch: one affine warp per image, nearest neighbour."""
    evasion, estimator = import_module("art.attacks.evasion"), _art(victim)
    images, labels = victim.images.numpy(), torch.nn.functional.one_hot(victim.labels, victim.classes).numpy()
    size = victim.images.shape[-1]

    def run(iterations: int) -> object:
        attack = evasion.AdversarialPatchPyTorch(
            estimator,
            max_iter=iterations,
            batch_size=len(images),
            patch_shape=(3, size, size),
            learning_rate=0.1,
            targeted=False,
            verbose=False,
        )
        return attack.generate(images, labels)

    return run


def art_pgd(victim: Victim) -> Iterations:
    """ART's ProjectedGradientDescent."""
    evasion, estimator = import_module("art.attacks.evasion"), _art(victim)
    images, labels = victim.images.numpy(), torch.nn.functional.one_hot(victim.labels, victim.classes).numpy()

    def run(iterations: int) -> object:
        how: dict[str, Any] = {"eps": RADIUS, "eps_step": STEP, "batch_size": len(images), "verbose": False}
        return evasion.ProjectedGradientDescentPyTorch(estimator, max_iter=iterations, **how).generate(images, labels)

    return run


def _art(victim: Victim) -> Any:
    classification = import_module("art.estimators.classification")
    shape: Any = tuple(victim.images.shape[1:])
    loss = nn.CrossEntropyLoss()
    return classification.PyTorchClassifier(
        victim.module, loss, shape, victim.classes, clip_values=(0.0, 1.0), device_type="cpu"
    )


def foolbox_pgd(victim: Victim) -> Iterations:
    """foolbox's LinfPGD."""
    foolbox = import_module("foolbox")
    model = foolbox.PyTorchModel(victim.module, bounds=(0, 1), device="cpu")

    def run(iterations: int) -> object:
        attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=iterations)
        return attack(model, victim.images, victim.labels, epsilons=[RADIUS])

    return run


def torchattacks_pgd(victim: Victim) -> Iterations:
    """torchattacks' PGD."""
    torchattacks = import_module("torchattacks")

    def run(iterations: int) -> object:
        return torchattacks.PGD(victim.module, eps=RADIUS, alpha=STEP, steps=iterations)(victim.images, victim.labels)

    return run


def kornia_loop(victim: Victim) -> Iterations:
    """The usual EOT loop: a masked patch, five of Kornia's augmentations over the whole image, PGD."""
    k = import_module("kornia.augmentation")
    world = k.AugmentationSequential(
        k.RandomAffine(10.0, (0.05, 0.05), (0.9, 1.1), p=1.0),
        k.RandomPerspective(0.2, p=1.0),
        k.ColorJiggle(0.2, 0.2, 0.2, 0.05, p=1.0),
        k.RandomGaussianBlur((5, 5), (0.1, 1.5), p=1.0),
        k.RandomGaussianNoise(0.0, 0.02, p=1.0),
        data_keys=["input"],
    )
    size = victim.images.shape[-1]
    mask = torch.zeros(1, 1, size, size)
    mask[..., size // 3 : 2 * size // 3, size // 3 : 2 * size // 3] = 1

    def run(iterations: int) -> object:
        patch = torch.full((1, 3, size, size), 0.5)
        for _ in range(iterations):
            patch.requires_grad_()
            worn = victim.images * (1 - mask) + patch * mask
            logits = victim.module(world(worn).clamp(0, 1))
            (pull,) = torch.autograd.grad(nn.functional.cross_entropy(logits, victim.labels), patch)
            patch = (patch.detach() + STEP * pull.sign()).clamp(0, 1)
        return patch

    return run


PEERS: dict[str, tuple[str, Callable[[Victim], Iterations]]] = {
    "ART AdversarialPatchPyTorch": ("adversarial-robustness-toolbox", art_patch),
    "ART ProjectedGradientDescent": ("adversarial-robustness-toolbox", art_pgd),
    "foolbox LinfPGD": ("foolbox", foolbox_pgd),
    "torchattacks PGD": ("torchattacks", torchattacks_pgd),
    "Kornia AugmentationSequential loop": ("kornia", kornia_loop),
}


def found(victim: Victim) -> tuple[dict[str, Iterations], dict[str, str]]:
    """The peers that run here, and why the others do not."""
    running: dict[str, Iterations] = {}
    absent: dict[str, str] = {}
    for name, (package, make) in PEERS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                version(package)
                run = make(victim)
                run(1)
                running[name] = run
        except PackageNotFoundError:
            absent[name] = f"{package} is not installed"
        except Exception as error:  # whatever somebody else's tool raises: the benchmark goes on without it
            absent[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return running, absent


def steps(
    peers: Mapping[str, Iterations], bare: Callable[[], object], *, repeats: int, clock: Clock
) -> dict[str, float]:
    """Median ratio of one more iteration to the bare step, all taking turns."""
    calls: dict[str, Callable[[], object]] = {"bare": bare}
    for name, run in peers.items():
        calls |= {f"{name} 1": partial(run, 1), f"{name} more": partial(run, 1 + MORE)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spent = interleaved(calls, repeats=repeats, clock=clock)
    return {
        name: median(
            (more - one) / MORE / alone
            for more, one, alone in zip(spent[f"{name} more"], spent[f"{name} 1"], spent["bare"], strict=True)
        )
        for name in peers
    }


def installed() -> dict[str, str]:
    """Versions of the peers' packages."""
    told = {}
    for package in sorted({package for package, _ in PEERS.values()}):
        try:
            told[package] = version(package)
        except PackageNotFoundError:
            continue
    return told
