"""spark_pulls.py on Spark says of each folder, line for line, what `pulls --json` says of it."""

import gzip
import json
import os
import sys
from pathlib import Path

from engines.made import make
from support import HERE, LISTENER
from support.process import command
from support.recordings import NAMES, Recording
from support.traffic import START, Client, Image, Index


def spark(root, out):
    """The lines that the job writes about ROOT."""
    environment = {**os.environ, "PYTHONPATH": str(Path(LISTENER).parent),
                   "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    command(Path(sys.executable).with_name("spark-submit"), "--master", "local[2]",
            HERE / "engines" / "spark_pulls.py", root, out, env=environment, timeout=1200)
    return sorted(line for part in out.glob("part-*") for line in part.read_text().splitlines())


def pulls(root):
    """The lines of `pulls --json` about each folder of ROOT, with the folder's name."""
    lines = []
    for folder in root.iterdir():
        told = command(sys.executable, LISTENER, "pulls", "--json", "log.log",
                       "--registry-log", "registry.log", cwd=folder)
        lines += [json.dumps({"folder": folder.name, **json.loads(line)})
                  for line in told.splitlines()]
    return sorted(lines)


def told_to_another(folder):
    """Logs of a pull whose manifest only another client, with another agent, was told of."""
    image = Image(oci=True)
    index = Index(image, Image("other", oci=True))
    first = Client(agent="skopeo/1.9.3", host="10.0.0.9")
    second = Client(agent="docker/26.1.5")
    events = [client.event(START + at, str(at), found.digest, 800, "manifests", method, tag,
                           found.references, found.media_type)
              for client, at, found, method, tag in (
                  (first, 0, index, "GET", "1"), (first, 1, image, "GET", None),
                  (second, 100, index, "HEAD", "1"))]
    lines = []
    for at, digest in enumerate(image.layers, 101):
        size = image.sizes[digest]
        events.append(second.event(START + at, str(at), digest, size, "blobs", "GET"))
        lines.append(second.line(
            START + at, str(at), digest, "response completed", " http.response.contenttype=x "
            f"http.response.duration=0.1s http.response.status=200 http.response.written={size}"))
    folder.mkdir(parents=True)
    (folder / "log.log").write_text("".join(json.dumps(event) + "\n" for event in events))
    (folder / "registry.log").write_text("".join(line + "\n" for line in lines))


def test_recordings(tmp_path):
    """And one pull of which a Tracker for each client or agent would not know the size."""
    root = tmp_path / "root"
    told_to_another(root / "told_to_another")
    for name in NAMES:
        (root / name).mkdir(parents=True)
        Recording(name).write(root / name)
    told = pulls(root)
    assert told == spark(root, tmp_path / "out")
    sizes = [pull["size"] for pull in map(json.loads, told) if pull["folder"] == "told_to_another"]
    assert sizes == [3_000_500, 3_000_500]


def test_many_pulls(tmp_path):
    root, number = tmp_path / "root", int(os.environ.get("STS_PULLS", "100000"))
    make(root, number)
    told = spark(root, tmp_path / "out")
    assert len(told) == number
    assert pulls(root) == told


def test_rotated_and_repeated(tmp_path):
    """Lines in rotated files, gzipped ones too, out of order and twice, say the same."""
    root = tmp_path / "root"
    make(root, 200, registries=1)
    told = pulls(root)
    for name in ("log.log", "registry.log"):
        path = next(root.iterdir()) / name
        lines = path.read_bytes().splitlines(keepends=True)
        with gzip.open(f"{path}.2.gz", "wb") as file:
            file.writelines(lines[:500])
        path.with_name(f"{name}.1").write_bytes(b"".join(lines[400:]))
        path.write_bytes(b"".join(lines[:100]))
    assert spark(root, tmp_path / "out") == told
