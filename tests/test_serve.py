"""What `serve` promises, asked of a real process through its command line, sockets and files."""

import concurrent.futures
import contextlib
import http.client
import json
import os
import pty
import random
import re
import select
import shutil
import signal
import socket
import ssl
import time

import pytest
from support import HERE
from support.disk import Faulty
from support.process import (CLOCK, Listener, drain, make_certificate, need, read_log, request, run,
                             statuses, until)
from support.recordings import recorded, recorded_lines
from support.traffic import envelope, event, sample

MIB = 1 << 20


@pytest.fixture
def listener(tmp_path):
    with Listener(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """For tests that leave nothing behind but events."""
    with Listener(tmp_path_factory.mktemp("shared"), "--quiet") as made:
        yield made


# ---------------------------------------------------------------------------------- command line


def test_it_makes_the_folder_and_says_where_it_listens_and_writes(listener):
    assert re.fullmatch(rf"{CLOCK} listening on http://0\.0\.0\.0:{listener.port}, "
                        r"writing to listener_log/log\.log\n", listener.out)
    assert listener.log.read_bytes() == b""
    assert not listener.registry_log.exists()


def test_the_command_serve_may_be_named(tmp_path):
    with Listener(tmp_path, "serve", "--host", "127.0.0.1", "--log", "a/b/c.log") as listener:
        assert listener.post(event())[0] == 200
        assert len(read_log(tmp_path / "a" / "b" / "c.log")) == 1


def test_it_listens_on_ipv6(tmp_path):
    with contextlib.closing(socket.socket(socket.AF_INET6)) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error}")
    with Listener(tmp_path, "--host", "::1") as listener:
        assert f"http://[::1]:{listener.port}," in listener.out
        with socket.create_connection(("::1", listener.port), 20) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n")
            assert statuses(drain(connection)) == [200]


def test_help_names_the_commands_and_the_defaults(tmp_path):
    status, out, err = run(tmp_path, "--help")
    assert (status, err) == (0, "") and "serve" in out and "pulls" in out
    status, out, err = run(tmp_path, "serve", "--help")
    assert (status, err) == (0, "")
    for word in ("8086", "0.0.0.0", "listener_log/log.log", "--syslog-port", "--token-file",
                 "--tls-cert", "--tls-key", "--quiet"):
        assert word in out


@pytest.mark.parametrize("options", [
    ["--port", "65536"], ["--port", "-1"], ["--port", "http"], ["--no-such-option"], ["other"],
    ["--tls-cert", "a.pem"], ["--tls-key", "a.pem"], ["--syslog-port", "x"]])
def test_wrong_usage_is_exit_2(tmp_path, options):
    status, out, err = run(tmp_path, *options)
    assert (status, out) == (2, "")
    assert "usage:" in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options, why", [
    (["--log", "folder"], "folder"),
    (["--log", "file/log.log"], "file/log.log"),
    (["--log", os.devnull], "not a regular file"),
    (["--log", ""], "cannot write"),
    (["--token-file", "missing"], "missing"),
    (["--token-file", "empty"], "no token in empty"),
    (["--tls-cert", "missing", "--tls-key", "file"], "missing"),
    (["--tls-cert", "file", "--tls-key", "file"], "certificate"),
    (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
    (["--host", "a..b"], "a..b")])
def test_what_cannot_be_is_exit_1_and_one_line_that_says_why(tmp_path, options, why):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("no certificate\n")
    (tmp_path / "empty").write_text("\n")
    cannot(run(tmp_path, "--port", "0", *options), why)


def cannot(done, *words):
    status, out, err = done
    assert (status, out) == (1, "")
    assert re.fullmatch(r"listener: [^\n]+\n", err), err
    for word in words:
        assert word in err


