"""What needs a tool that is not there is skipped and says why; with STS_CI set, it fails."""
import os
import subprocess
import time

import pytest

from support.process import Listener, command, need
from support.stack import image_archive


def pytest_configure(config):
    config.addinivalue_line("markers", "docker: needs a Docker Engine that answers")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if item.get_closest_marker("docker"):
        need(docker_trouble(), "Docker")


def docker_trouble(known=[]):  # the default is the memory: one `docker info` a run
    if not known:
        try:
            done = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=30)
            known.append(done.stderr.strip() if done.returncode else "")
        except (OSError, subprocess.TimeoutExpired) as error:
            known.append(str(error))
    return known[0]


@pytest.fixture
def listener(tmp_path):
    """A listener that runs in the test's folder."""
    with Listener(tmp_path) as made:
        yield made


@pytest.fixture
def utc(monkeypatch):
    """Local time is UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def image(tmp_path):
    """Makes an image with a layer of each of the sizes given; returns its name."""
    names = []

    def load(*sizes, name=None, **about):
        name = name or f"localhost:5000/test/{os.urandom(4).hex()}:latest"
        (tmp_path / "image.tar").write_bytes(image_archive(name, *sizes, **about))
        command("docker", "load", "-i", str(tmp_path / "image.tar"))
        names.append(name)
        return name
    yield load
    for name in names:
        command("docker", "rmi", "-f", name, ok=None)
