"""Train a detector on whole photographs with boxes: assignment, loss, loop."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from physadv.augment import Augmentation, Cutout, Labelled, augmented, cut
from physadv.errors import UserError
from physadv.learning import Learning, cosine
from physadv.targets.base import Frame
from physadv.targets.boxes import area, iou, overlap
from physadv.targets.detector import Detector
from physadv.targets.fcos import SignsDet
from physadv.targets.models import DETECTORS, build
from physadv.training import Progress
from physadv.transforms.stages import derive

SHARP = 6  # power of the IoU beside the score in what makes a point answer for a sign (Feng et al. 2021)
POINTS = 10  # that answer for a sign, at most
NEAR = 0.75  # strides from the centre of a small sign at which a point may answer for it
SILENT = 0.75  # weight of what is no sign (Zhang et al. 2021)
BOX_WEIGHT = 2.0
CLIP = 10.0  # of the gradient's length
QUIET = 0.15  # of the epochs, at the end, without mosaics and pasted signs (Ge et al. 2021)
CHECK_EVERY = 5  # epochs

Truth = tuple[Float[Tensor, "_ 4"], Int[Tensor, " _"]]  # boxes and labels of one picture


@dataclass(frozen=True)
class DetectorRecipe:
    """AdamW, one-cycle schedule, average of the weights; photographs with rare classes come more often."""

    epochs: int = 110
    batch: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 2e-2
    ema: float = 0.998
    common: float = 0.4  # share of the photographs from which on a class is not rare
    staged: float = 0.3  # of the pasted signs are drawn ones


@dataclass(frozen=True)
class Assignment:
    """Which sign each of k points answers for (-1: none), and the score it should say."""

    owner: Int[Tensor, " k"]
    quality: Float[Tensor, " k"]


@torch.no_grad()
def assign(
    boxes: Float[Tensor, "k 4"],
    scores: Float[Tensor, "k c"],
    eligible: Bool[Tensor, "m k"],
    sign: Float[Tensor, "m 4"],
    label: Int[Tensor, " m"],
) -> Assignment:
    """The ten eligible points with the largest score * IoU^6 answer for a sign; of several signs, for the closest.

    quality = metric / max metric * max IoU: the best point of each sign should say its IoU.
    Feng et al. 2021, TOOD, section 3.2.
    """
    pairs = (len(sign), len(boxes), 4)
    found = iou(sign[:, None].expand(pairs), boxes.expand(pairs))
    metric = scores[:, label].mT * found**SHARP * eligible
    least = metric.topk(min(POINTS, metric.shape[1]), 1).values[:, -1:]
    chosen = (metric >= least) & (metric > 0)
    owner = torch.where(chosen, found, -1.0).argmax(0)
    rows = torch.arange(len(owner), device=owner.device)
    metric = metric * (torch.arange(len(sign), device=owner.device)[:, None] == owner) * chosen
    best = (found * (metric > 0)).amax(1)
    quality = metric[owner, rows] / metric.amax(1)[owner].clamp(min=1e-12) * best[owner]
    return Assignment(torch.where(quality > 0, owner, -1), quality)


def eligible(places: Float[Tensor, "k 3"], sign: Float[Tensor, "m 4"]) -> Bool[Tensor, "m k"]:
    """Points (x, y, stride in px) inside a sign, or close to the centre of a small one."""
    centre, half = (sign[:, :2] + sign[:, 2:]) / 2, (sign[:, 2:] - sign[:, :2]) / 2
    reach = torch.maximum(half[:, None], NEAR * places[None, :, 2:])
    return ((places[None, :, :2] - centre[:, None]).abs() < reach).all(-1)


def giou(one: Float[Tensor, "n 4"], other: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
    """IoU - (hull - union) / hull, in (-1, 1]. Rezatofighi et al. 2019."""
    shared = overlap(one, other)
    union = area(one) + area(other) - shared
    low, high = torch.minimum(one[:, :2], other[:, :2]), torch.maximum(one[:, 2:], other[:, 2:])
    hull = area(torch.cat([low, high], -1)).clamp(min=1e-6)
    return shared / union.clamp(min=1e-6) - (hull - union) / hull


def detection_loss(
    boxes: Float[Tensor, "n k 4"],
    logits: Float[Tensor, "n k c"],
    places: Float[Tensor, "k 3"],
    truth: Sequence[Truth],
) -> Float[Tensor, ""]:
    """Varifocal loss of the scores + 2 * mean of (1 - GIoU), both weighted by the scores asked for."""
    scores = logits.detach().sigmoid()
    asked, misses = torch.zeros_like(logits), logits.new_zeros(())
    for row, (sign, label) in enumerate(truth):
        if len(sign):
            given = assign(boxes[row].detach(), scores[row], eligible(places, sign), sign, label)
            points = (given.owner >= 0).nonzero()[:, 0]
            owner, quality = given.owner[points], given.quality[points]
            asked[row, points, label[owner]] = quality
            misses = misses + (quality * (1 - giou(boxes[row, points], sign[owner]))).sum()
    weight = torch.where(asked > 0, asked, SILENT * scores**2)
    entropy = binary_cross_entropy_with_logits(logits, asked, weight, reduction="sum")
    return (entropy + BOX_WEIGHT * misses) / asked.sum().clamp(min=1.0)


def start(arch: str, *, classes: int, recipe: DetectorRecipe, device: torch.device, seed: int) -> Learning[SignsDet]:
    """A new network and its optimiser. UserError: no such detector."""
    module = build(arch, classes=classes, seed=seed)
    if not isinstance(module, SignsDet):
        raise UserError(f"{arch} is no detector; there is {', '.join(DETECTORS)}.")
    return Learning.of(module.to(device), learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay)


def loss_of(
    module: SignsDet, images: Float[Tensor, "n 3 s s"], truth: Sequence[Truth], *, autocast: bool = True
) -> Float[Tensor, ""]:
    """The loss of a network in training on a batch, in mixed precision."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
        boxes, logits = module.predict(images.contiguous(memory_format=torch.channels_last))
    return detection_loss(boxes, logits, module.places(images), truth)


