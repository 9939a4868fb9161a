"""What is written here rather than taken from a library gives what the library gives, where that is installed; and an
environment without torchvision, or with one that does not fit its torch, is enough"""
import subprocess, sys

import numpy as np, pytest, torch

from curriculum_gen.core.records import stream_seed
from curriculum_gen.evaluation.realism import NEIGHBOURS, blurred, kernel_distance, moved_image, neighbour_counts

# where nothing of torchvision or torch-fidelity can be imported, as if they were not installed or did not fit
WITHOUT = """import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torchvision", "torch_fidelity"): raise RuntimeError("operator does not exist")
sys.meta_path.insert(0, Missing())
"""


def library(name):
    "A module of a library, or a skipped test where it is missing or does not fit its torch"
    try: return __import__(name, fromlist=["it"])
    except (ImportError, RuntimeError) as error: pytest.skip(f"{name} cannot be imported here: {error}")


def features(seed, n=40, width=16): return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(5))
def test_the_kernel_distance_is_torch_fidelitys_to_the_last_bit(seed):
    theirs = library("torch_fidelity.metric_kid")
    real, generated = features(seed), 1.1*features(seed + 100) + 0.2
    found = theirs.kid_features_to_metric(real.double(), generated.double(), kid_subsets=1, kid_subset_size=len(real),
                                          verbose=False)
    assert kernel_distance(real, generated) == found[theirs.KEY_METRIC_KID_MEAN]


def test_the_kernel_distance_is_what_the_formula_says():
    "Written out over pairs, without a matrix"
    x, y = features(1, n=7).double().numpy(), features(2, n=7).double().numpy()
    def k(a, b): return (a @ b/16 + 1)**3
    pairs = [(i, j) for i in range(7) for j in range(7)]
    within = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in pairs if i != j)/42
    assert kernel_distance(features(1, n=7), features(2, n=7)) == pytest.approx(
        within - 2*sum(k(x[i], y[j]) for i, j in pairs)/49, abs=1e-12)


def test_precision_and_recall_are_torch_fidelitys():
    theirs = library("torch_fidelity.metric_prc")
    real, generated = features(3, n=200), 0.8*features(4, n=200)
    ours = neighbour_counts(real[None], generated[None])
    found = theirs.prc_features_to_metric(generated, real, prc_neighborhood=NEIGHBOURS, prc_batch_size=1000,
                                          save_cpu_ram=False, verbose=False)
    assert abs(found["precision"] - ours["precise"].item()/200) < 0.006
    assert abs(found["recall"] - ours["recalled"].item()/200) < 0.006


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 24)])
def test_a_moved_image_is_torchvisions_to_the_last_bit(shape):
    transforms = library("torchvision.transforms.functional")
    draws = np.random.default_rng(stream_seed(0, f"moved {shape}"))
    for _ in range(50):
        image = torch.from_numpy(draws.uniform(-1, 1, shape).astype(np.float32))
        degrees, scale, shift = draws.uniform(-10, 10), draws.uniform(0.9, 1.1), draws.integers(-2, 3, 2).tolist()
        theirs = transforms.affine(image, angle=degrees, translate=shift, scale=scale, shear=[0.0], fill=[-1.0],
                                   interpolation=transforms.InterpolationMode.BILINEAR)
        assert torch.equal(moved_image(image, degrees=degrees, shift=tuple(shift), scale=scale), theirs)


def test_a_blurred_image_is_torchvisions_to_the_last_bit():
    transforms = library("torchvision.transforms.functional")
    images = torch.rand(4, 3, 28, 28, generator=torch.Generator().manual_seed(5))*2 - 1
    assert torch.equal(blurred(images, pixels=0.8, reach=3), transforms.gaussian_blur(images, 7, 0.8))


def test_without_torchvision_every_module_can_be_imported(root):
    program = WITHOUT + """import importlib, pathlib
for path in sorted(pathlib.Path("curriculum_gen").rglob("*.py")):
    parts = path.with_suffix("").parts
    if parts[1] in ("integrations", "site") or "catalogues" in parts or "programs" in parts or "peers" in parts: continue
    importlib.import_module(".".join(parts).removesuffix(".__init__"))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_without_torchvision_its_mirrors_are_passed_over_in_a_line(root, tmp_path):
    program = WITHOUT + """from curriculum_gen.data.sources import idx_dataset
print(idx_dataset("mnist", sources=("mirrors", "embedded"), cache=sys.argv[1]).source.kind)"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path], cwd=root, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0 and done.stdout.strip() == "subset", done.stderr[-2000:]
    assert "mirrors passed over" in done.stderr and "torchvision" in done.stderr
