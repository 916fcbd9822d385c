"""t = reality, the first half: an artwork on paper at true size."""

from physadv.printing.inks import Inks, load_inks
from physadv.printing.paper import Page, Patch, Piece, Tag, Tile
from physadv.printing.sheet import Sheet, load_sheet, lost_tags, make_sheet

__all__ = [
    "Inks",
    "Page",
    "Patch",
    "Piece",
    "Sheet",
    "Tag",
    "Tile",
    "load_inks",
    "load_sheet",
    "lost_tags",
    "make_sheet",
]
