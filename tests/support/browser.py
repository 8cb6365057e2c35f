"""A real Chromium, without a window, driven over its debugging port.

https://chromedevtools.github.io/devtools-protocol/ and RFC 6455, of which this is as much as the
tests need.
"""

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from support.process import until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which(
    "google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--hide-scrollbars", "--remote-debugging-port=0"]


class Browser:
    """A Chromium with a profile of its own in a new folder."""

    def __init__(self, folder):
        profile = Path(folder)
        self.process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._tabs = []
        try:
            said = profile / "DevToolsActivePort"
            self._port = until(lambda: said.exists() and said.read_text().split("\n")[0],
                               "the browser's debugging port", 60)
        except BaseException:
            self.close()
            raise

    def open(self, url, **options):
        """A new tab with the page at URL; OPTIONS as for Tab."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/json/new?about:blank",
                                         method="PUT")
        with urllib.request.urlopen(request, timeout=20) as answer:
            found = json.load(answer)
        tab = Tab(found["webSocketDebuggerUrl"], **options)
        self._tabs.append(tab)
        tab.call("Page.navigate", url=url)
        return tab

    def close(self):
        for tab in self._tabs:
            tab.socket.close()
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Tab:
    """One tab, and what has gone wrong in it so far."""

    def __init__(self, address, width=1200, height=900, dark=False, still=False, password=None):
        """DARK: the user prefers dark colours; STILL: reduced motion. PASSWORD answers Basic."""
        self.password, self.number = password, 0
        self.requests = []  # URLs
        self.complaints = []  # console errors, exceptions, what the policy has blocked
        host, _, path = address.partition("//")[2].partition("/")
        name, _, port = host.partition(":")
        self.socket = socket.create_connection((name, int(port)), 30)
        self._stream = self.socket.makefile("rb")
        self.socket.sendall(
            f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n\r\n".encode())
        while self._stream.readline().strip():
            pass
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(domain + ".enable")
        if password is not None:
            self.call("Fetch.enable", handleAuthRequests=True)
        self.resize(width, height)
        self.call("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"}])

    def resize(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)

    def evaluate(self, expression):
        """The value of a JavaScript expression in the page; that of its promise, if it is one."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True,
                         awaitPromise=True)
        if "exceptionDetails" in done:
            pytest.fail(f"{expression}: {done['exceptionDetails']}")
        return done["result"].get("value")

    def text(self, selector="body"):
        """What a person can read in an element."""
        return self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def until(self, condition, seconds=30):
        """The first true value of CONDITION(), which is given the page's text."""
        return until(lambda: time.sleep(0.05) or condition(self.text()), self.text, seconds)

    def press(self, key):
        """Press and release a KEY: a character, or Tab."""
        named = {"Tab": {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9}}
        self.call("Input.dispatchKeyEvent", type="keyDown", **named.get(key, {"text": key}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **named.get(key, {}))

    def picture(self):
        """The whole page as a PNG."""
        height = self.evaluate("Math.ceil(document.documentElement.scrollHeight)")
        width = self.evaluate("window.innerWidth")
        done = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip={
            "x": 0, "y": 0, "width": width, "height": height, "scale": 1})
        return base64.b64decode(done["data"])

    # -- the protocol

    def call(self, method, **parameters):
        """The result of a method, once it is there; events that come before it are noted."""
        number = self._send(method, parameters)
        while True:
            message = self._receive()
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self._note(message.get("method"), message.get("params", {}))

    def _send(self, method, parameters):
        self.number += 1
        data = json.dumps({"id": self.number, "method": method, "params": parameters}).encode()
        mask = b"\0\0\0\0"  # there must be one; this one changes nothing
        size = (bytes([0x80 | len(data)]) if len(data) < 126
                else b"\xfe" + len(data).to_bytes(2, "big"))
        self.socket.sendall(b"\x81" + size + mask + data)
        return self.number

    def _receive(self):
        _, size = self._stream.read(2)
        if size >= 126:
            size = int.from_bytes(self._stream.read(2 if size == 126 else 8), "big")
        return json.loads(self._stream.read(size))

    def _note(self, event, details):
        if event == "Network.requestWillBeSent":
            self.requests.append(details["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(str(details["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and details["type"] in ("error", "warning"):
            self.complaints.append(str(details["args"]))
        elif event == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
            self.complaints.append(details["entry"]["text"])
        elif event == "Page.javascriptDialogOpening":
            self.complaints.append("a dialog: " + details["message"])
        elif event == "Fetch.requestPaused":
            self._send("Fetch.continueRequest", {"requestId": details["requestId"]})
        elif event == "Fetch.authRequired":
            self._send("Fetch.continueWithAuth", {
                "requestId": details["requestId"], "authChallengeResponse": {
                    "response": "ProvideCredentials", "username": "me",
                    "password": self.password}})
