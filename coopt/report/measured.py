"""A `measure` document of a target that is compiled for: time by its compiler, memory, collectives, longest rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from coopt.report import words
from coopt.report.grid import Column, Grid, grid, text

LONGEST = 8  # rows of a pass shown
PARTS = ("arguments", "outputs", "temporary", "aliased", "code", "total")


def shown(document: Mapping[str, Any]) -> str:
    """The document as text."""
    said = [f"{words.plain(b.get('name'))}: {words.plain(b['message'])}" for b in _blocks(document) if b.get("message")]
    made = (programs(document), memory(document), collectives(document), longest(document))
    tables = [text(one) for one in made if one is not None]
    assumed = [f"assumed: {words.plain(one)}" for one in words.listed(document.get("assumed"))]
    return "\n\n".join(part for part in ("\n".join(said), *tables, "\n".join(assumed)) if part)


def _blocks(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return words.entries(document, "blocks")


def _passes(document: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str, Mapping[str, Any]]]:
    for block in _blocks(document):
        for name, phase in words.mapped(block.get("phases")).items():
            yield block, f"{words.plain(block.get('name'))} {words.plain(name)}".replace("_", " "), words.mapped(phase)


def programs(document: Mapping[str, Any]) -> Grid:
    """One line a compiled program."""
    body = [
        (
            name,
            words.plain(block.get("outcome")),
            words.seconds(phase.get("time")),
            words.large(phase.get("flops")),
            words.memory(words.mapped(phase.get("memory")).get("total")),
            words.memory(block.get("room")),
            words.seconds(phase.get("compile_s")),
        )
        for block, name, phase in _passes(document)
    ]
    body += [
        (
            words.plain(b.get("name")),
            words.plain(b.get("outcome")),
            "",
            "",
            words.memory(b.get("wanted")),
            words.memory(b.get("room")),
            "",
        )
        for b in _blocks(document)
        if not b.get("phases")
    ]
    heads = (Column("program", words=True), Column("outcome", words=True), Column("time"), Column("FLOP"))
    heads += (Column("memory"), Column("of"), Column("compiled in"))
    kinds = {words.plain(b.get("kind")) for b in _blocks(document)}
    held = max((words.figure(b.get("resident")) or 0.0 for b in _blocks(document)), default=0.0)
    notes = [f"time: {', '.join(sorted(kinds))}; a device each; the compiler held {words.memory(held)} at most"]
    return grid(f"Compiled for {words.plain(document['on'])}", heads, body, notes=notes)


def memory(document: Mapping[str, Any]) -> Grid:
    """Bytes of a device by kind."""
    body = [
        (name, *(words.memory(words.mapped(phase.get("memory")).get(part)) for part in PARTS))
        for _, name, phase in _passes(document)
    ]
    return grid("Memory of a device", (Column("program", words=True), *map(Column, PARTS)), body)


def collectives(document: Mapping[str, Any]) -> Grid:
    """Collectives of a kind and group size together."""
    body = [
        (
            name,
            words.plain(one.get("kind")).replace("_", " "),
            words.large(one.get("group")),
            words.large(one.get("times")),
            words.memory(one.get("bytes")),
            "hidden" if one.get("hidden") else "waited for",
        )
        for _, name, phase in _passes(document)
        for one in words.entries(phase, "collectives")
    ]
    heads = (Column("program", words=True), Column("collective", words=True), Column("group"), Column("times"))
    return grid("Collectives", (*heads, Column("bytes"), Column("", words=True)), body, empty="none")


def longest(document: Mapping[str, Any]) -> Grid | None:
    """The longest rows of each program whose compiler says how long, and the rule each came by."""
    body = [
        (
            name,
            words.plain(row.get("name")),
            words.plain(row.get("kind")),
            words.large(row.get("times")),
            words.seconds(row.get("seconds")),
            words.plain(row.get("rule")),
        )
        for _, name, phase in _passes(document)
        for row in words.entries(phase, "rows")[:LONGEST]
        if not row.get("hidden")
    ]
    heads = (Column("program", words=True), Column("operation", words=True, width=32), Column("kind", words=True))
    heads += (Column("times"), Column("time"), Column("by", words=True))
    return grid("Longest rows", heads, body) if body else None