def test_a_second_listener_on_the_same_log_or_port_stops(tmp_path):
    with Listener(tmp_path, "--syslog-port", "0") as first:
        cannot(run(tmp_path, "--port", "0"), "listener_log/log.log", "another listener")
        os.symlink(first.log, tmp_path / "other_name.log")
        cannot(run(tmp_path, "--port", "0", "--log", "other_name.log"), "another listener")
        cannot(run(tmp_path, "--port", "0", "--log", "listener_log/other.log", "--syslog-port",
                   "0"), "listener_log/registry.log", "another listener")
        cannot(run(tmp_path, "--port", first.port, "--log", "free/log.log"), str(first.port))
        cannot(run(tmp_path, "--port", "0", "--log", "free/log.log", "--syslog-port",
                   first.syslog_port), f"udp 0.0.0.0:{first.syslog_port}")
        assert first.post(event())[0] == 200
        assert len(first.events()) == 1


# ------------------------------------------------------------------------------------------ HTTP


@pytest.mark.parametrize("path", ["/log", "/", "/a/b%20c?d=e", "//log", "/healthz"])
def test_a_post_to_any_path_is_taken(shared, path):
    new = event()
    assert shared.post(new, path) == (200, "")
    assert shared.headers["Content-Length"] == "0"
    assert shared.events()[-1] == new


@pytest.mark.parametrize("content_type", [
    "application/vnd.docker.distribution.events.v1+json",
    "application/vnd.docker.distribution.events.v2+json",
    "application/json; charset=utf-8", "text/plain", "nonsense", "", None])
def test_any_content_type_is_taken(shared, content_type):
    new = event()
    assert shared.post(new, Content_Type=content_type) == (200, "")
    assert shared.events()[-1] == new


