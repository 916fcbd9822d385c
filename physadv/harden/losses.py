"""What the outer loop minimises, per image; nothing here touches the network's mode or the optimiser."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax


@dataclass(frozen=True)
class Labelled:
    """n images and what they weigh. twin: the row of the clean twin of each attacked image, −1 where there is none.

    weight: of the cross-entropy; drawn: of the divergence from the clean twin.
    """

    images: Float[Tensor, "n 3 h w"]
    labels: Int[Tensor, " n"]
    weight: Float[Tensor, " n"]
    drawn: Float[Tensor, " n"]
    twin: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.images)


def together(parts: list[Labelled]) -> Labelled:
    """One batch after the other; twins stay twins."""
    first, twins = 0, []
    for part in parts:
        twins.append(torch.where(part.twin < 0, part.twin, part.twin + first))
        first += len(part)
    names = ("images", "labels", "weight", "drawn")
    images, labels, weight, drawn = (torch.cat([getattr(part, name) for part in parts]) for name in names)
    return Labelled(images, labels, weight, drawn, torch.cat(twins))


def loss(logits: Float[Tensor, "n c"], batch: Labelled, *, beta: float, smoothing: float) -> Float[Tensor, ""]:
    """Σ weight · CE / Σ weight + beta · Σ drawn · KL(clean ‖ attacked) / Σ drawn.

    Cross-entropy alone: Madry et al. 2018, eq. 2.1. With the divergence: TRADES, Zhang et al. 2019, eq. 5; on images
    without a label: Uesato et al. 2019, "Are labels required for adversarial robustness?" (UAT-OT).
    """
    entropy = cross_entropy(logits, batch.labels, reduction="none", label_smoothing=smoothing)
    total = (batch.weight * entropy).sum() / batch.weight.sum().clamp(min=1e-6)
    drawn = batch.drawn > 0
    if bool(drawn.any()):
        clean = softmax(logits[batch.twin[drawn]], 1)
        apart = kl_div(log_softmax(logits[drawn], 1), clean, reduction="none").sum(1)
        total = total + beta * (batch.drawn[drawn] * apart).sum() / batch.drawn[drawn].sum()
    return total
