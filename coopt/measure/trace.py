"""Reads what a profiler wrote: seconds of each operation on the device, and the `jax.named_scope` it stands under.

read(folder)       an xplane directory, as `jax.profiler.trace` writes it
kernels(file)      a CSV of `nsys stats --report cuda_gpu_kern_sum` or `cuda_gpu_trace`, with `--format csv`
traced(run)        the same for a function that runs a program here
"""

from __future__ import annotations

import collections
import dataclasses
import math
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import jax

from coopt.measure import graphs, wire
from coopt.problems import Problem, Refused

LARGEST = 1 << 30  # B of a trace that is read


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation of a device, over the runs of a trace."""

    name: str  # the compiler's, or a kernel's
    scope: (
        str  # the path of named scopes it was written under: jit(step)/transpose(jvp(mlp.up))/dot_general; "" unknown
    )
    module: str
    time: float  # s a run, without the operations it contains
    count: float  # occurrences a run


@dataclasses.dataclass(frozen=True)
class Trace:
    """What one device did, as a run of its program: mean over runs and devices."""

    operations: tuple[Operation, ...]  # longest first
    runs: int
    spans: tuple[float, ...]  # s, each run from its first operation's start to its last one's end; empty: not known
    devices: int = 1

    def scopes(self) -> list[dict]:
        """Seconds a run by named scopes and phase, longest first: `{scope, phase, time}`; scope "" is not known."""
        totals: dict[tuple[str, str], list[float]] = {}
        for operation in self.operations:
            key = "/".join(words(operation.scope)), phase_of(operation.scope)
            totals.setdefault(key, []).append(operation.time)
        rows = [{"scope": scope, "phase": phase, "time": sum(sorted(t))} for (scope, phase), t in totals.items()]
        return sorted(rows, key=lambda row: -row["time"])

    @property
    def busy(self) -> float:
        """Seconds a run in operations; more than a run's span where several threads work at once."""
        return sum(sorted(operation.time for operation in self.operations))


def phase_of(scope: str) -> str:
    """What an operation belongs to, as JAX writes it into the path of scopes.

    >>> phase_of("jit(step)/jvp(mlp.up)/dot_general"), phase_of("jit(step)/transpose(jvp(mlp.up))/dot_general")
    ('forward', 'backward')
    """
    if "rematted_computation" in scope:
        return "recompute"
    return "backward" if "transpose(" in scope else "forward"


def words(scope: str) -> tuple[str, ...]:
    """The named scopes of a path, outermost first, without the transformations around them and without the primitive.

    >>> words("jit(step)/transpose(jvp(layers))/checkpoint/mlp.up/bsi,io->bso/dot_general")
    ('layers', 'mlp.up', 'bsi,io->bso')
    """
    found = []
    for part in scope.partition(";")[0].split("/")[:-1]:
        bare = part.rpartition("(")[2].rstrip(")")
        if bare and not part.startswith("jit(") and bare not in ("checkpoint", "rematted_computation"):
            found.append(bare)
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class _Event:
    start: float  # s
    end: float
    name: str
    module: str
    program: str  # a module's name and number
    device: str
    run: int | None
    launch: int | None = None  # of the CUDA graph that it is a kernel of


def traced(run: Callable[[], object]) -> Trace:
    """The trace of a function that runs a program and waits for it; without operations where the profiler sees none."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory(prefix="coopt-trace-") as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            run()
        files = sorted(Path(folder).glob("**/*.xplane.pb"))
        return _of_spaces([file.read_bytes() for file in files])


def read(folder: str | Path) -> Trace:
    """The trace in a directory, or in an `.xplane.pb` file: the newest session that is in it, all its hosts.

    Raises:
      Refused: no trace there, one that cannot be read, or one in which no device did anything.
    """
    place = Path(folder)
    files = [place] if place.is_file() else sorted(place.glob("**/*.xplane.pb"))
    if not files:
        hint = "`with jax.profiler.trace(DIR): step(...)` writes one"
        raise Refused(Problem(file=str(place), field="trace", expected="an xplane trace", got="none there", hint=hint))
    newest = place if place.is_file() else max(files, key=lambda file: file.stat().st_mtime).parent
    files = [file for file in files if newest in (file, file.parent)]
    if (size := sum(file.stat().st_size for file in files)) > LARGEST:
        hint = "trace fewer steps"
        raise Refused(Problem(file=str(newest), field="trace", expected="at most 1 GiB", got=f"{size} B", hint=hint))
    try:
        found = _of_spaces([file.read_bytes() for file in files])
    except (ValueError, IndexError, KeyError, StopIteration, RuntimeError) as error:
        got = f"{type(error).__name__}: {error}"[:120]
        hint = "a folder of jax.profiler.trace, an .xplane.pb of one, or a .csv of `nsys stats --format csv` is read"
        expected = "a whole xplane file"
        raise Refused(Problem(file=str(newest), field="trace", expected=expected, got=got, hint=hint)) from error
    if not found.operations:
        hint = "trace the second step or a later one, and wait for it (block_until_ready) inside the trace"
        expected, got = "operations of a device", "a trace of the host alone"
        raise Refused(Problem(file=str(newest), field="trace", expected=expected, got=got, hint=hint))
    return found


def _of_spaces(spaces: list[bytes]) -> Trace:
    events, names = [], {}
    for number, space in enumerate(spaces):
        modules = wire.modules(space)
        names |= {name: wire.op_names(module) for name, module in modules.items()}
        events += _of_graphs(list(_events(space, f"host {number} ")), modules)
    return summary(events, names) if events else Trace(operations=(), runs=0, spans=())


def _of_graphs(timed: list[tuple[_Event, float]], modules: dict[str, bytes]) -> list[tuple[_Event, float]]:
    """The events with the instructions of those that a graph launched in place of the graph."""
    launched: dict[tuple[str, str, int], list[int]] = {}
    for position, (event, _) in enumerate(timed):
        if event.launch is not None:
            launched.setdefault((event.device, event.program, event.launch), []).append(position)
    schedules = {program: wire.launches(modules.get(program, b"")) for _, program, _ in launched}
    named = list(timed)
    for (_, program, _), positions in launched.items():
        positions.sort(key=lambda i: timed[i][0].start)
        kernels = tuple(timed[i][0].name for i in positions)
        for i, name in zip(positions, graphs.instructions(kernels, schedules[program]), strict=True):
            named[i] = (dataclasses.replace(timed[i][0], name=name), timed[i][1])
    return named


def _events(space: bytes, host: str) -> Iterable[tuple[_Event, float]]:
    """The operations on all devices, whichever way a platform writes them: GPU streams, TPU lines, CPU threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the binding: types without a module
        for plane in jax.profiler.ProfileData.from_serialized_xspace(space).planes:
            on_device = plane.name.startswith("/device:")
            if not on_device and not plane.name.startswith("/host:CPU"):
                continue
            lines = list(plane.lines)
            chosen = [line for line in lines if line.name == "XLA Ops"] or lines
            for line in chosen:
                yield from _self_times(list(_of_line(line, host + plane.name if on_device else host, on_device)))


