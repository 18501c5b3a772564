"""Seconds of one kernel on one chip: compute against memory, with the shape's toll, and a launch."""

from __future__ import annotations

from coopt.spec.nouns import TYPE_BYTES, TYPES, Hardware, Leaf, Row
from coopt.xp import always, at_least, choose, sqrt, where

# Types at least eight bits narrower than the widest share an efficiency in the profile; a zero peak is `cannot`.
TINY = 1e-30
# Bytes that a blocked product of n FLOPs re-reads, times sqrt(S) / n, by type: n / sqrt(S / b) elements of b bytes.
RE_READ = tuple(size * size**0.5 for size in TYPE_BYTES)


def root_sum(a: Leaf, b: Leaf) -> Leaf:
    """sqrt(a^2 + b^2): between max and sum, smooth; finite with a finite gradient at a = b = 0 by the last term.

    >>> float(root_sum(3.0, 4.0))
    5.0
    """
    return sqrt(a * a + b * b + TINY)


def peak(hardware: Hardware, type: Leaf) -> Leaf:
    """Dense FLOP/s of a type code; 0 where the chip has no such type."""
    return choose(type, hardware.peak)


def matmul_time(hardware: Hardware, row: Row) -> Leaf:
    """Seconds of `batch` products of m x k by k x n.

    Work is rounded up smoothly to tiles (m' = sqrt(m^2 + tile_m^2)) and to waves of tiles over the cores; a library
    splits the reduction, down to tile_k, when there are too few tiles; `depth` is the reduction length lost to
    filling the pipeline. With w = batch m' n' / (tile_m tile_n cores) waves and s = tile_k / (k + tile_k):

        compute = sqrt(w^2 + s^2) cores tile_m tile_n 2 (k + depth) / (efficiency peak)
        time = sqrt(compute^2 + memory^2) / (batched, where there are several; backward, in a backward pass, by type)

    Against measured GEMMs (m >= 64, over 10 us, held out) this form is within 7-11% on three GPU generations.
    """
    area = hardware.tile_m * hardware.tile_n * hardware.cores
    m = sqrt(row.m * row.m + hardware.tile_m * hardware.tile_m)
    n = sqrt(row.n * row.n + hardware.tile_n * hardware.tile_n)
    waves = row.batch * m * n / area
    sliced = hardware.tile_k / (row.k + hardware.tile_k)
    rate = at_least(peak(hardware, row.type) * choose(row.type, hardware.matmul), 1.0)
    compute = root_sum(waves, sliced) * (2.0 * area) * (row.k + hardware.depth) / rate
    time = root_sum(compute, blocked_time(hardware, row))
    if not always(hardware.batched, 1.0):
        time = time / where(row.batch > 1.5, hardware.batched, 1.0)
    if row.phase == "backward" and not all(always(rate, 1.0) for rate in hardware.backward):
        time = time / choose(row.type, hardware.backward)
    return time


def blocked_time(hardware: Hardware, row: Row) -> Leaf:
    """Seconds to move the bytes of products that are blocked to fit on chip, as a stream reaches them."""
    return blocked_bytes(hardware, row) / (hardware.bandwidth * hardware.stream)


def blocked_bytes(hardware: Hardware, row: Row) -> Leaf:
    """Bytes of main memory that products move which are blocked to fit S bytes on chip.

        bytes = sqrt((read + written)^2 + (n b^1.5 / sqrt(S))^2),   n = 2 m n k

    n / sqrt(S / b) elements is what any order of computing must move (Hong and Kung 1981; Irony, Toledo and Tiskin
    2004); fused attention is two such products, and moves no less.
    """
    again = row.flops * choose(row.type, RE_READ) * hardware.spill
    return root_sum(row.read + row.written, again)


