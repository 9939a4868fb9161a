"""Somebody's own images: a folder, an archive, arrays or a library's object as a data set, what is refused of them, and
runs that are trained, judged and piloted on them from anywhere"""
import contextlib, io, json, os, sys, types, zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from curriculum_gen.commands.batch import batch
from curriculum_gen.commands.data import data as fetch
from curriculum_gen.commands.pilot import pilot
from curriculum_gen.commands.runs import evaluate, train
from curriculum_gen.core.errors import InputError
from curriculum_gen.core.records import read_json, write_json
from curriculum_gen.core.task import TASKS, Task
from curriculum_gen.curriculum.config import run_config
from curriculum_gen.data.own import dataset_of
from curriculum_gen.data.pilots import Pilot, pilot_file, pilot_of, withheld_of
from curriculum_gen.data.places import dataset_of_hf, own_dataset
from curriculum_gen.data.sources import load_dataset
from curriculum_gen.judges.certificates import certify, judged_classes
from curriculum_gen.judges.networks import HogJudge, NeighbourJudge, hog_features
from curriculum_gen.judges.recipes import judge_recipe, train_judge
from curriculum_gen.statistics.verdicts import CUT_OFFS


def drawn(classes: int, each: int, shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    "Images [N, *shape] that show a pattern of their class, and labels"
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(7).integers(0, 200, (classes, *shape))
    labels = np.repeat(np.arange(classes), each)
    return (patterns[labels] + rng.integers(0, 55, (len(labels), *shape))).astype(np.uint8), labels


def written(folder, images, labels, names=None):
    "One PNG an image, in a folder a class"
    for i, (image, label) in enumerate(zip(images, labels)):
        place = folder/(names[label] if names else str(label))
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place/f"{i}.png")
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    "A cache of its own for what is decoded"
    for module in ("places", "pilots"):
        monkeypatch.setattr(f"curriculum_gen.data.{module}.cache_folder", (tmp_path/"cache").joinpath)


def quiet(name): return load_dataset(str(name), report=lambda line: None)


def refusal(work) -> str:
    with pytest.raises(InputError) as caught: work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path): return written(tmp_path/"faces", *drawn(3, 30, (9, 12, 3)), names=("sad", "glad", "mad"))


def test_a_folder_an_archive_and_arrays_give_the_same_data(folder, tmp_path):
    images, labels = drawn(3, 30, (9, 12, 3))
    names = ["sad", "glad", "mad"]
    by_name = [sorted(names).index(names[label]) for label in labels]
    np.savez(tmp_path/"faces.npz", images=images, labels=by_name, classes=sorted(names))
    arrays = own_dataset("faces", train=(torch.from_numpy(images), by_name), classes=sorted(names))
    found = [quiet(folder), quiet(tmp_path/"faces.npz"), arrays]
    assert len({one.fingerprint for one in found}) == 1
    assert found[0].task == Task("faces", (3, 9, 12), ("glad", "mad", "sad"))
    assert (len(found[0].train), len(found[0].test)) == (75, 15)
    for half in (found[0].half_a, found[0].half_b): assert set(torch.bincount(half.labels).tolist()) == {12, 13}


def test_what_is_held_back_depends_on_what_images_show_and_equal_ones_stay_together(tmp_path):
    images, labels = drawn(2, 30, (8, 8))
    images[1:6] = images[0]
    found = own_dataset("mine", train=(images, labels))
    train, test = ({image.numpy().tobytes() for image in split.images} for split in (found.train, found.test))
    assert not train & test
    order = np.random.default_rng(1).permutation(len(labels))
    assert own_dataset("mine", train=(images[order], labels[order])).fingerprint == found.fingerprint


def test_a_folder_with_train_and_test_is_not_split_again(tmp_path):
    written(tmp_path/"set"/"train", *drawn(2, 10, (8, 8)))
    written(tmp_path/"set"/"test", *drawn(2, 4, (8, 8), seed=1))
    assert [len(part) for part in (quiet(tmp_path/"set").train, quiet(tmp_path/"set").test)] == [20, 8]


def test_a_changed_file_makes_other_data_and_an_unchanged_folder_is_decoded_once(folder, monkeypatch):
    before = quiet(folder).fingerprint
    monkeypatch.setattr("curriculum_gen.data.places.read_folder_of", lambda path: pytest.fail("decoded again"))
    assert quiet(folder).fingerprint == before
    monkeypatch.undo()
    file = next((folder/"sad").glob("*.png"))
    about, image = file.stat(), np.array(Image.open(file))
    image[0, 0, 0] ^= 1
    Image.fromarray(image).save(file)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))   # as if nothing had happened
    assert quiet(folder).fingerprint != before


