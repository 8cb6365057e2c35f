"""`listener.py pulls`: recordings of real registries come out as what really happened."""

import contextlib
import functools
import gzip
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import LISTENER, listener, process
from support.process import until, written
from support.recordings import NAMES, RECORDINGS, STAMP, Recording, differences, move, recorded
from support.traffic import START, Client, Image, digest_of

MEMBERS = ["started", "ended", "image", "registry", "repository", "tag", "digest", "image_id",
           "size", "layers", "requested", "sent", "verdict", "error", "client", "user", "agent",
           "proxied"]
REPLICAS = "16-replicas-5h"  # a recording with two logs of registries
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
WIDTH = 100  # columns

# Of each formatter and version of the registry one, with more than one pull, or one that was cut.
VARIED = ["docker_cached-registry2", "docker_interrupted-registry2", "docker_resumed-registry2",
          "docker_interrupted-registry2_json", "docker_interrupted-registry3",
          "two_users-registry2"]


def run(*arguments, given=b"", folder=None, environment=()):
    """Run `listener.py pulls ARGUMENTS` with GIVEN on stdin: exit status, stdout, stderr."""
    return process.run(folder, "pulls", *arguments, given=given,
                       env={**os.environ, **dict(environment)})


def shown(*arguments, **more):
    """The pulls that `pulls --json` shows, where nothing is wrong."""
    status, out, err = run("--json", *arguments, **more)
    assert (status, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


def write(path, *lines):
    path.write_bytes(b"".join(line if isinstance(line, bytes) else line.encode() + b"\n"
                              for line in lines))
    return str(path)


# ------------------------------------------------------------------------------ what it comes to

def test_there_are_recordings():
    assert len(NAMES) >= 12
    assert sorted(path.name for path in RECORDINGS.glob("*.log")) == sorted(
        [*(name + end for name in NAMES for end in (".log", ".registry.log")),
         *(REPLICAS + end for end in (".log", ".registry.1.log", ".registry.2.log"))])


def test_logs_of_replicas_are_merged_by_their_times():
    """In whatever order they are given; as those that were rotated."""
    log, *lines = (str(RECORDINGS / (REPLICAS + end))
                   for end in (".log", ".registry.1.log", ".registry.2.log"))
    truth = json.loads((RECORDINGS / f"{REPLICAS}.truth.json").read_text("utf-8"))
    for first, second in (lines, lines[::-1]):
        found = shown(log, "--registry-log", first, "--registry-log", second)
        assert differences(found, truth) == []
    assert differences(shown(log, "--registry-log", lines[0]), truth) != []


@pytest.mark.parametrize("name", NAMES)
def test_recording_comes_out_as_it_was(name, tmp_path):
    recording = Recording(name)
    log, registry_log = recording.write(tmp_path)
    pulls = shown(log, "--registry-log", registry_log)
    assert differences(pulls, recording.truth) == []
    for pull in pulls:
        assert list(pull) == MEMBERS
        assert RFC3339.fullmatch(pull["started"]) and RFC3339.fullmatch(pull["ended"])
        assert pull["started"] <= pull["ended"]


# Of a blob that is denied (403) there is no event.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "06w-403"])
def test_without_the_registrys_log_no_download_is_complete(name, tmp_path, capsys):
    recording = Recording(name)
    log, _ = recording.write(tmp_path)
    assert listener.main(["pulls", "--json", log]) == 0
    pulls = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [pull["verdict"] for pull in pulls] == [
        "up to date" if real["verdict"] == "up to date" else "unknown" for real in recording.truth]
    for pull in pulls:
        assert pull["sent"] == (0 if pull["verdict"] == "up to date" else None)


def test_time_and_bytes_of_a_pull(tmp_path):
    """Every member of one pull, worked out by hand from the recording."""
    log, registry_log = Recording("skopeo_complete-registry2").write(tmp_path)
    events = [json.loads(line) for line in open(log, encoding="utf-8")]
    manifest = events[0]["target"]
    sizes = {part["digest"]: part["size"] for part in manifest["references"]}
    ends = re.findall(r'time="(\S+)" .*response completed.*/blobs/', open(registry_log).read())
    pull, = shown(log, "--registry-log", registry_log)
    assert pull == {
        "started": events[0]["timestamp"], "ended": max(ends), "image": "rec/skopeo:1",
        "registry": events[0]["request"]["host"], "repository": "rec/skopeo", "tag": "1",
        "digest": manifest["digest"],
        "image_id": manifest["references"][0]["digest"], "size": sum(sizes.values()), "layers": 3,
        "requested": 4, "sent": sum(sizes.values()), "verdict": "complete", "error": None,
        "client": events[0]["request"]["addr"].rpartition(":")[0], "user": "foo",
        "agent": events[0]["request"]["useragent"], "proxied": False}


def test_pull_under_way_is_running_and_has_no_end(tmp_path):
    recording = Recording("docker_complete-registry3", time.time() - 6)
    lines = recording.lines.splitlines(keepends=True)
    done = [number for number, line in enumerate(lines)
            if b"response completed" in line and b"/blobs/" in line]
    log = write(tmp_path / "log.log", *recording.events.splitlines(keepends=True)[:2])
    registry_log = write(tmp_path / "registry.log", *lines[:done[0]])
    pull, = shown(log, "--registry-log", registry_log)
    assert pull["verdict"] == "running" and pull["ended"] is None
    assert pull["size"] == recording.truth[0]["size"]


def messages(client, image, at, number=0):
    """Events and log lines of a pull, each with its time: as they come from the registry."""
    events, lines = [], []
    for method, tag in (("HEAD", "1"), ("GET", None)):
        events.append((at, client.event(at, f"{method}-{number}", image.digest, 800, "manifests",
                                        method, tag, image.references, image.media_type)))
    for digest, size in image.sizes.items():
        request, end = f"{digest[7:12]}-{number}", at + (2000 if number % 7 == 6 else 2)
        events.append((end, client.event(end, request, digest, size, "blobs", "GET")))
        lines += [(at, client.line(at, request, digest, "authorized request")),
                  (end, client.line(end, request, digest, "response completed",
                                    " http.response.duration=2s http.response.status=200 "
                                    f"http.response.written={size}"))]
    return events, lines


@pytest.mark.parametrize("change", [
    {"agent": "curl/8.5.0"}, {"agent": ""}, {"agent": 'a "b" \\c\\ = {d}'},
    {"agent": "\u00e9 \u4e2d"}, {"host": "[2001:db8::1]"}, {"host": "2001:db8::1", "port": ""},
    {"host": "10.1.2.3", "port": ""}, {"host": "client.example"},
    {"repository": "a/blobs/b"}, {"repository": "a.b-c__d/e/f"},
    {"user": None}, {"user": "a b=c"}], ids=str)
def test_clients_of_all_kinds(change, tmp_path):
    """What the log quotes and the event does not is the same client."""
    client = Client()
    for name, value in change.items():
        setattr(client, name, value)
    events, lines = messages(client, Image(), START)
    pull, = shown(write(tmp_path / "log.log", *(json.dumps(event) for _, event in events)),
                  "--registry-log", write(tmp_path / "registry.log", *(line for _, line in lines)))
    assert (pull["verdict"], pull["requested"]) == ("complete", 3)
    assert (pull["client"], pull["user"], pull["agent"], pull["repository"]) == (
        client.host.strip("[]"), client.user, client.agent, client.repository)


@pytest.mark.parametrize("name", VARIED)
def test_times_with_an_offset(name, tmp_path):
    """A registry that runs outside of a container may write local time."""
    recording = Recording(name)
    there = re.compile(rb'(?<=\d)Z(?=")')
    recording.events = there.sub(b"-03:30", recording.events)
    recording.lines = there.sub(b"-03:30", recording.lines)
    log, registry_log = recording.write(tmp_path)
    pulls = shown(log, "--registry-log", registry_log)
    assert differences(pulls, recording.truth) == []
    assert {pull["started"][-6:] for pull in pulls} == {"-03:30"}


def test_order_is_that_of_the_start(tmp_path):
    """Long pulls end after later short ones; so many of them that they are not all kept."""
    events, lines = [], []
    for number in range(400):
        more = messages(Client(repository=f"my/app{number}"), Image(), START + number * 20, number)
        events += more[0]
        lines += more[1]
    events.sort(key=lambda event: event[0])
    pulls = shown(write(tmp_path / "log.log", *(json.dumps(event) for _, event in events)),
                  "--registry-log",
                  write(tmp_path / "registry.log", *(line for _, line in sorted(lines))))
    assert [pull["image"] for pull in pulls] == [f"my/app{number}:1" for number in range(400)]
    assert {pull["verdict"] for pull in pulls} == {"complete"}


# ---------------------------------------------------------------------------- where it reads from

IN_FRONT = {
    "compose": b"registry-1  | ",
    "compose with colours": b"\x1b[36mregistry-1  | \x1b[0m",
    "compose with times": b"registry-1  | 2020-01-01T10:00:00.123456789Z ",
    "RFC 5424": b"<27>1 2020-01-01T10:00:00.123456+00:00 host registry - - - ",
    "RFC 5424 with data": b'<27>1 2020-01-01T10:00:00Z host registry 12 id [a b="c"][d e="f\\]"] ',
    "RFC 3164": b"<30>Jan  1 10:00:00 registry[123]: ",
    "RFC 3164 with host": b"<30>Jan  1 10:00:00 host registry[123]: ",
    "rsyslog's file": b"2020-01-01T10:00:00.123456+00:00 host registry[123]: ",
    "syslog's file": b"Jan  1 10:00:00 host registry[123]: ",
    "kubectl --prefix": b"[pod/registry-6d8f9-x2/registry] ",
}


@pytest.mark.parametrize("prefix", [b"/registry", b"/the/v2/registry"])
@pytest.mark.parametrize("name", [*VARIED, "06w-403"])
def test_an_http_prefix(name, prefix, tmp_path):
    """All requests are below it, and no line says where it ends and the repository begins."""
    recording = Recording(name)
    recording.lines, count = re.subn(rb'(http\.request\.uri"?[=:]")/v2/', rb"\1%s/v2/" % prefix,
                                     re.sub(rb" vars\.name=\S+", b"", recording.lines))
    assert count
    log, registry_log = recording.write(tmp_path)
    assert differences(shown(log, "--registry-log", registry_log), recording.truth) == []


@pytest.mark.parametrize("name", VARIED)
@pytest.mark.parametrize("prefix", IN_FRONT.values(), ids=IN_FRONT)
def test_prefixes_of_the_registrys_lines(name, prefix, tmp_path, capsys):
    recording = Recording(name)
    recording.lines = b"".join(prefix + line for line in recording.lines.splitlines(True))
    log, registry_log = recording.write(tmp_path)
    assert listener.main(["pulls", "--json", log, "--registry-log", registry_log]) == 0
    said = capsys.readouterr()
    assert differences([json.loads(line) for line in said.out.splitlines()], recording.truth) == []
    assert said.err == ""


def test_dos_line_ends(tmp_path):
    recording = Recording("docker_interrupted-registry2")
    recording.events = recording.events.replace(b"\n", b"\r\n")
    recording.lines = recording.lines.replace(b"\n", b"\r\n")
    log, registry_log = recording.write(tmp_path)
    assert differences(shown(log, "--registry-log", registry_log), recording.truth) == []


@pytest.mark.parametrize("name", VARIED)
def test_gzipped_logs_in_rotation(name, tmp_path):
    """Cut in three in mid-pull, in the order given: the oldest first."""
    recording = Recording(name)
    paths = {}
    for kind, data in (("log.log", recording.events), ("registry.log", recording.lines)):
        lines = data.splitlines(keepends=True)
        third = len(lines) // 3
        paths[kind] = [str(tmp_path / (kind + end)) for end in (".2.gz", ".1.gz", "")]
        for path, part in zip(paths[kind], (lines[:third], lines[third:-third], lines[-third:])):
            with (gzip.open if path.endswith(".gz") else open)(path, "wb") as file:
                file.writelines(part)
    options = [word for path in paths["registry.log"] for word in ("--registry-log", path)]
    assert differences(shown(*paths["log.log"], *options), recording.truth) == []


def test_pulls_reads_the_rotated_files_first(tmp_path):
    """As in one file, gzipped ones and those of the registry's log as well."""
    name = "docker_interrupted-registry2"
    lines = [json.dumps(new).encode() + b"\n" for new in recorded(name)]
    events = written(tmp_path, b"".join(lines))
    _, expected, _ = process.run(tmp_path, "pulls", "--json")
    assert expected
    third = len(lines) // 3
    events.with_name("log.log.2.gz").write_bytes(gzip.compress(b"".join(lines[:third])))
    events.with_name("log.log.1").write_bytes(b"".join(lines[third:2 * third]))
    events.write_bytes(b"".join(lines[2 * third:]))
    events.with_name("log.log.torn").write_bytes(b"not read\n")
    assert process.run(tmp_path, "pulls", "--json") == (0, expected, "")
    events.rename(events.with_name("log.log.0"))  # no log.log for a moment, as when it is renamed
    status, _, err = process.run(tmp_path, "pulls", "--json")
    assert (status, err) == (0, "")


def test_registry_log_on_stdin(tmp_path):
    recording = Recording("docker_interrupted-registry2")
    log, _ = recording.write(tmp_path)
    pulls = shown(log, "--registry-log", "-", given=recording.lines)
    assert differences(pulls, recording.truth) == []


def test_last_line_without_an_end(tmp_path):
    recording = Recording("podman_interrupted-registry2")
    recording.events, recording.lines = recording.events[:-1], recording.lines[:-1]
    log, registry_log = recording.write(tmp_path)
    assert differences(shown(log, "--registry-log", registry_log), recording.truth) == []


def test_default_files(tmp_path):
    recording = Recording("docker_interrupted-registry2")
    folder = tmp_path / "listener_log"
    folder.mkdir()
    _, registry_log = recording.write(folder)
    assert differences(shown(folder=tmp_path), recording.truth) == []
    os.remove(registry_log)
    assert [pull["verdict"] for pull in shown(folder=tmp_path)] == ["unknown"]
    pulls = shown("--registry-log", "-", given=recording.lines, folder=tmp_path)
    assert differences(pulls, recording.truth) == []


def test_nothing_to_show(tmp_path):
    empty = write(tmp_path / "log.log")
    assert shown(empty) == []
    status, out, err = run(empty)
    assert (status, len(out.splitlines()), err) == (0, 1, "")


# -------------------------------------------------------------------------- what cannot be read

UNREADABLE_EVENTS = [b"not JSON\n", b'{"action":"pull"\n', b'"a string"\n', b"[]\n", b"7\n",
                     b"null\n", b"\xff\xfe\n", b"[" * 5000 + b"\n", b'{"action":"p\xff"}\n',
                     b"\0" * 100 + b"\n"]
LINE = (b'time="2020-01-01T10:00:00Z" level=info msg="response completed" http.request.id=%s '
        b'http.request.method=GET http.request.remoteaddr="1.2.3.4:5" '
        b'http.request.uri="/v2/a/blobs/sha256:1" http.response.status=%s '
        b'http.response.written=%s\n')
UNREADABLE_LINES = [LINE % (b"", b"200", b"5"), LINE % (b"x", b"two", b"5"),
                    LINE % (b"x", b"200", b"many"),
                    LINE.replace(b"2020", b"x") % (b"x", b"200", b"5"),
                    LINE.replace(b"http.response.status=%s ", b"") % (b"x", b"5"),
                    LINE.replace(b"http.response.s", b"http.response.duration=%sh http.response.s")
                    % (b"x", b"9" * 30, b"200", b"5")]
IRRELEVANT_LINES = [b"\n", b"  \n", b"caught SIGTERM\n", b"\xff\xfe\n", b"{}\n", b"{\n",
                    b'172.18.0.1 - - [24/Nov/2026:07:49:00 +0000] "GET /v2/a/blobs/sha256:1 '
                    b'HTTP/1.1" 200 5 "" "docker"\n', b'time=" msg="\n']


def test_unreadable_lines_are_counted_and_stop_nothing(tmp_path):
    recording = Recording("docker_interrupted-registry2")
    rest = random.Random(4)
    events = recording.events.splitlines(keepends=True)
    lines = recording.lines.splitlines(keepends=True)
    for bad in UNREADABLE_EVENTS:
        events.insert(rest.randrange(1, len(events) + 1), bad)
    for bad in UNREADABLE_LINES + IRRELEVANT_LINES:
        lines.insert(rest.randrange(1, len(lines) + 1), bad)
    status, out, err = run("--json", write(tmp_path / "log.log", *events), "--registry-log",
                           write(tmp_path / "registry.log", *lines))
    assert status == 0
    assert differences([json.loads(line) for line in out.splitlines()], recording.truth) == []
    number = len(UNREADABLE_EVENTS) + len(UNREADABLE_LINES)
    assert re.fullmatch(rf"listener: {number} lines\b.*\n", err)


def mutations(line, rest, number):
    """Broken copies of a line, each in one place."""
    for _ in range(number):
        at, other = rest.randrange(len(line)), rest.randrange(len(line))
        yield rest.choice([
            line[:at], line[:at] + bytes([rest.randrange(256)]) + line[at + 1:],
            line[:at] + line[at + 1:], line[at:], line[:at] + line[other:],
            line[:at] + rest.choice([b'"', b"\\", b"{", b"}", b"=", b" ", b"-1", b"1e999", b"null",
                                     b"[]", b"{}", b"99999999999999999999"]) + line[at:],
        ]).replace(b"\n", b"") + b"\n"


def test_broken_lines_of_all_kinds(tmp_path):
    """Thousands of lines each broken in one place: the whole ones among them still count."""
    recording = Recording("docker_interrupted-registry2")
    json_lines = Recording("docker_interrupted-registry2_json").lines.splitlines()
    rest = random.Random(5)

    def of_another(line):
        """Of another client, by other requests: what is broken cannot be a change of the pull."""
        line = re.sub(rb"\b172\.\d+", b"10.2", line)
        return re.sub(rb'(id(?:":"|=))(?=[-0-9a-f]{36})', rb"\1another-", line)

    def broken(line, number):
        line = of_another(line)
        times = STAMP.findall(line)
        return [bad for bad in mutations(line, rest, number) if STAMP.findall(bad)[:1] == times[:1]]

    events = [bad for line in recording.events.splitlines() for bad in broken(line, 200)]
    lines = [bad for line in recording.lines.splitlines() + json_lines if b"/blobs/" in line
             for bad in broken(line, 60)]
    assert len(events) > 1000 and len(lines) > 1000
    status, out, err = run(
        "--json", write(tmp_path / "log.log", *events, recording.events),
        "--registry-log", write(tmp_path / "registry.log", *lines, recording.lines))
    assert status == 0
    assert re.fullmatch(r"listener: \d+ lines\b.*\n", err)
    pulls = [json.loads(line) for line in out.splitlines()]
    client = json.loads(recording.events.splitlines()[0])["request"]["addr"].rpartition(":")[0]
    mine = [pull for pull in pulls if pull["client"] == client
            and pull["image"] == recording.truth[0]["image"]]
    assert differences(mine, recording.truth) == []


@pytest.mark.parametrize("year", ["2019", "2021", "2999"])
@pytest.mark.parametrize("of", ["event", "line"])
def test_wrong_time_spoils_no_other_pull(of, year, tmp_path):
    """As of a registry whose clock was set right soon after its start."""
    recording = Recording("docker_interrupted-registry2")
    other = Recording("docker_complete-registry3")
    of_others = {"event": other.events, "line": other.lines}[of].splitlines(keepends=True)
    wrong = next(line for line in of_others if of == "event" or b"/blobs/" in line)
    wrong = STAMP.sub(lambda match: year.encode() + match[0][4:], wrong)
    events, lines = recording.events.splitlines(True), recording.lines.splitlines(True)
    (events if of == "event" else lines).insert(2, wrong)
    pulls = shown(write(tmp_path / "log.log", *events), "--registry-log",
                  write(tmp_path / "registry.log", *lines))
    mine = [pull for pull in pulls if pull["repository"] == "my/ros"]
    assert differences(mine, recording.truth) == []


@pytest.mark.parametrize("arguments, named", [
    (["nowhere.log"], "nowhere.log"),
    (["log.log", "nowhere.log"], "nowhere.log"),
    (["log.log", "--registry-log", "nowhere.log"], "nowhere.log"),
    (["folder"], "folder"),
    (["torn.log.gz"], "torn.log.gz"),
    (["plain.log.gz"], "plain.log.gz"),
    ([], os.path.join("listener_log", "log.log")),
    (["bad\x1b[31mname"], r"bad\x1b[31mname"),
])
def test_what_cannot_be_done_is_one_line_and_exit_1(arguments, named, tmp_path):
    (tmp_path / "folder").mkdir()
    recording = Recording("docker_complete-registry3")
    write(tmp_path / "log.log", recording.events)
    write(tmp_path / "torn.log.gz", gzip.compress(recording.events)[:-20])
    write(tmp_path / "plain.log.gz", recording.events)
    status, _, err = run(*arguments, folder=tmp_path)
    assert status == 1
    assert len(err.splitlines()) == 1 and err.startswith("listener: ") and named in err


@pytest.mark.parametrize("arguments", [["--nothing"], ["--registry-log"], ["--json=yes"],
                                       ["--port", "80"]])
def test_wrong_usage_is_exit_2(arguments, tmp_path):
    status, out, err = run(*arguments, folder=tmp_path)
    assert (status, out) == (2, "") and "usage:" in err


# ----------------------------------------------------------------------------------- how it looks

def test_table(tmp_path):
    log, registry_log = Recording("docker_cached-registry2").write(tmp_path)
    status, out, err = run(log, "--registry-log", registry_log, environment={"TZ": "UTC"})
    assert (status, err) == (0, "")
    title, *rows = out.splitlines()
    assert title.split() == ["STARTED", "IMAGE", "SIZE", "SENT", "VERDICT", "WHO"]
    assert [row.split()[:3] for row in rows] == [["01-01", "10:00:01", "my/app:1"],
                                                 ["01-01", "10:00:03", "my/app:2"]]
    assert "up to date" in rows[0] and re.search(r"8\.0 MB  100 %  complete +foo@172", rows[1])
    # Columns begin below their titles.
    assert title.index("IMAGE") == rows[0].index("my/app") == rows[1].index("my/app")
    assert title.index("WHO") == rows[1].index("foo@")


def test_table_in_local_time(tmp_path):
    log, registry_log = Recording("docker_cached-registry2").write(tmp_path)
    _, out, _ = run(log, "--registry-log", registry_log, environment={"TZ": "Asia/Tokyo"})
    assert out.splitlines()[1].startswith("01-01 19:00:01")


def test_table_says_how_much_of_an_interrupted_pull_came(tmp_path):
    recording = Recording("docker_interrupted-registry2")
    log, registry_log = recording.write(tmp_path)
    pull, = shown(log, "--registry-log", registry_log)
    _, out, _ = run(log, "--registry-log", registry_log)
    share = int(re.search(r" (\d+) %  interrupted ", out)[1])
    assert share == 100 * pull["sent"] // pull["size"] and 0 < share < 100


HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\n\t\0\x7f\x9b31m\u202e\u2028" + "x" * 500


def hostile_files(folder):
    """Pulls in which every text is hostile, long, or of another alphabet, and numbers are huge."""
    client = Client(user=HOSTILE, host=HOSTILE, agent=HOSTILE, repository=HOSTILE)
    image = Image(sizes=(10 ** 30, 10 ** 40))
    events, lines = [], []
    for number, name in enumerate((HOSTILE, "a" * 10_000, "\u00e9\u00df" * 40, "\ud800", "")):
        for field in ("user", "host", "agent", "repository"):
            setattr(client, field, name)
        at = START + number
        events.append(client.event(at, f"m{number}", image.digest, 800, "manifests", "GET", name,
                                   image.references, image.media_type))
        for digest, size in image.sizes.items():
            events.append(client.event(at, f"{digest}{number}", digest, size, "blobs", "GET"))
    # A lone surrogate cannot be written as UTF-8, but can come as an escape.
    return (write(folder / "log.log", *map(json.dumps, events)),
            write(folder / "registry.log", *lines))


@pytest.mark.parametrize("environment", [{}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0",
                                              "PYTHONUTF8": "0"}], ids=["UTF-8", "ASCII"])
