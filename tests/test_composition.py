"""Composed tasks: real displays kept apart, controls that score what they must, generators that stay frozen, and runs
that were killed"""
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from curriculum_gen import watch
from curriculum_gen.core.displays import (HELD_OUT, PARTS, TEACHING, base_rates, composed, digits_relations,
                                          mnist_pairs, mnist_relations, part_scores, taught_and_kept)
from curriculum_gen.core.errors import InputError
from curriculum_gen.core.records import read_json, write_json
from curriculum_gen.core.task import DIGITS, TASKS, Task
from curriculum_gen.curriculum.config import run_config
from curriculum_gen.data.displays import positions, side_by_side
from curriculum_gen.data.sources import load_dataset
from curriculum_gen.evaluation.instruments import prepare_instruments, score_generator
from curriculum_gen.judges.certificates import certified_judge, load_judge
from curriculum_gen.judges.panel import certified_panel
from curriculum_gen.judges.recipes import PANEL, judge_recipe
from curriculum_gen.models.positions import AtPositions
from curriculum_gen.models.weights import weights_sha256
from curriculum_gen.statistics.chance import chance_test
from curriculum_gen.studies.composition import COMPOSED, COMPOSITION, STATEMENTS, generators_of, shared_generator
from curriculum_gen.studies.preregistration import registered
from curriculum_gen.studies.study import study_named
from curriculum_gen.training.program import program_of, take_steps
from curriculum_gen.training.train import train

DISPLAYS = "curriculum_gen.core.displays:digits_relations"
HERE = "curriculum_gen.studies.composition"


def config_of(regime, **changes):
    return run_config("tiny", regime=f"{HERE}:{regime}", dataset=DISPLAYS,
                      **{"seed": 3, "landmarks": (), "total_steps": 4, "checkpoint_interval": 4} | changes)


@pytest.fixture(scope="module")
def dataset(): return load_dataset(DISPLAYS, report=lambda line: None)


@pytest.fixture(scope="module")
def judge(dataset):
    return certified_judge(judge_recipe("first", dataset="digits_relations", training="brief"), dataset)


@pytest.fixture(scope="module")
def instruments(dataset):
    return prepare_instruments(certified_panel(dataset, training="brief"), dataset, images_per_class=10,
                               student_images=7)


def begun(regime, dataset, judge, **changes):
    program = program_of(config_of(regime, **changes))
    half = dataset.half_a
    return program, program.start(program.config.seed, images=half.images, labels=half.labels, judge=judge.network)


# ---- the task and its data

@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.sampled_from(["pairs", "relations"]), st.integers(1, 3), st.integers(6, 12))
def test_a_display_holds_what_was_put_into_it(classes, layout, channels, side):
    task = composed(Task("made_up", (channels, side, side + 1), tuple(map(str, range(classes)))), layout)
    left, right = torch.rand(2, 5, channels, side, side + 1)
    labels = torch.randint(len(task.classes), (5,))
    made = side_by_side(left, right, labels=labels, task=task)
    assert made.shape == (5, *task.image_shape)
    assert all(torch.equal(*pair) for pair in zip(positions(made, task), (left, right)))
    assert len(set(task.classes)) == classes**2


def test_halves_and_test_share_no_image_of_the_part(dataset):
    def seen(split): return {crop.numpy().tobytes() for side in positions(split.images, dataset.task) for crop in side}
    a, b, test = (seen(split) for split in (dataset.half_a, dataset.half_b, dataset.test))
    assert not a & b and not a & test and not b & test
    assert all(len(set(torch.bincount(split.labels, minlength=100).tolist())) == 1
               for split in (dataset.half_a, dataset.half_b, dataset.test))


@pytest.mark.parametrize("teaching", TEACHING)
def test_what_is_taught_is_not_kept(teaching):
    for task in (mnist_pairs, mnist_relations, digits_relations):
        for seed in range(5):
            taught, kept = taught_and_kept(task, teaching, seed=seed)
            assert taught and not set(taught) & set(kept)
    held = {taught_and_kept(mnist_relations, teaching, seed=seed)[1] for seed in range(5)}
    assert (len(held) > 1) == (teaching == "random")


