"""Time of calls that take turns, so that a busy machine is busy for all of them."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median

import cv2
import torch
from torch.profiler import ProfilerActivity, profile

Call = Callable[[], object]
Clock = Callable[[], float]


def cpu_clock() -> float:
    """CPU seconds of this process, whatever else the machine does."""
    return time.process_time()


def wall_clock() -> float:
    """Seconds on the wall, all kernels of the GPUs done."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        for one in range(torch.cuda.device_count()):
            torch.cuda.synchronize(one)
    return time.perf_counter()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch and OpenCV computing with so many."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def interleaved(calls: Mapping[str, Call], *, repeats: int, clock: Clock) -> dict[str, list[float]]:
    """Seconds of every call, one of each per round; a first round does not count."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(repeats + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if round_:
                spent[name].append(clock() - start)
    return spent


def busy_share(call: Call, device: str, *, times: int = 10) -> float | None:
    """The share of the wall's time in which a GPU's kernels run; None of a processor."""
    if torch.device(device).type != "cuda":
        return None
    call()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        start = wall_clock()
        for _ in range(times):
            call()
        seconds = wall_clock() - start
    return sum(event.self_device_time_total for event in seen.key_averages()) / 1e6 / seconds


def ratio(spent: list[float], bare: list[float]) -> float:
    """The median of the rounds' ratios: what both pay in a busy moment falls out."""
    return median(one / other for one, other in zip(spent, bare, strict=True))
