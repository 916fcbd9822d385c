"""Evaluation over shards: several processes under torchrun find the figures of one."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from physadv.heldout import CHUNK

ROOT = Path(__file__).parents[1]
JUDGED = ["--scenes", "staged:stop,yield,no-entry", "--target", "builtin:gtsrb", "--judge-views", "50"]

pytestmark = pytest.mark.slow


def evaluate(folder: Path, *extra: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    start = [sys.executable, *(launch if processes > 1 else []), str(ROOT / "cli.py")]
    return subprocess.run(
        [*start, "evaluate", *JUDGED, "--out", str(folder), *extra],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def metrics_of(run: subprocess.CompletedProcess[str], folder: Path) -> dict[str, Any]:
    assert run.returncode == 0, run.stderr
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["run"]["command"]
    return metrics


def test_two_processes_find_the_figures_of_one(tmp_path: Path) -> None:
    alone = metrics_of(evaluate(tmp_path / "one"), tmp_path / "one")
    run = evaluate(tmp_path / "two", processes=2)
    assert metrics_of(run, tmp_path / "two") == alone
    assert alone["accuracy"]["n"] == 150
    assert math.ceil(150 / CHUNK) % 2, "one process has a chunk more than the other"
    assert run.stdout.count("metrics.json and report.html are in") == 1, "the first process alone tells"


def test_two_processes_make_the_attacks_of_one(tmp_path: Path) -> None:
    fresh = ["--attack", "patch:10%", "--steps", "4", "--batch", "1"]
    found = {}
    for processes in (1, 2):
        out = tmp_path / str(processes)
        found[processes] = metrics_of(evaluate(out, *fresh, processes=processes), out)
        del found[processes]["run"]["seconds"]
    assert found[1] == found[2]
    assert len(found[1]["history"]) == 12, "three batches of a sign each, two of them by the first process"
    pictures = [sorted((tmp_path / str(n)).glob("*.png")) for n in (1, 2)]
    assert pictures[0]
    assert [one.read_bytes() for one in pictures[0]] == [one.read_bytes() for one in pictures[1]]
