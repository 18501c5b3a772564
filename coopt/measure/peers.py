"""One block over the devices of several processes, here or on several hosts: one program, one clock, `jax.distributed`.

Every peer runs the same job with its own rank. How often the program runs is said by the job and not by a clock, since
peers that disagree on it would wait for one another for ever; a step has taken as long as on its slowest peer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopt.measure import candidate as candidates
from coopt.measure import clock, compile
from coopt.measure.jobs import layout_of, model_of, whole
from coopt.problems import Problem, Refused
from coopt.store.identity import finite

FIELDS = ("model", "layout", "part", "layer", "seq_len", "seed", "repeats", "peers")
JOIN = 60  # s to wait for all peers at the start
SILENT = 10  # s without a sign of life after which a peer counts as gone


def run_peer(job: dict, report: Callable[[str], None] = lambda phase: None) -> dict:
    """Compiles and times a block, forward and backward, as peer `rank` of `count`; each answers the same.

    Args:
      job: a block's `model`, `layout` and `seq_len` (see `coopt.measure.jobs.block_job`), `repeats`, and `peers`:
        {"address": "host:port of rank 0", "count": 2, "rank": 0, "devices": 1}, `devices` those of a CPU; or
        {"launched": True} where srun, mpirun or a TPU's runtime has told JAX all of it.
      report: hears the name of each phase.

    Raises:
      Refused: fields that are not known, or a rank that cannot be.
    """
    peers = job.get("peers") or {}
    unknown = sorted(set(job) - set(FIELDS))
    known = peers.get("launched") is True or 0 <= int(peers.get("rank", -1)) < int(peers.get("count", 0))
    if unknown or not known:
        got = ", ".join(unknown) or f"peers {peers}"
        raise Refused(Problem(field="job", expected=f"fields among {', '.join(FIELDS)}, a rank below count", got=got))
    report("join")
    _join(peers)
    try:
        with jax.enable_x64(False):
            return finite({"versions": compile.versions()} | _timed(job, report))
    finally:
        report("leave")
        jax.distributed.shutdown()


def _join(peers: dict) -> None:
    """Meets the other peers, before there is a backend."""
    # On a CPU the number of devices is ours to say.
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in flag]
    os.environ["XLA_FLAGS"] = " ".join(flags)
    jax.config.update("jax_num_cpu_devices", int(peers.get("devices", 1)))
    place: dict[str, Any] = {}
    if "address" in peers:  # of this host alone: nobody else is to reach it
        place = {"coordinator_address": str(peers["address"]), "num_processes": int(peers["count"]),
                 "process_id": int(peers["rank"]), "coordinator_bind_address": str(peers["address"])}  # fmt: skip
    try:
        jax.distributed.initialize(**place, initialization_timeout=JOIN, heartbeat_timeout_seconds=SILENT,
                                   shutdown_timeout_seconds=SILENT)  # fmt: skip
    except ValueError as error:  # JAX found no launcher
        raise Refused(
            Problem(field="peers", expected="processes begun by srun, mpirun or the runtime of a TPU slice",
                    got="none of their variables in the environment", hint="--peers=2 begins two on this machine")
        ) from error  # fmt: skip


def _timed(job: dict, report: Callable[[str], None]) -> dict[str, Any]:
    report("build")
    seed = whole(job, "seed", 0)
    built = candidates.build(model_of(job.get("model")), layout_of(job.get("layout", {})),
                             part=job.get("part", "layer"), layer=whole(job, "layer", 0),
                             seq_len=whole(job, "seq_len"), devices=tuple(jax.devices()))  # fmt: skip
    function, abstract, places = candidates.backward(built)
    count = jax.ShapeDtypeStruct((), jnp.int32)
    compiled = compile.compile_program(clock.counted(function), (*abstract, count), out_shardings=(places, None),
                                       report=report)  # fmt: skip
    report("warm")
    weights = candidates.fill(abstract[0], built, seed)
    inputs = candidates.fill(tuple(abstract[1:]), built, seed + 1)
    zero: Any = np.zeros((), np.int32)  # of no device: a JAX array would be this peer's alone
    (out, _), _ = compiled.program(weights, *inputs, zero)
    norm = float(jax.jit(lambda x: jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)))))(out))
    timer = clock.repeat(compiled.program, (weights, *inputs), zero)
    report("forward_backward")
    from jax.experimental import multihost_utils

    ours = np.array([timer(1) for _ in range(whole(job, "repeats", 5))], np.float32)
    times = np.max(np.asarray(multihost_utils.process_allgather(ours)).reshape(-1, len(ours)), axis=0)
    return {
        "outcome": "ok",
        "rank": jax.process_index(),
        "chips": built.mesh.size,
        "processes": jax.process_count(),
        "time": float(np.median(times)),
        "times": times.tolist(),
        "norm": norm,
        "digest": compiled.digest,
        "collectives": len(compiled.collectives),
        "flops": compiled.flops,
    }
