"""A headless Chromium, driven through a pipe by its remote debugging protocol: no port, and nothing but a process."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NEEDED = "the report is looked at in Chromium: apt-get install --no-install-recommends chromium"

_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-proxy-server",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class Browser:
    """The running browser.

    :param folder: an empty one, for what it keeps
    """

    def __init__(self, folder: Path) -> None:
        path = shutil.which("chromium")
        assert path, NEEDED
        # It reads its commands from descriptor 3, and answers on 4.
        theirs_in, self._out = _pipe()
        self._in, theirs_out = _pipe()
        self._process = subprocess.Popen(
            [
                "bash",
                "-c",
                f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}',
                "bash",
                path,
                *_OPTIONS,
                f"--user-data-dir={folder}",
            ],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._number = 0
        self._read = b""
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        self.call("Browser.close", session=False)
        os.close(self._out)
        self._process.wait(30)
        os.close(self._in)

    def call(self, method: str, *, session: bool = True, **params: Any) -> dict[str, Any]:
        """What the browser answers to *method*; `events` has what it tells meanwhile."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session and self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            data = os.read(self._in, 1 << 20)
            assert data, f"chromium has ended, with status {self._process.wait()}"
            self._read += data
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)

    @contextmanager
    def page(self, path: Path, *, width: int, height: int, dark: bool = False) -> Iterator[Page]:
        """The page in the file at *path*, when all of it is there."""
        self.events.clear()
        target = self.call("Target.createTarget", session=False, url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", session=False, targetId=target, flatten=True)["sessionId"]
        try:
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
            self.call(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=height,
                deviceScaleFactor=1,
                mobile=width < 600,
            )
            scheme = "dark" if dark else "light"
            self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            self.call("Page.navigate", url=path.as_uri())
            while not any(event["method"] == "Page.loadEventFired" for event in self.events):
                self.events.append(self._next())
            yield Page(self)
        finally:
            self.call("Target.closeTarget", session=False, targetId=target)
            self._session = None


class Page:
    """The page that a `Browser` shows."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    def evaluate(self, expression: str) -> Any:
        """The value of *expression* in it, which may be what JSON has."""
        answer = self._browser.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def complaints(self) -> list[dict[str, Any]]:
        """What is in the console, and exceptions."""
        self.evaluate("0")  # what was told before that is told
        told = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [event for event in self._browser.events if event["method"] in told]

    def requests(self) -> list[str]:
        """What it has loaded, or tried to."""
        sent = (event for event in self._browser.events if event["method"] == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in sent]

    def read_aloud(self) -> list[tuple[str, str]]:
        """The roles and names of all that a screen reader is told of."""
        nodes = self._browser.call("Accessibility.getFullAXTree")["nodes"]
        return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]

    def screenshot(self, path: Path) -> None:
        """Write a picture of all of it, however long it is."""
        height = self.evaluate("document.documentElement.scrollHeight")
        width = self.evaluate("window.innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        picture = self._browser.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(picture))


def _pipe() -> tuple[int, int]:
    """A pipe whose descriptors are none of those that the browser is given."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved[0], moved[1]
