"""Softmax threshold: an image that the network is not sure of is none of its own.

Hendrycks & Gimpel, "A baseline for detecting misclassified and out-of-distribution examples in neural networks",
ICLR 2017. Fails because adversarial examples can have any confidence: Carlini & Wagner, "Towards evaluating the
robustness of neural networks", S&P 2017 (κ), and AISec 2017.
"""

from jaxtyping import Float
from torch import Tensor, nn

from physadv.defences.detector import Detector, Images, Logits


class Softmax(Detector):
    """score = −log max_j p_j."""

    def __init__(self) -> None:
        super().__init__("softmax")

    def scored(self, module: nn.Module, images: Images) -> tuple[Logits, Float[Tensor, " n"]]:
        logits = module(images)
        return logits, logits.logsumexp(1) - logits.amax(1)