BAD = {
    "nothing": b"",
    "no JSON": b"hello",
    "an envelope cut short": envelope(event())[:-1],
    "something behind it": envelope(event()) + b"x",
    "two envelopes": envelope(event()) * 2,
    "not UTF-8": b'{"events":[{"id":"\xff"}]}',
    "UTF-16": envelope(event()).decode().encode("utf-16"),
    "a surrogate in UTF-8": b'{"events":[{"id":"\xed\xa0\x80"}]}',
    "a list": b"[]",
    "null": b"null",
    "no events": b"{}",
    "events null": b'{"events":null}',
    "events an object": b'{"events":{}}',
    "events a string": b'{"events":"[]"}',
    "Events": b'{"Events":[]}',
    "an event that is null": b'{"events":[null]}',
    "an event that is a string": b'{"events":["push"]}',
    "an event that is a list": b'{"events":[[]]}',
    "a bad one behind a good one": envelope([event(), 1]),
    "NaN": b'{"events":[{"id":"n","size":NaN}]}',
    "Infinity": b'{"events":[{"id":"n","size":-Infinity}]}',
    "NaN beside the events": b'{"version":NaN,"events":[{"id":"n"}]}',
    "a raw control character": b'{"events":[{"id":"a\nb"}]}',
    "nested too deeply": b'{"events":[' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"]}",
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_what_is_no_envelope_is_refused_and_nothing_of_it_written(shared, body):
    before = shared.log.read_bytes()
    status, text = shared.post(body)
    assert status == 400
    assert re.fullmatch(r"[^\n]+\n", text)
    assert shared.log.read_bytes() == before


@pytest.mark.parametrize("headers, status", [
    ("", 411),
    ("Content-Length: many\r\n", 400),
    ("Content-Length: -1\r\n", 400),
    ("Content-Length: +2\r\n", 400),
    ("Content-Length: 2, 2\r\n", 400),
    ("Content-Length: 2\r\nContent-Length: 2\r\n", 400),
    (f"Content-Length: {8 * MIB + 1}\r\n", 413),
    (f"Content-Length: {10 ** 30}\r\n", 413),
    ("Content-Length: 2\r\nContent-Encoding: gzip\r\n", 415),
    ("Transfer-Encoding: chunked\r\n", 501),
    ("Transfer-Encoding: gzip, chunked\r\n", 501),
    ("Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", 400)])
def test_a_body_that_is_not_taken_is_not_waited_for(shared, headers, status):
    """The answer comes though the body never does, and says in a line what was wrong."""
    answer = shared.raw(f"POST /log HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode(),
                        half_close=False, seconds=8)
    assert statuses(answer) == [status]
    head, _, text = answer.partition(b"\r\n\r\n")
    assert b"\r\nConnection: close" in head
    assert re.fullmatch(rb"[^\n]+\n", text)


def test_a_body_of_8_mib_is_taken(listener):
    new = event(padding="")
    new["padding"] = "x" * (8 * MIB - len(envelope(new)))
    assert len(envelope(new)) == 8 * MIB
    assert listener.post(new) == (200, "")
    assert listener.events() == [new]


def test_a_plain_encoding_may_be_named(shared):
    assert shared.post(event(), Content_Encoding="identity") == (200, "")


@pytest.mark.parametrize("method, path, status, allow", [
    ("GET", "/x", 404, None), ("GET", "/log", 404, None), ("HEAD", "/log", 404, None),
    ("PUT", "/log", 405, "POST"), ("DELETE", "/log", 405, "POST"),
    ("PATCH", "/pulls", 405, "GET, HEAD, POST"), ("OPTIONS", "/log", 405, "POST"),
    ("TRACE", "/log", 405, "POST"), ("BREW", "/log", 405, "POST"), ("post", "/log", 405, "POST"),
    ("PUT", "/healthz", 405, "GET, HEAD, POST")])
def test_other_methods_and_paths(shared, method, path, status, allow):
    body = envelope(event()) if method not in ("GET", "HEAD") else None
    before = shared.log.read_bytes()
    assert shared.request(method, path, body)[0] == status
    assert shared.headers["Allow"] == allow
    assert shared.log.read_bytes() == before


def test_healthz(listener):
    assert listener.health() == (200, {"status": "ok", "events": 0, "duplicates": 0})
    new = event()
    listener.post(new)
    listener.post(new)
    assert listener.health() == (200, {"status": "ok", "events": 1, "duplicates": 1})
    assert listener.headers["Content-Type"].startswith("application/json")
    assert listener.request("HEAD", "/healthz") == (200, "")
    assert listener.request("GET", "/healthz?verbose")[0] == 200


@pytest.mark.parametrize("line", ["POST /log HTTP/2.0", "POST /log HTTP/9", "POST /log",
                                  "POST", "GET /healthz", "POST /log HTTP/1.1 x", "\x16\x03\x01",
                                  pytest.param("POST /" + "a" * 70_000 + " HTTP/1.1", id="long")])
def test_what_is_no_request_is_the_clients_fault(shared, line):
    answer = shared.raw(line.encode() + b"\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
    assert all(400 <= status < 500 for status in statuses(answer)), answer
    assert shared.health()[0] == 200


def test_http_1_0_is_taken(shared):
    new = event()
    body = envelope(new)
    answer = shared.raw(b"POST /log HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body,
                        half_close=False)
    assert statuses(answer) == [200]
    assert shared.events()[-1] == new


def test_a_connection_may_be_kept_open(shared):
    news = [event() for _ in range(3)]
    connection = http.client.HTTPConnection("127.0.0.1", shared.port, timeout=20)
    with contextlib.closing(connection):
        for new in news:
            connection.request("POST", "/log", envelope(new))
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b"")
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
    assert shared.events()[-3:] == news


def test_requests_may_come_all_at_once(shared):
    news = [event() for _ in range(5)]
    bodies = [envelope(new) for new in news]
    answer = shared.raw(b"".join(map(request, bodies)))
    assert statuses(answer) == [200] * 5
    assert shared.events()[-5:] == news


def test_questions_and_events_may_come_all_at_once(shared):
    """And each gets its own answer, in order, also where a client is slow to read them."""
    chance, events, sent = random.Random(3), [], b""
    for _ in range(1500):
        if chance.random() < 0.5:
            sent += b"GET /healthz HTTP/1.1\r\n\r\n"
        else:
            events.append(event(padding="x" * chance.choice([0, 100, 2000, 30_000])))
            sent += request(envelope(events[-1]))
    before = len(shared.events())
    assert statuses(shared.raw(sent)) == [200] * 1500
    assert shared.events()[before:] == events


def test_who_reads_late_gets_each_answer_once(shared):
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", shared.port))
        ask = b"GET /healthz HTTP/1.1\r\nX: %b\r\n\r\n" % (b"x" * 500)
        rest = ask * 40_000 + request(b"{}")  # more than the kernel keeps for either side
        while select.select([], [connection], [], 0.5)[1]:  # until the listener takes no more
            rest = rest[connection.send(rest[:100_000]):]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            answers = pool.submit(drain, connection)
            connection.sendall(rest)
            assert statuses(answers.result()) == [200] * 40_000 + [400]


def test_a_client_may_wait_for_leave_to_send_the_body(shared):
    body = envelope(event())
    with shared.connect() as connection:
        connection.sendall(b"POST /log HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
                           b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body))
        assert statuses(connection.recv(1000)) == [100]
        connection.sendall(body)
        assert statuses(drain(connection)) == [200]
    refused = shared.raw(b"POST /log HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
                         b"Content-Length: 9000000\r\n\r\n", half_close=False)
    assert statuses(refused) == [413]


