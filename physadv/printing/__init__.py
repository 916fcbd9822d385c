"""t = reality, the first half: an artwork on paper at true size."""

from physadv.printing.paper import Page, Piece, Tag, Tile
from physadv.printing.sheet import Sheet, load_sheet, make_sheet

__all__ = ["Page", "Piece", "Sheet", "Tag", "Tile", "load_sheet", "make_sheet"]
