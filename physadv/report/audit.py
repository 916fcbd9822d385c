"""`report.html` of `physadv audit`: one page that says whether the figure can be trusted."""

from pathlib import Path
from typing import Any

from physadv.audit import Audit
from physadv.files import write_json


def write_audit(path: Path, audit: Audit, metrics: dict[str, Any]) -> None:
    write_json(path.with_suffix(".tmp.json"), metrics)
