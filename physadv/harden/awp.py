"""Adversarial weight perturbation (Wu, Xia and Wang 2020, algorithm 1)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def perturbed_weights(module: nn.Module, gamma: float) -> Iterator[None]:
    """Inside, each weight w with a gradient g is w + gamma · |w| · g / |g|, layer by layer; afterwards w again."""
    moved = [one for one in module.parameters() if one.grad is not None and one.ndim > 1]
    before = [one.detach().clone() for one in moved]
    try:
        with torch.no_grad():
            for one in moved:
                assert one.grad is not None
                one.add_(one.grad, alpha=float(gamma * one.norm() / one.grad.norm().clamp(min=1e-12)))
        yield
    finally:
        with torch.no_grad():
            for one, kept in zip(moved, before, strict=True):
                one.copy_(kept)