def _of_line(line, device: str, on_device: bool) -> Iterable[_Event]:
    for event in line.events:
        said = {name: value for name, value in event.stats}
        name = said.get("hlo_op")
        if name is None and on_device and line.name == "XLA Ops":
            # A TPU's event is named by the text of its instruction: %fusion.3 = bf16[...] fusion(...)
            name = event.name.partition(" =")[0].lstrip("%")
        if name is None:
            continue
        launch = None
        if str(name).startswith(graphs.NAMED):
            name, launch = event.name, int(said.get("correlation_id", 0))
        module = str(said.get("hlo_module", ""))
        program = f"{module}({said['program_id']})" if "program_id" in said else module
        ordinal = f" {said['device_ordinal']}" if not on_device and "device_ordinal" in said else ""
        run = said.get("run_id")
        start = event.start_ns * 1e-9
        yield _Event(
            start=start, end=start + event.duration_ns * 1e-9, name=str(name), module=module, program=program,
            device=device + ordinal, run=run if isinstance(run, int) else None, launch=launch,
        )  # fmt: skip


def _self_times(events: list[_Event]) -> Iterable[tuple[_Event, float]]:
    """Each event of a line with its seconds less those of the events inside it: a loop holds its body's."""
    inside: dict[int, float] = collections.defaultdict(float)
    open_: list[int] = []
    order = sorted(range(len(events)), key=lambda i: (events[i].start, -events[i].end))
    for i in order:
        while open_ and events[open_[-1]].end <= events[i].start:
            open_.pop()
        if open_:
            inside[open_[-1]] += events[i].end - events[i].start
        open_.append(i)
    for i in order:
        yield events[i], max(events[i].end - events[i].start - inside[i], 0.0)


def summary(timed: list[tuple[_Event, float]], names: dict[str, dict[str, str]]) -> Trace:
    """Operations summed over the runs of the program that took longest."""
    by_program: dict[str, list[tuple[_Event, float]]] = {}
    for event, seconds in timed:
        by_program.setdefault(event.program, []).append((event, seconds))
    longest = max(by_program.values(), key=lambda found: sum(seconds for _, seconds in found))
    devices = len({event.device for event, _ in longest})
    spans = _spans([event for event, _ in longest])
    runs = max(1, round(len(spans) / devices))
    totals: dict[tuple[str, str, str], list[float]] = {}
    for event, seconds in timed:
        total = totals.setdefault((event.name, event.program, event.module), [0.0, 0.0])
        total[0] += seconds
        total[1] += 1.0
    unique = _unique(names)
    operations = [
        Operation(
            name=name, scope=(names.get(program) or unique).get(name, ""), module=module,
            time=total / runs / devices, count=count / runs / devices,
        )
        for (name, program, module), (total, count) in totals.items()
    ]  # fmt: skip
    operations.sort(key=lambda operation: -operation.time)
    return Trace(operations=tuple(operations), runs=runs, spans=spans, devices=devices)


def _unique(names: dict[str, dict[str, str]]) -> dict[str, str]:
    """Scopes of the operations whose names occur in one module alone: for events that do not say theirs."""
    seen = collections.Counter(name for module in names.values() for name in module)
    return {name: scope for module in names.values() for name, scope in module.items() if seen[name] == 1}


def _spans(events: list[_Event]) -> tuple[float, ...]:
    """Seconds of each run: by the number the runtime gave it, or the n-th of every operation's occurrences together."""
    ends: dict[tuple, list[float]] = {}
    seen: collections.Counter = collections.Counter()
    numbered = all(event.run is not None for event in events)
    often = collections.Counter((event.device, event.name) for event in events)
    runs = math.gcd(*often.values())
    for event in sorted(events, key=lambda event: event.start):
        key = (event.device, event.name)
        run = event.run if numbered else seen[key] * runs // often[key]
        seen[key] += 1
        span = ends.setdefault((event.device, run), [event.start, event.end])
        span[1] = max(span[1], event.end)
    return tuple(end - start for start, end in ends.values())
