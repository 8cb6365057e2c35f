"""Whatever comes, the answer is 2xx or 4xx or none, the log stays whole, and terminals obey none.

The cases are made by seeded generators: the same every time. HOSTILE_SEED gives others.
"""

import contextlib
import copy
import json
import os
import random
import re
import sys

import pytest

from support.process import CLOCK, MIB, Listener, only_the_clients_fault, request, run, until
from support.recordings import recorded, recorded_lines
from support.traffic import envelope, event

SEED = os.environ.get("HOSTILE_SEED", "1")


@pytest.fixture
def chance(request):
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture
def victim(tmp_path):
    """A listener that must be unharmed at the end of the test, and start again on what it kept."""
    with Listener(tmp_path, "--syslog-port", "0", "--verbose") as listener:
        yield listener
        harmless(listener)
        assert listener.stop() == 0
        assert "Traceback" not in listener.err
        listener.start()
        assert listener.post(event()) == (200, "")
        status, out, err = run(tmp_path, "pulls", "--json")
        assert status == 0 and "Traceback" not in err
        for line in out.splitlines():
            json.loads(line)


def harmless(listener):
    """It lives, its console as well, and neither the console nor a file has what it must not."""
    mark = event(action="mark")
    seen = listener.out.count(" mark ")
    assert listener.post(mark) == (200, "")
    until(lambda: listener.out.count(" mark ") > seen, "the console still tells of events")
    assert listener.health()[0] == 200
    assert "Traceback" not in listener.err and "internal error" not in listener.err, listener.err
    with deep_recursion():
        assert listener.events()[-1] == mark
    for text in (listener.out, listener.err, listener.registry_log.read_text("utf-8")):
        assert not control_characters(text)


@contextlib.contextmanager
def deep_recursion():
    """Python reads JSON that is nested deeper than the listener takes it."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def control_characters(text):
    return {character for character in text.replace("\n", "") if not character.isprintable()}


class Expected:
    """What the log must have after so many bodies, as the standard library's JSON reads them."""

    def __init__(self):
        self.events, self.ids = [], set()

    def status(self, body):
        """The status that BODY must be answered with, if it is sent now."""
        try:
            events = json.loads(body.decode("utf-8"), parse_constant=self._refuse)["events"]
            assert isinstance(events, list) and all(isinstance(new, dict) for new in events)
            json.dumps(events, allow_nan=False)
        except (ValueError, LookupError, TypeError, AssertionError, RecursionError):
            return 400
        for new in events:
            name = new.get("id")
            if not isinstance(name, str) or name == "" or name not in self.ids:
                self.events.append(new)
                self.ids.add(name) if isinstance(name, str) else None
        return 200

    @staticmethod
    def _refuse(constant):
        raise ValueError(constant)


REAL = [new for name in ("docker_complete-registry2", "push_only-registry2",
                         "docker_complete-registry3", "docker_multiarch-registry2",
                         "podman_complete-registry2") for new in recorded(name)]


def real_event(chance):
    """An event that a registry has sent, as if it were sent today."""
    return {**chance.choice(REAL), "id": f"{chance.getrandbits(64):016x}"}


# -------------------------------------------------------------------------------------- bad bodies


