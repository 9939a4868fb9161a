"""Checkpoint files as other people's programs write them: Lightning, Hugging Face, accelerate, StyleGAN, plain scripts.
Healthy ones are left alone, faults are named, and what cannot be read is told in one line"""
import argparse, copy, json, math, pickle, random
from pathlib import Path

import numpy as np
import pytest, torch
from safetensors.torch import save_file
from torch import nn

import commands
from curriculum_gen.diagnosis.files import look_into


class Run:
    "A network, a critic and an average that take steps"
    def __init__(self, seed=0, *, rate=0.01, period=100):
        torch.manual_seed(seed)
        self.g = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
        self.d, self.ema, self.step_ = nn.Linear(2, 1), copy.deepcopy(self.g), 0
        self.optimisers(rate, period)

    def optimisers(self, rate=0.01, period=100):
        self.g_opt = torch.optim.AdamW(self.g.parameters(), rate)
        self.d_opt = torch.optim.SGD(self.d.parameters(), 0.1, momentum=0.9)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.g_opt, period, 0.5)

    def steps(self, count, *, buffers=True, average=True, schedule=True):
        for _ in range(count):
            loss = self.d(self.g(torch.randn(8, 3))).square().mean()
            self.g_opt.zero_grad(), self.d_opt.zero_grad()
            loss.backward()
            self.g_opt.step(), self.d_opt.step()
            if schedule: self.schedule.step()
            self.step_ += 1
            with torch.no_grad():
                for a, p in zip(self.ema.parameters(), self.g.parameters()): average and a.lerp_(p, 0.1)
                for a, b in zip(self.ema.buffers(), self.g.buffers()): buffers and a.copy_(b)
        return self

    def gan(self, **more):
        return {"G": self.g.state_dict(), "D": self.d.state_dict(), "G_ema": self.ema.state_dict(),
                "g_opt": self.g_opt.state_dict(), "d_opt": self.d_opt.state_dict(), "step": self.step_,
                "sched": self.schedule.state_dict(), "rng": torch.get_rng_state(), **more}

    def lightning(self):
        nets = {"generator": self.g, "discriminator": self.d, "ema": self.ema}
        return {"state_dict": {f"{name}.{key}": each for name, net in nets.items()
                               for key, each in net.state_dict().items()},
                "optimizer_states": [self.g_opt.state_dict(), self.d_opt.state_dict()],
                "lr_schedulers": [self.schedule.state_dict()], "global_step": self.step_, "epoch": self.step_//5,
                "pytorch-lightning_version": "2.4.0", "hyper_parameters": {"lr": 0.01, "max_steps": 1000},
                "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5), "best_k_models": {
                    "a.ckpt": torch.tensor(0.5)}}}, "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {
                        "total": {"ready": 2}}}}}

    def trainer(self, folder, *, step=None):
        "The folder that a Hugging Face Trainer writes"
        folder.mkdir(parents=True)
        save_file(self.g.state_dict(), folder/"model.safetensors", {"format": "pt"})
        torch.save(self.g_opt.state_dict(), folder/"optimizer.pt")
        torch.save(self.schedule.state_dict(), folder/"scheduler.pt")
        torch.save({"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.get_rng_state()},
                   folder/"rng_state.pth")
        (folder/"trainer_state.json").write_text(json.dumps(
            {"global_step": self.step_ if step is None else step, "epoch": 1.0, "max_steps": 9999,
             "log_history": [{"loss": float("inf")}]}))
        (folder/"config.json").write_text('{"model_type": "unet"}')
        torch.save({"args": Code()}, folder/"training_args.bin")
        return folder

    def accelerate(self, folder):
        folder.mkdir(parents=True)
        torch.save(self.g.state_dict(), folder/"pytorch_model.bin")
        torch.save(self.d.state_dict(), folder/"pytorch_model_1.bin")
        torch.save(self.g_opt.state_dict(), folder/"optimizer.bin")
        torch.save(self.schedule.state_dict(), folder/"scheduler.bin")
        torch.save({"step": self.step_, "random_state": random.getstate(), "numpy_random_seed": np.random.get_state(),
                    "torch_manual_seed": torch.get_rng_state()}, folder/"random_states_0.pkl")
        return folder


class Code:
    def __reduce__(self): return print, ("executed",)


@pytest.fixture
def put(tmp_path):
    def put(name, value):
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(value, tmp_path/name)
        return tmp_path/name
    return put


def causes(*paths, **options):
    found = look_into(*paths, **options)
    return [finding.cause for finding in found.findings if finding.kind == "cause"]


# ---- healthy

HEALTHY = {
    "gan": lambda run: run.gan(), "lightning": lambda run: run.lightning(),
    "averaged by torch": lambda run: {**run.gan(), "G_ema": swa(run), "n": 1},
    "with arguments": lambda run: run.gan(args=argparse.Namespace(lr=0.01, step=3), best=np.float64(0.3),
                                          path=Path("runs"), best_loss=math.inf, fixed_noise=torch.randn(4, 3)),
    "frozen network beside": lambda run: run.gan(vgg={"w.weight": torch.ones(3, 3), "w.bias": torch.ones(3)}),
    "mask of infinities": lambda run: run.gan(mask={"attn.mask": torch.full((3, 3), -math.inf).triu(1),
                                                    "attn.w": torch.ones(2)}),
    "tied": lambda run: run.gan(tied={"a.weight": (kept := torch.ones(3, 3)), "b.weight": kept}),
    "plain state dict": lambda run: run.g.state_dict(), "compiled": lambda run: {
        "model": {f"_orig_mod.{key}": each for key, each in run.g.state_dict().items()}, "epoch": run.step_},
    "python's random state still": lambda run: run.gan(python=random.getstate()),
    "shadow list": lambda run: {"model": run.g.state_dict(), "step": run.step_,
                                "ema": {"decay": 0.9, "num_updates": run.step_,
                                        "shadow_params": [p.detach() for p in run.ema.parameters()]}},
    "average that begins later": lambda run: {"model": run.g.state_dict(), "ema": run.g.state_dict(), "step": run.step_,
                                              "config": {"ema_start": 10_000}},
    "average of one that stands by": lambda run: {"model": run.g.state_dict(), "step": run.step_, "swa_model": {
        "n_averaged": torch.tensor(0), **{f"module.{key}": each for key, each in Run().g.state_dict().items()}}},
}


def swa(run):
    average = torch.optim.swa_utils.AveragedModel(run.g, use_buffers=True)
    average.update_parameters(Run(1).steps(2).g)
    return average.state_dict()


@pytest.mark.parametrize("kind", HEALTHY)
def test_a_healthy_pair_is_left_alone(kind, put):
    run = Run().steps(5)
    early = put("early.pt", copy.deepcopy(HEALTHY[kind](run)))
    late = put("late.pt", HEALTHY[kind](run.steps(7)))
    found = look_into(late, early)
    assert found.findings == () and found.exit_code == 0, str(found)
    assert all(row["weights_equal"] < row["weights"] or row["network"] in ("vgg", "mask", "tied")
               for row in found.equal_rows)


@pytest.mark.parametrize("kind", ["trainer", "accelerate"])
def test_folders_of_parts_are_checkpoints(kind, tmp_path, capsys):
    random.seed(0), np.random.seed(0)
    run = Run().steps(5)
    getattr(run, kind)(tmp_path/"out"/"checkpoint-5")
    random.random(), np.random.rand()
    getattr(run.steps(5), kind)(tmp_path/"out"/"checkpoint-10")
    found = look_into(tmp_path/"out")
    assert found.exit_code == 0 and [each.name for each in found.contents] == ["checkpoint-5", "checkpoint-10"]
    assert "executed" not in capsys.readouterr().out and "AdamW at its step 10" in str(found)


def test_shards_are_one_network(tmp_path):
    tensors = Run().g.state_dict()
    for i, names in enumerate(([*tensors][:3], [*tensors][3:]), 1):
        save_file({name: tensors[name] for name in names}, tmp_path/f"model-0000{i}-of-00002.safetensors")
    found = look_into(tmp_path, network=Run().g)
    assert found.matches[0].fits and len(found.contents) == 1


def test_warm_up_from_zero_and_an_interval_within_an_epoch_are_healthy(put):
    run = Run(rate=0.0).steps(2)
    first = put("1.pt", copy.deepcopy(run.gan()))
    assert causes(first, put("2.pt", run.steps(3).gan())) == []
    by_epoch = [put(f"{step}.pt", run.gan(sched={"last_epoch": 3, "_step_count": 4, "base_lrs": [0.1]}, step=step))
                for step in (300, 320)]
    assert "schedule restarts on resume" not in causes(*by_epoch)


def test_a_warm_up_that_has_ended_is_no_restart(put):
    pair = [put(f"{step}.pt", run.gan(sched={"last_epoch": 100, "_step_count": 101, "base_lrs": [0.1]}, step=step))
            for step, run in ((300, Run().steps(3)), (600, Run().steps(6)))]
    assert "schedule restarts on resume" not in causes(*pair)


def test_many_epochs_in_order_whatever_their_names(put):
    run = Run()
    files = [put(f"{name}.pt", copy.deepcopy(run.steps(3).gan())) for name in "dacb"]
    found = look_into(*sorted(files))
    assert found.exit_code == 0 and [each.name for each in found.contents] == ["d.pt", "a.pt", "c.pt", "b.pt"]


# ---- faulty

def test_the_best_is_a_reference_to_the_last(put):
    run, best = Run(), None
    best = (run.steps(20).g.state_dict(), run.step_)
    last = put("last.pt", {"model": run.steps(40).g.state_dict(), "step": 60})
    best = put("best.pt", {"model": best[0], "step": best[1], "loss": 0.1})
    found = look_into(last, best)
    assert causes(last, best) == ["checkpoint is not what was saved"]
    assert found.findings[0].subject == "best.pt holds the weights of last.pt"


@pytest.mark.parametrize("step, said", [(60, "the same checkpoint twice"), (61, "two ways to count")])
def test_a_copy_is_a_note(step, said, put):
    run = Run().steps(60)
    found = look_into(put("best.pt", run.gan()), put("last.pt", run.gan(step=step)))
    assert found.findings == () and said in " ".join(found.notes)


def test_files_named_by_steps_that_are_one(put):
    run = Run().steps(3)
    named = [put(f"ckpt_{n}.pth", run.g.state_dict()) for n in (100, 200)]
    assert causes(*named) == ["checkpoint is not what was saved"]
    assert causes(*[put(f"seed_{n}.pth", run.g.state_dict()) for n in (100, 200)]) == []


@pytest.mark.parametrize("resumed", [300, 200, 400])
def test_a_new_optimiser_and_schedule_after_a_resume(resumed, put):
    run = Run().steps(300)
    first = put("a.pt", copy.deepcopy(run.gan()))
    run.optimisers()
    found = look_into(first, put("b.pt", run.steps(resumed).gan()))
    assert {"optimiser state not restored", "schedule restarts on resume"} == {each.cause for each in found.findings}


def test_only_networks_were_saved_before_a_resume(put):
    run = Run().steps(30)
    first = put("a.pt", {"G": copy.deepcopy(run.g.state_dict()), "step": 30})
    run.optimisers()
    second = put("b.pt", {"G": run.steps(20).g.state_dict(), "opt": run.g_opt.state_dict(), "step": 50})
    assert causes(first, second) == ["optimiser state not restored"]
    assert "begins with a new optimiser" in str(look_into(first)) and look_into(first).exit_code == 0


def test_a_new_phase_may_have_a_new_optimiser(put):
    run = Run().steps(30)
    first = put("a.pt", copy.deepcopy(run.gan(phase="autoencoder")))
    run.optimisers()
    found = look_into(first, put("b.pt", run.steps(30).gan(phase="adversarial")))
    assert [each.cause for each in found.findings] == ["optimiser replaced"] and found.exit_code == 0


def test_an_optimiser_made_anew_in_every_epoch(put):
    files, run = [], Run()
    for epoch in (4, 5, 6):
        run.optimisers()
        files.append(put(f"{epoch}.pt", copy.deepcopy({"model": run.steps(10).g.state_dict(), "epoch": epoch,
                                                       "optimizer": run.g_opt.state_dict()})))
    assert set(causes(*files)) == {"optimiser state lost"}


FAULTS = {
    "averaged buffers not updated": lambda run: {**run.gan(), "G_ema": run.ema.state_dict()},
    "averaged weights not updated": lambda run: {**run.gan(), "G_ema": run.g.state_dict()},
    "non-finite values": lambda run: run.gan(D={"weight": torch.tensor([[1.0, math.nan]]), "bias": torch.ones(1)}),
}


@pytest.mark.parametrize("cause", FAULTS)
def test_one_file_is_enough(cause, put):
    run = Run().steps(5, buffers=cause != "averaged buffers not updated")
    assert causes(put("a.pt", FAULTS[cause](run))) == [cause]


def test_an_average_in_a_lightning_state_dict_without_buffers(put):
    assert causes(put("a.ckpt", Run().steps(5, buffers=False).lightning())) == ["averaged buffers not updated"]


def test_an_average_that_stands_still(put):
    run = Run().steps(5)
    first = put("a.pt", copy.deepcopy(run.gan()))
    assert causes(first, put("b.pt", run.steps(5, average=False).gan())) == ["averaged weights not updated"]


def test_a_network_that_its_optimiser_does_not_move(put):
    run = Run().steps(5)
    first = put("a.pt", copy.deepcopy(run.gan()))
    stuck = copy.deepcopy(run.g.state_dict())
    later = run.steps(5).gan()
    saved = torch.load(first)
    still = {**later, "G": stuck, "G_ema": saved["G_ema"]}
    assert causes(first, put("b.pt", still)) == ["parameters do not change"]
    frozen = {**still, "g_opt": saved["g_opt"]}
    assert causes(first, put("c.pt", frozen)) == []


def test_random_states_that_are_equal(put):
    run, state = Run(), torch.get_rng_state()
    pair = [put(f"{step}.pt", {**copy.deepcopy(run.steps(5).gan()), "rng": state}) for step in (5, 10)]
    assert causes(*pair) == ["random draws repeat after resume"]


# ---- what is no checkpoint

def test_what_cannot_be_read_is_one_line(tmp_path, put, capsys):
    good = put("good.pt", Run().gan())
    broken = {"cut.pt": good.read_bytes()[:2000], "empty.ckpt": b"", "page.pt": b"<!doctype html>",
              "a.bin": b"no\nthing", "pickle.pkl": pickle.dumps({"a": Code()}), "noise.pt": bytes(range(256)),
              "lfs.safetensors": b"version https://git-lfs.github.com/spec/v1\n",
              "cut.safetensors": (9).to_bytes(8, "little") + b"{\"a\":"}
    for name, content in broken.items(): (tmp_path/name).write_bytes(content)
    put("hostile.pth", {"w": Code()})
    torch.save({"w": Code()}, tmp_path/"old.pt", _use_new_zipfile_serialization=False)
    np.savez(tmp_path/"objects.npz", a=np.array([{}], dtype=object))
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path/"script.pt")
    torch.save(nn.Linear(2, 2), tmp_path/"module.pt")
    found = look_into(*[file for file in sorted(tmp_path.iterdir()) if file != good])
    assert found.exit_code == 3 and len(found.unread) == len(broken) + 5
    said = {Path(name).name: why for name, why in found.unread.items()}
    assert all("\n" not in why for why in said.values()) and "executed" not in capsys.readouterr().out
    for name in ("hostile.pth", "old.pt", "pickle.pkl"):
        assert "would run code: holds builtins.print" in said[name], said
    assert "torch.nn.modules.linear.Linear" in said["module.pt"] and "TorchScript" in said["script.pt"]
    assert "truncated" in said["cut.pt"] and "git lfs pull" in said["lfs.safetensors"] and "text" in said["a.bin"]


