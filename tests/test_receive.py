"""What of HTTP and JSON is accepted, how it is answered, and that nobody makes others wait."""

import concurrent.futures
import contextlib
import http.client
import random
import re
import select
import shutil
import signal
import socket
import ssl

import pytest

from support import HERE
from support.disk import Faulty
from support.process import MIB, Listener, drain, make_certificate, need, request, statuses, until
from support.traffic import envelope, event, sample


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """For tests that leave nothing behind but events."""
    with Listener(tmp_path_factory.mktemp("shared")) as listener:
        yield listener
        assert "Traceback" not in listener.err and "internal error" not in listener.err


# ----------------------------------------------------------------------------- requests and answers


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


def test_the_sample_of_the_readme_is_an_envelope(shared):
    body = (HERE / "sample.json").read_bytes()
    assert shared.post(body) == (200, "")
    assert shared.events()[-1] == sample()


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
    ("Content-Length: 2\r\nContent-Encoding: identity\r\nContent-Encoding: gzip\r\n", 415),
    ("Transfer-Encoding: chunked\r\n", 501),
    ("Transfer-Encoding: gzip, chunked\r\n", 501),
    ("Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", 400)])
def test_a_body_that_is_not_taken_is_not_waited_for(shared, headers, status):
    """The answer comes though the body never does, and says in a line what was wrong."""
    answer = shared.raw(f"POST /log HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode(),
                        half_close=False)
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


def test_a_body_that_ends_early_is_not_taken(shared):
    body = envelope(event())
    before = shared.log.read_bytes()
    answer = shared.raw(b"POST /log HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
                        % (len(body) + 1) + body)
    assert statuses(answer) == [400]
    assert shared.log.read_bytes() == before


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


# ----------------------------------------------------------------------------------- TLS and tokens


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
            listener.post(event(), tls=ssl.create_default_context())
        until(lambda: re.search(r"refused with 400: that is TLS: .* http://", listener.err))


def test_who_asks_for_a_page_with_a_wrong_token_is_named_with_the_page(tmp_path):
    (tmp_path / "token").write_text("right")
    with Listener(tmp_path, "--token-file", "token") as listener:
        status, text = listener.request("GET", "/metrics?x", headers={"Authorization": "Bearer x"})
        assert status == 401 and text.startswith("wrong token for /metrics: ")
        until(lambda: f"127.0.0.1 was refused with 401: {text}" in listener.err)


# The last one's last byte is A0, which is a blank to str.strip().
@pytest.mark.parametrize("token", ["s3cret-token", "geheim-äöü", "voilà"])
def test_only_who_has_the_token_may_post(tmp_path, token):
    (tmp_path / "token").write_text(token + "\n", encoding="utf-8")
    sent = token.encode("utf-8")  # as Go sends what stands in the registry's config
    with Listener(tmp_path, "--token-file", "token") as listener:
        news = [event() for _ in range(4)]
        for new, header in zip(news, (b"Bearer " + sent, sent, sent + b" ", b"bearer  " + sent)):
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
        kept.sendall(request(body, b"POST /log HTTP/1.1\r\nAuthorization: Bearer old\r\n"
                             b"Expect: 100-continue\r\n")[:-1])
        assert b" 100 " in kept.recv(10_000)  # its head has been read
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
