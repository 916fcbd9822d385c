"""What every test gets: shapes enforced at run time, one thread per worker, and the folder of real data."""

import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

os.environ["MPLBACKEND"] = "Agg"
# Before the first import of anything in physadv. An int may stand for a float, as everywhere in Python (PEP 484);
# `Self` is not checked, because the hook decorates methods one by one and there beartype cannot know the class;
# nor is typer's `Context`, in whose place typer itself hands over the class beneath it.
CHECKER = (
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True,"
    " hint_overrides=beartype.FrozenDict({__import__('typing').Self: object, __import__('typer').Context: object})))"
)
install_import_hook("physadv", CHECKER)

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real photographs that PHYSADV_DATA names; the test is skipped where there is none."""
    folder = os.environ.get("PHYSADV_DATA")
    if not folder:
        pytest.skip("PHYSADV_DATA is not set: this test needs the real photographs")
    if not Path(folder).is_dir():
        pytest.skip(f"PHYSADV_DATA={folder} is not a folder: this test needs the real photographs")
    return Path(folder)
