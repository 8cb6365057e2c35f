"""The queries, on DuckDB, over recordings of real registries and made pulls: the sums are right."""

import collections
import gzip
import json
import re
import sys

import pytest

from engines.made import make
from support import HERE, LISTENER
from support.process import command
from support.recordings import NAMES, Recording

ENGINES = HERE / "engines"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Folders of logs, each with its pulls; half of a log is rotated, and a part is there twice."""
    root = tmp_path_factory.mktemp("root")
    make(root, 300, registries=2)
    for name in NAMES[::3]:
        (root / name).mkdir()
        Recording(name).write(root / name)
    for folder in root.iterdir():
        told = command(sys.executable, LISTENER, "pulls", "--json", "log.log",
                       "--registry-log", "registry.log", cwd=folder)
        (folder / "pulls.jsonl").write_text(told)
        for name in ("log.log", "registry.log"):
            path = folder / name
            lines = path.read_bytes().splitlines(keepends=True)
            half = len(lines) // 2
            with gzip.open(f"{path}.1.gz", "wb") as file:
                file.writelines(lines[:half])
            path.write_bytes(b"".join(lines[half // 2:]))
    return root


@pytest.fixture
def ask(root, monkeypatch):
    """Ask what is in a file; rows as dicts."""
    import duckdb
    monkeypatch.chdir(root)
    connection = duckdb.connect()
    connection.execute((ENGINES / "views.sql").read_text())

    def answer(name):
        found = connection.execute((ENGINES / name).read_text())
        titles = [column[0] for column in found.description]
        return [dict(zip(titles, row)) for row in found.fetchall()]
    return answer


def pulls(root):
    return [{"folder": folder.name, **json.loads(line)} for folder in root.iterdir()
            for line in (folder / "pulls.jsonl").read_text().splitlines()]


def events(root):
    """Each event once, with its folder's name."""
    found = {}
    for folder in root.iterdir():
        with gzip.open(folder / "log.log.1.gz") as file:
            lines = file.readlines() + (folder / "log.log").read_bytes().splitlines()
        for event in map(json.loads, lines):
            found[folder.name, event["id"]] = folder.name, event
    return list(found.values())


def kind(event):
    """"manifests" or "blobs"; a repository may have such a word in its name."""
    return event["target"]["url"].split("/")[-2]


def test_pulls_and_bytes_per_image_and_day(ask, root):
    right = collections.defaultdict(lambda: [0, 0, None])
    for pull in pulls(root):
        if pull["verdict"] != "up to date":
            sums = right[pull["folder"], pull["image"], pull["started"][:10]]
            sums[0] += 1
            sums[1] += pull["verdict"] == "interrupted"
            if pull["sent"] is not None:
                sums[2] = (sums[2] or 0) + pull["sent"]
    rows = ask("pulls_per_day.sql")
    assert {(row["folder"], row["image"], str(row["day"])):
            [row["pulls"], row["interrupted"], row["bytes"]] for row in rows} == right
    known = [row["bytes"] for row in rows if row["bytes"] is not None]
    assert known == sorted(known, reverse=True)


def test_who_pulled(ask, root):
    right = collections.Counter(
        (pull["folder"], pull["image"], pull["user"], pull["client"])
        for pull in pulls(root) if pull["verdict"] != "up to date")
    assert {(row["folder"], row["image"], row["user"], row["client"]): row["pulls"]
            for row in ask("who_pulled.sql")} == right


def test_last_pulled(ask, root):
    right = {}
    for folder, event in events(root):
        target = event["target"]
        if kind(event) == "manifests" and event["action"] in ("pull", "push"):
            key = folder, target["repository"], target.get("tag") or target["digest"]
            last = right.setdefault(key, {})
            at = event["timestamp"][:23]  # to the millisecond
            last[event["action"]] = max(at, last.get(event["action"], ""))

    def text(time):
        return time and time.isoformat(timespec="milliseconds")
    rows = ask("last_pulled.sql")
    assert {(row["folder"], row["repository"], row["tag"]):
            (text(row["last_pulled"]), text(row["last_pushed"])) for row in rows} == {
                key: (last.get("pull"), last.get("push")) for key, last in right.items()}
    never = [row["last_pulled"] is None for row in rows]
    assert True in never and never == sorted(never, reverse=True)
    # The made tags are asked for with HEAD only.
    assert all(row["last_pulled"] for row in rows if row["folder"].startswith("registry-"))


def test_interrupted_per_image_and_client(ask, root):
    right = collections.defaultdict(lambda: [0, 0])
    for pull in pulls(root):
        if pull["verdict"] == "interrupted":
            sums = right[pull["folder"], pull["image"], pull["client"]]
            sums[0] += 1
            sums[1] += pull["sent"] or 0
    assert right
    assert {(row["folder"], row["image"], row["client"]): [row["interrupted"], row["wasted"]]
            for row in ask("interrupted.sql")} == right


def test_bytes_claimed_and_written(ask, root):
    written = {}
    for folder in root.iterdir():
        with gzip.open(folder / "registry.log.1.gz") as file:
            lines = file.readlines() + (folder / "registry.log").read_bytes().splitlines()
        for line in map(bytes.decode, lines):
            answer = re.search(r'response\.written"?[=:](\d+)', line)
            if "response completed" in line and answer:
                request = re.search(r'request\.id"?[=:]"?([-\w]+)', line)[1]
                written[folder.name, request] = int(answer[1])
    right = collections.defaultdict(lambda: [0, 0, 0])
    for folder, event in events(root):
        target, request = event["target"], event["request"]
        if (event["action"] == "pull" and request["method"] == "GET" and kind(event) == "blobs"
                and (folder, request["id"]) in written):
            sums = right[folder, target["repository"], event["timestamp"][:10]]
            sums[0] += 1
            sums[1] += target["size"]
            sums[2] += written[folder, request["id"]]
    assert {(row["folder"], row["repository"], str(row["day"])):
            [row["blobs"], row["claimed"], row["written"]]
            for row in ask("claimed_and_written.sql")} == right
