"""Nothing acknowledged is lost: kill -9, full and failing disks, rotation, retries, clocks.

The faults are real ones where a test can make them. Only a failing fsync, a short write and a
clock that is set back are played by stand-ins for `os` and `time` in the listener's process.
"""

import contextlib
import http.client
import random
import resource
import signal
import subprocess
import threading
import time

import pytest

from support.disk import Faulty
from support.process import PATIENCE, Listener, read_log, request, until, written
from support.recordings import recorded, recorded_lines
from support.traffic import envelope, event

BROKEN = (OSError, http.client.HTTPException)  # a connection that did not come to an answer


class Senders:
    """Threads that send as registries do: an event again and again until it is acknowledged."""

    def __init__(self, listener, number):
        self.listener, self.number = listener, number
        self.acknowledged, self.sent, self.strange = [], set(), []
        self.stopping = False

    def _send(self, seed):
        chance = random.Random(seed)
        while not self.stopping:
            new = event(padding="x" * chance.choice([0, 0, 10, 1000, 9000]))
            self.sent.add(new["id"])
            while not self._is_acknowledged(new) and not self.stopping:
                pass

    def _is_acknowledged(self, new):
        try:
            status, _ = self.listener.post(new, seconds=10)
        except BROKEN:
            time.sleep(0.05)  # a registry's backoff
            return False
        if status == 200:
            self.acknowledged.append(new["id"])
        elif status != 503:
            self.strange.append(status)
        return status == 200

    def __enter__(self):
        self.threads = [threading.Thread(target=self._send, args=(seed,))
                        for seed in range(self.number)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopping = True
        for thread in self.threads:
            thread.join()

    def wait_for(self, more):
        """Until so many MORE events are acknowledged."""
        enough = len(self.acknowledged) + more
        until(lambda: len(self.acknowledged) >= enough)

    def check(self, ids):
        """Every acknowledged event is in the log once, and nothing that was not sent."""
        assert len(ids) == len(set(ids))
        assert set(self.acknowledged) <= set(ids)
        assert set(ids) <= self.sent
        assert self.strange == []


def test_kill_9_in_a_storm_twenty_times(listener):
    chance = random.Random(20)
    with Senders(listener, 8) as senders:
        for _ in range(20):
            senders.wait_for(chance.randrange(1, 30))
            acknowledged = list(senders.acknowledged)
            listener.kill()
            kept = listener.log.read_bytes()
            for name in acknowledged:
                assert name.encode() in kept
            listener.start()
            assert set(acknowledged) <= set(listener.ids())
        senders.wait_for(20)
    senders.check(listener.ids())
    assert listener.stop() == 0
    assert "Traceback" not in listener.err


def test_rotation_in_a_storm(listener):
    """With every acknowledged event in the one or the other file, once."""
    rotated = []
    with Senders(listener, 8) as senders:
        for number in range(1, 31):
            senders.wait_for(3)
            until(listener.log.exists)
            rotated.append(listener.log.with_name(f"log.log.{number}"))
            listener.log.rename(rotated[-1])
        senders.wait_for(3)
    senders.check([one["id"] for path in [*rotated, listener.log] for one in read_log(path)])


# ----------------------------------------------------------------------------------------- the disk


@contextlib.contextmanager
def limited_file(tmp_path):
    """A limit on the size of the files that the process may write."""
    if not hasattr(resource, "prlimit"):
        pytest.skip("limits of other processes can be set on Linux only")
    with Listener(tmp_path, "--syslog-port", "0", "--quiet") as listener:
        def full():
            size = max(listener.log.stat().st_size + 100, 2000)  # stderr needs some, too
            resource.prlimit(listener.process.pid, resource.RLIMIT_FSIZE, (size, -1))

        def room():
            resource.prlimit(listener.process.pid, resource.RLIMIT_FSIZE, (-1, -1))
        yield listener, full, room


@contextlib.contextmanager
def small_disk(tmp_path):
    """A file system that a storm does not fill, and another file on it that takes all the room."""
    disk, filler = tmp_path / "disk", tmp_path / "disk" / "filler"
    disk.mkdir()
    made = subprocess.run("mount -t tmpfs -o size=64m listener-test disk", shell=True, cwd=tmp_path,
                          capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"only root can mount a disk, where it may: {made.stderr.splitlines()[0]}")
    try:
        with Listener(disk, "--syslog-port", "0") as listener:
            def full():
                with open(filler, "wb", 0) as file, contextlib.suppress(OSError):
                    for size in (65536, 4096, 1):
                        with contextlib.suppress(OSError):
                            while True:
                                file.write(bytes(size))
            yield listener, full, filler.unlink
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("make_disk", [limited_file, small_disk])
def test_a_full_disk_loses_nothing(tmp_path, make_disk):
    """It is answered with 503 until there is room again, and then with 200 to the same event."""
    with make_disk(tmp_path) as (listener, full, room):
        old = event()
        assert listener.post(old) == (200, "")
        full()
        before = listener.log.read_bytes()
        late = [event(padding="x" * 10_000) for _ in range(5)]
        for _ in range(3):
            for new in late:
                status, text = listener.post(new)
                assert status == 503
                assert "log.log" in text and len(text.splitlines()) == 1
        assert listener.log.read_bytes() == before
        status, health = listener.health()
        assert (status, health["status"]) == (503, "failing") and health["error"]
        assert listener.post(old) == (200, "")  # that one is safe
        assert listener.health()[0] == 503
        room()
        assert listener.post(late[0]) == (200, "")
        assert listener.health()[0] == 200
        for new in late:
            assert listener.post(new) == (200, "")
        assert listener.events() == [old, *late]
        listener.stop()
        said = listener.err.splitlines()
        assert [("cannot write" in line, "can be written again" in line) for line in said] == [
            (True, False), (False, True)]


@pytest.mark.parametrize("make_disk", [limited_file, small_disk])
def test_a_disk_that_fills_up_again_and_again_in_a_storm(tmp_path, make_disk):
    with make_disk(tmp_path) as (listener, full, room):
        with Senders(listener, 8) as senders:
            for _ in range(5):
                senders.wait_for(3)
                full()
                until(lambda: listener.health()[0] == 503)
                room()
            senders.wait_for(8)
        senders.check(listener.ids())
        assert listener.health()[0] == 200
        assert listener.stop() == 0
        assert "Traceback" not in listener.err


def test_kill_9_while_the_disk_is_full(tmp_path):
    with limited_file(tmp_path) as (listener, full, _):
        old, new = event(), event(padding="x" * 10_000)
        listener.post(old)
        full()
        assert listener.post(new)[0] == 503
        listener.kill()
        listener.start()
        assert listener.post(new) == (200, "")
        assert listener.events() == [old, new]


def test_the_registrys_log_goes_on_after_a_full_disk(tmp_path):
    with limited_file(tmp_path) as (listener, full, room):
        listener.syslog(b"first")
        until(lambda: listener.registry_log.read_bytes() == b"first\n")
        full()
        listener.syslog(b"x" * 10_000, b"x" * 10_000)
        until(lambda: "registry's log are lost" in listener.err)
        assert listener.registry_log.read_bytes() == b"first\n"
        room()
        listener.syslog(b"next")
        until(lambda: listener.registry_log.read_bytes() == b"first\nnext\n")
        assert listener.post(event()) == (200, "")


@pytest.mark.parametrize("fault", ["fsync", "torn"])
def test_a_disk_that_fails_loses_nothing(tmp_path, fault):
    with Faulty(tmp_path) as listener:
        old, new = event(), event()
        listener.post(old)
        before = listener.log.read_bytes()
        listener.fault(fault)
        for _ in range(2):
            assert listener.post(new)[0] == 503
            assert listener.post([event(), event()])[0] == 503
            assert listener.log.read_bytes() == before
            assert listener.health()[0] == 503
        listener.fault("")
        assert listener.post(new) == (200, "")
        assert listener.health()[0] == 200
        assert listener.events() == [old, new]


def test_what_could_not_be_cut_off_at_once_is_cut_off_before_the_next_write(tmp_path):
    with Faulty(tmp_path) as listener:
        old, new, newer = event(), event(), event()
        listener.post(old)
        before = listener.log.read_bytes()
        listener.fault("torn for long")
        assert listener.post(new)[0] == 503
        assert listener.post(newer)[0] == 503
        torn = listener.log.read_bytes()
        assert torn.startswith(before) and len(torn) > len(before)
        assert listener.health()[0] == 503
        listener.fault("")
        assert listener.post(newer) == (200, "")
        assert listener.post(new) == (200, "")
        assert listener.events() == [old, newer, new]

        listener.fault("torn for long")
        assert listener.post(event())[0] == 503
        listener.kill()
        listener.fault("")
        listener.start()
        assert listener.events() == [old, newer, new]


def test_short_writes_are_finished(tmp_path):
    with Faulty(tmp_path, "--syslog-port", "0") as listener:
        listener.fault("short")
        news = [event() for _ in range(3)]
        assert listener.post(news) == (200, "")
        assert listener.events() == news
        listener.syslog(b"a line")
        until(lambda: listener.registry_log.read_bytes() == b"a line\n")


class Posting(threading.Thread):
    """A POST that may take its time; `answer` is None until it is there. Made when all is sent."""

    def __init__(self, listener, new):
        super().__init__()
        self.new, self.answer = new, None
        self.connection = http.client.HTTPConnection("127.0.0.1", listener.port, timeout=PATIENCE)
        self.connection.request("POST", "/log", envelope(new))
        self.start()

    def run(self):
        with contextlib.closing(self.connection):
            try:
                answer = self.connection.getresponse()
                self.answer = answer.status, answer.read().decode("utf-8")
            except BROKEN as error:
                self.answer = error

    def result(self):
        self.join(PATIENCE)
        return self.answer


def test_nobody_is_answered_before_the_event_is_on_the_disk(tmp_path):
    with Faulty(tmp_path) as listener:
        listener.fault("slow")
        first = Posting(listener, event())
        until(lambda: listener.log.read_bytes().endswith(b"\n"))  # written, not synced
        others = [Posting(listener, event()) for _ in range(5)]
        again = Posting(listener, first.new)
        with pytest.raises(OSError):  # which takes a while, in which an answer could come
            listener.request("GET", "/healthz", seconds=0.5)
        assert [post.answer for post in (first, again, *others)] == [None] * 7
        assert listener.ids() == [first.new["id"]]
        synced = listener.folder / "synced"
        before = synced.read_text().count("\n")
        listener.fault("")
        assert [post.result() for post in (first, again, *others)] == [(200, "")] * 7
        assert sorted(listener.ids()) == sorted(post.new["id"] for post in (first, *others))
        assert synced.read_text().count("\n") == before + 2  # all that waited came in one fsync


def test_nobody_is_late_for_what_the_disk_took(tmp_path):
    """Who was sending when the disk began to take longer than a request may take."""
    with Faulty(tmp_path, REQUEST_SECONDS=1000) as listener, \
            listener.connect() as half:
        sent = request(envelope(event()))
        half.sendall(sent[:-1])
        listener.fault("slow")
        post = Posting(listener, event())
        until(lambda: listener.log.read_bytes().endswith(b"\n"))  # written, not synced
        listener.pass_time(1001)
        listener.fault("")
        assert post.result() == (200, "")
        half.sendall(sent[-1:])
        assert half.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_a_registry_that_does_not_wait_and_sends_again_and_again(tmp_path):
    """The listener answers after the registry's timeout, each time; the log has the event once."""
    with Faulty(tmp_path) as listener:
        listener.fault("slow")
        news = [event() for _ in range(4)]
        for _ in range(4):
            for new in news:
                with pytest.raises(OSError):
                    listener.post(new, seconds=0.1)
        listener.fault("")
        for new in news:
            assert listener.post(new) == (200, "")
        assert sorted(listener.ids()) == sorted(new["id"] for new in news)
        assert listener.stop() == 0
        assert "Traceback" not in listener.err


def test_what_a_killed_listener_may_not_have_synced_is_synced_before_it_is_acknowledged(tmp_path):
    """Its last line may be whole in the file and yet not on the disk."""
    log = written(tmp_path, b'{"id":"a"}\n')
    with Faulty(tmp_path) as listener:
        assert listener.post({"id": "a"}) == (200, "")
        assert listener.ids() == ["a"]
        assert f"{log.stat().st_ino} {log.stat().st_size}" in (
            tmp_path / "synced").read_text().splitlines()


def test_the_signal_to_stop_waits_for_what_is_being_written(tmp_path):
    with Faulty(tmp_path) as listener:
        listener.fault("slow")
        post = Posting(listener, event())
        until(lambda: listener.log.read_bytes().endswith(b"\n"))
        listener.process.send_signal(signal.SIGTERM)
        until(lambda: not accepts(listener))
        assert post.answer is None
        listener.fault("")
        assert post.result() == (200, "")
        assert listener.process.wait(20) == 0
        assert listener.ids() == [post.new["id"]]


def accepts(listener):
    try:
        listener.connect().close()
    except OSError:
        return False
    return True


# ---------------------------------------------------------------------------------------- the clock


def test_a_clock_that_is_set_changes_nothing(tmp_path):
    """Events are kept, pulls followed, and a late client is dropped when its own time is over."""
    events = recorded("docker_complete-registry2")
    with Faulty(tmp_path, "--syslog-port", "0", REQUEST_SECONDS=1000) as listener, \
            listener.connect() as late, listener.connect() as slow:
        late.sendall(b"POST /log HTTP/1.1\r\n")
        slow.sendall(b"GET /healthz HTTP/1.1\r\n")
        listener.post(events[0])
        for number, seconds in enumerate((-86400, 86400, -3600), 1):
            listener.set_clock(seconds)
            assert listener.post(events[number]) == (200, "")
        for new in events[4:]:
            assert listener.post(new) == (200, "")
        for line in recorded_lines("docker_complete-registry2"):
            listener.syslog(b"<27>1 - - - - - - " + line.encode())
        slow.sendall(b"\r\n")
        assert slow.recv(1000).startswith(b"HTTP/1.1 200 ")
        until(lambda: "  complete  " in listener.out)
        late.setblocking(False)
        with pytest.raises(BlockingIOError):
            late.recv(1000)
        late.setblocking(True)
        listener.pass_time(1001)
        assert late.recv(1000) == b""
        assert listener.events() == events
        assert "Traceback" not in listener.err
