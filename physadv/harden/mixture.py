"""Several threats in one training: `patch:5%@worst+patch:20%@worst+ring:4%`."""

from collections.abc import Sequence
from pathlib import Path

from physadv.errors import UserError
from physadv.scenes.base import Scenes
from physadv.threats import load_threat
from physadv.threats.ball import L2, Linf
from physadv.threats.base import Threat
from physadv.threats.catalogue import ThreatSpec, parse_threat

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
    return {
        text: parse_threat(
            text, mask=mask if text == "stickers" else None, palette=palette if kinds[text] in CUT_OUT else None
        )
        for text in texts
    }


def is_ball(spec: ThreatSpec) -> bool:
    """A change of the photograph itself, which a staged sign has none of."""
    return isinstance(spec, Linf | L2)


def load_mixture(
    texts: Sequence[str], scenes: Scenes, *, mask: str | None, palette: str | None, resolution_px: int, seed: int
) -> list[Threat]:
    """The threats on these scenes; of staged signs those that are printed."""
    specs = parse_mixture(texts, mask=mask, palette=palette)
    fitting = [text for text, spec in specs.items() if not (scenes.staged and is_ball(spec))]
    return [
        load_one(text, scenes, mask=mask, palette=palette, resolution_px=resolution_px, seed=seed) for text in fitting
    ]


def load_one(
    text: str, scenes: Scenes, *, mask: str | Path | None, palette: str | None, resolution_px: int, seed: int
) -> Threat:
    """One threat of a mixture: the mask goes to stickers that name none, the palette to what is cut out."""
    kind = text.partition(":")[0]
    return load_threat(
        text,
        scenes,
        seed=seed,
        mask=mask if text == "stickers" else None,
        palette=palette if kind in CUT_OUT else None,
        resolution_px=resolution_px,
    )
