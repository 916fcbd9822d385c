"""Defences known to fail, one file per paper: examples to test an attack against, not protection."""

from physadv.defences.base import ABSTAIN, Defence, Defended, defend, straight_through
from physadv.defences.catalogue import DefenceRow, list_defences, load_defence
from physadv.defences.detector import Detector
from physadv.defences.purifier import Purifier

__all__ = [
    "ABSTAIN",
    "Defence",
    "DefenceRow",
    "Defended",
    "Detector",
    "Purifier",
    "defend",
    "list_defences",
    "load_defence",
    "straight_through",
]
