"""A twin of a network for searches: batch normalisation folded into the convolutions before it.

In evaluation mode both say the same; a gradient to the image costs two fifths less (docs/hardening.md).
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

_Pair = tuple[nn.Conv2d, nn.BatchNorm2d]


@dataclass(frozen=True)
class Fused:
    """`twin` answers as `module` did in evaluation mode at the last `refresh`; the module itself, if nothing folds.

    Folded is what follows directly in an `nn.Sequential`: elsewhere only the network's own code knows what comes next.
    """

    module: nn.Module
    twin: nn.Module
    pairs: tuple[tuple[_Pair, nn.Conv2d], ...]

    @classmethod
    def of(cls, module: nn.Module) -> "Fused":
        own = [*_pairs(module)]
        if not own:
            return cls(module, module, ())
        twin = deepcopy(module)
        folded = []
        for pair, (conv, _) in zip(own, [*_pairs(twin)], strict=True):
            if conv.bias is None:
                conv.bias = nn.Parameter(torch.zeros(conv.out_channels, device=conv.weight.device))
            folded.append((pair, conv))
        for part in [*twin.modules()]:
            if isinstance(part, nn.Sequential):
                _without_norms(part)
        made = cls(module, twin.eval(), tuple(folded))
        made.refresh()
        return made

    @torch.no_grad()
    def refresh(self) -> nn.Module:
        """The twin with the weights that the module has now."""
        if self.twin is self.module:
            return self.twin
        for (conv, norm), folded in self.pairs:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            assert folded.bias is not None
            weight, bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            folded.weight.copy_(weight)
            folded.bias.copy_(bias)
        mine = self.module.state_dict()
        done = {id(value) for _, folded in self.pairs for value in (folded.weight, folded.bias)}
        for name, value in [*self.twin.named_parameters(), *self.twin.named_buffers()]:
            if id(value) not in done:
                value.copy_(mine[name])
        return self.twin


def _pairs(module: nn.Module) -> Iterator[_Pair]:
    for part in module.modules():
        if isinstance(part, nn.Sequential):
            for before, after in zip([*part][:-1], [*part][1:], strict=True):
                if isinstance(before, nn.Conv2d) and isinstance(after, nn.BatchNorm2d) and after.track_running_stats:
                    yield before, after


def _without_norms(part: nn.Sequential) -> None:
    for row in range(1, len(part)):
        before, after = part[row - 1], part[row]
        if isinstance(before, nn.Conv2d) and isinstance(after, nn.BatchNorm2d) and after.track_running_stats:
            part[row] = nn.Identity()