def test_a_name_in_the_registry_is_never_taken_for_a_folder(tmp_path, monkeypatch):
    written(tmp_path/"digits", *drawn(2, 20, (8, 8)))
    monkeypatch.chdir(tmp_path)
    assert TASKS.named("digits").image_shape == (1, 8, 8) and len(TASKS.named("digits").classes) == 10
    assert TASKS.named("./digits").name == "own_digits"
    assert run_config("tiny", regime="cvae", seed=0, dataset="digits").dataset == "digits"
    assert run_config("tiny", regime="cvae", seed=0, dataset="./digits").dataset == str(tmp_path/"digits")


def spoiled(folder, how):
    "The folder with one thing wrong with it"
    file = sorted((folder/"sad").glob("*.png"))[3]
    def put(image): image.save(file)
    acts = {"mixed sizes": lambda: put(Image.new("RGB", (12, 10))),
            "grey among colours": lambda: put(Image.new("L", (12, 9))),
            "four channels": lambda: put(Image.new("RGBA", (12, 9))),
            "two channels": lambda: put(Image.new("LA", (12, 9))),
            "too large": lambda: put(Image.new("RGB", (65, 64))), "too small": lambda: put(Image.new("RGB", (12, 7))),
            "sixteen bits": lambda: put(Image.new("I;16", (12, 9))),
            "damaged": lambda: file.write_bytes(file.read_bytes()[:50]),
            "empty file": lambda: file.write_bytes(b""), "no image": lambda: file.write_bytes(b"<html>" * 99),
            "a bomb": lambda: Image.new("1", (20_000, 20_000)).save(file),
            "a class of nothing": lambda: (folder/"bad").mkdir()}
    acts[how]()
    return file


@pytest.mark.parametrize("how, told", {
    "mixed sizes": "give images of one size", "grey among colours": "give images of one size and kind",
    "four channels": "4 channels", "two channels": "2 channels", "too large": "sides have 8 to 64",
    "too small": "sides have 8 to 64", "sixteen bits": "8-bit", "damaged": "no readable image",
    "empty file": "no readable image", "no image": "no readable image", "a bomb": "no readable image",
    "a class of nothing": "no image of the class 'bad'"}.items())
def test_what_is_wrong_with_a_folder_is_told_by_name(folder, how, told):
    file, said = spoiled(folder, how), refusal(lambda: quiet(folder))
    assert told in said and (file.name in said or how == "a class of nothing")


def test_a_bomb_that_tells_a_wrong_size_is_not_decoded(folder):
    "A hundred megapixels in the header, as a decompression bomb has them"
    file = next((folder/"sad").glob("*.png"))
    raw = bytearray(file.read_bytes())
    raw[16:24] = (200_000).to_bytes(4, "big")*2
    file.write_bytes(raw)
    assert "no readable image" in refusal(lambda: quiet(folder))


@pytest.mark.parametrize("arrays, told", [
    ({"images": np.zeros((40, 8, 8), np.float32), "labels": np.arange(40) % 2}, "no declared range"),
    ({"images": np.full((40, 8, 8), np.nan), "labels": np.arange(40) % 2, "value_range": [0, 1]}, "NaN"),
    ({"images": np.full((40, 8, 8), 7.0), "labels": np.arange(40) % 2, "value_range": [0, 1]}, "leave their range"),
    ({"images": np.zeros((40, 8, 8), np.uint16) + 300, "labels": np.arange(40) % 2}, "leave their range"),
    ({"images": np.zeros((40, 2, 8, 8), np.uint8), "labels": np.arange(40) % 2}, "2 channels"),
    ({"images": np.zeros((40, 8, 8, 4), np.uint8), "labels": np.arange(40) % 2}, "4 channels"),
    ({"images": np.zeros((40, 8, 8), np.uint8), "labels": np.arange(40)/2}, "whole numbers"),
    ({"images": np.zeros((40, 8, 8), np.uint8), "labels": np.eye(40)}, "argmax"),
    ({"images": np.zeros((40, 8, 8), np.uint8), "labels": np.arange(39) % 2}, "39 labels"),
    ({"images": np.zeros((40, 8, 8), np.uint8), "labels": -np.arange(40) % 2 - 1}, "a label -1"),
    ({"images": np.zeros((40, 8, 8), np.uint8), "labels": np.zeros(40, int)}, "1 classes"),
    ({"images": np.zeros((40, 8, 8), np.uint8), "labels": np.arange(40)}, "every class needs"),
    ({"images": np.zeros((1001, 8, 8), np.uint8), "labels": np.arange(1001)}, "1,001 classes"),
    ({"images": np.zeros((40, 8, 8), np.uint8), "labels": np.arange(40) % 2, "classes": ["a", "b", "c"]}, "3 classes"),
    ({"images": np.zeros((0, 8, 8), np.uint8), "labels": np.zeros(0, int)}, "shape (0"),
    ({"pictures": np.zeros(3)}, "give images and labels"),
    ({"x_train": np.zeros((40, 8, 8), np.uint8), "y_train": np.arange(40) % 2, "x_test": np.zeros((9, 9, 8), np.uint8),
      "y_test": np.arange(9) % 2}, "give one shape")])
