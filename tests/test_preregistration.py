"""What was stated beforehand binds: the rules run from the registered file, its limits are read, and a file that was
changed is refused where the study began under another one."""
import json
from dataclasses import replace

import numpy as np
import pytest

from curriculum_gen.core.errors import InputError
from curriculum_gen.core.records import read_json, sha256, write_json
from curriculum_gen.studies import step_10000
from curriculum_gen.studies.preregistration import RULES, Statement, decisions, registered
from curriculum_gen.studies.step_10000 import (FULL, FULL_REPORTED, PHASE1, PHASE1_REPORTED, PREREGISTRATION, decide,
                                               preregistration_sha256, statements)
from curriculum_gen.studies.study import STUDIES, remember_study, study_name, study_named, study_of
from curriculum_gen.studies.table import pooled_rows
from curriculum_gen.sweeps.run_study import planned_runs

# Whoever changes a statement changes this line too, in the same commit: begun studies are refused from then on.
REGISTERED = "c09864ed665e18d49e3cbfaf7194d8817474fcff01af2a4a5255b54c0462fcc1"
ASKED = [statement for statement in statements() if not statement.dropped]


def row(regime: str, seed: int, step: int, right: int, student: int) -> dict:
    confusion = right*np.eye(10, dtype=int) + (100 - right)*np.roll(np.eye(10, dtype=int), 1 + seed % 3, 1)
    name = regime.removeprefix("full_curriculum").removeprefix("phase1_only") or regime
    return {"regime": regime, "seed": seed, "step": step, "n_per_class": 100, "accuracy": right/100,
            "confusion": confusion.tolist(),
            "panel": {judge: {"confusion": confusion.tolist()} for judge in ("first", "second")},
            "weights_sha256": f"{name} {seed} {step}", "verdict": "GAMED" if right > 50 else "AT-CHANCE",
            "output_change": 0.0, "student": {"correct": student, "images": 100, "real_correct": 97}}


@pytest.fixture(scope="module")
def table() -> dict:
    "Twenty seeds of 10,000 steps that decide every statement"
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(20):
        for step in (0, 3000, 3333, 6000, 10_000):
            near = int(np.clip(rng.normal(10, 6), 0, 30))
            rows += [row(regime, seed, step, near, 20) for regime in (PHASE1_REPORTED, FULL_REPORTED)]
        rows += [row(PHASE1, seed, 10_000, 95, 40), row(FULL, seed, 10_000, 95 + seed % 4, 42 + seed % 5)]
    comparison = {"regime": FULL_REPORTED, "before": 6000, "after": 10_000, "seeds": 20, "verdict": "AT-CHANCE",
                  "words": "A is at chance."}
    return {"rows": rows, "pooled": pooled_rows(rows), "comparisons": [comparison], "total_steps": 10_000}


def test_the_statements_are_those_that_were_registered():
    assert preregistration_sha256() == sha256(PREREGISTRATION) == REGISTERED


def test_every_statement_has_a_rule_and_its_limits_or_a_reason():
    for statement in statements():
        if statement.dropped:
            assert not (statement.rule or statement.limits) and len(statement.dropped) > 20, statement.name
        else:
            assert statement.rule in RULES and statement.limits and statement.decision, statement.name
    dropped = {statement.name for statement in statements() if statement.dropped}
    assert dropped == {"H4", "H8", "H10", "H11", "H12", "H13"}
    assert {d.name for d in decide({"rows": [], "pooled": [], "comparisons": [], "total_steps": 30})
            if d.outcome == "dropped"} == dropped


# statement and limit -> a value that has to turn the decision around or leave it open
CHANGED = {
    "H1 regimes": ["absent"], "H1 change": -1, "H2 regimes": [PHASE1, FULL], "H2 share": 2,
    "H3 checkpoints": [[PHASE1, "1"]], "H3 p": 1, "H5 regime": PHASE1, "H5 before": "1/3", "H5 after": "1/3",
    "H5 verdict": "AT-CHANCE", "H6 regime": PHASE1_REPORTED, "H6 accuracy": 0.99, "H6 p": -1,
    "H7 regime": PHASE1_REPORTED, "H7 verdicts": ["LEARNED"], "H7 share": 2, "H7 seeds": 21,
    "H9 regimes": [PHASE1_REPORTED, FULL_REPORTED], "H9 measure": "absent", "H9 seeds": 21, "H9 p": -1,
    "H14 accuracies": [0.9], "H14 regimes": ["absent"], "H14 steps": 240, "H14 seeds": 21, "H14 tail": 0.5,
    "H15 regimes": [PHASE1_REPORTED, FULL_REPORTED], "H15 measure": "absent", "H15 seeds": 21, "H15 p": -1}
# these tell in the evidence, or need a table of their own
ELSEWHERE = {"H9 margin", "H9 together", "H15 margin", "H15 together", "H9 most", "H15 most"}


def test_every_limit_has_a_change_that_is_tried():
    assert CHANGED.keys() | ELSEWHERE == {f"{s.name} {limit}" for s in ASKED for limit in s.limits}


