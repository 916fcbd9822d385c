"""Train a classifier on photographs and staged faces seen through a world: the victim, and hardening's baseline."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from physadv.errors import UserError
from physadv.question import truth_of
from physadv.scenes.base import Scenes
from physadv.targets.base import Classifier, Frame
from physadv.targets.models import build
from physadv.transforms.stages import derive
from physadv.transforms.world import World


@dataclass(frozen=True)
class Recipe:
    """Plain supervised training: AdamW, one-cycle schedule, label smoothing, an average of the weights at the end."""

    epochs: int = 14
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    smoothing: float = 0.05
    ema: float = 0.998
    staged_share: float = 0.25  # of each batch, where there are both kinds of scenes
    erasing: float = 0.5  # of the images lose a rectangle to a flat colour (Zhong et al. 2020)
    epsilon: float = 0.0  # above 0: fast adversarial training, every value of an image changed by at most this much


@dataclass(frozen=True)
class Progress:
    """What an epoch reports."""

    epoch: int
    epochs: int
    loss: float
    accuracy: float
    seconds_left: float
    measure: str = "accuracy"


def train(
    arch: str,
    sources: list[Scenes],
    *,
    world: World,
    context: float,
    recipe: Recipe,
    seed: int,
    report: Callable[[Progress], None],
) -> Classifier:
    """Train `arch` from scratch; each batch draws its share from every source and photographs it in the world."""
    check_sources(arch, sources)
    classes = sources[0].classes
    module = build(arch, classes=len(classes), seed=seed)
    module = module.to(sources[0].images.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    frame = Frame(module.input_size, context)
    steps = recipe.epochs * _steps_per_epoch(sources, recipe)
    decay = min(recipe.ema, max(0.0, 1 - 4 / steps))  # a short training forgets where it began, too
    average = torch.optim.swa_utils.AveragedModel(
        module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay), use_buffers=True
    )
    optimiser = torch.optim.AdamW(module.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    rise = min(max(0.2, 1.5 / steps), 0.75)  # a rise of exactly one step divides by zero
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=steps, pct_start=rise)
    start = time.monotonic()
    with _seeded(seed, sources[0].images.device):
        for epoch in range(recipe.epochs):
            losses, hits = [], []
            batches = _batches(sources, world, frame, recipe, seed=seed, epoch=epoch)
            for step, (clean, labels) in enumerate(batches):
                drawn = derive(seed, "perturb", epoch, step)
                images = perturbed(module, clean, labels, recipe.epsilon, seed=drawn) if recipe.epsilon else clean
                with torch.autocast(images.device.type, torch.bfloat16):
                    logits = module.train()(images.contiguous(memory_format=torch.channels_last)).float()
                loss = cross_entropy(logits, labels, label_smoothing=recipe.smoothing)
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(module.parameters(), 5.0)
                optimiser.step()
                schedule.step()
                average.update_parameters(module)
                losses.append(loss.item())
                hits.append((logits.argmax(1) == labels).float().mean().item())
            spent = time.monotonic() - start
            left = spent / (epoch + 1) * (recipe.epochs - epoch - 1)
            report(Progress(epoch + 1, recipe.epochs, sum(losses) / len(losses), sum(hits) / len(hits), left))
    return Classifier.of(average.module.eval(), classes=classes, frame=frame, name=arch)


def perturbed(
    module: nn.Module,
    images: Float[Tensor, "n 3 h w"],
    labels: Int[Tensor, " n"],
    epsilon: float,
    *,
    seed: int,
) -> Float[Tensor, "n 3 h w"]:
    """Images moved against their labels: δ₀ ~ U[−ε, ε], then δ = clip(δ₀ + 1.25 ε sign(∂loss/∂x), −ε, ε), in [0, 1].

    The gradient is that of the network of the step that follows, with the batch's own statistics, but without dropout;
    running statistics, weights and their gradients stay as they are. Wong, Rice and Kolter 2020, algorithm 3.
    """
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed)).to(images.device)
    start = (images + epsilon * (2 * noise - 1)).clamp(0, 1).requires_grad_()
    with _momentary(module):
        with torch.autocast(images.device.type, torch.bfloat16):
            logits = module(start.contiguous(memory_format=torch.channels_last)).float()
        (gradient,) = torch.autograd.grad(cross_entropy(logits, labels), start)
    moved = start.detach() + 1.25 * epsilon * gradient.sign()
    return torch.minimum(torch.maximum(moved, images - epsilon), images + epsilon).clamp(0, 1)


@contextmanager
def _momentary(module: nn.Module) -> Iterator[None]:
    """Batch normalisation by the batch, which it then forgets; dropout off."""
    kept = {name: value.clone() for name, value in module.named_buffers()}
    module.eval()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.train()
    try:
        yield
    finally:
        for name, value in module.named_buffers():
            value.copy_(kept[name])


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout knows the global generator only: it is seeded inside, and as it was afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive(seed, "dropout"))
        yield


def check_sources(arch: str, sources: Sequence[Scenes], judged: Sequence[Scenes] = ()) -> None:
    """UserError: no such network, scenes of several data sets, or scenes to judge on of a class that is not trained."""
    classes = sources[0].classes
    build(arch, classes=len(classes), seed=0)
    if any(scenes.classes != classes for scenes in sources):
        raise UserError("All scenes of a training must name the same classes; give scenes of one data set.")
    for scenes in judged:
        truth_of(scenes, classes)


def _steps_per_epoch(sources: list[Scenes], recipe: Recipe) -> int:
    return max(len(sources[0]) // _shares(sources, recipe)[0], 1)


def _shares(sources: list[Scenes], recipe: Recipe) -> list[int]:
    """Scenes that each source gives to a batch: photographs first, staged faces their share."""
    if len(sources) == 1:
        return [recipe.batch]
    staged = max(1, round(recipe.batch * recipe.staged_share / (len(sources) - 1)))
    return [recipe.batch - staged * (len(sources) - 1)] + [staged] * (len(sources) - 1)


def _batches(
    sources: list[Scenes], world: World, frame: Frame, recipe: Recipe, *, seed: int, epoch: int
) -> Iterator[tuple[Float[Tensor, "n 3 h w"], Int[Tensor, " n"]]]:
    shares = _shares(sources, recipe)
    steps = _steps_per_epoch(sources, recipe)
    generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
    orders = [_order(len(source), steps * share, generator) for source, share in zip(sources, shares, strict=True)]
    for step in range(steps):
        images, labels = [], []
        for which, (source, share, order) in enumerate(zip(sources, shares, orders, strict=True)):
            scenes = source.take(order[step * share : (step + 1) * share])
            first = (epoch * steps + step) * share
            views = world.draw(range(first, first + share), seed=derive(seed, "train", which))
            images.append(world.photograph(None, scenes, views, frame=frame))
            labels.append(scenes.labels)
        yield _erase(torch.cat(images), recipe.erasing, seed=derive(seed, "erase", epoch, step)), torch.cat(labels)


def _erase(images: Float[Tensor, "n 3 h w"], probability: float, *, seed: int) -> Float[Tensor, "n 3 h w"]:
    """Random erasing: 2 to 20 % of the image, aspect ratio 1/3 to 3, one random colour."""
    height, width = images.shape[-2:]
    u = torch.rand(len(images), 8, generator=torch.Generator().manual_seed(seed)).to(images.device)
    area, aspect = 0.02 + 0.18 * u[:, 0], 3 ** (2 * u[:, 1] - 1)
    wide, tall = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    left, top = u[:, 2] * (1 - wide), u[:, 3] * (1 - tall)
    x, y = (torch.arange(size, device=images.device).add(0.5).div(size) for size in (width, height))
    inside_x = (x >= left[:, None]) & (x < (left + wide)[:, None])
    inside_y = (y >= top[:, None]) & (y < (top + tall)[:, None])
    erased = inside_y[:, :, None] & inside_x[:, None, :] & (u[:, 4] < probability)[:, None, None]
    return torch.where(erased[:, None], u[:, 5:8, None, None], images)


def _order(scenes: int, needed: int, generator: torch.Generator) -> Int[Tensor, " needed"]:
    """Every scene once before any comes twice."""
    rounds = -(-needed // scenes)
    return torch.cat([torch.randperm(scenes, generator=generator) for _ in range(rounds)])[:needed]