def test_what_is_wrong_with_an_archive_is_told_in_a_line(tmp_path, arrays, told):
    np.savez(tmp_path/"mine.npz", **arrays)
    assert told in refusal(lambda: quiet(tmp_path/"mine.npz"))


def test_an_archive_that_claims_to_be_huge_or_is_pickled_is_not_opened(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 8, 8)})
    with zipfile.ZipFile(tmp_path/"huge.npz", "w") as archive: archive.writestr("images.npy", header.getvalue())
    assert "damaged" in refusal(lambda: quiet(tmp_path/"huge.npz"))
    np.savez(tmp_path/"pickled.npz", images=np.array([{"a": 1}]), labels=np.array([0]))
    assert "pickled" in refusal(lambda: quiet(tmp_path/"pickled.npz"))
    (tmp_path/"text.npz").write_text("no archive")
    assert "damaged" in refusal(lambda: quiet(tmp_path/"text.npz"))


def test_names_of_medmnist_and_words_as_labels(tmp_path):
    images, labels = drawn(2, 12, (8, 8, 3))
    np.savez(tmp_path/"pathmnist.npz", train_images=images, train_labels=labels[:, None], val_images=images,
             val_labels=labels, test_images=images[::3], test_labels=labels[::3, None])
    assert quiet(tmp_path/"pathmnist.npz").task.image_shape == (3, 8, 8)
    np.savez(tmp_path/"words.npz", images=images, labels=np.array(["b", "a"])[labels])
    assert quiet(tmp_path/"words.npz").task.classes == ("a", "b")


def test_an_object_of_hugging_face(tmp_path):
    images, labels = drawn(2, 20, (8, 8))
    class Rows:
        features = {"img": None, "label": types.SimpleNamespace(names=["no", "yes"])}
        columns = {"img": list(map(Image.fromarray, images)), "label": labels.tolist()}
        def __getitem__(self, column): return self.columns[column]
    assert dataset_of_hf(Rows(), name="mine", image="img").task.classes == ("no", "yes")
    assert "did you mean" in refusal(lambda: dataset_of_hf({"train": Rows()}, name="mine", image="imgs"))
    assert "one called train" in refusal(lambda: dataset_of_hf({"rows": Rows()}, name="mine"))


def test_a_real_object_of_hugging_face():
    datasets = pytest.importorskip("datasets")
    images, labels = drawn(2, 20, (8, 8))
    rows = datasets.Dataset.from_dict(
        {"image": list(map(Image.fromarray, images)), "label": labels.tolist()},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])}))
    ours = own_dataset("mine", train=(images, labels), classes=("no", "yes"))
    assert dataset_of_hf(rows, name="mine").fingerprint != ""
    assert torch.equal(dataset_of_hf(datasets.DatasetDict(train=rows), name="mine").train.images, ours.train.images)


def test_torchvision_by_name(tmp_path, monkeypatch):
    images, labels = drawn(2, 20, (8, 8, 3))
    class Pets:
        def __init__(self, root, split="train", download=False):
            if not download and not (tmp_path/"there").exists(): raise RuntimeError("Dataset not found.")
            (tmp_path/"there").touch()
            self.rows = [(Image.fromarray(i), int(c)) for i, c in zip(images, labels)][::1 if split == "train" else 2]
        def __len__(self): return len(self.rows)
        def __getitem__(self, i): return self.rows[i]
    monkeypatch.setattr("torchvision.datasets.Pets", Pets, raising=False)
    assert "cgen-data --dataset torchvision:Pets" in refusal(lambda: quiet("torchvision:Pets"))
    assert fetch(["--dataset", "torchvision:Pets"]) == 0
    assert (quiet("torchvision:Pets").task.name, len(quiet("torchvision:Pets").test)) == ("pets", 20)


