"""What each command does, from options to files. The command line calls these and prints what they return."""

from physadv.runs.attack import run_attack, run_evaluate
from physadv.runs.audit import run_audit
from physadv.runs.bench import run_bench
from physadv.runs.calibrate import run_calibrate
from physadv.runs.capture import run_capture
from physadv.runs.cluster import run_sweep
from physadv.runs.demo import run_demo
from physadv.runs.fit_world import run_fit_world
from physadv.runs.harden import run_harden
from physadv.runs.samples import run_samples
from physadv.runs.scan import run_scan
from physadv.runs.train import run_train

__all__ = [
    "run_attack",
    "run_audit",
    "run_bench",
    "run_calibrate",
    "run_capture",
    "run_demo",
    "run_evaluate",
    "run_fit_world",
    "run_harden",
    "run_samples",
    "run_scan",
    "run_sweep",
    "run_train",
]
