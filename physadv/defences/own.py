"""`python:FILE.py:FACTORY`: a defence of one's own."""

from pathlib import Path

import torch
from torch import nn

from physadv.defences.base import Defence
from physadv.defences.purifier import Images, Purifier
from physadv.errors import UserError
from physadv.targets.adapters.python import imported, neighbours_importable
from physadv.targets.base import one_line, set_eval


class Own(Purifier):
    """A module images -> images. It may have `stand_in` (images -> images), and set `randomised`, `differentiable`.

    What it draws from torch's global generator is seeded from the defence's.
    """

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__(name)
        self.inner = module
        self.randomised = bool(getattr(module, "randomised", False))
        self.differentiable = bool(getattr(module, "differentiable", False))
        set_eval(module)

    def change(self, images: Images, *, generator: torch.Generator) -> Images:
        seed = int(torch.randint(2**62, (), generator=generator))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            changed = self.inner(images)
        if not isinstance(changed, torch.Tensor) or changed.shape != images.shape:
            raise UserError(f"{self.name} must return images of the shape it was given, {tuple(images.shape)}.")
        return changed

    def stand_in(self, images: Images) -> Images:
        return getattr(self.inner, "stand_in", super().stand_in)(images)


def own(rest: str, name: str) -> Defence:
    """What FACTORY() returns: a defence, or a module images -> images. UserError: anything else."""
    file, _, factory = rest.rpartition(":")
    path = Path(file).resolve()
    if not path.is_file() or not factory.isidentifier():
        raise UserError(f"There is no file {file or rest}; write python:FILE.py:FACTORY.")
    with neighbours_importable(path.parent):
        source = imported(path, name)
        try:
            made = getattr(source, factory)()
        except (Exception, SystemExit) as error:
            raise UserError(f"{name}: {factory}() fails ({one_line(error)}).") from error
    if isinstance(made, Defence):
        return made
    if not isinstance(made, nn.Module):
        raise UserError(
            f"{name}: {factory}() returns a {type(made).__name__}; it must return a module images -> images, or an "
            "object with name, randomised, abstains, fitted, fit and answer."
        )
    return Own(made, name)
