"""Make the environment that everything runs in: `make environment`, or `python3.11 tools/environment.py`.

It has two parts. The base holds the pinned packages of constraints.txt and is shared by all clones: it is made once for
each content of constraints.txt, Python release and build of torch. That is the registry's build (CUDA on Linux, about
6 GB), or with TORCH=cpu PyTorch's build for processors (about 1.6 GB), which is also taken where no GPU is seen and the
pinned release can be had as such a build. A clone's `.venv` is thin:
it sees the base's packages and holds the clone's own package and commands,
so two clones never run each other's code. Both are stamped when they are complete;
without the stamp they are made anew.

Standard library only: this is the one program that runs before anything is installed.
"""
import sys

if sys.version_info < (3, 11):
    sys.stderr.write("environment: Python 3.11 or newer is needed, this is %d.%d: "
                     "name another with `make PYTHON=/path/to/python3.11`\n" % sys.version_info[:2])
    sys.exit(2)

import contextlib, fcntl, hashlib, json, os, platform, re, shutil, subprocess, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT/"constraints.txt"
SITE_PACKAGES = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
GIGABYTES = {"cuda": (8, 6), "cpu": (3, 1.6)}   # needed while it is made, taken in the end
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
ASK = "--retries", "0", "--timeout", "5", "--extra-index-url", CPU_INDEX
NO_NETWORK = ("NewConnectionError|Connection refused|name resolution|Name or service not known|timed out|Network is "
              "unreachable|ProxyError|SSLError")
COMMAND = """#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
import sys
from importlib.metadata import EntryPoint
if __name__ == "__main__":   # multiprocessing imports this file once more in its children
    sys.exit(EntryPoint({name!r}, {value!r}, "console_scripts").load()())
"""


class Problem(Exception):
    "Something the person can mend, in one line"


def say(text): print(f"environment: {text}", flush=True)


def shared_folder():
    "Where the bases lie: CURRICULUM_GEN_ENVIRONMENTS, in CURRICULUM_GEN_CACHE, or in the user's cache folder"
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home()/".cache"
    own = os.environ.get("CURRICULUM_GEN_CACHE")
    return Path(os.environ.get("CURRICULUM_GEN_ENVIRONMENTS") or (own and Path(own)/"environments")
                or Path(cache)/"curriculum_gen"/"environments").expanduser().absolute()


def digest(*parts): return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def pins_of(constraints, build):
    "The pins, one a line, those of torch and torchvision for a build; comments do not count"
    pins = [line for line in constraints.read_text().splitlines() if line and not line.startswith("#")]
    return pins if build == "cuda" else [re.sub(r"^((?:torch|torchvision)==[\d.]+)$", r"\1+cpu", pin) for pin in pins]


def base_key(constraints, build="cuda"):
    "Changes when the pins, the build or the Python release change"
    return digest(pins_of(constraints, build), platform.python_version(), sys.platform, platform.machine())


def sees_a_gpu():
    "Whether this machine has one that torch could use; macOS has one build, which serves both"
    return sys.platform != "linux" or os.path.exists("/dev/nvidiactl") or shutil.which("nvidia-smi") is not None


def has_cpu_build(constraints):
    "Whether pip finds the pinned torch and torchvision as builds for processors, in PyTorch's index or at hand"
    wanted = [pin for pin in pins_of(constraints, "cpu") if pin.endswith("+cpu")]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet",
               "--disable-pip-version-check", *ASK, *wanted]
    return bool(wanted) and subprocess.run(command, capture_output=True).returncode == 0


def chosen_build(shared, constraints):
    "cpu or cuda: what TORCH says, else what is there, else cpu where no GPU is seen and such a build can be had"
    asked = os.environ.get("TORCH", "")
    if asked not in ("", "cpu", "cuda"): raise Problem(f"TORCH is {asked!r}: give cpu, cuda, or nothing")
    if asked == "cuda" or not asked and sees_a_gpu(): return "cuda"
    there = [build for build in ("cpu", "cuda") if is_complete(shared/base_key(constraints, build),
                                                               base_key(constraints, build))]
    if there and (not asked or "cpu" in there): return there[0]
    if has_cpu_build(constraints): return "cpu"
    say("the pinned torch cannot be had as a build for processors: taking the registry's, which computes the same")
    return "cuda"


def is_complete(folder, key):
    "Whether the stamp is there and the interpreter it was made with still is"
    stamp = folder/"complete"
    return stamp.exists() and stamp.read_text() == key and (folder/"bin"/"python").exists()


def stamp(folder, key):
    (folder/"complete.partial").write_text(key)
    os.replace(folder/"complete.partial", folder/"complete")


@contextlib.contextmanager
def locked(path):
    """One make at a time; the others wait. The lock is inherited by the steps, so it ends when the last of them has
    ended, however that came about"""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        os.set_inheritable(file.fileno(), True)
        try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another make is preparing it: waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(command, log, **variables):
    "Run a step that writes to `log`; tells every 20 seconds that it is alive"
    started = time.monotonic()
    with open(log, "w") as file:
        process = subprocess.Popen([str(c) for c in command], close_fds=False, stdin=subprocess.DEVNULL,
                                   stdout=file, stderr=file, env={**os.environ, **variables})
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired): process.wait(timeout=20)
                if process.returncode is None: say(f"  {time.monotonic() - started:.0f} s so far")
        except BaseException:
            process.terminate(); process.wait(); raise
    if process.returncode: raise Problem(reason(log))


