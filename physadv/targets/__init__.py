"""f: the target. A classifier with its normalisation inside, frozen while it is attacked, loaded from `kind:rest`."""

from physadv.targets.base import Classifier, Frame, check_logits, frozen, weights_hash
from physadv.targets.fake import FakeTarget, blind_classifier, fake_classifier
from physadv.targets.models import ARCHITECTURES, build, read_classifier, save_classifier
from physadv.targets.spec import align_labels, list_targets, load_target

__all__ = [
    "ARCHITECTURES",
    "Classifier",
    "FakeTarget",
    "Frame",
    "align_labels",
    "blind_classifier",
    "build",
    "check_logits",
    "fake_classifier",
    "frozen",
    "list_targets",
    "load_target",
    "read_classifier",
    "save_classifier",
    "weights_hash",
]
