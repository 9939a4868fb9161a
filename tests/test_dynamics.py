"""Dimension and cycles: the known shapes, bad input, and what the study may say of made-up results"""
import subprocess, sys

import numpy as np
import pytest

from curriculum_gen.core.errors import InputError
from curriculum_gen.statistics import clouds, cycles, dimension
from curriculum_gen.studies.dynamics import DYNAMICS, STATEMENTS, reproduction_rows
from curriculum_gen.studies.preregistration import registered
from curriculum_gen.studies.shapes import SHAPES
from curriculum_gen.studies.study import study_named

BY_NAME = {shape.name: shape for shape in SHAPES}


def distances(name, n, seed=0):
    return dimension.point_distances(BY_NAME[name].draw(np.random.default_rng(seed), n))


# ---- the truth on known shapes

@pytest.mark.parametrize("name", ["circle", "sphere", "flat torus", "swiss roll", "Gaussian, d = 3", "Gaussian, d = 5"])
def test_low_dimensions_are_read_within_a_tenth(name):
    clouds = [distances(name, 1000, seed) for seed in range(3)]
    for estimate in dimension.ESTIMATORS.values():
        read = np.mean([estimate(cloud) for cloud in clouds])
        assert abs(read - BY_NAME[name].dimension) <= 0.1*BY_NAME[name].dimension, read


def test_high_dimensions_are_read_too_low():
    for d in (12, 15, 20):
        away = distances(f"Gaussian, d = {d}", 1000)
        assert dimension.mackay_dimension(away) < 0.9*d
        assert dimension.reported_dimension(away[:100, :100]) < dimension.mackay_dimension(away)


def test_the_dimension_of_the_space_plays_no_part():
    points = np.random.default_rng(0).standard_normal((400, 4))
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((60, 60)))[0][:4]
    one, other = (dimension.mackay_dimension(dimension.point_distances(p)) for p in (points, points@turn + 7))
    assert abs(one - other) < 1e-6


def test_the_estimate_of_the_report_is_the_mean_and_the_other_the_harmonic_mean():
    away = distances("Gaussian, d = 3", 100)
    near = np.sort(away, axis=1)[:, 1:21]
    local = 19/np.log(near[:, -1:]/near).sum(1)
    assert dimension.reported_dimension(away) == pytest.approx(local.mean())
    assert dimension.mackay_dimension(away) == pytest.approx(1/(1/local).mean())


@pytest.mark.parametrize("name", ["circle, noise 0.05", "two circles, noise 0.05", "sphere", "Gaussian, d = 5",
                                  "Gaussian, d = 12"])
def test_holes_are_found_where_they_are_and_nowhere_else(name):
    bars = cycles.cycle_bars(distances(name, 400, seed=1))
    assert cycles.significant_cycles(bars).sum() == BY_NAME[name].cycles


def test_a_diagram_of_one_bar_shows_nothing():
    "The middle of the law comes from the diagram: a circle without noise has no accidents to compare with"
    bars = cycles.cycle_bars(distances("circle", 100))
    assert len(bars) == 1 and not cycles.significant_cycles(bars).any()


def test_false_alarms_are_rarer_than_the_level():
    rng, alarms = np.random.default_rng(0), 0
    for sample in range(60):
        cloud = rng.standard_normal((100, 2 + sample % 9))
        alarms += cycles.significant_cycles(cycles.cycle_bars(dimension.point_distances(cloud))).any()
    assert alarms <= 6   # 5 % of 60 is 3


@pytest.mark.parametrize("d, holes", [(3, 3.8), (10, 7.7), (20, 9.2)])
def test_the_count_of_the_report_sees_holes_where_there_are_none(d, holes):
    rng = np.random.default_rng(5)
    each = [cycles.reported_holes(cycles.cycle_bars(dimension.point_distances(rng.standard_normal((100, d)))))
            for _ in range(60)]
    assert abs(np.mean(each) - holes) < 0.4