def test_old_files_of_torch_and_arrays_are_read(tmp_path):
    run = Run().steps(3)
    torch.save(run.gan(), tmp_path/"old.pt", _use_new_zipfile_serialization=False)
    np.savez(tmp_path/"arrays.npz", **{key: each.numpy() for key, each in run.g.state_dict().items()})
    found = look_into(tmp_path/"old.pt", tmp_path/"arrays.npz", network=run.g)
    assert not found.unread and all(match.fits for match in found.matches) and "same weights twice" in found.notes[0]


def test_a_file_without_a_network_is_not_looked_at(put):
    assert look_into(put("a.pt", {"step": 3})).exit_code == 3
    assert "NOT LOOKED AT" in str(look_into(put("a.pt", {"step": 3})))


# ---- the command

def test_the_command_and_its_exit_codes(put, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = Run().steps(20)
    put("a.pt", copy.deepcopy(run.gan())), put("b.pt", {**run.steps(5).gan(), "G": {
        f"module.{key}": each for key, each in run.g.state_dict().items()}})
    Path("mine.py").write_text("from torch import nn\ndef make():\n    return nn.Sequential(nn.Linear(3, 4), "
                               "nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))\nwider = nn.Linear(5, 5)\n")
    assert commands.diagnose(["a.pt", "b.pt", "--network", "mine.py:make", "--out", "out"]) == 0
    told = capsys.readouterr().out
    assert "nothing was found in 2 checkpoint(s)" in told and "after 'module.' is taken off" in told
    assert json.loads(Path("out/findings.json").read_text())["findings"] == []
    assert commands.diagnose(["a.pt", "--network", "mine.py:wider"]) == 1
    assert commands.diagnose(["a.pt", "--network", "mine.py:maker"]) == 2
    assert "did you mean 'make'" in capsys.readouterr().err
    Path("empty.pt").touch()
    assert commands.diagnose(["a.pt", "empty.pt"]) == 3
    assert commands.diagnose(["a.pt", "nowhere.pt"]) == 2


def test_an_average_beside_its_online_network_in_one_state_dict(put):
    run = Run().steps(5)
    def beside(average):
        return {"step": 5, "model": run.g.state_dict(), "ema": {
            **{f"online_model.{key}": each for key, each in run.g.state_dict().items()},
            **{f"ema_model.{key}": each for key, each in average.state_dict().items()}, "initted": torch.tensor(True),
            "step": torch.tensor(5)}}
    assert causes(put("a.pt", beside(run.ema))) == []
    assert causes(put("b.pt", beside(run.g))) == ["averaged weights not updated"]


def test_two_runs_of_equal_length_are_no_resume(put):
    found = look_into(*[put(f"seed{seed}.pt", Run(seed).steps(5).gan()) for seed in (0, 1)])
    assert found.findings == () and found.exit_code == 0
