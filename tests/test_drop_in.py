"""The compose file of the README, copied into an empty folder as a reader would."""
import json
import os
import shutil
import urllib.request

import pytest

from support.process import command as run, need
from support.stack import (ENVIRONMENT, REPOSITORY, SlowLink, blocks, machine,
                           pull_and_interrupt, pulls_later, push_for_two_platforms, until)


class DropIn:
    """The listener and a registry as in the README: without users, and without TLS."""

    def __init__(self, folder, registry):
        self.folder = {"cwd": folder, "env": ENVIRONMENT}
        compose, config = blocks("In your own compose file")[:2]
        compose = compose.replace("registry:2", f"registry:{registry}")
        (folder / "docker-compose.yml").write_text(compose)
        (folder / "config.yml").write_text(config)
        (folder / "listener").mkdir()
        for name in ["listener.py", "Dockerfile"]:
            shutil.copy(REPOSITORY / name, folder / "listener")

    def compose(self, *arguments):
        return run("docker", "compose", *arguments, **self.folder)

    @staticmethod
    def ask(repository, method, path, body=None, **headers):
        return urllib.request.urlopen(urllib.request.Request(
            f"http://localhost:5000/v2/{repository}/{path}", body, headers, method=method))

    def answers(self):
        try:
            self.ask("", "GET", "").close()
            return True
        except OSError:
            return False

    def pulls(self, name):
        return pulls_later(self.folder["cwd"] / "listener_log" / "log.log", name)

    def verdicts(self, name):
        return [pull["verdict"] for pull in self.pulls(name)]


@pytest.fixture(params=["2", "3"], ids=["registry2", "registry3"])
def drop_in(request, tmp_path):
    folder = DropIn(tmp_path, request.param)
    with machine():
        try:
            folder.compose("up", "-d")
            until(folder.answers, "the registry answers")
            yield folder
        finally:
            folder.compose("down", "--volumes", "--rmi", "local")


@pytest.mark.docker
def test_the_compose_file_of_the_readme_works_as_it_stands(drop_in, image, tmp_path):
    name = image(300_000)
    run("docker", "push", name)
    run("docker", "rmi", name)
    run("docker", "pull", name)
    with urllib.request.urlopen("http://127.0.0.1:8086/healthz", timeout=20) as answer:
        assert json.load(answer)["status"] == "ok"
    until(lambda: drop_in.verdicts(name) == ["complete"], lambda: f"{drop_in.pulls(name)}")
    pull, = drop_in.pulls(name)
    assert pull["sent"] == pull["size"] > 300_000
    assert name.partition("/")[2] in drop_in.compose("exec", "-T", "listener", "python",
                                                     "/listener.py", "pulls")
    complaints = [line for line in drop_in.compose("logs", "registry").splitlines()
                  if "level=error" in line and "http.request.id" not in line]
    assert complaints == []
    assert sorted(os.listdir(tmp_path / "listener_log")) == ["log.log", "registry.log"]


@pytest.mark.docker
def test_docker_with_the_containerd_store_interrupted_and_pulled_again(drop_in, image):
    """An image for two platforms: the second time only the index and blobs are asked for."""
    engine = os.environ.get("STS_NEWER_DOCKER_HOST")
    need("" if engine else "STS_NEWER_DOCKER_HOST names none",
         "Docker 26 or newer with the containerd image store")
    newer = {**ENVIRONMENT, "DOCKER_HOST": engine}
    name, config = push_for_two_platforms(image, drop_in.ask, ENVIRONMENT)
    with SlowLink(drop_in.compose("ps", "-q", "registry").strip()) as link:
        pull_and_interrupt(name, newer, link, 8_000_000)
        run("docker", "pull", name, env=newer)
        run("docker", "rmi", name, env=newer)
    until(lambda: drop_in.verdicts(name) == ["interrupted", "complete"],
          lambda: f"{drop_in.pulls(name)}")
    for pull in drop_in.pulls(name):
        assert (pull["layers"], pull["image_id"]) == (3, config) and pull["size"] > 15_000_000