def test_a_body_that_ends_early_is_not_taken(shared):
    body = envelope(event())
    before = shared.log.read_bytes()
    answer = shared.raw(b"POST /log HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
                        % (len(body) + 1) + body)
    assert statuses(answer) == [400]
    assert shared.log.read_bytes() == before


# ------------------------------------------------------------------------------------ what is kept

STRANGE = [
    {"id": "1", "action": "levitate", "zzz": 1, "aaa": {"b": [None, True, -0.5, 1e-9, [], {}]}},
    {"action": "push", "id": "2", "target": "no object", "request": [], "actor": 7},
    {"id": "3", "timestamp": 12, "action": None, "target": {"size": "big", "references": {}}},
    {"id": "4", "text": "äöü 漢字 \U0001f600 \u2028 \x7f \x00 \\u0041 \" / \t"},
    {"id": "5", "big": 2 ** 64, "bigger": 10 ** 100, "less": -(2 ** 70)},
    {"id": "6", "lone": "a\ud800b", "\udfff": "as a name", "back": "\\\ud83d"},
    {"id": "7", "": "", "id ": "other"},
    {"id": 8}, {"id": ["9"]}, {"id": ""}, {"id": None}, {},
]


def test_the_log_has_every_event_exactly_as_it_came(listener):
    """A line each: compact, in UTF-8, with every member in its order, and nothing added."""
    events = [*recorded("docker_complete-registry2"), *recorded("push_only-registry2"), *STRANGE]
    for new in events:
        assert listener.post(new) == (200, "")
    assert listener.log.read_bytes().decode("utf-8") == "".join(
        json.dumps(new, ensure_ascii=False, separators=(",", ":"))
        .encode("utf-8", "backslashreplace").decode("utf-8").replace("\x7f", "\\u007f") + "\n"
        for new in events)
    assert listener.events() == events
    assert "Traceback" not in listener.err


def test_events_of_one_envelope_are_kept_in_their_order(listener):
    events = [event() for _ in range(20)]
    assert listener.post(events) == (200, "")
    assert listener.post([]) == (200, "")
    assert listener.events() == events


def test_members_of_the_envelope_beside_the_events_are_no_matter(listener):
    assert listener.post(b'{"version":3,"events":[{"id":"a"}],"more":[1]}') == (200, "")
    assert listener.log.read_bytes() == b'{"id":"a"}\n'


def test_an_event_is_written_once(listener):
    new, other = event(), event()
    assert listener.post(new) == (200, "")
    assert listener.post(new) == (200, "")
    assert listener.post([other, new, other, {**new, "action": "pull"}]) == (200, "")
    assert listener.events() == [new, other]


