"""ICC profiles written by hand: an RGB printer of narrow primaries, and a CMYK press as a table (ICC.1:2001-04)."""

import struct
from itertools import product

import numpy as np

D50 = np.array([0.9642, 1.0, 0.8249])
# sRGB's primaries under D50, one per column.
PRIMARIES = np.array([[0.4360, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7139]])
GAMMA = 2.2
WHITE, INK = 0.85, 0.03  # of the paper, absolute; of the darkest ink, as a share of the paper
GRID = 9


def narrow_rgb(share: float = 0.3) -> bytes:
    """A printer whose primaries are its greys by the share; greys are those of gamma 2.2."""
    primaries = narrow_primaries(share)
    tags = {name: _xyz(primaries[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(GAMMA * 256))
    tags |= {b"wtpt": _xyz(D50), b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    return _profile(b"RGB ", b"XYZ ", tags)


def narrow_primaries(share: float) -> np.ndarray:
    return (1 - share) * PRIMARIES + share * PRIMARIES.sum(1, keepdims=True) / 3


def press_cmyk() -> bytes:
    """A press that prints C, M, Y over grey paper with ink that is not quite black, and never uses K by itself."""
    levels = np.linspace(0, 1, GRID)
    inks = np.array(list(product(levels, repeat=4)))
    light = (1 - inks[:, :3]) * (1 - inks[:, 3:])
    to_lab = _lab((INK + (1 - INK) * light) @ PRIMARIES.T)
    stored = np.array(list(product(levels, repeat=3))) * (100, 255, 255) - (0, 128, 128)
    rgb = _xyz_of(stored) @ np.linalg.inv(PRIMARIES).T
    back = np.clip(1 - (rgb - INK) / (1 - INK), 0, 1)
    table = {
        b"A2B": _lut(4, np.add(to_lab, (0, 128, 128)) / (100, 255, 255)),
        b"B2A": _lut(3, np.pad(back, ((0, 0), (0, 1)))),
    }
    tags = {name + str(i).encode(): lut for name, lut in table.items() for i in range(3)}
    return _profile(b"CMYK", b"Lab ", tags | {b"wtpt": _xyz(D50 * WHITE)})


def _lab(xyz: np.ndarray) -> np.ndarray:
    ratio = np.clip(xyz / D50, 0, None)
    x, y, z = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def _xyz_of(lab: np.ndarray) -> np.ndarray:
    y = (lab[:, 0] + 16) / 116
    root = np.stack([y + lab[:, 1] / 500, y, y - lab[:, 2] / 200], 1)
    return np.where(root > 6 / 29, root**3, (116 * root - 16) / (24389 / 27)) * D50


def _lut(channels: int, table: np.ndarray) -> bytes:
    """Type lut8: identity curves round the table."""
    outputs, ramp = table.shape[1], bytes(range(256))
    levels = (np.clip(table, 0, 1) * 255).round().astype(np.uint8).tobytes()
    matrix = _fixed(*np.eye(3).ravel())
    head = b"mft1" + bytes(4) + bytes((channels, outputs, GRID, 0))
    return head + matrix + ramp * channels + levels + ramp * outputs


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(*values)


def _profile(space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    name = b"hand-made\0"
    words = b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(8) + bytes(3 + 67)
    tags = {b"desc": words, b"cprt": b"text" + bytes(4) + b"none\0", **tags}
    start = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for signature, content in tags.items():
        padded = content + bytes(-len(content) % 4)
        table += signature + struct.pack(">II", start + len(body), len(content))
        body += padded
    head = struct.pack(">I4sI4s4s4s", start + len(body), bytes(4), 0x02400000, b"prtr", space, connection)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(*D50)
    return head + bytes(128 - len(head)) + table + body
