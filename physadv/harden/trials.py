"""What a hardened target is judged by: the threats of its training, and others that it never saw."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from physadv.errors import UserError
from physadv.harden.mixture import CUT_OUT, is_ball, parse_mixture, parse_one
from physadv.location import CANDIDATES, STILL_CANDIDATES
from physadv.settings import Settings
from physadv.transforms.world import DIGITAL, World, load_world

SIZES = (5, 8, 12, 16, 20)  # % of the sign, of the matrix
PLAIN = "any plain sticker"
MASKS = ("stickers:two-bars", "stickers:rp2")
RING = "ring:4%"
SHADOW = "shadow:0.43"
BALLS = ("linf:2/255", "linf:4/255")
_DEFAULT = "patch:10%@worst"
_PHYSICAL = "drive-by"
_SOUGHT = re.compile(r"patch:([\d.]+)%@worst")
_STEP = 0.1  # in colour
_VIEWS = 2  # photographs of each scene per step, where they differ
_QUERIES = 3  # steps of the search without gradients, for one of the others


@dataclass(frozen=True)
class Tries:
    """How hard the attacks that judge try: starts (each at another place, where it is sought) x steps.

    Threats of the training get all of it, the others two fifths of the starts and half of the steps.
    """

    steps: int = 100
    restarts: int = 5
    resolution_px: int = 32
    batch: int = 50

    @property
    def fewer(self) -> "Tries":
        return replace(self, steps=max(1, self.steps // 2), restarts=max(1, round(0.4 * self.restarts)))


@dataclass(frozen=True)
class Trial:
    """One fresh attack on every scene. novel: what the training has not seen of it; nothing: it was trained on.

    mask: of stickers that name none. palette: of what is cut out. step: in colour.
    """

    threat: str
    world: World
    tries: Tries
    novel: tuple[str, ...] = ()
    optimiser: str = "pgd"
    plain: bool = False
    step: float = _STEP
    mask: str | None = None
    palette: str | None = None

    @property
    def trained(self) -> bool:
        return not self.novel

    @property
    def name(self) -> str:
        if self.plain:
            return f"{PLAIN}, {self.threat}"
        return self.threat if self.optimiser == "pgd" else f"{self.threat}, {self.optimiser}"

    @property
    def key(self) -> str:
        """What tells it from every other."""
        tries = self.tries
        effort = "" if self.plain else f" {tries.restarts}x{tries.steps}"
        return f"{self.name} {self.mask} {self.palette} {self.world.hash}{effort} {tries.resolution_px}"

    @property
    def ran(self) -> dict[str, int] | None:
        """How hard it tries: starts, steps of each, and the places or shapes tried before; None of a plain sticker."""
        if self.plain:
            return None
        still, tried = self.threat.startswith("shadow"), self.tries
        steps = 1 if still else self.settings(random=False, ball=False).steps
        sought = STILL_CANDIDATES if still else CANDIDATES if self.threat.endswith("@worst") else 0
        return {"restarts": tried.restarts, "steps": steps, "candidates": max(sought, tried.restarts) if sought else 0}

    def settings(self, *, random: bool, ball: bool) -> Settings:
        """random: two views of a scene can differ."""
        blind = self.optimiser == "random-search"
        return Settings(
            optimiser=self.optimiser,
            step_size=None if ball or blind else self.step,
            steps=self.tries.steps * (_QUERIES if blind else 1),
            restarts=self.tries.restarts,
            batch=self.tries.batch,
            views=_VIEWS if random else 1,
            common=blind,
            per_scene=True,
            early_stop=True,
            check_every=20 if random else 5,
            held_out=1,
        )


def trials(
    threats: Sequence[str],
    *,
    world: World,
    tries: Tries,
    staged: bool,
    mask: str | None = None,
    palette: str | None = None,
) -> list[Trial]:
    """First what was trained on, then everything else. world: of the training; staged: of the scenes that judge."""
    specs = parse_mixture(threats, mask=mask, palette=palette)
    printed = [text for text, spec in specs.items() if not is_ball(spec)]
    seen = [*specs.values()]
    first = next((text for text in printed if text.partition(":")[0] in CUT_OUT), _DEFAULT)
    known = {part.hash for part in _parts(world)}
    with_colours: dict[str, Any] = {"mask": mask, "palette": palette}
    made = []
    for where in _worlds(world):
        new = () if where.hash in known else ("world",)
        fitting = threats if where.hash == DIGITAL.hash and not staged else printed
        made += [Trial(text, where, tries, new, **with_colours) for text in fitting]
    for where in _worlds(world)[:2]:
        new = () if where.hash in known else ("world",)
        digital = where.hash == DIGITAL.hash
        said = _unseen(threats, first, balls=digital and not staged, all_of_them=digital)
        said = {text: what for text, what in said.items() if parse_one(text, **with_colours) not in seen}
        made += [Trial(text, where, tries.fewer, (*what, *new), **with_colours) for text, what in said.items()]
        if digital:
            for optimiser, what in (("adam", "optimiser"), ("random-search", "no gradient")):
                made.append(Trial(first, where, tries.fewer, (what, *new), optimiser, **with_colours))
        made.append(Trial(first, where, tries, ("plain", *new), plain=True, **with_colours))
    return made


def trained_sizes(threats: Sequence[str]) -> tuple[float, ...]:
    """The sizes of patches whose place was sought, in % of the sign."""
    return tuple(float(found[1]) for text in threats if (found := _SOUGHT.fullmatch(text)))


def sized(size: float) -> str:
    return f"patch:{size:g}%@worst"


def _worlds(world: World) -> list[World]:
    """Digital, physical, and what else the training saw."""
    always = [DIGITAL, load_world(_PHYSICAL)]
    return always + [part for part in _parts(world) if part.hash not in {one.hash for one in always}]


def _parts(world: World) -> list[World]:
    """The worlds that a mixture joins, each once: by their own names where the mixture's tells them."""
    if len(world.components) == 1:
        return [world]
    count, known = len(world.components), {one.hash: one for one in _named(world.name)}
    parts = [
        World(f"{world.name} ({part} of {count})", (stages,)) for part, stages in enumerate(world.components, start=1)
    ]
    return [*{one.hash: known.get(one.hash, one) for one in parts}.values()]


def _named(joined: str) -> list[World]:
    """Worlds that a name joins by +; what names none (a file that has a name of its own) is left out."""
    found = []
    for part in joined.split("+"):
        with suppress(UserError):
            found.append(load_world(part))
    return found


def _unseen(threats: Sequence[str], first: str, *, balls: bool, all_of_them: bool) -> dict[str, tuple[str, ...]]:
    """Threats beside those of the training, and what is new in each."""
    patches = any(text.startswith("patch") for text in threats)
    size, place = ("size" if patches else "shape"), ("place" if patches else "shape")
    share = next(iter(trained_sizes([first])), 10.0)
    said: dict[str, tuple[str, ...]] = {sized(one): (size,) for one in SIZES} if all_of_them else {}
    said |= {f"patch:{share:g}%": (place,)}
    stickers = any(text.startswith("stickers") for text in threats)
    said |= dict.fromkeys(MASKS, ("mask",) if stickers else ("shape",))
    said |= {RING: ("size",) if any(text.startswith("ring") for text in threats) else ("shape",)}
    said |= {} if any(text.startswith("shadow") for text in threats) else {SHADOW: ("shape",)}
    return said | (dict.fromkeys(BALLS, ("ball",)) if balls else {})
