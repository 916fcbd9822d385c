"""Several processes under torchrun: the same losses as one, one checkpoint, and on after a kill."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from physadv.files import read_tensors
from tests.shared_training import CASES, train

ROOT = Path(__file__).parents[1]
COLOURS = {"stop": (190, 20, 30), "yield": (30, 40, 190), "priority-road": (200, 180, 20)}
SHARED = tuple(case for case in CASES if case not in ("unfrozen", "uneven"))
DIES = 11  # steps of three an epoch: in the middle of the fourth

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four noisy pictures of three colours."""
    folder, random = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for number in range(8):
            pixels = random.normal(0, 25, (24, 24, 3)) + np.array(colour) * random.uniform(0.6, 1.2)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


def torchrun(photographs: Path, out: Path, cases: Sequence[str], *, dies: int = 0) -> subprocess.CompletedProcess[str]:
    """Two processes of tests/shared_training.py."""
    script = str(ROOT / "tests" / "shared_training.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    said = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PHYSADV_TEST_DIES": str(dies)}
    return subprocess.run(
        [*launch, str(photographs), str(out), *cases],
        env=said,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def told(out: Path, case: str, rank: int = 0) -> dict[str, Any]:
    return json.loads((out / str(rank) / f"{case}.json").read_text())


@pytest.fixture(scope="module")
def two(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case, by two processes."""
    out = tmp_path_factory.mktemp("two")
    run = torchrun(photographs, out, list(CASES))
    assert run.returncode == 0, run.stderr
    return out


@pytest.mark.parametrize("case", SHARED)
def test_two_processes_lose_what_one_loses(photographs: Path, two: Path, case: str) -> None:
    alone = train(photographs, case)
    together = told(two, case)["losses"]
    assert len(alone.losses) == len(together) == 21
    np.testing.assert_allclose(together[:20], alone.losses[:20], atol=1e-4, rtol=0)
    assert max(alone.losses) - min(alone.losses) > 0.01, "something was learnt"


@pytest.mark.parametrize("case", SHARED)
def test_every_process_ends_with_the_same_weights(two: Path, case: str) -> None:
    assert told(two, case, 0) == told(two, case, 1)
    assert set(told(two, case)["robust"]) == {0.5}, "the first process judges"


def test_there_is_one_checkpoint(two: Path) -> None:
    assert sorted(path.name for path in two.glob("*.safetensors")) == sorted(f"{case}.safetensors" for case in SHARED)
    _, metadata = read_tensors(two / "pgd.safetensors")
    assert metadata["step"] == 21
    assert metadata["numbers"]["losses"] == told(two, "pgd")["losses"]


def test_killed_and_resumed_it_goes_on_to_the_same_bits(photographs: Path, two: Path, tmp_path: Path) -> None:
    killed = torchrun(photographs, tmp_path, ["mixture"], dies=DIES)
    assert killed.returncode != 0
    assert not (tmp_path / "0" / "mixture.json").exists()
    _, metadata = read_tensors(tmp_path / "mixture.safetensors")
    assert metadata["step"] == 9, "three whole epochs"
    resumed = torchrun(photographs, tmp_path, ["mixture"])
    assert resumed.returncode == 0, resumed.stderr
    assert told(tmp_path, "mixture") == told(two, "mixture")


def test_what_processes_cannot_share_is_refused(two: Path) -> None:
    for rank in (0, 1):
        assert "--frozen-norm" in told(two, "unfrozen", rank)["refused"]
        assert "2 processes cannot share the 3 shards" in told(two, "uneven", rank)["refused"]