def test_the_null_matches_what_it_is_a_null_of():
    "Fresh clouds lie in their band about as often as it says"
    rng, within = np.random.default_rng(7), 0
    for _ in range(20):
        away = [dimension.point_distances(rng.standard_normal((100, d))) for d in (4, 6, 8, 10)]
        _, band = cycles.matched_holes([dimension.reported_dimension(a) for a in away], rng=rng)
        within += band.low <= np.mean([cycles.reported_holes(cycles.cycle_bars(a)) for a in away]) <= band.high
    assert within >= 16


def test_intervals_hold_what_the_estimator_tends_to():
    centre = np.mean([dimension.mackay_dimension(distances("sphere", 400, seed)) for seed in range(20)])
    rng, held = np.random.default_rng(0), 0
    for seed in range(100, 130):
        low, high = dimension.dimension_interval(distances("sphere", 400, seed), estimate=dimension.mackay_dimension,
                                                 rng=rng)
        held += low <= centre <= high
    assert held >= 24, held


# ---- bad input

def cloud(n=150): return np.random.default_rng(0).standard_normal((n, 5))


@pytest.mark.parametrize("points, said", [
    (cloud(10), "10 points: at least"), (np.ones((150, 5)), "constant features"),
    (np.where(np.arange(150)[:, None] == 3, np.nan, cloud()), "1 of 150 points are not finite"),
    (np.repeat(cloud(3), 50, axis=0), "3 distinct points among 150"), (np.zeros(7), "expected [n, features]")])
def test_what_is_no_cloud_is_refused_in_one_line(points, said):
    with pytest.raises(InputError) as refused: clouds.cloud_measures(points, rng=np.random.default_rng(0))
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_class_that_cannot_be_measured_is_left_out_and_told():
    features = np.stack([cloud(), np.ones((150, 5)), cloud()])
    row, diagrams = clouds.checkpoint_measures(features)
    assert row["measured"] == 2 and diagrams[1] is None and row["left_out"] == [
        "class 1: constant features: all 150 points are the same, so there is no cloud to measure"]


def test_a_missing_library_is_named_with_what_to_install():
    program = ("import sys; sys.modules['ripser'] = None\nfrom curriculum_gen.core.errors import InputError\n"
               "from curriculum_gen.studies.dynamics import DYNAMICS\n"
               "try: DYNAMICS.ready()\nexcept InputError as e: print(e)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("pip install 'curriculum_gen[topology]'") and "\n" not in done.stdout.strip()


def test_nothing_of_the_extra_is_loaded_before_it_is_used():
    program = ("import sys, curriculum_gen.studies.dynamics, curriculum_gen.studies.shapes\n"
               "print([name for name in ('ripser', 'skdim', 'torch') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_an_uncertified_judge_is_refused():
    import torch
    from curriculum_gen.evaluation.features import convolution_features
    with pytest.raises(InputError, match="is no certified judge"):
        convolution_features(torch.nn.Identity(), torch.zeros(10, 1, 1, 28, 28))


# ---- the study

def test_the_study_is_found_by_its_name_and_its_statements_have_rules():
    assert study_named("dynamics") is DYNAMICS
    statements = registered(STATEMENTS)
    assert len({s.name for s in statements}) == len(statements) and "H13" in {s.name for s in statements}
    empty = {"dataset": "mnist", "total_steps": 100, "rows": [], "clouds": {"real": {}, "rows": [
        {"regime": "other", "seed": 0, "step": 100, "measured": 10, "weights_sha256": "0", "reported_dimension": 1.0,
         "mackay": 1.0, "reported_holes": 1.0, "null_holes_low": 0.0, "null_holes_high": 2.0, "with_cycles": 0}]}}
    assert {decision.outcome for decision in DYNAMICS.decide(empty)} == {"open"}


def test_nothing_is_said_of_the_report_without_results():
    assert reproduction_rows([]) == {}
