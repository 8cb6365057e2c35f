"""rsyslog, with both configurations: every line arrives, whichever end is killed, and when."""

import json
import os
import random
import shutil
import subprocess

import pytest

from support import HERE
from support.process import free_port, until
from support.recordings import RECORDINGS

BEFORE = {"host": 'rm -f "$WORK"/imfile-state*',
          "centre": 'for file in "$ROOT"/*/*.log; do '
                    '[ -z "$(tail -c 1 "$file")" ] || echo >>"$file"; done'}


class Rsyslog:
    """`rsyslogd` with one of the configurations, started as that says."""

    def __init__(self, folder, name, **environment):
        self.folder, self.name = folder / f"work-{name}", name
        self.folder.mkdir()
        self.environment = {**os.environ, **environment, "WORK": str(self.folder)}
        self.process = None

    def start(self):
        configuration = HERE / "engines" / f"rsyslog-{self.name}.conf"
        with open(self.folder / "out", "ab") as out:
            self.process = subprocess.Popen(
                ["sh", "-c", f'{BEFORE[self.name]}; rm -f "$WORK/pid"; '
                 f'exec rsyslogd -n -f "{configuration}" -i "$WORK/pid"'],
                env=self.environment, stdout=out, stderr=out)

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def ends(tmp_path):
    """The host's end and the centre's, not started yet."""
    assert shutil.which("rsyslogd"), "install rsyslog and rsyslog-relp"
    port = str(free_port())
    (tmp_path / "logs").mkdir()
    (tmp_path / "root").mkdir()
    host = Rsyslog(tmp_path, "host", LOGS=str(tmp_path / "logs"), NAME="registry-1",
                   CENTRE="127.0.0.1", PORT=port)
    centre = Rsyslog(tmp_path, "centre", ROOT=str(tmp_path / "root"), PORT=port)
    yield host, centre
    for end in (host, centre):
        if end.process and end.process.poll() is None:
            end.kill()


def arrived(folder, name):
    """The lines of a file that are whole: the last one may just be written."""
    path = folder / "root" / "registry-1" / name
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def ids(lines):
    """The numbers in those lines that no kill has torn."""
    for line in lines:
        try:
            yield json.loads(line)["id"]
        except ValueError:
            continue


def test_lines_arrive_as_they_are(ends, tmp_path):
    """Also one as long as the longest event, one that is not ASCII, and the lines of a registry."""
    host, centre = ends
    centre.start()
    host.start()
    lines = [json.dumps({"id": "long", "more": "x" * (8 << 20)}), '{"id":"ümläut \\u001b %msg%"}']
    lines += (RECORDINGS / "two_users-registry2.log").read_text().splitlines()
    registry_lines = (RECORDINGS / "two_users-registry2.registry.log").read_text().splitlines()
    for name, some in (("log.log", lines), ("registry.log", registry_lines)):
        (tmp_path / "logs" / name).write_text("".join(line + "\n" for line in some))
        until(lambda: arrived(tmp_path, name) == [line.encode() for line in some], name)


def test_a_line_that_a_kill_has_torn_spoils_no_other(ends, tmp_path):
    host, centre = ends
    (tmp_path / "root" / "registry-1").mkdir()
    (tmp_path / "root" / "registry-1" / "log.log").write_text('{"id":1,"more":"x')
    (tmp_path / "logs" / "log.log").write_text('{"id":1,"more":"xyz"}\n')
    centre.start()
    host.start()
    until(lambda: list(ids(arrived(tmp_path, "log.log"))) == [1], "line 1")


@pytest.mark.parametrize("overlap", [False, True], ids=["in turn", "both down"])
def test_no_line_is_lost_when_ends_are_killed(ends, tmp_path, overlap):
    """kill -9 of one end and the other while lines are written and the log is rotated."""
    host, centre = ends
    chance = random.Random(1)
    log, number = tmp_path / "logs" / "log.log", 0

    def write(count):
        nonlocal number
        with open(log, "a") as file:
            for number in range(number + 1, number + count + 1):
                file.write(f'{{"id":{number},"more":"{"x" * 700}"}}\n')
                file.flush()

    def rotate():
        for old in range(8, 0, -1):
            if (log.parent / f"log.log.{old}").exists():
                (log.parent / f"log.log.{old}").rename(log.parent / f"log.log.{old + 1}")
        log.rename(log.parent / "log.log.1")

    def arrives():
        known = len(arrived(tmp_path, "log.log"))
        until(lambda: len(arrived(tmp_path, "log.log")) > known, "a line more")

    centre.start()
    host.start()
    for round_number in range(6):
        for end, other in ((host, centre), (centre, host)):
            write(100)
            if round_number % 2:
                arrives()
            write(chance.randrange(300))
            end.kill()
            write(chance.randrange(300))
            if overlap:
                other.kill()
                write(50)
            if round_number in (1, 3, 4):
                rotate()
            end.start()
            if overlap:
                write(chance.randrange(100))
                other.start()
    write(1)
    sent = set(range(1, number + 1))

    def missing():
        return sent.difference(ids(arrived(tmp_path, "log.log")))
    until(lambda: not missing(), lambda: f"lines {sorted(missing())}", 60)