def padding(hardware: Hardware, size: Leaf) -> Leaf:
    """How much longer a product takes whose size leaves part of a matrix unit's edge idle: (1 + (e / size)^8)^(1/8).

    >>> [round(float(padding(Hardware(edge=edge), 128.0)), 2) for edge in (0.0, 64.0, 128.0, 256.0)]
    [1.0, 1.0, 1.09, 2.0]
    """
    ratio = hardware.edge / at_least(size, 1.0)
    fourth = ratio * ratio * ratio * ratio
    return sqrt(sqrt(sqrt(1.0 + fourth * fourth)))


def attention_time(hardware: Hardware, row: Row) -> Leaf:
    """Seconds of a fused attention kernel: FLOPs at its share of the peak, against the bytes in and out.

    The share falls with short sequences, as depth / keys; against measured kernels (sequences of 256 and more, over
    20 us) this form is within 5-9% on three GPU generations and four head sizes.
    """
    share = hardware.attention_backward if row.phase == "backward" else hardware.attention
    share = share * row.n / at_least(row.n + 0.5 * hardware.attention_depth, 1.0)
    rate = at_least(peak(hardware, row.type) * share, 1.0)
    # Rows of queries fill the cores as matmul tiles do; short sequences leave some idle.
    tiles = row.m / hardware.tile_m * row.batch / hardware.cores
    fill = root_sum(tiles, 1.0) / at_least(tiles, 1e-9)
    products = row.flops * padding(hardware, row.k) * fill / rate
    scores = row.m * row.n * row.batch * hardware.score
    return root_sum(root_sum(products, scores), blocked_time(hardware, row))


def memory_time(hardware: Hardware, row: Row) -> Leaf:
    """Seconds to move the row's bytes at the share of the memory bandwidth that streams reach."""
    return (row.read + row.written) / (hardware.bandwidth * hardware.stream)


def passes(hardware: Hardware, row: Row) -> Leaf:
    """Times the bytes of a perfectly fused kernel that a stack's moves: 1 for gathers and casts, kernels anyway.

    Compilers fuse less in a backward pass.
    """
    if row.kind != "elementwise":
        return 1.0
    return hardware.passes * hardware.passes_back if row.phase == "backward" else hardware.passes


def traffic(hardware: Hardware, row: Row) -> Leaf:
    """Bytes of main memory that one occurrence of a compute row moves."""
    if row.kind in ("matmul", "attention"):
        return blocked_bytes(hardware, row)
    return (row.read + row.written) * passes(hardware, row)


def vector_bound(hardware: Hardware, passes: Leaf) -> Leaf:
    """Time of a pointwise kernel over that of its bytes alone: passes sqrt(1 + (vector / memory)^2), per byte moved."""
    ratio = hardware.pointwise * hardware.bandwidth * hardware.stream / at_least(passes, 1e-9)
    return passes * sqrt(1.0 + ratio * ratio)


def compute_time(hardware: Hardware, row: Row) -> Leaf:
    """Seconds of one occurrence of a compute row, its launches included.

    Pointwise kernels move `passes` times the bytes of perfectly fused ones; the vector units work on them meanwhile.
    Gathers and casts are kernels of their own in every stack, and move what they must.
    """
    if row.kind == "matmul":
        time = matmul_time(hardware, row)
    elif row.kind == "attention":
        time = attention_time(hardware, row)
    else:
        time = memory_time(hardware, row) * vector_bound(hardware, passes(hardware, row))
    return time + row.launches * hardware.kernel


def compute_share(hardware: Hardware, row: Row) -> Leaf:
    """FLOP seconds at the bare peak: what decides whether a row is bound by compute or by memory."""
    return row.flops / at_least(peak(hardware, row.type), 1.0)


def supported(hardware: Hardware, type: Leaf) -> Leaf:
    """True where the chip has the type."""
    return peak(hardware, type) > 0.0


__all__ = [
    "TYPES",
    "attention_time",
    "blocked_time",
    "compute_share",
    "compute_time",
    "matmul_time",
    "memory_time",
    "padding",
    "peak",
    "root_sum",
    "supported",
    "traffic",
    "vector_bound",
]
