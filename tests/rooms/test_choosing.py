"""Which block is timed next, and when enough have been: on hidden machines whose best plan is known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from coopt.commands.parse import parse
from coopt.report import words
from coopt.report.searched import again_sentence, measured_sentence
from coopt.spec import load
from coopt.study.screened import screening
from coopt.study.timed import afresh, blocks, calibration, constants, profiled, shortlist, survey
from coopt.study.timed.choosing import choose
from coopt.tree import replace
from tests.rooms.test_study import SMALL, WORK, here, study, swept, timed_by  # noqa: F401  `here` is a fixture


def simulated(objective, slopes, residual, noise, truth, rule, rng, most=12):
    """Timings until the true best plan would be taken, by a rule for the next one; a linear world without surprises."""
    count = slopes.shape[1]
    mean, covariance = np.zeros(count + len(objective)), np.diag([*np.ones(count), *residual**2])
    design = np.hstack([slopes, np.eye(len(objective))])
    for taken in range(most):
        expected = np.log(objective) + design @ mean
        if int(np.argmin(expected)) == int(np.argmin(truth)):
            return taken
        left = np.sqrt(np.clip(np.diag(covariance)[count:], 0.0, None))
        i = rule(np.exp(expected), slopes, covariance[:count, :count], left, noise, taken)
        seen = truth[i] - np.log(objective[i]) + noise * rng.standard_normal()
        gain = covariance @ design[i] / (design[i] @ covariance @ design[i] + noise**2)
        mean = mean + gain * (seen - design[i] @ mean)
        covariance = covariance - np.outer(gain, design[i] @ covariance)
    return most


def test_the_choice_needs_fewer_timings_than_the_order_of_rank(rng):
    """Two hundred random worlds: by worth, fewer timings reach the best plan than best first or at random."""

    def by_worth(objective, slopes, covariance, residual, noise, taken):
        found = choose(objective, slopes=slopes, covariance=covariance, residual=residual, noise=noise, seed=taken)
        return found.next

    by_rank = lambda objective, *rest: int(np.argsort(objective)[rest[-1] % len(objective)])  # noqa: E731
    at_random = lambda objective, *rest: int(rng.integers(len(objective)))  # noqa: E731
    needed = {by_worth: 0, by_rank: 0, at_random: 0}
    for world in range(200):
        draw = np.random.default_rng(world)
        objective = np.exp(0.1 * draw.standard_normal(10))
        slopes, residual = 0.2 * draw.standard_normal((10, 2)), np.full(10, 0.05)
        truth = np.log(objective) + slopes @ draw.standard_normal(2) + residual * draw.standard_normal(10)
        for rule in needed:
            needed[rule] += simulated(objective, slopes, residual, 0.01, truth, rule, draw)
    print({rule.__name__: count / 200 for rule, count in needed.items()})
    assert needed[by_worth] < 0.9 * needed[by_rank]
    assert needed[by_worth] < 0.9 * needed[at_random]


def test_nothing_that_cannot_change_the_decision_is_worth_timing():
    known = {"slopes": np.zeros((3, 1)), "covariance": np.eye(1), "noise": 0.01}
    far = choose(np.array([1.0, 3.0, 9.0]), residual=np.array([0.05, 0.05, 0.05]), **known)
    assert far.decided and far.worth.max() < 1e-6
    near = choose(np.array([1.0, 1.01, 9.0]), residual=np.array([0.0, 0.1, 0.1]), **known)
    assert not near.decided
    assert near.next == 1
    assert near.worth[2] < 1e-6
    # Plans that go up and down together, by a constant they share, are settled whatever it is.
    shared = choose(
        np.array([1.0, 1.05]),
        slopes=np.ones((2, 1)),
        covariance=np.eye(1),
        residual=np.array([0.001, 0.001]),
        noise=0.01,
    )
    assert shared.decided


def test_noise_is_that_of_the_objective():
    """A timing of a layer that is half of its step may be off by half as much in the step: noise goes by elasticity."""
    known = {"slopes": np.zeros((2, 1)), "covariance": np.eye(1), "residual": np.array([0.1, 0.1])}
    even = choose(np.array([1.0, 1.0]), noise=0.1, **known)
    sure = choose(np.array([1.0, 1.0]), noise=np.array([0.1, 0.01]), **known)
    assert even.worth[1] < 1.2 * even.worth[0] and sure.next == 1 and sure.worth[1] > 1.2 * even.worth[1]
    still = choose(np.array([1.0, 1.01]), slopes=np.zeros((2, 1)), covariance=np.eye(1), residual=np.zeros(2),
                   noise=np.zeros(2))  # fmt: skip
    assert np.isfinite(still.worth).all() and still.decided


def test_the_noise_of_a_timing_is_scaled_by_its_plans_elasticity(here, monkeypatch):  # noqa: F811
    told = swept(study(space=SMALL, workload=WORK), here)
    plans = list(screening.best(told, key=lambda plan: blocks.key(blocks.of_plan(plan))))[:4]
    listed = shortlist.shortlist(plans, hardware=here, objective="time_per_token")
    seen = []
    monkeypatch.setattr(
        shortlist, "choose", lambda objective, **given: seen.append(given) or choose(objective, **given)
    )
    shortlist.time_blocks(listed, lambda job: blocks.Timed(job, "crashed", {}), wanted=4)
    assert np.allclose(seen[0]["noise"], calibration.NOISE * listed.elasticity) and (listed.elasticity < 1.0).any()


def test_a_block_faster_than_light_is_not_ranked(here, rng):  # noqa: F811
    """A clock that lies by a factor of a thousand: the timing is a wrong result, not the winner."""
    told = swept(study(space=SMALL, workload=WORK), here)
    plans = list(screening.best(told, key=lambda plan: blocks.key(blocks.of_plan(plan))))[:4]
    listed = shortlist.shortlist(plans, hardware=here, objective="time_per_token")

    def lying(job):
        block = timed_by(here, [job], rng)[0]
        light = blocks.SLACK * blocks.peak_of(job, here)
        phases = {part: said | {"time": said["time"] / 1e3, "flops": 1.1 * light * said["time"]}
                  for part, said in block.answer["phases"].items()}  # fmt: skip
        return dataclasses.replace(block, answer={**block.answer, "phases": phases})

    found = shortlist.time_blocks(listed, lying, wanted=3)
    assert found.timed and {block.status for block in found.timed} == {"wrong-result"}
    assert not any(block.usable for block in found.timed) and "cannot be true" in found.timed[0].message


def test_the_loop_stops_when_the_ranking_is_decided(here, rng):  # noqa: F811
    """On a hidden machine the plan that is taken is within 2% of the best, with fewer blocks than there are."""
    told = swept(study(space=SMALL, workload=WORK), here)
    key = lambda plan: blocks.key(blocks.of_plan(plan))  # noqa: E731
    plans = list(screening.best(told, key=key))[:12]
    listed = shortlist.shortlist(plans, hardware=here, objective="time_per_token")
    hidden = constants.with_constants(here, {**constants.constants_of(here), "matmul_32": 0.5, "passes_back": 2.0})
    truth = listed.objective * (
        1.0
        + listed.elasticity
        * np.array([blocks.predicted(j, hidden)[1] / blocks.predicted(j, here)[1] - 1.0 for j in listed.jobs])
    )
    found = shortlist.time_blocks(listed, lambda job: timed_by(hidden, [job], rng)[0], wanted=12)
    assert 3 <= len(found.timed) < len(listed.jobs)
    assert found.decided and found.regret < 0.005
    fitted = constants.fit(
        here, blocks.counted(listed.jobs),
        np.array([np.log(b.times()) if (b := _of(found, job)) else (math.nan, math.nan) for job in listed.jobs]),
        np.full((len(listed.jobs), 2), 20.0),
    )  # fmt: skip
    machine = constants.with_constants(here, fitted.constants())
    ratios = [blocks.predicted(j, machine)[1] / blocks.predicted(j, here)[1] for j in listed.jobs]
    taken = int(np.argmin(listed.objective * (1.0 + listed.elasticity * (np.array(ratios) - 1.0))))
    assert truth[taken] <= 1.02 * truth.min()


def _of(found, job):
    return next((block for block in found.timed if block.job == job), None)


def test_a_block_of_each_recipe_is_among_the_first(here, rng):  # noqa: F811
    """The best plans are all of one recipe; what the machine makes of the other shows in its own blocks alone."""
    asking = study(space=SMALL, workload=WORK, layout={**study().layout, "precision": ["fp32", "bf16"]}, measure=6)
    believed = replace(here, peak=tuple(10.0 * rate if at == 2 else rate for at, rate in enumerate(here.peak)))
    key = lambda plan: blocks.key(blocks.of_plan(plan))  # noqa: E731
    told = swept(asking, believed)
    alike = [plan.layout.precision.name for plan, _ in screening.best(told, key=key, most=6)]
    assert set(alike) == {"bf16"}, "or there is nothing to find"
    each = list(screening.of_each_recipe(asking, told, distinct=6, key=key))
    plans = sorted((found for one in each for found in list(screening.best(one, key=key))[:6]), key=lambda f: f[1])
    assert [plan.layout.precision.name for plan, _ in plans] == ["bf16"] * 6 + ["fp32"] * 6
    hidden = constants.with_constants(believed, {**constants.constants_of(believed), "backward_16": 0.02})
    listed = shortlist.shortlist(plans, hardware=believed, objective="time_per_token")
    found = shortlist.time_blocks(listed, lambda job: timed_by(hidden, [job], rng)[0], wanted=6)
    first = [block.job["layout"]["precision"]["linear"] for block in found.timed]
    assert first[:2] == [2.0, 0.0] and first.count(0.0) >= 3, (
        "the rest tells the plans apart that are still in question"
    )
    fitted = calibration.calibrate(believed, found.timed)
    machine = constants.with_constants(believed, fitted.constants)
    assert next(screening.best(swept(asking, machine), key=key))[0].layout.precision.name == "fp32"
    assert next(screening.best(swept(asking, hidden), key=key))[0].layout.precision.name == "fp32"


def test_an_objective_without_time_stops_after_the_least(here, rng):  # noqa: F811
    told = swept(study(space=SMALL, workload=WORK), here)
    plans = list(screening.best(told, key=lambda plan: blocks.key(blocks.of_plan(plan))))[:6]
    listed = shortlist.shortlist(plans, hardware=here, objective="memory_share")
    found = shortlist.time_blocks(listed, lambda job: timed_by(here, [job], rng)[0], wanted=6)
    assert len(found.timed) == 3


# ---------------------------------------------------------------- a survey, where there is no decision to make


def test_a_few_telling_blocks_calibrate_as_well_as_all(here, rng):  # noqa: F811
    """On a hidden machine, the chosen blocks predict those that were never timed about as well as timing all would."""
    jobs = survey.pool(here, count=60)
    assert len(jobs) == 60
    assert len({blocks.key(job) for job in jobs}) == 60
    changes = {"matmul_32": 0.5, "matmul_16": 0.9, "batched": 0.3, "passes": 3.0, "passes_back": 2.5}
    changes |= {"bandwidth": 2e10, "kernel": 1e-5}
    hidden = constants.with_constants(here, {**constants.constants_of(here), **changes})
    timed = survey.survey(here, lambda job: timed_by(hidden, [job], rng, noise=0.03)[0], jobs)
    assert len(constants.SPREAD) < len(timed) <= 30
    found = calibration.calibrate(here, timed)
    machine = constants.with_constants(here, found.constants)
    done = {blocks.key(block.job) for block in timed}
    rest = [job for job in jobs if blocks.key(job) not in done]
    off = [blocks.predicted(job, machine)[1] / blocks.predicted(job, hidden)[1] - 1.0 for job in rest]
    assert np.median(np.abs(off)) < 0.03
    assert found.constants["batched"] == pytest.approx(0.3, rel=0.2)


def test_a_survey_of_an_accelerator_asks_for_what_it_trains():
    """Blocks in 16 bits with a fused kernel, heads of both sizes, of a length that a host's calls do not decide."""
    h200 = load.resolve("h200-sxm", chips=1, stack="jax")
    assert survey.types(h200) == ["bf16"]
    jobs = survey.pool(h200, count=60)
    assert {job["model"]["kinds"][0]["head_dim"] for job in jobs} == {64.0, 128.0}
    assert {job["layout"]["fused_attention"] for job in jobs} == {1.0}
    assert all(4e-3 <= blocks.predicted(job, h200)[1] <= 0.05 for job in jobs)


