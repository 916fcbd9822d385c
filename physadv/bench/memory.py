"""Peak memory of a step: run as `python -m physadv.bench.memory TARGET bare|step HOW`, prints MB."""

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from physadv.bench.case import Case, case_of, size_of
from physadv.errors import UserError
from physadv.targets.base import frozen

_STEPS = 3
_REFS = Path("/proc/self/clear_refs")
_EXACT = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc gives tensors back at once: what is in use is what is counted


def peak_mb(target: str, which: str, how: Mapping[str, Any]) -> float | None:
    """In a process of its own: how far memory grows above that of the loaded model and scenes; None: no such figure.

    how: what the case is made with.
    """
    if how["device"] == "cpu" and not _REFS.exists():
        return None
    line = [sys.executable, "-m", "physadv.bench.memory", target, which, json.dumps(dict(how))]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=os.environ | _EXACT)
    if done.returncode:
        raise UserError(f"The memory of {target} could not be measured: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout.split()[-1])


def main() -> None:
    target, which, how = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    device = how["device"]
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    case = case_of(size_of(target), **how)
    with frozen(case.problem.target.module):
        _warm(case)
        own = case.shown[0].nbytes if which == "bare" else 0  # the step makes its photographs itself
        call = case.bare if which == "bare" else case.stepper()
        before = _reset(device)
        for _ in range(_STEPS):
            call()
        print((_peak(device) - before + own) / 1e6)


def _warm(case: Case) -> None:
    """Load code, and what is kept of the scenes for every later step; nothing else of it stays."""
    other = replace(case, problem=replace(case.problem))
    for call in (other.bare, other.stepper()):
        call()


def _reset(device: str) -> int:
    """Bytes in use now, from which the peak is counted."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not serve the step for nothing
    _REFS.write_text("5")
    return _status("VmRSS")


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated(device) if device != "cpu" else _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