def test_events_without_an_id_are_all_written(listener):
    for nameless in ({}, {"id": ""}, {"id": None}, {"id": 1}):
        assert listener.post([nameless, nameless]) == (200, "")
        assert listener.post(nameless) == (200, "")
    assert len(listener.events()) == 12


def test_ids_are_remembered_over_a_restart(listener):
    old = [event() for _ in range(3)]
    listener.post(old)
    for end in (listener.stop, listener.kill):
        end()
        listener.start()
        assert listener.post(old) == (200, "")
        assert listener.ids() == [one["id"] for one in old]
    assert listener.health()[1]["events"] == 0


def test_the_last_100_000_ids_are_remembered_over_a_restart(tmp_path):
    log = tmp_path / "listener_log" / "log.log"
    log.parent.mkdir()
    log.write_bytes(b"".join(b'{"id":"%d"}\n' % number for number in range(100_500)))
    with Listener(tmp_path) as listener:
        before = log.read_bytes()
        assert listener.post([{"id": "500"}, {"id": "100499"}, {"id": "50000"}]) == (200, "")
        assert log.read_bytes() == before
        assert listener.post({"id": "new"}) == (200, "")
        assert log.read_bytes() == before + b'{"id":"new"}\n'


def test_lines_that_nobody_can_read_do_not_keep_it_from_starting(tmp_path):
    log = tmp_path / "listener_log" / "log.log"
    log.parent.mkdir()
    before = b'\xff\n{"id":"a"\n[]\n"id"\n\n' + b"[" * 100_000 + b'\n{"id":"b"}\n'
    log.write_bytes(before)
    with Listener(tmp_path) as listener:
        assert listener.post([{"id": "b"}, {"id": "c"}]) == (200, "")
        assert log.read_bytes() == before + b'{"id":"c"}\n'
        assert listener.err == ""


# ----------------------------------------------------------------------------------------- console


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


def test_a_refusal_is_a_line_on_stderr(listener):
    listener.post(b"{}")
    said = until(lambda: listener.err)
    assert re.fullmatch(rf"{CLOCK} 127\.0\.0\.1 was refused with 400: [^\n]+\n", said)


# ------------------------------------------------------------------------------------------ the end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_whoever_is_connected(tmp_path, number):
    """It waits for nobody, as these would have a thousand seconds."""
    with Faulty(tmp_path, "--syslog-port", "0", REQUEST_SECONDS=1000) as listener, \
            contextlib.ExitStack() as open_ones:
        for begun in (b"", b"", b"POST /log HT", b"POST /log HTTP/1.1\r\nHost: x\r\n",
                      b"POST /log HTTP/1.1\r\nContent-Length: 100\r\n\r\n{",
                      b"GET /healthz HTTP/1.1\r\n\r\n", b"nonsense\r\n\r\n"):
            open_ones.enter_context(listener.connect()).sendall(begun)
        assert listener.post(event())[0] == 200
        assert listener.stop(number) == 0
        assert "Traceback" not in listener.err
        assert len(listener.events()) == 1
        listener.start()  # and leaves nothing in the way
        assert listener.post(event())[0] == 200


def test_it_ends_when_told_so_before_it_listens(tmp_path):
    """With a big log to read at the start, the signal comes while it does."""
    log = tmp_path / "listener_log" / "log.log"
    log.parent.mkdir()
    log.write_bytes(b"".join(b'{"id":"%d"}\n' % number for number in range(200_000)))
    with Listener(tmp_path, start=False) as listener:
        listener.launch()
        descriptors = f"/proc/{listener.process.pid}/fd"
        if not os.path.isdir(descriptors):
            pytest.skip("no /proc here, which tells how far it is")
        until(lambda: any(os.path.realpath(f"{descriptors}/{name}") == str(log)
                          for name in os.listdir(descriptors)))
        assert listener.stop() == 0


# --------------------------------------------------------------------------------- TLS and tokens


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    need("" if shutil.which("openssl") else "it is not installed", "openssl")
    return make_certificate(tmp_path_factory.mktemp("certificate"))


