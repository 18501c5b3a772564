"""Where profiles and models lie: folders given first, then those of COOPT_PATH, then the ones that ship with coopt."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import MappingProxyType

from coopt.problems import Problem, Refused, near
from coopt.spec import read

Folders = str | Path | tuple[str | Path, ...] | None

FOLDERS = MappingProxyType(
    {
        "chip": "hw_profiles/chips",
        "system": "hw_profiles/systems",
        "family": "hw_profiles/families",
        "stack": "hw_profiles/stacks",
        "process": "hw_profiles/process",
        "design": "hw_profiles/designs",
        "scenario": "hw_profiles/fleets",
        "model": "models",
        "space": "models/spaces",
        "law": "models/laws",
    }
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file as a listing shows it."""

    kind: str
    name: str
    title: str
    aliases: tuple[str, ...]
    chip: str  # of a system
    path: Path


def shipped() -> Path:
    """The folder that holds `hw_profiles/` and `models/`: inside the wheel, or the checkout."""
    package = Path(__file__).resolve().parents[1]
    return package / "_data" if (package / "_data").is_dir() else package.parent


def several(path: Folders) -> tuple[str | Path, ...]:
    """Folders, however many were given."""
    return (path,) if isinstance(path, str | Path) else tuple(path or ())


def roots(path: Folders = None) -> tuple[Path, ...]:
    """Every folder to look in, first come first served; one that does not exist is refused."""
    named = [("profile_path", Path(p)) for p in several(path)]
    named += [("COOPT_PATH", Path(p)) for p in os.environ.get("COOPT_PATH", "").split(os.pathsep) if p]
    wrong = [Problem(field=field, expected="a folder", got=str(p)) for field, p in named if not _there(p, folder=True)]
    if wrong:
        raise Refused(*wrong)
    return (*(p for _, p in named), shipped())


def fold(name: str) -> str:
    """A name without case, and with one kind of separator: `H100 SXM5_80GB` is `h100-sxm5-80gb`."""
    return re.sub(r"[\s_-]+", "-", name.strip().casefold())


def entries(kind: str, *, path: Folders = None) -> tuple[Entry, ...]:
    """The files of a kind by name; a file hides those of the same name further back."""
    found: dict[str, Entry] = {}
    for root in roots(path):
        places = _places(root, kind)
        for entry in _entries(_files(places), places, kind):
            found.setdefault(entry.name, entry)
    return tuple(found[name] for name in sorted(found))


def names(kind: str, *, path: Folders = None) -> tuple[str, ...]:
    """The names of every file of a kind."""
    return tuple(entry.name for entry in entries(kind, path=path))


def kind_of(name: str, kinds: Iterable[str], *, path: Folders = None) -> str | None:
    """Which of some kinds has a file called so: names come before aliases, kinds in the order given; None: none has."""
    listed = {kind: entries(kind, path=path) for kind in kinds}
    for aliased in (False, True):
        for kind, found in listed.items():
            words = (word for e in found for word in (e.aliases if aliased else (e.name, e.path.stem)))
            if fold(name) in map(fold, words):
                return kind
    return None


def spellings(kinds: Iterable[str], *, path: Folders = None) -> tuple[str, ...]:
    """Every name and alias of some kinds."""
    found = (entry for kind in kinds for entry in entries(kind, path=path))
    return tuple(dict.fromkeys(word for entry in found for word in (entry.name, *entry.aliases)))


def find(kind: str, name: str, *, path: Folders = None, but: Path | None = None) -> Path:
    """The file of a kind with that name or alias, or at that path (`*.yaml`), never `but`; refused with close names."""
    if name.endswith((".yaml", ".yml")):
        if _there(Path(name)):
            return Path(name)
        hint = f"`coopt {_verb(kind)}` lists the names" if kind in FOLDERS else ""
        raise Refused(Problem(field=kind, expected="a file", got=name, hint=hint))
    wanted, known = fold(name), []
    for root in roots(path):
        # The file that is called so first: names beyond it need not be read.
        places = _places(root, kind)
        direct = [place / f"{wanted}.yaml" for place in places] if re.fullmatch("[a-z0-9.-]{1,80}", wanted) else []
        for entry in itertools.chain(_entries(direct, places, kind), _entries(_files(places), places, kind)):
            if but is None or entry.path.resolve() != but.resolve():
                if wanted in (fold(entry.name), fold(entry.path.stem)):
                    return entry.path
                known.append(entry)
    called = {e.name: e.path for e in reversed(known) if wanted in map(fold, e.aliases)}
    if len(called) == 1:
        return called.popitem()[1]
    if called:
        hint = "write one of " + ", ".join(sorted(called))
        raise Refused(Problem(field=kind, expected="a name that means one", got=name[:80], hint=hint))
    spellings = dict.fromkeys([e.name for e in known] + [a for e in known for a in e.aliases])
    raise Refused(Problem(field=kind, expected=f"a known {kind}", got=name[:80], hint=near(name, spellings)))


def _there(path: Path, *, folder: bool = False) -> bool:
    try:
        return path.is_dir() if folder else path.is_file()
    except OSError:  # a name too long, a folder that may not be entered
        return False


def _verb(kind: str) -> str:
    return "models" if FOLDERS.get(kind, "models").startswith("models") else "hardware"


def _places(root: Path, kind: str) -> tuple[Path, ...]:
    """Folders of a root that may hold the kind: laid out as shipped, without the first folder, or flat."""
    folder = FOLDERS.get(kind, kind)
    return tuple(dict.fromkeys((root / folder, root / Path(folder).name, root)))


def _files(places: tuple[Path, ...]) -> Iterator[Path]:
    return (file for place in places for file in sorted((*place.glob("*.yaml"), *place.glob("*.yml"))))


def _entries(files: Iterable[Path], places: tuple[Path, ...], kind: str) -> Iterator[Entry]:
    for file in files:
        status = file.stat() if file.is_file() else None
        entry = _entry(file, status.st_mtime_ns, status.st_size) if status else None
        # A file that cannot be read is listed where its folder says what it is, and says why when loaded.
        if entry and (entry.kind == kind or (not entry.kind and file.parent in places[:-1])):
            yield dataclasses.replace(entry, kind=kind)


@functools.lru_cache(maxsize=1000)  # a pure function of the file at that time
def _entry(file: Path, changed: int, size: int) -> Entry:
    head = read.head(file, ("kind", "name", "title", "aliases", "chip"))
    aliases = head.get("aliases")
    said = {key: head[key] if isinstance(head.get(key), str) else "" for key in ("kind", "name", "title", "chip")}
    return Entry(
        kind=said["kind"],
        name=said["name"] or file.stem,
        title=said["title"],
        aliases=tuple(a for a in aliases if isinstance(a, str)) if isinstance(aliases, list) else (),
        chip=said["chip"],
        path=file,
    )
