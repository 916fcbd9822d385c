"""How to search: the options of an attack that are not its nouns."""

from dataclasses import dataclass

from physadv.errors import UserError
from physadv.objectives import DEFAULT_KAPPA

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Settings:
    """`batch` scenes x `views` photographs of each make one step; defaults: docs/ablation.md.

    common: the same views in every step (common random numbers). antithetic: views in pairs, u and 1 − u.
    early_stop: with an artwork per scene, those that win all of their held-out views rest.
    held_out: 0 judges nothing, and the last θ is kept: what hardening does.
    precision: of the target in the search; whatever it finds is judged in float32. compiled: by torch.compile.
    """

    goal: str = "untargeted"
    objective: str = "margin"
    kappa: float = DEFAULT_KAPPA
    expectation: str = "mean"
    optimiser: str = "pgd"
    step_size: float | None = None
    steps: int = 200
    batch: int = 16
    views: int = 2
    restarts: int = 1
    tv: float = 0.0
    nps: float = 0.0
    common: bool = False
    antithetic: bool = False
    per_scene: bool = False
    early_stop: bool = False
    check_every: int = 20
    held_out: int = 128
    precision: str = "float32"
    compiled: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "views", "restarts", "check_every", "held_out"):
            least = 0 if name == "held_out" else 1
            if getattr(self, name) < least:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least {least}.")
        for name in ("tv", "nps"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"--{name} is {getattr(self, name)}; a weight is 0 or more.")
        if self.precision not in PRECISIONS:
            raise UserError(f"--precision is {self.precision!r}; it is one of {', '.join(PRECISIONS)}.")
        if self.antithetic and self.views % 2:
            raise UserError(f"--views is {self.views}; antithetic views come in pairs: make it even.")
