"""t ~ T: named distributions of what the physical world does, and the photographs they take."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import Field, asdict, dataclass, fields, replace
from difflib import get_close_matches
from functools import cached_property
from math import lcm
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from jaxtyping import Float, Int
from torch import Tensor

from physadv import ASSETS
from physadv.errors import UserError
from physadv.scenes.base import Scenes
from physadv.targets.base import Frame
from physadv.targets.boxes import Seen, together
from physadv.threats.base import Artwork
from physadv.transforms.base import Transform
from physadv.transforms.exposure import Exposure, expose, prepare
from physadv.transforms.geometry import boxes_in, geometry
from physadv.transforms.stages import FAMILIES, Draw, Stages, draw

_IN_VIEW = 0.5  # share of a sign's box from which on it can be asked for
_HEADER = ("name", "note", "reserved")


@dataclass(frozen=True)
class Views:
    """Draws of n views, grouped by the component of the world that each belongs to."""

    rows: tuple[Int[Tensor, " _"], ...]
    draws: tuple[Draw, ...]

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.rows)

    def place(self) -> Float[Tensor, "n 2"]:
        """The free pair of uniforms of each view."""
        return torch.cat([part.place for part in self.draws])[torch.cat(self.rows).argsort()]


@dataclass(frozen=True)
class Shots:
    """Views of scenes made ready: expose any number of artworks to the same light, noise and pose."""

    rows: tuple[Int[Tensor, " _"], ...]
    exposures: tuple[Exposure, ...]

    def photograph(self, artwork: Artwork | None) -> Float[Tensor, "n 3 h w"]:
        """The photographs in the order of the views."""
        parts = [
            expose(exposure, artwork and artwork.take(rows))
            for rows, exposure in zip(self.rows, self.exposures, strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)[torch.cat(self.rows).argsort()]


@dataclass(frozen=True)
class World:
    """A distribution over photographs. Several components make a mixture: view i belongs to component i mod m."""

    name: str
    components: tuple[Stages, ...]
    note: str = ""
    reserved: bool = False  # judges only: no attack may optimise in it

    @cached_property
    def hash(self) -> str:
        """Twelve hex digits of everything that is drawn; printed with every figure."""
        content = [[(type(t).__name__, _said(t)) for t in stages] for stages in self.components]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    @property
    def random(self) -> bool:
        """Whether two views of a scene can differ."""
        return len(self.components) > 1 or any(stages.dims for stages in self.components)

    def draw(self, views: Sequence[int], *, seed: int, paired: bool = False) -> Views:
        """What happens in the given views; that of view i depends on (seed, i) alone.

        paired: views 2i and 2i + 1 are antithetic, the uniforms u of the one and 1 − u of the other.
        """
        mixed = torch.as_tensor([view // 2 if paired else view for view in views]) % len(self.components)
        rows = tuple((mixed == part).nonzero()[:, 0] for part in range(len(self.components)))
        parts = [(r, s) for r, s in zip(rows, self.components, strict=True) if len(r)]
        return Views(
            rows=tuple(r for r, _ in parts),
            draws=tuple(draw(stages, [views[int(i)] for i in r], seed=seed, paired=paired) for r, stages in parts),
        )

    @torch.no_grad()
    def seen(self, scenes: Scenes, views: Views, *, frame: Frame) -> Seen:
        """The signs in view i of scene i, with the scenes' labels; those mostly outside the frame are left out."""
        device = scenes.labels.device
        parts = []
        for rows, part in zip(views.rows, views.draws, strict=True):
            some = scenes.take(rows)
            boxes, share = boxes_in(some, geometry(some, part.to(device), frame=frame), frame=frame)
            worn = torch.ones_like(some.labels, dtype=torch.bool) if some.worn is None else some.worn
            parts.append(Seen(rows.to(device)[some.of], some.labels, boxes, worn).take(share >= _IN_VIEW))
        return together(parts)

    def prepare(self, scenes: Scenes, views: Views, *, frame: Frame) -> Shots:
        """Everything about view i of scene i that does not depend on the artwork."""
        if len(views.rows) == 1:
            return Shots(views.rows, (prepare(scenes, views.draws[0], frame=frame),))
        parts = zip(views.rows, views.draws, strict=True)
        return Shots(views.rows, tuple(prepare(scenes.take(rows), part, frame=frame) for rows, part in parts))

    def photograph(
        self, artwork: Artwork | None, scenes: Scenes, views: Views, *, frame: Frame
    ) -> Float[Tensor, "n 3 h w"]:
        """View i of scene i with the artwork on it."""
        return self.prepare(scenes, views, frame=frame).photograph(artwork)

    def without(self, *stages: str) -> "World":
        """The same world less whole stages."""
        return replace(self, components=tuple(part.without(*stages) for part in self.components))


