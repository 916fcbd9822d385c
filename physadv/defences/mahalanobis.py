"""Mahalanobis detector: features far from those of every class are no clean image.

Lee, Lee, Lee & Shin, "A simple unified framework for detecting out-of-distribution samples and adversarial attacks",
NeurIPS 2018, equations 1 and 2; here of the last features alone, without its second stage. Fails because the distance
is differentiable, and the attacker descends on it as on any logit: Carlini & Wagner, AISec 2017.
"""

from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from physadv.defences.detector import Detector, Images, Logits
from physadv.heldout import CHUNK

SHRINKAGE = 0.1


class Mahalanobis(Detector):
    """score² = min_c (φ − μ_c)ᵀ Σ⁻¹ (φ − μ_c), Σ shared by the classes and shrunk towards a multiple of one."""

    means: Tensor
    whitening: Tensor

    def __init__(self) -> None:
        super().__init__("mahalanobis")
        self.register_buffer("means", torch.empty(0, 0))
        self.register_buffer("whitening", torch.empty(0, 0))

    def learn(self, module: nn.Module, images: Images, labels: Int[Tensor, " n"]) -> None:
        found = torch.cat([features(module, chunk)[1] for chunk in images.split(CHUNK)]).double()
        classes, of = labels.unique(return_inverse=True)
        means = torch.stack([found[of == row].mean(0) for row in range(len(classes))])
        covariance = (found - means[of]).T @ (found - means[of]) / len(found)
        even = covariance.trace() / len(covariance) * torch.eye(len(covariance)).to(covariance)
        factor = torch.linalg.cholesky((1 - SHRINKAGE) * covariance + SHRINKAGE * even)
        self.whitening = torch.linalg.inv(factor).T.float()
        self.means = means.float() @ self.whitening

    def scored(self, module: nn.Module, images: Images) -> tuple[Logits, Float[Tensor, " n"]]:
        logits, found = features(module, images)
        return logits, torch.cdist(found @ self.whitening, self.means).amin(1)


def features(module: nn.Module, images: Images) -> tuple[Logits, Float[Tensor, "n d"]]:
    """The logits and what goes into the last linear layer; the logits themselves where there is none."""
    linear = [part for part in module.modules() if isinstance(part, nn.Linear)]
    seen: list[Tensor] = []

    def see(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0])

    with linear[-1].register_forward_pre_hook(see) if linear else nullcontext():
        logits = module(images)
    return logits, seen[0] if seen else logits
