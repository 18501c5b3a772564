"""How fast this host is at the moment, by a small program that is timed beside every other.

The processors of a virtual machine share caches, memory and clock with machines that its kernel cannot see, and with
whoever else is at work here: the same block takes half as long again a minute later, with a spread of 2% within each
timing. Programs of one kind slow down together. On two such cores the times of blocks repeated within 15% (standard
deviation), over that of the small program within 5%; with four busy processes beside them, 42% and 8%.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

ROWS, WIDTH, HIDDEN = 1024, 192, 768  # of a feed-forward with its gradients: more than a core caches, 10 ms on two
EVERY = 0.05  # s from one run of it to the next: what is timed in between finds its own caches again
SHARE = 0.1  # of the time in between that it is given, in whole runs


def beside() -> Callable[[], float]:
    """A function that returns the seconds of the small program, at most 0.05 s old; NaN on devices nobody shares."""
    if jax.default_backend() != "cpu":
        return lambda: math.nan
    run = _program()
    last, ended = run(), time.perf_counter()

    def now() -> float:
        nonlocal last, ended
        if (since := time.perf_counter() - ended) > EVERY:
            runs = max(1, round(SHARE * since / last))
            last, ended = math.fsum(run() for _ in range(runs)) / runs, time.perf_counter()
        return last

    return now


@functools.cache
def _program() -> Callable[[], float]:
    """The small program, compiled and run once: a call returns the seconds it took."""

    def loss(rows: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
        return jnp.sum(jax.nn.softmax(jax.nn.gelu(rows @ up) @ down))

    shapes = ((ROWS, WIDTH), (WIDTH, HIDDEN), (HIDDEN, WIDTH))
    values = tuple(jnp.full(shape, 0.01, jnp.float32) for shape in shapes)
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*values).compile()
    jax.block_until_ready(compiled(*values))

    def run() -> float:
        started = time.perf_counter()
        jax.block_until_ready(compiled(*values))
        return time.perf_counter() - started

    return run
