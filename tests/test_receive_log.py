"""The registry's log, by syslog and on standard input: in every form, each line once."""

import contextlib
import itertools
import json
import os
import pty
import re
import signal
import subprocess
import threading

import pytest

from support import listener as module
from support.disk import Faulty
from support.process import Listener, free_port, run, until
from support.recordings import recorded, recorded_lines
from support.registry import Registry
from support.traffic import event

NAME = "docker_complete-registry2"
EVENTS, LINES = recorded(NAME), recorded_lines(NAME)


# ------------------------------------------------------------------------------------------- syslog

MESSAGE = 'time="2026-11-24T06:28:54.05Z" level=info msg="authorized request" go.version=go1.24.4'
FORMS = {
    "docker's rfc5424": "<27>1 2026-11-24T06:28:54Z host registry 4711 registry - {}",
    "docker's rfc5424micro": "<27>1 2026-11-24T06:28:54.123456+01:00 host reg/1 4711 reg/1 - {}",
    "docker's rfc3164": "<27>Nov 24 06:28:54 host registry[4711]: {}",
    "docker's default": "<27>Nov  4 06:28:54 registry[4711]: {}",
    "rfc5424 with data": '<27>1 - - - - - [a@1 b="c\\]d" e=""][f@2] {}',
    "rfc5424 with a byte order mark": "<27>1 - - - - - - \ufeff{}",
    "a newline at its end": "<27>1 - - - - - - {}\n",
    "a NUL at its end": "<27>Nov 24 06:28:54 registry[1]: {}\0",
    "no header": "{}",
}


def kept_lines(listener, number):
    """The lines of registry.log, once there are so many."""
    def lines():
        found = listener.registry_log.read_text(encoding="utf-8").split("\n")
        return found[-1] == "" and len(found) > number and found[:-1]
    return until(lines)


def test_the_registrys_log_is_kept_without_syslogs_headers(tmp_path):
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        assert "registry.log" in listener.out
        for form in FORMS.values():
            listener.syslog(form.format(MESSAGE).encode("utf-8"))
        lines = kept_lines(listener, len(FORMS))
        assert dict(zip(FORMS, lines)) == dict.fromkeys(FORMS, MESSAGE)
        json_line = '{"level":"info","msg":"response completed","time":"2026-11-24T06:28:54Z"}'
        listener.syslog(f"<30>1 - - registry 1 - - {json_line}".encode())
        assert kept_lines(listener, len(FORMS) + 1)[-1] == json_line


def test_a_recording_comes_through_as_it_was(tmp_path):
    lines = recorded_lines("docker_complete-registry2")
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        for number, line in enumerate(lines, 1):
            listener.syslog(FORMS["docker's rfc5424"].format(line).encode("utf-8"))
        assert kept_lines(listener, len(lines)) == lines
        listener.stop()
        listener.start()
        listener.syslog(b"one more")
        assert kept_lines(listener, len(lines) + 1) == lines + ["one more"]
        assert "Traceback" not in listener.err


def test_a_datagram_that_is_too_long_is_cut_and_says_so(tmp_path):
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        header = b"<27>1 - - - - - - "
        listener.syslog(header + b"x" * 16_000, header + b"y" * 20_000)
        whole, cut = kept_lines(listener, 2)
        assert whole == "x" * 16_000
        assert re.fullmatch(r"y{16366} \[listener: cut after 16384 bytes\]", cut)


def test_a_log_that_ends_in_a_long_line_of_whatever_is_gone_on_with(tmp_path):
    """As a disk may leave it after a power cut: it is a log for people, and no line is refused."""
    (tmp_path / "listener_log").mkdir()
    with open(tmp_path / "listener_log" / "registry.log", "wb") as file:
        file.truncate(70 << 20)  # takes no room on the disk
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        listener.syslog(b"<27>1 - - - - - - next")
        until(lambda: listener.registry_log.read_bytes().endswith(b"\0\nnext\n"))
        assert listener.stop() == 0


def test_a_datagram_is_always_one_line_of_harmless_text(tmp_path):
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        listener.syslog(b"<27>1 - - - - - - a\nb\r\x1b[31m\x00\xff\xc2\x85\xe2\x80\xa8c", b"",
                        "äöü 漢字".encode())
        assert kept_lines(listener, 3) == [
            r"a\nb\r\x1b[31m\x00\xff\x85\u2028c", "", "äöü 漢字"]


