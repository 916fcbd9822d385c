"""Templates of this folder, filled and written."""

from collections.abc import Mapping
from json import dumps
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from physadv.files import write_atomic
from physadv.report.charts import shade
from physadv.report.words import count, interval, percent, rate_text


def write_page(path: Path, template: str, context: Mapping[str, Any]) -> None:
    """The whole page or nothing; everything in `context` is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "interval": interval, "rate": rate_text, "shade": shade, "count": count}
    write_atomic(path, environment.get_template(template).render(context).encode())


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as one table: `optimiser.step_size` -> `0.1`."""
    table: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            table |= flat(item, f"{prefix}{key}.")
        else:
            table[f"{prefix}{key}"] = _value(item)
    return table


def _value(item: Any) -> str:
    match item:
        case None:
            return "–"
        case str():
            return item
        case float():
            return f"{item:.6g}"
        case list() | tuple():
            return ", ".join(map(_value, item)) or "–"
    return dumps(item)
