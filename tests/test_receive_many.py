"""Many clients, slow ones and big bodies: nobody is held up, and memory stays bounded."""

import concurrent.futures
import contextlib
import resource
import select
import selectors
import shutil
import socket

from support.disk import Faulty
from support.process import (MIB, Listener, make_certificate, only_the_clients_fault, request,
                             statuses, until)
from support.traffic import envelope, event


def enough_files(number):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))


SLOW = [  # begun like this, and gone on with a byte now and then
    (b"", b"POST /log HTTP/1.1\r\n"),
    (b"POST /log HTTP/1.1\r\n", b"X: y"),
    (b"POST /log HTTP/1.1\r\nContent-Length: 1000\r\n\r\n", b'{"events":['),
    (b"POST /log HTTP/1.1\r\nContent-Length: 7000000\r\n\r\n", b'{"events":['),
    (b"POST /log HTTP/1.1\r\nContent-Length: 2000\r\n\r\n{", b""),
]

ANSWERED = [(b"nonsense\r\n\r\n", b"X" * 10), (b"GET /healthz HTTP/1.1\r\n\r\n", b"")]


def test_honest_registries_are_served_while_others_are_silent_or_slow(tmp_path):
    """500 say nothing, 40 send a byte now and then, 3 read nothing, 2 begin no TLS: nobody waits
    for them, and each of them is dropped when its time is over."""
    enough_files(1024)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(Faulty(tmp_path, REQUEST_SECONDS=1000))
        listeners = [listener]
        deaf = [stack.enter_context(ask_and_read_nothing(listener)) for _ in range(3)]
        slow = [Slow(stack, listener, *begun) for begun in SLOW * 8 + [(b"", b"")] * 500]
        answered = [Slow(stack, listener, *begun) for begun in ANSWERED * 10]
        if shutil.which("openssl"):
            key, certificate, trusting = make_certificate(tmp_path)
            listeners.append(stack.enter_context(Faulty(
                tmp_path / "tls", "--tls-key", key, "--tls-cert", certificate,
                REQUEST_SECONDS=1000)))
            slow += [Slow(stack, listeners[1], b"", b""),
                     Slow(stack, listeners[1], b"\x16\x03\x01\x02\x00", b"\x01" * 10)]

        def serve_honest_ones():
            for _ in range(20):
                assert listener.post(event()) == (200, "")
            for other in listeners[1:]:
                assert other.post(event(), tls=trusting) == (200, "")

        for seconds in range(0, 1000, 250):
            for each in listeners:
                each.pass_time(seconds)
            for each in slow + answered:
                each.go_on()
            serve_honest_ones()
            assert not any(each.dropped() for each in slow)
        for each in listeners:
            each.pass_time(1001)
        serve_honest_ones()
        until(lambda: all(each.dropped() for each in slow + answered) and
              all(map(hung_up_on, deaf)), "all are dropped", 60)
        serve_honest_ones()
        for each in listeners:
            assert each.stop() == 0 and "Traceback" not in each.err


class Slow:
    """A client that begins with FIRST and goes on with a byte of REST at a time."""

    def __init__(self, stack, listener, first, rest):
        self.connection, self.rest = stack.enter_context(listener.connect()), rest
        self.connection.sendall(first)
        self.connection.setblocking(False)

    def go_on(self):
        with contextlib.suppress(OSError):  # it may have been answered and hung up on
            self.connection.send(self.rest[:1])
            self.rest = self.rest[1:]

    def dropped(self):
        with contextlib.suppress(BlockingIOError):
            try:
                while self.connection.recv(10_000):
                    pass
            except ConnectionError:
                pass
            return True
        return False


def test_silent_ones_do_not_take_the_last_file_descriptor(tmp_path):
    """Where a process may have few, those who have been silent longest give way."""
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
    with Listener(tmp_path, preexec_fn=few) as listener, contextlib.ExitStack() as stack:
        for number in range(400):
            stack.enter_context(listener.connect())
            if number % 25 == 0 or number > 380:
                assert listener.post(event()) == (200, "")
        assert "Traceback" not in listener.err


