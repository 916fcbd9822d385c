"""What a training says of itself while it runs: history.jsonl, and events for TensorBoard."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from physadv.errors import UserError
from physadv.files import write_atomic
from physadv.harden.loop import Epoch

HISTORY = "history.jsonl"


class Journal:
    """One line per epoch; with `tensorboard` the loss of every step, too. Nothing without a folder."""

    def __init__(self, folder: Path | None, *, tensorboard: bool) -> None:
        """UserError: TensorBoard is not installed."""
        self._folder = folder
        self._events = _writer(folder) if tensorboard and folder is not None else None

    def step(self, step: int, loss: float) -> None:
        """After every step."""
        if self._events is not None:
            self._events.add_scalar("loss", loss, step)

    def epoch(self, epoch: Epoch) -> None:
        """After every epoch; lines of this one and later ones, of a run that was killed, are replaced."""
        if self._folder is None:
            return
        path = self._folder / HISTORY
        lines = path.read_text().splitlines() if path.is_file() else []
        earlier = [line for line in lines if json.loads(line)["epoch"] < epoch.epoch]
        write_atomic(path, "".join(f"{line}\n" for line in [*earlier, json.dumps(asdict(epoch))]).encode())
        if self._events is not None:
            for name in ("robust", "clean"):
                self._events.add_scalar(f"held out/{name}", getattr(epoch, name), epoch.epoch)

    def close(self) -> None:
        if self._events is not None:
            self._events.close()


def check_tensorboard() -> None:
    """UserError: it is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401, PLC0415
    except ImportError as error:
        raise UserError(
            "--tensorboard needs tensorboard, which is not installed: pip install 'physadv[tensorboard]', or leave it "
            "out; history.jsonl is written in any case."
        ) from error


def _writer(folder: Path) -> Any:
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

    return SummaryWriter(str(folder))  # type: ignore[no-untyped-call]
