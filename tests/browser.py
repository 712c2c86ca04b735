"""A headless Chromium, driven over its DevTools pipe: no driver package, no port, no network."""

import base64
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

AXE = Path(__file__).parents[1] / "node_modules" / "axe-core" / "axe.min.js"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Chromium reads commands from descriptor 3 and writes to 4.
_LAUNCH = (
    "import fcntl, os, sys; r, w = (fcntl.fcntl(int(n), fcntl.F_DUPFD, 5) for n in sys.argv[1:3]); "
    "os.dup2(r, 3); os.dup2(w, 4); os.execv(sys.argv[3], sys.argv[3:])"
)
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Escape": 27}


class Browser:
    """One page; `dialogs` it opened, `requests` it made, and `problems` it complained of are noted down."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = os.fdopen(commands, "wb", buffering=0)
        self._answers = os.fdopen(answers, "rb")
        self._inbox: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._serial = 0
        self._session = ""
        self.dialogs: list[str] = []
        self.requests: list[str] = []
        self.problems: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def _read(self) -> None:
        data = b""
        while chunk := self._answers.read1(1 << 16):
            *messages, data = (data + chunk).split(b"\0")
            for message in messages:
                self._inbox.put(json.loads(message))
        self._inbox.put(None)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer, taking note of events meanwhile."""
        self._serial += 1
        message: dict[str, Any] = {"id": self._serial, "method": method, "params": params}
        if self._session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        serial = self._serial  # noting an event may send another
        while True:
            answer = self._inbox.get(timeout=60)
            assert answer is not None, "Chromium has ended"
            if answer.get("id") == serial:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Page.javascriptDialogOpening":
            self.dialogs.append(params["message"])
            self._serial += 1
            message = {"id": self._serial, "method": "Page.handleJavaScriptDialog", "sessionId": self._session}
            self._commands.write(json.dumps(message | {"params": {"accept": True}}).encode() + b"\0")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.problems.append(params["entry"]["text"])

    def open(self, url: str, *, width: int = 1280, height: int = 860) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def reload(self) -> None:
        self.js("window.isOld = true")
        self.call("Page.reload")
        self.wait("!window.isOld && document.readyState === 'complete'")

    def js(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, expression: str, timeout_s: float = 30.0) -> None:
        end_s = time.monotonic() + timeout_s
        while not self.js(expression):
            assert time.monotonic() < end_s, f"{expression} did not come true"
            time.sleep(0.02)

    def press(self, key: str) -> None:
        code = KEYS.get(key, ord(key.upper()[0]))
        text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        about = {"key": key, "windowsVirtualKeyCode": code, "nativeVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **about, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """A real click of the mouse at the middle of an element."""
        box = self.js(
            f"(() => {{ const r = document.querySelector({json.dumps(selector)}).getBoundingClientRect(); "
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def prefer(self, scheme: str, *, touch: bool = False) -> None:
        """Be a device that prefers light or dark pages, of which the finger or a mouse is the pointer."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def download_to(self, folder: Path) -> None:
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder), eventsEnabled=True)


def serious(browser: Browser) -> list[str]:
    """What axe-core finds wrong with the page, serious or critical; without axe-core the test is skipped."""
    if not AXE.is_file():
        assert os.environ.get("CI") != "true", f"there is no {AXE}, which .ci/run installs"
        pytest.skip("no axe-core (npm install --no-save axe-core)")
    browser.js(f"{AXE.read_text()}; 0")
    found: list[dict[str, Any]] = browser.js("axe.run({preload: false}).then((found) => found.violations)")
    return [
        f"{one['id']}: {node['html'][:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A browser with a profile folder of its own; the test is skipped where there is none on the PATH."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no Chromium on the PATH (looked for {', '.join(NAMES)})")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    options += ["--disable-background-networking", "--disable-component-update", "--hide-scrollbars"]
    options += [f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    command = [sys.executable, "-c", _LAUNCH, str(theirs_in), str(theirs_out), program, *options]
    process = subprocess.Popen(
        command, pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(theirs_in)
    os.close(theirs_out)
    browser = Browser(ours_out, ours_in)
    try:
        yield browser
    finally:
        browser.call("Browser.close")
        process.wait(timeout=30)
        browser._commands.close()
        browser._answers.close()
