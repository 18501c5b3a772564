"""Which instruction each kernel of a CUDA graph is of.

XLA launches most kernels of a GPU by graphs, and a trace says of each of them the graph alone. A graph is a stretch of
the schedule of one computation, in order: a fusion is a kernel of its name, up to the number behind it, since equal
fusions share one; a call of a library is a kernel of another name, with what the library clears before it and adds up
after it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

NAMED = "command_buffer"  # how XLA calls its graphs
CLEARS = "Memset"
COPY = "copy"
SUMS = "splitk"  # in the names of kernels that add up what others have computed in parts

Launch = tuple[str, str]  # an instruction's name, and the library that it calls: "" for a fusion, COPY for a copy
Schedules = tuple[tuple[Launch, ...], ...]  # of the computations of a module


@functools.lru_cache(maxsize=256)
def instructions(kernels: tuple[str, ...], schedules: Schedules) -> tuple[str, ...]:
    """The instructions of a graph's kernels, in the order they ran; their own names where no schedule explains all.

    >>> schedule = (("loop_add_fusion.1", ""), ("custom-call.2", "__cublas$lt$matmul"), ("loop_add_fusion", ""))
    >>> instructions(("loop_add_fusion_1", "Memset 0", "nvjet_sm90_tst_128x128", "loop_add_fusion_1"), (schedule,))
    ('loop_add_fusion.1', 'custom-call.2', 'custom-call.2', 'loop_add_fusion')
    >>> instructions(("nvjet_sm90_tst_128x128", "loop_slice_fusion"), (schedule,))
    ('nvjet_sm90_tst_128x128', 'loop_slice_fusion')
    """
    for schedule in schedules:
        for first in range(len(schedule)):
            if found := _along(kernels, schedule[first:]):
                return found
    return kernels


def _along(kernels: Sequence[str], schedule: Sequence[Launch]) -> tuple[str, ...]:
    """The instructions of kernels that begin where the schedule does; nothing where the two part."""
    found: list[str] = []
    at = waiting = 0  # `waiting`: kernels that clear memory for the next one
    for kernel in kernels:
        if kernel.startswith(CLEARS):
            waiting += 1
            continue
        more = at > 0 and schedule[at - 1][1] not in ("", COPY) and not _ours(kernel)  # of the last library
        if more and SUMS in kernel.lower():
            pass
        elif at < len(schedule) and _is(kernel, schedule[at]):
            at += 1
        elif not more:
            return ()
        found += [schedule[at - 1][0]] * (waiting + 1)
        waiting = 0
    return tuple(found + [schedule[at - 1][0]] * waiting) if at else ()


def _is(kernel: str, launch: Launch) -> bool:
    name, library = launch
    if not library:
        return _stem(kernel) == _stem(name)
    if library == COPY:
        return kernel.startswith("Memcpy")
    return not _ours(kernel) and ("cudnn" in library) == ("cudnn" in kernel)


def _ours(kernel: str) -> bool:
    """Whether a kernel is named as XLA names those that it writes itself."""
    return re.fullmatch(r"\w*fusion\w*|wrapped_\w+", kernel) is not None


def _stem(name: str) -> str:
    return re.sub(r"([._]\d+)+$", "", name)
