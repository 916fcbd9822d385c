"""How long until an artwork succeeds as often as ART's AdversarialPatch does after 200 steps?

    python tests/benchmarks/time_to_success.py DATA/gtsrb [--world drive-by] [--goal untargeted] [--threat patch:20%]

The same victim (builtin:gtsrb), the same photographs of stop signs to search on, the same square at the centre of the
sign, the same batch; judged on photographs of other signs, in the same views of the world. CPU time of one thread. ART
gets the best of three step sizes, at the price of one run.
"""

import argparse
import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art.attacks.evasion import AdversarialPatchPyTorch
from art.estimators.classification import PyTorchClassifier
from jaxtyping import Float
from torch import Tensor, nn

from physadv.heldout import HeldOut
from physadv.problem import Problem, make_problem
from physadv.question import goal_of
from physadv.scenes import Scenes, load_scenes
from physadv.settings import Settings
from physadv.targets import Classifier, load_target
from physadv.targets.base import frozen
from physadv.threats import load_threat
from physadv.threats.base import Artwork, Threat
from physadv.transforms.stages import derive
from physadv.transforms.world import DIGITAL, load_world

SIGN, BATCH, STEPS, PHOTOGRAPHS = "stop", 16, 200, 64
RATES = (0.02, 0.05, 0.2)  # ART's Adam, in colour
OURS = 200
EVERY = 5  # steps between looks at the judge, off the clock


@dataclass(frozen=True)
class Judge:
    """Held-out views, and who has won them."""

    problem: Problem
    held_out: HeldOut

    def success(self, artwork: Artwork) -> float:
        """Share of the views that the clean sign does not win and the artwork does."""
        clean, worn = self.held_out.answers(None, artwork.quantised())
        objective, truth = self.problem.objective, self.held_out.truth
        right = clean.argmax(1) == truth
        return objective.success(worn, truth)[right].float().mean().item()


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    target = load_target("builtin:gtsrb")
    assert isinstance(target, Classifier)
    searched, judged = (
        load_scenes(f"gtsrb:{options.data / part}", classes=[SIGN], limit=PHOTOGRAPHS) for part in ("train", "test")
    )
    threat = load_threat(options.threat, searched, seed=options.seed)
    world = load_world(options.world)
    settings = Settings(goal=options.goal, batch=BATCH, views=1, steps=OURS, check_every=OURS, held_out=1)
    problem = make_problem(target, searched, threat, world=world, settings=settings, seed=options.seed)
    views = max(1, 512 // len(judged))
    judge = Judge(problem, HeldOut(target, judged, world, views, derive(options.seed, "judge"), keep=True))
    theirs = _art(target, searched, threat, problem, judge)
    print(json.dumps({"art": theirs}), flush=True)
    ours = _physadv(problem, judge, theirs["success"])
    print(json.dumps({"physadv": ours}))
    if ours["seconds"] is not None:
        print(f"{ours['seconds'] / theirs['seconds']:.2f} of ART's time")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--world", default="drive-by")
    parser.add_argument("--goal", default="untargeted")
    parser.add_argument("--threat", default="patch:20%", help="a square patch at the centre of the face")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _art(target: Classifier, scenes: Scenes, threat: Threat, problem: Problem, judge: Judge) -> dict[str, Any]:
    """Its own transforms on the crops that the target sees; the patch where the square lies in an upright crop."""
    images = torch.cat(list(HeldOut(target, scenes, DIGITAL, 1, 0).photographs(None)))
    truth = HeldOut(target, scenes, DIGITAL, 1, 0).truth
    row = goal_of(target, problem.settings.goal).target
    labels = truth if row is None else torch.full_like(truth, row)
    hot = nn.functional.one_hot(labels, len(target.classes)).float().numpy()
    place = threat.artwork(problem.init(restart=0)).place_mm[0]
    size_mm = float(scenes.faces.size_mm[scenes.face[0]].max())
    px_per_mm = target.frame.size_px / (1 + 2 * target.frame.context) / size_mm
    side = round(float(place[2] - place[0]) * px_per_mm)
    corner = (target.frame.size_px - side) // 2
    runs = [_art_run(target, images, hot, side, corner, targeted=row is not None, rate=rate) for rate in RATES]
    found = [judge.success(Artwork(patch, torch.ones_like(patch[:, :1]), place[None])) for patch, _ in runs]
    best = max(range(len(runs)), key=found.__getitem__)
    return {"success": found[best], "seconds": runs[best][1], "rate": RATES[best], "side_px": side, "steps": STEPS}


def _art_run(
    target: Classifier,
    images: Float[Tensor, "n 3 s s"],
    hot: np.ndarray,
    side: int,
    corner: int,
    *,
    targeted: bool,
    rate: float,
) -> tuple[Float[Tensor, "1 3 p p"], float]:
    """The patch after STEPS steps, and CPU seconds."""
    size = target.frame.size_px
    estimator = PyTorchClassifier(
        target.module,
        nn.CrossEntropyLoss(),
        (3, size, size),
        len(target.classes),
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    target.module.eval()
    attack = AdversarialPatchPyTorch(
        estimator,
        patch_shape=(3, side, side),
        patch_location=(corner, corner),
        patch_type="square",
        learning_rate=rate,
        max_iter=STEPS * BATCH // len(images),
        batch_size=BATCH,
        targeted=targeted,
        verbose=False,
    )
    torch.manual_seed(0)
    np.random.seed(0)
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch, _ = attack.generate(images.numpy(), hot)
    return torch.from_numpy(patch).float()[None], time.process_time() - start


def _physadv(problem: Problem, judge: Judge, wanted: float) -> dict[str, Any]:
    """CPU seconds of the attack's steps until the judge sees `wanted`."""
    spent, theta = 0.0, problem.init(restart=0)
    state, resting = problem.optimiser.init(theta), torch.zeros(1, dtype=torch.bool)
    told: dict[str, Any] = {"seconds": None, "success": 0.0}
    with frozen(problem.target.module):
        for done in range(OURS):
            start = time.process_time()
            theta, state, _ = problem.optimiser.step(theta, problem.landscape(done, resting), state)
            spent += time.process_time() - start
            if (done + 1) % EVERY == 0 or done == 0:
                success = judge.success(problem.threat.artwork(theta))
                told = {"seconds": spent, "success": success, "steps": done + 1}
                if success >= wanted:
                    return told
    return told | {"seconds": None, "spent": spent}


if __name__ == "__main__":
    main()
