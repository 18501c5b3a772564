"""What must not be written down: secrets of the environment, taken out of every text before it reaches a disk.

A child that crashes may have printed anything, an error may quote an address with a password in it. Nothing of coopt
dumps the environment; this is for what others say.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

_SECRET = re.compile(
    r"TOKEN|SECRET|PASS(WORD|WD|PHRASE)?$|PASSWORD|API_?KEY|ACCESS_?KEY|PRIVATE|CREDENTIAL|AUTH|COOKIE", re.I
)
_LEAST = 8  # characters: what is shorter is a setting, and would be found everywhere
_USER = re.compile(r"(?<=://)[^/\s:@]+(?::[^/\s@]*)?(?=@)")
WITHHELD = "(withheld)"


def _looks_secret(value: str) -> bool:
    """Not a word, which stands in files for good reasons, nor the path of a file."""
    return len(value) >= _LEAST and not value.isalpha() and not value.startswith("/")


def scrubber(environment: Mapping[str, str] = os.environ) -> Callable[[Any], Any]:
    """A function that takes secrets out of text, bytes, and of every text in a tree of plain data.

    Secret is the value of a variable whose name says so (`HF_TOKEN`, `AWS_SECRET_ACCESS_KEY`), and who logs in where in
    any address (`https://user:password@host`).

    >>> clean = scrubber({"HF_TOKEN": "hf_abcdefgh", "USE_AUTH": "enabled", "LANG": "C.UTF-8"})
    >>> clean({"message": "401 for hf_abcdefgh at https://me:pw@host/x", "time": 1.5})
    {'message': '401 for (withheld) at https://(withheld)@host/x', 'time': 1.5}
    """
    values = {value for name, value in environment.items() if _SECRET.search(name) and _looks_secret(value)}
    values |= {found[0] for value in environment.values() for found in _USER.finditer(value) if len(found[0]) >= _LEAST}
    spelled = re.compile("|".join(map(re.escape, sorted(values, key=len, reverse=True)))) if values else None

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            value = _USER.sub(WITHHELD, value) if "://" in value else value
            return spelled.sub(WITHHELD, value) if spelled else value
        if isinstance(value, bytes):
            for secret in values:
                value = value.replace(secret.encode(), WITHHELD.encode())
            return value
        if isinstance(value, Mapping):
            return {clean(key): clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        return value

    return clean