def test_what_was_timed_on_an_h200_calibrates_it(tmp_path, repository, capsys):
    """50 blocks of a real H200, in the file that the project keeps: what is held out is within a few percent."""
    out = tmp_path / "h200.yaml"
    kept = repository / "measurements/h200_blocks.json"
    found = profiled.calibrate(parse(["calibrate", str(kept), "--hardware=h200-sxm", f"--out={out}"]))
    assert found["blocks"] == 50 and found["clock"] == "wall"
    assert found["held_out"]["median_ape"] < 0.05 < found["before"]["median_ape"]
    assert found["tau"] / found["tau_ceiling"] > 0.95
    assert 4e12 < found["constants"]["bandwidth"] < 6e12  # the memory's, not a cache's
    assert found["energy"]["idle"] == 81.0 and 0.5e-12 < found["energy"]["flop"] < 1.5e-12
    machine = load.resolve(str(out), chips=1, stack="jax")
    expected = constants.constants_of(machine)
    for name in ("matmul_16", "bandwidth", "attention", "depth"):
        assert expected[name] == pytest.approx(found["constants"][name], rel=1e-3)


def test_a_survey_keeps_its_time_and_passes_over_what_fails(here, rng):  # noqa: F811
    jobs = survey.pool(here, count=12)
    hopeless = lambda job: blocks.Timed(job, "compile-error", {}, 1.0, "no")  # noqa: E731
    assert len(survey.survey(here, hopeless, jobs, most=5)) == 5
    assert len(survey.survey(here, lambda job: timed_by(here, [job], rng)[0], jobs, seconds=0.0)) == 3


