"""Where the canvases of all photographs are: in memory or, where that is too small, in a file mapped into it."""

import os
import tempfile
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from physadv.errors import UserError

SHARE = 0.25  # of the machine's memory: what a set of canvases may take before it goes to a file
TOGETHER = 256  # rows that are copied or read at once
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def canvases(count: int, side_px: int) -> UInt8[Tensor, "count 3 side side"]:
    """Room for `count` pictures, their content undefined; a file without a name (in TMPDIR) holds what is too large.

    Raises UserError where that folder has no room either.
    """
    shape = (count, 3, side_px, side_px)
    need_bytes = count * 3 * side_px**2
    if need_bytes <= room_bytes():
        return torch.empty(shape, dtype=torch.uint8)
    with tempfile.TemporaryFile(prefix="physadv-") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, need_bytes)
        except OSError as error:
            where = f"{tempfile.gettempdir()} ({error.strerror})"
            raise UserError(
                f"{count} photographs need {need_bytes / 1e9:.1f} GB in {where}: set TMPDIR to a folder with room, or "
                "take fewer with --limit."
            ) from error
        return torch.from_numpy(np.memmap(file, np.uint8, "r+", shape=shape))


@cache
def room_bytes() -> int:
    """A quarter of the memory that this machine, or this container, has."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _CGROUP.read_text().strip() if _CGROUP.is_file() else "max"
    return int(SHARE * (min(whole, int(limit)) if limit.isdecimal() else whole))


def rows_of(images: Tensor, rows: Int[Tensor, " n"]) -> Tensor:
    """`images[rows]`; of 8-bit canvases as many as one likes."""
    if images.dtype != torch.uint8 or images.is_cuda or len(rows) * images[0].nbytes <= room_bytes():
        return images[rows]
    picked = canvases(len(rows), images.shape[-1])
    for at in torch.arange(len(rows)).split(TOGETHER):
        picked[at[0] : at[-1] + 1] = images[rows[at]]
    return picked


def joined(parts: Sequence[Tensor]) -> Tensor:
    """`torch.cat`; of 8-bit canvases as many as one likes."""
    first = parts[0]
    if first.dtype != torch.uint8 or sum(part.nbytes for part in parts) <= room_bytes():
        return torch.cat(list(parts))
    whole, start = canvases(sum(map(len, parts)), first.shape[-1]), 0
    for part in parts:
        for some in part.split(TOGETHER):
            whole[start : start + len(some)] = some
            start += len(some)
    return whole


def digest(*tensors: Tensor) -> str:
    """SHA-256 of their bytes, one after the other, never all of them in memory."""
    found = sha256()
    for tensor in tensors:
        for some in torch.atleast_1d(tensor.detach()).split(TOGETHER):
            found.update(some.cpu().numpy().tobytes())
    return found.hexdigest()
