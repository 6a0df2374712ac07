"""A real Chromium, driven over its debugging pipe: what a person would see of a page, and what it asks for.

No driver and no port: messages are JSON, each ended by a zero byte, on descriptors 3 (in) and 4 (out).
"""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--hide-scrollbars",
)


@dataclass
class Page:
    """One tab; collects what went wrong and what was requested since it was opened."""

    send: Any
    session: str
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __call__(self, method: str, **parameters: object) -> dict[str, Any]:
        return self.send(method, parameters, self)

    def heard(self, message: dict[str, Any]) -> None:
        method, values = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(values["exceptionDetails"]["text"])
        elif method == "Log.entryAdded":
            self.complaints.append(values["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and values["type"] in {"error", "warning"}:
            self.complaints.append(str(values["args"]))

    def open(self, url: str, *, width: int, dark: bool = False) -> None:
        for domain in ("Page", "Network", "Runtime", "Log"):
            self(f"{domain}.enable")
        self(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        self("Page.navigate", url=url)
        self.evaluate(
            "new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', done))"
        )

    def evaluate(self, expression: str) -> Any:
        result = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return result["result"].get("value")

    def picture(self, path: Path, *, clip: dict[str, float] | None = None) -> None:
        more = {"clip": {**clip, "scale": 1}} if clip else {}
        taken = self("Page.captureScreenshot", format="png", captureBeyondViewport=True, **more)
        path.write_bytes(base64.b64decode(taken["data"]))


@contextmanager
def chromium(home: Path) -> Iterator[Page]:
    """Yield a blank page of a browser whose profile is under `home`."""
    assert CHROMIUM is not None, "chromium is missing: .ci/run installs it"
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    words = [CHROMIUM, *FLAGS, f"--user-data-dir={home}", "about:blank"]
    # The shell moves our ends of the pipes to the descriptors that Chromium listens on.
    moved = f'exec "$@" 3<&{to_read} 4>&{from_write}'
    process = subprocess.Popen(
        ["/bin/bash", "-c", moved, "bash", *words],
        pass_fds=(to_read, from_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(from_write)
    with os.fdopen(to_write, "wb", buffering=0) as talk, os.fdopen(from_read, "rb") as listen:
        try:
            yield _first_page(talk, listen)
        finally:
            talk.write(json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _first_page(talk: Any, listen: Any) -> Page:
    numbers = iter(range(1, 1_000_000))

    def send(method: str, parameters: dict[str, object], page: Page | None = None) -> dict[str, Any]:
        number = next(numbers)
        message = {"id": number, "method": method, "params": parameters}
        if page is not None:
            message["sessionId"] = page.session
        talk.write(json.dumps(message).encode() + b"\0")
        for answer in _messages(listen):
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            if page is not None:
                page.heard(answer)
        raise RuntimeError(f"{method}: the browser hung up")

    target = send("Target.createTarget", {"url": "about:blank"})["targetId"]
    session = send("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
    return Page(send, session)


def _messages(listen: Any) -> Iterator[dict[str, Any]]:
    text = bytearray()
    while byte := listen.read(1):
        if byte != b"\0":
            text += byte
            continue
        yield json.loads(text)
        text.clear()
