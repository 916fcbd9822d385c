"""physadv: can something printed and put on the object break a vision system, and how to make it stop."""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout `transforms/`, `assets/` and `cli.py` lie beside this package; in a wheel they lie inside it.
_here = Path(__file__).resolve().parent
if not (_here / "transforms").is_dir():
    __path__.append(str(_here.parent))
ASSETS = next(folder for folder in (_here / "assets", _here.parent / "assets") if folder.is_dir())

from physadv.attacks import Settings, attack  # noqa: E402 (the path must be set first)
from physadv.errors import UserError  # noqa: E402
from physadv.evaluation import accuracy, evaluate  # noqa: E402
from physadv.scenes import Scenes, load_scenes  # noqa: E402
from physadv.targets import Classifier, Frame, load_target  # noqa: E402
from physadv.threats import Artwork, load_artwork, load_threat  # noqa: E402
from physadv.transforms.world import World, load_world  # noqa: E402

__all__ = [
    "ASSETS",
    "Artwork",
    "Classifier",
    "Frame",
    "Scenes",
    "Settings",
    "UserError",
    "World",
    "__version__",
    "accuracy",
    "attack",
    "evaluate",
    "load_artwork",
    "load_scenes",
    "load_target",
    "load_threat",
    "load_world",
]