def test_the_outline_judge_sees_luminance_and_is_the_same_for_grey():
    images = torch.rand(5, 3, 16, 16)*2 - 1
    grey = 0.299*images[:, :1] + 0.587*images[:, 1:2] + 0.114*images[:, 2:]
    torch.testing.assert_close(hog_features(images), hog_features(grey))
    torch.testing.assert_close(hog_features(grey.expand(-1, 3, -1, -1)), hog_features(grey), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("classes, shape", [(26, (8, 8)), (300, (8, 8)), (20, (32, 32, 3))])
def test_judges_of_many_classes_and_colours_know_them(classes, shape):
    found = own_dataset("many", train=drawn(classes, 24, shape))
    for name in ("neighbours", "hog_svm"):
        judge = train_judge(judge_recipe(name, dataset="many", training="brief"), found)
        right = judged_classes(judge, found.test.images) == found.test.labels
        assert right.float().mean() > 0.9, name


def test_a_brief_judge_learns_every_class_though_the_images_lie_class_by_class():
    task = Task("sorted", (1, 8, 8), ("a", "b"))
    images, labels = drawn(2, 9000, (8, 8))
    found = dataset_of(task, train=(images, labels), test=(images[::100], labels[::100]))
    judge = train_judge(judge_recipe("hog_svm", dataset="sorted", training="brief"), found)
    assert set(judged_classes(judge, found.test.images).tolist()) == {0, 1}


def test_without_a_pilot_the_certificate_says_so_and_a_pilot_of_other_data_is_not_used(folder):
    found = quiet(folder)
    recipe = judge_recipe("neighbours", dataset="faces", training="brief")
    judge = train_judge(recipe, found)
    assert "no pilot: floor not measured" in str(certify(judge, recipe, dataset=found))
    made = Pilot(task="faces", data_fingerprint=found.fingerprint, source="here", seeds=(101,), judges=(), known=(),
                 limits={"brief": {"neighbours": [0.5, 0.6]}}, cut_offs=CUT_OFFS.to_dict(), withheld=("GAMED",))
    write_json(pilot_file(found, place=found.place), made.to_dict() | {"data_fingerprint": "of others"})
    assert pilot_of(found) is None and "run cgen-pilot" in withheld_of(found, training="brief")[1]
    write_json(pilot_file(found, place=found.place), made.to_dict())
    again = quiet(folder)   # the pilot's own file is no part of the data
    assert again.fingerprint == found.fingerprint and pilot_of(again) == made
    assert "floor 50.0%" in str(certify(judge, recipe, dataset=again))
    assert (withheld_of(again, training="brief")[0], len(withheld_of(again, training="full")[0])) == (("GAMED",), 4)


def test_the_pilot_of_the_digits_comes_with_the_package():
    found = pilot_of(load_dataset("digits", report=lambda line: None))
    assert found.task == "digits" and {*found.limits} == {"brief", "full"} and min(found.seeds) > 100


@pytest.mark.slow
@pytest.mark.parametrize("classes, shape", [(20, (32, 32, 3)), (100, (8, 8))], ids=["colours", "a hundred classes"])
def test_runs_on_a_folder_and_an_archive_are_trained_and_judged_from_anywhere(tmp_path, monkeypatch, classes, shape):
    images, labels = drawn(classes, 40, shape)
    np.savez(tmp_path/"mine.npz", images=images, labels=labels)
    monkeypatch.chdir(tmp_path)
    assert train(["runs/mine", "--regime", "cvae", "--dataset", "mine.npz", "--profile", "tiny",
                  "--device", "cpu"]) == 0
    (tmp_path/"elsewhere").mkdir()
    monkeypatch.chdir(tmp_path/"elsewhere")
    assert evaluate([str(tmp_path/"runs"/"mine")]) == 0
    last = read_json(tmp_path/"runs"/"mine"/"evaluation.json")["rows"][-1]
    assert last["verdict"] in ("AT-CHANCE", "ABOVE-CHANCE", "MEMORISED", "WRONG-CLASS")
    assert any("cgen-pilot" in reason for reason in last["reasons"])


@pytest.mark.slow
def test_a_study_of_a_folder_and_its_pilot(tmp_path, monkeypatch):
    written(tmp_path/"letters", *drawn(26, 30, (16, 16)))
    monkeypatch.chdir(tmp_path)
    assert batch(["--out", "runs", "--dataset", "letters", "--profile", "tiny", "--regimes", "cvae", "--seeds", "0",
                  "--jobs", "1", "--device", "cpu"]) == 0
    assert pilot(["letters", "--training", "brief", "--seeds", "1"]) == 0
    assert pilot_of(quiet("letters")).task == "letters"