@pytest.mark.slow
def test_calibrate_alone_measures_and_writes_a_profile(tmp_path, monkeypatch):
    """`coopt calibrate` with nothing named: this host, in a minute, to a profile that every command takes."""
    monkeypatch.chdir(tmp_path)
    said = profiled.calibrate(parse(["calibrate", "--seconds=20", "--out=here.yaml"]))
    assert said["blocks"] >= 3
    machine = load.resolve("here.yaml", chips=1, stack="jax")
    assert machine.fidelity == "interpolated"
    again = profiled.calibrate(parse(["calibrate", "here.json", "--out=again.yaml"]))
    assert again["constants"] == pytest.approx(said["constants"], rel=1e-6)


# ---------------------------------------------------------------- timed again, in a process of its own


def test_a_block_timed_again_is_the_same_block_and_says_how_far_timings_repeat(here, rng):  # noqa: F811
    """Eight blocks, each process 10% off: the pooled spread says so, and no calibration claims to know better."""
    jobs = survey.pool(here, count=8)
    shift = lambda one, log: dataclasses.replace(one, answer={"phases": {  # noqa: E731
        part: {**said, "time": said["time"] * math.exp(log)} for part, said in one.answer["phases"].items()
    }})  # fmt: skip
    first = [shift(one, 0.1 * rng.standard_normal()) for one in timed_by(here, jobs, rng, noise=0.01)]
    again = timed_by(here, [afresh.job(job) for job in jobs], rng, noise=0.01)
    again = [shift(one, 0.1 * rng.standard_normal()) for one in again]
    groups = afresh.together([*first, *again])
    assert [len(group) for group in groups] == [2] * 8
    assert afresh.repeat(groups) == pytest.approx(0.1, rel=0.4)
    assert math.isnan(afresh.repeat(afresh.together(first)))
    found, once = calibration.calibrate(here, [*first, *again]), calibration.calibrate(here, first)
    assert found.blocks == once.blocks == 8
    assert found.sigma >= found.repeat > 0.05
    assert math.isnan(once.repeat) and calibration.document(once)["repeat"] is once.repeat