def test_table_fits_whatever_the_names(environment, tmp_path):
    log, registry_log = hostile_files(tmp_path)
    status, out, err = run(log, "--registry-log", registry_log, environment=environment)
    assert (status, err) == (0, "")
    rows = out.split("\n")
    assert len(rows) == 1 + 5 + 1 and rows[-1] == ""
    for row in rows[:-1]:
        # A terminal that cannot show a letter gets an escape, which may take more room.
        assert len(row) <= WIDTH or environment, row
        assert row.isprintable(), row


def test_json_whatever_the_names(tmp_path):
    log, registry_log = hostile_files(tmp_path)
    status, out, err = run(log, "--registry-log", registry_log, "--json",
                           environment={"LC_ALL": "C", "PYTHONUTF8": "0"})
    assert (status, err) == (0, "")
    pulls = [json.loads(line) for line in out.split("\n")[:-1]]
    assert [list(pull) for pull in pulls] == [MEMBERS] * 5
    assert pulls[0]["user"] == HOSTILE
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\x9b]", out)


def many_pulls(folder, number):
    """A log of more than a pipe holds."""
    line = Recording("docker_cached-registry2").events.splitlines(keepends=True)[0]
    return write(folder / "log.log", *(
        re.sub(rb'"id":"........', b'"id":"%08d' % count, move(line, count * 100))
        for count in range(number)))


