"""`make test`: the exported code belongs to its notebooks, the notebooks run, then pytest.
Stops at the first step that fails."""
import hashlib, os, subprocess, sys, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = Path(sys.executable).parent
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}


def fingerprints():
    "Path -> SHA-256 of every file that export, clean and readme may write"
    found = [*ROOT.glob("nbs/**/*"), *ROOT.glob("curriculum_gen/**/*.py"), ROOT/"README.md"]
    return {str(p.relative_to(ROOT)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found if p.is_file()
            and ".ipynb_checkpoints" not in p.parts}


def command(name, *arguments):
    "Run one of the environment's commands; a failure ends the check with its exit code"
    code = subprocess.run([str(COMMANDS/name), *arguments], cwd=ROOT, env=ONE_THREAD).returncode
    if code: sys.exit(code)


def no_difference():
    """Export, clean and readme change no file; it compares contents before and after, so uncommitted work does not
    matter"""
    before = fingerprints()
    command("nbdev-export"); command("nbdev-clean"); command("python", "tools/readme.py")
    after = fingerprints()
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if not changed: return
    print("These files were not what the notebooks give. They are now: look at the difference and commit it.", *changed,
          sep="\n  ")
    sys.exit(1)


def step(name, action, *arguments):
    print(f"\n== {name}", flush=True)
    started = time.monotonic()
    action(*arguments)
    print(f"== {name}: {time.monotonic() - started:.0f} s", flush=True)


step("export, clean and readme leave no difference", no_difference)
step("the notebooks run (nbdev-test)", command, "nbdev-test", "--n-workers", "2", "--timing")
print("\n== pytest", flush=True)
# last, and nothing after it: its closing line is the result
command("pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "--durations", "5")