def test_a_name_that_does_not_exist_is_one_line():
    for wrong in (lambda: composed(DIGITS, "row"), lambda: taught_and_kept(mnist_pairs, "some"),
                  lambda: taught_and_kept(DIGITS, "random"), lambda: program_of(dataclasses.replace(
                      config_of("placed_untrained"), dataset="digits"))):
        with pytest.raises(InputError) as told: wrong()
        assert "\n" not in str(told.value)


# ---- judges and controls

def test_a_judge_of_displays_is_the_one_of_the_part_at_both_positions(dataset, judge):
    part = certified_judge(judge_recipe("first", dataset="digits", training="brief"), dataset.part)
    assert weights_sha256(judge.network.part) == part.sha256
    left, right = (part.classes(crops.contiguous()) for crops in positions(dataset.test.images, dataset.task))
    assert torch.equal(judge.classes(dataset.test.images), 10*left + right)
    assert judge.certificate.floor == part.certificate.floor**2
    assert judge.certificate.correct == int((10*left + right == dataset.test.labels).sum())


@pytest.mark.parametrize("name", PANEL)
def test_every_judge_of_displays_comes_back_from_its_file(name, dataset, tmp_path):
    there = certified_judge(judge_recipe(name, dataset="digits_relations", training="brief"), dataset)
    there.save(tmp_path)
    again = load_judge(tmp_path, name, task=dataset.task)
    assert isinstance(again.network, AtPositions) and again.sha256 == there.sha256
    assert torch.equal(again.classes(dataset.test.images), there.classes(dataset.test.images))


def scored(control, dataset, judge, instruments):
    program, state = begun(f"control_{control}", dataset, judge)
    card, seen = score_generator(state.generator.eval(), instruments, student=False)
    kept = taught_and_kept(dataset.task, "held_out")[1]
    return card, {name: part_scores(np.array(entry["confusion"]), dataset.task, classes=kept)
                  for name, entry in card.panel.items()}


def test_the_constant_has_every_relation_and_no_pair(dataset, judge, instruments):
    card, kept = scored("constant", dataset, judge, instruments)
    relations = [scores["relation"] for scores in kept.values()]   # 8x8 digits: a nine is a one now and then
    assert np.median(relations) > 0.95 and min(relations) > 0.8
    assert all(scores["exact"] == 0 for scores in kept.values())
    assert card.p_chance > 0.005


def test_real_displays_are_what_their_judges_certificates_say(dataset, judge, instruments):
    card, kept = scored("real", dataset, judge, instruments)
    assert abs(card.accuracy - judge.certificate.accuracy) < 0.05
    assert min(scores["exact"] for scores in kept.values()) > 0.5 and card.p_chance <= 1e-5


def test_permuted_labels_are_at_chance(dataset, judge, instruments):
    card, kept = scored("permuted", dataset, judge, instruments)
    assert card.accuracy < 0.03 and card.p_chance > 0.005
    assert max(scores["exact"] for scores in kept.values()) < 0.2


def test_chance_has_its_size_for_a_hundred_classes():
    rng = np.random.default_rng(0)
    tables = [np.stack([np.bincount([c], minlength=100)*10 for c in rng.permutation(100)]) for _ in range(40)]
    p = np.array([chance_test(table, permutations=999).p for table in tables])
    assert (p <= 0.05).sum() <= 6 and chance_test(10*np.eye(100, dtype=int), permutations=999).p <= 0.001


