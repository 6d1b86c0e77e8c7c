"""A headless Chromium, driven through its DevTools protocol over a pipe: no driver, no port, no package.

https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# What a fresh profile would otherwise fetch or ask; a root user has no sandbox, and containers little shared memory.
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-sandbox",
)
PATIENCE_SECONDS = 90
INSTALL_SECONDS = 400


def find_chromium() -> str | None:
    """The program of a Chromium on this machine, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def install_chromium() -> str:
    """Install the system's Chromium where that needs nobody's leave; an empty text, or why it was not possible."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return "no Chromium on this machine; install one (apt-get install chromium)"
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        for words in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
            subprocess.run(
                ["apt-get", *words], env=environment, capture_output=True, check=True, timeout=INSTALL_SECONDS
            )
    except (subprocess.SubprocessError, OSError) as error:
        return f"no Chromium on this machine, and it could not be installed: {error}"
    return "" if find_chromium() else "apt-get installed no Chromium"


class Browser:
    """A running browser with one blank page; `events` are what it told since the page was opened."""

    def __init__(self, process: subprocess.Popen, send: int, receive: int):
        self.process, self.send, self.receive = process, send, receive
        self.events: list[dict[str, Any]] = []
        self.session: str | None = None
        self.last_id, self.buffer = 0, b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask for something and return the answer; raises RuntimeError for a refusal."""
        self.last_id += 1
        message = {"id": self.last_id, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.send, json.dumps(message).encode() + b"\0")
        while (answer := self.read()).get("id") != self.last_id:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def read(self) -> dict[str, Any]:
        """The next message; raises RuntimeError where none comes."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while b"\0" not in self.buffer:
            if not select.select([self.receive], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise RuntimeError(f"the browser said nothing for {PATIENCE_SECONDS} s")
            if not (part := os.read(self.receive, 1 << 20)):
                raise RuntimeError("the browser ended")
            self.buffer += part
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def wait_for(self, method: str) -> None:
        """Wait until the browser tells an event."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self.read())

    def open(self, path: Path, width: int = 1280, height: int = 900, *, dark: bool = False) -> None:
        """Open a file at a width in CSS pixels, and forget what was told before."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait_for("Page.loadEventFired")

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page; raises RuntimeError where it throws."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description", script))
        return answer["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key."""
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def requests(self) -> list[str]:
        """The addresses that were asked for since the page was opened, but for the page's own and data in it."""
        asked = [event["params"] for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        urls = [one["request"]["url"] for one in asked if one["request"]["url"] != one["documentURL"]]
        return [url for url in urls if not url.startswith("data:")]

    def complaints(self) -> list[str]:
        """Everything that was written to the console, logged, or thrown since the page was opened."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event["params"])[:600] for event in self.events if event.get("method") in kinds]

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Save what the window, or the whole page, shows as a PNG."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self) -> bytes:
        """The page printed on A4."""
        answer = self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=False)
        return base64.b64decode(answer["data"])


@contextlib.contextmanager
def running_browser(program: str, profile: Path) -> Iterator[Browser]:
    """Start a browser with a profile of its own, and end it."""
    receive_there, send = os.pipe()
    receive, send_there = os.pipe()

    def hand_over() -> None:
        # The protocol is spoken on the descriptors 3 (to the browser) and 4 (from it).
        there, back = os.dup(receive_there), os.dup(send_there)
        os.dup2(there, 3)
        os.dup2(back, 4)

    command = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(
        command, preexec_fn=hand_over, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(receive_there)
    os.close(send_there)
    try:
        yield Browser(process, send, receive)
    finally:
        process.terminate()
        process.wait(timeout=30)
        os.close(send)
        os.close(receive)


# What every report must keep to, at the width of a phone, a tablet and a screen, on light pages and on dark ones.
LOOKS = ((360, False), (800, False), (1440, False), (360, True))
BROKEN_LINKS = (
    "[...document.links].map((a) => a.hash).filter((hash) => hash && !document.getElementById(hash.slice(1)))"
)
UNSEEN_FIGURES = """
[...document.querySelectorAll("figure > svg")].filter((svg) => {
  const box = svg.getBoundingClientRect();
  return box.width < 200 || box.height < 60 || !svg.querySelector("path, rect") || !svg.ariaLabel;
}).map((svg) => svg.closest("section").id)
"""


def check_page(browser: Browser, path: Path) -> list[str]:
    """Open a report at every width; what is wrong with it, in words."""
    wrong = []
    for width, dark in LOOKS:
        browser.open(path, width, dark=dark)
        wide = browser.evaluate("document.documentElement.scrollWidth")
        found = {
            "asks for": browser.requests(),
            "complains": browser.complaints(),
            "leads nowhere": browser.evaluate(BROKEN_LINKS),
            "hides a figure of": browser.evaluate(UNSEEN_FIGURES),
            "is as wide as": [f"{wide} px"] if wide > width else [],
        }
        wrong += [f"at {width} px it {what} {one}" for what, ones in found.items() for one in ones]
    return wrong
