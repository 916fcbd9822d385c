"""f: the target. Classifier or detector, its normalisation inside, frozen while it is attacked, from `kind:rest`."""

from physadv.targets.base import Classifier, Frame, check_logits, frozen, weights_hash
from physadv.targets.boxes import Detections, Raw, Seen
from physadv.targets.detector import Detector, check_boxes, letterbox, suppress
from physadv.targets.fake import FakeTarget, blind_classifier, fake_classifier
from physadv.targets.models import ARCHITECTURES, build, read_classifier, save_classifier
from physadv.targets.spec import align_labels, list_targets, load_target

__all__ = [
    "ARCHITECTURES",
    "Classifier",
    "Detections",
    "Detector",
    "FakeTarget",
    "Frame",
    "Raw",
    "Seen",
    "align_labels",
    "blind_classifier",
    "build",
    "check_boxes",
    "check_logits",
    "fake_classifier",
    "frozen",
    "letterbox",
    "list_targets",
    "load_target",
    "read_classifier",
    "save_classifier",
    "suppress",
    "weights_hash",
]