def change_bytes(chance, data):
    """DATA with some of its bytes changed, gone, repeated or put in."""
    data = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 10])):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(7)
        if kind == 0:
            data[at:at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            del data[at:at + chance.choice([1, 1, 5, 50])]
        elif kind == 2:
            data[at:at] = data[at:at + chance.choice([1, 10, 100])]
        elif kind == 3:
            data[at:at] = chance.choice([b"\0", b"\xff", b'"', b"\\", b"{", b"}", b"[", b",", b"\n",
                                         b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\\ud800", b"NaN",
                                         b"\x1b[31m", b"1e999", b"-", b"9" * 5000, b"[" * 2000])
        elif kind == 4 and data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        elif kind == 5:
            other = chance.randrange(len(data) + 1)
            data[at:at + 20], data[other:other + 20] = data[other:other + 20], data[at:at + 20]
        elif chance.random() < 0.3:
            del data[at:]
    return bytes(data)


def test_bodies_with_changed_bytes(victim, chance):
    """Each is refused, or kept exactly as Python's json reads it."""
    expected = Expected()
    with contextlib.closing(Kept(victim)) as connection:
        for number in range(2500):
            body = change_bytes(chance, envelope(real_event(chance)))
            assert connection.post(body) == expected.status(body), (number, body)
    assert victim.events() == expected.events
    assert 100 < len(expected.events) < 2400  # else the cases are not worth much


class Kept:
    """A connection that is kept open for as long as the listener likes, and then made anew."""

    def __init__(self, listener):
        self.listener, self.connection = listener, None

    def post(self, body):
        self.connection = self.connection or self.listener.connect()
        self.connection.sendall(request(body))
        answer = b""
        while b"\r\n\r\n" not in answer:
            part = self.connection.recv(10_000)
            assert part, "no answer"
            answer += part
        status, = only_the_clients_fault(answer)
        if status != 200:
            self.close()
        return status

    def close(self):
        if self.connection:
            self.connection.close()
        self.connection = None


VALUES = [
    None, True, False, 0, -1, 1, 0.5, -1e-300, 1e308, 2 ** 31, 2 ** 53 + 1, 2 ** 63, 2 ** 64,
    10 ** 400, -(10 ** 400), float("nan"), float("inf"), "", " ", "0", "x" * 5000, "/", ":", "@",
    "[", "[::1", "%s%n{0}", "\0", "\x1b[31m", "\u202e", "\u2028", "\ud800", "\udc00\ud800", "\n",
    "sha256:", "sha256:" + "0" * 64, "latest", "pull", "push", "GET", "HEAD",
    "application/octet-stream", "application/vnd.oci.image.index.v1+json",
    "9999-12-31T23:59:59.999999999Z", "0001-01-01T00:00:00Z", "2026-02-30T00:00:00Z",
    "2026-11-24T06:28:55+99:99", "2026-11-24T06:28:55", "http://x/v2/a/blobs/sha256:1",
    [], {}, [[]], [{}], {"": ""}, [None] * 100, {"digest": "sha256:1", "size": 10 ** 400},
    [{"digest": "sha256:1", "size": -1}, 1, None, {"digest": {}, "size": {}}],
]


def places(value):
    """All objects and arrays in VALUE, itself among them."""
    if isinstance(value, (dict, list)):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from places(inner)


def change_json(chance, new):
    """The text of an event some of whose members are others, gone, twice, or renamed."""
    new = json.loads(json.dumps(new))
    twice = None
    for _ in range(chance.choice([1, 1, 2, 5])):
        place = chance.choice(list(places(new)))
        names = list(place) if isinstance(place, dict) else list(range(len(place)))
        kind = chance.randrange(6)
        if not names:
            continue
        name, value = chance.choice(names), copy.deepcopy(chance.choice(VALUES))
        if kind <= 2:
            place[name] = value
        elif kind == 3:
            del place[name]
        elif isinstance(place, list):
            place.insert(name, value)
        elif kind == 4:
            place[chance.choice(["", "size", "Digest", "\ud800", "\x1b]0;x\x07", "id"])] = value
        else:
            twice = json.dumps({name: value})[1:-1]
    text = json.dumps(new, ensure_ascii=True)
    if twice and text != "{}":
        return f"{{{twice},{text[1:-1]},{twice}}}"
    return text


def test_events_with_changed_members(victim, chance):
    expected = Expected()
    with contextlib.closing(Kept(victim)) as connection:
        for number in range(2500):
            text = ",".join(change_json(chance, real_event(chance))
                            for _ in range(chance.choice([1, 1, 1, 3])))
            body = ('{"events":[%s]}' % text).encode("utf-8")
            assert connection.post(body) == expected.status(body), (number, body)
    assert victim.events() == expected.events
    assert len(expected.events) > 1000


NUMBERS = {
    "1e400": 400, "-1e400": 400, "1e-400": 200, "9" * 4300: 200, "9" * 5000: 400,
    "9" * 1_000_000: 400, "1" + "0" * 308 + ".5": 200, "0." + "1" * 100_000: 200, "-0": 200,
    "01": 400, "+1": 400, "0x10": 400, "1_000": 400, "١": 400, "NaN": 400, "-NaN": 400,
    "Infinity": 400, "-Infinity": 400, "nan": 400}


def test_numbers(victim):
    kept = 0
    for text, status in NUMBERS.items():
        if text == "9" * 5000 and not hasattr(sys, "get_int_max_str_digits"):
            continue  # this Python sets no limit
        body = '{"events":[{"action":"push","target":{"size":%s}}]}' % text
        assert victim.post(body.encode("utf-8"))[0] == status, text
        kept += status == 200
        assert len(victim.events()) == kept, text


def test_deep_nesting(victim):
    """Kept or refused; and what was kept can be read back by the same Python."""
    for number, depth in enumerate([1, 10, 100, 500, 900, 960, 980, 990, 1000, 1020, 2000, 10_000,
                                    50_000, 1_000_000]):
        for opening, closing in (("[", "]"), ('{"a":', "}")):
            inner = opening * depth + "1" + closing * depth
            for body in ('{"events":[{"id":"%s%d","deep":%s}]}' % (closing, number, inner),
                         '{"deep":%s,"events":[]}' % inner, inner):
                if len(body) > 8 * MIB:
                    continue
                answer = only_the_clients_fault(victim.raw(request(body.encode())))
                assert answer in ([200], [400])
                if depth <= 500:
                    assert answer == [200 if "events" in body else 400]
    with deep_recursion():
        victim.events()


# ------------------------------------------------------------------------------------ bad requests


def test_requests_with_changed_bytes(victim, chance):
    sent = set()
    for _ in range(1500):
        new = real_event(chance)
        sent.add(new["id"])
        head, _, body = request(envelope(new), (
            b"POST /log HTTP/1.1\r\nHost: listener:8086\r\nUser-Agent: Go-http-client/1.1\r\n"
            b"Content-Type: application/vnd.docker.distribution.events.v1+json\r\n"
            b"Authorization: Bearer token\r\nAccept-Encoding: gzip\r\n")).partition(b"\r\n\r\n")
        only_the_clients_fault(victim.raw(change_bytes(chance, head) + b"\r\n\r\n" + body))
    assert set(victim.ids()) <= sent
    assert len(victim.ids()) > 100


def test_wrong_lengths(victim, chance):
    """Neither the half of an event is kept, nor what stands behind one is taken for a request."""
    sent = set()
    for _ in range(300):
        new = real_event(chance)
        body = envelope(new)
        length = max(0, len(body) + chance.choice([-1, 1]) * chance.choice([0, 1, 2, 10, 5000]))
        answer = victim.raw(b"POST /log HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
                            % (length, body))
        found = only_the_clients_fault(answer)
        if length == len(body):
            sent.add(new["id"])
            assert found == [200]
        else:
            assert found == [400]
    assert set(victim.ids()) == sent


INNER = request(b'{"events":[{"id":"smuggled"}]}')
BODY = b'{"events":[]}'  # after which a listener that is wrong about the length goes on with INNER
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(INNER), INNER)
LENGTH = b"Content-Length: %d\r\n"
SMUGGLING = [
    (b"POST", b"Content-Length: 0\r\n" + LENGTH % len(INNER), INNER),
    (b"POST", LENGTH % len(INNER) + b"Content-Length: 0\r\n", INNER),
    (b"POST", LENGTH % len(BODY) + LENGTH % len(BODY + INNER), BODY + INNER),
    (b"POST", LENGTH % len(BODY + INNER) + LENGTH % len(BODY), BODY + INNER),
    (b"POST", LENGTH % len(BODY) + b"Transfer-Encoding: chunked\r\n", BODY + INNER),
    (b"POST", b"Transfer-Encoding: chunked\r\n" + LENGTH % len(BODY), BODY + INNER),
    (b"POST", b"Transfer-Encoding:\r\n" + LENGTH % len(BODY), BODY + INNER),
    (b"POST", b"Content-Length: %d, %d\r\n" % (len(BODY), len(BODY + INNER)), BODY + INNER),
    (b"POST", b"Content-Length: %d_0\r\n" % len(BODY), BODY + INNER),
    (b"POST", b"Content-Length: 0, %d\r\n" % len(INNER), INNER),
    (b"POST", b"Transfer-Encoding: chunked\r\n", CHUNKED),
    (b"POST", b"Transfer-Encoding: chunked\r\n" + LENGTH % 0, CHUNKED),
    (b"POST", LENGTH % len(CHUNKED) + b"Transfer-Encoding: chunked\r\n", CHUNKED),
    (b"POST", b"Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n" + LENGTH % 0, CHUNKED),
    (b"POST", b"Transfer-Encoding: \r\n" + LENGTH % 0, INNER),
    (b"POST", b"Transfer-Encoding: identity\r\n" + LENGTH % 0, INNER),
    (b"POST", b"Transfer-Encoding : chunked\r\n" + LENGTH % 0, CHUNKED),
    (b"POST", b"Transfer-Encoding: xchunked\r\n" + LENGTH % 0, CHUNKED),
    (b"POST", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", CHUNKED),
    (b"POST", b"Transfer-Encoding:\x0bchunked\r\n", CHUNKED),
    (b"POST", b"X: y\rTransfer-Encoding: chunked\r\n", CHUNKED),
    (b"POST", b" Transfer-Encoding: chunked\r\n", CHUNKED),
    (b"POST", b"Content-Length : 0\r\n", INNER),
    (b"POST", b"Content-Length: 0x0\r\n", INNER),
    (b"POST", b"Content-Length: 0_0\r\n", INNER),
    (b"POST", b"Content-Length: \xd9\xa0\r\n", INNER),
    (b"POST", b"Content-Length: 1\r\n 0\r\n", INNER),
    (b"POST", b"Content-Length:\r\n", INNER),
    (b"POST", b"Content-Length: -0\r\n", INNER),
    (b"POST", b"", INNER),
    *((method, header, body) for method in (b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"X")
      for header, body in ((LENGTH % len(INNER), INNER), (b"Content-Length: x\r\n", INNER),
                           (b"Content-Length: %030d\r\n" % len(INNER), INNER),
                           (b"Transfer-Encoding: chunked\r\n", CHUNKED))),
]


@pytest.mark.parametrize("path", [b"/log", b"/healthz"])
@pytest.mark.parametrize("host", [b"Host: x\r\n", b""])
def test_no_request_is_smuggled_in_the_body_of_another(victim, path, host):
    for method, headers, body in SMUGGLING:
        case = method + b" " + path + b" HTTP/1.1\r\n" + host + headers + b"\r\n" + body
        found = only_the_clients_fault(victim.raw(case))
        assert len(found) == 1, (case, found)
        assert "smuggled" not in victim.ids(), case


def test_header_floods(victim):
    start = b"POST /log HTTP/1.1\r\n"
    for flood in (b"X: y\r\n" * 200, b"X: y\r\n" * 100_000, b"X: " + b"y" * 100_000 + b"\r\n",
                  b"X" * MIB, b"X: y\r\n" + b" z\r\n" * 10_000, b"\r" * MIB, b"\0" * MIB,
                  b"".join(b"X%d: %s\r\n" % (number, b"y" * 60_000) for number in range(99))):
        found = only_the_clients_fault(victim.raw(start + flood + b"\r\n\r\n"))
        assert all(400 <= status < 500 for status in found)
    for first in (b"\r\n" * 10_000, b"A" * MIB, b"POST " + b"/" * MIB, b"\0" * MIB,
                  b"POST /log HTTP/1." + b"1" * 60_000 + b"\r\n\r\n"):
        found = only_the_clients_fault(victim.raw(first))
        assert all(400 <= status < 500 for status in found)


def test_pipelined_garbage(victim, chance):
    """Good requests before the first bad one are answered, in order; nothing behind it is."""
    for _ in range(100):
        bodies = [envelope(real_event(chance)) for _ in range(chance.randrange(5))]
        bad = chance.choice([b"\x16\x03\x01\x02\x00", b"GET", b"POST /log HTTP/1.1\r\nX\r\n\r\n",
                             request(b"{"), request(b"[]", b"BREW / HTTP/1.1\r\n")]) + b"\r\n\r\n"
        answer = victim.raw(b"".join(map(request, bodies)) + bad + INNER)
        found = only_the_clients_fault(answer)
        assert found[:len(bodies)] == [200] * len(bodies)
        assert len(found) <= len(bodies) + 1
        assert all(status >= 400 for status in found[len(bodies):])
    assert "smuggled" not in victim.ids()


# -------------------------------------------------------------------------- what a terminal obeys

ESCAPES = ["\x1b]0;owned\x07", "\x1b[2J", "\x9b31m", "\r", "\n", "\x08", "\x7f", "\0", "\u202e",
           "\u2028", "\u0085", "\ud800", "\U000e0001", "\t", "\x0b", "\x1b"]
FIELDS = ["id", "timestamp", "action", "target.mediaType", "target.digest", "target.repository",
          "target.url", "target.tag", "target.fromRepository", "target.references.0.digest",
          "target.references.0.mediaType", "request.id", "request.addr", "request.host",
          "request.method", "request.useragent", "actor.name", "source.addr"]


def put(new, field, value):
    """NEW with VALUE at FIELD: a.b.c."""
    new = json.loads(json.dumps(new))
    *path, last = [int(name) if name.isdigit() else name for name in field.split(".")]
    place = new
    for name in path:
        place = place[name] if isinstance(place, list) else place.setdefault(name, {})
        if isinstance(place, list) and not place:
            place.append({})
    place[last] = value
    return new


def with_references(new):
    new["target"].setdefault("references", [])
    return new


def test_nothing_in_an_event_makes_the_terminal_do_something(victim):
    lines = 1
    for base in (event(), event(action="delete"), *(dict(REAL[number]) for number in (0, 1, 2, 7))):
        for field in FIELDS:
            for number, escape in enumerate(ESCAPES):
                new = put(with_references({**base, "id": f"{lines}"}), field,
                          f"a{escape}b{number} c")
                assert victim.post(new) == (200, "")
                lines += 1
    assert len(victim.ids()) > lines * 0.9
    harmless(victim)  # no raw control character; and no event made two lines, as all begin alike:
    for line in victim.out.splitlines()[1:]:
        assert re.match(r"(\d\d:\d\d:\d\d|--:--:--|\S{1,8}) |                cut: ", line), line


def test_nothing_in_a_request_makes_the_terminal_do_something(victim):
    """What is refused is told on stderr, a line each or counted, whatever the client has sent."""
    number = 0
    for escape in ESCAPES:
        raw = escape.encode("utf-8", "surrogatepass")
        for case in (b"a%sb /log HTTP/1.1\r\n\r\n" % raw, b"POST /log a%sb\r\n\r\n" % raw,
                     b"POST /log HTTP/1.1\r\nContent-Length: 1%s2\r\n\r\n" % raw,
                     b"POST /log HTTP/1.1\r\nTransfer-Encoding: a%sb\r\n\r\n" % raw,
                     b"POST /log HTTP/1.1\r\nContent-Encoding: a%sb\r\nContent-Length: 0\r\n\r\n"
                     % raw, b"POST /log HTTP/1.1\r\na%sb\r\n\r\n" % raw,
                     request(b'{"events":["%s"]}' % raw), request(raw)):
            found = only_the_clients_fault(victim.raw(case))
            assert all(status >= 400 for status in found), case
            number += len(found)
    told = re.compile(CLOCK + r" 127\.0\.0\.1 was refused with \d{3}: (?:and (\d+) more$|.)")

    def all_told():
        told_of = [told.match(line) for line in victim.err.splitlines()]
        return all(told_of) and sum(int(match[1] or 1) for match in told_of) >= number
    until(all_told, lambda: victim.err)


# ------------------------------------------------------------------------------------------- syslog


def change_line(chance, line):
    """A line of a registry's log with fields that no registry writes."""
    fields = line.split(" ")
    for _ in range(chance.choice([1, 1, 3])):
        at = chance.randrange(len(fields))
        name = fields[at].partition("=")[0]
        fields[at] = name + "=" + chance.choice([
            "", '"', '"\\', '"\\x1b[31m"', "9" * 400, "-1", "NaN", "1e400", "0.5", "null", "{",
            "ms", "9" * 400 + "h", "1.1.1ms", '"2026-11-24T06:28:55Z"', '"9999-12-31T23:59:59Z"',
            '"/v2/' + "a/" * 600 + 'blobs/x:y"', '"\\U00110000\\ud800"', "\x1b[31m", "[::1]:5"])
    return " ".join(fields)


def change_log_json(chance, line):
    fields = json.loads(line)
    for _ in range(chance.choice([1, 1, 3])):
        fields[chance.choice(list(fields))] = chance.choice(VALUES)
    return json.dumps(fields)


def test_syslog_garbage(victim, chance):
    """Always a line each; and the console, which follows the pulls in them, lives on."""
    texts = [line for name in ("docker_interrupted-registry2", "docker_complete-registry3")
             for line in recorded_lines(name) if "/blobs/" in line]
    objects = [line for line in recorded_lines("docker_complete-registry2_json")
               if line.startswith("{") and "/blobs/" in line]
    headers = ["", "<27>", "<999999>1 ", "<27>1 - - - - - - ", "<27>Nov 24 06:28:54 registry[1]: ",
               "<27>1 - - - - - [", '<27>1 - - - - - [a b="\\', "<27>1 a b c"]
    for new in REAL:
        victim.post(new)
    sent = 0
    for _ in range(60):
        batch = []
        for _ in range(40):
            kind = chance.randrange(5)
            if kind == 0:
                text = bytes(chance.randrange(256) for _ in range(chance.choice([0, 1, 50, 2000])))
            elif kind == 1:
                text = change_bytes(chance, chance.choice(texts).encode("utf-8"))
            elif kind <= 3:
                text = change_line(chance, chance.choice(texts)).encode("utf-8", "surrogatepass")
            else:
                text = change_log_json(chance, chance.choice(objects)).encode("utf-8")
            batch.append((chance.choice(headers).encode() + text)[:60_000])
        victim.syslog(*batch)
        sent += len(batch)
        until(lambda: victim.registry_log.read_bytes().count(b"\n") == sent)
    assert victim.registry_log.read_bytes().endswith(b"\n")


def test_lines_that_are_slow_to_understand(victim):
    """Each of these would keep a careless regular expression busy for a second or for hours."""
    start = ('{"time":"2026-11-24T06:30:21Z","msg":"response completed","http.request.id":"x",'
             '"http.request.method":"GET","http.request.uri":"/v2/a/blobs/b:c",')
    cases = ["time= response completed GET /blobs/ " + "a" * 16_000,
             'time= response completed GET /blobs/ a="' + "\\" * 15_999,
             "time= response completed GET /blobs/ " + 'a="\\' * 4_000,
             "response completed GET " + "/v2/a/blobs/" * 1_300 + " time=",
             start + '"http.response.duration":"' + "1" * 15_000 + '"}',
             start + '"http.response.duration":"' + "1." * 7_500 + 'x"}',
             "<27>1 " + "a " * 8_000, "<27>1 - - - - - " + "[a]" * 5_000 + "x",
             "<27>1 - - - - - [" + "\\" * 16_000, "<27>" + "a " * 8_000, "<27>" + "a" * 16_000]
    before = cpu_seconds(victim)
    for number in range(5):
        for place, case in enumerate(cases, 1):
            victim.syslog(case.encode())
            until(lambda: victim.registry_log.read_bytes().count(b"\n")
                  == number * len(cases) + place)
    harmless(victim)  # the console has seen them all
    assert cpu_seconds(victim) - before < 5


def cpu_seconds(listener):
    """For how long the listener has kept a processor busy, which others do not change; 0 where
    nobody tells."""
    with contextlib.suppress(OSError), open(f"/proc/{listener.process.pid}/stat") as file:
        user, system = file.read().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return 0
