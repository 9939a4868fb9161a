"""Generators, checkpoints and images as others write them: opened, asked in their own way, judged, or refused in one line

The networks are tiny and draw nothing; that a good one is recognised is shown by real images in a generator's place.
"""
import numpy as np, pytest, torch
from torch import nn

import commands
from curriculum_gen.core.errors import InputError
from curriculum_gen.core.records import read_json
from curriculum_gen.core.task import DIGITS
from curriculum_gen.data.own import digits
from curriculum_gen.evaluation.checkpoint_series import evaluate_series
from curriculum_gen.evaluation.generators import open_generator
from curriculum_gen.evaluation.images import evaluate_images
from curriculum_gen.evaluation.instruments import evaluation_latents
from curriculum_gen.studies.comparing import compare

PROGRAM = """
import torch, torch.nn.functional as F
from torch import nn

class Net(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.embed, self.norm = nn.Embedding(10, 4), nn.BatchNorm1d(width)
        self.first, self.last = nn.Linear(12 + 4, width), nn.Linear(width, 64)
    def forward(self, z, labels):
        h = F.relu(self.norm(self.first(torch.cat([z, self.embed(labels)], 1))))
        return torch.tanh(self.last(h)).view(-1, 1, 8, 8)

class Needy(Net):
    def __init__(self, width): super().__init__(width)
def make_needy(): return Needy(16)

class OneHot(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.ConvTranspose2d(128 + 10, 1, 8)
    def forward(self, noise, c):
        return torch.sigmoid(self.layer(torch.cat([noise, c.view(-1, 10, 1, 1)], 1)))

class Bytes(Net):
    def forward(self, z, labels):
        return {"img": ((super().forward(z, labels) + 1)*127.5).to(torch.uint8), "labels": labels}

class Raises(Net):
    def forward(self, z, labels):
        if z.shape[1] == 12:
            raise LookupError("no style for these labels")
        return super().forward(z, labels)

class Loose(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Net()
    def forward(self, z, labels): return self.net(z, labels)

_held = Net()   # in train mode, and inside a function
def batch_norm_in_train_mode(z, labels): return _held(z, labels)
def noisy(z, labels): return torch.tanh(torch.randn(len(z), 1, 8, 8) + labels.view(-1, 1, 1, 1) + z.sum())
def far_out(z, labels): return 3*torch.randn(len(z), 1, 8, 8) + z.sum()
def coloured(z, labels): return torch.rand(len(z), 3, 8, 8)
class Pipeline:
    def __call__(self, class_labels, num_inference_steps=50, generator=None, output_type="pil"):
        assert isinstance(class_labels, list), "class_labels must be a list"
        from types import SimpleNamespace
        from PIL import Image
        drawn = torch.randint(0, 256, (len(class_labels), 8, 8), generator=generator).byte().numpy()
        return SimpleNamespace(images=[Image.fromarray(one) for one in drawn])
pipeline = Pipeline()
def steps_needed(noise, cls, steps): return torch.tanh(noise[:, :1] + cls[:, None] + steps).expand(-1, 64)
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    "A folder with somebody's program in it, where one stands"
    (tmp_path/"model.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    return tmp_path


def opened(name, **about): return open_generator(f"model.py:{name}", task=DIGITS, **about)


def told(generator) -> str: return "; ".join(generator.about)


def net():
    from curriculum_gen.evaluation.loading import object_at
    return object_at("model.py:Net")()


# ---- weights as others save them

def lightning(state): return {"state_dict": {f"generator.{k}": v for k, v in state.items()}
                              | {"critic.0.weight": torch.ones(3, 3)}, "global_step": 7, "epoch": 1}


WAYS = {"bare": dict, "Lightning": lightning, "under a key": lambda state: {"G": state, "opt": {"lr": 0.1}},
        "data parallel": lambda state: {"model": {f"module.{k}": v for k, v in state.items()}},
        "compiled": lambda state: {f"_orig_mod.{k}": v for k, v in state.items()},
        "half": lambda state: {k: v.half() if v.is_floating_point() else v for k, v in state.items()}}


@pytest.mark.parametrize("way", WAYS)
def test_weights_are_found_in_what_they_were_saved_in(program, way):
    network = net()
    torch.save(WAYS[way](network.state_dict()), "last.ckpt")
    generator = opened("Net", weights="last.ckpt")
    z, y = evaluation_latents(20, shape=(12,)), torch.arange(20) % 10
    with torch.no_grad(): assert torch.allclose(generator(z, y), network.eval()(z, y), atol=1e-2)
    assert generator.latent_shape == (12,) and "weights: 10 tensors" in told(generator)


def test_a_prefix_that_is_taken_off_is_told(program):
    torch.save(lightning(net().state_dict()), "last.ckpt")
    assert "'generator.' taken off their names" in told(opened("Net", weights="last.ckpt"))


def test_a_network_inside_another_takes_the_weights_of_the_inner_one(program):
    torch.save(net().state_dict(), "inner.pt")
    assert opened("Loose", weights="inner.pt").latent_shape == (12,)


def test_two_groups_that_fit_are_named(program):
    torch.save({"model": net().state_dict(), "ema": net().state_dict()}, "both.pt")
    with pytest.raises(InputError, match=r"2 groups of different weights fit .*\(model, ema\); choose one"):
        opened("Net", weights="both.pt")
    assert "of ema in both.pt" in told(opened("Net", weights="both.pt#ema"))
    same = net().state_dict()
    torch.save({"model": same, "ema": same}, "equal.pt")
    opened("Net", weights="equal.pt")


@pytest.mark.parametrize("damage, words", [
    (lambda s: s.pop("last.bias"), "1 not in the file: last.bias"),
    (lambda s: s.update({"extra.weight": torch.ones(2)}), "1 not in the network: extra.weight"),
    (lambda s: s.update({"last.bias": torch.ones(63)}), r"of another shape: last.bias \[63\] for \[64\]")])
def test_keys_that_do_not_match_are_refused(program, damage, words):
    state = net().state_dict()
    damage(state)
    torch.save(state, "odd.pt")
    with pytest.raises(InputError, match=words): opened("Net", weights="odd.pt")


def test_a_pickle_that_would_run_code_is_refused(program):
    torch.save(net(), "whole.pt")
    with pytest.raises(InputError, match="would run code"): opened("Net", weights="whole.pt")


# ---- ways of being asked

@pytest.mark.parametrize("name, words", [
    ("Net", ["latents [12] as z", "labels integer as labels", "-1,1"]), ("make_needy", ["made by make_needy()"]),
    ("OneHot", ["latents [128, 1, 1] as noise", "labels one-hot as c", "0,1 is assumed"]),
    ("Bytes", ["bytes, 0 to 255", "images are 'img'"]),
    ("pipeline", ["labels list as class_labels", "takes no latents", "images are 'images'"])])
def test_how_a_generator_is_asked_is_found_out(program, name, words):
    generator = opened(name)
    images = generator(evaluation_latents(10, shape=generator.latent_shape), torch.arange(10))
    assert images.shape == (10, 1, 8, 8) and images.abs().max() <= 1
    for word in words: assert word in told(generator)


@pytest.mark.parametrize("name, words", [
    ("Needy", "Needy needs width; write a function without arguments"),
    ("Raises", r"LookupError: no style for these labels \(model.py:\d+\)"),
    ("coloured", "3 channels and those of the data set 1"), ("far_out", "none of -1,1 and 0,1 and 0,255"),
    ("Nett", "did you mean 'Net'"), ("steps_needed", "name what cannot be guessed")])
def test_what_cannot_be_opened_is_refused_in_a_line(program, name, words):
    with pytest.raises(InputError, match=words) as refused: opened(name)
    assert "\n" not in str(refused.value)


def test_what_cannot_be_guessed_can_be_named(program):
    arguments = {"noise": "latents", "cls": "labels", "steps": 2}
    generator = opened("steps_needed", arguments=arguments, latent=(5,), range=(-1, 1), labels="integer")
    assert generator.latent_shape == (5,) and "as rows of pixels" in told(generator)
    assert "cut" in told(opened("far_out", range=(-1, 1)))


def test_a_line_of_the_users_own_file_is_told(program):
    (program/"broken.py").write_text("from torch import nn\n\n\ndef make():\n    return nn.Linear(2, 'wide')\n")
    with pytest.raises(InputError, match=r"broken.py:5"): open_generator("broken.py:make", task=DIGITS)


def test_programs_in_archives(program):
    network = net().eval()
    given = torch.randn(4, 12), torch.arange(4)
    torch.jit.trace(network, given).save("traced.pt")
    torch.export.save(torch.export.export(network, given), "fixed.pt2")
    z, y = evaluation_latents(10, shape=(12,)), torch.arange(10)
    for file, word in (("traced.pt", "TorchScript"), ("fixed.pt2", "4 images a call")):
        generator = open_generator(file, task=DIGITS)
        assert word in told(generator)
        with torch.no_grad(): assert torch.allclose(generator(z, y), network(z, y), atol=1e-5)


# ---- judged

ABOUT = {"dataset": "digits", "judge_training": "brief", "images_per_class": 10, "student_images": 20}


def evaluate(*args) -> int: return commands.evaluate(["--dataset", "digits", "--judges", "brief", *map(str, args)])


def test_train_mode_inside_a_function_is_refused(program, capsys):
    assert evaluate("--generator", "model.py:batch_norm_in_train_mode") == 2
    said = capsys.readouterr().err
    assert "in train mode" in said and said.count("\n") == 1


def test_real_images_in_folders_are_recognised_and_counts_are_made_equal(program):
    from PIL import Image
    test = digits().test
    for i, (image, label) in enumerate(zip(test.images, test.labels.tolist())):
        (program/"made"/str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(program/"made"/str(label)/f"{i}.png")
    card = evaluate_images("made", dataset="digits", judge_training="brief", student_images=20)
    assert card.accuracy > 0.8 and card.n_per_class == int(torch.bincount(test.labels).min())
    assert "stability over latents" in card.not_measured and card.stability is None


def original(step, *, adversarial=False, spoilt=False, width=(12, 8, 6)) -> dict:
    "A checkpoint as the original experiment wrote them, at a width of its own"
    torch.manual_seed(step)
    a, b, c = width
    convolutions = nn.Conv2d(a, b, 3), nn.BatchNorm2d(b), nn.Conv2d(b, c, 3), nn.BatchNorm2d(c), nn.Conv2d(c, 1, 3)
    names = (("conv_blocks.1", "conv_blocks.2", "conv_blocks.5", "conv_blocks.6", "conv_blocks.8") if adversarial else
             ("blocks.0.1", "blocks.0.2", "blocks.1.1", "blocks.1.2", "output.0"))
    layers = dict(zip(names, convolutions)) | {"label_embedding": nn.Embedding(10, 6)}
    stem = nn.Linear(9 + 6, 4*a)
    layers |= ({"fc.0": stem, "fc.1": nn.BatchNorm1d(4*a)} if adversarial else
               {"fc": stem, "v_pred_head.2": nn.Linear(c, 9)})
    judge = {"features.0": nn.Conv2d(1, 3, 3), "features.2": nn.Conv2d(3, 4, 3), "features.6": nn.Conv2d(4, 5, 3),
             "features.8": nn.Conv2d(5, 6, 3), "classifier.1": nn.Linear(24, 9), "classifier.4": nn.Linear(9, 8),
             "classifier.7": nn.Linear(8, 10)}
    def states(of): return {f"{name}.{key}": one for name, layer in of.items()
                            for key, one in layer.state_dict().items()}
    weights = states(layers)
    if spoilt: weights["label_embedding.weight"][3] = float("nan")
    if adversarial: return {"models": {"generator": weights, "discriminator": {}, "judge": states(judge)}, "step": step,
                            "d_loss": 0.1, "g_loss": 2.0}
    return {"models": {"weaver": weights, "witness": {"encoder.0.0.bias": torch.ones(3)}, "judge": states(judge)},
            "step": step, "phase": 1, "alignment_loss": 0.5}


def test_original_checkpoints_need_no_class_and_their_judge_gets_a_certificate(program):
    for step in (500, 1000, 1500): torch.save(original(step, spoilt=step == 1500), f"checkpoint_{step}.pt")
    final = original(2000)
    del final["models"]["judge"]
    torch.save(final | {"optimizers": {}, "config": {"total_steps": 2000}}, "checkpoint_final.pt")
    names = ["checkpoint_final.pt", *(f"checkpoint_{step}.pt" for step in (500, 1000, 1500))]
    found = evaluate_series(names, out="out", **ABOUT)
    assert [card.step for card in found.cards] == [500, 1000, 1500, 2000] and not found.failed
    spoilt = found.cards[2]
    assert spoilt.verdict == "INVALID" and spoilt.reasons[0].startswith("INVALID: not finite from step 1500: 6 of the")
    assert sorted(found.file_judges) == [500, 1000]
    theirs = found.file_judges[500]["certificate"]
    assert theirs["images"] == len(digits().test) and theirs["correct"]/theirs["images"] < theirs["floor"]
    assert "the pedagogical generator of the original experiment" in " ".join(found.about)


def test_adversarial_originals_and_what_reads_a_series(program):
    for step in (1, 2, 3): torch.save(original(step, adversarial=True), f"{step}.pt")
    found = evaluate_series(["3.pt", "1.pt", "2.pt"], out="out", **ABOUT)
    assert "the adversarial generator" in " ".join(found.about) and found.comparison["before"] == 1
    rows = read_json("out/evaluation.json")["rows"]
    assert [row["step"] for row in rows] == [1, 2, 3] and np.load("out/judged.npz")["judged"].shape == (3, 5, 10, 10)
    assert compare("out@1", "out").verdict in ("INCONCLUSIVE", "MEASURED-NOT-WORSE")
    torch.save(original(4, adversarial=True), "4.pt")   # a new file: the others are known
    kept = {path: path.stat().st_mtime_ns for path in (program/"out"/"scored").glob("*.json")}
    evaluate_series(["1.pt", "2.pt", "3.pt", "4.pt"], out="out", **ABOUT)
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert len(read_json("out/evaluation.json")["rows"]) == 4


def test_a_file_that_fails_gets_one_line_and_the_others_go_on(program, capsys, monkeypatch):
    monkeypatch.setattr("curriculum_gen.reporting.reports.report_file", lambda name, file: file)   # tried elsewhere
    for step in (1, 2): torch.save({"net": net().state_dict(), "epoch": step}, f"e{step}.pt")
    (program/"e3.pt").write_bytes((program/"e2.pt").read_bytes()[:300])
    torch.save({"net": {"w": torch.ones(2)}, "epoch": 4}, "e4.pt")
    assert evaluate("e1.pt", "e2.pt", "e3.pt", "e4.pt", "--generator", "model.py:Net", "--images-per-class", 10) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if "not scored" in line]
    assert len(said) == 2 and any("e3.pt" in line for line in said)
    assert any("weights of another" in line for line in said)
    assert [row["step"] for row in read_json("series/evaluation.json")["rows"]] == [1, 2]


MISTAKES = {"nothing": [], "two things": ["--samples", "x", "--generator", "model.py:Net"],
            "an option's name": ["--generator", "model.py:Net", "--weigths", "x"],
            "a range": ["--generator", "model.py:Net", "--range", "1,-1"],
            "a range of words": ["--generator", "model.py:Net", "--range", "dark,light"],
            "a latent": ["--generator", "model.py:Net", "--latent", "0"], "labels": ["--generator", "model.py:Net",
                                                                                      "--labels", "onehot"],
            "an argument": ["--generator", "model.py:Net", "--argument", "z"],
            "an output": ["--generator", "model.py:Bytes", "--output", "image"],
            "a device": ["--generator", "model.py:Net", "--device", "gpu"],
            "a group": ["--generator", "model.py:Net", "--weights", "both.pt#emma"],
            "weights of a function": ["--generator", "model.py:noisy", "--weights", "both.pt"],
            "no file": ["--generator", "models.py:Net"], "no module": ["--generator", "no_such:Net"],
            "no samples": ["--samples", "nowhere"], "no network for weights": ["both.pt"],
            "weights as a generator": ["--generator", "both.pt"],
            "judges": ["--generator", "model.py:Net", "--judges", "q"],
            "weights beside files": ["both.pt", "--weights", "both.pt", "--generator", "model.py:Net"]}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(program, capsys, mistake):
    torch.save({"model": net().state_dict(), "ema": net().state_dict()}, "both.pt")
    assert evaluate(*MISTAKES[mistake]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.err.startswith("cgen-evaluate: ") and "Traceback" not in said.err
