"""Several threats in one training: `patch:5%@worst+patch:20%@worst+ring:4%`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from physadv.errors import UserError
from physadv.scenes.base import Scenes
from physadv.threats.ball import L2, Linf
from physadv.threats.base import Threat
from physadv.threats.catalogue import ThreatSpec, parse_threat, resolve_threat

CUT_OUT = ("stickers", "patch", "ring")  # what a palette limits


def split_threats(texts: Sequence[str]) -> tuple[str, ...]:
    """Each threat of the mixture once, in the order given."""
    return tuple(dict.fromkeys(part.strip() for text in texts for part in text.split("+")))


def parse_mixture(texts: Sequence[str], *, mask: str | None, palette: str | None) -> dict[str, ThreatSpec]:
    """By the text of each. mask, palette: for those that take one.

    UserError: none does, and whatever `parse_threat` says.
    """
    kinds = {text: text.partition(":")[0] for text in texts}
    if mask is not None and "stickers" not in texts:
        raise UserError("--mask says where stickers go, and --threat names none without a mask: add stickers to it.")
    if palette is not None and not set(kinds.values()) & set(CUT_OUT):
        raise UserError("--palette limits what is printed on stickers, patches and rings: leave it out.")
    return {text: parse_one(text, mask=mask, palette=palette) for text in texts}


def parse_one(text: str, *, mask: str | Path | None, palette: str | None) -> ThreatSpec:
    """One threat of a mixture: the mask goes to stickers that name none, the palette to what is cut out."""
    cut_out = text.partition(":")[0] in CUT_OUT
    return parse_threat(text, mask=mask if text == "stickers" else None, palette=palette if cut_out else None)


def is_ball(spec: ThreatSpec) -> bool:
    """A change of the photograph itself, which a staged sign has none of."""
    return isinstance(spec, Linf | L2)


def load_mixture(
    texts: Sequence[str], scenes: Scenes, *, mask: str | None, palette: str | None, resolution_px: int, seed: int
) -> list[Threat]:
    """The threats on these scenes; of staged signs those that are printed."""
    how: dict[str, Any] = {"mask": mask, "palette": palette, "resolution_px": resolution_px, "seed": seed}
    return [load_one(text, scenes, **how) for text in fitting(texts, scenes, mask=mask, palette=palette)]


def fitting(texts: Sequence[str], scenes: Scenes, *, mask: str | None, palette: str | None) -> list[str]:
    """Those that these scenes can wear: staged signs only what is printed."""
    specs = parse_mixture(texts, mask=mask, palette=palette)
    return [text for text, spec in specs.items() if not (scenes.staged and is_ball(spec))]


def load_one(
    text: str, scenes: Scenes, *, mask: str | Path | None, palette: str | None, resolution_px: int, seed: int
) -> Threat:
    """One threat of a mixture on these scenes."""
    spec = parse_one(text, mask=mask, palette=palette)
    return resolve_threat(spec, scenes, resolution_px=resolution_px, seed=seed)
