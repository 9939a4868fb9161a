"""Two systems compared, and the gate: the same word from every kind of file, exit codes that a pipeline can rely on, one
line for every mistake, and nothing that passes because it could not be measured

The run is sixty steps long and trained once; what a verdict does to the gate is tried on copies whose results say so.
"""
import html, json, os, re, shutil
from dataclasses import replace

import numpy as np, pandas as pd, pytest

import commands
import curriculum_gen
from curriculum_gen.core.records import read_json, write_json
from curriculum_gen.core.run_folder import RunFolder
from curriculum_gen.curriculum.claims import sealed
from curriculum_gen.curriculum.config import run_config
from curriculum_gen.evaluation.evaluate import evaluate_run
from curriculum_gen.reporting.pages import outside_references
from curriculum_gen.statistics.card import Card
from curriculum_gen.statistics.words import Verdict
from curriculum_gen.studies import gate as gates
from curriculum_gen.studies.comparing import exit_code
from curriculum_gen.training.train import train
from test_commands import everything

REGIME, EARLY, LATE = "phase1_only", 40, 60
COLUMNS = ["seed", "step", "asked", "judged", "count"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> RunFolder:
    "A short run that has learned something between two of its checkpoints, in a study's folder"
    config = run_config("tiny", regime=REGIME, seed=0, total_steps=LATE, checkpoint_interval=30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CURRICULUM_GEN_SOURCES", "folder,cache,embedded")
        run = train(config, tmp_path_factory.mktemp("trained")/"study"/REGIME/"seed-0")
        evaluate_run(run.path, images_per_class=20)
    return run


@pytest.fixture
def mine(trained, tmp_path, monkeypatch) -> RunFolder:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CURRICULUM_GEN_SOURCES", "folder,cache,embedded")
    return RunFolder(shutil.copytree(trained.path, tmp_path/"mine"))


def compare(*arguments) -> int: return commands.compare([str(argument) for argument in arguments])


def gate(*arguments) -> int: return commands.gate([str(argument) for argument in arguments])


def tables(shares, *, n=200, seed=0) -> np.ndarray:
    "Counts [seeds, 3, 3] of a made-up system that is right on these shares of the images, one row a seed"
    rng, shares = np.random.default_rng(seed), np.atleast_2d(shares)
    right = rng.binomial(n, np.broadcast_to(shares, (len(shares), 3)))
    return rng.multinomial(n - right, (1 - np.eye(3))/2) + right[..., None]*np.eye(3, dtype=int)


def count_file(path, counts, *, step=1000):
    "A count file of the kind that the ending says"
    if path.suffix == ".npz": np.savez(path, confusion=counts, seeds=range(len(counts)))
    elif path.suffix == ".json":
        write_json(path, {"tables": [{"seed": seed, "step": step, "confusion": table.tolist()}
                                     for seed, table in enumerate(counts)]})
    else:
        rows = [(seed, step, i, j, n) for seed, table in enumerate(counts) for (i, j), n in np.ndenumerate(table)]
        pd.DataFrame(rows, columns=COLUMNS).to_csv(path, index=False)
    return path


# ---- words and exit codes

FIVE = [[0.9], [0.89], [0.91], [0.9], [0.9]]
PAIRS = {   # baseline, candidate -> verdict, exit code
    "five seeds that fall": (FIVE, np.subtract(FIVE, 0.15), "WORSE", 1),
    "five seeds that rise": (np.subtract(FIVE, 0.15), FIVE, "BETTER", 0),
    "five seeds that stay": (FIVE, FIVE[::-1], "NOT-WORSE", 0),
    "five seeds all over the place": ([[0.9], [0.4], [0.8], [0.6], [0.7]], [[0.5], [0.9], [0.4], [0.8], [0.7]],
                                      "INCONCLUSIVE", 3),
    "one seed that falls": ([[0.9]], [[0.7]], "WORSE", 1),
    "one seed that stays": ([[0.9]], [[0.9]], "MEASURED-NOT-WORSE", 0),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("ending", [".json", ".npz", ".csv"])
def test_a_pair_gets_the_same_word_from_every_kind_of_file(name, ending, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    baseline, candidate, verdict, code = PAIRS[name]
    n = 1000 if "stay" in name else 200
    files = [count_file(tmp_path/f"{side}{ending}", tables(shares, n=n, seed=seed))
             for seed, (side, shares) in enumerate((("before", baseline), ("after", candidate)))]
    assert compare(*files, "--json") == code
    said = json.loads(capfd.readouterr().out)
    assert (said["verdict"], said["exit_code"]) == (verdict, code)
    assert len([*tmp_path.iterdir()]) == 2, "something was left behind"


def test_every_word_has_an_exit_code_and_only_three_pass():
    assert [word for word in Verdict if exit_code(word) == 0] == ["NOT-WORSE", "MEASURED-NOT-WORSE", "BETTER"]
    assert [word for word in Verdict if exit_code(word) == 1] == ["REGRESSED", "MEASURED-DROP", "WORSE"]


def test_the_words_say_what_was_not_seen_and_how_many_seeds_would_settle_it(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    shares = PAIRS["five seeds all over the place"]
    files = [count_file(tmp_path/f"{k}.csv", tables(shares[k], seed=k)) for k in (0, 1)]
    assert compare(*files, "--json") == 3
    said = json.loads(capfd.readouterr().out)
    assert said["comparison"]["least_detectable"] > 0.05 and "would be seen in" in said["words"]
    assert "seeds of each" in said["words"]


def test_a_class_that_is_lost_is_named_first_and_does_not_pass(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    names = ["cat", "dog", "owl"]
    for name, shares in (("before", [0.9, 0.8, 0.9]), ("after", [0.97, 0.95, 0.65])):
        write_json(tmp_path/f"{name}.json", {"classes": names, "tables": [
            {"seed": 0, "confusion": tables([shares])[0].tolist()}]})
    assert compare("before.json", "after.json", "--json") == 3
    said = json.loads(capfd.readouterr().out)
    assert said["classes"][0]["class"] == "owl" and said["classes"][0]["change"] == "fell"
    assert "1 of 3 classes" in said["words"] and "owl" in said["words"]


def test_classes_in_another_order_are_the_same_classes(tmp_path):
    counts = tables([[0.95, 0.8, 0.6]], n=1000)[0]
    turned = [2, 0, 1]
    for name, names, table in (("a", "abc", counts), ("b", "cab", counts[np.ix_(turned, turned)])):
        write_json(tmp_path/f"{name}.json", {"classes": list(names), "tables": [
            {"seed": 0, "confusion": table.tolist()}]})
    found = curriculum_gen.compare(tmp_path/"a.json", tmp_path/"b.json")
    assert (found.classes.difference == 0).all() and found.verdict == "MEASURED-NOT-WORSE"


def test_a_hundred_classes_are_compared(tmp_path):
    counts = 45*np.eye(100, dtype=int) + 5*np.roll(np.eye(100, dtype=int), 1, axis=1)
    (tmp_path/"a.csv").write_text("\n".join(",".join(map(str, row)) for row in counts))
    found = curriculum_gen.compare(tmp_path/"a.csv", counts)
    assert found.verdict == "MEASURED-NOT-WORSE" and len(found.classes) == 100


# ---- mistakes

GOOD = "good.json"
FILES = {
    "shares.csv": "0.9,0.1\n0.1,0.9\n", "hole.csv": "9,1\n2,nan\n", "words.csv": "a,b\nc,d\n", "empty.csv": "",
    "oblong.csv": "9,1\n2,8\n3,7\n", "unequal.csv": "9,1\n2,7\n", "negative.csv": "11,-1\n1,9\n",
    "ragged.csv": "9,1\n2\n",
    "column.csv": "seed,step,asked,count\n0,1,0,9\n", "rows.csv": "seed,step,asked,judged,count\n",
    "twice.csv": "seed,step,asked,judged,count\n0,1,0,0,9\n0,1,0,0,9\n",
    "gap.csv": "seed,step,asked,judged,count\n0,1,0,,9\n",
    "seeds.csv": "seed,step,asked,judged,count\nx,1,0,0,9\nx,1,1,1,9\n",
    "numbers.csv": "seed,step,asked,judged,count\n0,1,1,1,9\n0,1,2,2,9\n",
    "strange.csv": "seed,step,asked,judged,count\n0,1,a,b,9\n",
    "ends.csv": "seed,step,asked,judged,count\n0,1,0,0,9\n0,1,1,1,9\n1,2,0,0,9\n1,2,1,1,9\n",
    "broken.json": "{", "nan.json": "[[9, NaN], [1, 9]]", "other.json": '{"rows": []}', "none.json": '{"tables": []}',
    "names.json": '{"classes": ["a"], "tables": [{"seed": 0, "confusion": [[9, 1], [1, 9]]}]}',
    "same.json": '{"classes": ["a", "a"], "tables": [{"seed": 0, "confusion": [[9, 1], [1, 9]]}]}',
    "seedless.json": '{"tables": [{"confusion": [[9, 1], [1, 9]]}]}', "typo.json": '{"tabels": []}',
    "key.json": '{"tables": [{"seed": 0, "stepp": 1, "confusion": [[9, 1], [1, 9]]}]}', "list.json": '{"tables": [1]}',
    "images.json": '{"tables": [{"seed": 0, "confusion": [[9, 1], [1, 9]]}, '
                   '{"seed": 1, "confusion": [[8, 0], [0, 8]]}]}',
    "bare.json": '{"panel": {}, "confusion": [[9, 1], [1, 9]]}', "true.json": "[[true, false], [false, true]]",
    "pets.json": '{"classes": ["cat", "dog"], "tables": [{"seed": 0, "confusion": [[9, 1], [1, 9]]}]}',
    "birds.json": '{"classes": ["owl", "dog"], "tables": [{"seed": 0, "confusion": [[9, 1], [1, 9]]}]}',
    "three.json": "[[9, 0, 0], [0, 9, 0], [0, 0, 9]]", "counts.txt": "9,1\n1,9\n", "zip.npz": "no archive",
    "binary.csv": "\0\x01", GOOD: "[[9, 1], [1, 9]]",
}
MISTAKES = {
    "": "BASELINE", GOOD: "CANDIDATE", f"{GOOD} {GOOD} {GOOD}": "one word too many",
    f"{GOOD} nowhere": "nowhere: not found", f"{GOOD} {GOOD} --margni 0.1": "did you mean '--margin'",
    f"{GOOD} {GOOD} --margin 5": "between 0 and 1", f"{GOOD} {GOOD} --margin 0": "between 0 and 1",
    f"{GOOD} {GOOD} --margin nan": "between 0 and 1", f"{GOOD} {GOOD} --margin x": "--margin",
    f"{GOOD} {GOOD} --step 3": "no steps at all", f"{GOOD} {GOOD} --step -3": "no whole number",
    f"{GOOD} {GOOD} --step x": "--step", f"{GOOD}@3 {GOOD}": "no steps at all", f"{GOOD}@last {GOOD}": "no step",
    "ends.csv@1 ends.csv@1": "of seed 1 at step 1",
    f"{GOOD}@3 {GOOD} --step 4": "give one of them", f"{GOOD} {GOOD} --continue 5": "one run folder at two steps",
    f"{GOOD} {GOOD} --continue": "--continue", "MINE@40 MINE --continue 0": "it must be 1 to 16",
    "MINE@40 MINE --continue 2 --json": "without --continue", "MINE@60 MINE@40 --continue 2": "must be the later one",
    "MINE@41 MINE": "no checkpoint of seed 0 at step 41", f"MINE {GOOD}": "10 classes and",
    ". .": "neither a run folder nor",
    "pets.json birds.json": "'owl' is none of", f"three.json {GOOD}": "3 classes and",
    f"{GOOD} {GOOD} --out {GOOD}": GOOD, f"{GOOD} {GOOD} --out /proc/curriculum": "/proc/curriculum",
} | {f"{name} {GOOD}": said for name, said in {
    "shares.csv": "not shares", "hole.csv": "not a number", "words.csv": "no column seed", "empty.csv": "empty",
    "oblong.csv": "shape [3, 2]", "unequal.csv": "ask for the same number of every class", "negative.csv": "negative",
    "ragged.csv": "not a number",
    "column.csv": "no column judged", "rows.csv": "no rows", "twice.csv": "line 3 repeats", "gap.csv": "hole in line 2",
    "seeds.csv": "'x' is no whole number", "numbers.csv": "number them 0, 1, 2",
    "strange.csv": "'b' is never asked for",
    "ends.csv": "end at different steps", "broken.json": "not valid JSON", "nan.json": "no number",
    "other.json": "neither a card nor counts", "none.json": "no tables", "names.json": "1 names for 2 classes",
    "same.json": "different names", "seedless.json": "without seed", "typo.json": "neither a card nor counts",
    "key.json": "did you mean 'step'", "list.json": "no object", "images.json": "8 and 10 images a class",
    "bare.json": "Card: n_per_class", "true.json": "True in the confusion", "counts.txt": "no .json, .npz, .csv file",
    "zip.npz": "not an NPZ archive", "binary.csv": "whole numbers"}.items()}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_told_in_one_line_and_costs_nothing(line, mine, tmp_path, capfd):
    for name, content in FILES.items(): (tmp_path/name).write_text(content)
    before = everything(tmp_path)
    assert compare(*line.replace("MINE", "mine").split()) == 2
    told = capfd.readouterr()
    [words] = told.err.splitlines()
    assert words.startswith("cgen-compare: ") and MISTAKES[line] in words and len(words) < 300, words
    assert told.out == "" and everything(tmp_path) == before


class Bomb:
    "Leaves a file behind when it is unpickled"
    def __reduce__(self): return os.mkdir, ("exploded",)


@pytest.mark.parametrize("arrays", [{"confusion": np.array([Bomb()], dtype=object)}, {"confusion": tables([[0.9]]),
                                                                                     "seeds": np.array([Bomb()])}])
def test_a_pickle_in_an_archive_is_refused_and_runs_nothing(arrays, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path/"a.npz", **arrays)
    assert compare("a.npz", "a.npz") == 2
    assert "pickled objects" in capfd.readouterr().err and not (tmp_path/"exploded").exists()


@pytest.mark.parametrize("arrays, said", [({"counts": tables([[0.9]])}, "array in"),
                                          ({"seeds": [0]}, "no array confusion"),
                                          ({"confusion": tables([[0.9]])[0, 0]}, "shape [3]"),
                                          ({"confusion": tables([[0.9]]), "seeds": [0, 1]}, "1 tables and 2 seeds"),
                                          ({"confusion": tables([[0.9]])/200}, "not shares"),
                                          ({"confusion": tables([[0.9]]), "classes": ["a"]}, "1 names for 3")])
def test_a_wrong_archive_is_told_in_one_line(arrays, said, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path/"a.npz", **arrays)
    assert compare("a.npz", "a.npz") == 2
    [words] = capfd.readouterr().err.splitlines()
    assert "a.npz" in words and said in words


# ---- runs

def test_two_checkpoints_of_a_run_are_compared_image_by_image_and_shown(mine, capfd):
    assert compare(f"mine@{LATE}", f"mine@{EARLY}", "--out", "told") == 1
    said, found = capfd.readouterr().out, read_json("told/comparison.json")
    assert said.startswith("WORSE: Of these two checkpoints") and "report: told/report.html" in said
    lost = [flip for flip in found["flips"] if flip["change"] == "lost"]
    assert lost and all(flip["baseline"] == flip["class"] != flip["candidate"] for flip in lost)
    page = (mine.path.parent/"told"/"report.html").read_text()
    assert outside_references(page) == [] and "right before, wrong now" in page and html.escape(found["words"]) in page
    assert compare(f"mine@{EARLY}", "mine", "--json") == 0, "the other way round it is better"


def test_a_report_without_checkpoints_says_so(mine, capfd):
    shutil.rmtree(mine.checkpoints)
    assert compare(f"mine@{LATE}", f"mine@{EARLY}") == 1
    page = (mine.path.parent/"comparison"/"report.html").read_text()
    assert "their checkpoints are gone" in page and "right before, wrong now" not in page


def test_a_study_of_several_regimes_is_not_one_system(trained, mine, tmp_path, capfd):
    for regime in ("one", "two"): shutil.copytree(trained.path, tmp_path/"study"/regime/"seed-0")
    assert compare("study", "mine") == 2
    assert "holds 2 regimes (one, two); name one, as study/one" in capfd.readouterr().err
    assert compare("study/one", "mine", "--json") == 0


OTHER = "00"*32   # the fingerprint of another judge


def with_other_judge(row: dict) -> dict:
    "A card as another first judge would have given it"
    return row | {"judge_sha256": OTHER, "panel": row["panel"] | {
        "first": row["panel"]["first"] | {"judge_sha256": OTHER}}}


def as_another_seed(run: RunFolder) -> None:
    "Have a copy of a run be of seed 1 and of another first judge, and agree with itself"
    shutil.rmtree(run.checkpoints)
    config = write_json(run.config, read_json(run.config) | {"seed": 1})
    found = read_json(run.evaluation) | {"config": read_json(config)}
    found["rows"] = [with_other_judge(row) | {"seed": 1} for row in found["rows"]]
    found["judges"]["first"]["weights_sha256"] = found["measured_with"]["judges"]["first"] = OTHER
    write_json(run.judges/"first.json", found["judges"]["first"])
    write_json(run.evaluation, sealed(found))


def test_runs_that_other_judges_scored_cannot_be_compared_and_the_cause_is_named(mine, tmp_path, capfd):
    row = with_other_judge(read_json(mine.evaluation)["rows"][-1])
    write_json(tmp_path/"other"/"card.json", row)
    assert compare("mine", "other", "--json") == 3
    said = json.loads(capfd.readouterr().out)
    assert said["verdict"] == "INVALID" and "different judges (first judge" in said["words"]
    assert "frozen" not in said["words"] and "score both with the same" in said["words"]
    for options in ((), ("--strict",)):
        assert gate("mine", "--baseline", "other", "--require", "AT-CHANCE", *options) == 1
        [row] = [line for line in capfd.readouterr().out.splitlines() if "against other" in line]
        assert row.startswith("STOPPED") and "INVALID" in row and "different judges" in row


def test_a_run_goes_on_from_a_checkpoint_in_other_orders(mine, capfd):
    assert compare(f"mine@{EARLY}", "mine", "--continue", "1") in (0, 3)
    assert re.match(r"[A-Z-]+: ", capfd.readouterr().out) and not (mine.path.parent/"comparison").exists()


# ---- the gate

def stable(verdict, share=1.0, second=""):
    "What the last row says of a verdict, with its stability"
    return {"verdict": verdict, "reasons": [f"{verdict}: made up"],
            "stability": {"share": share, "second": second, "resamples": 200}}


def giving(monkeypatch, last: dict) -> None:
    """Have the counts of the last checkpoint give these words: a run whose file says other words than its counts
    give is INVALID"""
    said = {"stability": None} | {name: tuple(v) if name == "reasons" else v for name, v in last.items()}
    monkeypatch.setattr(gates, "judged_again", lambda found, **_: (*found.cards[:-1], replace(found.last, **said)))


LEARNED = {"verdict": "LEARNED", "reasons": ["LEARNED: made up"]}
CASES = {   # of the last row -> exit code, and with --strict; what the line says
    "LEARNED": (stable("LEARNED"), 0, 0, "LEARNED: made up"),
    "MEMORISED": (stable("MEMORISED"), 1, 1, "MEMORISED stops it"),
    "WRONG-CLASS": (stable("WRONG-CLASS"), 1, 1, "WRONG-CLASS stops it"),
    "COLLAPSED": (stable("COLLAPSED"), 1, 1, "COLLAPSED stops it"),
    "GAMED": (stable("GAMED"), 1, 1, "GAMED stops it"),
    "INVALID": (stable("INVALID"), 1, 1, "INVALID stops it"),
    "REGRESSED": (stable("REGRESSED"), 1, 1, "REGRESSED stops it"),
    "a measured drop": (stable("MEASURED-DROP"), 1, 1, "MEASURED-DROP stops it"),
    "a drop behind a doubt": ({"verdict": "SUSPECT", "reasons": ["SUSPECT: a gap", "MEASURED-DROP: fell"]}, 1, 1,
                              "MEASURED-DROP stops it"),
    "SUSPECT": (stable("SUSPECT"), 0, 0, "SUSPECT: made up"),
    "SUSPECT or GAMED": (stable("SUSPECT", 0.87, "GAMED"), 0, 1, "borderline with GAMED"),
    "GAMED or SUSPECT": (stable("GAMED", 0.6, "SUSPECT"), 1, 1, "borderline with SUSPECT"),
    "LEARNED or ABOVE-CHANCE": (stable("LEARNED", 0.9, "ABOVE-CHANCE"), 0, 0, "borderline with ABOVE-CHANCE"),
    "SUSPECT, nearly always": (stable("SUSPECT", 0.96, "GAMED"), 0, 0, "SUSPECT: made up"),
    "an old row": ({"verdict": "ABOVE-CHANCE", "reasons": ["ABOVE-CHANCE: made up"]}, 0, 0, "ABOVE-CHANCE: made up"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_stops_and_what_a_doubtful_word_does(name, mine, capfd, monkeypatch):
    last, code, strict, said = CASES[name]
    giving(monkeypatch, last)
    assert [gate("mine"), gate("mine", "--strict")] == [code, strict]
    out = capfd.readouterr().out
    assert said in out and ("borderline" in out) == ("borderline" in said)


def test_a_comparison_of_seeds_with_other_judges_never_passes(mine, tmp_path, capfd):
    as_another_seed(RunFolder(shutil.copytree(mine.path, tmp_path/"second")))
    for options in ((), ("--strict",), ("--require", "AT-CHANCE")):
        assert gate("mine", "second", *options) == 1
        [row] = [line for line in capfd.readouterr().out.splitlines() if "seed all 2" in line]
        assert row.startswith("STOPPED") and "INVALID: different first judges scored them (seed 0 by" in row


def test_a_baseline_stops_what_is_worse_and_lets_a_doubt_pass_unless_strict(mine, capfd, monkeypatch):
    giving(monkeypatch, LEARNED)
    counts = {"better": np.diag([20]*10).tolist(), "as good": read_json(mine.evaluation)["rows"][-1]["confusion"]}
    for name, table in counts.items(): write_json(mine.path.parent/f"{name}.json", table)
    assert [gate("mine", "--baseline", "better.json", *options) for options in ((), ("--strict",))] == [1, 1]
    assert [gate("mine", "--baseline", "as good.json", *options) for options in ((), ("--strict",))] == [0, 1]
    out = capfd.readouterr().out
    assert "against better.json, step 60: WORSE: " in out and "against as good.json, step 60: INCONCLUSIVE: " in out
    assert [gate("mine", "--baseline", f"mine@{step}") for step in (EARLY, LATE)] == [0, 0]


@pytest.mark.parametrize("line, said", [("mine --baseline nowhere", "nowhere: not found"),
                                        ("mine --baseline", "--baseline"),
                                        ("mine --baseline mine@41", "step 41"), ("mine --basline mine", "'--baseline'"),
                                        ("mine --baseline three.json", "3 classes and")])
def test_a_wrong_baseline_is_told_in_one_line(line, said, mine, tmp_path, capfd):
    (tmp_path/"three.json").write_text(FILES["three.json"])
    assert gate(*line.split()) == 2
    [words] = capfd.readouterr().err.splitlines()
    assert words.startswith("cgen-gate: ") and said in words


# ---- the front door

def test_paths_cards_and_arrays_are_taken_and_the_answer_shows_itself(mine, tmp_path):
    card = Card.from_dict(read_json(mine.evaluation)["rows"][-1])
    write_json(tmp_path/"card.json", card.to_dict())
    table = np.array(card.confusion)
    found = [curriculum_gen.compare(*pair) for pair in ((mine.path, str(mine.path)), (card, "card.json"), (table, card),
                                                        (table, table.tolist()), (table[None], np.stack([table]*2)))]
    assert [one.found.difference for one in found] == [0]*5
    for one in found: assert one._repr_markdown_().startswith(f"**{one.verdict}** ") and str(one.verdict) in repr(one)
    assert "same networks, bit by bit" in found[1]._repr_markdown_()
    assert curriculum_gen.compare(mine.path, mine.path, step=EARLY).candidate.step == EARLY
