"""A program of the user's own is timed by the same clock, in the same isolation, with the same outcomes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from coopt.measure.job import run_job
from coopt.problems import Refused

OWN = '''
import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(64)(nn.gelu(nn.Dense(256)(x)))


def training():
    """A whole step of Flax linen and optax, its state donated and given as shapes."""
    net, optimizer = Mlp(), optax.adam(1e-3)
    x = jax.ShapeDtypeStruct((128, 64), jnp.float32)
    weights = jax.eval_shape(net.init, jax.random.key(0), x)
    state = (weights, jax.eval_shape(optimizer.init, weights))

    def step(state, x, key):
        weights, moments = state
        noise = jax.random.normal(key, x.shape)
        loss, slopes = jax.value_and_grad(lambda w: jnp.mean((net.apply(w, x + noise) - x) ** 2))(weights)
        updates, moments = optimizer.update(slopes, moments)
        return (optax.apply_updates(weights, updates), moments), loss

    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.jit(step, donate_argnums=0), (state, x, key)


def plain():
    return (lambda a, b: a @ b), (jnp.ones((256, 256)), jnp.ones((256, 256)))


def cut(devices):
    """A product over all devices of the target, whichever they are."""
    mesh = jax.sharding.Mesh(np.array(devices), ("all",), axis_types=(jax.sharding.AxisType.Auto,))
    lies = lambda *spec: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
    a = jax.ShapeDtypeStruct((256, 512), jnp.float32, sharding=lies(None, "all"))
    b = jax.ShapeDtypeStruct((512, 128), jnp.float32, sharding=lies("all", None))
    return jax.jit(lambda a, b: a @ b, out_shardings=lies()), (a, b)


def nowhere(devices):
    return jnp.tanh, (jax.ShapeDtypeStruct((8,), jnp.float32),)


def lost():
    return jax.jit(lambda a: a.sum(), donate_argnums=0), (jnp.ones((64,)),)


def wrong():
    return plain


def broken():
    def step(x):
        raise ValueError("no such shape")
    return step, (jnp.ones(3),)


def hungry():
    shape = jax.ShapeDtypeStruct((1 << 24, 1 << 20), jnp.float32)
    return (lambda x: x * 2.0), (shape,)


def dying():
    os.abort()


class Block(nnx.Module):
    def __init__(self, width):
        self.scale = nnx.Param(jnp.zeros((width,)))
        self.kernel = nnx.Param(jnp.zeros((width, width)))

    def __call__(self, x):
        return x + jnp.tanh(x * self.scale[...]) @ self.kernel[...]


def block(model, kind):
    return Block(int(model.d_model))
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's in an empty folder, importable here and in children."""
    (tmp_path / "own_steps.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("own_steps", None)


def measured(name, **more):
    return run_job({"kind": "program", "program": f"own_steps:{name}", "budget_s": 0.2} | more)


def test_a_step_that_donates_its_state_is_fed_with_its_results(own):
    answer = measured("training")
    assert answer["outcome"] in ("ok", "noisy")
    assert answer["donated"] == [0]
    assert answer["time"] > 0
    assert answer["low"] <= answer["time"] <= answer["high"]
    assert answer["assumed"]
    # forward and two products backward of each of two matrices, less the gradient of the input
    least = 2.0 * 128 * 64 * 256 * 5
    assert least <= answer["flops"] <= 2.0 * least


def test_a_plain_function_is_timed(own):
    answer = measured("plain")
    assert answer["flops"] == pytest.approx(2.0 * 256**3, rel=0.01)
    assert answer["assumed"] == []
    assert answer["phases"]["step"]["scopes"]


def test_a_program_is_compiled_for_devices_that_are_not_there(own):
    """A function that takes the devices cuts over them all; one that takes none is compiled for one; neither runs."""
    answer = measured("cut", target="cpu:8")
    assert (answer["outcome"], answer["chips"], answer["kind"]) == ("ok", 8, "none")
    assert "time" not in answer
    step = answer["phases"]["step"]
    assert step["flops"] == pytest.approx(2.0 * 256 * 512 * 128 / 8, rel=0.01)
    assert [(one["kind"], one["size"]) for one in step["collectives"]] == [("all_reduce", 8)]
    assert measured("plain", target="cpu:8")["chips"] == 1


def test_a_program_for_a_machine_that_is_not_there_says_where_its_arguments_lie(own):
    from coopt.measure import program, topology

    far = topology.Target("tpu:v5e:2x4", "tpu", tuple(jax.devices()), runs=False, timed=False)
    with pytest.raises(Refused, match="sharding=NamedSharding"):
        program._built("own_steps:nowhere", far)
    _, (a, b) = program._built("own_steps:cut", far)
    assert len(a.sharding.device_set) == len(b.sharding.device_set) == 8
    _, (a, b) = program._built("own_steps:plain", far)
    assert isinstance(a, jax.ShapeDtypeStruct) and a.sharding.device_set == {jax.devices()[0]}


def test_the_command_compiles_a_program_for_another_target(own, repository):
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-m", "coopt", "measure", "--program=own_steps:cut", "--on=cpu:4", "--format=json"]
    done = subprocess.run(command, cwd=own, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (block,) = json.loads(done.stdout)["blocks"]
    assert (block["name"], block["chips"], block["outcome"]) == ("own_steps:cut", 4, "ok")
    assert [one["group"] for one in block["phases"]["step"]["collectives"]] == [4]


def test_what_is_not_a_program_is_refused_with_how_to_write_it(own):
    with pytest.raises(Refused, match=r"return \(step, arguments\)"):
        measured("wrong")
    with pytest.raises(Refused, match="argument 0 is donated"):
        measured("lost")
    with pytest.raises(Refused, match="can be imported"):
        measured("nothing")
    with pytest.raises(Refused, match="package.module:function"):
        run_job({"kind": "program"})


def test_a_program_that_does_not_fit_says_its_bytes(own):
    answer = measured("hungry", memory=1e9)
    assert answer["outcome"] == "infeasible-memory"
    assert answer["wanted"] > 1e13
    assert answer["available"] == 1e9


def test_a_users_own_block_takes_the_place_of_ours(own):
    job = {
        "kind": "block", "block": "own_steps:block", "seq_len": 32, "budget_s": 0.05,
        "model": {"d_model": 64, "kinds": [{"heads": 2, "kv_heads": 2, "head_dim": 32, "d_ff": 128}]},
        "layout": {"micro_batch": 2, "precision": "fp32"},
    }  # fmt: skip
    answer = run_job(job)
    assert answer["outcome"] in ("ok", "noisy")
    assert (answer["name"], answer["parameters"]) == ("own_steps:block", 64 + 64 * 64)
    assert all(math.isfinite(answer["phases"][name]["time"]) for name in ("forward", "forward_backward"))
    with pytest.raises(Refused, match="one device"):
        run_job(job | {"layout": {"tp": 2}, "target": "cpu:2"})
    with pytest.raises(Refused, match="part = layer"):
        run_job(job | {"part": "head"})


def test_the_command_times_a_block_of_ones_own(own):
    from coopt.commands.parse import parse
    from coopt.study.timed import timing

    typed = ["measure", "--model=gpt2-124m", "model.d_model=96", "--block=own_steps:block", "--seq_len=32"]
    (block,) = timing.measure(parse(typed))["blocks"]
    assert block["outcome"] in ("ok", "noisy") and block["name"].startswith("own_steps:block d96 ")
    assert block["forward_backward"]["time"] > 0 and block["check"] is None  # nothing says what it should compute
    with pytest.raises(Refused, match="one device"):
        timing.measure(parse([*typed[:1], "--block=own_steps:block", "--seconds=1"]))


@pytest.mark.parametrize(("name", "said"), [("broken", "compile-error"), ("dying", "crashed"), ("plain", "")])
def test_the_command_says_what_became_of_it(own, repository, name, said):
    """From the command line, in an isolated child: a failure is an outcome, with exit 0 and no traceback."""
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-m", "coopt", "measure", f"--program=own_steps:{name}", "--seconds=0.2"]
    done = subprocess.run(command, cwd=own, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout
    line = next(line for line in done.stdout.splitlines() if line.startswith("outcome"))
    assert (said in line) if said else ("ok" in line or "noisy" in line)


def test_the_key_types_of_jax_are_made():
    from coopt.measure.program import _filled

    abstract = (jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((3,), jnp.int32))
    key, numbers = _filled(abstract, 0)[0]
    assert jax.random.normal(key).shape == ()
    assert numbers.tolist() == [0, 0, 0]
