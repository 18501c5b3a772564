"""How sure an order is: draws of the fitted constants, joint over what shares them, and what they do to plans."""

import jax
import numpy as np
import pytest

from coopt.cost import estimate
from coopt.ops import count
from coopt.search.space import Candidate
from coopt.spec.load import model, resolve
from coopt.spec.nouns import Layout, training
from coopt.study import robust
from coopt.study.objectives import machine_of
from coopt.tree import replace


def plan(hardware="dgx-h100", **layout) -> Candidate:
    shape = model("llama3-8b")
    cut = Layout(zero=1.0, recompute=2.0, **{"dp": 64.0, "fsdp": 64.0} | layout)
    return Candidate(model=shape, layout=cut, workload=training(4096.0, 512.0), hardware=resolve(hardware, chips=64))


def test_constants_have_the_spread_of_their_files():
    """hopper.yaml: matmul_16 from 0.66 to 0.766 is the central 90%; a stack without intervals is said to have none."""
    found = robust.spreads(resolve("dgx-h100", chips=64))
    key, sigma, known = found["matmul_16"]
    assert key == ("family", "hopper", "matmul_16") and known
    assert 0.01 < sigma < 0.2
    assert found["hide"] == (("stack", "generic", "hide"), robust.UNKNOWN, False)
    draws = robust.drawn(resolve("dgx-h100", chips=64), samples=4000, seed=1)
    middle = float(resolve("dgx-h100", chips=64).matmul[2])
    assert np.median(draws.matmul[2]) == pytest.approx(middle, rel=0.01)
    assert np.log(draws.matmul[2]).std() == pytest.approx(sigma, rel=0.05)


def test_machines_of_a_family_move_together():
    one, other = (robust.drawn(resolve(name, chips=64), samples=8, seed=3) for name in ("dgx-h100", "dgx-h200"))
    far = robust.drawn(resolve("dgx-a100", chips=64), samples=8, seed=3)
    np.testing.assert_array_equal(one.kernel, other.kernel)
    np.testing.assert_array_equal(one.dispatch, far.dispatch)  # one stack
    assert (one.kernel / one.kernel[0] != far.kernel / far.kernel[0]).any()
    again = robust.drawn(resolve("dgx-h100", chips=64), samples=8, seed=4)
    assert (one.kernel != again.kernel).all()


def test_a_draw_is_the_one_expression():
    """Every plan under every draw in two calls, against one draw of one plan at a time."""
    plans = [plan(), plan(tp=2.0, dp=32.0, fsdp=32.0), plan("dgx-a100"), plan(dp=3.0, fsdp=3.0)]
    values = robust.priced(plans, "step_time", samples=5, seed=0)
    for row, one in zip(values[:3], plans, strict=False):
        machine = robust.drawn(machine_of(one), samples=5, seed=0)
        single = jax.tree.map(lambda leaf: leaf[2] if np.ndim(leaf) else leaf, machine)
        cost = estimate(count(one.model, one.layout, one.workload), single)
        assert row[2] == pytest.approx(float(cost.step_time), rel=1e-12)
    assert np.isinf(values[3]).all()  # dp = 3 does not divide the batch
    limited = robust.priced(plans[:1], "step_time", limits={"step_time": float(np.median(values[0]))}, samples=5)
    assert np.isinf(limited).sum() == 2


def test_what_is_never_beaten_is_sure():
    plans = [plan(), replace(plan(), layout=replace(plan().layout, micro_batch=2.0, recompute=2.0, offload=1.0))]
    document = robust.document(plans, "step_time", listed=1)
    assert document["plans"][0]["best"] + 0.0 <= 1.0 and document["pool"] == 2
    values = robust.priced(plans, "step_time")
    np.testing.assert_allclose(robust.robust(values).best.sum(), 1.0)
    worse = robust.priced([plans[0]], "step_time") * np.array([[1.0], [1.01]])
    assert robust.robust(worse).best.tolist() == [1.0, 0.0]
    assert any("stack generic: hide" in one for one in document["without_interval"])