def reason(log):
    "Why a step failed, from what it wrote"
    text = log.read_text(errors="replace")
    if "No space left" in text:
        return (f"the disk is full: {GIGABYTES['cuda'][0]} GB are needed in {log.parent}, or "
                f"{GIGABYTES['cpu'][0]} with TORCH=cpu; or name another folder with CURRICULUM_GEN_ENVIRONMENTS")
    if re.search(NO_NETWORK, text):
        return ("the package registry does not answer: check the network (or the proxy, "
                "or pip's index-url) and start the same command again")
    errors = [line for line in text.splitlines() if line.strip()
              and not line.startswith(("WARNING", "[notice]", "    "))]
    return f"{errors[-1].strip() if errors else 'a step failed without a word'} (all of it: {log})"


def check_ground(folder, gigabytes):
    "Refuse early what would fail after minutes"
    if subprocess.run([sys.executable, "-c", "import ensurepip, venv"], capture_output=True).returncode:
        raise Problem(f"{sys.executable} cannot make virtual environments: install its venv module (Debian, Ubuntu: "
                      "apt-get install python3-venv)")
    free = shutil.disk_usage(folder).free/1e9
    if free < gigabytes:
        raise Problem(f"{folder} has {free:.1f} GB free and {gigabytes} are needed: free some space, "
                      "or name another folder with CURRICULUM_GEN_ENVIRONMENTS")


def make_base(folder, constraints, build="cuda"):
    "The pinned packages, installed into `folder`; nothing to do when they are"
    key = folder.name
    if is_complete(folder, key): return
    if folder.exists():
        say("an earlier attempt was broken off: starting over")
        shutil.rmtree(folder)
    pins, (needed, taken) = pins_of(constraints, build), GIGABYTES[build]
    check_ground(folder.parent, needed)
    say(f"installing {len(pins)} pinned packages and the libraries they bring into {folder} (once, for all clones: "
        f"about {taken} GB, 2-3 minutes)")
    started = time.monotonic()
    log = folder.parent/f"{key}.log"
    run([sys.executable, "-m", "venv", folder], log)
    (folder/"downloads").mkdir()
    (folder/"pins.txt").write_text("\n".join(pins))
    run([folder/"bin"/"python", "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off",
         *(ASK[4:] if build == "cpu" else ()), "-r", folder/"pins.txt"], log, TMPDIR=str(folder/"downloads"))
    shutil.rmtree(folder/"downloads")
    stamp(folder, key)
    say(f"installed in {time.monotonic() - started:.0f} s")


def clone_key(base):
    "Changes with everything an installed clone depends on"
    files = "settings.ini", "setup.py", "pyproject.toml", "curriculum_gen/__init__.py", "tools/environment.py"
    return digest(str(base), str(ROOT), [(ROOT/file).read_text() for file in files])


def make_clone(folder, base):
    "The clone's own environment on top of the base"
    key = clone_key(base)
    if is_complete(folder, key): return
    link = folder/SITE_PACKAGES/"shared_environment.pth"
    if folder.exists():
        if not (folder/"complete").exists() and not link.exists() and any(folder.iterdir()):
            raise Problem(f"{folder} was not made by this project: rename or delete it")
        shutil.rmtree(folder)
    say(f"linking this clone's package and commands into {folder.name} (about 5 seconds)")
    link.parent.mkdir(parents=True)
    link.write_text(f"{base/SITE_PACKAGES}\n")
    log = base.parent/f"{base.name}-clone.log"
    run([base/"bin"/"python", "-m", "venv", "--without-pip", "--prompt", "curriculum_gen", folder], log)
    shutil.copytree(base/"share"/"jupyter", folder/"share"/"jupyter")
    copy_commands(folder, base)
    pip = [base/"bin"/"python", "-m", "pip", "--python", folder/"bin"/"python", "--disable-pip-version-check"]
    run([*pip, "install", "--no-deps", "--no-build-isolation", "-e", ROOT], log)
    try: run([*pip, "check"], log)
    except Problem as problem: raise Problem(f"settings.ini and constraints.txt disagree: {problem}") from None
    stamp(folder, key)


def copy_commands(folder, base):
    "The base's commands (pytest, nbdev-export, jupyter ...) once more, run by the clone's interpreter"
    names = ("import importlib.metadata as m, json; print(json.dumps([(e.name, "
             "e.value) for e in m.entry_points(group='console_scripts')]))")
    found = json.loads(subprocess.run([base/"bin"/"python", "-c", names], capture_output=True, text=True,
                                      check=True).stdout)
    for name, value in found:
        path = folder/"bin"/name
        path.write_text(COMMAND.format(python=folder/"bin"/"python", name=name, value=value))
        path.chmod(0o755)


def main():
    shared = shared_folder()
    try:
        base = shared/base_key(CONSTRAINTS, build := chosen_build(shared, CONSTRAINTS))
        with locked(shared/f"{base.name}.lock"):
            make_base(base, CONSTRAINTS, build)
            make_clone(ROOT/".venv", base)
    except Problem as problem: return f"environment: {problem}"
    except OSError as error:
        return (f"environment: {error.filename or shared}: {error.strerror}; "
                "another folder can be named with CURRICULUM_GEN_ENVIRONMENTS")
    except KeyboardInterrupt: return "environment: broken off; the next make starts over"


if __name__ == "__main__":
    message = main()
    if message: print(message, file=sys.stderr)
    sys.exit(2 if message else 0)
