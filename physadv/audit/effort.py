"""How hard an audit tries."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """How hard to try. queries: photographs that a black-box attack may show the target, for each scene.

    compared: scenes of trials that only validate the others.
    """

    steps: int = 40
    restarts: int = 3
    queries: int = 400
    compared: int = 48
    batch: int = 50
