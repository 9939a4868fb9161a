"""A short version of the bench of planted faults, with seeds that the bench itself does not use, and what its committed
result has to hold"""
import pytest, torch

from curriculum_gen.bench.faults import (
    REGIME, WAVES, by_entry, checks_fingerprint, entries, examined, overhead, run_entry, run_wave, setting_of,
    wave_result
)
from curriculum_gen.bench.catalogues.first import FAULTS, VARIANTS, behaviour, verify_injection
from curriculum_gen.diagnosis.findings import alarms
from curriculum_gen.core.records import read_json

SEED = 100   # the bench's are 0 to 14
FIRST = {(entry.program, entry.name): entry for entry in entries("first")}
SHORT = [*(("mlp", name) for name in "A1 A6 B1 B4 C1 D1 E1 E3 F1 F2 F7".split()),
         ("convolutional", "A4"), ("regime", "B9")]
SHORT_VARIANTS = [("mlp", name) for name in ("accumulation", "clipping", "straight_through", "adaptive_weight",
                                             "skipped_step", "zero_head", "batch_statistics")]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("key", SHORT, ids=" ".join)
def test_a_planted_fault_is_named(key):
    found = run_entry(FIRST[key], SEED)
    assert found["named"] == FIRST[key].expected, found


@pytest.mark.parametrize("key", SHORT_VARIANTS, ids=" ".join)
def test_a_healthy_oddity_is_not_accused(key): assert run_entry(FIRST[key], SEED)["named"] == ""


@pytest.mark.parametrize("program", dict.fromkeys(entry.program for wave in WAVES[1:3] for entry in entries(wave)))
def test_a_program_of_a_later_wave_as_it_is_gives_no_alarm(program):
    assert alarms(examined(setting_of(program), (), seed=SEED).findings) == []


@pytest.mark.parametrize("entry", [entry for entry in entries("fourth") if entry.kind == "control" and not entry.edits],
                         ids=lambda entry: entry.program)
def test_a_script_by_others_as_it_is_gives_no_alarm(entry): assert run_entry(entry, SEED)["named"] == ""


def test_the_bench_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    from curriculum_gen.bench import faults as fault_bench
    wanted = {("mlp", "A1"), ("mlp", "other_seed")}
    def run(seeds):
        return run_wave("first", rows_file=tmp_path/"rows.jsonl", seeds=seeds,
                        only=lambda entry: (entry.program, entry.name) in wanted)
    first = run(1)
    monkeypatch.setattr(fault_bench, "run_entry", lambda *_: pytest.fail("run twice"))
    assert run(1) == first and len((tmp_path/"rows.jsonl").read_text().splitlines()) == 2


# ---- the committed result

@pytest.fixture(scope="module")
def result(root): return read_json(root/"results"/"faults.json")


@pytest.fixture(scope="module")
def blind(root): return read_json(root/"results"/"fourth_blind.json")["wave"]


def test_the_result_was_made_by_the_checks_that_ship(result):
    assert result["checks_fingerprint"] == checks_fingerprint(), "run cgen-bench faults --out results/faults.json"


def test_the_result_covers_the_whole_catalogue(result):
    for wave in WAVES:
        assert {(row["program"], row["name"]) for row in result["waves"][wave]["rows"]} == {(entry.program, entry.name)
                                                                                            for entry in entries(wave)}
        assert all(found.runs >= 2 for found in by_entry(result["waves"][wave]["rows"]).itertuples())


@pytest.mark.parametrize("wave", WAVES)
def test_rates_are_those_of_the_runs_and_count_entries(result, wave):
    stored = result["waves"][wave]
    assert stored == wave_result(stored["rows"])
    listed = [entry.kind for entry in entries(wave)]
    assert [stored["detected"]["n"], stored["false_alarms"]["n"]] == [listed.count("fault"), listed.count("control")]


def test_the_result_meets_the_bars(result):
    first = result["waves"]["first"]
    assert (first["detected"]["share"] >= 0.95 and first["cause_first"]["share"] >= 0.85
            and first["false_alarms"]["share"] <= 0.01)
    assert first["programs"]["mlp"]["cause_first"]["k"] >= 22
    for cost in result["overhead"]:
        assert cost["steps"] == 1000 and cost["ratio"]["default"] <= 1.25 and cost["ratio"]["probes"] <= 1.3


@pytest.mark.xfail(strict=True, reason="missed where a step of the small program takes 1.3 ms: 0.30 ms of watching, "
                   "most of it in the first 256 steps, are 23 % of it; 3 % where a step takes 44 ms")
def test_watching_costs_at_most_a_twentieth_of_a_step(result):
    assert all(cost["ratio"]["default"] <= 1.05 for cost in result["overhead"])


def test_the_first_result_of_the_fourth_wave_is_kept_as_it_was(blind):
    assert blind == wave_result(blind["rows"])
    assert [(blind[name]["k"], blind[name]["n"]) for name in ("detected", "cause_first", "false_alarms")] == [
        (52, 73), (47, 73), (1, 48)]


@pytest.mark.xfail(strict=True, reason="missed: of programs that nobody had met 71 % of the faults were found and 64 % "
                   "named; a new measurement needs programs that are new again")
def test_the_bars_are_met_on_programs_that_nobody_had_met(blind):
    assert (blind["detected"]["share"] >= 0.9 and blind["cause_first"]["share"] >= 0.8
            and blind["false_alarms"]["k"] == 0)


def test_what_the_fourth_wave_showed_was_mended(result):
    today = result["waves"]["fourth"]
    assert (today["detected"]["share"] >= 0.85 and today["cause_first"]["share"] >= 0.8
            and today["false_alarms"]["k"] == 0)


def test_the_result_meets_the_bars_of_all_waves_together(result):
    everything = [result["waves"][wave] for wave in WAVES]
    assert sum(found["detected"]["k"] for found in everything) >= 0.94*sum(found["detected"]["n"]
                                                                           for found in everything)
    assert sum(found["false_alarms"]["k"] for found in everything) <= 0.01*sum(found["false_alarms"]["n"]
                                                                               for found in everything)


# ---- at length

@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_every_entry_is_injected_and_silent(name):
    setting = setting_of(name)
    run = {"images": setting.images, "labels": setting.labels, "judge": setting.judge,
           **{"mlp": {"steps": 45, "further": 15}, "convolutional": {"steps": 31, "further": 14},
              "regime": {"steps": 7, "further": 5}}[name]}
    healthy = behaviour(setting.program, **run)
    for entry in (*FAULTS[name], *VARIANTS[name]):
        assert verify_injection(setting.program, entry, healthy=healthy, **run)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", REGIME])
def test_watching_costs_little(name):
    ratio = overhead(name, steps=1000)["ratio"]
    assert ratio["default"] <= 1.25 and ratio["probes"] <= 1.3
