"""The cache of judges when limits change or a file is damaged, and judges that come out the same however many threads
the machine lends

Each judge here learns from the embedded subset without a network's training, in about a second.
"""
import json, os, subprocess, sys

import pytest

from curriculum_gen.core.errors import InputError
from curriculum_gen.data.sources import load_dataset
from curriculum_gen.judges import certificates as judge
from curriculum_gen.judges.recipes import judge_recipe

RECIPE = judge_recipe("neighbours", dataset="mnist", training="brief")
KIND = "mnist", "subset", "brief", "any"
PROGRAM = """
from curriculum_gen.data.sources import load_dataset
from curriculum_gen.judges.recipes import judge_recipe, train_judge
from curriculum_gen.models.weights import weights_sha256
dataset = load_dataset("mnist", sources=["embedded"], report=lambda line: None)
recipes = [judge_recipe(name, dataset="mnist", training="brief") for name in ("neighbours", "hog_svm")]
print([weights_sha256(train_judge(recipe, dataset)) for recipe in recipes])
"""


@pytest.fixture(scope="module")
def dataset(): return load_dataset("mnist", sources=["embedded"], report=lambda line: None)


@pytest.fixture
def cached(dataset, tmp_path, monkeypatch):
    "A judge in a cache of its own, which nothing may train again"
    monkeypatch.setenv("CURRICULUM_GEN_CACHE", str(tmp_path))
    first = judge.certified_judge(RECIPE, dataset)
    def forbidden(*args, **kwargs): raise AssertionError("trained again")
    monkeypatch.setattr(judge, "train_judge", forbidden)
    return first


def limited(monkeypatch, floor, share): monkeypatch.setitem(judge.LIMITS, KIND, {"neighbours": (floor, share)})


def test_a_cached_judge_is_used_as_it_is(cached, dataset):
    assert judge.certified_judge(RECIPE, dataset).certificate == cached.certificate


def test_a_cached_judge_is_certified_anew_when_the_limits_have_changed(cached, dataset, monkeypatch):
    limited(monkeypatch, 0.5, 0.3)
    again = judge.certified_judge(RECIPE, dataset)
    assert (again.sha256, again.certificate.floor, again.certificate.share_limit) == (cached.sha256, 0.5, 0.3)


@pytest.mark.parametrize("limits", [(0.999, 0.3), (0.5, 0.1)], ids=["accuracy", "share"])
def test_a_cached_judge_outside_new_limits_is_refused(cached, dataset, monkeypatch, limits):
    limited(monkeypatch, *limits)
    with pytest.raises(InputError, match="INVALID"): judge.certified_judge(RECIPE, dataset)


def test_without_a_pilot_nothing_is_trained(cached, dataset, monkeypatch):
    monkeypatch.delitem(judge.LIMITS, KIND)
    with pytest.raises(InputError, match="no pilot has fixed limits for the neighbours judge"):
        judge.certified_judge(RECIPE, dataset)


def test_a_damaged_file_in_the_cache_is_trained_again(cached, dataset, tmp_path):
    path, = tmp_path.glob("judges/*/neighbours.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(AssertionError, match="trained again"): judge.certified_judge(RECIPE, dataset)


@pytest.mark.slow
def test_threads_of_the_machine_do_not_change_a_judge():
    "The recipe's thread count decides, not the environment's"
    def hashes(threads):
        return subprocess.run([sys.executable, "-c", PROGRAM],
                              env={**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
                              capture_output=True, text=True, check=True).stdout
    one = hashes("1")
    assert one == hashes("2") and json.loads(one.replace("'", '"'))
