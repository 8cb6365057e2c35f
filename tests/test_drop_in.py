"""The compose file of the README, copied into an empty folder as a reader would."""
import json
import os
import re
import shutil
import textwrap
import urllib.request

import pytest

from support.process import command as run
from support.stack import ENVIRONMENT, REPOSITORY, machine, until


def blocks(title):
    """The indented blocks of a section of the README, as text."""
    section = (REPOSITORY / "README.md").read_text().partition(f"## {title}\n")[2]
    section = section.partition("\n## ")[0]
    found = re.findall(r"(?:^(?: {4}.*)?\n)+", section, re.M)
    return [textwrap.dedent(block).strip() + "\n" for block in found if block.strip()]


@pytest.mark.docker
@pytest.mark.parametrize("registry", ["2", "3"])
def test_the_compose_file_of_the_readme_works_as_it_stands(tmp_path, image, registry):
    compose, config = blocks("In your own compose file")[:2]
    compose = compose.replace("registry:2", f"registry:{registry}")
    (tmp_path / "docker-compose.yml").write_text(compose)
    (tmp_path / "config.yml").write_text(config)
    (tmp_path / "listener").mkdir()
    for name in ["listener.py", "Dockerfile"]:
        shutil.copy(REPOSITORY / name, tmp_path / "listener")
    folder = {"cwd": tmp_path, "env": ENVIRONMENT}

    with machine():
        try:
            run("docker", "compose", "up", "-d", **folder)
            name = image(300_000)
            until(lambda: "Pushed" in run("docker", "push", name, ok=None), "a push")
            run("docker", "rmi", name)
            run("docker", "pull", name)
            with urllib.request.urlopen("http://127.0.0.1:8086/healthz", timeout=20) as answer:
                assert json.load(answer)["status"] == "ok"

            def pulls():
                rows = run("docker", "compose", "exec", "-T", "listener", "python", "/listener.py",
                           "pulls", "--json", **folder)
                return [row for row in map(json.loads, rows.splitlines())
                        if row["verdict"] == "complete"]
            pull, = until(pulls, "a pull that is complete")
            assert pull["image"] == name.partition("/")[2]
            assert pull["sent"] == pull["size"] > 300_000
            complaints = [line for line in run("docker", "compose", "logs", "registry", **folder)
                          .splitlines() if "level=error" in line and "http.request.id" not in line]
            assert complaints == []
        finally:
            run("docker", "compose", "down", "--volumes", "--rmi", "local", **folder)
    assert os.listdir(tmp_path / "listener_log")
