"""Files are hostile until shown otherwise: what is wrong is one line, and never a traceback, a hang or an answer"""
import json, os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from curriculum_gen.bench import changes, hostile
from curriculum_gen.core.arrays import read_arrays
from curriculum_gen.core.errors import InputError
from curriculum_gen.core.records import parse_json, read_file, record_at
from curriculum_gen.core.run_folder import StepRecord, read_history
from curriculum_gen.curriculum.config import RunConfig, run_config
from curriculum_gen.statistics.card import Card

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = st.text(max_size=8)
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20), lambda inner:
                      st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=8)
BAD = "wrong answer", "accepted a forgery", "traceback", "hang", "crash", "memory", "code run", "refused without need"


def in_one_line(read, *args, **more):
    "What a reader gives, or None where it refused in one line that says something"
    try: return read(*args, **more)
    except InputError as error:
        line = " ".join(str(error).split())
        assert line and len(line) < 1000
        return None


@QUICK
@given(st.binary(max_size=300))
def test_bytes_are_json_or_one_line(content): in_one_line(parse_json, content, place="a.json")


@QUICK
@given(st.sampled_from([RunConfig, StepRecord, Card]), st.data())
def test_a_record_of_any_values_is_a_record_or_one_line(kind, data):
    names = [*kind.__dataclass_fields__]
    values = data.draw(st.dictionaries(st.sampled_from(names), VALUES, max_size=len(names)) | VALUES)
    in_one_line(record_at, kind, values, place="a.json")


@QUICK
@given(st.sampled_from([*RunConfig.__dataclass_fields__]), VALUES)
def test_a_configuration_with_one_other_value_keeps_its_types(name, value):
    known = run_config("tiny", regime="full_curriculum", seed=0).to_dict()
    if name in ("regime", "dataset") and isinstance(value, str) and ":" in value: return   # names code: tested below
    if name in ("total_steps", "checkpoint_interval") and isinstance(value, int) and abs(value) > 10**6: return
    found = in_one_line(record_at, RunConfig, known | {name: value}, place="config.json")
    if found is not None and name not in ("landmarks", "learning_rate"):
        assert type(getattr(found, name)) is type(known[name]) and getattr(found, name) == value


@QUICK
@given(st.binary(max_size=400), st.integers(0, 2000), st.integers(0, 2000))
def test_an_archive_with_bytes_in_its_middle_is_read_or_one_line(tmp_path, noise, at, length):
    path = tmp_path/"a.npz"
    np.savez_compressed(path, steps=np.arange(5), judged=np.zeros((5, 10, 20), np.uint8), judges=["a", "b"])
    content = path.read_bytes()
    path.write_bytes(content[:at] + noise + content[at + length:])
    found = in_one_line(read_arrays, path)
    assert found is None or all(array.nbytes < 10**6 for array in found.values())


@QUICK
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_a_history_is_whole_or_refused(tmp_path, steps):
    path = tmp_path/"history.jsonl"
    path.write_text("".join(json.dumps({"step": step, "phase": "a", "weights": {}, "losses": {}, "images": 1}) + "\n"
                            for step in steps))
    found = in_one_line(read_history, path)
    assert (found is not None) == all(b == a + 1 for a, b in zip(steps, steps[1:]))


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero"),
                                  lambda path: path.symlink_to(path.name),
                                  lambda path: (path.touch(), os.truncate(path, 2**40))],
                         ids=["a pipe", "a folder", "a device", "a loop", "a terabyte"])
def test_what_is_no_ordinary_file_is_not_waited_for(tmp_path, make):
    make(tmp_path/"a")
    assert in_one_line(read_file, tmp_path/"a") is None


# ---- a sample of the campaign: whole folders

@pytest.fixture(scope="module")
def runs(tmp_path_factory): return changes.make_runs(tmp_path_factory.mktemp("hostile"))


def outcomes(rows): return {(row["kind"], row["file"], reader): found for row in rows
                            for reader, found in row["found"].items() if found[0].startswith(BAD)}


def test_a_sample_of_hostile_folders(runs):
    every = hostile.trials(1)
    rows = hostile.try_all(every[::9], runs)
    assert len(rows) == len(every[::9]) and outcomes(rows) == {}


@pytest.mark.slow
def test_every_kind_of_hostile_folder(runs): assert outcomes(hostile.try_all(hostile.trials(1), runs)) == {}
