"""Canvases in a mapped file: the same bits as in memory, and hardly any of it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from physadv.errors import UserError
from physadv.scenes import load_scenes, merge, store

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """24 pictures of two classes."""
    generator = np.random.default_rng(0)
    for row in range(24):
        path = tmp_path / "signs" / ("stop", "yield")[row % 2] / f"{row:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    return tmp_path / "signs"


def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "room_bytes", lambda: 0)
    monkeypatch.setattr(store, "TOGETHER", 5)


def mapped(images: torch.Tensor) -> bool:
    """Whether these pixels lie in a file that this process has mapped."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    gone = [line.split()[0].split("-") for line in maps if line.endswith("(deleted)")]
    return any(int(low, 16) <= images.data_ptr() < int(high, 16) for low, high in gone)


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="where pages lie is read from Linux's /proc")
def test_a_mapped_set_is_the_same_set(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec, rows = f"imagefolder:{folder}", torch.tensor([3, 3, 20, 0, 7, 11, 23])
    held = load_scenes(spec)
    with monkeypatch.context() as without:
        no_memory(without)
        without.setattr(store.tempfile, "tempdir", str(tmp_path))
        kept = load_scenes(spec)
        assert mapped(kept.images)
        assert not mapped(held.images)
        assert [path.name for path in tmp_path.iterdir()] == ["signs"], (
            "the file has no name: it goes with the last page"
        )
        some, both = kept.take(rows), merge([kept, kept])
        assert mapped(some.images)
        assert mapped(both.images)
        assert torch.equal(both.images, torch.cat([held.images, held.images]))
        assert store.digest(kept.images, kept.labels) == store.digest(held.images, held.labels)
    assert torch.equal(kept.images, held.images)
    assert torch.equal(some.images, held.images[rows])
    assert torch.equal(kept.gain, held.gain)


def test_a_digest_is_that_of_all_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "TOGETHER", 3)
    images, number = torch.arange(7 * 3 * 4 * 4, dtype=torch.float32).view(7, 3, 4, 4), torch.tensor(4.0)
    assert store.digest(images, number) == store.sha256(images.numpy().tobytes() + number.numpy().tobytes()).hexdigest()
    assert store.digest(images) != store.digest(images[:6])


def test_no_room_anywhere_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    no_memory(monkeypatch)
    with pytest.raises(UserError, match=r"GB in .*: set TMPDIR .* or take fewer with --limit"):
        store.canvases(10**9, 4096)


MEASURE = """
import json, sys
from physadv.scenes import load_scenes, store
store.room_bytes = lambda: int(sys.argv[2])
scenes = load_scenes(f"imagefolder:{sys.argv[1]}", canvas_px=256)
lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({"own_kb": int(lines["RssAnon"].split()[0]), "photographs": len(scenes)}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="what a process owns is read from Linux's /proc")
def test_what_is_mapped_is_not_held(folder: Path) -> None:
    """Canvases of 256 px: 192 KiB each."""
    for copy in range(40):
        for path in sorted(folder.glob("*/[0-9][0-9].png")):
            path.with_name(f"{path.stem}-{copy}.png").write_bytes(path.read_bytes())
    own = {}
    for room in (0, 10**12):
        command = [sys.executable, "-c", MEASURE, str(folder), str(room)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        own[room] = json.loads(done.stdout)
    assert own[0]["photographs"] == 24 * 41
    assert own[10**12]["own_kb"] - own[0]["own_kb"] > 0.8 * 24 * 41 * 192, own
