"""What of HTTP and JSON is accepted, and that nobody makes others wait."""

import json
import re
import shutil
import signal
import ssl
import subprocess
import sys

import pytest
from support import LISTENER
from support.process import Listener, make_certificate, request, run, statuses, until
from support.recordings import recorded, recorded_lines
from support.traffic import envelope, event

MIB = 1 << 20
NAME = "docker_interrupted-registry2"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with Listener(tmp_path_factory.mktemp("shared")) as listener:
        yield listener
        assert "Traceback" not in listener.err and "internal error" not in listener.err


# -------------------------------------------------------------------------------------------- heads

BODY = envelope(event(id="not kept"))
LENGTH = b"Content-Length: %d\r\n" % len(BODY)


@pytest.mark.parametrize("head", [
    b"Host: x\r\nA: b\rContent-Length: 0\r\n" + LENGTH,
    b"Host: x\r\n" + LENGTH.replace(b"\r\n", b"\r\r\n"),
    b"Host: x\r" + LENGTH,
    b"Host: x\r\nA: b\r\n c\r\n" + LENGTH,
    b"Host: x\r\nA: b\r\n\tc\r\n" + LENGTH,
    b"Host: x\r\n " + LENGTH,
    b"Host: x\r\n" + LENGTH + LENGTH,
    b"Host: x\r\n" + LENGTH + b"Content-Length: 5\r\n",
    b"Host: x\r\nContent-Length: %d, %d\r\n" % (len(BODY), len(BODY)),
], ids=["bare CR", "two CRs", "CR for CRLF", "folded", "folded by a tab", "folded at once",
        "two lengths", "two that differ", "two in one"])
def test_a_head_that_may_be_read_in_two_ways_is_refused(shared, head):
    before = shared.ids()
    answer = shared.raw(b"POST /log HTTP/1.1\r\n" + head + b"\r\n" + BODY)
    assert statuses(answer) == [400]
    assert b"Connection: close" in answer
    assert shared.ids() == before


def test_21_000_headers_that_end_with_a_bare_cr_are_not_read(shared):
    answer = shared.raw(b"POST /log HTTP/1.1\r\nHost: x\r\n" + b"a: b\r" * 21_000 + b"\r\n\r\n")
    assert statuses(answer) == [400] and b"CR" in answer


@pytest.mark.parametrize("length", [b"%d ", b"%d\t ", b" \t%d", b"00%d"])
def test_blanks_around_a_length_and_noughts_before_it_are_legal(shared, length):
    new = event()
    body = envelope(new)
    answer = shared.raw(b"POST /log HTTP/1.1\r\nHost: x\r\nContent-Length:"
                        + length % len(body) + b"\r\n\r\n" + body)
    assert statuses(answer) == [200]
    assert shared.events()[-1] == new


def test_the_same_head_again_and_again_is_each_time_a_request_of_its_own(shared):
    """What was read of a head is remembered: nothing of one request may get into the next."""
    good, bad = envelope(event()), b"x" * len(envelope(event()))
    assert len(good) == len(bad)
    with shared.connect() as one, shared.connect() as other:
        one.sendall(request(bad))
        assert b"HTTP/1.1 400 " in one.recv(10_000)  # it is refused, and its connection closed
        for _ in range(2):
            other.sendall(request(envelope(event())))
            answer = other.recv(10_000)
            assert statuses(answer) == [200] and b"close" not in answer
    assert statuses(shared.raw(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 2)) == [200, 200]


@pytest.mark.parametrize("line", [
    b"POST /log?token=%s", b"POST /log Bearer %s HTTP/1.1", b"%s /log HTTP/1.1",
    b"POST /log HTTP/%s"])
