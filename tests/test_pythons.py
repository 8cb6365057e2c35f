"""The oldest and the newest Pythons that there are here, with every warning an error."""

import glob
import os
import signal
import subprocess

import pytest

from support import LISTENER
from support.process import Listener, make_certificate, run, statuses, until
from support.recordings import Recording, recorded, recorded_lines
from support.traffic import envelope, event

STRICT = ["-X", "dev", "-W", "error"]
NAME = "docker_interrupted-registry2"


@pytest.fixture(params=["3.9", "3.11", "3.13", "3.14"])
def python(request):
    """The path of a Python of that version."""
    tell = "import sys; print('%d.%d' % sys.version_info[:2])"
    for path in [f"python{request.param}",
                 *glob.glob(os.path.expanduser(f"~/.pyenv/versions/{request.param}*/bin/python"))]:
        try:
            done = subprocess.run([path, "-c", tell], capture_output=True, text=True, timeout=60)
        except OSError:
            continue
        if done.stdout.strip() == request.param:
            return path
    return pytest.skip(f"there is no Python {request.param} here")


def test_serve(tmp_path, python):
    """Each of its threads, and each way to ask it something."""
    key, certificate, trusting = make_certificate(tmp_path)
    (tmp_path / "token").write_text("s3cret")
    with Listener(tmp_path, "--syslog-port", "0", "--verbose", "--rotate", "100K", "--token-file",
                  "token", "--tls-cert", certificate, "--tls-key", key, start=False) as listener:
        listener.python, listener.program = python, [*STRICT, LISTENER]
        listener.start()
        news = [*recorded(NAME), event(text="\x7f\x9b")]
        for new in news:
            assert listener.post(new, tls=trusting, Authorization="Bearer s3cret") == (200, "")
        assert listener.post(envelope(news), tls=trusting, Authorization="s3cret") == (200, "")
        assert listener.events() == news
        assert listener.post(b"{", tls=trusting, Authorization="s3cret")[0] == 400
        assert listener.post(event(), tls=trusting)[0] == 401
        assert statuses(listener.raw(b"GET / HTTP/1.1\r\n\r\n")) == []  # that is no TLS
        for path in "/", "/pulls", "/metrics", "/healthz":
            status, text = listener.request("GET", path, None, {"Authorization": "s3cret"},
                                            tls=trusting)
            assert status == 200 and text
        listener.syslog(*[line.encode() for line in recorded_lines(NAME)])
        until(lambda: listener.registry_log.read_text().count("\n") == len(recorded_lines(NAME)))
        until(lambda: listener.out.count(" pull ") >= 2, lambda: listener.out)
        listener.process.send_signal(signal.SIGHUP)
        until(lambda: "read again" in listener.out, lambda: listener.out + listener.err)
        assert listener.stop() == 0
        said = [line for line in listener.err.splitlines() if " was refused" not in line]
        assert said == []


def test_commands(tmp_path, python):
    """The same, to the byte, as of the Python that runs the tests."""
    Recording(NAME).write(tmp_path / "listener_log")
    for options in (["pulls"], ["pulls", "--json"], ["check"], ["pulls", "none"]):
        done = subprocess.run([python, *STRICT, LISTENER, *options], cwd=tmp_path,
                              capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == run(tmp_path, *options), options
    assert subprocess.run([python, *STRICT, LISTENER, "--help"], cwd=tmp_path, timeout=60,
                          stdout=subprocess.PIPE).returncode == 0
