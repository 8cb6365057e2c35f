"""What stands on the console, and that nothing that becomes of it harms the log."""

import contextlib
import http.client
import json
import os
import pty
import re
import select
import shutil
import socket
import time

import pytest

from support.disk import Faulty
from support.process import CLOCK, MIB, Listener, free_port, run, until, written
from support.recordings import Recording, recorded, recorded_lines
from support.traffic import FOO, Client, Image, event, sample, stamp


def pushed(at, **members):
    return event(timestamp=stamp(at), **members)


# ---------------------------------------------------------------------------------------- its lines


def lines_of(listener, number):
    """The lines on the console after the first, once there are so many of them."""
    return until(lambda: len(listener.out.splitlines()) > number and listener.out.splitlines()[1:])


@pytest.mark.parametrize("zone, at", [("UTC0", "06:30:21"), ("JST-9", "15:30:21")])
def test_a_push_is_a_line_with_what_one_wants_to_know(tmp_path, zone, at):
    with Listener(tmp_path, env={"TZ": zone}) as listener:
        listener.post(sample())
        assert lines_of(listener, 1) == [
            f"11-24 {at} push  my/pushed:latest  3.0 MB in 2 layers  image dc787ee0e662  "
            "by foo from 172.29.0.1 (docker/20.10.24)"]


def test_other_events_are_a_line_each(tmp_path):
    def target(**members):
        return {"target": {"repository": "a/b", "digest": "sha256:" + "0123456789abcdef" * 4,
                           **members}, "request": {}, "actor": {}}
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with Listener(tmp_path, env={"TZ": "UTC0"}) as listener:
        for new in (
                event(action="push", timestamp=stamp,
                      **target(url="http://r/v2/a/b/blobs/x", size=1234)),
                event(action="mount", timestamp=stamp,
                      **target(url="http://r/v2/a/b/blobs/x", size=999, fromRepository="c/d")),
                event(action="delete", timestamp=stamp, **target(tag="v1")),
                event(action="delete", timestamp=stamp, **target()),
                event(action="levitate", timestamp="never", target=None, request=3, actor="x"),
                {}):
            listener.post(new)
        lines = lines_of(listener, 6)
    assert [line[8:] for line in lines[:5]] == [
        " push  a/b  layer 0123456789ab  1.2 kB",
        " mount  a/b  layer 0123456789ab  999 B  from c/d",
        " delete  a/b:v1",
        " delete  a/b@0123456789ab",
        " levitate  @?"]
    assert [line[:8] for line in lines[:5]] == [stamp[11:19]] * 4 + ["--:--:--"]


def test_a_pull_is_a_line_at_its_start_and_one_at_its_end(tmp_path):
    with Listener(tmp_path, "--syslog-port", "0", env={"TZ": "UTC0"}) as listener:
        for line in recorded_lines("docker_complete-registry2"):
            listener.syslog(b"<27>1 - - registry - - - " + line.encode())
        for new in recorded("docker_complete-registry2"):
            listener.post(new)
        assert lines_of(listener, 2) == [
            "11-24 06:28:55 pull  my/ubuntu:latest  started  11.0 MB in 4 layers  "
            "image ad98c2179f3d  by foo from 172.25.0.1 (docker/20.10.24)",
            "11-24 06:28:55 pull  my/ubuntu:latest  complete  11.0 MB after 0 s  "
            "by foo from 172.25.0.1 (docker/20.10.24)"]


def test_quiet_prints_no_events(tmp_path):
    with Listener(tmp_path, "--quiet") as listener:
        first = listener.out
        for new in [*recorded("docker_complete-registry2"), sample(), event(action="x")]:
            listener.post(new)
        listener.stop()
        assert listener.out == first
        assert listener.err == ""


