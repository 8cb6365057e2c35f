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


def test_recordings(tmp_path):
    root = tmp_path / "root"
    for name in NAMES:
        (root / name).mkdir(parents=True)
        Recording(name).write(root / name)
    assert pulls(root) == spark(root, tmp_path / "out")


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