def train_detector(
    arch: str,
    photographs: Sequence[Labelled],
    *,
    classes: tuple[str, ...],
    drawn: Sequence[Cutout],
    recipe: DetectorRecipe,
    seed: int,
    device: torch.device | str,
    check: Callable[[Detector], float],
    report: Callable[[Progress], None],
    checkpoint: Path | None = None,
) -> Detector:
    """Train `arch` from scratch, or from the checkpoint if there is one. drawn: faces that are pasted beside cut-outs.

    The order, the pictures and the network depend on `seed` alone. check: a figure of merit, every fifth epoch.
    """
    run = start(arch, classes=len(classes), recipe=recipe, device=torch.device(device), seed=seed)
    told = {"arch": arch, "classes": classes, "recipe": asdict(recipe), "seed": seed, "photographs": len(photographs)}
    if checkpoint is not None and checkpoint.exists():
        run.load(checkpoint, told)
    frame = Frame(run.module.input_size, whole=True, pad=114 / 255)
    turns = repeats(photographs, len(classes), recipe.common)
    per_epoch = max(1, len(photographs) // recipe.batch)
    begun, since, merit = run.step // per_epoch, time.monotonic(), 0.0
    for epoch in range(begun, recipe.epochs):
        losses = []
        for images, truth in _batches(photographs, drawn, turns, recipe, frame.size_px, epoch, per_epoch, seed):
            rate = cosine(run.step, recipe.epochs * per_epoch, recipe.learning_rate)
            there = [(boxes.to(device), labels.to(device)) for boxes, labels in truth]
            loss = loss_of(run.module.train(), images.to(device), there)
            losses.append(run.descend(loss, rate=rate, clip=CLIP))
            run.remember(recipe.ema)
        if checkpoint is not None:
            run.save(checkpoint, told)
        if (epoch + 1) % CHECK_EVERY == 0 or epoch + 1 == recipe.epochs:
            merit = check(Detector.of(run.average, classes=classes, frame=frame, name=arch))
        left = (time.monotonic() - since) / (epoch + 1 - begun) * (recipe.epochs - epoch - 1)
        report(Progress(epoch + 1, recipe.epochs, sum(losses) / len(losses), merit, left, "AP50"))
    return Detector.of(run.average, classes=classes, frame=frame, name=arch)


def repeats(photographs: Sequence[Labelled], classes: int, common: float) -> Float[Tensor, " b"]:
    """How often each photograph comes: sqrt(common / share of the photographs with its rarest class), 1 at least.

    Repeat factors: Gupta et al. 2019, LVIS, section 4.2.
    """
    holds = torch.stack([torch.bincount(torch.from_numpy(one.labels), minlength=classes) > 0 for one in photographs])
    factor = (common / holds.float().mean(0).clamp(min=1e-6)).sqrt().clamp(min=1.0)
    return torch.where(holds, factor, 1.0).amax(1)


def _batches(
    photographs: Sequence[Labelled],
    drawn: Sequence[Cutout],
    turns: Float[Tensor, " b"],
    recipe: DetectorRecipe,
    size_px: int,
    epoch: int,
    steps: int,
    seed: int,
) -> Iterator[tuple[Float[Tensor, "n 3 s s"], list[Truth]]]:
    """The pictures of an epoch, in batches."""
    quiet = epoch >= (1 - QUIET) * recipe.epochs
    how = Augmentation(size_px, mosaic=0.0, pasted=1) if quiet else Augmentation(size_px)
    generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
    rows = torch.multinomial(turns, steps * recipe.batch, replacement=True, generator=generator).tolist()
    cutouts = cutouts_of(photographs, drawn, recipe.staged, generator)
    for step in range(steps):
        seen = [
            augmented(photographs, row, cutouts, how, seed=derive(seed, "picture", epoch, step * recipe.batch + place))
            for place, row in enumerate(rows[step * recipe.batch : (step + 1) * recipe.batch])
        ]
        images = torch.stack([torch.from_numpy(one.image) for one in seen]).permute(0, 3, 1, 2).float() / 255
        yield images, [(torch.from_numpy(one.boxes), torch.from_numpy(one.labels)) for one in seen]


def cutouts_of(
    photographs: Sequence[Labelled], drawn: Sequence[Cutout], staged: float, generator: torch.Generator
) -> list[Cutout]:
    """What may be pasted: every class as often as any other, `staged` of them drawn."""
    found: list[Cutout] = []
    real = [one for photograph in photographs for one in cut(photograph)]
    for label in sorted({one.label for one in (*real, *drawn)}):
        for pool, count in ((real, 100), (drawn, round(100 * staged / (1 - staged)))):
            mine = [one for one in pool if one.label == label]
            rows = torch.randint(max(1, len(mine)), (count,), generator=generator).tolist()
            found += [mine[row] for row in rows if mine]
    return found