def ask_and_read_nothing(listener):
    """A connection that has sent requests until the listener could send no more answers."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", listener.port))
    connection.setblocking(False)
    while select.select([], [connection], [], 0.5)[1]:
        connection.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
    return connection


def hung_up_on(connection):
    try:
        connection.send(b"G")
    except BlockingIOError:
        pass
    except OSError:
        return True
    return False


def test_a_large_body_that_is_nearly_there_does_not_give_way_to_those_that_begin(listener):
    whole = request(envelope(event(padding="x" * MIB)))
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(listener.connect())
        first.sendall(whole[:-1])
        for _ in range(12):
            stack.enter_context(listener.connect()).sendall(whole[:2000])
            assert listener.health()[0] == 200  # so that it has been seen
        first.sendall(whole[-1:])
        assert statuses(first.recv(1000)) == [200]
    assert "Traceback" not in listener.err and "internal error" not in listener.err


def test_memory_is_bounded(tmp_path):
    """Whatever is sent by however many: headers, bodies that never end, and the worst of JSON."""
    enough_files(1024)
    with Listener(tmp_path, "--verbose") as listener:
        measured = {}

        def measure(name):
            assert listener.post(event()) == (200, "")
            measured[name] = (listener.memory() or 0) // MIB

        def hold(number, data):
            """Connections that all send DATA, for as long as the listener takes some of it."""
            with contextlib.ExitStack() as held, selectors.DefaultSelector() as poll:
                for _ in range(number):
                    connection = held.enter_context(listener.connect())
                    connection.setblocking(False)
                    poll.register(connection, selectors.EVENT_WRITE, memoryview(data))
                while poll.get_map():
                    ready = poll.select(0.5)
                    if not ready:
                        break
                    for key, _ in ready:
                        sent = len(key.data)
                        with contextlib.suppress(BlockingIOError, ConnectionError):
                            sent = key.fileobj.send(key.data[:MIB])
                        poll.modify(key.fileobj, key.events, key.data[sent:])
                        if sent == len(key.data):
                            poll.unregister(key.fileobj)

        def at_once(number, data):
            with concurrent.futures.ThreadPoolExecutor(number) as pool:
                answers = pool.map(listener.raw, [data] * number, [60] * number)
                return {status for answer in answers for status in only_the_clients_fault(answer)}

        measure("nothing")
        hold(100, b"POST /log HTTP/1.1\r\n" + (b"X: " + b"y" * 65_000 + b"\r\n") * 99)
        measure("headers")
        hold(300, b"POST /log HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % MIB + b" " * (MIB - 1))
        measure("bodies of a MiB")
        hold(200, b"POST /log HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (8 * MIB)
             + b" " * (8 * MIB - 1))
        measure("bodies of 8 MiB")
        # What takes the most memory of all that 8 MiB of JSON may say: 50 bytes for each.
        nests = (b"[" * 400 + b"]" * 400 + b",") * 10_000
        assert at_once(3, request(b'{"events":[{"a":[%s0]}]}' % nests)) <= {200, 400}
        measure("nested arrays")
        assert at_once(3, request(b'{"events":[%s{}]}' % (b"{}," * 2_700_000))) == {400}
        measure("too many events")
        whole = request(b'{"events":[{"a":[%s0]}]}' % (b"[]," * 41_000))
        with contextlib.ExitStack() as stack:
            many = [stack.enter_context(listener.connect(120)) for _ in range(900)]
            for connection in many:
                connection.sendall(whole[:-1])
            for connection in many:
                connection.sendall(whole[-1:])
            for connection in many:
                assert statuses(connection.recv(1000)) == [200]
        measure("900 bodies at once")
        print(measured)
        assert max(measured.values()) < 1024