def launch(folder, **more):
    """Start `pulls` on two files; the process, when those that read for it run, and they."""
    lines = (Client().line(START + number, f"{number}", digest_of("x"), "authorized request")
             for number in range(20_000))
    pulls = subprocess.Popen(
        [sys.executable, LISTENER, "pulls", many_pulls(folder, 20_000), "--registry-log",
         write(folder / "registry.log", *lines)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
    path = Path(f"/proc/{pulls.pid}/task/{pulls.pid}/children")
    if not path.exists():
        pulls.kill()
        pytest.skip("no /proc here, which tells the processes of a process")
    return pulls, until(lambda: len(path.read_text().split()) == 2 and path.read_text().split())


def runs(pid):
    """Whether a process is there, and not just waits for somebody who asks how it ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_reader_stays_when_pulls_is_killed(number, tmp_path):
    pulls, readers = launch(tmp_path)
    with pulls:
        pulls.stdout.readline()  # it waits for somebody to read on, and the readers for it
        pulls.send_signal(number)
    until(lambda: not any(map(runs, readers)))


def test_ctrl_c_at_once_is_silent(tmp_path):
    """At a terminal it goes to the processes that read as well."""
    for _ in range(5):
        # Who starts the tests in the background may have them ignore it.
        pulls, _ = launch(tmp_path, start_new_session=True, preexec_fn=functools.partial(
            signal.signal, signal.SIGINT, signal.SIG_DFL))
        os.killpg(pulls.pid, signal.SIGINT)
        out, err = pulls.communicate()
        assert (pulls.returncode, err) == (130, b"") and out.count(b"\n") < 20_000


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_reader_that_has_seen_enough(options, tmp_path):
    """As in `listener.py pulls | head -1`."""
    log = many_pulls(tmp_path, 3000)
    process = subprocess.Popen([sys.executable, LISTENER, "pulls", log, *options],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    with process.stderr as errors:
        assert errors.read() == b""
    assert process.wait(30) == 0


# -------------------------------------------------------------- registries' logs that tell nothing

@pytest.mark.parametrize("text, said", [
    (b"INFO[0024] response completed   http.request.method=GET\n", "without the time of day"),
    (b"\x1b[36mINFO\x1b[0m[0024] response completed  go.version=go1.24\n",
     "without the time of day"),
    (b"172.18.0.1 - - [25/Nov/2026:10:00:00 +0000] \"GET /v2/\"\n",
     "its line does not tell of a request"),
    ("\ufefftime=x level=info http.request.id=1\n".encode("utf-16-le"), "is UTF-16")])
def test_log_that_tells_of_no_request(text, said, tmp_path):
    """Else every verdict is `unknown`, and nobody knows why."""
    log, _ = Recording("docker_complete-registry2").write(tmp_path)
    status, out, err = run("--json", log, "--registry-log", write(tmp_path / "other.log", text))
    assert status == 0 and json.loads(out)["verdict"] == "unknown"
    line, = err.splitlines()
    assert line.startswith(f"listener: {tmp_path / 'other.log'}") and said in line
    assert line.isprintable()


def test_a_line_of_the_registrys_log_that_is_too_long_is_counted(tmp_path):
    (tmp_path / "log.log").write_text("")
    given = b"x" * (17 << 20) + b"\n"
    status, _, err = run("log.log", "--registry-log", "-", given=given, folder=tmp_path)
    assert status == 0 and "1 line could not be read" in err


def test_log_without_a_pull_is_no_trouble(tmp_path):
    log, registry_log = Recording("push_only-registry2").write(tmp_path)
    assert shown(log, "--registry-log", registry_log) == []


def test_line_that_is_too_long_is_skipped(tmp_path):
    """A line of 60 MB, as zeros; what stands around it is read."""
    recording = Recording("docker_complete-registry2")
    log, registry_log = recording.write(tmp_path)
    with gzip.open(tmp_path / "long.log.gz", "wb", 1) as file:
        file.write(recording.events + b'{"a":"' + b"0" * 60_000_000 + b'"}\n')
    status, out, err = run("--json", tmp_path / "long.log.gz", "--registry-log", registry_log)
    assert status == 0 and json.loads(out)["verdict"] == "complete"
    assert err == "listener: 1 line could not be read\n"


def test_a_line_that_is_too_long_is_skipped_and_counted(tmp_path):
    """With all of it: its end would be an event."""
    lines, others = ([json.dumps(new).encode() + b"\n" for new in recorded(name)] for name in (
        "docker_complete-registry2", "docker_interrupted-registry2"))
    written(tmp_path, b"".join(lines))
    _, expected, _ = process.run(tmp_path, "pulls", "--json")
    written(tmp_path, gzip.compress(b"".join(lines[:1]) + b" " * (2 * listener.MAX_READ_LINE)
                                    + b"".join(others[:1] + lines[1:]), 1), "a.gz")
    status, out, err = process.run(tmp_path, "pulls", "--json", "listener_log/a.gz")
    assert (status, out) == (0, expected)
    assert "1 line could not be read" in err