def test_scores_agree_with_a_count_by_hand():
    rng = np.random.default_rng(1)
    seen, kept = rng.integers(100, size=(100, 7)), [mnist_relations.class_of(*pair) for pair in HELD_OUT]
    counts = np.stack([np.bincount(row, minlength=100) for row in seen])
    found = part_scores(counts, mnist_relations, classes=kept)
    pairs = [(HELD_OUT[k], divmod(c, 10)) for k, row in enumerate(kept) for c in seen[row]]
    by_hand = {"exact": [a == b for a, b in pairs], "left": [a[0] == b[0] for a, b in pairs],
               "right": [a[1] == b[1] for a, b in pairs],
               "relation": [np.sign(a[0] - a[1]) == np.sign(b[0] - b[1]) for a, b in pairs]}
    assert found == {name: pytest.approx(np.mean(by_hand[name])) for name in PARTS} | {"images": 28}
    assert base_rates(mnist_relations)["left"]["mean"] == pytest.approx(0.1, abs=0.01)


# ---- generators

def test_a_frozen_generator_keeps_parameters_and_statistics(dataset, judge):
    for regime, stays in (("placed_untrained", True), ("placed_untrained_moving", False), ("scratch", False)):
        program, state = begun(regime, dataset, judge)
        before = weights_sha256(state.generator.part)
        list(take_steps(program, state, stop_step=2))
        assert (weights_sha256(state.generator.part) == before) == stays, regime
        assert ("generator.part" in program.frozen) == stays


def test_watch_finds_a_part_that_moves_where_it_was_declared_frozen(dataset, judge):
    causes = {}
    frozen, _ = begun("placed_untrained", dataset, judge)
    for regime in ("placed_untrained", "placed_untrained_moving"):
        program, state = begun(regime, dataset, judge)
        with watch(generator=state.generator, judge=judge.network, frozen=frozen.frozen) as seen:
            list(take_steps(program, state, stop_step=3))
        causes[regime] = [finding.cause for finding in seen.findings()]
    assert causes == {"placed_untrained": [], "placed_untrained_moving": ["frozen network changes"]}


def test_only_what_is_taught_is_asked_for_and_seen(dataset, judge):
    for regime in ("whole_acgan", "whole_acgan_low", "whole_acgan_random", "whole_cgan"):
        program, state = begun(regime, dataset, judge)
        taught, kept = taught_and_kept(dataset.task, COMPOSED[regime].options.get("teaching", "held_out"), seed=3)
        assert set(state.split.labels.tolist()) <= set(taught)
        asked, forward = set(), state.generator.forward
        def listening(latents, labels):
            asked.update(labels.tolist())
            return forward(latents, labels)
        state.generator.forward = listening
        list(take_steps(program, state, stop_step=3))
        assert asked and asked <= set(taught)


@pytest.mark.parametrize("regime", ["placed_untrained", "whole_acgan"])
def test_a_run_that_was_stopped_ends_with_the_same_weights(regime, dataset, judge):
    program, state = begun(regime, dataset, judge)
    list(take_steps(program, state, stop_step=2))
    half = dataset.half_a
    other = program.load(program.save(state), images=half.images, labels=half.labels, judge=judge.network)
    for one in (state, other): list(take_steps(program, one, stop_step=4))
    assert weights_sha256(state.generator) == weights_sha256(other.generator)


# ---- the study

def test_two_splitters_before_one_generator_are_no_replication(dataset, tmp_path):
    for seed in (3, 4):
        run = train(config_of("placed_untrained", seed=seed), tmp_path/"placed_untrained"/f"seed-{seed}",
                    dataset=dataset)
        write_json(run.evaluation, {})
    assert len(set(generators_of(tmp_path).values())) == 2
    with pytest.raises(InputError, match="no further replication"):
        shared_generator({("placed_untrained", 3): "a", ("placed_untrained", 4): "a"})


def test_statements_name_regimes_and_tasks_that_exist():
    for statement in registered(STATEMENTS):
        limits = statement.limits
        assert isinstance(TASKS.named(limits["dataset"]), type(mnist_pairs))
        for regime in limits.get("regimes", [limits.get("regime")]): assert regime in COMPOSED
    assert study_named("composition") == COMPOSITION
    planned = {COMPOSITION.plans["report"].seeds_of(regime, otherwise=()) for regime in COMPOSITION.regimes}
    assert {len(seeds) for seeds in planned} == {1, 3}   # controls are what they are
    assert read_json(STATEMENTS)
