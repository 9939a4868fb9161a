"""A headless Chromium spoken to over its own pipe (DevTools protocol), with nothing but the standard library:
what a page fetched, said and shows

No name resolves in it, so a page that needs anything from outside shows it here; pages on loopback open.
Tests that take the fixture `browser` are skipped where no Chromium is installed.
"""
import base64, json, os, select, shutil, signal, subprocess, time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
         "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--remote-debugging-pipe"]
PATIENCE = 60   # seconds for any answer, on a busy machine


class Refused(AssertionError):
    "Chromium could not do what it was asked, for one because the page was just being left"


@dataclass
class Visit:
    "What happened while a page was opened"
    requests: list[str] = field(default_factory=list)   # addresses the browser asked for, but for data: ones
    failed: list[str] = field(default_factory=list)     # what it asked for and did not get
    errors: list[str] = field(default_factory=list)     # what its console said in red
    links: list[str] = field(default_factory=list)      # where its links lead, in full
    broken: list[str] = field(default_factory=list)     # images that did not come out
    undescribed: list[str] = field(default_factory=list)   # images without a word on what they show
    ids: list[str] = field(default_factory=list)        # what links into the page may name
    sliders: int = 0                                    # how many it has
    overflow: int = 0                                   # pixels by which it is wider than the window
    text: str = ""


SHOWN = """({links: [...document.querySelectorAll('a[href]')].map(a => a.href),
    ids: [...document.querySelectorAll('[id]')].map(e => e.id),
    text: document.body.innerText, sliders: document.querySelectorAll('input[type=range]').length,
    broken: [...document.images].filter(i => !(i.complete && i.naturalWidth)).map(i => i.src.slice(0, 80)),
    undescribed: [...document.images].filter(i => !i.alt || i.alt.endsWith('.png')).map(i => i.src.slice(0, 80)),
    overflow: document.documentElement.scrollWidth - innerWidth})"""


class Browser:
    "One process, one tab"
    def __init__(self, program: str, folder: Path):
        (theirs_in, self.to), (self.out, theirs_out) = os.pipe(), os.pipe()
        # clear of 3 and 4, which Chromium reads and writes
        high = [os.dup2(end, end + 100) for end in (theirs_in, theirs_out)]
        def connect(): os.dup2(high[0], 3); os.dup2(high[1], 4)
        self.process = subprocess.Popen([program, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
                                        preexec_fn=connect, pass_fds=(3, 4), stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        for end in (theirs_in, theirs_out, *high): os.close(end)
        self.asked, self.buffer, self.events, self.session = 0, b"", [], None
        [page] = [target for target in self.ask("Target.getTargets")["targetInfos"] if target["type"] == "page"]
        self.session = self.ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"): self.ask(f"{domain}.enable")
        self.ask("Emulation.setScrollbarsHidden", hidden=True)   # or a page becomes wider while it is photographed
        self.window(1200)

    def _receive(self) -> dict:
        limit = time.monotonic() + PATIENCE
        while b"\0" not in self.buffer:
            if not select.select([self.out], [], [], max(0, limit - time.monotonic()))[0]:
                raise TimeoutError(f"Chromium said nothing for {PATIENCE} s")
            if not (more := os.read(self.out, 1 << 16)): raise EOFError("Chromium ended")
            self.buffer += more
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def ask(self, method: str, **parameters) -> dict:
        self.asked += 1
        os.write(self.to, json.dumps({"id": self.asked, "method": method, "params": parameters}
                                     | ({"sessionId": self.session} if self.session else {})).encode() + b"\0")
        while (message := self._receive()).get("id") != self.asked: self.events.append(message)
        if "error" in message: raise Refused(message)
        return message["result"]

    def window(self, width: int):
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)

    def _go(self, address: str):
        self.events = []
        self.ask("Page.navigate", url=address)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def wait_for(self, script: str):
        """Wait until a line of JavaScript gives something true, on this page or on the one it is being left for,
        and give it"""
        limit = time.monotonic() + PATIENCE
        while True:
            try:
                if value := self.value(script): return value
                why = "nothing true yet"
            except Refused as refusal: why = refusal
            assert time.monotonic() < limit, f"not within {PATIENCE} s: {script}: {why}"
            time.sleep(0.05)

    def visit(self, page: str | Path) -> Visit:
        "Open a page and wait until it and all it asked for has come or failed"
        self._go("about:blank")   # what the page before this one still had to say
        self._go(page if isinstance(page, str) else page.resolve().as_uri())
        visit, addresses = Visit(**self.value(SHOWN)), {}
        for event in self.events:
            said = event.get("params", {})
            if event["method"] == "Network.requestWillBeSent":
                addresses[said["requestId"]] = said["request"]["url"]
                if not said["request"]["url"].startswith("data:"): visit.requests.append(said["request"]["url"])
            if event["method"] == "Network.loadingFailed":
                visit.failed.append(f"{addresses.get(said['requestId'])}: {said['errorText']}")
            if event["method"] == "Network.responseReceived" and said["response"]["status"] >= 400:
                visit.failed.append(f"{said['response']['url']}: {said['response']['status']}")
            if event["method"] == "Log.entryAdded" and said["entry"]["level"] == "error":
                visit.errors.append(said["entry"]["text"])
            if event["method"] == "Runtime.exceptionThrown": visit.errors.append(said["exceptionDetails"]["text"])
            if event["method"] == "Runtime.consoleAPICalled" and said["type"] == "error":
                visit.errors.append(str(said["args"]))
        return visit

    def value(self, expression: str):
        "What an expression of JavaScript is on the page that is open"
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str):
        "A key, on what has the focus"
        codes = {"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35}
        for kind in ("rawKeyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])

    def picture(self, selector: str) -> bytes:
        "PNG of the part of the page that an element takes"
        box = self.value(f"(({{x, y, width, height}}) => ({{x: x + scrollX, y: y + scrollY, width, height, scale: "
                         f"1}}))(document.querySelector({selector!r}).getBoundingClientRect())")
        return base64.b64decode(self.ask("Page.captureScreenshot", clip=box, captureBeyondViewport=True)["data"])

    def close(self):
        os.close(self.to); os.close(self.out)
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not program: pytest.skip("no chromium, chromium-browser or google-chrome is installed: pages are not opened")
    browser = Browser(program, tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()
