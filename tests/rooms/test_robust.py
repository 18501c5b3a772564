"""How sure an order is: draws of the fitted constants, joint over what shares them, and what they do to plans."""

import math

import jax
import numpy as np
import pytest

from coopt.cost import estimate, loss
from coopt.ops import count
from coopt.search.price import quality
from coopt.search.space import Candidate
from coopt.spec.load import law as load_law
from coopt.spec.load import model, resolve
from coopt.spec.nouns import Layout, training
from coopt.study.given.objectives import machine_of
from coopt.study.screened import robust
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
    document, values = robust.document(plans, "step_time", listed=1), robust.priced(plans, "step_time")
    (told,), found = document["plans"], robust.robust(values)
    assert document["pool"] == 2 and found.best.sum() == 1.0
    assert (told["best"], told["first"], told["low"]) == (found.best[0], 1.0, found.low[0])
    worse = robust.priced([plans[0]], "step_time") * np.array([[1.0], [1.01]])
    assert robust.robust(worse).best.tolist() == [1.0, 0.0]
    assert any("stack generic: hide" in one for one in document["without_interval"])


def shapes(law: str) -> list[Candidate]:
    """Two shapes and budgets of one law, whose losses are near each other."""
    base = replace(model("llama3-8b"), d_model=2048.0, vocab=50257.0)
    kind = replace(base.kinds[0], count=32.0, heads=16.0, kv_heads=16.0, head_dim=128.0, d_ff=5632.0)
    if law.startswith("moe"):
        kind = replace(kind, feedforward="moe", experts=64.0, top_k=1.0, d_expert=2048.0, count=8.0)
        base = replace(base, d_model=512.0)
    found = []
    for layers, tokens in ((float(kind.count), 1e11), (float(kind.count) + 2.0, 0.95e11)):
        shape = replace(base, name=f"m{layers:g}", kinds=(replace(kind, count=layers),))
        found.append(replace(plan(), model=shape, law=load_law(law), workload=training(4096.0, 512.0, tokens)))
    return found


@pytest.mark.parametrize("law", ["chinchilla-besiroglu", "moe-krajewski"])
def test_draws_of_a_law_spread_a_loss_as_its_own_interval(law):
    """5% and 95% of the draws of the law are the interval that `loss` gives, to a tenth of its width."""
    first = shapes(law)[0]
    values = robust.priced([first], "loss", samples=4000, seed=2)[0]
    said = loss(first.law, first.model, first.workload.tokens, 4096.0 * 512.0)
    width = float(said.high - said.low)
    assert width > 0 and np.isfinite(values).all()
    np.testing.assert_allclose(
        np.quantile(values, (0.05, 0.5, 0.95)), (said.low, said.value, said.high), atol=0.1 * width
    )


@pytest.mark.parametrize("law", ["chinchilla-besiroglu", "moe-krajewski"])
def test_an_order_by_loss_is_only_as_sure_as_the_law(law):
    """What plans have in common cancels; a shape that must be as good as the first one is so in some of the draws."""
    first, other = shapes(law)
    values = robust.priced([first, other], "loss", samples=2000, seed=3)
    gap, sigma = np.median(values[1] - values[0]), (values[1] - values[0]).std()
    assert sigma > 0
    share = (values[0] < values[1]).mean()
    assert abs(share - 0.5 * (1.0 + math.erf(gap / sigma / math.sqrt(2.0)))) < 0.05
    bound = float(quality(first))
    held = robust.priced([first, other], "step_time", limits={"loss": bound}, samples=2000, seed=3)
    assert np.isfinite(held[0]).all()  # as good as itself
    assert np.isinf(held[1]).mean() == pytest.approx((values[1] > values[0]).mean(), abs=1e-9)