def test_the_winner_and_the_runner_up_are_asked_again(here, rng):  # noqa: F811
    told = swept(study(space=SMALL, workload=WORK), here)
    plans = [plan for plan, _ in screening.best(told, key=lambda plan: blocks.key(blocks.of_plan(plan)))][:6]
    asked = afresh.best([plans[0], *plans])
    assert [plan for plan, _ in asked] == plans[:2]
    assert [job["check"] for _, job in asked] == [1, 1], "nobody has checked them against float64"
    known = {blocks.key(blocks.of_plan(plans[0]))}
    assert [job["check"] for _, job in afresh.best(plans, known=known)] == [0, 1]
    timed = timed_by(here, [blocks.of_plan(plan) for plan in plans], rng, noise=0.0)
    slow = [dataclasses.replace(timed_by(here, [job], rng, noise=0.0)[0], job=job) for _, job in asked]
    twice = {p: {**s, "time": 2.0 * s["time"]} for p, s in slow[0].answer["phases"].items()}
    slow[0] = dataclasses.replace(slow[0], answer={"phases": twice})
    said = afresh.document([(plan, one) for (plan, _), one in zip(asked, slow, strict=True)], timed)
    assert [one["ratio"] for one in said["plans"]] == pytest.approx([2.0, 1.0])
    assert said["repeat"] == pytest.approx(math.log(2.0) / 2.0, rel=1e-6)  # four pairs of which two are log 2 apart
    low, high = said["plans"][0]["interval"]
    assert low < said["plans"][0]["step_time"] < high and high / low > 2.0
    assert again_sentence({"afresh": said})[0].endswith("took 2.00 and 1.00 times as long as before.")
    assert again_sentence({"afresh": None}) == () and afresh.document([], timed) is None


def test_what_timings_say_is_printed_whole():
    """A sentence of a report is cut where a name would be: the longest that a search says must fit."""
    longest = {
        "measured": [{"measured_time": 1.0}] * 88,
        "calibration": {"before": {"mape": 0.888}, "after": {"mape": 0.888}},
        "decision": {"regret": 0.088, "decided": False},
    }
    said = measured_sentence(longest)
    assert words.plain(said) == said and said.endswith("a larger --measure times more.")