@pytest.mark.parametrize("env, coloured", [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_gets_colours_unless_no_color_is_set(tmp_path, env, coloured):
    ours, theirs = pty.openpty()
    with contextlib.closing(os.fdopen(ours, "rb", 0)) as terminal:
        with Listener(tmp_path, env=env, start=False, stdout=theirs) as listener:
            listener.launch()
            os.close(theirs)
            shown = terminal.read(1000)
            listener.port = int(re.search(rb":(\d+),", shown)[1])
            listener.post(sample())
            while shown.count(b"\n") < 2:
                shown += terminal.read(1000)
    line = shown.splitlines()[1]
    assert b"my/pushed:latest" in line
    assert (b"\x1b[" in line) == coloured
    if coloured:
        assert re.fullmatch(rb"\x1b\[\d+m[^\x1b]+\x1b\[0m", line)


def test_a_file_gets_no_colours(listener):
    listener.post(sample())
    lines_of(listener, 1)
    assert "\x1b" not in listener.out


def test_a_refusal_is_a_line_on_stderr(listener):
    listener.post(b"{}")
    said = until(lambda: listener.err)
    assert re.fullmatch(rf"{CLOCK} 127\.0\.0\.1 was refused with 400: [^\n]+\n", said)


def test_every_line_bears_the_time(tmp_path):
    with Faulty(tmp_path, "--syslog-port", "0") as listener:
        listener.post(pushed(time.time()))
        listener.post(b"no JSON")
        listener.fault("fsync")
        assert listener.post(event())[0] == 503
        listener.fault("")
        assert listener.post(pushed(time.time()))[0] == 200
        until(lambda: "can be written again" in listener.err and listener.out.count("\n") >= 3,
              lambda: listener.out + listener.err)
    lines = listener.out.splitlines() + listener.err.splitlines()
    assert len(lines) >= 6 and all(re.match(CLOCK + " ", line) for line in lines), lines


def test_what_is_of_another_day_bears_its_date(tmp_path):
    with Listener(tmp_path, env={"TZ": "UTC0"}) as listener:
        now = time.time()
        for at in (now, now - 3 * 86400, now - 400 * 86400):
            listener.post(pushed(at))
        until(lambda: listener.out.count("\n") == 4)
    _, *lines = listener.out.splitlines()
    assert [line.partition(" push")[0] for line in lines] == [
        stamp(now)[11:19], stamp(now - 3 * 86400)[5:19].replace("T", " "),
        stamp(now - 400 * 86400)[5:19].replace("T", " ")]


def test_what_was_said_before_a_start_that_fails_is_said(tmp_path):
    written(tmp_path, b'{"id":"whole"}\n{"id":"to')
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        status, out, err = run(tmp_path, "--host", "127.0.0.1", "--port", taken.getsockname()[1])
    assert (status, out) == (1, "")
    first, last = err.splitlines()
    assert re.match(CLOCK + ".* log.log|" + CLOCK + ".*log", first)
    assert last.startswith("listener: cannot listen on 127.0.0.1")


def test_a_flood_of_refusals_is_a_few_lines_and_a_number(tmp_path):
    with Listener(tmp_path) as listener:
        for _ in range(20):
            listener.raw(b"POST /log HTTP/1.1\r\nContent-Length: 0\r\n\r\n" * 50)
            for _ in range(10):
                listener.post(b"{}")
        told = re.compile(CLOCK + r" 127\.0\.0\.1 was refused with 400: (?:and (\d+) more$|.)")

        def refused():
            return sum(int(told.match(line)[1] or 1) for line in listener.err.splitlines())
        until(lambda: refused() >= 220, lambda: listener.err)
        assert refused() == 220 and listener.err.count("\n") < 60


def test_of_many_clients_that_are_refused_few_are_named(tmp_path):
    with Listener(tmp_path) as listener:
        sent = 0

        def flood():
            nonlocal sent
            for number in range(30):
                with socket.create_connection(("127.0.0.1", listener.port), 20,
                                              (f"127.0.1.{number + 1}", 0)) as client:
                    client.sendall(b"POST /log HTTP/1.1\r\n\r\n")
                    assert b" 411 " in client.recv(1000)
                    sent += 1
        until(lambda: flood() or "others were refused: " in listener.err, lambda: listener.err)
        told = re.compile(CLOCK + r" (?:127\.0\.1\.\d+|others) (?:was|were) refused(?: with 411)?: "
                          r"(?:(?:and )?(\d+) more$|no Content-Length$)")
        until(lambda: sum(int(told.match(line)[1] or 1) for line in listener.err.splitlines())
              == sent, lambda: listener.err)


# ----------------------------------------------------------------------------- where nobody listens


def launch_into_a_pipe(listener):
    """Start it with a pipe for its console; the end that the console could be read from."""
    ours, theirs = os.pipe()
    listener.popen["stdout"] = theirs
    listener.launch()
    os.close(theirs)
    listener.port = int(re.search(rb":(\d+),", os.read(ours, 1000))[1])
    return ours


def test_a_console_that_nobody_reads_holds_nobody_up(tmp_path):
    """Neither senders nor the end: it is a stopped terminal, or a pipe to a stuck process."""
    with Listener(tmp_path, start=False) as listener:
        ours = launch_into_a_pipe(listener)
        for _ in range(20):
            assert listener.post([event() for _ in range(100)])[0] == 200
        assert listener.stop() == 0
        assert len(listener.events()) == 2000
    os.close(ours)


def test_a_console_that_is_gone_does_no_harm(tmp_path):
    with Listener(tmp_path, start=False) as listener:
        ours = launch_into_a_pipe(listener)
        os.close(ours)
        for _ in range(3):
            assert listener.post(event()) == (200, "")
        assert listener.stop() == 0
        assert "Traceback" not in listener.err
        assert len(listener.events()) == 3


def full():
    return os.open("/dev/full", os.O_WRONLY)


def broken():
    ours, theirs = os.pipe()
    os.close(ours)
    return theirs


def unread():
    """A pipe that is full from the start; its other end stays open."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(theirs, b"x" * 4096)
    os.set_blocking(theirs, True)
    unread.open.append(ours)
    return theirs


unread.open = []


@pytest.mark.parametrize("kind", [full, broken, unread, None], ids=lambda kind: getattr(
    kind, "__name__", "closed"))
def test_it_serves_and_ends_whatever_becomes_of_its_words(tmp_path, kind):
    """Stdout and stderr are full, broken, a pipe that nobody reads, or closed."""
    port = free_port()
    listener = Listener(tmp_path, "--port", port, start=False)
    listener.port = port
    if kind:
        out, err = kind(), kind()
        listener.popen.update(stdout=out, stderr=err)
        listener.launch()
        os.close(out)
        os.close(err)
    else:
        listener.popen["preexec_fn"] = lambda: (os.close(1), os.close(2))
        listener.launch()

    def answers():
        with contextlib.suppress(OSError):
            return listener.post(event()) == (200, "")
    with listener:
        until(answers, "an answer")
        for _ in range(300):
            listener.post(b"no JSON")
        assert listener.post([event() for _ in range(300)]) == (200, "")
        assert listener.request("GET", "/pulls")[0] == 200
        assert listener.stop() == 0
        assert len(listener.events()) == 301
    while unread.open:
        os.close(unread.open.pop())


def test_an_error_in_showing_is_one_line_and_not_the_end(tmp_path):
    with Faulty(tmp_path, MAX_SHOWN_TEXT="not a number") as listener:
        for number in range(20):
            assert listener.post(pushed(time.time(), id=f"{number}")) == (200, "")
        until(lambda: "internal error" in listener.err, lambda: listener.err)
        assert listener.post({"action": "other", "id": "x"}) == (200, "")
        until(lambda: " other " in listener.out, lambda: listener.out)
        assert listener.err.count("\n") == 1 and "Traceback" not in listener.err
        assert len(listener.events()) == 21


# ------------------------------------------------------------------------------------------- memory


def test_memory_is_bounded_while_nobody_reads(tmp_path):
    """Log lines of 16 KiB as fast as they come, and events, with a stdout that nobody reads."""
    ours, theirs = os.pipe()
    with Listener(tmp_path, "--syslog-port", "0", "--verbose", start=False,
                  stdout=theirs) as listener:
        listener.launch()
        os.close(theirs)
        said = os.read(ours, 1000).decode()
        listener.port = int(re.search(r":(\d+),", said)[1])
        listener.syslog_port = int(re.search(r"udp port (\d+)", said)[1])
        line = FOO.line(time.time(), "ID", "sha256:" + "0" * 64, "authorized request")
        wide = "<27>1 - - registry - - - " + line + " " + "\u00e9" * 8000
        long = {"repository": "\U0001f40b" * 1000, "tag": "\U0001f40b" * 1000}
        for number in range(150):
            listener.syslog(*[wide.replace("ID", f"{number}-{each}").encode()[:16 << 10]
                              for each in range(40)])
            assert listener.post([event(target=long) for _ in range(100)])[0] == 200
        assert listener.request("GET", "/pulls")[0] == 200
        assert listener.memory() < 150 * MIB
        assert listener.stop() == 0
    os.close(ours)


# ----------------------------------------------------------------------------------------- restarts


def said(listener):
    """What was said of pulls: (image, what)."""
    return re.findall(r" pull  (\S+)  (started|complete|interrupted|unknown|up to date|goes on)",
                      listener.out)


def hear_of_two_pulls(listener):
    """One that is complete and one that is interrupted, which it says; and what it has said."""
    for name in ("docker_complete-registry2", "skopeo_interrupted-registry2"):
        Recording(name).just_now().play(listener)
    until(lambda: "complete" in listener.out)
    listener.pass_time(40)
    until(lambda: "interrupted" in listener.out, lambda: listener.out)
    return said(listener)


def test_a_restart_repeats_nothing_after_kill_9_in_a_rotation(tmp_path):
    """When log.log is renamed, and the next one is not there yet."""
    with Faulty(tmp_path, "--syslog-port", "0") as listener:
        before = hear_of_two_pulls(listener)
        listener.kill()
        listener.log.rename(listener.log.with_name("log.log.1"))
        listener.pass_time(0)
        listener.start()
        listener.post(pushed(time.time()))
        until(lambda: " push " in listener.out)
        listener.pass_time(80)
        for number in (2, 3):  # the time is looked at after the second is shown
            listener.post(pushed(time.time()))
            until(lambda: listener.out.count(" push ") == number)
        assert said(listener) == [] and before


def test_a_restart_repeats_nothing_after_logrotates_create(tmp_path):
    """An empty log.log in the place of the old one; that was written until a pull had begun."""
    with Faulty(tmp_path, "--syslog-port", "0") as listener:
        recording = Recording("skopeo_interrupted-registry2").just_now()
        recording.play(listener)
        until(lambda: "started" in listener.out)
        listener.log.rename(listener.log.with_name("log.log.1"))
        listener.log.write_bytes(b"")
        listener.pass_time(40)
        until(lambda: "interrupted" in listener.out, lambda: listener.out)
        listener.kill()
        listener.start()
        listener.pass_time(80)
        listener.post(pushed(time.time()))
        until(lambda: " push " in listener.out)
        assert said(listener) == []


def test_a_restart_repeats_nothing_whose_events_came_late(tmp_path):
    recording = Recording("docker_complete-registry2").just_now()
    events = recording.events.splitlines(keepends=True)
    events.sort(key=lambda line: b"/manifests/" in line)
    recording.events = b"".join(events)
    recording.write(tmp_path / "listener_log")
    with Faulty(tmp_path, "--syslog-port", "0") as listener:
        assert json.loads(listener.request("GET", "/pulls")[1])["pulls"][0]["verdict"] == "complete"
        listener.pass_time(40)
        listener.post(pushed(time.time()))
        until(lambda: " push " in listener.out)
        assert said(listener) == []


def test_a_rotation_just_after_the_start_shows_no_event_twice(tmp_path):
    """The old file is read while its name is already another's."""
    target = sample()["target"]
    pulls = b"".join(json.dumps(new).encode() + b"\n"
                     for new in recorded("docker_complete-registry2"))
    written(tmp_path, pulls * (15 * MIB // len(pulls)), "log.log.1")
    old, new = pushed(time.time(), target={**target, "tag": "old" * 100}), pushed(time.time())
    written(tmp_path, json.dumps(old, separators=(",", ":")).encode() + b"\n")
    with Listener(tmp_path, "--rotate", "100:3") as listener:
        assert listener.post(new) == (200, "")
        shown = json.loads(listener.request("GET", "/pulls")[1])["pushes"]
        assert [push["image"].rpartition(":")[2] for push in shown] == [target["tag"], "old" * 100]


def test_a_restart_repeats_nothing(tmp_path):
    """Neither what ended long before it, nor what was interrupted just before it."""
    with Faulty(tmp_path, "--syslog-port", "0") as listener:
        before = hear_of_two_pulls(listener)
        listener.stop()
        listener.pass_time(0)
        listener.start()
        listener.post(pushed(time.time()))
        pulls = json.loads(listener.request("GET", "/pulls")[1])
        until(lambda: " push " in listener.out)
        listener.pass_time(80)
        listener.post(pushed(time.time(), id="second"))
        until(lambda: listener.out.count(" push ") == 2)
        assert said(listener) == []
    assert {pull["verdict"] for pull in pulls["pulls"]} == {"complete", "interrupted"}
    assert len(pulls["pulls"]) == len([what for _, what in before if what != "started"])


@pytest.fixture(scope="module")
def long_past(tmp_path_factory):
    """Files that take a listener a while to read at its start: some 20,000 pulls of a day."""
    folder = tmp_path_factory.mktemp("past") / "listener_log"
    folder.mkdir()
    now = time.time()
    client, image = Client(repository="old/app"), Image()
    with open(folder / "log.log", "w") as log:
        for number in range(20_000):
            new = client.event(now - 86400 + number, f"m{number}", image.digest, 800, "manifests",
                               "GET", f"{number}", image.references, image.media_type)
            print(json.dumps(new, separators=(",", ":")), file=log)
    return folder


def test_it_listens_first_and_reads_its_files_afterwards(long_past, tmp_path):
    """What comes meanwhile is kept at once, and followed when that is done."""
    shutil.copytree(long_past, tmp_path / "listener_log")
    with Listener(tmp_path) as listener:
        asked = http.client.HTTPConnection("127.0.0.1", listener.port, timeout=60)
        asked.request("GET", "/pulls")
        assert listener.post(pushed(time.time(), id="new")) == (200, "")
        assert not select.select([asked.sock], [], [], 0)[0], "the files are not that long"
        assert listener.ids()[-1] == "new"
        found = json.loads(asked.getresponse().read())
        assert len(found["pulls"]) > 50 and found["pulls"][0]["repository"] == "old/app"
        until(lambda: " push " in listener.out)
        assert "old/app" not in listener.out and listener.err == ""
        asked.close()


def test_it_ends_at_once_while_it_reads_its_files(long_past, tmp_path):
    shutil.copytree(long_past, tmp_path / "listener_log")
    with Faulty(tmp_path) as listener:
        asked = http.client.HTTPConnection("127.0.0.1", listener.port, timeout=60)
        asked.request("GET", "/pulls")
        assert listener.health()[0] == 200
        assert listener.stop() == 0
        with pytest.raises((http.client.HTTPException, OSError)):  # it was not done with them
            asked.getresponse()
        asked.close()


def test_files_that_cannot_be_read_keep_nothing_from_being_told(tmp_path):
    written(tmp_path, b'[1]\n{}\n{"action":"pull"}\n{"action":"push","target":"/manifests/"}\n'
            + b'{"events":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n{\xff}\n{}\n")
    written(tmp_path, b"\xff\0\n" * 1000, "registry.log")
    with Listener(tmp_path) as listener:
        assert listener.post(pushed(time.time())) == (200, "")
        until(lambda: " push " in listener.out)
        assert listener.request("GET", "/pulls")[0] == 200
        assert listener.err == ""


def test_what_ends_while_nobody_listens_is_said_after_the_restart(tmp_path):
    with Faulty(tmp_path, "--syslog-port", "0") as listener:
        Recording("skopeo_interrupted-registry2").just_now().play(listener)
        until(lambda: "started" in listener.out)
        listener.kill()
        listener.start()
        listener.pass_time(40)
        until(lambda: said(listener), lambda: listener.out + listener.err)
        assert [what for _, what in said(listener)] == ["interrupted"]
