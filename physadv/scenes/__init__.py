"""x, y: photographs with a plane to print on, and the truth."""

from physadv.scenes.base import Faces, Scenes
from physadv.scenes.spec import load_scenes, merge

__all__ = ["Faces", "Scenes", "load_scenes", "merge"]
