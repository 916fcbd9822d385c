"""`imagefolder:DIR`: one sub-folder per class, every picture filled by its sign."""

from pathlib import Path

from physadv.errors import UserError
from physadv.files import list_images
from physadv.scenes.canvas import Photograph
from physadv.scenes.classes import GTSRB


def imagefolder(folder: Path) -> list[Photograph]:
    """All pictures of DIR/CLASS/; CLASS is a slug, a GTSRB number ("14", "00014") or any other name."""
    subfolders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = [
        Photograph(path, slug(sub.name), group=str(path), name=f"{sub.name}/{path.stem}")
        for sub in subfolders
        for path in list_images(sub)
    ]
    if not found:
        raise UserError(f"No pictures in the sub-folders of {folder}: lay them out as {folder}/CLASS/PICTURE.png.")
    return found


def slug(name: str) -> str:
    """A GTSRB number as its slug; any other name as it is."""
    number = int(name) if name.isdecimal() else -1
    return GTSRB[number] if 0 <= number < len(GTSRB) else name