def _said(transform: Transform) -> dict[str, Any]:
    """Its options; a list that is left out says nothing."""
    return {name: value for name, value in asdict(cast(Any, transform)).items() if value != ()}


DIGITAL = World("digital", (Stages(),), "No physics: the photograph as the file has it.")


def world_names() -> list[str]:
    """The named worlds that ship, without those reserved for judging."""
    return sorted(path.stem for path in (ASSETS / "worlds").glob("*.yaml") if path.stem != "promise")


def load_world(spec: str) -> World:
    """A named world, a YAML file, or several of either joined by `+` (a mixture in equal parts)."""
    if "+" in spec and not Path(spec).is_file():
        return _mixed(spec, [load_world(part) for part in spec.split("+")])
    if spec == DIGITAL.name:
        return DIGITAL
    path = Path(spec) if spec.endswith((".yaml", ".yml")) else ASSETS / "worlds" / f"{spec}.yaml"
    if not path.is_file():
        near = get_close_matches(spec, [*world_names(), "promise", "digital"], n=1)
        hint = f"did you mean {near[0]}?" if near else "`physadv worlds` lists what there is."
        raise UserError(f"There is no world {spec!r}; {hint}")
    return _parse(path)


def _mixed(name: str, worlds: list[World]) -> World:
    """The worlds take turns, and so do the components of each."""
    rounds = lcm(*(len(world.components) for world in worlds))
    components = tuple(w.components[turn % len(w.components)] for turn in range(rounds) for w in worlds)
    return World(name, components, reserved=any(world.reserved for world in worlds))


def _parse(path: Path) -> World:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: {error.problem}" if error.problem_mark else error.problem
        raise UserError(f"{path} is not readable YAML ({place}); mend that line.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not readable YAML ({str(error).splitlines()[0]}); save it as plain text."
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} must map stages (print, mount, light, view, camera) to transforms; see `physadv worlds`."
        )
    header = {key: content.pop(key) for key in _HEADER if key in content}
    components = tuple(_stages(part, path.name) for part in _parts(content, path))
    return World(
        str(header.get("name", path.stem)), components, str(header.get("note", "")), bool(header.get("reserved"))
    )


def _parts(content: dict[str, Any], path: Path) -> list[Any]:
    """The components of a world file: the file itself, or the list under `mixture`, which then stands alone."""
    if "mixture" not in content:
        return [content]
    parts = content["mixture"]
    if not isinstance(parts, list) or not parts or len(content) > 1:
        raise UserError(
            f"{path}: mixture must be a list of worlds with no stage beside it; move the stages into the list."
        )
    return parts


def _stages(content: Any, where: str) -> Stages:
    made = {}
    for stage, given in _mapping(content, where).items():
        known = _known(stage, FAMILIES, where)
        families = _mapping(given, f"{where}: {stage}")
        options = {name: families[name] for name in families if _known(name, known, f"{where}: {stage}")}
        made[stage] = tuple(  # in physical order, whatever the file's
            _transform(family, options[name], f"{where}: {stage}.{name}")
            for name, family in known.items()
            if name in options
        )
    return Stages(**made)


def _known(key: str, table: dict[str, Any], where: str) -> Any:
    if key in table:
        return table[key]
    near = get_close_matches(str(key), table, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(table)}."
    raise UserError(f"{where}: unknown key {key!r}; {hint}")


def _mapping(content: Any, where: str) -> dict[Any, Any]:
    if not isinstance(content, dict | None):
        raise UserError(f"{where} must map names to values, not be {content!r}; see `physadv worlds`.")
    return content or {}


def _transform(family: type, given: Any, where: str) -> Transform:
    known = {field.name: field for field in fields(family)}
    options = _mapping(given, where)
    values = {key: _number(value, _known(key, known, where), f"{where}.{key}") for key, value in options.items()}
    try:
        return family(**values)
    except ValueError as error:
        raise UserError(f"{where}.{error}.") from error


def _number(value: Any, field: Field[Any], where: str) -> float | tuple[float, ...]:
    """A number, or the two ends of a range: what the field holds by default."""
    ranged = isinstance(field.default, tuple)
    if field.default == ():
        return _numbers(value, where)
    numbers = value if ranged else [value]
    try:
        if isinstance(numbers, list) and len(numbers) == (2 if ranged else 1):
            return tuple(map(float, numbers)) if ranged else float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {value!r} is not a number; write one like 0.5.") from error
    raise UserError(f"{where}: {value!r} must be a range of two numbers; write it as [low, high].")


def _numbers(value: Any, where: str) -> tuple[float, ...]:
    try:
        return tuple(float(one) for one in value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {value!r} must be a list of numbers.") from error
