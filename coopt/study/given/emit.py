"""Plain data as YAML that `coopt.spec.read` reads back to the same data."""

from __future__ import annotations

import io
from typing import Any

from ruamel.yaml import YAML


def as_yaml(data: dict[str, Any]) -> str:
    """Plain data as YAML, fields in their order.

    >>> from coopt.spec.read import read_text
    >>> text = as_yaml({"kind": "study", "title": "yes", "limits": {"loss": 3.4}, "machines": [{"chips": 8}]})
    >>> read_text(text)[0]["title"], read_text(text)[0]["limits"], read_text(text)[0]["machines"]
    ('yes', {'loss': 3.4}, [{'chips': 8}])
    """
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    writer.width = 4096  # a folded text would still read back, and be harder to look at
    writer.representer.ignore_aliases = lambda *_: True  # the reader refuses anchors
    stream = io.StringIO()
    writer.dump(plain(data), stream)
    return stream.getvalue()


def plain(value: Any) -> Any:
    """Dictionaries, lists, texts and numbers alone; a float that is a whole number below 2^53 becomes that number."""
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value
