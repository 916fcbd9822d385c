"""A hardening by one process or several: torchrun shared_training.py PHOTOGRAPHS OUT CASE ... (test_harden_ranks.py).

PHYSADV_TEST_DIES: the step after which the last process is gone without a word.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from physadv import ranks
from physadv.errors import UserError
from physadv.files import write_json
from physadv.harden.classify import Signs, labelled_source
from physadv.harden.loop import Checked, Hardened, harden
from physadv.harden.recipe import RECIPES, Plan
from physadv.scenes import load_scenes
from physadv.targets import Classifier, Frame
from physadv.targets.base import weights_hash
from physadv.targets.models import build
from physadv.threats import load_threat
from physadv.transforms.world import load_world

CLASSES = ("stop", "yield", "priority-road")
PLAN: dict[str, Any] = {"epochs": 7, "batch": 8, "shard": 4, "autocast": False, "learning_rate": 2e-3}
CASES: dict[str, dict[str, Any]] = {
    "pgd": {"recipe": "pgd", "arch": "tiny-cnn", "frozen_norm": True},
    "mixture": {
        "recipe": "warm",
        "threats": ("patch:10%@worst", "patch:5%", "linf:8/255"),
        "world": "digital+drive-by",
    },
    "trades": {"recipe": "trades", "awp": 0.01, "threats": ("patch:20%",)},
    "universal": {"recipe": "universal", "threats": ("patch:20%",)},
    "unfrozen": {"recipe": "pgd", "arch": "tiny-cnn"},
    "uneven": {"recipe": "pgd", "batch": 12},
}


class Grouped(nn.Module):
    """Two convolutions and a group norm: nothing that depends on the rest of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=2), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2), nn.ReLU()
        )
        self.head = nn.Linear(12, len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images - 0.5).mean((2, 3)))


def network(arch: str | None) -> nn.Module:
    if arch is not None:
        return build(arch, classes=len(CLASSES), seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Grouped()


def train(photographs: Path, case: str, *, checkpoint: Path | None = None, dies: int = 0) -> Hardened:
    """One of the cases."""
    options = dict(CASES[case])
    scenes = load_scenes(f"imagefolder:{photographs}")
    texts, world = options.pop("threats", ("patch:10%",)), load_world(options.pop("world", "digital"))
    module = network(options.pop("arch", None))
    plan = Plan(**PLAN | options | {"recipe": RECIPES[options["recipe"]]})
    target = Classifier.of(module, classes=CLASSES, frame=Frame(32, 0.1), name="net")
    threats = [load_threat(one, scenes, seed=0, resolution_px=4) for one in texts]
    source = labelled_source(target, scenes, threats, share=plan.shard)
    learner = Signs.of(target, [source], world=world, plan=plan, seed=0)

    def check(trained: nn.Module) -> Checked:
        """What each process says differs; the first one's word counts."""
        return Checked(0.5 + 0.1 * ranks.rank(), 0.5)

    def after_step(step: int, steps: int, loss: float) -> None:
        if step == dies and ranks.rank() == ranks.size() - 1:
            os._exit(1)

    return harden(module, learner, told={"case": case}, check=check, checkpoint=checkpoint, after_step=after_step)


def said(photographs: Path, case: str, checkpoint: Path) -> dict[str, Any]:
    dies = int(os.environ.get("PHYSADV_TEST_DIES", "0"))
    try:
        run = train(photographs, case, checkpoint=checkpoint, dies=dies)
    except UserError as error:
        return {"refused": str(error)}
    robust = [epoch.robust for epoch in run.history]
    return {"losses": run.losses, "weights": weights_hash(run.module), "robust": robust}


def main(photographs: Path, out: Path, cases: list[str]) -> None:
    torch.set_num_threads(1)
    with ranks.joined("cpu"):
        for case in cases:
            own = out / str(ranks.rank())
            own.mkdir(parents=True, exist_ok=True)
            write_json(own / f"{case}.json", said(photographs, case, out / f"{case}.safetensors"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
