"""Start the real listener, talk to it as registries do, and read what it kept."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import LISTENER
from support.traffic import MEDIA_TYPE, envelope

CLOCK = r"\d\d:\d\d:\d\d"  # what each line on the console begins with
MIB = 1 << 20
RESERVED = []  # the sockets of free_port
PATIENCE = 60  # seconds that a busy machine may take for anything that a test waits for


def need(trouble, what):
    """Skip (in CI: fail) the running test for want of WHAT, where there is TROUBLE with it."""
    if trouble:
        (pytest.fail if os.environ.get("STS_CI") else pytest.skip)(f"needs {what}: {trouble}")


def until(condition, what="", seconds=PATIENCE):
    """The first true value that CONDITION() gives; fails and says WHAT, text or a function that
    returns it, when SECONDS pass without one."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds} s: {what() if callable(what) else what}")
        time.sleep(0.01)


class Listener:
    """The process `python listener.py OPTIONS` in a folder of its own, on a free port."""

    python = sys.executable
    program = [LISTENER]

    def __init__(self, folder, *options, env=(), start=True, **popen):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / "listener_log" / "log.log"
        self.registry_log = self.log.with_name("registry.log")
        self.options = [str(option) for option in options]
        # As at a user's: what the environment of the tests sets would hide faults.
        self.environment = {name: value for name, value in os.environ.items()
                            if name != "NO_COLOR" and not name.startswith("PYTHON")}
        self.environment.update({"PYTHONDONTWRITEBYTECODE": "1", **dict(env)})
        self.popen = popen
        self.port = self.syslog_port = self.process = None
        self.starts = 0
        if start:
            self.start()

    def start(self):
        """Start it, also again; returns when it says that it listens."""
        self.launch()
        try:
            line = until(self._ready, "the line that says where it listens")
        except BaseException:
            self.kill()
            raise
        self.port = int(re.search(r"://\S+:(\d+),", line)[1])
        udp = re.search(r"udp port (\d+)", line)
        self.syslog_port = int(udp[1]) if udp else None
        return self

    def launch(self):
        """Start it, and do not wait."""
        self.starts += 1
        options = self.options if "--port" in self.options else [*self.options, "--port", "0"]
        with open(self._file("stdout"), "wb") as out, open(self._file("stderr"), "wb") as err:
            self.process = subprocess.Popen(
                [self.python, *self.program, *options], cwd=self.folder, env=self.environment,
                **{"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, **self.popen})

    def _file(self, name):
        return self.folder / f"{name}.{self.starts}"

    def _ready(self):
        for line in self.out.splitlines():
            if "listening on" in line:
                return line
        if self.process.poll() is not None:
            raise AssertionError(f"exit {self.process.returncode}: {self.err}")
        return None

    @property
    def out(self):
        """The whole lines that this start has printed so far."""
        return self._lines("stdout")

    @property
    def err(self):
        return self._lines("stderr")

    def _lines(self, name):
        data = self._file(name).read_bytes()
        return data[:data.rfind(b"\n") + 1].decode("utf-8")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self, number=signal.SIGTERM, seconds=PATIENCE):
        """Send a signal; returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()

    # -- as a client

    def connect(self, seconds=PATIENCE):
        return socket.create_connection(("127.0.0.1", self.port), seconds)

    def post(self, body, path="/log", seconds=PATIENCE, tls=None, **headers):
        """POST on a connection of its own, as a registry does: status and text of the answer.

        BODY is bytes, one event or a list of events. Header names get - for _; None leaves one out.
        """
        if not isinstance(body, bytes):
            body = envelope(body)
        sent = {"Content-Type": MEDIA_TYPE}
        sent.update({name.replace("_", "-"): value for name, value in headers.items()})
        sent = {name: value for name, value in sent.items() if value is not None}
        return self.request("POST", path, body, sent, seconds, tls)

    def request(self, method, path, body=None, headers=(), seconds=PATIENCE, tls=None):
        if tls:
            connection = http.client.HTTPSConnection("localhost", self.port, timeout=seconds,
                                                     context=tls)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            self.headers = answer.headers
            return answer.status, answer.read().decode("utf-8")

    def raw(self, data, seconds=PATIENCE, half_close=True):
        """Send bytes, and return all bytes that come until the listener closes or goes quiet."""
        with self.connect(seconds) as connection:
            with contextlib.suppress(OSError):  # it may have seen enough and hung up
                connection.sendall(data)
                if half_close:
                    connection.shutdown(socket.SHUT_WR)
            return drain(connection)

    def syslog(self, *datagrams):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for datagram in datagrams:
                sender.sendto(datagram, ("127.0.0.1", self.syslog_port))

    def health(self):
        status, text = self.request("GET", "/healthz")
        return status, json.loads(text)

    # -- what it kept

    def events(self):
        return read_log(self.log)

    def ids(self):
        return [entry.get("id") for entry in self.events()]

    def memory(self):
        """The most bytes of memory that the process has had; None where nobody tells."""
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024
        return None


def request(body, head=b"POST /log HTTP/1.1\r\nHost: x\r\n"):
    """The bytes of a request with BODY; HEAD is what stands before the length."""
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def free_port():
    """A TCP port for a server that a test starts; until the tests end it is given to nobody else.

    On Linux: a socket that is bound but does not listen keeps other sockets from it, and lets
    those with SO_REUSEADDR listen there, as servers do.
    """
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(("0.0.0.0", 0))
    port = kept.getsockname()[1]
    if sys.platform == "linux":
        RESERVED.append(kept)
    else:
        kept.close()
    return port


def drain(connection):
    """All bytes that still come."""
    parts = []
    with contextlib.suppress(OSError):
        while True:
            part = connection.recv(1 << 16)
            if not part:
                break
            parts.append(part)
    return b"".join(parts)


def statuses(answer):
    """The statuses of the HTTP answers in some bytes."""
    return [int(number) for number in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]


def only_the_clients_fault(answer):
    """The statuses of an answer that may be: any of 2xx and 4xx, or 501, or nothing at all."""
    found = statuses(answer)
    assert all(200 <= status < 300 or 400 <= status < 500 or status == 501 for status in found), \
        answer
    return found


def run(folder, *options, given=b"", seconds=PATIENCE, **more):
    """Run `listener.py OPTIONS` to its end, GIVEN on stdin: exit status, stdout, stderr."""
    done = subprocess.run([sys.executable, LISTENER, *map(str, options)], cwd=folder, input=given,
                          timeout=seconds, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
    return done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8")


def command(*words, ok=True, timeout=120, **options):
    """What a command wrote. OK: it must succeed (True), must fail (False), may do either (None)."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=timeout, **options)
    assert ok is None or (done.returncode == 0) is ok, \
        f"{' '.join(words)}: exit status {done.returncode}\n{done.stdout}"
    return done.stdout


def read_log(path):
    """The events in a log, in which every line must be whole and JSON as the standard says."""
    data = Path(path).read_bytes()
    assert data == b"" or data.endswith(b"\n"), data[-200:]
    return [json.loads(line.decode("utf-8"), parse_constant=_not_json)
            for line in data.split(b"\n")[:-1]]


def _not_json(constant):
    raise AssertionError(f"{constant} in a log is not JSON")


def written(tmp_path, data, name="log.log"):
    """A file with DATA where the listener keeps its own."""
    path = tmp_path / "listener_log" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def make_certificate(folder):
    """A key and a certificate for localhost; returns key, certificate, and who trusts it."""
    key, certificate = Path(folder) / "key.pem", Path(folder) / "cert.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
                    "-keyout", key, "-out", certificate], check=True, stderr=subprocess.DEVNULL)
    return key, certificate, ssl.create_default_context(cafile=str(certificate))