# ----------------------------------------------------------------------------------- standard input


class Piped(Faulty):
    """A listener with `--registry-log -`, and what stands before it in the pipe."""

    def __init__(self, folder, *options, **constants):
        self.input = None
        super().__init__(folder, "--registry-log", "-", *options, start=False, **constants)
        self.start()

    def start(self):
        reading, writing = os.pipe()
        self.popen["stdin"] = reading
        super().start()
        os.close(reading)
        self.input = open(writing, "wb", 0)
        return self

    def tell(self, *lines):
        self.input.write(b"".join(line if isinstance(line, bytes) else line.encode() + b"\n"
                                  for line in lines))

    def kept(self):
        return self.registry_log.read_text("utf-8").splitlines()

    def __exit__(self, *_):
        self.input.close()
        super().__exit__()


# What stands around the registry's lines, depending on who tells them.
WRAPPINGS = {
    "docker logs": lambda line: line,
    "docker compose logs": lambda line: "registry-1  | " + line,
    "kubectl logs --prefix": lambda line: "[pod/registry-7d4b9/registry] " + line,
    "a CRI file": lambda line: "2026-11-24T06:29:14.0Z stderr F " + line,
    "a json-file": lambda line: json.dumps({"log": line + "\n", "stream": "stderr"}),
    "journalctl -o json": lambda line: json.dumps({"MESSAGE": line, "PRIORITY": "6"}),
    "journalctl": lambda line: "Nov 24 06:29:14 host registry[1]: " + line,
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_lines_in_every_form_are_kept_and_tell_how_a_pull_ended(tmp_path, wrapping):
    lines = [WRAPPINGS[wrapping](line) for line in LINES]
    with Piped(tmp_path) as listener:
        assert "the registry's log on standard input to listener_log/registry.log" in listener.out
        listener.tell(*lines)
        for each in EVENTS:
            assert listener.post(each) == (200, "")
        until(lambda: "  complete  " in listener.out, lambda: listener.out)
        assert listener.kept() == lines
        assert listener.stop() == 0 and listener.err == ""


def test_what_docker_logs_repeats_from_the_beginning_counts_once(tmp_path):
    with Piped(tmp_path) as listener:
        listener.tell(*LINES[:30])
        until(lambda: listener.kept() == LINES[:30])
        assert listener.stop() == 0
        listener.start()
        listener.tell(*LINES[:40])  # ten more came while the listener was down
        until(lambda: listener.kept() == LINES[:40])
        listener.tell(*LINES)  # somebody's loop around docker logs
        until(lambda: listener.kept() == LINES)
        assert listener.stop() == 0 and listener.err == ""


def test_of_a_long_log_what_is_older_than_what_is_remembered_counts_once(tmp_path):
    size = sum(len(line) + 1 for line in LINES)
    with Piped(tmp_path, REPLAYED_BYTES=size // 2) as listener:
        listener.tell(*LINES)
        until(lambda: listener.kept() == LINES)
        assert listener.stop() == 0
        listener.start()
        new = LINES[-1].replace("go.version", "new=line go.version")
        listener.tell(*LINES, new)
        until(lambda: listener.kept()[-1:] == [new])
        assert listener.kept() == [*LINES, new]


def test_a_line_that_comes_by_syslog_as_well_counts_once(tmp_path):
    with Piped(tmp_path, "--syslog-port", "0") as listener:
        assert f"udp port {listener.syslog_port} and standard input to" in listener.out
        listener.syslog(*(b"<27>1 - - - - - - " + line.encode() for line in LINES))
        until(lambda: sorted(listener.kept()) == sorted(LINES))
        listener.tell(*LINES, "one more")
        until(lambda: listener.kept()[-1:] == ["one more"])
        assert sorted(listener.kept()) == sorted([*LINES, "one more"])


def test_repeats_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(module.KnownLines, "MAX_LINES", 3)
    known = module.KnownLines(str(tmp_path / "none"))
    assert [known.is_new(line) for line in "abcabcd"] == [True] * 3 + [False] * 3 + [True]
    assert [known.is_new(line) for line in "dcba"] == [False] * 3 + [True]


def test_repeats_of_more_lines_than_are_remembered(tmp_path, monkeypatch):
    """What was kept before those that are remembered is old, whichever file it was in."""
    monkeypatch.setattr(module.KnownLines, "MAX_LINES", 3)
    lines = [f'time="2026-11-25T10:00:0{second}Z" level=info msg=x' for second in range(9)]
    path = tmp_path / "registry.log"
    for kept, rotated in ((lines[:8], []), (lines[4:8], lines[:4])):
        path.write_text("".join(line + "\n" for line in kept))
        path.with_name("registry.log.1").write_text("".join(line + "\n" for line in rotated))
        known = module.KnownLines(str(path))
        assert [line for line in [*lines[:3], "of that time", *lines[3:]]
                if known.is_new(line)] == lines[8:]


def test_a_line_that_was_kept_twice_is_known_as_long_as_the_newer(tmp_path, monkeypatch):
    monkeypatch.setattr(module.KnownLines, "MAX_LINES", 3)
    (tmp_path / "registry.log").write_text("a\nb\nb\n")
    known = module.KnownLines(str(tmp_path / "registry.log"))
    assert [line for line in "cdb" if known.is_new(line)] == ["c", "d"]


def test_the_end_of_the_input_is_said_and_the_listener_goes_on(tmp_path):
    with Piped(tmp_path) as listener:
        secret = "s3cret" * 50
        listener.tell(f"a last line without its end {'x' * 160} https://foo:{secret}@r".encode())
        listener.input.close()
        until(lambda: "standard input has ended after one line, a last line" in listener.err)
        assert "s3c" not in listener.err
        assert listener.err.count("\n") == 1 and "pulls end as unknown" in listener.err
        notice, = json.loads(listener.request("GET", "/pulls")[1])["notices"]
        assert f" {notice}\n" == listener.err[len("HH:MM:SS"):].replace("unknown\n", "unknown.\n")
        until(lambda: listener.kept() == [
            f"a last line without its end {'x' * 160} https://***@r"])
        assert listener.post(event()) == (200, "")
        assert listener.stop() == 0 and listener.err.count("\n") == 1


def hint_without_pipe(listener):
    until(lambda: "docker logs -f REGISTRY 2>&1 | python listener.py --registry-log -"
          in listener.err, lambda: listener.err)
    assert listener.post(event()) == (200, "")
    assert listener.stop() == 0
    assert listener.err.count("\n") == 1


def test_a_terminal_in_place_of_a_pipe_is_said_and_does_no_harm(tmp_path):
    ours, theirs = pty.openpty()
    with Listener(tmp_path, "--registry-log", "-", stdin=theirs) as listener:
        hint_without_pipe(listener)
    os.close(ours)
    os.close(theirs)


def test_a_closed_standard_input_is_said_and_does_no_harm(tmp_path):
    with Listener(tmp_path, "--registry-log", "-", preexec_fn=lambda: os.close(0)) as listener:
        hint_without_pipe(listener)


def test_a_line_without_an_end_is_cut_and_the_next_is_read(tmp_path):
    with Piped(tmp_path) as listener:
        listener.tell(b"before\n")
        for _ in range(100):
            listener.tell(b"x" * (1 << 20))
        listener.tell(b' time="forged"\nafter\n')
        until(lambda: listener.kept()[-1:] == ["after"])
        before, cut, after = listener.kept()
        assert (before, after) == ("before", "after") and set(cut) == {"x"}
        assert (listener.memory() or 0) < 100 << 20


def test_control_characters_and_broken_utf8_are_escaped(tmp_path):
    with Piped(tmp_path) as listener:
        listener.tell(b"\x1b[31mred\x07 \xff\xe2\x80\xae\r\n\x00\n")
        until(lambda: listener.kept() == [r"\x1b[31mred\x07 \xff\u202e", r"\x00"])
        assert listener.stop() == 0 and listener.err == ""


def test_a_line_of_json_stays_json(tmp_path):
    fields = {"msg": 'a "\xa0" \x7f\x85\xad\u202e\u2028\U000e0041 \\x1b \u00e9\U0001f600'}
    line = json.dumps(fields, ensure_ascii=False)
    with Piped(tmp_path, "--syslog-port", "0") as listener:
        listener.tell(f"registry-1  | {line}", f"{line}\x1b\r")
        until(lambda: len(listener.kept()) == 2)
        listener.syslog(f"<30>1 - - registry 1 - - {line}".encode())
        lines = kept_lines(listener, 3)
        assert "".join(lines).isprintable()
        assert json.loads(lines[0].partition("| ")[2]) == json.loads(lines[2]) == fields
        assert lines[1] == lines[2] + "\\u001b"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_the_middle_of_the_input(tmp_path, number):
    with Piped(tmp_path) as listener:
        listener.tell(b"the beginning of a li")
        assert listener.stop(number) == 0
        assert listener.err == ""
        listener.start()

        def flood():
            with pytest.raises(BrokenPipeError):
                for times in range(1 << 40):
                    listener.tell(b"".join(b"%d\n" % (times * 1000 + i) for i in range(1000)))

        writer = threading.Thread(target=flood)
        writer.start()
        until(lambda: listener.registry_log.stat().st_size > 100_000)
        assert listener.post(event()) == (200, "")
        assert listener.stop(number) == 0
        writer.join()
        assert listener.err == ""


@contextlib.contextmanager
def docker_logs(registry):
    """What `docker logs -f REGISTRY 2>&1` writes into a pipe."""
    process = subprocess.Popen(["docker", "logs", "-f", registry.name], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    try:
        yield process.stdout
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def downloads(listener):
    """How many downloads of blobs registry.log tells of, and how many log.log."""
    lines = re.findall(r"method=GET .*/blobs/sha256:.*response\.written",
                       listener.registry_log.read_text("utf-8"))
    return len(lines), sum("/blobs/" in each["target"]["url"] and each["action"] == "pull"
                           and each["request"]["method"] == "GET" for each in listener.events())


@pytest.mark.docker
@pytest.mark.parametrize("version", [2, 3])
def test_docker_logs_of_a_real_registry(tmp_path, version):
    """docker logs -f REGISTRY 2>&1 | python listener.py --registry-log -"""
    port = free_port()
    with Registry(tmp_path, f"http://127.0.0.1:{port}/log", version) as registry:
        registry.push("my/app", 30_000_000)
        for start in range(2):
            with docker_logs(registry) as logs, Faulty(
                    tmp_path, "--registry-log", "-", "--port", port, stdin=logs) as listener:
                registry.pull("my/app")
                until(lambda: "my/app:1  complete  30.0 MB" in listener.out, lambda: listener.out)
                registry.pull("my/app", cut=400)
                until(lambda: downloads(listener) == (4 * start + 4, 4 * start + 4))
                passing = itertools.count(31, 31)
                until(lambda: listener.pass_time(next(passing))
                      or "my/app:1  interrupted  " in listener.out, lambda: listener.out)
                assert listener.stop() == 0 and "Traceback" not in listener.err
        status, out, err = run(tmp_path, "pulls", "--json")
        pulls = [json.loads(line) for line in out.splitlines()]
        assert [pull["sent"] < pull["size"] for pull in pulls] == [False, True] * 2
        lines = listener.registry_log.read_text().splitlines()
        assert len(lines) == len(set(lines))


# ------------------------------------------------------------------------------ what nobody can see


@pytest.mark.parametrize("name", ["docker_complete-registry2_redirect",
                                  "docker_complete-registry3_redirect"])
def test_a_storage_that_redirects_is_why_pulls_are_unknown(tmp_path, name):
    with Piped(tmp_path) as listener:
        for each in recorded(name):
            assert listener.post(each) == (200, "")
        listener.tell(*recorded_lines(name))
        until(lambda: len(listener.kept()) == len(recorded_lines(name)))
        listener.request("GET", "/pulls")  # which is answered when all of that was followed
        passing = itertools.count(31, 31)
        until(lambda: listener.pass_time(next(passing)) or "  unknown  " in listener.out)
        until(lambda: "storage: {redirect: {disable: true}}" in listener.out)
        _, page = listener.request("GET", "/pulls")
        assert module.REDIRECTED in json.loads(page)["notices"]
    _, _, told = run(tmp_path, "pulls")
    assert told == f"listener: {module.REDIRECTED}\n"