def test_a_token_in_a_request_line_is_not_repeated(tmp_path, line):
    (tmp_path / "token").write_text("s3cret")
    with Listener(tmp_path, "--token-file", "token") as listener:
        answer = listener.raw(line % b"s3cret" + b"\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert statuses(answer)[0] in (400, 405)
        assert b"s3cret" not in answer
        assert listener.stop() == 0
        assert "was refused" in listener.err and "s3cret" not in listener.out + listener.err


# ------------------------------------------------------------------------------------------- bodies


def filled(piece, size=8 * MIB):
    """A body of about SIZE bytes, an event with as many PIECEs as fit in."""
    return b'{"events":[{"a":[%s0]}]}' % (piece * ((size - 100) // len(piece)))


SLOW = {"arrays": b"[0],", "objects": b"{},", "fractions": b"5e-324,",
        "few of the slowest fractions": b"2.2250738585072011e-308,     " + b" " * 100,
        "long integers": b"9" * 4000 + b",", "integers": b"1,", "controls": b'"' + 99 * b"\xc2\x85"
        + b'",'}


@pytest.mark.parametrize("piece", SLOW.values(), ids=SLOW)
def test_a_body_that_is_slow_to_read_is_refused_before_it_is(shared, piece):
    """Its values are counted: a second or two of one thread would be every registry's."""
    before = shared.ids()
    status, text = shared.post(filled(piece))
    assert status == 400 and re.search("values are over|numbers are too many|over 10000 control",
                                       text), text
    assert shared.ids() == before


def test_the_largest_manifest_of_a_registry_is_not_too_much(shared):
    """4 MiB of references of 100 bytes."""
    references = [{"mediaType": "m", "digest": f"sha256:{number:064}", "size": 10 ** 9 + number}
                  for number in range(42_000)]
    new = event(target={"references": references})
    assert shared.post(new) == (200, "")
    assert shared.events()[-1] == new


def test_as_many_registries_events_as_a_body_can_hold_are_not_too_many(shared):
    news = [event() for _ in range(5000)]
    while len(envelope(news)) > 8 * MIB:
        del news[-100:]
    assert shared.post(news) == (200, "")
    assert shared.events()[-len(news):] == news


def test_a_small_event_is_answered_before_the_large_bodies_that_came_earlier(tmp_path):
    with Listener(tmp_path) as listener:
        slow = [listener.connect() for _ in range(4)]
        body = filled(b'"\xc2\x85",' + b" " * 1000)
        for connection in slow:
            connection.sendall(request(body)[:-1])
        # All that is still to come is a byte, and the listener has been told of it before.
        assert listener.post(event(id="first")) == (200, "")
        for connection in slow:
            connection.sendall(body[-1:])
            assert statuses(connection.recv(1000)) == [200]
            connection.close()
        assert listener.ids()[0] == "first"


# ------------------------------------------------------------------------------------------- SIGHUP


def hang_up(listener, said):
    """Send SIGHUP, and wait until SAID stands on the console."""
    listener.process.send_signal(signal.SIGHUP)
    until(lambda: said in listener.out + listener.err, lambda: listener.out + listener.err)


def test_sighup_reads_the_token_again_and_ends_nothing(tmp_path):
    token = tmp_path / "token"
    token.write_text("old")
    with Listener(tmp_path, "--token-file", "token") as listener, listener.connect() as kept:
        body = envelope(event())
        kept.sendall(request(body, b"POST /log HTTP/1.1\r\nAuthorization: Bearer old\r\n")[:-1])
        token.write_text("new")
        assert listener.post(event(), Authorization="Bearer new")[0] == 401
        hang_up(listener, "read again: token")
        kept.sendall(body[-1:])  # it had the token when it came
        assert statuses(kept.recv(10_000)) == [200]
        assert listener.post(event(), Authorization="Bearer new") == (200, "")
        assert listener.post(event(), Authorization="Bearer old")[0] == 401
        for fault in (lambda: token.write_text(""), token.unlink):
            fault()
            hang_up(listener, "what was read before stays in use")
            assert listener.post(event(), Authorization="Bearer new") == (200, "")
        until(lambda: listener.err.count("stays in use") == 2)
        assert listener.stop() == 0


def test_sighup_reads_the_certificate_again(tmp_path):
    (tmp_path / "old").mkdir(), (tmp_path / "new").mkdir()
    old, new = make_certificate(tmp_path / "old"), make_certificate(tmp_path / "new")
    for path, name in zip(old[:2], ("key.pem", "cert.pem")):
        shutil.copy(path, tmp_path / name)
    with Listener(tmp_path, "--tls-cert", "cert.pem", "--tls-key", "key.pem") as listener:
        assert listener.post(event(), tls=old[2]) == (200, "")
        shutil.copy(new[1], tmp_path / "cert.pem")  # it does not belong to the key
        hang_up(listener, "what was read before stays in use")
        assert listener.post(event(), tls=old[2]) == (200, "")
        shutil.copy(new[0], tmp_path / "key.pem")
        hang_up(listener, "read again: cert.pem, key.pem")
        assert listener.post(event(), tls=new[2]) == (200, "")
        with pytest.raises(ssl.SSLError):
            listener.post(event(), tls=old[2])


# ------------------------------------------------------------------------ no room, and a silent end


def run_without(folder, what, *options):
    """Run the listener, as `run`, in a Python in which WHAT fails as without room for it."""
    error = {"threading.Thread.start": RuntimeError("can't start new thread"),
             "os.fork": BlockingIOError(11, "Resource temporarily unavailable")}[what]
    program = (f"import os, runpy, sys, threading\ndef fail(*_): raise {error!r}\n"
               f"{what} = fail\n"
               f"sys.argv = {['listener.py', *options]!r}\n"
               f"runpy.run_path({LISTENER!r}, run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True,
                          text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_without_room_for_a_thread_it_says_so(tmp_path):
    status, out, err = run_without(tmp_path, "threading.Thread.start", "--port", "0")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "can't start new thread" in err and "ulimit -u" in err


def test_without_room_for_a_process_pulls_reads_in_its_own(tmp_path):
    (tmp_path / "listener_log").mkdir()
    for name, lines in (("log.log", [json.dumps(new) for new in recorded(NAME)]),
                        ("registry.log", recorded_lines(NAME))):
        (tmp_path / "listener_log" / name).write_text("".join(line + "\n" for line in lines))
    expected = run(tmp_path, "pulls", "--json")
    assert expected[0] == 0 and "interrupted" in expected[1]
    assert run_without(tmp_path, "os.fork", "pulls", "--json") == expected


@pytest.mark.parametrize("options", [[], ["--syslog-port", "0"]], ids=["alone", "with syslog"])
def test_its_end_is_silent_with_all_of_pythons_warnings(tmp_path, options):
    key, certificate, trusting = make_certificate(tmp_path)
    with Listener(tmp_path, "--tls-cert", certificate, "--tls-key", key, *options,
                  start=False) as listener:
        listener.program = ["-X", "dev", LISTENER]
        listener.start()
        assert listener.post(event(), tls=trusting) == (200, "")
        with listener.connect() as waiting:
            waiting.sendall(b"\x16")
            assert listener.stop() == 0
        assert listener.err == ""
    done = subprocess.run([sys.executable, "-X", "dev", "-W", "error", LISTENER, "pulls", "--json"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