def decided(table: dict, name: str, **limits):
    found = next(statement for statement in ASKED if statement.name == name)
    changed = Statement.from_dict(found.to_dict() | {"limits": found.limits | limits})
    return decisions(table, statements=[changed], rules=RULES)[0]


@pytest.mark.parametrize("which", CHANGED)
def test_a_changed_limit_changes_the_decision(table, which):
    name, limit = which.split()
    assert decided(table, name).outcome != "open"
    assert decided(table, name, **{limit: CHANGED[which]}).outcome != decided(table, name).outcome


def test_a_margin_decides_between_no_and_open(table):
    "A difference that is not shown is no where the interval lies within the margin, and where none was registered"
    unseen = {"measure": "student", "regimes": [PHASE1_REPORTED, FULL_REPORTED]}
    rows = [r | {"student": r["student"] | {"correct": 20 + (-1)**r["seed"]*3*(r["regime"] == FULL_REPORTED)}}
            for r in table["rows"]]
    spread = table | {"rows": rows}
    assert [decided(spread, "H15", **unseen, margin=m).outcome for m in (0.05, 0.001, None)] == ["no", "open", "no"]
    assert " over 7 seeds" in decided(spread, "H9", **unseen, most=7).evidence
    assert "equal weights at 1/3 of the run in 20 of 20" in decided(spread, "H9", **unseen, together="1/3").evidence


def test_no_limit_can_be_written_down_and_not_be_read(table):
    with pytest.raises(InputError, match="statement H3: rule pooled_p_above: got an unexpected"):
        decided(table, "H3", shade=1)
    for change, words in (({"limits": {"p": 0.0125}}, "missing a required"),
                          ({"rule": "by_eye"}, "unknown rule of statement H3")):
        with pytest.raises(InputError, match=words):
            decisions(table, statements=[Statement.from_dict(ASKED[2].to_dict() | change)], rules=RULES)


@pytest.mark.parametrize("key", ["output_change", "student", "verdict", "accuracy", "weights_sha256", "confusion"])
def test_what_was_not_measured_is_open(table, key):
    lacking = table | {"rows": [{k: v for k, v in r.items() if k != key} for r in table["rows"]]}
    assert any(d.outcome == "open" and "not measured" in d.evidence for d in decide(lacking))


def test_a_student_that_was_not_trained_leaves_its_statement_open(table):
    rows = [r | {"student": None} for r in table["rows"]]
    assert decided(table | {"rows": rows}, "H15").evidence.startswith("0 seeds in common with student")


# ---- a changed file

@pytest.fixture
def changed(monkeypatch, tmp_path):
    "The package as if one limit had been moved after the fact"
    values = json.loads(PREREGISTRATION.read_text())
    next(v for v in values if v["name"] == "H3")["limits"]["p"] = 0.001
    file = write_json(tmp_path/"preregistration.json", values)
    assert registered(file) != statements()
    def change():
        monkeypatch.setattr(step_10000, "PREREGISTRATION", file)
        monkeypatch.setitem(STUDIES._entries, "step_10000", replace(study_named("step_10000"), statements=file))
    return change


def test_a_folder_that_began_under_other_statements_is_refused(changed, tmp_path):
    out = tmp_path/"study"
    remember_study(out, "step_10000")
    assert read_json(out/"study.json")["preregistration_sha256"] == REGISTERED
    assert study_name(out) == "step_10000"
    changed()
    for refused in (lambda: study_name(out), lambda: study_of(out),
                    lambda: planned_runs(out, profile="tiny", seeds=[0]),
                    lambda: planned_runs(out, study="step_10000", profile="tiny", seeds=[0])):
        with pytest.raises(InputError, match="the statements have changed since this study began") as error:
            refused()
        assert len(str(error.value).splitlines()) == 1 and str(out) in str(error.value)
    assert planned_runs(tmp_path/"new", profile="tiny", seeds=[0])[0] == "step_10000"


def test_results_of_other_statements_are_not_decided(changed, table):
    assert decide(table | {"preregistration_sha256": REGISTERED}) == decide(table)
    changed()
    with pytest.raises(InputError, match="seed table: the statements have changed"):
        decide(table | {"preregistration_sha256": REGISTERED})


def test_a_folder_without_a_fingerprint_stays_readable_and_is_not_bound_afterwards(changed, tmp_path):
    out = tmp_path/"old"
    write_json(out/"study.json", {"study": "step_10000", "question": study_named("step_10000").question})
    remember_study(out, "step_10000")
    assert read_json(out/"study.json")["preregistration_sha256"] is None
    changed()
    assert study_name(out) == "step_10000"


def test_a_study_that_states_nothing_has_no_fingerprint(tmp_path):
    assert study_named("comparison").preregistration_sha256 is None
    remember_study(tmp_path, "comparison")
    assert read_json(tmp_path/"study.json")["preregistration_sha256"] is None and study_name(tmp_path) == "comparison"