def test_https(tmp_path, certificate):
    key, cert, trusting = certificate
    with Faulty(tmp_path, "--tls-cert", cert, "--tls-key", key, REQUEST_SECONDS=1000) as listener:
        assert f"https://0.0.0.0:{listener.port}," in listener.out
        big = event(padding="x" * 2 * MIB)
        with listener.connect(), listener.connect() as half:  # who says nothing is in nobody's way
            half.sendall(b"\x16\x03\x01")
            assert listener.post(big, tls=trusting) == (200, "")
            assert listener.post(b"{}", tls=trusting)[0] == 400
            assert listener.request("GET", "/healthz", tls=trusting)[0] == 200
            with pytest.raises(ssl.SSLError):
                listener.post(event(), tls=ssl.create_default_context())
            answer = listener.raw(b"POST /log HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
            assert b"200" not in answer
            assert listener.post(big, tls=trusting) == (200, "")
            assert listener.events() == [big]
            hint = until(lambda: [line for line in listener.err.splitlines() if "https" in line])
            assert "127.0.0.1 was refused" in hint[0]
            assert listener.stop() == 0
        assert "Traceback" not in listener.err


def test_many_requests_at_once_over_https(tmp_path, certificate):
    """In records that hold several requests, and requests that span records."""
    key, cert, trusting = certificate
    events = [event(padding="x" * size) for size in (0, 10, 1000, 20_000) * 10]
    with Listener(tmp_path, "--tls-cert", cert, "--tls-key", key, "--quiet") as listener, \
            listener.connect() as plain, \
            trusting.wrap_socket(plain, server_hostname="localhost") as connection:
        for body in map(envelope, events):
            connection.sendall(request(body))
        connection.sendall(b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert statuses(drain(connection)) == [200] * 41
        assert listener.events() == events


def test_https_at_a_listener_without_a_certificate_is_told_at_once(tmp_path):
    with Listener(tmp_path) as listener:
        with pytest.raises(ssl.SSLError):
            listener.post(event(), tls=ssl.create_default_context(), seconds=5)
        until(lambda: re.search(r"refused with 400: that is TLS: .* http://", listener.err))


@pytest.mark.parametrize("token", ["s3cret-token", "geheim-äöü"])
def test_only_who_has_the_token_may_post(tmp_path, token):
    (tmp_path / "token").write_text(token + "\n", encoding="utf-8")
    sent = token.encode("utf-8")  # as Go sends what stands in the registry's config
    with Listener(tmp_path, "--token-file", "token") as listener:
        news = [event() for _ in range(3)]
        for new, header in zip(news, (b"Bearer " + sent, sent, b"bearer " + sent)):
            assert listener.post(new, Authorization=header) == (200, "")
        for header in (None, b"", b"Bearer", b"Bearer ", b"Bearer " + sent[:-1], sent + b"x",
                       b"Basic " + sent, b"Bearer Bearer " + sent, b"Bearer \xff", b"\x00"):
            status, text = listener.post(event(), Authorization=header)
            assert status == 401, header
            assert re.fullmatch(r"[^\n]+\n", text) and token not in text
            assert listener.headers["WWW-Authenticate"] == "Bearer"
        assert listener.health()[0] == 200  # a health check has no token
        assert listener.events() == news
        assert token not in listener.err + listener.out


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


def test_a_datagram_is_always_one_line_of_harmless_text(tmp_path):
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        listener.syslog(b"<27>1 - - - - - - a\nb\r\x1b[31m\x00\xff\xc2\x85\xe2\x80\xa8c", b"",
                        "äöü 漢字".encode())
        assert kept_lines(listener, 3) == [
            r"a\nb\r\x1b[31m\x00\xff\x85\u2028c", "", "äöü 漢字"]


def test_the_sample_of_the_readme_is_an_envelope(shared):
    body = (HERE / "sample.json").read_bytes()
    assert shared.post(body) == (200, "")
    assert shared.events()[-1] == sample()
