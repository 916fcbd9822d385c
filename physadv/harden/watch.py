"""What is held out of a training: tracks on which a fresh attack after each epoch chooses the weights."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor, nn

from physadv.errors import UserError
from physadv.harden.judge import attempt
from physadv.harden.loop import Checked
from physadv.harden.mixture import fitting
from physadv.harden.trials import Trial, Tries
from physadv.scenes.base import Scenes
from physadv.scenes.canvas import spread
from physadv.targets.base import Classifier
from physadv.transforms.stages import derive
from physadv.transforms.world import World

EVERY = 10  # one track in so many is held out
SCENES = 96  # of them, attacked after every epoch


def held_out_scenes(scenes: Scenes) -> tuple[Scenes, Scenes]:
    """What is trained on, and what is not: every tenth track; of staged signs every other background.

    UserError: a single track.
    """
    if scenes.backgrounds is not None:
        pictures = scenes.backgrounds
        apart = (pictures[::2], pictures[1::2]) if len(pictures) > 1 else (pictures, pictures)
        return replace(scenes, backgrounds=apart[0]), replace(scenes, backgrounds=apart[1])
    tracks = sorted(set(scenes.groups))
    if len(tracks) < 2:
        raise UserError(
            "--scenes holds one sign alone, and no other is left to choose the weights by: give photographs of more."
        )
    held = set(tracks[::EVERY])
    apart_rows = (_rows(scenes, held, inside=inside) for inside in (False, True))
    trained, kept = (scenes.take(rows) for rows in apart_rows)
    return trained, kept


def checker(
    target: Classifier,
    held: Scenes,
    threats: Sequence[str],
    *,
    world: World,
    mask: str | None,
    palette: str | None,
    tries: Tries,
    seed: int,
) -> Callable[[nn.Module], Checked]:
    """The robust and the clean share of at most `SCENES` held-out scenes, the threats that fit them taking turns."""
    threats = fitting(threats, held, mask=mask, palette=palette)
    few = held.take(torch.tensor(spread(held.groups, min(SCENES, len(held)))))
    threats = threats[: len(few)]
    parts = [few.take(torch.arange(first, len(few), len(threats))) for first in range(len(threats))]
    made = [Trial(text, world, tries, mask=mask, palette=palette, step=0.2) for text in threats]

    def check(module: nn.Module) -> Checked:
        found = [
            attempt(replace(target, module=module), part, trial, seed=derive(seed, "check"))
            for part, trial in zip(parts, made, strict=True)
        ]
        robust, clean = (torch.cat([getattr(one, name).flatten() for one in found]) for name in ("right", "clean"))
        return Checked(robust.float().mean().item(), clean.float().mean().item())

    return check


def _rows(scenes: Scenes, held: set[str], *, inside: bool) -> Int[Tensor, " n"]:
    return torch.tensor([row for row, group in enumerate(scenes.groups) if (group in held) is inside])
