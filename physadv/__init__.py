"""physadv: can something printed and put on the object break a vision system, and how to make it stop."""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout `transforms/`, `assets/` and `cli.py` lie beside this package; in a wheel they lie inside it.
_here = Path(__file__).resolve().parent
if not (_here / "transforms").is_dir():
    __path__.append(str(_here.parent))
ASSETS = next(folder for folder in (_here / "assets", _here.parent / "assets") if folder.is_dir())
