"""A `measure` document: blocks that were timed here; of another target its compiler's time, memory, collectives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from coopt.report import words
from coopt.report.grid import Column, Grid, grid, text

LONGEST = 8  # rows of a pass shown
PARTS = ("arguments", "outputs", "temporary", "aliased", "code", "total")


def shown(document: Mapping[str, Any]) -> str:
    """The document as text."""
    if "on" not in document:
        return timed(document)
    said = [f"{words.plain(b.get('name'))}: {words.plain(b['message'])}" for b in _blocks(document) if b.get("message")]
    said += [words.plain(one) for b in _blocks(document) for one in words.listed(b.get("cache_failures"))]
    made = (programs(document), memory(document), collectives(document), longest(document))
    tables = [text(one) for one in made if one is not None]
    assumed = [f"assumed: {words.plain(one)}" for one in words.listed(document.get("assumed"))]
    return "\n\n".join(part for part in ("\n".join(said), *tables, "\n".join(assumed)) if part)


def timed(document: Mapping[str, Any]) -> str:
    """Blocks that were timed on this host, as text."""
    host = words.mapped(document.get("host"))
    rates = (words.large(host.get(name), unit) for name, unit in (("matmul", "FLOP/s"), ("memory_bandwidth", "B/s")))
    about = [f"{words.plain(host.get('name'))}: products at {' at most, memory at '.join(rates)}."]
    about += [words.sentence(host["unused"])] if host.get("unused") else []
    peak = words.figure(host.get("matmul"))
    body = [_timed_row(block, peak) for block in _blocks(document)]
    heads = (Column("block", words=True), Column("outcome", words=True), Column("forward"), Column("and backward"))
    heads += (Column("within"), Column("of peak"), Column("memory"), Column("off reference"))
    left = words.figure(document.get("left_out"))
    notes = [f"{left:.0f} more were left out: --seconds was over"] if left else []
    notes += [f"written to {words.plain(document['out'])}"] if document.get("out") else []
    said = [f"{words.plain(b.get('name'))}: {words.plain(b['message'])}" for b in _blocks(document) if b.get("message")]
    blocks = text(grid("Compiled and timed here", heads, body, notes=notes, empty="no block"))
    return "\n\n".join(part for part in ("\n".join(about), blocks, "\n".join(said)) if part)


def _timed_row(block: Mapping[str, Any], peak: float | None) -> tuple[str, ...]:
    forward, both = (words.mapped(block.get(name)) for name in ("forward", "forward_backward"))
    time, flops = words.figure(both.get("time")), words.figure(both.get("flops"))
    low, high = words.figure(both.get("low")), words.figure(both.get("high"))
    check = words.mapped(block.get("check"))
    return (
        words.plain(block.get("name")),
        words.plain(block.get("outcome")),
        words.seconds(forward.get("time")),
        words.seconds(time),
        f"±{(high - low) / (2 * time):.1%}" if time and low is not None and high is not None else "",
        words.percent(flops / time / peak) if time and flops and peak else "",
        words.memory(words.mapped(both.get("memory")).get("total")),
        f"{check['worst']:.1e}" if words.figure(check.get("worst")) is not None else "not checked",
    )


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
