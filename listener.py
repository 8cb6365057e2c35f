#!/usr/bin/env python3
"""Take a Docker registry's notifications, lose none, and say what is being pulled.

What comes in: the registry POSTs envelopes, JSON objects whose "events" array holds one object per
push, pull, mount or delete. The registry's own log lines come as well, as syslog datagrams
(--syslog-port) or on standard input (--registry-log -). What goes out: log.log (every event, a JSON
line each), registry.log (the registry's log lines), on the console a line per layer and image that
is pushed, and two per pull: when it starts and how it ended; and to those who ask with GET a page
of that, and metrics. The commands `pulls` and `check` read such files.

Why two inputs: an event says which image and how big, at the start of a pull, but looks the same
whether a layer's bytes arrived or the user pressed Ctrl-C. The registry's log says of each request
how many bytes were written. Joined by the request's id they answer the question.

The parts, in the order in which they stand; each knows nothing of the others' insides:

  text and JSON   small functions, and Problem: why a command cannot be done, in a line.
  keep            LogFile: whole lines in one file, through rotation and full disks. EventLog: each
                  event once, on the disk before its sender hears 200. RegistryLog: log lines.
  receive         Handler: the bytes of a request in, those of its answer out. No I/O.
                  Server: one thread with all Connections; what is whole shares a commit and fsync.
                  Inbox: what waits for a thread, in bounds. Syslog, StandardInput: log lines in.
  facts           event_fact, line_fact: an event or a log line in, a Fact of one request out.
  understand      Manifest, Request, BlobRequests, Pull: what Facts add up to, of an image, a
                  request, all requests for one blob, a download. `verdict` judges a Pull.
                  Registry: what a verdict depends on besides: when it was started anew.
                  Conversation: the requests of engines of one name for one repository, each in its
                  Pull.
                  Tracker: Facts in, in any order, Changes of Pulls out. No I/O and no clock:
                  `tick(now)` tells it the time.
  explain         Trouble: lines of the registry's log in, why its events do not arrive out.
                  EventCount, LineCount: what has arrived, and what should have. Caveats: what makes
                  all verdicts doubtful. No I/O and no clock.
  show            events and Pulls in, text for people or JSON for programs out.
  page            PAGE: what a browser gets. Board: what it shows. Metrics: what Prometheus gets.
  console         Terminal: lines out, also if nobody reads them. Refusals: a few lines of many.
                  Console: the one thread that feeds the live Tracker, Trouble, Board and Terminals.
  read the files  read_apart: files in, Facts out. recall: what they tell when `serve` starts.
                  KnownLines: which lines of the registry's log have come before.
  command line    Service and its LineIntake for `serve`, list_pulls, check: they join the parts.

How they meet in `serve`: the Server's thread commits envelopes to the EventLog and puts what is new
into the Console's Inbox; the threads of Syslog and StandardInput do so with lines and RegistryLog.
All else is done by the Console's thread, so that what is kept never waits for what is shown. GET
/pulls is answered with what that thread has made. `pulls` uses the same Tracker, so a pull gets the
same verdict live and from the files.

Needs Python 3.9 or later on a POSIX system, and nothing else.
"""

from __future__ import annotations

import argparse
import base64
import bisect
import codecs
import collections
import contextlib
import email.utils
import errno
import fcntl
import functools
import gc
import gzip
import hashlib
import heapq
import hmac
import io
import itertools
import json
import marshal
import math
import multiprocessing
import multiprocessing.util
import operator
import os
import re
import resource
import select
import selectors
import signal
import socket
import ssl
import stat
import sys
import threading
import time
import urllib.parse
import urllib.request
import zlib
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler
from typing import (Any, BinaryIO, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple,
                    Optional, Sequence, Set, TextIO, Tuple)


# ------------------------------------------------------------------------------------ text and JSON

MAX_TEXT = 1000  # characters of a name that are remembered
MAX_QUOTED = 200  # characters of a text from elsewhere within a sentence


def plain(text: str) -> str:
    """TEXT with all that is not printable escaped, so that it does nothing to a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def plain_line(text: str) -> str:
    """As `plain`; what is JSON in TEXT stays JSON."""
    if text.isprintable() or not re.search(r'\{\s*"', text):
        return plain(text)
    return "".join(c if c.isprintable() else "\\u007f" if c == "\x7f" else json.dumps(c)[1:-1]
                   for c in text)


_DECORATION = re.compile(r"^<urlopen error |>$|^Error -\d+ while decompressing data: |"
                         r"\[(?:Errno -?\d+|X509|SSL)[^]]*\] | \((?:_ssl\.c:\d+|b['\"].*)\)$")


def reason(error: Exception) -> str:
    """What went wrong, without Python's decoration: `no space left on device`."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    text = _DECORATION.sub("", text)
    return text if text[:2].isupper() else text[:1].lower() + text[1:]


# A header's value may have brackets: its map ends with the quoted text around it.
_SECRETS = ((re.compile(r"(cannot unmarshal \S+ )`[^`]*`"), r"\1`***`"),
            (re.compile(r'(headers\s*[=:]\s*map\[)(?!\])(?:.*\](?=\\*")|.*)', re.IGNORECASE),
             r"\1***]"),
            (re.compile(r'(headers(\\*")\s*:\s*)\{(?!\}).*?(?:\]\s*\}|$)', re.IGNORECASE),
             r"\1\2***\2"),
            (re.compile(r'(authorization\\*"?\s*[:=]\s*[\[\\"]*(?:(?:bearer|basic) +)?)'
                        r'(?!\*\*\*|bearer |basic )[^"\\,\]}]+', re.IGNORECASE), r"\1***"),
            (re.compile(r'(bearer +)(?!realm=|\*\*\*)[^\s"\\,\]}]+', re.IGNORECASE), r"\1***"),
            (re.compile(r'(://)[^\s/"]+@'), r"\1***@"))
_NEAR_SECRETS = "headers", "bearer", "authorization", "cannot unmarshal"


def mask_secrets(line: str) -> str:
    """LINE with *** in place of tokens, passwords and the headers of an endpoint."""
    lower = line.lower()
    if any(word in lower for word in _NEAR_SECRETS) or "@" in lower and "://" in lower:
        for secret, masked in _SECRETS:
            line = secret.sub(masked, line)
    return line


def shown(text: str) -> str:
    """The beginning of TEXT, harmless to a terminal and without secrets."""
    return plain(mask_secrets(text)[:MAX_QUOTED])


def byte_size(size: Optional[int]) -> str:
    """A number of bytes in the decimal units that docker uses: `150.0 MB`."""
    if size is None:
        return "?"
    if size < 1000:
        return f"{size} B"
    value, unit = size / 1000, "kB"
    for larger in ("MB", "GB", "TB"):
        if value >= 999.95:
            value, unit = value / 1000, larger
    return f"{value:.1f} {unit}"


def short(digest: Optional[str]) -> str:
    """A digest as `docker images` shows it: 12 hexadecimal digits."""
    return (digest or "?").rpartition(":")[2][:12]


def image_name(repository: str, tag: Optional[str], digest: str) -> str:
    """`repository:tag`, or `repository@digest` if there is no tag."""
    if tag:
        return f"{repository}:{tag}"
    return f"{repository}@{digest}" if digest else repository


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def clock(at: float, now: Optional[float] = None) -> str:
    """A time in seconds since 1970 as local time, HH:MM:SS, with its date if NOW is another day."""
    then, today = time.localtime(at), time.localtime(at if now is None else now)
    return time.strftime("%H:%M:%S" if then[:3] == today[:3] else "%m-%d %H:%M:%S", then)


def host_with_port(name: str, number: int) -> str:
    return f"[{name}]:{number}" if ":" in name else f"{name}:{number}"


def host(address: str) -> str:
    """The host of HOST:PORT, [HOST]:PORT or HOST."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.rpartition(":")[0] if address.count(":") == 1 else address


# Before Python 3.11 datetime.fromisoformat reads neither "Z" nor nine decimals.
_TIME = re.compile(r"(.{16}):([0-6][0-9](?:\.[0-9]+)?)(Z|[+-][0-9]{2}:[0-9]{2})")


@functools.lru_cache(maxsize=1024)
def _minute(stamp: str, zone: str) -> float:
    return datetime.fromisoformat(stamp + ":00" + zone.replace("Z", "+00:00")).timestamp()


def seconds(stamp: str) -> float:
    """Seconds since 1970 of an RFC 3339 time, of any number of decimals; or ValueError."""
    found = _TIME.fullmatch(stamp)
    if found:
        minute, second, zone = found.groups()
        at = _minute(minute, zone) + float(second)
        if at < 253402300800:  # the year 10,000, which has no RFC 3339 time
            return at
    raise ValueError(f"{stamp} is no RFC 3339 time")


def rfc3339(at: float) -> Optional[str]:
    """A time in seconds since 1970 as text; None for 0, which stands for never."""
    if not at:
        return None
    return datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="milliseconds")[:-6] + "Z"


_DURATION = re.compile(r"(\d+(?:\.\d*)?)(h|ms|m|s|µs|us|ns)")
_UNITS = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "µs": 1e-6, "us": 1e-6, "ns": 1e-9}


def go_duration(text: str) -> float:
    """Seconds of a duration as Go writes it: `1m0s`, `500ns`; 0 if it is none."""
    return sum([float(number) * _UNITS[unit] for number, unit in _DURATION.findall(text[:40])])


def child(value: dict, name: str) -> dict:
    """The object that is a member of an object; an empty one if there is none."""
    found = value.get(name)
    return found if type(found) is dict else {}


def array(value: dict, name: str) -> list:
    """The array that is a member of an object; an empty one if there is none."""
    found = value.get(name)
    return found if type(found) is list else []


def text_of(value: dict, name: str) -> str:
    """The string that is a member of an object, cut to MAX_TEXT; "" if there is none."""
    found = value.get(name)
    return found[:MAX_TEXT] if type(found) is str else ""


def amount(value: Any) -> Optional[int]:
    """A number of bytes, or None if VALUE is none that a registry could count."""
    return value if type(value) is int and 0 <= value < 1 << 63 else None


def refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


JSON_DECODER = json.JSONDecoder(parse_constant=refuse_constant)
decode_json = JSON_DECODER.decode
encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def keep_latest(memory: dict, limit: int) -> None:
    """Forget what was put into MEMORY first, until LIMIT are left. Of thousands: Remembered."""
    while len(memory) > limit:
        del memory[next(iter(memory))]


class Remembered:
    """The last LIMIT names that were added, each once; fast also if LIMIT is large."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._names: Set[Any] = set()
        self._order: collections.deque = collections.deque()

    def __contains__(self, name: Any) -> bool:
        return name in self._names

    def add(self, name: Any) -> None:
        if name not in self._names:
            self._names.add(name)
            self._order.append(name)
            if len(self._order) > self._limit:
                self._names.discard(self._order.popleft())


class Problem(Exception):
    """What keeps a command from being done, in a line for the person who gave it."""


@contextlib.contextmanager
def cannot(what: str, remedies: Dict[Optional[int], str] = {}) -> Iterator[None]:
    """Raises Problem if the system does not let the body do WHAT; REMEDIES are by errno."""
    try:
        yield
    except (OSError, TypeError, ValueError) as error:
        remedy = remedies.get(getattr(error, "errno", None), "")
        raise Problem(f"cannot {what}: {reason(error)}{remedy}") from None


def start_thread(thread: threading.Thread) -> None:
    """Start a thread; raises Problem if the system has no room for one."""
    try:
        thread.start()
    except RuntimeError as error:
        raise Problem(f"{reason(error)}: this user or container has too many already; end some, or "
                      "raise the limit (ulimit -u, pids_limit)") from None


class SaidOnce:
    """Something wrong that may last: WARN is told when it begins, and when it is over."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn, self._lasts = warn, False

    def begin(self, text: str) -> None:
        if not self._lasts:
            self._warn(text)
        self._lasts = True

    def end(self, text: str = "") -> None:
        if self._lasts and text:
            self._warn(text)
        self._lasts = False


# --------------------------------------------------------------------------------------------- keep

REMEMBERED_EVENTS = 100_000
REMEMBERED_BYTES = 64 << 20
MAX_LOG_LINE = 64 << 20  # bytes; a body of 8 MiB makes one of 48 at most
RENAME_SECONDS = 60  # between attempts to rotate a log that cannot be renamed
FOREIGN = "its last line is none of a listener's; choose another --log"


class Rotation(NamedTuple):
    """When a log is begun anew, and how many files before it are kept."""

    size: int  # bytes that a file is not to have more of
    files: int


def _rotated(path: str, form: str) -> List[Tuple[str, str]]:
    """Files named PATH and what FORM matches, perhaps .gz: its first group, and their names."""
    folder, name = os.path.split(path)
    pattern = re.compile(re.escape(name) + form + r"(?:\.gz)?")
    found = [(pattern.fullmatch(other), other) for other in os.listdir(folder or ".")]
    return sorted((match[1], os.path.join(folder, other)) for match, other in found if match)


def _numbered(path: str) -> List[Tuple[int, str]]:
    """The numbers and names of the files PATH.1, PATH.2.gz and so on, lowest first."""
    return sorted((int(number), name) for number, name in _rotated(path, r"\.([1-9][0-9]{0,8})"))


def log_files(path: str) -> List[str]:
    """The files of a log in the order in which they were written: rotated ones, then PATH.

    Those are named PATH-20261125 and so on (logrotate with dateext), or PATH.1, all perhaps .gz.
    """
    rotated: List[str] = []
    with contextlib.suppress(OSError):
        rotated += [name for _, name in _rotated(path, r"-([0-9]{8}[0-9-]{0,16})")]
        rotated += [name for _, name in reversed(_numbered(path))]
    return rotated if rotated and not os.path.exists(path) else [*rotated, path]


class End(NamedTuple):
    """How far a log goes."""

    file: int  # the inode of its last file with anything in it; 0: there is none
    size: int  # bytes of that
    written: float  # when, in seconds since 1970
    touched: float  # the same, of the newest file: later than `written` only if that is empty


def end_of(path: str) -> End:
    """How far a log goes now."""
    touched = 0.0
    for name in reversed(log_files(path)[-2:]):  # PATH is empty or missing after a rotation
        with contextlib.suppress(OSError):
            found = os.stat(name)
            touched = touched or found.st_mtime
            if found.st_size:
                return End(found.st_ino, found.st_size, found.st_mtime, touched)
    return End(0, 0, 0.0, 0.0)


def _tail(file: BinaryIO, size: int, end: int) -> Iterator[bytes]:
    """The whole lines in the last SIZE bytes before END; as many as can be read."""
    with contextlib.suppress(OSError), file:
        at = file.seek(max(0, end - size))
        if at:
            at += len(file.readline())
        for line in file:
            at += len(line)
            if at > end:
                return
            yield line


def last_lines(path: str, size: int, end: Optional[End] = None) -> Iterator[bytes]:
    """The whole lines in the last SIZE bytes of a log before END, as far back as no file is .gz."""
    parts = []
    for name in reversed(log_files(path)):
        if size <= 0 or name.endswith(".gz"):
            break
        with contextlib.suppress(OSError):
            file = open(name, "rb")  # now: this may soon be the name of another
            found = os.fstat(file.fileno())
            if end and found.st_ino != end.file:
                file.close()  # it is newer
                continue
            length, end = end.size if end else found.st_size, None  # older files are read whole
            parts.append(_tail(file, size, length))
            size -= length
    return itertools.chain.from_iterable(reversed(parts))


def _line_start(file: int, end: int) -> int:
    """Where in a file the line begins of which END is a byte, or, at its end, the next byte.

    Raises OSError if the line is too long to be a listener's.
    """
    start = end
    while start > max(0, end - MAX_LOG_LINE):
        start = max(0, start - (1 << 16))
        found = os.pread(file, 1 << 16, start)[:end - start].rfind(b"\n")
        if found >= 0:
            return start + found + 1
    if start:
        raise OSError(errno.EINVAL, FOREIGN)
    return 0


class LogFile:
    """A file of whole lines that one process appends to.

    When `append` with SYNC returns, the lines are on the disk: they survive kill -9, and a power
    cut as far as the disk keeps what it acknowledged. When it raises, none of them is in the file,
    nor will be later. The file is locked while it is open, so that there is one writer.

    A last line without its newline (of a process that was killed) gets one if it is whole, and is
    else moved to PATH.torn. A file that was renamed or removed (logrotate) is made anew before the
    next write. With a Rotation it is renamed itself before it grows too large: PATH to PATH.1, that
    to PATH.2, and so on up to the number of files that are kept; others are left alone.
    """

    def __init__(self, path: str, warn: Callable[[str], None], rotation: Optional[Rotation] = None,
                 is_line: Optional[Callable[[bytes], bool]] = None) -> None:
        """Open or make PATH, with its folders.

        IS_LINE tells whether some bytes are a whole line of such a file; if it is None, all are.
        Raises BlockingIOError if the file is in use, and OSError if it cannot be written or its
        last line is no such line.
        """
        self.path, self._warn, self._is_line, self._rotation = path, warn, is_line, rotation
        self._rotating = SaidOnce(warn)
        self._rename_at = 0.0  # not before then; time.monotonic()
        self._seen = -1  # bytes of the file when its end was looked at last; -1: not yet
        self._failed = False  # what the last write has left is still to be cut off
        self._file = self._open()
        with contextlib.suppress(OSError):  # on a full disk: before the next write, then
            self._mend()

    def _open(self) -> int:
        folder = os.path.dirname(os.path.abspath(self.path))
        os.makedirs(folder, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._refuse_foreign(file)
            os.fsync(file)  # a line that a killed listener wrote may not have reached the disk yet
            for name in (folder, os.path.dirname(folder)):
                self._sync_folder(name)
        except BaseException:
            os.close(file)
            raise
        return file

    def _refuse_foreign(self, file: int) -> None:
        """Raise OSError if this is a file that somebody else wrote."""
        if self._is_line:
            end = _line_start(file, os.fstat(file).st_size)
            start = _line_start(file, max(0, end - 1))
            if end and not self._is_line(os.pread(file, end - start, start)):
                raise OSError(errno.EINVAL, FOREIGN)

    def _mend(self) -> None:
        """Finish or move aside what a crash or another program has left after the last newline."""
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            start = _line_start(self._file, size) if self._is_line else size
            torn = os.pread(self._file, size - start, start)
            if not self._is_line or self._is_line(torn):
                os.write(self._file, b"\n")
            else:
                self._move_aside(torn, start)
        self._seen = os.fstat(self._file).st_size

    def _move_aside(self, torn: bytes, start: int) -> None:
        aside = f"{self.path}.torn"
        with open(aside, "ab") as file:
            file.write(torn + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.ftruncate(self._file, start)
        what = ("a line that was never finished nor acknowledged" if self._seen < 0 else
                "what another program has left of a line")
        self._warn(f"{self.path}: its last {counted(len(torn), 'byte')}, {what}, were moved to "
                   f"{aside}")

    @staticmethod
    def _sync_folder(folder: str) -> None:
        """Make the name of a new file outlive a power cut, where the file system can."""
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def append(self, data: bytes, sync: bool) -> None:
        """Write DATA, which ends with a newline, and with SYNC return when it is on the disk."""
        while True:
            if self._moved():
                self._reopen()
            self._cut_back()
            if os.fstat(self._file).st_size != self._seen:
                self._mend()
            end = self._seen + len(data)
            if self._rotation and self._seen and end > self._rotation.size and self._rotate():
                continue
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(self._file, rest):]
                if sync:
                    # After a failed fsync the kernel may call the pages clean: cut back and written
                    # again, as below, they are new ones, so a later success can be believed.
                    os.fsync(self._file)
            except OSError:
                self._failed = True
                with contextlib.suppress(OSError):
                    self._cut_back()
                raise
            self._seen = end
            if os.fstat(self._file).st_nlink or not self._moved():
                return  # else it was removed meanwhile, and what was written went with it

    def _moved(self) -> bool:
        try:
            return not os.path.samestat(os.stat(self.path), os.fstat(self._file))
        except FileNotFoundError:
            return True

    def _reopen(self) -> None:
        file = self._open()
        with contextlib.suppress(OSError):  # nobody was told that this would outlive a power cut
            self._cut_back()
            os.fsync(self._file)
        os.close(self._file)
        self._file, self._failed, self._seen = file, False, -1

    def _rotate(self) -> bool:
        """Rename PATH, and the files before it if their names are needed; whether it was done."""
        if time.monotonic() < self._rename_at:
            return False
        try:
            numbered = _numbered(self.path)
            taken = {number for number, _ in numbered}
            free = next(number for number in itertools.count(1) if number not in taken)
            for number, name in reversed(numbered):
                if number == self._rotation.files < free:
                    os.unlink(name)
                elif number < min(free, self._rotation.files):
                    ending = ".gz" if name.endswith(".gz") else ""
                    os.rename(name, f"{self.path}.{number + 1}{ending}")
            os.rename(self.path, f"{self.path}.1")
        except OSError as error:
            self._rename_at = time.monotonic() + RENAME_SECONDS
            self._rotating.begin(f"cannot rename {self.path}: {reason(error)}; it grows until it "
                                 "can be")
            return False
        self._rotating.end(f"{self.path} could be renamed")
        return True

    def _cut_back(self) -> None:
        if self._failed and os.fstat(self._file).st_size > self._seen:  # else somebody emptied it
            os.ftruncate(self._file, self._seen)
        self._failed = False

    def sync(self) -> None:
        os.fsync(self._file)


# What may drive a terminal: DEL, C1, and what turns the direction of text. JSON escapes C0 itself.
_CONTROLS = {code: f"\\u{code:04x}" for code in (
    *range(0x7f, 0xa0), 0x61c, 0x200e, 0x200f, *range(0x202a, 0x202f), *range(0x2066, 0x206a))}
CONTROL = re.compile("[" + "".join(map(chr, _CONTROLS)) + "]")


def encode_event(event: dict) -> bytes:
    """The line of the log for EVENT: compact JSON, UTF-8, a newline at its end.

    Control characters stay or become escapes, so that `cat` shows the log and does no more. A lone
    surrogate, which UTF-8 cannot carry, stays the escape that it came as.
    """
    try:
        text = encode_json(event)
    except RecursionError:
        raise ValueError("an event is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"an event cannot be written as JSON: {error}") from None
    if (not text.isascii() or "\x7f" in text) and CONTROL.search(text):
        text = text.translate(_CONTROLS)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _is_event(line: bytes) -> bool:
    try:
        return isinstance(decode_json(line.decode("utf-8")), dict)
    except RecursionError:
        return True  # deeper than can be read here, but read it was
    except ValueError:
        return False


class EventLog:
    """Every event once. What was added is on the disk when `commit` returns."""

    def __init__(self, path: str, warn: Callable[[str], None],
                 rotation: Optional[Rotation] = None) -> None:
        """Open PATH and read back the ids of its last events; raises OSError as LogFile does."""
        self._file = LogFile(path, warn, rotation, _is_event)
        self._failing = SaidOnce(warn)
        self._added: List[Tuple[Any, bytes, dict]] = []  # what `_id` gives, line, event
        self._ids = Remembered(REMEMBERED_EVENTS)
        self.error: Optional[OSError] = None
        self.written = self.duplicates = 0
        self.repeats = 0  # of the duplicates, those since the last new event
        for line in last_lines(path, REMEMBERED_BYTES):
            with contextlib.suppress(ValueError, RecursionError):
                self._ids.add(self._id(json.loads(line)))

    @staticmethod
    def _id(event: Any) -> Any:
        """A digest of the event's id, which may be long; an event without one is like no other."""
        name = event.get("id") if isinstance(event, dict) else None
        if not isinstance(name, str) or not name:
            return object()
        return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def add(self, events: List[dict]) -> None:
        """Take EVENTS for the next commit; ValueError, and none is, if one cannot be written."""
        self._added += [(self._id(event), encode_event(event), event) for event in events]

    def commit(self) -> List[Tuple[dict, bytes]]:
        """Keep what was added; returns the events that were not in the log yet, with their lines.

        Raises OSError if the disk refuses; none is in the log then, and all may be added again.
        """
        added, self._added = self._added, []
        fresh: Dict[Any, Tuple[dict, bytes]] = {}
        for name, line, event in added:
            if name not in self._ids:
                fresh.setdefault(name, (event, line))
        if fresh:
            self._write(b"".join([line for _, line in fresh.values()]))
        self.written += len(fresh)
        self.duplicates += len(added) - len(fresh)
        self.repeats = 0 if fresh else self.repeats + len(added)
        for name in fresh:
            self._ids.add(name)
        return list(fresh.values())

    def _write(self, data: bytes) -> None:
        try:
            self._file.append(data, sync=True)
        except OSError as error:
            self.error = OSError(f"cannot write {self._file.path}: {reason(error)}")
            self._failing.begin(f"{self.error}; the registry is told to send again until it can be")
            raise self.error from None
        self._failing.end(f"{self._file.path} can be written again")
        self.error = None


class RegistryLog:
    """registry.log: the lines of the registry's own log, on the disk when `sync` returns."""

    def __init__(self, path: str, warn: Callable[[str], None],
                 rotation: Optional[Rotation] = None) -> None:
        """Open PATH; raises OSError as LogFile does."""
        self._file, self._failing = LogFile(path, warn, rotation), SaidOnce(warn)

    def append(self, lines: List[str]) -> None:
        try:
            self._file.append("".join(line + "\n" for line in lines).encode("utf-8"), sync=False)
            self._failing.end(f"{self._file.path} can be written again")
        except OSError as error:
            self._failing.begin(f"cannot write {self._file.path}: {reason(error)}; lines of the "
                                "registry's log are lost until it can be")

    def sync(self) -> None:
        with contextlib.suppress(OSError):
            self._file.sync()


# ------------------------------------------------------------------------------------------ receive

# Who may talk. What a registry sends is far below all of this; `Server` says what is dropped when.
MAX_CONNECTIONS = 1000
MAX_ACCEPTED = 100  # connections per turn, before existing ones are served
REQUEST_SECONDS = 10  # for a request to be complete, and for its answer to be taken
REFUSED_SECONDS = 2  # in which a client that was refused may read why
MAX_REQUEST_LINE = 64 << 10  # bytes
MAX_HEAD = 128 << 10  # bytes: the request line with the headers
MAX_BODY = 8 << 20  # bytes
MAX_EVENTS = 20_000  # in an envelope; a registry sends one
MAX_VALUES = 250_000  # in a body; a manifest of 4 MiB, the largest there is, makes 170,000
MAX_CONTROLS = 10_000  # control characters in a large body; a registry sends none
MAX_SLOW_NUMBERS = 64 << 10  # characters of a large body's fractions and very long integers
LARGE_BODY = 128 << 10  # bytes; larger bodies are committed one by one
MAX_LARGE_BODIES = 8  # being received
MAX_COMMIT = 1 << 20  # bytes of the other bodies that are committed together
RECEIVED_BYTES = 64 << 10  # at a time, and of a body up to MAX_RECEIVED_BYTES
MAX_RECEIVED_BYTES = 1 << 20
MAX_REMEMBERED_HEAD = 2 << 10  # bytes
MAX_DATAGRAM = 16 << 10  # bytes; Docker itself splits log lines at this length


def _read_json(body: bytes) -> Any:
    """The value of a BODY; ValueError if it is no JSON, or would take long to read or to write."""
    text = body.decode("utf-8")
    if len(body) <= LARGE_BODY:
        return decode_json(text)
    values = sum(map(body.count, (b",", b"[", b"{")))  # a value follows each of these
    if values > MAX_VALUES:
        raise ValueError(f"{values} values are over {MAX_VALUES}")
    if any(itertools.islice(CONTROL.finditer(text), MAX_CONTROLS, None)):
        raise ValueError(f"over {MAX_CONTROLS} control characters")
    left = MAX_SLOW_NUMBERS  # a registry sends short integers and no fractions

    def number(digits: str, kind: Callable = int) -> Any:
        nonlocal left
        if kind is float or len(digits) > 20:
            left -= len(digits)
            if left < 0:
                raise ValueError("its numbers are too many or too long")
        return kind(digits)

    return json.loads(text, parse_constant=refuse_constant, parse_int=number,
                      parse_float=functools.partial(number, kind=float))


def parse_envelope(body: bytes) -> List[dict]:
    """The events of an envelope, as the registry sent them.

    Raises ValueError, with a message for the sender, unless BODY is a UTF-8 JSON object with an
    "events" array of objects. https://distribution.github.io/distribution/about/notifications/
    """
    try:
        envelope = _read_json(body)
    except UnicodeDecodeError as error:
        raise ValueError(f"the body is not UTF-8: byte {error.start}") from None
    except RecursionError:
        raise ValueError("the body is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"the body is not JSON that is accepted: {error}") from None
    events = envelope.get("events") if isinstance(envelope, dict) else None
    if not isinstance(events, list):
        raise ValueError('the body has no "events" array')
    if len(events) > MAX_EVENTS:
        raise ValueError(f"{len(events)} events in one body are over {MAX_EVENTS}")
    for number, event in enumerate(events):
        if not isinstance(event, dict):
            raise ValueError(f"event {number} of the body is not an object")
    return events


_TLS_HANDSHAKE = b"\x16\x03"
_HEAD_END = re.compile(rb"\n\r?\n")
_http_date = functools.lru_cache(maxsize=2)(functools.partial(email.utils.formatdate, usegmt=True))
PATHS = "/", "/pulls", "/metrics", "/healthz"  # that may be asked for with GET and HEAD
Refusal = Tuple[int, str]  # the status, and the reason in one line


class Answer(NamedTuple):
    """What a request is answered."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain"  # in UTF-8
    headers: Dict[str, str] = {}


class _Head(BaseHTTPRequestHandler):
    """What the standard library reads of a request's head, from bytes that are there already.

    `path` is without a query; `refusal` why the request is not accepted, or None; `length` the
    bytes of the body that comes next; `continues` whether the client sends that body only when it
    is told to.
    """

    protocol_version = "HTTP/1.1"

    def __init__(self, head: bytes) -> None:
        self.rfile = io.BytesIO(head)
        self.refusal: Optional[Refusal] = None
        self.continues = False
        self.command = self.path = ""
        self.length = 0
        self.close_connection = True
        self.raw_requestline = self.rfile.readline(MAX_REQUEST_LINE + 1)
        if len(self.raw_requestline) > MAX_REQUEST_LINE:
            self.send_error(414)
        elif len(head) > MAX_HEAD:
            self.send_error(431)
        elif head.startswith(_TLS_HANDSHAKE):
            self.send_error(400, "that is TLS: the endpoint's url needs http://, or the listener "
                            "--tls-cert")
        elif re.search(rb"\r(?!\n)", head):  # RFC 9112, 2.2; the library takes it for a line's end
            self.send_error(400, "a CR without LF in the head")
        elif re.search(rb"\n[ \t]", head):  # RFC 9112, 5.2
            self.send_error(400, "a header that goes on in the next line")
        elif self.parse_request():
            self.path = self.path.partition("?")[0]
            self.refusal = self._find_refusal()
        elif not self.refusal:
            self.send_error(400, "an empty request line")

    def send_error(self, code: int, message: Optional[str] = None, *explain: Any) -> None:
        """Called by the library's parser, which blames a wrong version on the server.

        What it says of a request line repeats it, with the token if that was put there.
        """
        code = 400 if code == 505 else code
        if message and message.startswith(("Bad request", "Bad HTTP", "Invalid HTTP")):
            message = "not an HTTP/1.1 request line"
        self.refusal = code, message or self.responses[code][0]

    def handle_expect_100(self) -> bool:
        self.continues = True
        return True

    def _find_refusal(self) -> Optional[Refusal]:
        if self.request_version == "HTTP/0.9" or self.headers.defects:
            return 400, "not an HTTP/1.1 request"
        if self.command not in ("POST", "GET", "HEAD"):
            return 405, "only POST (notifications), GET and HEAD are accepted"
        lengths = [value.strip(" \t") for value in self.headers.get_all("Content-Length", [])]
        encodings = self.headers.get_all("Transfer-Encoding", [])
        if len(lengths) > 1 or lengths and encodings:
            return 400, "the length of the body is given twice"
        if encodings:
            return 501, f"Transfer-Encoding {encodings[0]} is not accepted: send a Content-Length"
        if not all(length.isascii() and length.isdigit() for length in lengths):
            return 400, f"Content-Length {lengths[0]} is not a number"
        length = lengths[0] if lengths else ""
        if self.command != "POST":
            return (400, f"{self.command} with a body") if length.strip("0") else None
        if not length:
            return 411, "no Content-Length"
        if len(length) > 18 or int(length) > MAX_BODY:
            return 413, f"a body of {length} bytes is over {MAX_BODY}"
        encoding = ", ".join(self.headers.get_all("Content-Encoding", ["identity"]))
        if encoding.lower() != "identity":
            return 415, f"Content-Encoding {encoding} is not accepted: send plain"
        self.length = int(length)
        return None


# A registry sends the same head again and again, and reading it is half the work of a request.
_remembered_head = functools.lru_cache(maxsize=256)(_Head)


class Handler(_Head):
    """One HTTP request: the bytes of its head in, those of the answer out. It does no I/O."""

    def __init__(self, head: bytes, token: Optional[bytes]) -> None:
        """Read HEAD, from the request line to the empty line; TOKEN: only who has it is served."""
        read = _remembered_head if len(head) <= MAX_REMEMBERED_HEAD else _Head
        vars(self).update(vars(read(head)))  # a copy: what is remembered stays as it is
        self.arrived = time.monotonic()
        if token is not None and not self.refusal and (
                self.command == "POST" or self.path != "/healthz"):
            self.refusal = self._token_refusal(token)

    def _token_refusal(self, token: bytes) -> Optional[Refusal]:
        authorization = self.headers.get("Authorization", "").strip(" \t")
        scheme, _, rest = authorization.partition(" ")
        given = rest.strip(" \t") if scheme.lower() == "bearer" else authorization
        given = given.encode("latin-1")
        if scheme.lower() == "basic":
            with contextlib.suppress(ValueError):
                given = base64.b64decode(rest).partition(b":")[2]
        if hmac.compare_digest(given, token):
            return None
        what = "wrong token" if given else "no token"
        if self.command == "POST":
            return 401, (f"{what}: the endpoint in the registry's config needs headers: "
                         "{Authorization: [Bearer TOKEN]}, with the token in --token-file")
        return 401, (f"{what} for {self.path}: send Authorization: Bearer TOKEN, or "
                     "in a browser give it as the password, with any name")

    def encode(self, answer: Answer) -> bytes:
        """The bytes of an ANSWER to this request."""
        status, body, content_type, headers = answer
        self.wfile = io.BytesIO()
        self.request_version = "HTTP/1.1"  # also after a request line that could not be read
        self.send_response_only(status)
        self.send_header("Server", "listener")
        self.send_header("Date", _http_date(int(time.time())))
        if status == 401:
            # Two headers: browsers take one that names both schemes for a malformed Basic.
            self.send_header("WWW-Authenticate", "Bearer")
            self.send_header("WWW-Authenticate", 'Basic realm="registry listener"')
        if status == 405:
            self.send_header("Allow", "GET, HEAD, POST" if self.path in PATHS else "POST")
        if body:
            self.send_header("Content-Type", content_type + "; charset=utf-8")
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        return self.wfile.getvalue()


READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
NEXT, COMMIT, WAKE = "next turn", "commit", "wake"  # what else a connection may wait for
Wait = Iterator[Any]  # a generator that yields one of these; what it returns is the result
_WOULD_BLOCK = BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError


class Connection:
    """One client's socket, and the bytes that came from it and were not used yet.

    Its methods are generators that yield what they wait for, so that one thread can serve all.
    """

    def __init__(self, client: socket.socket, address: str) -> None:
        self.socket, self.host = client, address
        self.received = bytearray()
        self.request: Optional[Handler] = None  # from the end of its head until its answer
        self.body: Optional[bytes] = None  # of a request that waits for its commit
        self.talk: Optional[Wait] = None  # None: it was dropped
        self.waits: Any = READ  # what the talk yielded last
        self.watched = 0  # what the selector watches it for
        self.allow(REQUEST_SECONDS)

    def allow(self, duration: float) -> None:
        """Set the deadline: so many seconds from now."""
        self.deadline = time.monotonic() + duration

    @property
    def large(self) -> bool:
        return self.request is not None and self.request.length > LARGE_BODY

    def read(self, size: int = RECEIVED_BYTES) -> Wait:
        """Add to `received` what comes next; whether anything did, rather than the client's end."""
        while True:
            try:
                data = self.socket.recv(size)
                break
            except _WOULD_BLOCK:
                yield READ
        self.received += data
        return bool(data)

    def read_head(self) -> Wait:
        """The bytes of the next head, or of too much or none of one; None at the client's end."""
        searched = 0
        while True:
            end = _HEAD_END.search(self.received, max(0, searched - 2))
            searched = len(self.received)
            if end:
                return self._take(end.end())
            if searched > MAX_HEAD or self.received.startswith(_TLS_HANDSHAKE):
                return self._take(searched)
            if not (yield from self.read()):
                return None

    def read_body(self, length: int) -> Wait:
        """The bytes of a body; fewer if the client ends before."""
        while len(self.received) < length:
            missing = length - len(self.received)
            if not (yield from self.read(max(RECEIVED_BYTES, min(missing, MAX_RECEIVED_BYTES)))):
                break
            if missing > RECEIVED_BYTES:
                yield NEXT  # a fast sender leaves the others their turn
        return self._take(length)

    def _take(self, length: int) -> bytes:
        taken = bytes(self.received[:length])
        del self.received[:length]
        return taken

    def send(self, data: bytes) -> Wait:
        while data:
            try:
                data = data[self.socket.send(data):]
            except _WOULD_BLOCK:
                yield WRITE

    def discard(self) -> Wait:
        """Throw away what comes, up to the client's end."""
        while (yield from self.read()):
            self.received.clear()
            yield NEXT


class Server:
    """One thread that serves all connections, in turns, so that nothing has to be locked.

    In a turn it lets each connection go on that can, commits all envelopes that are complete, at
    once, and answers them. While that waits for the disk, nothing is answered, and the next turn's
    envelopes come: the slower the disk and the more senders, the more of them share an fsync.

    Dropped, without an answer, are: connections past their deadline; of more than MAX_CONNECTIONS,
    or than there are file descriptors for, the one with the earliest deadline; of more than
    MAX_LARGE_BODIES being received, the one that has received least. A request that waits for its
    commit is never dropped.
    """

    def __init__(self, address: str, port: int, add: Callable[[List[dict]], None],
                 commit: Callable[[], Callable[[], None]],
                 pages: Callable[[Handler], Optional[Answer]],
                 report: Callable[[int, str, str], None], token: Optional[bytes] = None,
                 tls: Optional[ssl.SSLContext] = None) -> None:
        """Listen on PORT of ADDRESS; raises OSError if that cannot be.

        ADD is handed an envelope's events; a ValueError of it is answered with 400. COMMIT returns
        when all that was added is safe, and returns what is to be called after the answers, as no
        sender should wait for it; an OSError of it is answered with 503. PAGES gives the answer to
        a GET or HEAD; if that is None, it is asked again after `wake`. REPORT is told of each
        refusal: its status (0: no answer), the client's host, and the reason. TOKEN and TLS may be
        replaced at any time, by any thread.
        """
        self._add, self._commit, self._pages, self._report = add, commit, pages, report
        self.token, self.tls = token, tls
        self.answered: collections.Counter = collections.Counter()  # by status
        self._socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((address, port))
        self._socket.listen(1024)
        self._socket.setblocking(False)
        self.port = self._socket.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, READ)
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._selector.register(self._woken, READ)
        self._connections: Set[Connection] = set()
        self._next: List[Connection] = []  # those that go on in the next turn
        self._asking: List[Connection] = []  # those that wait for `wake`
        self._whole: List[Connection] = []  # those that wait for their commit, oldest first
        self._commit_seconds = 0.0  # that the last one took
        self._next_check = 0.0
        self._stopping = False
        threading.stack_size(8 << 20)  # deep JSON would overrun the 1 MiB that musl gives a thread
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        start_thread(self._thread)

    def stop(self) -> None:
        """Accept nothing more, and return when every complete request is committed."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, too
        self._thread.join()

    def wake(self) -> None:
        """There is something new to be asked for: called by any thread."""
        with contextlib.suppress(OSError):  # it is full of bytes that wake as well
            self._waker.send(b"x")

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._turn()
            except Exception as error:  # of no client's making: the next turn may do better
                self._report(0, "somebody", f"internal error: {error!r}")
                time.sleep(0.1)
        while self._whole:
            self._commit_some()
        for connection in list(self._connections):
            self._drop(connection)
        for closed in (self._selector, self._socket, self._waker, self._woken):
            closed.close()

    def _turn(self) -> None:
        self._receive(0 if self._next or self._whole else 0.5)
        # On a slow disk it is worth a moment to have those in the same commit that are just coming:
        # in a TLS handshake, or with a large body. Else each of their steps would wait for it.
        end = time.monotonic() + min(0.1, self._commit_seconds / 10)
        while self._whole and time.monotonic() < end - 0.001:
            self._receive(end - time.monotonic())
        self._drop_late()
        self._commit_some()

    def _receive(self, timeout: float) -> None:
        """Let all connections go on that can; wait up to TIMEOUT seconds for one."""
        ready = self._selector.select(timeout)
        going, self._next = self._next, []
        for key, _ in ready:
            if key.data:
                if key.data.waits in (READ, WRITE):
                    going.append(key.data)
            elif key.fileobj is self._woken:
                self._woken.recv(1 << 10)
                going += self._asking
                self._asking = []
            else:
                self._accept()
        for connection in going:
            self._go_on(connection)

    def _go_on(self, connection: Connection, result: Any = None) -> None:
        """Let CONNECTION talk until it waits again; whatever goes wrong is its end alone.

        RESULT is what came of its commit: an Answer, or why its body is refused.
        """
        if connection.talk is None:
            return  # it was dropped in this turn
        try:
            connection.waits = connection.talk.send(result)
            if connection.waits is COMMIT:
                self._whole.append(connection)
            elif connection.waits is NEXT:
                self._next.append(connection)
            elif connection.waits is WAKE:
                self._watch(connection, 0)
                self._asking.append(connection)
            else:
                self._watch(connection, connection.waits)
            return
        except (StopIteration, ssl.SSLEOFError):
            pass  # all was said, or the client is gone
        except ssl.SSLError as error:
            # An alert is the client's: as a rule it has looked at the certificate.
            what = "its TLS ended with" if "ALERT" in str(error.reason) else "no TLS:"
            self._report(0, connection.host, f"{what} {error.reason or error}; is its url https:// "
                         "and the certificate one that it trusts?")
        except OSError:
            pass  # the client is gone
        except Exception as error:
            self._report(0, connection.host, f"internal error: {error!r}")
        self._drop(connection)

    # -- what is said with one client

    def _talk(self, connection: Connection) -> Wait:
        """Serve a client, from its first byte to its last."""
        if self.tls:
            connection.socket = self.tls.wrap_socket(
                connection.socket, server_side=True, do_handshake_on_connect=False)
        while True:
            head = yield from connection.read_head()
            if head is None:
                return
            request = connection.request = Handler(head, self.token)
            answer = yield from self._respond(connection, request)
            connection.body = connection.request = None
            connection.allow(REQUEST_SECONDS)
            self.answered[answer.status] += 1
            yield from connection.send(request.encode(answer))
            if request.refusal:
                break
            if request.close_connection:
                return
            if connection.received:
                yield NEXT
        # A close with unread bytes resets the connection, and the client would not see why.
        connection.socket.shutdown(socket.SHUT_WR)
        connection.allow(REFUSED_SECONDS)
        yield from connection.discard()

    def _respond(self, connection: Connection, request: Handler) -> Wait:
        """The Answer to a request: a refusal, a page, or what came of committing its body."""
        if request.refusal:
            return self._refuse(connection, *request.refusal)
        if request.command != "POST":
            while not (answer := self._pages(request)):
                connection.deadline = math.inf  # the delay is not the client's
                yield WAKE
            return answer
        if connection.large:
            self._make_room(connection)
        if request.continues and len(connection.received) < request.length:
            yield from connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = yield from connection.read_body(request.length)
        if len(body) < request.length:
            return self._refuse(connection, 400, f"the body ends after {len(body)} of "
                                f"{request.length} bytes")
        connection.body, connection.deadline = body, math.inf
        result = yield COMMIT
        return self._refuse(connection, 400, result) if isinstance(result, str) else result

    def _refuse(self, connection: Connection, status: int, why: str) -> Answer:
        """Refuse a request in one line, and close: nobody knows any more where its body ends."""
        request = connection.request
        request.refusal, request.close_connection = (status, why), True
        # A browser's first request has no token: being refused, it asks its user for one.
        if status != 401 or request.command == "POST" or "Authorization" in request.headers:
            self._report(status, connection.host, why)
        connection.received.clear()
        return Answer(status, (why + "\n").encode("utf-8", "backslashreplace"))

    # -- who may talk

    def _accept(self) -> None:
        for _ in range(MAX_ACCEPTED):
            try:
                client, peer = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE) and self._drop_earliest():
                    continue
                return time.sleep(0.01)  # it is likely to fail at once again
            client.setblocking(False)
            connection = Connection(client, peer[0])
            connection.talk = self._talk(connection)
            self._connections.add(connection)
            if len(self._connections) > MAX_CONNECTIONS:
                self._drop_earliest()
            self._go_on(connection)  # as a rule the request is there already

    def _watch(self, connection: Connection, events: int) -> None:
        if connection.watched == events:
            return
        if not connection.watched:
            self._selector.register(connection.socket, events, connection)
        elif events:
            self._selector.modify(connection.socket, events, connection)
        else:
            self._selector.unregister(connection.socket)
        connection.watched = events

    def _drop_late(self) -> None:
        """Drop those past their deadline; about twice a second, as it looks at all connections."""
        now = time.monotonic()
        if now >= self._next_check:
            self._next_check = now + 0.5
            for connection in [c for c in self._connections if c.deadline <= now]:
                self._drop(connection)

    def _drop_earliest(self) -> bool:
        """Drop the connection with the earliest deadline; whether there was one."""
        waiting = [connection for connection in self._connections if connection.body is None]
        if waiting:
            self._drop(min(waiting, key=operator.attrgetter("deadline")))
        return bool(waiting)

    def _make_room(self, newest: Connection) -> None:
        """For NEWEST, a large body: if there are too many, drop the one that has received least."""
        large = [connection for connection in self._connections - {newest} if connection.large]
        coming = [connection for connection in large if connection.body is None]
        if len(large) >= MAX_LARGE_BODIES and coming:
            self._drop(min(coming, key=lambda connection: len(connection.received)))

    def _drop(self, connection: Connection) -> None:
        connection.talk = None
        self._connections.discard(connection)
        with contextlib.suppress(KeyError, OSError, ValueError):
            self._watch(connection, 0)
        with contextlib.suppress(OSError):
            connection.socket.close()

    # -- what is complete

    def _commit_some(self) -> None:
        """Commit and answer what is complete: small bodies at once, then the oldest large one."""
        # The smallest go first, as registries' are small; and the oldest, so that it cannot starve.
        small = [connection for connection in self._whole if not connection.large]
        small[1:] = sorted(small[1:], key=lambda connection: len(connection.body))
        before = itertools.accumulate([len(connection.body) for connection in small], initial=0)
        chosen = {connection for connection, size in zip(small, before) if size < MAX_COMMIT}
        large = [connection for connection in self._whole if connection.large][:1]
        whole, going = self._whole, chosen.union(large)
        self._whole = [connection for connection in whole if connection not in going]
        self._commit_together([connection for connection in whole if connection in chosen])
        self._commit_together(large)

    def _commit_together(self, batch: List[Connection]) -> None:
        added: List[Connection] = []
        for connection in batch:
            try:
                self._add(parse_envelope(connection.body))
                added.append(connection)
            except ValueError as error:
                self._go_on(connection, str(error))
        if not added:
            return
        answer, follow, began = Answer(200), None, time.monotonic()
        try:
            follow = self._commit()
        except Exception as error:
            answer = Answer(503, f"{error}; send it again\n".encode("utf-8", "backslashreplace"))
            if not isinstance(error, OSError):
                self._report(503, added[0].host, f"internal error: {error!r}")
        self._commit_seconds = time.monotonic() - began
        if self._commit_seconds > 1:
            for connection in self._connections:
                connection.deadline += self._commit_seconds  # the delay was the disk's
        for connection in added:
            self._go_on(connection, answer)
        if follow:
            follow()


# RFC 5424: <27>1 TIMESTAMP HOST APP PROCID MSGID STRUCTURED-DATA MESSAGE
# RFC 3164: <27>Mmm dd hh:mm:ss [HOST] TAG[PID]: MESSAGE; senders omit parts at will
_SYSLOG_HEADER = re.compile(
    r"<\d{1,3}>(?:1 (?:\S+ ){5}(?:-|(?:\[(?:[^\]\\]|\\.)*\])+)(?: \ufeff?|$)"
    r"|(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d )?(?:[^\s:=]+ )?[^\s:=]+: )")


def read_syslog(datagram: bytes, truncated: bool = False) -> str:
    """The message of a syslog DATAGRAM (RFC 3164 or 5424), as one line of harmless text."""
    text = datagram.decode("utf-8", "backslashreplace").rstrip("\r\n\0")
    header = _SYSLOG_HEADER.match(text)
    line = plain_line(text[header.end():] if header else text)
    return f"{line} [listener: cut after {len(datagram)} bytes]" if truncated else line


class Inbox:
    """What waits for a thread, bounded by bytes: what it has no room for is dropped and counted."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: collections.deque = collections.deque()  # with the bytes that each holds
        self._held = self._reported = 0  # bytes; of `dropped`, those that `take` has told of
        self._changed = threading.Condition()
        self.dropped = 0  # since the start

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Any, size: int) -> None:
        """Take ITEM, which holds SIZE bytes, or drop it; one of 0 bytes always finds room."""
        with self._changed:
            if size and self._held + size > self._limit:
                self.dropped += 1
                return
            size += 200  # for what holds the item
            self._held += size
            self._items.append((item, size))
            if len(self._items) == 1:
                self._changed.notify()

    def take(self, timeout: Optional[float] = None) -> Tuple[List[Any], int]:
        """Some of what waits or comes in TIMEOUT seconds; how many were dropped since the last."""
        with self._changed:
            self._changed.wait_for(lambda: self._items, timeout)
            taken, room = [], 1 << 20
            while self._items and room > 0:
                item, size = self._items.popleft()
                taken.append(item)
                self._held, room = self._held - size, room - size
            dropped, self._reported = self.dropped - self._reported, self.dropped
            return taken, dropped


class Syslog:
    """The registry's log, as it comes by UDP. Two threads: one that writes would miss datagrams."""

    MAX_WAITING = 8 << 20  # bytes

    def __init__(self, datagrams: socket.socket, keep: Callable[[List[str]], None],
                 warn: Callable[[str], None]) -> None:
        """KEEP is handed the lines that come to DATAGRAMS, some at a time."""
        self._datagrams, self._keep, self._losing = datagrams, keep, SaidOnce(warn)
        self.inbox = Inbox(self.MAX_WAITING)

    def start(self) -> None:
        for target in (self._receive, self._hand_over):
            start_thread(threading.Thread(target=target, daemon=True))

    def _receive(self) -> None:
        while True:
            data, _, flags, _ = self._datagrams.recvmsg(MAX_DATAGRAM)
            line = read_syslog(data, bool(flags & socket.MSG_TRUNC))
            self.inbox.put(line, sys.getsizeof(line))

    def _hand_over(self) -> None:
        while True:
            lines, dropped = self.inbox.take()
            if dropped:
                self._losing.begin("the registry's log comes too fast: lines of it are lost")
            else:
                self._losing.end()
            self._keep(lines)


class StandardInput:
    """The registry's log, as `docker logs -f` and the like write it into a pipe."""

    MAX_READ = 64 << 10  # bytes of a line; the rest of it is thrown away

    def __init__(self, keep: Callable[[List[str]], None], end: Callable[[str], None]) -> None:
        """KEEP is handed each line. END is told why there are no more."""
        self._keep, self._end = keep, end

    def start(self) -> None:
        start_thread(threading.Thread(target=self._read, daemon=True))

    def _read(self) -> None:
        if sys.stdin is None or sys.stdin.isatty():  # in the background, reading would stop it
            return self._end(
                "--registry-log - reads the registry's log from standard input, but nothing is "
                "piped into it: docker logs -f REGISTRY 2>&1 | python listener.py --registry-log -")
        why, number = "standard input has ended", 0
        try:
            with open(0, "rb", closefd=False) as file:
                whole = True
                for part in iter(lambda: file.readline(self.MAX_READ), b""):
                    if whole:
                        line = plain_line(part.decode("utf-8", "backslashreplace").rstrip("\r\n"))
                        self._keep([line])
                        number += 1
                    whole = part.endswith(b"\n")
            why += f" after one line, {shown(line)}" if number == 1 else ""
        except OSError as error:
            why = f"cannot read standard input: {reason(error)}"
        self._end(f"no more of the registry's log is read: {why}. Start the command again: "
                  "`docker logs -f` ends when its container stops. Until then notifications are "
                  "taken as before, and pulls end as unknown")


# -------------------------------------------------------------------------------------------- facts

MAX_LINE = 64 << 10  # characters of a line of the registry's log that is read
MAX_USUAL_LINE = 4000  # characters of one that is held against _USUAL_LINE first
INDEX_TYPES = {"application/vnd.docker.distribution.manifest.list.v2+json",
               "application/vnd.oci.image.index.v1+json"}
KNOWN_TYPES = {*INDEX_TYPES, "application/vnd.docker.distribution.manifest.v2+json",
               "application/vnd.oci.image.manifest.v1+json"}


class Fact(NamedTuple):
    """What one event, or one line of the registry's log, says of one request to the registry."""

    kind: str  # "manifest", "pushed" (a manifest), "blob", or "start": the registry itself started
    time: float  # of an event its end, of a line when it was written; seconds since 1970
    stamp: str  # the same as it was written, RFC 3339
    request: str = ""  # its id, the same in events and in log lines
    registry: str = ""  # the name under which the client knows it
    instance: str = ""  # id of the registry's process, new at each start
    repository: str = ""
    method: str = ""
    digest: str = ""
    tag: Optional[str] = None
    size: Optional[int] = None  # bytes, of the blob
    media_type: str = ""
    references: Tuple[Tuple[str, int, str], ...] = ()  # of a manifest: digest, bytes, media type
    client: str = ""  # host, without the port
    proxied: bool = False  # the address bears no port
    agent: str = ""
    user: Optional[str] = None
    event: bool = False  # told by an event: its user is known, even when that is None
    ended: bool = False  # the registry has answered
    began: Optional[float] = None  # when it was asked, as a line tells; seconds since 1970
    status: Optional[int] = None
    written: Optional[int] = None  # bytes of the answer that went into the socket
    client_left: bool = False  # an error that the client made by leaving
    in_parts: bool = False  # the answer to a request for several ranges at once


# For texts that most facts have in common: one copy of each is sent, hashed and kept. Not
# sys.intern, of which Python 3.12 forgets nothing.
interned = functools.lru_cache(1024)(str)


def event_references(target: dict) -> Tuple[Tuple[str, int, str], ...]:
    """Digest, size and media type of what a manifest refers to, by the target of its event."""
    return tuple([(text_of(item, "digest"), amount(item.get("size")) or 0,
                   text_of(item, "mediaType"))
                  for item in array(target, "references")
                  if type(item) is dict and text_of(item, "digest")])


def is_blob(target: dict) -> bool:
    """Whether the target of an event is a blob, rather than a manifest."""
    kind = text_of(target, "url").rpartition("/")[0].rpartition("/")[2]
    return kind == "blobs" or kind != "manifests" and (
        target.get("mediaType") == "application/octet-stream")


def bears_no_port(address: str) -> bool:
    """Whether an address is one that a proxy passed on (X-Forwarded-For), and not a socket's."""
    whole = 0 < len(address) < MAX_TEXT
    return whole and not address.startswith("[") and address.count(":") != 1


def event_fact(event: dict) -> Optional[Fact]:
    """What an event says of a pull, or of a manifest that was pushed; None for all else.

    A client that pushes asks with HEAD whether blobs are there: that is no download.
    """
    action = event.get("action")
    if action != "pull" and action != "push":
        return None
    target, request = child(event, "target"), child(event, "request")
    blob, method = is_blob(target), text_of(request, "method") or "GET"
    if action == "push" and blob or action == "pull" and method != "GET" and (
            blob or method != "HEAD"):
        return None
    stamp, media_type = text_of(event, "timestamp"), text_of(target, "mediaType")
    try:
        at = seconds(stamp)
    except ValueError:
        return None
    address = text_of(request, "addr")
    return Fact(
        kind="blob" if blob else "manifest" if action == "pull" else "pushed", time=at, stamp=stamp,
        request=text_of(request, "id") or text_of(event, "id"),
        registry=interned(text_of(request, "host")),
        instance=interned(text_of(child(event, "source"), "instanceID")),
        repository=interned(text_of(target, "repository")), method=interned(method),
        digest=interned(text_of(target, "digest")), tag=text_of(target, "tag") or None,
        size=amount(target.get("size")), media_type=interned(media_type),
        references=event_references(target) if media_type in KNOWN_TYPES else (),
        client=interned(host(address)), proxied=bears_no_port(address),
        agent=interned(text_of(request, "useragent")),
        user=interned(text_of(child(event, "actor"), "name")) or None, event=True, ended=True)


# logrus writes its fields in the order of their names: one expression reads the usual line at once,
# in a third of the time that it takes to take any line apart.
_USUAL_LINE = re.compile(
    r'time="([^"]+)" level=info msg="(authorized request|response completed)" '
    r'(?:auth\.user\.name=([^" ]+) )?go\.version=\S+ http\.request\.host="?([^"\\ ]+)"? '
    r'http\.request\.id=([^" ]+) http\.request\.method=GET '
    r'http\.request\.remoteaddr="?([^"\\ ]+)"? '
    r'http\.request\.uri="/v2/([^"\\?%]+?)/blobs/([^"\\?/%]+)" '
    r'http\.request\.useragent="([^"\\]*(?:\\.[^"\\]*)*)" '
    r'(?:http\.response\.contenttype=(\S+) http\.response\.duration=(\S+) '
    r'http\.response\.status=(\d+) http\.response\.written=(\d+))?')
_LOGFMT = re.compile(r'(?<![^ ])([^ =]{1,100})=("[^"\\]*(?:\\.[^"\\]*)*"|[^ ]*)')
_BLOB_URI = re.compile(r"/v2/(.+)/blobs/([^/?]+:[^/?]+)")
# Of an error in an answer: it could not be written, or Go's net/http ended the request because the
# client was gone. A cache that cannot read from its registry says "read tcp".
_CLIENT_LEFT = re.compile("write tcp|broken pipe|(?<!read: )connection reset by peer|"
                          "context canceled|client disconnected|http2: stream closed")
# What Go's strconv.Quote escapes, which Python escapes alike.
_ESCAPE = re.compile(r'\\(?:[abfnrtv"\\]|x[0-9a-f]{2}|u[0-9a-f]{4}|'
                     r'U000[0-9a-f]{5}|U0010[0-9a-f]{4})')


@functools.lru_cache(maxsize=256)
def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda escape: escape[0].encode().decode("unicode_escape"), text)


def _unquoted(value: str) -> str:
    """A value of a text line: logrus quotes those with blanks as Go quotes strings."""
    if not value.startswith('"'):
        return value
    return _unescape(value[1:-1]) if "\\" in value else value[1:-1]


# A colour, as it is or as a log daemon escapes it.
_COLOUR = re.compile(r"(?:\x1b|\\x1b|\\u001b|#033)\[[0-9;]*m")
_FORM = re.compile(r'time="?\d|\{\s*"')  # where logrus text, or a JSON object, begins
_WRAPPERS = "log", "MESSAGE", "message", "line"  # Docker's json-file, journald, shippers, logcli


def log_fields(line: str, wrappers: int = 4) -> Tuple[Dict[str, Any], str]:
    """The fields of a line of the registry's log, as logrus names them: time, level, msg, ...

    LINE is logrus text, JSON or logstash, behind any prefix (compose, syslog, CRI, labels), and may
    itself be a member of a JSON object (Docker's json-file, journald), or of one within; of those
    there may be WRAPPERS - 1. If it is none of these, {}, and the text that was in the wrappers.
    https://distribution.github.io/distribution/about/configuration/#log
    """
    if wrappers and len(line) <= MAX_LINE:
        line = _COLOUR.sub("", line) if "[" in line else line
        for form in itertools.islice(_FORM.finditer(line), 4):
            if form[0][0] == "t":
                return {name: _unquoted(value)
                        for name, value in _LOGFMT.findall(line[form.start():])}, line
            try:
                found, _ = JSON_DECODER.raw_decode(line, form.start())
            except (ValueError, RecursionError):
                continue
            if "msg" in found and "time" in found:
                return found, line
            wrapped = next((text for text in map(found.get, _WRAPPERS)
                            if isinstance(text, (str, list)) and text), None)
            if isinstance(wrapped, list):  # journald: the bytes of a text that is not printable
                wrapped = bytes(byte for byte in wrapped if type(byte) is int and 0 <= byte < 256
                                ).decode("utf-8", "replace")
            if wrapped and "@timestamp" in found and not _FORM.search(wrapped):
                return {**found, "msg": wrapped, "time": found["@timestamp"]}, line
            if wrapped:
                return log_fields(wrapped.rstrip(), wrappers - 1)
    return {}, line


def field_of(fields: Dict[str, Any], name: str) -> str:
    return str(fields.get(name, ""))[:MAX_TEXT]


def _blob_fact(stamp: str, answer: Sequence[Any], registry: str, repository: str, digest: str,
               address: str, agent: str, user: Optional[str], **members: Any) -> Fact:
    """A line's Fact; ANSWER: duration, status and bytes written, each None before the end."""
    at = began = seconds(stamp)
    duration, status, written = answer
    if duration is not None:
        began -= go_duration(duration)
        status, written = int(status), amount(int(written))
        if written is None or began < 0:
            raise ValueError("more bytes or seconds than there can be")
    return Fact("blob", at, stamp, registry=interned(registry), repository=interned(repository),
                method="GET", digest=interned(digest), client=interned(host(address)),
                proxied=bears_no_port(address), agent=interned(agent), user=user and interned(user),
                ended=duration is not None, began=began, status=status, written=written, **members)


def _fields_fact(fields: Dict[str, Any]) -> Optional[Fact]:
    message, stamp = field_of(fields, "msg"), field_of(fields, "time")
    instance = field_of(fields, "instance.id")
    if message.startswith("listening on"):
        # Other programs say so as well; only a registry has an id.
        return Fact("start", seconds(stamp), stamp, instance=instance) if instance else None
    ended = message.startswith("response completed")
    if not ended and message != "authorized request" or fields.get("http.request.method") != "GET":
        return None
    blob = _BLOB_URI.search(urllib.parse.unquote(field_of(fields, "http.request.uri")))
    if not blob:
        return None
    request = field_of(fields, "http.request.id")
    address = field_of(fields, "http.request.remoteaddr")
    if not request:
        raise ValueError("no http.request.id")
    return _blob_fact(
        stamp, [field_of(fields, "http.response.duration"), fields["http.response.status"],
                fields["http.response.written"]] if ended else (None, None, None),
        registry=field_of(fields, "http.request.host"),
        # Under an http.prefix with /v2/ in it, only this says what the repository is.
        repository=field_of(fields, "vars.name") or blob[1], digest=blob[2], address=address,
        agent=field_of(fields, "http.request.useragent"),
        user=field_of(fields, "auth.user.name") or None, request=request, instance=instance,
        client_left=bool(_CLIENT_LEFT.search(field_of(fields, "err.detail") or message)),
        in_parts=field_of(fields, "http.response.contenttype").startswith("multipart/"))


def line_fact(line: str) -> Optional[Fact]:
    """What a line of the registry's log says of a blob's download, or of the registry's start.

    LINE is as for `log_fields`. Returns None for lines that say neither; raises ValueError for one
    that should but cannot be read.
    """
    usual = _USUAL_LINE.search(line) if len(line) < MAX_USUAL_LINE else None
    if usual:
        (stamp, message, user, registry, request, address, repository, digest, agent, content_type,
         *answer) = usual.groups()
        if (message[0] == "a" or answer[0]) and "/v2/" not in repository:
            return _blob_fact(
                stamp, answer, registry, repository, digest, address,
                _unescape(agent) if "\\" in agent else agent, user, request=request,
                in_parts=content_type is not None and content_type.startswith('"multipart/'))
    if not ("/blobs/" in line and "GET" in line or "listening on" in line):
        return None
    try:
        fields, _ = log_fields(line)
        if not fields and ("response completed" in line or "authorized request" in line):
            raise ValueError("in none of the forms that are read")
        return _fields_fact(fields)
    except (KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"a line of the registry's log: {error!r}") from None


# --------------------------------------------------------------------------------------- understand

# How pulls are found in requests. An event and two log lines tell of one GET of a blob, an event of
# a GET or HEAD of a manifest; the request's id joins them, and times only order requests.
#
# A pull begins with a request for a manifest: by tag, or by a digest that no pull of that client is
# about. It goes on from HEAD to GET, from an index to the manifests in it, and to their blobs. All
# requests for one repository of one registry by engines of one name, whatever their addresses, are
# a Conversation, in the order of time, and each finds its pull when those before it have found
# theirs. What comes late is put into the order, and those after it find their pulls anew: so there
# is one way in which a request finds its pull, and the order in which facts come changes nothing.
#
# A blob goes to the newest pull of its client and user whose image has it and that lacks it; of two
# that go on at once, to one that is not fetching it already. A pull whose client has the manifest
# already asks only for the index and for blobs: its manifest is the one in the index, of those the
# registry has told of before, that has these blobs. By digest it asks for blobs alone: that another
# pull has begun is seen when it asks for the config again. A request from an address without such a
# pull goes to a pull of another address, which is the same client behind NAT. A log of whole
# seconds, or clocks that differ, make a blob seem older than its manifest, by up to SLACK.
#
# Sure is only what the registry's log tells: how much of each blob was sent. A layer that was not
# asked for was there already if others behind it in the list were asked for, as docker fetches
# layers in order, or if it was sent to the same client before, which has not removed it since; else
# nobody knows, and the pull is `unknown`.

COMPLETE_SECONDS = 5  # a client asks for the next layer within
RESUME_SECONDS = 0.9  # a new pull's lines may come this long before its manifest's event
QUIET_SECONDS = 30  # docker tries a broken layer again after 25 s at the latest
START_SECONDS = 2  # after which a download is said to have started, whatever is known of it
MANIFEST_SECONDS = 0.5  # from one request for a manifest to the next, of a pull
SLACK = 3  # seconds that a blob's request may seem older than its manifest's
MAX_CHILDREN = 64  # manifests of an index, or of a pull, that are looked at
MAX_CANDIDATES = 50  # of a client's latest pulls of a repository, for one more request
MAX_ERROR_BODY = 1000  # bytes; a registry's error is shorter, and counts as written too
MAX_SPLIT = 500  # requests of a pull that may be split in two
MAX_AT_ONCE = 8  # blobs that a client fetches at once: docker 3, podman 6
PART_MULTIPLE = 4096  # bytes: containerd fetches a layer in ranges that are a multiple of it
SURELY, PERHAPS, NOT = 2, 1, 0  # answers to whether an image has a blob
EMPTY_LAYERS = {  # archives of nothing, as docker and BuildKit write them: any image may bring them
    "sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4",
    "sha256:4f4fb700ef54461cfa02571ae0db9a0dc1e0cdb5577484a6d75e68dc38e8acc1"}
# How the agents begin of clients that, of several platforms, ask only for the configs of those that
# they take. (oras names its library as well: oras-go.)
COPIERS = ("skopeo/", "containers/", "Buildah/", "crane/", "go-containerregistry/", "regclient/",
           "oras")
IMAGE_CONFIG_TYPES = {"application/vnd.docker.container.image.v1+json",
                      "application/vnd.oci.image.config.v1+json"}
ATTESTATION_TYPE = "application/vnd.in-toto+json"  # of a layer: an SBOM, or how it was built
Key = collections.namedtuple("Key", "registry engine repository")  # names; of a conversation
Place = Tuple[float, int]  # among the requests of a conversation: by `sort_time`, then as they came


class Manifest:
    """What the registry has told of a manifest: the children of an index, or an image's blobs."""

    def __init__(self, fact: Fact) -> None:
        references = fact.references
        self.digest = fact.digest
        self.is_index = fact.media_type in INDEX_TYPES
        self.children = [name for name, _, _ in references[:MAX_CHILDREN]] if self.is_index else []
        blobs = () if self.is_index else references
        # Bytes by digest, of config and layers; empty if nothing tells.
        self.sizes = {digest: size for digest, size, _ in blobs}
        # Config first, then the layers: in both formats and in all versions of the registry.
        self.config, _, self.config_type = blobs[0] if blobs else (None, 0, "")
        layers = blobs[1:]
        self.layers = len(layers)
        # Such as BuildKit puts into an index beside each image.
        self.is_attestation = {kind for _, _, kind in layers} == {ATTESTATION_TYPE}
        self.order: Dict[str, int] = {}  # place in the list of each layer the registry may be asked
        self.repeated: Dict[str, int] = {}  # the last place of those that have more than one
        for digest, _, media_type in layers:
            # Layers of Windows come from elsewhere.
            if "foreign" not in media_type and "nondistributable" not in media_type:
                if digest in self.order:
                    self.repeated[digest] = len(self.order)
                self.order.setdefault(digest, len(self.order))

        # Roughly the bytes of memory that it takes.
        names = [*self.sizes, *self.children]
        self.held = 450 + 300 * len(names) + sys.getsizeof("".join(names))


class Request:
    """A registry's client's request for a manifest or a blob: what events and lines tell of it."""

    __slots__ = ("id", "client", "digest", "tag", "method", "manifest", "instance", "conversation",
                 "place", "pull", "proxied", "agent", "user", "user_known", "stamp", "size",
                 "first_seen", "last_seen", "began", "starts_seen", "ended", "ended_stamp",
                 "status", "written", "client_left", "in_parts", "is_coarse", "event_at",
                 "line_ended", "held")

    def __init__(self, fact: Fact, manifest: Optional[Manifest], now: float) -> None:
        self.id, self.client, self.digest = fact.request, fact.client, fact.digest
        self.tag, self.method, self.manifest = fact.tag, fact.method, manifest
        self.instance = fact.instance  # of a manifest's: the process that answered
        self.conversation: Optional[Conversation] = None
        self.place: Place = (0.0, 0)  # in there
        self.pull: Optional[Pull] = None
        self.proxied, self.agent = fact.proxied, fact.agent
        self.user: Optional[str] = None
        self.user_known = False
        self.stamp = fact.stamp
        self.size: Optional[int] = None
        self.first_seen = self.last_seen = now  # on the Tracker's clock
        self.began: Optional[float] = None
        self.starts_seen = False  # a line told of it when it began: there is token auth
        self.ended: Optional[float] = None
        self.ended_stamp = ""
        self.status: Optional[int] = None
        self.written: Optional[int] = None
        self.client_left = self.in_parts = False
        self.is_coarse = False  # its time is in whole seconds
        self.event_at: Optional[float] = None
        self.line_ended: Optional[float] = None
        # Roughly the bytes of memory that it takes, with its share of its pull.
        self.held = 1650 + (manifest.held if manifest else 0) + sys.getsizeof("".join((
            fact.request, fact.client, fact.digest, fact.tag or "", fact.user or "", fact.stamp,
            fact.registry, fact.agent, fact.repository)))
        self.learn(fact)

    def learn(self, fact: Fact) -> bool:
        """Take in FACT; whether it changes where this request may belong."""
        moves = False
        if fact.event or fact.user:
            moves = self.pull is None or self.pull.user != fact.user
            self.user, self.user_known = fact.user, True
        if fact.size is not None:
            self.size = fact.size
        if self.began is None and fact.began is not None:
            self.began, moves = fact.began, True
            self.is_coarse = "." not in fact.stamp
        if not fact.ended:
            self.starts_seen, self.stamp = True, fact.stamp
        elif fact.event:
            self.event_at = fact.time if self.event_at is None else self.event_at
        elif self.line_ended is None:
            self.line_ended = fact.time
        answered = fact.status is not None and self.status is None  # the log may be read twice
        if answered or self.ended is None and fact.ended:
            self.ended, self.ended_stamp = fact.time, fact.stamp
        if answered:
            self.status, self.written = fact.status, fact.written
            self.client_left, self.in_parts = fact.client_left, fact.in_parts
        return moves or abs(self.sort_time - self.place[0]) > 0.02

    @property
    def question(self) -> Tuple[str, str, bool]:
        """What a pull asks but once: digest and method, and of a HEAD whether it names a tag."""
        return self.digest, self.method, self.method == "HEAD" and bool(self.tag)

    @property
    def time(self) -> float:
        """When it was asked, or what is known that is nearest to that; seconds since 1970."""
        return self.began if self.began is not None else self.ended or 0.0

    @property
    def sort_time(self) -> float:
        """By what it stands among others: a manifest before its blobs, whatever the clocks say."""
        asked = self.time
        if self.manifest:
            return asked - SLACK
        if self.is_coarse:
            return asked + 1
        if self.event_at is None or self.began is None:
            return asked
        # An event is told of when its request ends: it is the measure of the clock of the lines.
        if self.line_ended is not None and self.event_at > self.line_ended:
            return asked + self.event_at - self.line_ended
        return min(asked, self.event_at)


class Blob(NamedTuple):
    """How far a blob has come in a pull."""

    state: str  # "whole", "open", "cut", "refused", or "unknown": nothing tells how much was sent
    sent: Optional[int]  # bytes, None where nobody can know
    size: Optional[int]
    error: Optional[int] = None  # the status with which it was refused


class BlobRequests:
    """The requests for one blob in one pull, and what they add up to.

    Bytes of answers to Range requests (206) add up; whole answers (200) all begin at 0.
    """

    __slots__ = ("open", "last_ended", "size", "whole", "parts", "ranges", "smallest",
                 "parts_ended", "overlap", "in_parts", "unknown", "refused", "count",
                 "is_followed")

    def __init__(self, size: Optional[int]) -> None:
        self.open: Dict[str, Request] = {}  # those of which no end is known
        self.last_ended = 0.0  # seconds since 1970, as far as ends are known
        self.size = size  # bytes, as the manifest says, else an event
        self.whole = 0  # bytes, of the longest whole answer
        self.parts = 0  # bytes, of all answers to Range requests
        self.ranges = 0  # number of those answers
        self.smallest: Tuple[int, ...] = ()  # bytes of the two smallest of them
        self.parts_ended = 0.0  # the last of them
        self.overlap = False  # some of them were sent at once
        self.in_parts = False  # some were for several ranges
        self.unknown = 0  # how many ended with nothing to tell how much they sent
        self.refused: Optional[int] = None  # the last status that refused it
        self.count = 0  # of all requests
        self.is_followed = False  # by one with which another pull began, as all may have been sent

    def add(self, request: Request) -> None:
        self.count += 1
        self.size = request.size if self.size is None else self.size
        self._sum_up(request)

    def _sum_up(self, request: Request) -> None:
        status, written = request.status, request.written
        self.last_ended = max(self.last_ended, request.ended or 0.0)
        if request.ended is None:
            self.open[request.id] = request
        elif status is None or 300 <= status < 400:  # redirected: the storage sends the bytes
            self.unknown += 1
        elif status >= 400 and status != 416 and not request.client_left and not (
                status >= 500 and self.size and written >= max(self.size, MAX_ERROR_BODY)):
            self.refused = status
        elif status == 200 and not written and not request.client_left:
            self.refused = status  # the file is gone, though the registry remembers its size
        elif status == 206 or status == 416:  # 416: what follows the end, of what is there
            written = written if status == 206 else 0
            self.overlap = self.overlap or request.time < self.parts_ended
            self.parts_ended = max(self.parts_ended, request.ended)
            self.in_parts = self.in_parts or request.in_parts
            self.ranges += 1
            self.parts += written
            self.smallest = tuple(sorted((*self.smallest, written))[:2])
        else:
            self.whole = max(self.whole, written)

    def learn(self, request: Request, fact: Fact) -> bool:
        """Let one of the requests learn FACT; whether that changes where it may belong."""
        settled = request.status is not None
        if request.ended is not None and not settled:
            self.unknown -= 1
        self.open.pop(request.id, None)
        moves = request.learn(fact)
        self.size = request.size if self.size is None else self.size
        if not settled:
            self._sum_up(request)
            # Whether it came whole decides where later requests for it belong.
            moves = moves or request.status == 200 and (self.count > 1 or self.is_followed)
        return moves

    def is_proven(self, size: int) -> bool:
        """Whether answers that overlap, each as long as it took the client to hang up, are all.

        The last of n then ends with the blob, and all others hold a part or more of equal size.
        """
        if self.ranges < 2 or self.parts == size:
            return self.parts >= size
        last, next_smallest = self.smallest
        part, rest = divmod(size - last, self.ranges - 1)
        return not rest and part % PART_MULTIPLE == 0 and last <= part <= next_smallest


class Pull:
    """One client's download of one image, or its question whether there is a newer one: facts.

    Its requests are added in the order of their time.
    """

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.registry, _, self.repository = conversation.key
        self.reset()

    def begin(self, first: Request, user: Optional[str]) -> None:
        """Be the pull of USER that begins with the request FIRST, which is yet to be added."""
        self.client, self.user, self.agent = first.client, user, first.agent

    def reset(self) -> None:
        """Have no requests (any more)."""
        self.requests: List[Request] = []
        self.asked: Dict[str, BlobRequests] = {}  # the blobs that were asked for, by digest
        self.manifest_requests: List[Request] = []  # those for manifests
        self._manifests_asked: Set[Tuple[str, str, bool]] = set()  # the questions of these
        self.images: Dict[str, Manifest] = {}  # asked for, or inferred from the blobs; by digest
        self.children: Dict[str, None] = {}  # digests of the manifests in its indexes
        self.index: Optional[str] = None  # digest of the first of these
        self.tag: Optional[str] = None
        self.asked_digest: Optional[str] = None  # that of the first manifest, asked for or inferred
        self.started, self.ended_time, self.ended_stamp = 0.0, 0.0, ""
        self.last_seen = self.last_asked = 0.0  # signs of life, on the Tracker's clock
        self.starts_seen = False  # the log tells when requests begin: there is token auth
        self.is_download = False  # not just a question
        self.proxied = self.redirected = False
        self.open_count = 0  # requests of which no end is known
        self._chosen: Optional[List[Manifest]] = None
        # As the Tracker has judged them when it was over: later pulls change nothing of that.
        self.final_blobs: Optional[Dict[str, Blob]] = None

    # -- what it is made of

    def add(self, request: Request) -> None:
        request.pull = self
        if not self.requests:
            self.started = request.time
        self.requests.append(request)
        self._chosen = None
        if request.manifest:
            self._add_manifest(request, request.manifest)
        else:
            image = self._image_with(request.digest) or self._infer_image(request.digest)
            requests = self.asked.get(request.digest)
            if requests is None:
                requests = self.asked[request.digest] = BlobRequests(
                    image.sizes[request.digest] if image else None)
                self.conversation.note_asker(self, request.digest)
            requests.add(request)
            self.open_count += request.ended is None
        self.is_download = self.is_download or request.method == "GET"
        self.proxied = self.proxied or request.proxied
        self.last_asked = max(self.last_asked, request.first_seen)
        self._note(request)

    def learn(self, request: Request, fact: Fact) -> bool:
        """Let one of the requests learn FACT; whether that changes where it may belong."""
        self.open_count -= request.ended is None
        moves = self.asked[request.digest].learn(request, fact)
        self.open_count += request.ended is None
        self._note(request)
        return moves

    def _note(self, request: Request) -> None:
        self.final_blobs = None
        self.last_seen = max(self.last_seen, request.last_seen)
        self.starts_seen = self.starts_seen or request.starts_seen
        at, stamp = request.ended, request.ended_stamp
        if at is None:
            at, stamp = request.time, request.stamp
        if at >= self.ended_time:
            self.ended_time, self.ended_stamp = at, stamp
        self.redirected = self.redirected or 300 <= (request.status or 0) < 400

    def _add_manifest(self, request: Request, manifest: Manifest) -> None:
        if not self.manifest_requests:
            self.started, self.asked_digest = request.time, request.digest
        self.manifest_requests.append(request)
        self._manifests_asked.add(request.question)
        self.tag = self.tag or request.tag
        if manifest.is_index:
            self.index = self.index or manifest.digest
            self.children.update(dict.fromkeys(manifest.children))
        elif len(self.images) < MAX_CHILDREN:
            self.images[manifest.digest] = manifest

    def _infer_image(self, digest: str) -> Optional[Manifest]:
        """Of the manifests that the registry has told of before, the one that has this blob."""
        earlier = next((pull for pull in self.conversation.latest_askers(digest)
                        if pull.client == self.client and pull._image_with(digest)), None)
        image = earlier._image_with(digest) if earlier else None
        if not self.manifest_requests and earlier:
            self.asked_digest = self.asked_digest or earlier.asked_digest
        elif not image or image.digest not in self.children:
            image = self._child_with(digest)
        if image and len(self.images) < MAX_CHILDREN:
            self.images[image.digest] = image
        return image

    def _image_with(self, digest: str) -> Optional[Manifest]:
        return next((image for image in self.images.values() if digest in image.sizes), None)

    def _child_with(self, digest: str) -> Optional[Manifest]:
        manifests = self.conversation.manifests
        for name in itertools.islice(self.children, MAX_CHILDREN):
            manifest = manifests.get(name)
            if manifest and digest in manifest.sizes:
                return manifest
        return None

    def contains(self, digest: str) -> int:
        """Whether the image has this blob: SURELY, PERHAPS, as not all is known, or NOT."""
        for image in self.images.values():
            if not image.sizes:
                return PERHAPS
            if digest in image.sizes:
                return SURELY
        child = self._child_with(digest) if self.children else None
        if child:
            return PERHAPS if self._is_anothers(child) else SURELY
        return PERHAPS if all(
            image.is_attestation and self.index for image in self.images.values()) else NOT

    def _is_anothers(self, child: Manifest) -> bool:
        """Whether it asked for an image in the index, and at the same time another for this one."""
        return any(not one.manifest.is_index and not one.manifest.is_attestation
                   for one in self.manifest_requests) and any(
            pull is not self and child.digest in pull.images
            and (pull.open_count > 0 or pull.ended_time > self.started - SLACK)
            for pull in self.conversation.latest_of(self.client))

    def is_missing(self, digest: str) -> bool:
        """Whether what was sent of this blob is, for all that is known, less than all of it."""
        requests = self.asked.get(digest)
        return not requests or self._state(digest, requests, None).state != "whole"

    def may_be_whole(self, digest: str) -> bool:
        """Whether it asked for a blob, and all of it may have been sent."""
        requests = self.asked.get(digest)
        return requests is not None and (
            requests.size is None or requests.unknown > 0
            or requests.whole + requests.parts >= requests.size)

    def is_fetching(self, request: Request) -> bool:
        """Whether an earlier request for the same blob was open when this one was made."""
        requests = self.asked.get(request.digest)
        return requests is not None and (
            len(requests.open) > 0 or requests.last_ended > request.time)

    def lacks(self, request: Request) -> bool:
        """Whether it had not all of a blob yet when it was asked for."""
        return self.is_fetching(request) or self.is_missing(request.digest)

    def is_active(self, at: float) -> bool:
        """Whether it may go on AT that time: something is open, or ended a moment ago."""
        return at - self.ended_time < QUIET_SECONDS or self.open_count > 0

    def goes_on_beside(self, later: Pull) -> bool:
        """Whether, for all that is known, it was not over when the same was pulled once more."""
        return self.asked_digest == later.asked_digest and (
            self.open_count > 0 or self.ended_time > later.started - SLACK and not any(
                map(self.is_missing, itertools.islice(reversed(self.asked), MAX_AT_ONCE))))

    def continues_with(self, request: Request) -> bool:
        """Whether a request for a manifest goes on with this pull, rather than begin another.

        It goes on from a question (HEAD) to the answer (GET), and from an index to a manifest in
        it; asking the same again is another pull.
        """
        if not self.manifest_requests or request.digest != self.asked_digest and (
                request.tag or not self._has_child(request)):
            return False
        if request.tag and (request.method == "HEAD" or request.tag != self.tag):
            return False
        if request.method == "HEAD" and request.digest == self.asked_digest and self.asked:
            return False  # a question comes before blobs
        return self.is_active(request.time) and request.question not in self._manifests_asked

    def began_with(self, request: Request) -> bool:
        """Whether a request by tag, which comes first, seems later by another replica's clock."""
        first = next(iter(self.manifest_requests), None)
        return first is not None and not self.tag and first.instance != request.instance and (
            request.time - first.time <= MANIFEST_SECONDS
            and (first.digest in request.manifest.children
                 or first.digest == request.digest and request.method == "HEAD")
            and (request.digest, "HEAD", False) not in self._manifests_asked)

    def has_just_index(self, at: float) -> bool:
        """Whether it got an index shortly before a time, and asked for nothing in it yet."""
        last = self.manifest_requests[-1]
        return not self.images and last.method == "GET" and (
            last.manifest.is_index and at - last.time <= SLACK)

    def asked_anew(self, request: Request) -> List[Request]:
        """The requests, up to REQUEST, with which another pull of the same image begins; or none.

        docker that has the manifest asks for it no more, but for the config again, and at the same
        time for layers.
        """
        if not self.may_be_whole(request.digest) or len(self.requests) > MAX_SPLIT or not any(
                image.config == request.digest for image in self.images.values()):
            return []
        names, first = {request.digest}, len(self.requests)
        for number in range(first - 1, max(0, first - MAX_AT_ONCE), -1):
            one = self.requests[number]
            if one.manifest or one.digest in names or request.time - one.time > SLACK:
                break
            names.add(one.digest)
            first = number if self.asked[one.digest].count > 1 else first
        anew = [*self.requests[first:], request]
        before = [one for one in self.requests[:first] if not one.manifest]
        if all(one.digest == request.digest for one in before) or any(
                one.ended is None or one.ended > anew[0].time for one in before):
            return []
        return anew

    def _has_child(self, request: Request) -> bool:
        """Whether a request is for a manifest of the index or, if none are known, is the next."""
        if self.index and not self.children:
            return request.digest in self.images or not self.images and (
                request.time - self.manifest_requests[-1].time <= SLACK)
        return request.digest in self.children

    # -- the image

    @property
    def chosen(self) -> List[Manifest]:
        """The images whose layers the client takes, and the attestations that it takes with them.

        Of an index of which only attestations are known, and not yet what they attest, nothing is.
        """
        if self._chosen is None:
            images = [image for image in self.images.values() if not image.is_attestation]
            attestations = [image for image in self.images.values() if image.is_attestation]
            if not images and len(attestations) >= len(self.children):
                images, attestations = attestations, []
            chosen = self._taken_of(images) if len(images) > 1 else images
            if chosen and attestations:
                chosen = chosen + self._taken_of(attestations)
            self._chosen = chosen
        return self._chosen

    def _taken_of(self, images: List[Manifest]) -> List[Manifest]:
        """Of some images those that the client takes: those of which it asked for a layer.

        Of one of the COPIERS, also those of which it asked for the config alone; containerd asks
        for the manifests and configs of all platforms, and takes one.
        """
        copies, left, taken = self.agent.startswith(COPIERS), set(self.asked), []
        parts = {image: image.sizes if copies else image.order for image in images}
        for image in sorted(images, key=lambda image: -len(left.intersection(parts[image]))):
            if not left.isdisjoint(parts[image]):
                left.difference_update(parts[image])
                taken.append(image)
        return taken

    @property
    def platforms(self) -> List[Manifest]:
        """The chosen images without attestations, unless these are all."""
        return [image for image in self.chosen if not image.is_attestation] or self.chosen

    @property
    def sizes(self) -> Dict[str, int]:
        """Bytes by digest of config and layers; empty unless all manifests told of them."""
        chosen = self.chosen
        if len(chosen) == 1:
            return chosen[0].sizes
        if not all(image.sizes for image in chosen):
            return {}
        return {digest: size for image in chosen for digest, size in image.sizes.items()}

    @property
    def stamp(self) -> str:
        """When it started, RFC 3339."""
        first = next(iter(self.manifest_requests or self.requests), None)
        if first and first.began is not None and not first.starts_seen:
            return rfc3339(first.began) or ""  # `stamp` is of its end
        return first.stamp if first else ""

    @property
    def image(self) -> str:
        """`repository:tag`, or `repository@digest` if no tag was asked for."""
        return image_name(self.repository, self.tag, self.asked_digest or "")

    @property
    def digest(self) -> Optional[str]:
        """Of the image's manifest, of the index if several platforms were taken."""
        platforms = self.platforms
        return platforms[0].digest if len(platforms) == 1 else self.index if platforms else None

    @property
    def image_id(self) -> Optional[str]:
        """The config's digest."""
        platforms = self.platforms
        return platforms[0].config if len(platforms) == 1 else None

    @property
    def size(self) -> Optional[int]:
        return sum(self.sizes.values()) if self.sizes else None

    @property
    def layers(self) -> Optional[int]:
        return sum(image.layers for image in self.platforms) if self.sizes else None

    # -- how far it has come

    def asked_blobs(self, now: Optional[float]) -> Dict[str, Blob]:
        """What became of each asked blob of the image, by digest; NOW as for `is_open`."""
        if self.final_blobs is not None:
            return self.final_blobs
        blobs = self.sizes or self.asked
        return {digest: self._state(digest, requests, now)
                for digest, requests in self.asked.items() if digest in blobs}

    def _state(self, digest: str, requests: BlobRequests, now: Optional[float]) -> Blob:
        """How far a blob has come; NOW is when it is judged what is still open."""
        size, sent = requests.size, requests.whole + requests.parts
        brought = 0 if size is None or sent >= size else self._brought(digest, requests)
        if size is not None and sent + (brought or 0) >= size:
            if requests.whole >= size or not requests.overlap or requests.is_proven(size):
                return Blob("whole", min(sent, size), size)
            if not requests.open:
                return Blob("unknown", None, size)
        lost = bool(requests.open)  # whether an end is, unless that is still being answered
        if lost and any(self.is_open(request, now) for request in requests.open.values()):
            return Blob("open", None, size)
        if requests.refused is not None and not lost:
            return Blob("refused", min(sent, size or sent), size, requests.refused)
        # A Range request that follows a lost one may have brought all that was missing.
        if requests.unknown or size is None or requests.ranges and (
                lost or brought is None or self.restarted or requests.in_parts
                or self._shares_ranges(digest)):
            return Blob("unknown", None, size)
        return Blob("cut", None if lost else min(sent, size), size)

    def was_cut(self) -> bool:
        """Whether the client left in the middle of a blob, for all that is known."""
        return any(blob.state == "cut" for blob in self.asked_blobs(None).values())

    @property
    def _takes_ranges(self) -> bool:
        """Whether the client asks for everything by Range, so for its image's config as well."""
        return any(image.config in self.asked and self.asked[image.config].ranges
                   for image in self.images.values())

    def _brought(self, digest: str, requests: BlobRequests) -> Optional[int]:
        """Bytes of a blob that earlier pulls brought; None where nobody can know.

        containerd keeps what an interrupted pull brought, and the next asks for the rest only: so
        this goes back from pull to pull, until one that asked from the first byte on. If there is
        none, nobody knows where the ranges began, unless the client asks for everything by Range.
        """
        brought, pull = 0, self
        for _ in range(MAX_CANDIDATES):
            if requests.whole or not requests.ranges:
                break  # from the first byte on
            earlier = pull._earlier(digest)
            if earlier is None:
                return brought if pull._takes_ranges else None
            later, pull, requests = pull, earlier, earlier.asked[digest]
            came = requests.whole + requests.parts
            if any(image.config in pull.asked and image.config in later.asked
                   for image in self.images.values()):  # who asks for it again has kept nothing
                return brought if later._takes_ranges or came >= (requests.size or 0) else None
            if requests.unknown or requests.open:
                return None
            brought += came
        return brought

    def _shares_ranges(self, digest: str) -> bool:
        """Whether ranges of a blob may be another pull's: of a machine behind the same NAT."""
        return any(pull is not self and pull.client == self.client and pull.user == self.user
                   and pull.started <= self.ended_time and self.started <= pull.ended_time
                   and (pull.asked[digest].ranges or pull.asked[digest].open)
                   for pull in self.conversation.latest_askers(digest))

    def _earlier(self, digest: str) -> Optional[Pull]:
        """The pull of the same client, if possible of its user, that asked for a blob before."""
        return max((pull for pull in self.conversation.latest_askers(digest)
                    if pull.client == self.client and pull.started < self.started
                    and pull.manifest_requests),
                   key=lambda pull: (pull.user == self.user, pull.started), default=None)

    def is_open(self, request: Request, now: Optional[float]) -> bool:
        """Whether a request of this pull may still be answered.

        Not if the process that served it is gone. NOW, if it is not None, ends one whose end may
        have been lost: ten minutes later, and what its blob takes at 64 KiB/s.
        """
        if request.ended is not None or self.conversation.registry.last_restart > request.time:
            return False
        size = self.asked[request.digest].size or 0
        return now is None or now - request.time < 600 + size / (64 << 10)

    @property
    def restarted(self) -> bool:
        """Whether the registry was started anew meanwhile."""
        end = math.inf if self.open_count else self.ended_time + QUIET_SECONDS
        return self.conversation.registry.restarted(self.started, end)

    @property
    def end(self) -> Tuple[float, str]:
        """When its last request ended, or the process that served it was last heard of."""
        ended = self.ended_time, self.ended_stamp
        if self.open_count and self.conversation.registry.last_restart > self.started:
            first = min(request.time for requests in self.asked.values()
                        for request in requests.open.values())
            return max(ended, self.conversation.registry.last_sign(first))
        return ended

    @property
    def all_asked(self) -> bool:
        """Whether nothing is left that the client may ask for."""
        return bool(self.sizes) and self.sizes.keys() <= self.asked.keys()

    def is_explained(self) -> bool:
        """Whether the client is known to have all blobs that it did not ask for."""
        images = self.chosen or list(self.images.values())
        if len(self.platforms or images) > 1 and not self._has_all_manifests(images):
            return False
        return all(map(self._explains, images))

    def _has_all_manifests(self, images: List[Manifest]) -> bool:
        """Whether it has those of all platforms, or, as it seems, of all that it wants.

        BuildKit asks for the manifests of some platforms, and only then for layers of any.
        """
        if self.children.keys() - self.images.keys() <= self.conversation.manifests.keys():
            return True
        first = next((request for request in self.requests if not request.manifest and any(
            request.digest in image.order for image in images)), None)
        # A manifest is sorted SLACK before its time.
        return first is not None and first.sort_time >= self.manifest_requests[-1].sort_time + SLACK

    def _explains(self, image: Manifest) -> bool:
        # docker fetches in order: what stands before the first that it asks for was there. Of one
        # that is in the list twice, it may ask for the second. BuildKit begins with the last.
        layers, first = self.asked.keys() & image.order.keys(), 0
        if not layers <= image.repeated.keys() and not self.agent.startswith("buildkit/"):
            first = min(image.repeated.get(digest, image.order[digest]) for digest in layers)
        missing = [digest for digest, place in image.order.items() if place >= first
                   and digest not in self.asked and digest not in EMPTY_LAYERS]
        # Every image has a config of its own that its client needs; an artifact's may be nothing.
        if image.config not in self.asked and image.config_type in IMAGE_CONFIG_TYPES:
            missing.append(image.config)
        kept = self._kept() if missing else []
        return all(any(not pull.is_missing(digest) for pull in kept) for digest in missing)

    def _kept(self) -> List[Pull]:
        """The other pulls of the client that brought what it should still have.

        Not one that brought a layer that is asked for again, as the client has removed what came
        with that; but if it was cut, the layer may have been on its way. Nor an earlier one that
        got the same image to its end, if any of its layers is asked for. (podman and skopeo ask for
        the config of an image that they have.)
        """
        layers = [digest for digest, requests in self.asked.items() if not requests.ranges
                  and any(digest in image.order for image in self.chosen)]
        others = dict.fromkeys(itertools.chain(
            self.conversation.latest_of(self.client),
            (one.pull for one in reversed(self.conversation.latest_requests(self.client)))))
        others.pop(self, None)
        others.pop(None, None)
        return [pull for pull in itertools.islice(others, 2 * MAX_CANDIDATES)
                if pull.started <= self.ended_time
                and (not any(map(pull.may_be_whole, layers)) or pull.was_cut())
                and (pull.ended_time > self.started or not any(
                    image.digest in pull.images and pull.asks_end(image)
                    and not image.order.keys().isdisjoint(layers)
                    and not any(map(pull.is_missing, pull.asked)) for image in self.chosen))]

    def asks_end(self, image: Manifest) -> bool:
        """Whether the last of the image's layers was asked for."""
        return next(reversed(image.order), None) in self.asked


def total_sent(blobs: Dict[str, Blob]) -> Optional[int]:
    """Bytes that were sent of all BLOBS; None where nobody can know."""
    amounts = [blob.sent for blob in blobs.values()]
    return None if None in amounts else sum(amounts)


def _patience(pull: Pull) -> float:
    """Seconds without a request after which a client that got all it asked for asks no more."""
    if pull.all_asked:
        return 0
    # No line may tell that a layer was asked for, until it has been sent; an event may come late.
    if not pull.starts_seen or not pull.chosen:
        return QUIET_SECONDS
    return 0 if all(map(pull.asks_end, pull.chosen)) else COMPLETE_SECONDS


def verdict(pull: Pull, now: float, blobs: Dict[str, Blob]) -> str:
    """running, complete, up to date, failed, interrupted or unknown.

    NOW is in seconds since 1970; BLOBS are `pull.asked_blobs(now)`. Whatever is not sure is
    `unknown`; whatever may yet go on is `running`.
    """
    states = {blob.state for blob in blobs.values()}
    quiet = now - max(pull.last_seen, pull.conversation.registry.restart_seen
                      if pull.restarted else 0.0)
    if "open" in states:
        return "running"
    if not pull.asked:
        return "up to date" if quiet >= QUIET_SECONDS else "running"
    if states == {"whole"} and pull.is_explained() and not (
            # What the old process was sending is in no line.
            pull.restarted and not pull.starts_seen and not pull.all_asked):
        return "complete" if quiet >= _patience(pull) else "running"
    if quiet < QUIET_SECONDS:
        return "running"
    if "refused" in states:
        return "failed"
    if "cut" in states:
        return "interrupted"
    # A docker engine fetches three layers at a time, over all its pulls: the others wait.
    if "unknown" not in states and any(
            request.pull not in (pull, None) and (
                now - request.last_seen < QUIET_SECONDS or request.pull.is_open(request, now))
            for request in pull.conversation.latest_requests(pull.client)):
        return "running"
    return "unknown"


class Restart(NamedTuple):
    """A new process of a registry began."""

    time: float  # seconds since 1970
    instance: str
    last_heard: Tuple[float, str]  # when the registry was last heard of before


class Registry:
    """One registry, under the name by which its clients know it: when it was started anew.

    A line of its log that says so bears an instance id but no name; events bear both.
    """

    MAX_RESTARTS = 100

    def __init__(self) -> None:
        self.last_heard = 0.0, ""  # seconds since 1970, and the same, RFC 3339
        self.last_restart = self.restart_seen = 0.0
        self._instances: Dict[str, Tuple[float, float]] = {}  # first and last time of each
        self._restarts: List[Restart] = []

    def hear(self, fact: Fact) -> None:
        """Take in a fact that this registry has told."""
        if fact.instance:
            first, last = self._instances.get(fact.instance, (fact.time, fact.time))
            first, last = min(first, fact.time), max(last, fact.time)
            self._instances[fact.instance] = first, last
            keep_latest(self._instances, self.MAX_RESTARTS)
            if self._restarts and first < self.last_restart < last - 1 and (
                    fact.instance != self._restarts[-1].instance):
                self.undo_start(self._restarts[-1].instance)  # it is another replica that began
        if fact.time > self.last_heard[0]:
            self.last_heard = fact.time, fact.stamp

    def hear_start(self, fact: Fact, now: float) -> None:
        """Take in that the process was started anew, unless others go on behind the same name."""
        lives = [times for name, times in self._instances.items() if name != fact.instance]
        if any(restart.instance == fact.instance for restart in self._restarts) or any(
                last > fact.time + 1 for _, last in lives):
            return
        self._restarts.append(Restart(fact.time, fact.instance,
                                      min(self.last_heard, (fact.time, fact.stamp))))
        self._restarts.sort()
        del self._restarts[:-self.MAX_RESTARTS]
        self.last_restart, self.restart_seen = self._restarts[-1].time, now

    def undo_start(self, instance: str) -> None:
        """INSTANCE turns out to be another registry's process, or another replica's."""
        self._restarts = [restart for restart in self._restarts if restart.instance != instance]
        self.last_restart = self._restarts[-1].time if self._restarts else 0.0

    def restarted(self, start: float, end: float) -> bool:
        """Whether it was started anew between two times."""
        return self.last_restart > start and any(
            start < restart.time < end for restart in self._restarts)

    def last_sign(self, after: float) -> Tuple[float, str]:
        """When it was last heard of before the first restart AFTER a time."""
        return next((restart.last_heard for restart in self._restarts if restart.time > after),
                    (0.0, ""))

    def is_also(self, other: Registry) -> bool:
        """Whether both are names of one registry: an instance has answered under both."""
        return not self._instances.keys().isdisjoint(other._instances)


@functools.lru_cache(1024)
def engine_name(agent: str) -> str:
    """The name of the engine, with a store of its own, that a user agent speaks for.

    As a rule the agent; docker's without whom it works for, such as compose. With the containerd
    image store docker asks under its own name, as buildkit and as containerd: all are containerd.
    """
    agent = agent.partition(" UpstreamClient(")[0]
    shared = agent.startswith(("buildkit/", "containerd/")) or " containerd-client/" in agent
    return "containerd" if shared else agent


def conversation_key(fact: Fact) -> Key:
    return Key(fact.registry, engine_name(fact.agent), fact.repository)


class Conversation:
    """All requests for one repository of one registry by engines of one name, in order of time."""

    def __init__(self, key: Key, registry: Registry,
                 manifests: Mapping[Tuple[str, str], Dict[str, Manifest]],
                 by_engine: Mapping[Tuple[str, str], Dict[Request, None]]) -> None:
        self.key, self.registry = key, registry
        self._manifests, self._by_engine = manifests, by_engine  # the Tracker's; only read here
        self.requests: List[Tuple[float, int, Request]] = []  # each behind its place
        self.pulls: Dict[Pull, None] = {}
        self._askers: Dict[str, Dict[Pull, None]] = {}  # the pulls that asked for a blob
        # The pulls of each client and user; of one that nobody has named yet, None.
        self._clients: Dict[str, Dict[Optional[str], Dict[Pull, None]]] = {}
        self._unsettled: Optional[Place] = None  # the first whose request is in no pull yet
        # Pulls whose requests were all taken away, by the id of the one that began them: another
        # pull that it begins is the same one.
        self._begun: Dict[str, Pull] = {}
        self._touched: Dict[Pull, None] = {}  # those that `settle` is to tell of
        self._number = itertools.count()

    def add(self, request: Request) -> Optional[Pull]:
        """Take in a request; the pull that it belongs to, or None: `settle` is to find it."""
        request.conversation = self
        request.place = request.sort_time, next(self._number)
        bisect.insort(self.requests, (*request.place, request))
        if self._unsettled is None and self.requests[-1][-1] is request:
            pull = self._join(request)
            if not self._touched:
                return pull
        self._unsettle(request.place)
        return None

    def move(self, request: Request) -> None:
        """A request has learned what may change its place: `settle` is to find its pull."""
        self._unsettle(request.place)
        self._unplace(request)
        request.place = request.sort_time, request.place[1]
        bisect.insort(self.requests, (*request.place, request))
        self._unsettle(request.place)

    def remove(self, request: Request) -> None:
        """A request turns out to be of another conversation; `settle` is to follow."""
        self._unsettle(request.place)
        self._unplace(request)
        if request.pull:
            self._shorten(request.pull, before=self._unsettled)

    def _unplace(self, request: Request) -> None:
        del self.requests[bisect.bisect_left(self.requests, request.place)]

    def _unsettle(self, place: Place) -> None:
        self._unsettled = place if self._unsettled is None else min(self._unsettled, place)

    def settle(self) -> Tuple[Iterable[Pull], int]:
        """Have every request find its pull; the pulls that this may have changed, and its steps."""
        first, self._unsettled = self._unsettled, None
        later = [request for _, _, request in
                 self.requests[bisect.bisect_left(self.requests, first):]]
        steps = len(later)
        for pull in {request.pull: None for request in later if request.pull}:
            steps += len(pull.requests)
            self._shorten(pull, before=first)
        for request in later:
            self._touched[self._join(request)] = None
        touched, self._touched = self._touched, {}
        self._begun.clear()
        return touched, steps

    def _shorten(self, pull: Pull, before: Place) -> None:
        """Leave PULL only the requests that stand BEFORE a place."""
        self._touched[pull] = None
        kept = [request for request in pull.requests if request.place < before]
        if not kept:
            self._begun[pull.requests[0].id] = pull
            self._unlist(pull)
        self._forget_asker(pull)
        for request in pull.requests:
            request.pull = None
        pull.reset()
        for request in kept:
            pull.add(request)

    def _unlist(self, pull: Pull) -> None:
        del self.pulls[pull]
        users = self._clients[pull.client]
        del users[pull.user][pull]
        if not users[pull.user]:
            del users[pull.user]
        if not users:
            del self._clients[pull.client]

    def note_asker(self, pull: Pull, digest: str) -> None:
        self._askers.setdefault(digest, {})[pull] = None

    def _forget_asker(self, pull: Pull) -> None:
        for digest in pull.asked:
            del self._askers[digest][pull]
            if not self._askers[digest]:
                del self._askers[digest]

    @property
    def manifests(self) -> Dict[str, Manifest]:
        """Those of the repository that the registry has told of, by digest."""
        return self._manifests.get((self.key.registry, self.key.repository), {})

    def latest_requests(self, client: str) -> Dict[Request, None]:
        """What a client's engine has asked for of late, of blobs from whatever repository."""
        return self._by_engine.get((client, self.key.engine), {})

    def latest_askers(self, digest: str) -> Iterator[Pull]:
        """The pulls that asked for a blob, the newest first."""
        return itertools.islice(reversed(self._askers.get(digest, {})), MAX_CANDIDATES)

    def forget(self, pull: Pull) -> None:
        """Know nothing of a pull and its requests any more."""
        self._touched.pop(pull, None)
        self._unlist(pull)
        self._forget_asker(pull)
        for request in pull.requests:
            self._unplace(request)
            request.pull = None

    # -- finding a pull

    def _join(self, request: Request) -> Pull:
        find = self._pull_for_manifest if request.manifest else self._pull_for_blob
        pull = find(request) or self._begin(self._user_of(request), request)
        pull.add(request)
        return pull

    def _user_of(self, request: Request) -> Optional[str]:
        """Who made a request; as long as nobody has told, who asked for the same blob before."""
        if request.user_known:
            return request.user
        return next((pull.user for pull in self.latest_askers(request.digest)
                     if pull.client == request.client), None)

    def _begin(self, user: Optional[str], *requests: Request) -> Pull:
        """The pull of USER that begins with these REQUESTS; they are not added to it."""
        begun = next((request.id for request in requests if request.id in self._begun), None)
        pull = Pull(self) if begun is None else self._begun.pop(begun)
        pull.begin(requests[0], user)
        self.pulls[pull] = None
        self._clients.setdefault(pull.client, {}).setdefault(pull.user, {})[pull] = None
        return pull

    def _split(self, pull: Pull, requests: List[Request]) -> Pull:
        """Begin another pull with REQUESTS, of PULL but for the last, which is yet to be added."""
        *moved, request = requests
        first = requests[0]
        another = self._begin(first.user if first.user_known else pull.user, *requests)
        if moved:
            self._shorten(pull, before=first.place)
            for one in moved:
                another.add(one)
        pull.asked[request.digest].is_followed = True
        return another

    def _own(self, request: Request) -> Iterator[Pull]:
        """The latest pulls of the client and, if it is known, the user that made a request."""
        if request.user_known:
            users = self._clients.get(request.client, {})
            return itertools.islice(reversed(users.get(request.user, {})), MAX_CANDIDATES)
        return self.latest_of(request.client)

    def latest_of(self, client: str) -> Iterator[Pull]:
        """The latest pulls of each of a client's users, each user's newest first."""
        users = self._clients.get(client, {})
        share = max(2, MAX_CANDIDATES // max(1, len(users)))
        return itertools.islice(itertools.chain.from_iterable(
            itertools.islice(reversed(users[user]), share) for user in reversed(users)),
            MAX_CANDIDATES)

    def _others(self, request: Request) -> Iterator[Pull]:
        """The latest pulls of other addresses, which may be of the same client behind NAT."""
        return (pull for pull in itertools.islice(reversed(self.pulls), MAX_CANDIDATES)
                if pull.client != request.client)

    def _pull_for_manifest(self, request: Request) -> Optional[Pull]:
        """The newest pull that goes on with this request.

        Of those that have just got the index it is in, the oldest: who got it first asks first.
        """
        newest = waiting = None
        for pull in self._own(request):
            if newest and pull.started < request.time - SLACK:
                break
            if pull.continues_with(request):
                newest = newest or pull
                if pull.tag == newest.tag and pull.has_just_index(request.time):
                    waiting = pull
        if newest:
            return waiting or newest
        if request.tag:
            return next((pull for pull in self._own(request) if pull.began_with(request)), None)
        # A HEAD, and at once its GET from another address of the client.
        return next((pull for pull in self._others(request) if (
            request.method == "GET" and pull.user == request.user and pull.continues_with(request)
            and request.time - pull.manifest_requests[-1].time <= MANIFEST_SECONDS)), None)

    def _pull_for_blob(self, request: Request) -> Optional[Pull]:
        if request.user_known or len(self._clients.get(request.client, ())) == 1:
            newest = next(self._own(request), None)
            if newest and newest.started <= request.place[0] and (
                    request.digest not in newest.asked
                    and newest.contains(request.digest) == SURELY):
                return newest  # as all of the following would find, in a tenth of the time
        own = self._best(request, self._own(request))
        anew = own.asked_anew(request) if own else []
        if own and own.lacks(request) and not anew:
            return own
        other = self._best(request, (pull for pull in self._others(request) if (
            pull.contains(request.digest) == SURELY and pull.lacks(request)
            and pull.is_active(request.place[0])
            and (not anew or pull.started <= request.place[0]))))
        return other or (self._split(own, anew) if anew else own)

    def _best(self, request: Request, pulls: Iterable[Pull]) -> Optional[Pull]:
        """Of PULLS, newest first, the best whose image has the blob: if one lacks it, such a one.

        One that may be over goes on only if none is newer. Of those that had begun when the blob
        was asked for, the newest goes first; of those that go on at once, as of two machines behind
        NAT, one that is not fetching the blob already. Without a user there is a newest pull of
        each user: the one that has asked for the blob least often is taken.
        """
        best: Dict[Optional[str], Tuple] = {}
        newest: Dict[Optional[str], Pull] = {}  # of each user
        newest_begun: Dict[Optional[str], Pull] = {}  # of those that began before the request
        digest, at = request.digest, request.place[0]
        for pull in pulls:
            if request.user_known and pull.user != request.user or pull.started - SLACK > at:
                continue
            is_newest = newest.setdefault(pull.user, pull) is pull
            had_begun = pull.started <= at
            last = newest_begun.setdefault(pull.user, pull) if had_begun else newest[pull.user]
            contains = pull.contains(digest)
            if not contains or not pull.is_active(at) and (
                    contains == PERHAPS or not is_newest or pull.may_be_whole(digest)):
                continue
            fetches = pull.is_fetching(request)
            rank = (contains == SURELY, fetches or pull.is_missing(digest), had_begun,
                    not fetches and (pull is last or pull.goes_on_beside(last)))
            if request.user_known and all(rank):
                return pull
            if pull.user not in best or rank > best[pull.user][0]:
                asked = pull.asked.get(digest)
                best[pull.user] = (rank, -asked.count if asked else 0, pull.started,
                                   pull.requests[0].place, pull)
        return max(best.values())[-1] if best else None


class Change(NamedTuple):
    """What the Tracker has to tell of a pull: one of these words, and the verdict.

    "started", "ended"; "resumed", if it goes on after it was told to have ended, or before it is
    told to have ended otherwise; "withdrawn", if after "started" its requests turn out to be
    another pull's; "forgotten", after which nothing more is told of it.
    """

    what: str
    pull: Pull
    verdict: str


class Told:
    """What was told of a pull, and when there may be more to tell."""

    def __init__(self, pull: Pull) -> None:
        self.pull: Optional[Pull] = pull  # None when it is forgotten or withdrawn
        self.started = False
        self.verdict = "running"
        self.review_at = math.inf  # on the Tracker's clock


class Tracker:
    """Which pulls begin, go on and end, from Facts in whatever order they come."""

    MAX_PULLS = 5000
    MAX_HELD = 32 << 20  # bytes of memory, roughly, that pulls and manifests hold
    MAX_REGISTRIES = 1000  # a client may give its registry any name
    MAX_OF_ENGINE = 256  # its latest requests
    STEPS = 4  # for each fact and second: requests that may find their pulls anew
    MAX_STEPS = 1 << 20  # that are saved up
    FORGET_COMPLETE, FORGET_REST = 600, 3600  # seconds without a sign of life

    def __init__(self) -> None:
        self.now = 0.0
        self._next_review = self._next_forgetting = 0.0
        self._registries: Dict[str, Registry] = {}
        # By instance: each name under which it answers later is told of it.
        self._starts: Dict[str, Fact] = {}
        # By registry and repository, and by digest; and all in the order in which they came.
        self._manifests: Dict[Tuple[str, str], Dict[str, Manifest]] = collections.defaultdict(dict)
        self._manifest_queue: collections.deque = collections.deque()
        # The latest requests for blobs, by client and name of the engine.
        self._by_engine: Dict[Tuple[str, str], Dict[Request, None]] = collections.defaultdict(dict)
        self._conversations: Dict[Key, Conversation] = {}
        self._late: Dict[Conversation, None] = {}  # those to settle
        self._requests: Dict[str, Request] = {}
        self._told: Dict[Pull, Told] = {}
        self._reviews: List[Tuple[float, int, Told]] = []  # a heap
        self._number = itertools.count()
        self._held = self._manifests_held = self._steps = 0
        self._unreviewed = 0  # requests that came since the last review
        self._news: List[Change] = []

    def __iter__(self) -> Iterator[Pull]:
        self._settle(-math.inf)
        return iter(list(self._told))

    # -- facts in

    def feed(self, fact: Fact) -> List[Change]:
        """Take in FACT; returns what begins. A tick tells the rest; or this, if much is held."""
        self._steps += self.STEPS
        if fact.kind == "start":
            self._start(fact)
            return []
        self._hear(fact)
        manifest = None if fact.kind == "blob" else self._manifest_of(fact)
        request = self._requests.get(fact.request)
        if fact.kind == "pushed" or fact.status == 401:  # which tells where to get a token
            return []
        if request is None:
            if "/v2/" in fact.repository and not fact.event:
                fact = fact._replace(repository=self._repository_name(fact))
            request = self._requests[fact.request] = Request(fact, manifest, self.now)
            self._held += request.held
            self._converse(fact, request)
            self._unreviewed += 1
            # So many within a second: no tick has seen to them.
            if self._unreviewed > self.MAX_PULLS / 4 and self._too_much(1.25):
                self._news = self.review(self.now)
        elif fact.kind == "blob" and not request.manifest:
            self._learn_more(fact, request)
        news, self._news = self._news, []
        return news

    def _hear(self, fact: Fact) -> None:
        """Let FACT's registry know of it, and of a start of which only its instance was known."""
        registry = self._registries.get(fact.registry)
        if registry is None:
            registry = self._registries[fact.registry] = Registry()
            keep_latest(self._registries, self.MAX_REGISTRIES)
        registry.hear(fact)
        if fact.instance in self._starts:  # that of this registry, and of no other
            registry.hear_start(self._starts[fact.instance], self.now)
            for other in self._registries.values():
                if not other.is_also(registry):
                    other.undo_start(fact.instance)

    def _start(self, fact: Fact) -> None:
        """A registry's process began; its name is known if there is only one, else from events."""
        self._starts[fact.instance] = fact
        keep_latest(self._starts, Registry.MAX_RESTARTS)
        registries = list(self._registries.values())
        if all(other.is_also(registries[0]) for other in registries[1:]):
            for registry in registries:
                registry.hear_start(fact, self.now)

    def _repository_name(self, fact: Fact) -> str:
        """A line's repository without an http.prefix that has /v2/ in it, if events tell of it."""
        name = fact.repository
        while name:
            if (fact.registry, name) in self._manifests:
                return name
            name = name.partition("/v2/")[2]
        return fact.repository

    def _manifest_of(self, fact: Fact) -> Manifest:
        """What is known, with FACT, of its manifest; the oldest are forgotten if they are many."""
        key = fact.registry, fact.repository
        manifests = self._manifests[key]
        known = manifests.get(fact.digest)
        if known and (known.sizes or known.children or not fact.references):
            return known
        manifest = manifests[fact.digest] = Manifest(fact)
        self._manifest_queue.append((key, manifest))
        self._manifests_held += manifest.held
        while self._manifests_held > self.MAX_HELD / 2 and len(self._manifest_queue) > 1:
            key, oldest = self._manifest_queue.popleft()
            self._manifests_held -= oldest.held
            if self._manifests[key].get(oldest.digest) is oldest:
                del self._manifests[key][oldest.digest]
            if not self._manifests[key]:
                del self._manifests[key]
        return manifest

    def _forget_latest(self, request: Request) -> None:
        """Forget that a request is one of its engine's latest, if it is, and an engine of none."""
        key = request.client, request.conversation.key.engine
        latest = self._by_engine[key]
        latest.pop(request, None)
        if not latest:
            del self._by_engine[key]

    def _converse(self, fact: Fact, request: Request) -> None:
        """Give a request to its conversation."""
        key = conversation_key(fact)
        conversation = self._conversations.get(key)
        if conversation is None:
            conversation = self._conversations[key] = Conversation(
                key, self._registries[fact.registry], self._manifests, self._by_engine)
        if not request.manifest:
            latest = self._by_engine[request.client, key.engine]
            latest[request] = None
            keep_latest(latest, self.MAX_OF_ENGINE)
        if pull := conversation.add(request):
            self._mark_active(pull)
        else:
            self._late[conversation] = None

    def _learn_more(self, fact: Fact, request: Request) -> None:
        """A request is known already: what more does FACT tell of it?"""
        conversation, pull = request.conversation, request.pull
        request.last_seen = self.now
        moves = pull.learn(request, fact) if pull else request.learn(fact)
        is_anothers = fact.event and conversation_key(fact) != conversation.key
        if pull and not moves and not is_anothers:
            return self._mark_active(pull)
        self._late[conversation] = None
        if not is_anothers:
            return conversation.move(request)
        conversation.remove(request)
        self._forget_latest(request)
        request.client, request.agent = fact.client, fact.agent
        self._converse(fact, request)

    def _mark_active(self, pull: Pull) -> None:
        """Something came for PULL, which may have begun."""
        told = self._told.get(pull)
        if told is None:
            told = self._told[pull] = Told(pull)
        # While a request is open there is little to tell: every two seconds will do.
        at = self.now + 2 if pull.open_count and told.verdict == "running" else self.now
        if at < told.review_at:
            self._review_at(told, at)
        if not told.started and pull.is_download and pull.manifest_requests and pull.images and (
                pull.index is None or any(pull.asked.keys() & image.order.keys()
                                          for image in pull.chosen)):
            told.started = True
            self._news.append(Change("started", pull, "running"))

    def _review_at(self, told: Told, at: float) -> None:
        told.review_at = at
        heapq.heappush(self._reviews, (at, next(self._number), told))

    # -- changes out

    def tick(self, now: float) -> List[Change]:
        """It is NOW, in seconds since 1970: what has changed since the last tick, to a second?"""
        self.now = now
        return [] if self._next_review - 1 <= now < self._next_review else self.review(now)

    def review(self, now: float) -> List[Change]:
        """As `tick`, also if less than a second has passed since the last."""
        self.now, self._next_review, self._unreviewed = now, now + 1, 0
        self._steps = min(self._steps + self.STEPS, self.MAX_STEPS)
        self._settle(0)
        changes, self._news = self._news, []
        due = []
        while self._reviews and self._reviews[0][0] <= now:
            at, _, told = heapq.heappop(self._reviews)
            if told.pull and told.review_at == at:
                told.review_at = math.inf
                due += [told.pull] if told.pull.requests else []  # else once it is settled
        for pull in sorted(due, key=operator.attrgetter("started")):
            changes += self._review_pull(pull, self._told[pull])
        if not self._next_forgetting - 300 <= now < self._next_forgetting or self._too_much(1.1):
            self._next_forgetting = now + 300
            changes += self._forget_some()
        return changes

    def _settle(self, least: float) -> None:
        """Settle conversations in which something came late, for as long as there are steps left.

        Steps are earned by facts, so that no fact can make others find their pulls again and
        again. It stops when LEAST are left: at -math.inf all is settled.
        """
        while self._late and self._steps > least:
            conversation = next(iter(self._late))
            del self._late[conversation]
            touched, steps = conversation.settle()
            self._steps -= steps
            for pull in touched:
                if pull.requests:
                    self._mark_active(pull)
                elif pull in self._told:  # its requests are all another's
                    told = self._told.pop(pull)
                    told.pull = None
                    if told.started:
                        self._news.append(Change("withdrawn", pull, told.verdict))
            self._drop_conversation(conversation)

    def _review_pull(self, pull: Pull, told: Told) -> Iterator[Change]:
        """Judge a pull again: what can be said of it that was not said, and when to do so next."""
        blobs = pull.asked_blobs(self.now)
        judged = verdict(pull, self.now, blobs)
        if not told.started and pull.is_download and (
                judged != "running" or self.now - pull.requests[0].first_seen >= START_SECONDS):
            told.started = True
            yield Change("started", pull, "running")
        if judged == "running" and told.verdict != "running" and (
                self.now - pull.last_asked < RESUME_SECONDS):
            # It may yet turn out to be a new pull, of which the event is on its way.
            return self._review_at(told, self.now + RESUME_SECONDS)
        before, told.verdict = told.verdict, judged
        if before not in ("running", judged):
            yield Change("resumed", pull, "running")
        if judged != "running":
            pull.final_blobs = blobs
            if judged != before:
                yield Change("ended", pull, judged)
        else:
            moments = [pull.last_seen + pause for pause in (COMPLETE_SECONDS, QUIET_SECONDS)]
            if not told.started:
                moments.append(pull.requests[0].first_seen + START_SECONDS)
            at = min([at for at in moments if at > self.now], default=self.now + 5)
            self._review_at(told, min(max(at, self.now + len(pull.asked) / 200),
                                      self.now + 5 if pull.open_count else math.inf))

    def _too_much(self, share: float) -> bool:
        return max(len(self._told) / self.MAX_PULLS, self._held / self.MAX_HELD) > share

    def _forget_some(self) -> Iterator[Change]:
        """Forget what has been over for long, and the oldest if there is too much."""
        # What is to be settled may yet change; a pull without requests is withdrawn then.
        old = [pull for pull, told in self._told.items() if pull.conversation not in self._late
               and told.verdict != "running" and self.now - pull.last_seen > (
                   self.FORGET_COMPLETE if told.verdict == "complete" else self.FORGET_REST)]
        yield from map(self._forget, old)
        if self._too_much(1):
            for pull in sorted(filter(operator.attrgetter("requests"), self._told),
                               key=operator.attrgetter("last_seen")):
                if self._too_much(.9):
                    yield self._forget(pull)
        self._reviews = [review for review in self._reviews if review[2].pull]
        heapq.heapify(self._reviews)

    def _forget(self, pull: Pull) -> Change:
        told, conversation = self._told.pop(pull), pull.conversation
        told.pull = None  # so that nothing holds on to it
        runs = told.verdict == "running"  # then it is judged as if no more were to come
        now = math.inf if runs else self.now
        blobs = pull.asked_blobs(now)
        change = Change("forgotten", pull, verdict(pull, now, blobs) if runs else told.verdict)
        pull.final_blobs = blobs
        conversation.forget(pull)
        for request in pull.requests:
            del self._requests[request.id]
            self._held -= request.held
            self._forget_latest(request)
        self._drop_conversation(conversation)
        return change

    def _drop_conversation(self, conversation: Conversation) -> None:
        """Forget a conversation of which no request is known any more."""
        if not conversation.requests and conversation not in self._late:
            del self._conversations[conversation.key]


def with_moments(record: Iterable[Fact]) -> Iterator[Tuple[float, Fact]]:
    """Each fact behind its moment: its time, unless that lies far ahead of what comes next.

    So a clock that was wrong for once does not hold up all that follows.
    """
    previous, moment = None, 0.0
    for fact in record:
        if previous:
            moment = min(previous.time, max(fact.time, moment) + 60)
            yield moment, previous
        previous = fact
    if previous:
        yield previous.time, previous


def merged(records: Iterable[Iterable[Fact]]) -> Iterator[Tuple[float, Fact]]:
    """The facts of several records in the order of time, each behind its moment."""
    return heapq.merge(*map(with_moments, records), key=operator.itemgetter(0))


def replay(tracker: Tracker, events: Iterable[Fact],
           lines: Iterable[Fact]) -> Iterator[List[Change]]:
    """Live through two records of the same time once more, in the order of their time."""
    for moment, fact in merged([events, lines]):
        changes = tracker.tick(moment) if moment > tracker.now else []
        changes += tracker.feed(fact)
        if changes:
            yield changes


# ------------------------------------------------------------------------------------------ explain

# Why nothing arrives, by what the registry's own log says. The words are those of distribution
# 2.8.3 and 3.1.2, recorded in tests/registry_logs/: of registry/handlers/app.go when it starts, and
# of notifications/sinks.go and http.go each time that an event could not be sent.
#
# A registry tells of some faults again and again, of others when it starts. A fault is over
#   if it cannot send     when an event arrives, when it starts without that endpoint, or when it
#                         has not told of the fault for MENDED_SECONDS;
#   if it has no endpoint when an event arrives, or when it starts with one;
#   if a timeout is short when it starts and does not tell of it again;
#   if it trusts no key   when it authorizes a request;
#   if it does not run    when it starts, or answers a request.
# The event, or the request, may be another registry's: a fault that comes back within
# RECURRING_SECONDS was not over. From then on no event ends it, and nothing more is said of it.

MAX_FAULTS = 20  # remembered; also whatever else a registry's log or debug server has many of
LEAST_TIMEOUT = .1  # seconds; a smaller one lacks its unit
MENDED_SECONDS = 300  # the registry would have tried again: its backoff is seconds
RETRY_SECONDS = 15  # usual time between two of its attempts
SAME_EVENT_SECONDS = .05  # from an event to the line that it could not be sent
RECURRING_SECONDS = 10

THROUGH_PROXY = (
    "Pulls come through a proxy, and no interrupted one was seen through it: if it buffers, an "
    "interrupted pull looks complete. For nginx, write into the registry's location: "
    "proxy_buffering off;")
REDIRECTED = (
    "The registry redirects clients to its storage, which sends the bytes, so pulls end as "
    "unknown. To have the registry send and count them, at the price of its bandwidth, write into "
    "its config: storage: {redirect: {disable: true}}")
CHECK_ITS_LOG = "docker logs REGISTRY 2>&1 | python listener.py check --registry-log -"


class Caveats:
    """What makes all verdicts doubtful, by the pulls that have ended: a sentence each."""

    def __init__(self) -> None:
        self._proxied = self._cut = self._redirected = False
        self._said: Set[str] = set()

    def learn(self, judged: str, proxied: bool, redirected: bool) -> None:
        """A pull has ended with the verdict JUDGED; it came through a proxy, or was redirected."""
        self._proxied |= proxied and judged == "complete"
        self._cut |= proxied and judged == "interrupted"
        self._redirected |= redirected and judged == "unknown"

    def standing(self) -> List[str]:
        return ([THROUGH_PROXY] if self._proxied and not self._cut else []) + (
            [REDIRECTED] if self._redirected else [])

    def news(self) -> List[str]:
        """The sentences that no earlier call has returned."""
        new = [sentence for sentence in self.standing() if sentence not in self._said]
        self._said.update(new)
        return new


def url_host(url: str) -> str:
    """The host of URL; "" if it has none."""
    try:
        return urllib.parse.urlsplit(url).hostname or ""
    except ValueError:
        return ""


def is_own_host(url: str) -> bool:
    """Whether URL leads to the sender's own machine or container."""
    name = url_host(url)
    return name in ("localhost", "0.0.0.0", "::", "::1") or name.startswith("127.")


WITH_UNIT = ("In the registry's config.yml write `timeout: 1s`, and restart it: without a unit the "
             "number is nanoseconds.")
OWN_HOST = ("In a container {host} is that container: in the registry's config.yml, let `url:` "
            "name the listener's service or container, as in `url: "
            "http://sts_listener_server:8086/log`, or, if the listener runs without one, this "
            "machine as containers see it: `url: http://172.17.0.1:8086/log`. Then restart the "
            "registry. If both run without containers, start the listener.")
CAUSES = (  # the registry's words, a name if those are none, and what to do
    (r"proxyconnect", "its proxy cannot be reached",
     "The registry sends through a proxy: in the environment of its container add {host} to "
     "NO_PROXY, or take HTTP_PROXY and HTTPS_PROXY away, and start it anew."),
    (r"unsupported protocol scheme", "", "Write http:// before the listener's name in `url:`."),
    (r"connection refused", "",
     "Nothing listens there: start the listener (docker start {host}), or correct the port in "
     "`url:`. If {host} is a service: docker compose up -d {host}. In a container the listener "
     "must not be started with --host 127.0.0.1."),
    (r"no such host|server misbehaving", "no such host",
     "The container {host} is stopped (docker start {host}), or not on one network with the "
     "registry (docker network connect NETWORK {host}), or `url:` in the registry's config.yml "
     "misspells its name. If {host} is a service: docker compose up -d {host}."),
    (r"network is unreachable|no route to host", "no route to it",
     "The registry is on no network with it: docker network connect NETWORK {host}."),
    (r"x509: certificate has expired or is not yet valid", "",
     "Make another for the listener, and send it SIGHUP; or set the clock."),
    (r"x509: certificate is (?:valid for|not valid for any) .*", "",
     "Let `url:` use a name that the listener's certificate has, or make one for {host}."),
    (r"x509|certificate", "x509, its certificate is not accepted",
     "Give the registry's container the certificate of whoever signed the listener's, as a file "
     "named in SSL_CERT_FILE."),
    (r"HTTP response to HTTPS|first record does not look like a TLS",
     "server gave HTTP response to HTTPS client",
     "The listener speaks plain http: write http:// in `url:`, or start it with --tls-cert and "
     "--tls-key."),
    (r"deadline exceeded|[Tt]imeout|request canceled", "no answer within its timeout",
     f"{WITH_UNIT} If there is one, a firewall drops what is sent, or what listens there is "
     "overloaded."),
    (r"connection reset|\bEOF|malformed HTTP|broken pipe", "the connection was closed",
     "What listens there may speak https: then write https:// in `url:`."),
    (r"status 40[13]\b.*", "",
     "The token is wrong or missing: give the endpoint `headers: {{Authorization: [Bearer "
     "TOKEN]}}` with the token in the listener's --token-file, and restart the registry."),
    (r"status 40[45]\b.*", "",
     "What answers there is no listener, which takes a POST to any path: correct host and port in "
     "`url:`."),
    (r"status 413\b.*", "",
     "The event is too large for what takes it. The listener takes 8 MiB; nginx before it 1 MiB, "
     "unless told `client_max_body_size 8m;`."),
    (r"status 50[234]\b.*", "",
     "The listener cannot write its log: look what it says, and for a full disk (df -h "
     "listener_log). Or a proxy before it does not reach it."),
    (r"status 400\b.*", "",
     "It cannot read what is sent: look what the listener says. If it was started with --tls-cert, "
     "write https:// in `url:`."),
    (r".*", "", "Look what listens there, and correct `url:` in the registry's config.yml."))


class Fault:
    """Something that keeps events away: what to say of it, and how often a log has told of it."""

    rank = 2  # of several, the one with the least is said first
    max_reasons = 1  # that are said while it lasts
    ends_with_event = False

    def __init__(self, name: str, sentence: str, over: str, url: str = "") -> None:
        self.name = name
        self.sentence = sentence  # to say when it begins
        self.over = over  # to say when it is over
        self.over_with_start = over  # ... because a registry was started
        self.url = url  # of the endpoint, if it is about one
        self.lasts = self.recurring = False
        self.first = math.inf  # seconds since 1970, as all times here
        self.last = -math.inf
        self.began = -math.inf  # the first time of those with no gap up to the last
        self.doubted = -math.inf  # when it was over, if another registry's sign may have ended it
        self.times = 0
        self.said: Set[str] = set()  # sentences, since it began

    def tell(self, at: float) -> None:
        """It was told of once more, AT that time; 0: nothing tells when."""
        self.first = min(self.first, at or math.inf)
        if at - self.last > RETRY_SECONDS:
            self.began = at
        self.last = max(self.last, at)
        self.times += 1

    def text(self, now: float) -> str:
        if not self.last:
            return self.sentence  # nothing tells when
        first, last = clock(self.first, now), clock(self.last, now)
        when = f"{self.times} times, from {first} to {last}" if self.times > 1 else f"At {last}"
        return f"{self.sentence} ({when}.)"


class NotRunning(Fault):
    rank = 0
    max_reasons = 5  # it is started again and again

    def __init__(self, words: str) -> None:
        """The registry's log ends with WORDS."""
        remedy = ("Write it with brackets, as in `headers: {Authorization: [Bearer TOKEN]}`, "
                  if words.endswith("into []string") else
                  "Correct that, as a rule in its config.yml, ")
        super().__init__(
            "a registry that does not run", f"the registry does not run, as its log ends with: "
            f"{shown(words)}. {remedy}and start it again.", "it runs")


class CannotSend(Fault):
    rank = 1
    ends_with_event = True

    def __init__(self, url: str, error: str) -> None:
        """The registry sends to URL, and logs ERROR."""
        url, error = shown(url), shown(error)
        for pattern, name, remedy in CAUSES:
            if found := re.search(pattern, error):
                break
        name = name or found[0].replace(" unaccepted", "")  # `status 404 Not Found unaccepted`
        if name == "connection refused" and is_own_host(url):
            remedy = OWN_HOST
        remedy = remedy.format(host=url_host(url) or "LISTENER")
        super().__init__(name, f"the registry cannot send to {url}: {name}. {remedy}",
                         f"the registry can send to {url} again", url)
        self.over_with_start = f"it sends nothing to {url} any more"


class NoEndpoint(Fault):
    ends_with_event = True

    def __init__(self, disabled: List[str]) -> None:
        """Of the registry's endpoints only those of the names DISABLED are known."""
        why = (f"its endpoint {', '.join(disabled)} is disabled. Write `disabled: false`"
               if disabled else "it has no endpoint. Add one with `url: "
               "http://sts_listener_server:8086/log` under `notifications:` `endpoints:`")
        super().__init__("no endpoint", f"the registry sends no events: {why} in its config.yml, "
                         "and restart it.", "it has an endpoint to send events to")


class ShortTimeout(Fault):
    def __init__(self, url: str, timeout: float) -> None:
        super().__init__(
            "short timeout", f"the registry gives {url} only {timeout * 1e9:.0f} ns to answer, so "
            f"every event comes again and again. {WITH_UNIT}", f"it gives {url} enough time", url)


class UntrustedKey(Fault):
    def __init__(self, key: Optional[str]) -> None:
        super().__init__(
            "untrusted key", "the registry refuses the tokens of its token server, as it does not "
            f"trust the key{f' {plain(key)}' if key else ''} that they are signed with; so nobody "
            "can push or pull. Let its `rootcertbundle` be the certificate of the token server's "
            "key. registry:3 also needs `disable_legacy_key_id: true` under `token:` in the "
            "configuration of docker_auth.", "the registry trusts the token server's key again")


class Endpoint(NamedTuple):
    """What the registry's log says of an endpoint when it starts."""

    name: str
    url: str  # "" if it is disabled
    timeout: float  # seconds


_SINK = re.compile(r"httpSink\{(.*?)\}: (.*?)(?:, retrying)?$")
_ENDPOINT = re.compile(r"configuring endpoint (.*) \((.*)\), timeout=([^,]*),"
                       r"|endpoint (.*) disabled, skipping$")
# Not by logrus, or no more: what the program writes that ends at once, behind labels and the like.
# What is in quotes comes from others: access logs have user agents.
_ENDED = re.compile(r'(?:\{[^{}]*\}|[^"{])*?((?:configuration error|panic): .*'
                    r"|line \d+: cannot unmarshal .*)")
_UNTRUSTED = re.compile(r"(?:failed to verify token: )?token signed by untrusted key"
                        r'(?: with ID: "?([^"]*))?')


class Trouble:
    """The faults of registries: lines of their logs in, sentences out. No I/O, and no clock."""

    def __init__(self) -> None:
        self._faults: Dict[Tuple[str, str], Fault] = {}  # by name and url; also those that are over
        self._endpoints: Dict[str, List[Endpoint]] = {}  # by the id of the registry's process
        self._arrived = -math.inf  # when the last event came, in seconds since 1970
        self._latest = 0.0  # time of a line

    @staticmethod
    def concerns(line: str) -> bool:
        """Whether LINE may tell of a fault; lines of requests only tell that one is over."""
        return ("httpSink{" in line or "endpoint " in line or "listening on" in line
                or "untrusted key" in line or "fatal" in line or "panic: " in line
                or "configuration error: " in line or "cannot unmarshal" in line)

    @property
    def cannot_send(self) -> bool:
        return any(isinstance(fault, CannotSend) for fault in self._lasting())

    @property
    def keeps_all_away(self) -> bool:
        """Whether it is known why no event comes."""
        return any(not isinstance(fault, ShortTimeout) for fault in self._lasting())

    @property
    def mended(self) -> List[str]:
        """The names of the last faults that are over."""
        return sorted({fault.name for fault in self._faults.values() if not fault.lasts})

    @property
    def urls(self) -> List[str]:
        """Where the registry that has started last sends its events."""
        endpoints = next(reversed(self._endpoints.values()), [])
        return sorted({endpoint.url for endpoint in endpoints if endpoint.url})

    def _lasting(self) -> List[Fault]:
        return [fault for fault in self._faults.values() if fault.lasts]

    def standing(self, now: float) -> List[str]:
        """The faults that last, a few sentences each, worst first."""
        return [fault.text(now) for fault in sorted(self._lasting(), key=lambda one: one.rank)]

    def feed(self, line: str) -> List[str]:
        """Take in a LINE of a registry's log, as for `log_fields`; returns sentences to say."""
        if not self.concerns(line) and not (
                ("response completed" in line or "authorized request" in line) and self._lasting()):
            return []
        fields, text = log_fields(line)
        with contextlib.suppress(ValueError):
            self._latest = seconds(field_of(fields, "time"))
        at = self._latest  # of one without a time as well: it is newer
        ended = None if fields or text.endswith("unmarshal errors:") else _ENDED.match(text)
        said = self._note(NotRunning(ended[1]), at) if ended else self._take(fields, at)
        return said + self._end(
            lambda fault: isinstance(fault, CannotSend) and at - fault.last > MENDED_SECONDS)

    def arrived(self, at: float) -> List[str]:
        """An event came AT that time, in seconds since 1970; returns sentences to say.

        Faults that older lines tell of, even if they are fed later, are over as well.
        """
        self._arrived = max(at, self._arrived)
        return self._end(lambda fault: fault.ends_with_event and not fault.recurring,
                         max(at, self._latest))

    def delivered(self, last: float) -> None:
        """All lines were fed; the LAST of all events in the log happened at that time.

        Events are sent in order: if one has arrived that happened after the registry began to fail,
        those that it could not send have, too.
        """
        self._end(lambda fault: fault.ends_with_event and fault.began <= last + SAME_EVENT_SECONDS)

    def _take(self, fields: Dict[str, Any], at: float) -> List[str]:
        message, instance = field_of(fields, "msg"), field_of(fields, "instance.id")
        authorized = message == "authorized request"
        if authorized or message.startswith("response completed"):
            return self._end(lambda fault: authorized and isinstance(fault, UntrustedKey) or (
                isinstance(fault, NotRunning) and not fault.recurring), at)
        if field_of(fields, "level") == "fatal":
            return self._note(NotRunning(message), at)
        if message.startswith("listening on") and instance:
            return self._started(self._endpoints_of(instance), at)
        if message.startswith("retryingsink: error writing event"):
            found = _SINK.search(field_of(fields, "error") or message)
            return self._note(CannotSend(*found.groups()), at) if found else []
        if found := _UNTRUSTED.match(message):
            return self._note(UntrustedKey(found[1]), at)
        if found := _ENDPOINT.match(message):
            name, url, timeout, disabled = found.groups("")
            self._endpoints_of(instance).append(Endpoint(
                plain(name or disabled), shown(url), go_duration(timeout)))
        return []

    def _endpoints_of(self, instance: str) -> List[Endpoint]:
        endpoints = self._endpoints.setdefault(instance, [])
        del endpoints[MAX_FAULTS:]
        keep_latest(self._endpoints, MAX_FAULTS)
        return endpoints

    def _started(self, endpoints: List[Endpoint], at: float) -> List[str]:
        """A registry was started with ENDPOINTS; returns sentences to say."""
        urls = {endpoint.url for endpoint in endpoints if endpoint.url}
        said = [] if urls else self._note(NoEndpoint([one.name for one in endpoints]), at)
        for endpoint in endpoints:
            if endpoint.url and endpoint.timeout < LEAST_TIMEOUT:
                said += self._note(ShortTimeout(endpoint.url, endpoint.timeout), at)
        # What this start tells of once more is not older than it.
        return said + [f"the registry was started anew: {over}" for over in self._end(
            lambda fault: fault.last < at and not isinstance(fault, UntrustedKey) and not (
                isinstance(fault, CannotSend) and fault.url in urls), say="over_with_start")]

    def _note(self, fault: Fault, at: float) -> List[str]:
        """The log tells of FAULT, perhaps once more; returns sentences to say."""
        key, sentence = (fault.name, fault.url), fault.sentence
        fault = self._faults.get(key, fault)
        fault.sentence = sentence
        fault.tell(at)
        if not fault.lasts:
            self._faults.pop(key, None)
            self._faults[key] = fault
            keep_latest(self._faults, MAX_FAULTS)
            if fault.ends_with_event and at <= self._arrived and not fault.recurring:
                return []  # an older line comes late: it is over already
            fault.lasts, fault.recurring = True, at - fault.doubted < RECURRING_SECONDS
            fault.said.clear()
        if fault.recurring or sentence in fault.said or len(fault.said) == fault.max_reasons:
            return []
        fault.said.add(sentence)
        return [sentence]

    def _end(self, is_over: Callable[[Fault], bool], doubted: float = -math.inf,
             say: str = "over") -> List[str]:
        """End the faults that IS_OVER holds for; returns what they SAY of that, each thing once.

        DOUBTED: when that was, if what says so may come from another registry.
        """
        over = list(filter(is_over, self._lasting()))
        for fault in over:
            fault.lasts, fault.doubted = False, doubted
        return list(dict.fromkeys(getattr(fault, say) for fault in over if not fault.recurring))


class EventCount:
    """What has arrived, by the lines of log.log."""

    def __init__(self) -> None:
        self.events = self.pulls = self.layers = self.repeats = self.unreadable = 0
        self.without_references = False  # the last manifest's event
        self.hosts: Dict[str, None] = {}
        self.last = -math.inf  # when the last event happened, in seconds since 1970
        self._ids = Remembered(10_000)  # of the last events

    def feed(self, line: bytes) -> None:
        try:
            event = decode_json(line.decode())
            name, target = text_of(event, "id")[:200], child(event, "target")
        except (AttributeError, ValueError, RecursionError):
            self.unreadable += not line.isspace()
            return
        self.events += 1
        with contextlib.suppress(ValueError):
            self.last = max(self.last, seconds(text_of(event, "timestamp")))
        self.repeats += name in self._ids
        if name:
            self._ids.add(name)
        if not is_blob(target) and text_of(target, "mediaType") in KNOWN_TYPES:
            self.without_references = not target.get("references")
        if event.get("action") == "pull":
            self.pulls += 1
            self.layers += is_blob(target)
        registry = text_of(child(event, "request"), "host")
        if registry and len(self.hosts) < MAX_FAULTS:
            self.hosts[registry] = None

    def text(self, now: float) -> str:
        arrived = (f"{counted(self.events, 'event')} arrived, {self.pulls} of them of pulls"
                   if self.events else "No event arrived")
        if math.isfinite(self.last):
            arrived += f", the last at {clock(self.last, now)}"
        if len(self.hosts) > 1:
            arrived += f", from {len(self.hosts)} registries ({', '.join(self.hosts)})"
        if self.unreadable:
            arrived += f"; {counted(self.unreadable, 'line')} could not be read"
        return arrived


class LineCount:
    """The requests for blobs in registries' logs: each should have made an event."""

    MAX_BLOBS = 10_000  # whose sizes are remembered

    def __init__(self) -> None:
        self.lines = self.requests = self.blobs = 0
        self.redirected = False  # the last answer was a redirection to the storage
        self.caveats = Caveats()
        self.last = -math.inf  # when the last one was sent whole, in seconds since 1970
        self.latest = 0.0  # time of the last line
        self._sizes: Dict[str, int] = {}  # most bytes sent of each blob

    def feed(self, line: str) -> None:
        self.lines += 1
        if "response completed" in line:
            self.requests += "completed with error" not in line  # these come at level warn, too
            with contextlib.suppress(ValueError):
                fact = line_fact(line)
                if fact and fact.status:
                    self._take(fact)

    def _take(self, fact: Fact) -> None:
        self.blobs += 1
        self.redirected = 300 <= fact.status < 400
        if fact.status != 200:
            return
        size = self._sizes.get(fact.digest, 0)
        whole = fact.written >= size and not fact.client_left
        self.caveats.learn("complete" if whole else "interrupted", fact.proxied, False)
        if whole:
            self.last = max(self.last, fact.time)
            if size or len(self._sizes) < self.MAX_BLOBS:
                self._sizes[fact.digest] = fact.written


def telling_lines(lines: Iterable[str]) -> Iterator[str]:
    """LINES without those of requests, but for the last of each kind before one of a fault."""
    latest: Dict[str, str] = {}
    for line in lines:
        if "response completed" in line:
            latest["completed"] = line
        elif "authorized request" in line:
            latest["authorized"] = line
        elif Trouble.concerns(line):
            yield from latest.values()
            latest.clear()
            yield line
    yield from latest.values()


IN_CONFIG = "In the registry's config.yml, under `notifications:`, "
LONG_AGO = 60  # seconds between an event and what should have made another
OFTEN = 10  # repeats of an event: with fewer, an answer was lost now and then
NO_WAIT = f"the registry does not wait for the answer. {WITH_UNIT}"
REPEATS = f"events come again and again, and no new ones: {NO_WAIT}"


def _missing_events(events: EventCount, lines: LineCount, urls: List[str]) -> Iterator[str]:
    """What kind of events is missing; the registry has told that it sends them to URLS."""
    if events.layers or events.pulls and lines.requests and not lines.blobs:
        return
    if events.unreadable and not events.events:
        yield (f"no event is in the log that was given: {counted(events.unreadable, 'line')} could "
               "not be read. If it is a registry's log, give it with --registry-log; if it is "
               "gzipped, let its name end in .gz.")
    elif events.pulls:
        yield (f"{counted(events.pulls, 'event')} of pulls arrived, but none of a layer. "
               f"{IN_CONFIG}neither `ignoredmediatypes:` nor `ignore: mediatypes:` must list "
               "`application/octet-stream`, the type of every layer; or whoever pulled had all "
               "layers already.")
    elif events.events:
        yield (f"{counted(events.events, 'event')} arrived, but none of a pull. {IN_CONFIG}"
               "`ignore: actions:` must not list `pull`; or nobody has pulled yet.")
    elif urls:
        yield (f"no event has arrived. The registry sends its events to {', '.join(urls)}: that "
               "must be the listener, by a name that the registry's container can reach. Try it: "
               "push or pull something, and check again.")
        for url in filter(is_own_host, urls):
            yield f"the registry sends its events to {url}. {OWN_HOST.format(host=url_host(url))}"
    else:
        yield (f"no event has arrived. {IN_CONFIG}`endpoints:` needs one with `url: "
               "http://sts_listener_server:8086/log`, and the registry must be restarted after "
               f"that. Its log says more: {CHECK_ITS_LOG}")


def arrival_findings(events: EventCount, lines: LineCount, urls: List[str],
                     now: float) -> Iterator[str]:
    """What is wrong with the EVENTS that have arrived, judged by the LINES; worst first."""
    yield from _missing_events(events, lines, urls)
    if math.isfinite(events.last) and lines.last - events.last > LONG_AGO:
        yield (f"the last event is of {clock(events.last, now)}, but the registry has answered "
               f"requests since, until {clock(lines.last, now)}: it cannot send, or the listener "
               "was stopped. Look that it runs (docker ps) and at the other findings.")
    if lines.requests and len(events.hosts) < 2 and events.last - lines.latest > LONG_AGO:
        yield (f"the registry's log ends at {clock(lines.latest, now)}, but events came until "
               f"{clock(events.last, now)}, so pulls since then end as unknown. `docker logs -f` "
               "ends when its container stops: start it again, or give check the whole log.")
    if events.without_references:
        yield ("events of manifests come without references, so nobody can tell how big an image "
               f"is. {IN_CONFIG}write `events:` `includereferences: true`, and restart the "
               "registry.")
    if events.repeats >= OFTEN:
        yield f"events came again, {events.repeats} of {events.events}: {NO_WAIT}"
    if events.events and not lines.lines:
        yield ("no line of the registry's log arrives, so pulls end as unknown: start the listener "
               "with `--syslog-port 8086`, and the registry's container with `--log-driver syslog "
               "--log-opt syslog-address=udp://127.0.0.1:8086 --log-opt syslog-format=rfc5424`. "
               "For what was logged before: docker logs REGISTRY 2>&1 | python listener.py pulls "
               "--registry-log -")
    if lines.redirected:
        yield REDIRECTED
    yield from lines.caveats.standing()


HIDDEN_ACTIONS = {"pull": "pull", "push": "push"}
HIDDEN_TYPES = {"application/octet-stream": "layer",
                **dict.fromkeys(KNOWN_TYPES, "image of that type")}


def _endpoint_findings(endpoint: Dict[str, Any]) -> Iterator[str]:
    url, counts = shown(text_of(endpoint, "url")), child(endpoint, "Metrics")
    waiting, failures, errors = (amount(counts.get(name)) or 0
                                 for name in ("Pending", "Failures", "Errors"))
    if waiting and failures + errors:
        statuses = ", ".join(shown(f"{number} times {status}") for status, number
                             in itertools.islice(child(counts, "Statuses").items(), MAX_FAULTS))
        yield (f"{counted(waiting, 'event')} wait to be sent to {url}: "
               f"{counted(failures + errors, 'time')} it could not be done "
               f"({statuses or 'no answer'}). The registry's log says why: {CHECK_ITS_LOG}")
    if is_own_host(url) and not counts.get("Successes"):
        yield (f"the registry sends its events to {url}, and none has got there. "
               + OWN_HOST.format(host=url_host(url)))
    timeout = (amount(endpoint.get("Timeout")) or 0) / 1e9  # it is in nanoseconds
    if 0 < timeout < LEAST_TIMEOUT:
        yield ShortTimeout(url, timeout).sentence
    ignored = child(endpoint, "Ignore")
    for where, names, hidden in (
            ("ignoredmediatypes:", array(endpoint, "IgnoredMediaTypes"), HIDDEN_TYPES),
            ("ignore: mediatypes:", array(ignored, "MediaTypes"), HIDDEN_TYPES),
            ("ignore: actions:", array(ignored, "Actions"), HIDDEN_ACTIONS)):
        for name in hidden:
            if name in names:
                yield (f"the registry hides every {hidden[name]} from {url}: its `{where}` lists "
                       f"`{name}`. Take that out of its config.yml, and restart it.")


def debug_findings(variables: Any) -> List[str]:
    """What is wrong by a registry's /debug/vars, of distribution's notifications/metrics.go."""
    registry = child(variables, "registry") if isinstance(variables, dict) else {}
    endpoints = array(child(registry, "notifications"), "endpoints")[:MAX_FAULTS]
    if not endpoints:
        return [NoEndpoint([]).sentence]
    return [finding for endpoint in endpoints if isinstance(endpoint, dict)
            for finding in _endpoint_findings(endpoint)]


# --------------------------------------------------------------------------------------------- show

COLOURS = {"push": "32", "complete": "32", "up to date": "32", "failed": "31", "interrupted": "31",
           "unknown": "33"}
TABLE_ROW = "{:14}  {:30}  {:>8}  {:>5}  {:11}  {}"


def by_whom(user: Optional[str], client: str, agent: str) -> str:
    """`by foo from 172.18.0.1 (docker/20.10.24)`, without the parts that are not known."""
    program = agent.split()[0].partition("+")[0] if agent.split() else ""
    known = user and f"by {user}", client and f"from {client}", program and f"({program})"
    return " ".join(filter(None, known))


def how_big(size: int, layers: int, image_id: Optional[str]) -> List[str]:
    return [f"{byte_size(size)} in {counted(layers, 'layer')}",
            f"image {short(image_id)}" if image_id else ""]


def percent(part: int, whole: Optional[int]) -> str:
    """How much PART is of WHOLE, which it is not: never 100 %."""
    return f"{min(99, 100 * part // whole)} %" if whole else ""


def image_blobs(target: dict) -> Dict[str, int]:
    """Bytes by digest of an image's config and layers, by the target of its manifest's event."""
    if text_of(target, "mediaType") in INDEX_TYPES:
        return {}
    return {digest: size for digest, size, _ in event_references(target)}


def event_line(event: dict, now: Optional[float] = None) -> str:
    """One line for one event, whatever its action; with its date if NOW is another day."""
    target, request = child(event, "target"), child(event, "request")
    when = "--:--:--"
    with contextlib.suppress(ValueError, OverflowError, OSError):
        when = clock(seconds(text_of(event, "timestamp")), now)
    repository, digest = text_of(target, "repository"), short(text_of(target, "digest"))
    if is_blob(target):
        origin = text_of(target, "fromRepository")
        words = [repository, f"layer {digest}", byte_size(amount(target.get("size"))),
                 f"from {origin}" if origin else "",
                 "asked for" if request.get("method") == "HEAD" else ""]
    else:
        words, blobs = [image_name(repository, text_of(target, "tag"), digest)], image_blobs(target)
        if blobs:
            words += how_big(sum(blobs.values()), len(blobs) - 1, next(iter(blobs)))
        elif text_of(target, "mediaType") in INDEX_TYPES:
            words.append(f"index of {counted(len(event_references(target)), 'manifest')}")
        words.append(by_whom(text_of(child(event, "actor"), "name"), host(text_of(request, "addr")),
                             text_of(request, "useragent")))
    action = text_of(event, "action") or "?"
    return plain("  ".join([f"{when} {action:4}", *filter(None, words)]))


def push_object(event: dict) -> Optional[Dict[str, Any]]:
    """The push of an image for programs; None if EVENT is something else."""
    target, request = child(event, "target"), child(event, "request")
    if event.get("action") != "push" or is_blob(target):
        return None
    blobs = image_blobs(target)
    return {
        "time": text_of(event, "timestamp"), "registry": text_of(request, "host"),
        "image": image_name(text_of(target, "repository"), text_of(target, "tag"),
                            text_of(target, "digest")),
        "size": sum(blobs.values()) if blobs else None,
        "layers": len(blobs) - 1 if blobs else None,
        "client": host(text_of(request, "addr")), "agent": text_of(request, "useragent"),
        "user": text_of(child(event, "actor"), "name") or None}


def _outcome(change: Change, now: float) -> List[str]:
    """The verdict in words, with how much was sent and how long it took."""
    pull, blobs = change.pull, change.pull.asked_blobs(now)
    sent, known = total_sent(blobs), sum(blob.sent or 0 for blob in blobs.values())
    after = f"after {max(0, pull.end[0] - pull.started):.0f} s"
    if change.verdict == "complete":
        rest = {digest for image in pull.platforms for digest in image.order} - blobs.keys()
        return ["complete", f"{byte_size(sent)} {after}",
                f"{counted(len(rest), 'layer')} there already" if rest else ""]
    if change.verdict == "interrupted":
        share = f" ({percent(known, pull.size)})" if pull.size else ""
        least = "" if sent is not None else "at least "
        return ["interrupted",
                f"{least}{byte_size(known)} of {byte_size(pull.size)}{share} {after}"]
    if change.verdict == "failed":
        digest, error = next(((digest, blob.error) for digest, blob in blobs.items() if blob.error),
                             (None, None))
        kind = "config" if digest == pull.image_id else "layer"
        what = "sent nothing of" if error == 200 else f"answered {error} for"
        return [f"failed: the registry {what} {kind} {short(digest)}  {after}"]
    if change.verdict == "unknown" and sent is None:
        return ["unknown", "the registry's log does not tell how much was sent"]
    if change.verdict == "unknown":
        rest = pull.sizes.keys() - blobs.keys()
        return ["unknown", f"{byte_size(sent)} {after}",
                f"whether the client had the other {counted(len(rest), 'blob')} is not known"]
    return [change.verdict]


def pull_line(change: Change, now: float) -> str:
    """A Change for people: a pull has started, goes on after all, or has ended."""
    pull = change.pull
    digest = short(pull.asked_digest) if pull.asked_digest else ""
    image = image_name(pull.repository, pull.tag, digest)
    if change.what == "started":
        at, words = pull.started, [image, "started"]
        words += how_big(pull.size, pull.layers, pull.image_id) if pull.sizes else []
    elif change.what == "resumed":
        at, words = now, [f"{image} of {clock(pull.started, now)} goes on after all"]
    else:
        at, words = pull.end[0], [image, *_outcome(change, now)]
    words.append(by_whom(pull.user, pull.client, pull.agent))
    return plain("  ".join([f"{clock(at, now)} pull", *filter(None, words)]))


def cut_layers(pull: Pull, now: float) -> List[str]:
    """A line for each blob of a pull that was cut."""
    return [plain(f"                cut: {short(digest)}  {byte_size(blob.sent)} of "
                  f"{byte_size(blob.size)}")
            for digest, blob in pull.asked_blobs(now).items() if blob.state == "cut"]


def pull_object(pull: Pull, now: float, final: Optional[str] = None) -> Dict[str, Any]:
    """A pull for programs, a line of `pulls --json`, as of NOW; FINAL: its verdict, if settled."""
    blobs = pull.asked_blobs(now)
    judged = final or verdict(pull, now, blobs)
    error = next((blob.error for blob in blobs.values() if blob.error), None)
    return {
        "started": pull.stamp, "ended": None if judged == "running" else pull.end[1],
        "image": pull.image, "registry": pull.registry, "repository": pull.repository,
        "tag": pull.tag, "digest": pull.digest, "image_id": pull.image_id, "size": pull.size,
        "layers": pull.layers, "requested": len(blobs), "sent": total_sent(blobs),
        "verdict": judged, "error": error if judged == "failed" else None, "client": pull.client,
        "user": pull.user, "agent": pull.agent, "proxied": pull.proxied}


def pull_objects(events: Iterable[Fact], lines: Iterable[Fact], now: Optional[float] = None,
                 caveats: Optional[Caveats] = None) -> Iterator[Dict[str, Any]]:
    """The objects of `pulls --json`, in the order of their start.

    EVENTS and LINES are the Facts of a log of events and of the registry's log, each in its order.
    What still runs is as of NOW, by default the present. CAVEATS learn of each pull.
    """
    def entry(pull: Pull, at: float, final: Optional[str] = None) -> Tuple[float, int, dict]:
        found = pull_object(pull, at, final)
        if caveats:
            caveats.learn(found["verdict"], pull.proxied, pull.redirected)
        return pull.started, next(number), found

    tracker, number = Tracker(), itertools.count()
    # Pulls are forgotten in the order of their end; here they wait for those that started before.
    ready: List[Tuple[float, int, dict]] = []
    enough = 500
    for changes in replay(tracker, events, lines):
        for change in changes:
            if change.what == "forgotten":
                heapq.heappush(ready, entry(change.pull, tracker.now, change.verdict))
        if len(ready) >= enough:
            first = min((pull.started for pull in tracker), default=math.inf)
            while ready and ready[0][0] <= first:
                yield heapq.heappop(ready)[2]
            enough = len(ready) + 500
    now = time.time() if now is None else now
    for _, _, found in sorted([*ready, *(entry(pull, now) for pull in tracker)]):
        yield found


def pull_row(found: Dict[str, Any]) -> str:
    """An object of `pull_objects` for people: a row of at most 100 columns."""
    sent, size, judged = found["sent"], found["size"], found["verdict"]
    share = ("?" if sent is None or judged == "unknown" else
             "100 %" if judged == "complete" else percent(sent, size))
    name, at, digest = found["image"].partition("@")
    image = plain(f"{name}@{short(digest)}" if at and not found["tag"] else found["image"])
    person = plain(f"{found['user']}@{found['client']}" if found["user"] else found["client"])
    return TABLE_ROW.format(
        time.strftime("%m-%d %H:%M:%S", time.localtime(seconds(found["started"]))),
        image if len(image) <= 30 else "..." + image[-27:], byte_size(size), share, judged,
        person if len(person) <= 22 else person[:19] + "...").rstrip()


# --------------------------------------------------------------------------------------------- page

PAGE = r"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Registry listener</title>
<link rel="icon" href="data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'>
  <path d='M4 0v5M2 3l2 2 2-2M1 7h6' fill='none' stroke='%232f6fed'/></svg>">
<style>
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --line: #e2e5eb; --ink: #1b1f27;
  --soft: #5d6979; --blue: #2f6fed; --green: #12805c; --red: #c8322b; --amber: #946200 }
@media (prefers-color-scheme: dark) { :root { --page: #0f1116; --card: #171a21; --line: #2c323d;
  --ink: #e7e9ee; --soft: #98a2b3; --blue: #6c9dff; --green: #3fb98c; --red: #ff7b72;
  --amber: #e0a63c } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
body > * { max-width: 1160px; margin: 0 auto; padding: 6px 20px }
header, .row { display: flex; flex-wrap: wrap; gap: 4px 16px; align-items: baseline }
.row > :first-child { margin-right: auto }
h1 { font-size: 20px; margin: 12px auto 6px 0 } h2 { font-size: 15px; margin: 20px 0 8px }
.soft, small, th { color: var(--soft); font-size: 13px; font-weight: 400 }
.complete, .good { --sign: var(--green) }
.interrupted, .failed, .refused, .bad { --sign: var(--red) }
.unknown { --sign: var(--amber) } .whole { --sign: var(--blue) }
.cut { --sign: color-mix(in srgb, var(--red) 55%, var(--line)) }
.dot::before { content: "●"; margin-right: 6px; font-size: 11px; color: var(--sign, var(--soft)) }
.bad::before { content: "▲" }
.card, input { background: var(--card); border: 1px solid var(--line); border-radius: 12px }
.card { padding: 12px 16px; margin: 0 0 10px }
.bar { display: flex; gap: 3px; height: 10px; margin: 8px 0 6px }
.bar i { background: var(--sign, var(--line)); border-radius: 3px; overflow: hidden }
.bar i i { display: block; height: 100%; background: var(--blue); border-radius: 0 }
.bar .open { animation: flow 1.4s linear infinite; background: repeating-linear-gradient(110deg,
  var(--blue) 0 8px, color-mix(in srgb, var(--blue) 25%, var(--card)) 8px 16px) 0 0 / 200% 100% }
@keyframes flow { to { background-position: -34px 0 } }
@media (prefers-reduced-motion: reduce) { .bar .open { animation: none } }
td .bar { gap: 0; height: 6px; width: 84px; margin: 0 }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: 6px 12px 6px 0; text-align: left; white-space: nowrap }
td { color: var(--sign) }
tr + tr { border-top: 1px solid var(--line) }
.image, .who { white-space: normal; overflow-wrap: anywhere }
.image { font-weight: 600 } .number { text-align: right }
input { font: inherit; padding: 4px 12px; width: 270px; border-color: var(--soft) }
pre { overflow-x: auto; font-size: 13px }
@media (max-width: 700px) {
  thead, td:empty { display: none } table, tbody { display: block } td { padding: 0 }
  tr { display: flex; flex-wrap: wrap; gap: 0 12px; align-items: center; padding: 8px 0 }
  .image { flex: 1 0 100%; order: -1 } input { width: 100% }
}
</style>
<header><h1>Registry listener</h1>
  <span id="state" class="dot">connecting</span> <span id="lines" class="dot soft"></span>
  <input id="find" type="search" placeholder="image, user, address, verdict" hidden
    aria-label="Find pulls and pushes by image, user, address or verdict">
</header>
<main>
  <section id="notice" role="status"></section>
  <section id="empty" class="card" hidden>
    <b>Nothing has arrived yet.</b> A registry sends its events here if its config.yml says:
    <pre tabindex="0">
notifications:
  events:
    includereferences: true
  endpoints:
    - name: listener
      # As the registry reaches it. In a container localhost is that container itself: there, name
      # the listener's service, or write 172.17.0.1 if the listener runs without a container.
      url: <span class="url"></span><span class="token" hidden>
      headers: {Authorization: [Bearer TOKEN]}</span></pre>
    Do events get through? This command makes one, and it shows up here:
    <pre tabindex="0">
curl <span class="token" hidden>-H 'Authorization: Bearer TOKEN' </span><span class="url"></span> \
  -d '{"events": [{"action": "push", "target": {"repository": "hello", "tag": "world"}}]}'</pre>
    Still none from the registry? Its own log says why, and <code>check</code> explains it:
    <pre tabindex="0">docker logs REGISTRY 2>&1 | python listener.py check --registry-log -</pre>
  </section>
  <section hidden><h2>Now <small></small></h2><div id="running"></div></section>
  <section hidden><h2>Pulls <small></small></h2><div class="card"><table>
    <thead><tr><th>Started<th>Image<th class="number">Size<th><th>Verdict<th>Client
    <th class="number">Took</thead><tbody id="pulls"></table></div></section>
  <section hidden><h2>Pushes <small></small></h2><div class="card"><table>
    <thead><tr><th>Time<th>Image<th class="number">Size<th><th>Client</thead>
    <tbody id="pushes"></table></div></section>
</main>
<script>
"use strict";
const $ = selector => document.querySelector(selector);
const all = (selector, change) => document.querySelectorAll(selector).forEach(change);
const MARKS = {complete: "✓", interrupted: "✕", failed: "!", unknown: "?", "up to date": "="};
let data, etag = "", ahead = 0;  // ahead: ms that the listener's clock is ahead of the browser's

// Names are whatever a client sent: text, never HTML, and what would reverse text is escaped.
const plain = text => text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu,
  c => "\\u" + c.codePointAt(0).toString(16).padStart(4, "0"));
function make(name, kind, ...inside) {
  const made = document.createElement(name);
  made.className = kind;
  made.append(...inside.map(part => part instanceof Node ? part : plain(String(part))));
  return made;
}
function segment(share, kind, done = 0) {
  const made = make("i", kind, make("i", ""));
  made.style.flex = share + " 1 0";
  made.firstChild.style.width = 100 * done + "%";
  return made;
}
const bytes = (n, [unit, ...larger] = ["B", "kB", "MB", "GB", "TB"]) => n == null ? "?"
  : n >= 999.95 && larger.length ? bytes(n / 1000, larger) : +n.toFixed(1) + " " + unit;
function clock(stamp) {
  const at = new Date(stamp), today = at.toDateString() == new Date().toDateString();
  return isNaN(at) ? "" : at.toLocaleString("sv").slice(today ? 11 : 5);
}
function duration(from, to) {
  const s = Math.max(0, (to - Date.parse(from)) / 1000) || 0;
  return s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min`
    : s < 129600 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} days`;
}
// How long ago that is; `poll` keeps it up to date.
const since = stamp => Object.assign(make("time", ""), {dateTime: stamp});
const who = p => [p.user, p.client && (p.user ? "from " : "") + p.client,
  p.agent && `(${p.agent.split(/[ +]/)[0]})`].filter(Boolean).join(" ");
const brief = image => image.replace(/(@sha256:[0-9a-f]{12})[0-9a-f]+/, "$1");

function card(pull) {
  const total = pull.blobs.reduce((sum, blob) => sum + (blob.sent || 0), 0);
  const count = (state, text) => [pull.blobs.filter(blob => blob.state == state).length, text];
  const words = [count("whole", `of ${pull.blobs.length} parts sent`), count("open", "being sent"),
    count("refused", "refused"), count("cut", "cut: interrupted, unless it goes on within 30 s")];
  return make("div", "card",
    make("div", "row", make("span", "image", brief(pull.image)), make("span", "soft", who(pull))),
    make("div", "bar", ...pull.blobs.map(({state, sent, size}) => segment(
      Math.max(size, (pull.size || 1) / 60), state || "", state == "cut" ? sent / size : 0))),
    make("div", "row soft", make("span", "", `${bytes(total)} of ${bytes(pull.size)}`),
      make("span", "", words.filter(([n]) => n).map(word => word.join(" ")).join(", ")),
      since(pull.started)));
}
function pullRow(pull) {
  const {verdict, sent, size} = pull, kind = verdict.split(" ")[0];
  const cut = kind == "interrupted" || kind == "failed";
  const share = kind == "complete" ? 1 : cut && size ? Math.min(.99, (sent || 0) / size) : 0;
  const bar = make("div", "bar", segment(share, kind), segment(1 - share, ""));
  const amount = cut ? `${bytes(sent)} of ${bytes(size)}` : kind == "up" ? "" : bytes(size);
  return make("tr", "", make("td", "soft", clock(pull.started)),
    make("td", "image", brief(pull.image)), make("td", "number", amount),
    make("td", "", ...share || cut ? [bar] : []),
    make("td", kind, [MARKS[verdict], verdict, pull.error].filter(Boolean).join(" ")),
    make("td", "soft who", who(pull)),
    make("td", "soft number", duration(pull.started, Date.parse(pull.ended))));
}
const pushRow = push => make("tr", "", make("td", "soft", clock(push.time)),
  make("td", "image", brief(push.image)), make("td", "number", bytes(push.size)),
  make("td", "soft", push.layers ? `in ${push.layers} layer${push.layers > 1 ? "s" : ""}` : ""),
  make("td", "soft who", who(push)));
function tell(id, kind, ...words) {
  $(id).className = "dot " + kind;
  $(id).replaceChildren(...words);
}
function fill(id, list, row, note) {
  const words = $("#find").value.toLowerCase().split(/\s+/), text = p =>
    [p.image, p.user, p.client, p.agent, p.verdict, p.error].join(" ").toLowerCase();
  const found = list.filter(p => words.every(word => text(p).includes(word)));
  const section = $(id).closest("section");
  section.hidden = !list.length;
  section.querySelector("small").textContent = words[0] ? `${found.length} found` : note;
  $(id).replaceChildren(...found.map(row));
}
function show() {
  fill("#running", data.running, card, `${data.running_count} running`);
  fill("#pulls", data.pulls, pullRow, `the last ${data.pulls.length}`);
  fill("#pushes", data.pushes, pushRow, "");
  $("#find").hidden = !data.last_event;
  $("#empty").hidden = data.last_event;
  all(".token", part => part.hidden = !data.token);
  tell("#state", "good", ...data.last_event ? ["last event ", since(data.last_event), " ago"]
    : ["listening"]);
  tell("#lines", data.last_line ? "good" : "", ...data.last_line ? ["registry's log ",
    since(data.last_line), " ago"] : ["no line of the registry's log"]);
  $("#notice").replaceChildren(...data.notices.map(text => make("p", "card dot bad", text)));
  document.title = (data.running.length ? `(${data.running_count}) ` : "") + "Registry listener";
}
async function poll() {
  try {
    const answer = await fetch(location.origin + "/pulls", {cache: "no-store",
      headers: etag ? {"If-None-Match": etag} : {}, signal: AbortSignal.timeout(20000)});
    if (answer.status == 200) data = await answer.json();
    else if (answer.status != 304) throw new Error(answer.status);
    etag = answer.headers.get("ETag");
    ahead = Date.parse(answer.headers.get("Date")) - Date.now();
    if (answer.status == 200) show();
  } catch (error) {
    etag = "";  // what comes next is shown anew, and the state with it
    tell("#state", "bad", "the listener does not answer");
  }
  all("time", part => part.textContent = duration(part.dateTime, Date.now() + ahead));
  setTimeout(watch, 1000);
}
const watch = () => document.hidden ? setTimeout(watch, 1000) : poll();
all(".url", part => part.textContent = location.origin + "/log");
$("#find").oninput = show;
watch();
</script>"""

MAX_ENDED, MAX_PUSHES = 100, 50  # on the page
MAX_SHOWN_BLOBS = 128  # of a pull; docker makes no image of more layers
MAX_SHOWN_TEXT = 400  # characters of a name; no registry takes a longer one


def page() -> Answer:
    """PAGE, which loads nothing, and runs only what stands in it."""
    style, script = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
                     for _, text in re.findall(r"<(style|script)>(.*?)</\1>", PAGE, re.DOTALL)]
    return Answer(200, PAGE.encode(), "text/html", {
        "Content-Security-Policy": (
            f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; "
            "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"),
        "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache"})


def running_object(pull: Pull, now: float) -> Dict[str, Any]:
    """A running pull for programs: as `pull_object`, and what has become of each blob."""
    asked, sizes = pull.asked_blobs(now), pull.sizes
    blobs = [asked.get(digest) or Blob("", 0, sizes[digest]) for digest in {**sizes, **asked}]
    return {**pull_object(pull, now, "running"),
            "blobs": [{"state": blob.state or None, "sent": blob.sent, "size": blob.size}
                      for blob in blobs[:MAX_SHOWN_BLOBS]]}


def _shown_json(found: Dict[str, Any]) -> str:
    """An object as ASCII JSON, its texts cut to MAX_SHOWN_TEXT."""
    return json.dumps({name: value[:MAX_SHOWN_TEXT] if isinstance(value, str) else value
                       for name, value in found.items()})


def _json_array(texts: Iterable[str], limit: int) -> str:
    """A JSON array of the first of some ASCII JSON TEXTS: as many as LIMIT bytes hold."""
    taken = []
    for text in texts:
        limit -= len(text) + 1
        if limit < 0:
            break
        taken.append(text)
    return "[" + ",".join(taken) + "]"


class Board:
    """What the page shows: the newest pulls and pushes, bounded in number and bytes."""

    def __init__(self) -> None:
        self.running: Dict[Pull, None] = {}  # in the order of their start
        self._ended: Dict[Pull, str] = {}  # their verdicts
        self._forgotten: collections.deque = collections.deque(maxlen=MAX_ENDED)  # start, JSON
        self._pushes: collections.deque = collections.deque(maxlen=MAX_PUSHES)  # JSON texts
        self.caveats = Caveats()

    def follow(self, change: Change, now: float) -> None:
        """Take in a CHANGE that the Tracker tells of NOW."""
        pull = change.pull
        if change.what in ("started", "resumed"):
            self.running[pull] = None
        else:
            self.running.pop(pull, None)
        judged = self._ended.pop(pull, None)
        if judged and change.what == "forgotten":
            self._forgotten.append((pull.started, _shown_json(pull_object(pull, now, judged))))
        if change.what == "ended":
            self._ended[pull] = change.verdict
            keep_latest(self._ended, MAX_ENDED)
            self.caveats.learn(change.verdict, pull.proxied, pull.redirected)

    def follow_event(self, event: dict) -> None:
        """Take in an EVENT, which need not be a push."""
        if found := push_object(event):
            self._pushes.append(_shown_json(found))

    def data(self, now: float, about: Dict[str, Any], notices: List[str]) -> bytes:
        """The JSON of GET /pulls: what it says ABOUT the listener, NOTICES, and newest first:

        `running`, of `running_count` pulls, as `pulls --json` has them, and each with `blobs`:
        config and layers in their order, with `state` (whole, open, cut, refused, unknown; null:
        not asked for), `sent` and `size` in bytes; `pulls`, the last that ended; and `pushes`.
        """
        head = json.dumps({**about, "running_count": len(self.running)})
        sentences = (json.dumps(text[:MAX_TEXT]) for text in notices)
        ended = [(pull.started, _shown_json(pull_object(pull, now, judged)))
                 for pull, judged in self._ended.items()]
        ended = heapq.nlargest(MAX_ENDED, [*ended, *self._forgotten], operator.itemgetter(0))
        running = (_shown_json(running_object(pull, now)) for pull in reversed(self.running))
        return (f'{head[:-1]}, "notices": {_json_array(sentences, 20_000)}, '
                f'"running": {_json_array(running, 60_000)}, '
                f'"pulls": {_json_array((text for _, text in ended), 90_000)}, '
                f'"pushes": {_json_array(reversed(self._pushes), 20_000)}}}\n').encode()


class Histogram:
    """How many durations were at most so many seconds long."""

    def __init__(self, *bounds: float) -> None:
        self._bounds, self._counts, self._sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, duration: float) -> None:
        self._counts[bisect.bisect_left(self._bounds, duration)] += 1
        self._sum += duration

    def samples(self) -> List[Tuple[str, float]]:
        sums = list(itertools.accumulate(self._counts))
        return [*((f'_bucket{{le="{bound}"}}', number)
                  for bound, number in zip((*self._bounds, "+Inf"), sums)),
                ("_sum", self._sum), ("_count", sums[-1])]


def metric_family(name: str, about: str, value: Any, label: str = "") -> str:
    """A metric in Prometheus' text format, version 0.0.4; VALUE may be a dict by its LABEL."""
    samples, kind = [("", value)], "counter" if name.endswith("_total") else "gauge"
    if isinstance(value, dict):
        samples = [(f'{{{label}="{key}"}}', number) for key, number in value.items()]
    elif isinstance(value, Histogram):
        samples, kind = value.samples(), "histogram"
    return "".join([f"# HELP {name} {about}\n# TYPE {name} {kind}\n",
                    *(f"{name}{suffix} {number}\n" for suffix, number in samples)])


def process_metrics(started: float) -> str:
    """What Prometheus' own clients tell of a process, as far as this system gives it."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = [("cpu_seconds_total", "CPU time.", time.process_time()),
             ("start_time_seconds", "When it started.", started),
             ("max_fds", "How many files it may have open.", limit)]
    with contextlib.suppress(OSError, ValueError), open("/proc/self/statm") as file:
        pages = [int(number) * resource.getpagesize() for number in file.read().split()]
        found += [("virtual_memory_bytes", "Virtual memory.", pages[0]),
                  ("resident_memory_bytes", "Resident memory.", pages[1]),
                  ("open_fds", "Files that are open.", len(os.listdir("/proc/self/fd")))]
    return "".join(metric_family(f"process_{name}", *rest) for name, *rest in found)


class Metrics:
    """What has been counted since the start, for GET /metrics.

    Each count of FAMILIES goes up in one thread, and is read by any. Times are in seconds since
    1970, and 0 stands for never. No label has a value that a client chooses.
    """

    FAMILIES = (  # name{label}, help
        ("build_info{python}", "Always 1; what runs."),
        ("events_total{action}", "Events that were written to the log."),
        ("duplicate_events_total", "Events that came again: they were answered, but not written."),
        ("http_requests_total{code}", "Requests that were answered, by status."),
        ("commit_duration_seconds", "Time that a write with its fsync took."),
        ("write_failing", "1 while the log cannot be written: registries send again."),
        ("last_event_timestamp_seconds", "When the last new event came."),
        ("last_registry_log_line_timestamp_seconds", "When the registry's last line came."),
        ("registry_cannot_send", "1 while the registry's log says that it cannot send its events."),
        ("pulls_started_total", "Pulls that began."),
        ("pulls_ended_total{verdict}", "Pulls that ended; one that goes on after all ends again."),
        ("pulls_resumed_total", "Pulls that went on after they were said to have ended."),
        ("pulls_running", "Pulls that run now."),
        ("pull_duration_seconds", "Time that complete pulls took."),
        ("sent_bytes_total", "Bytes of config and layers that the registry sent, by its log."),
        ("dropped_messages_total", "What came too fast to be followed, or to be shown."))

    def __init__(self, started: float) -> None:
        self.started = started
        self.write_error: Optional[OSError] = None
        self.input_ended = ""  # why no more of the registry's log comes from standard input
        self.repeats = 0  # how often events came again since the last new one
        self.last_commit = 0.0  # when something was to be kept last
        self.build_info = {".".join(map(str, sys.version_info[:3])): 1}
        self.events_total = dict.fromkeys(("pull", "push", "mount", "delete", "other"), 0)
        self.duplicate_events_total = self.write_failing = self.registry_cannot_send = 0
        self.http_requests_total = dict.fromkeys(
            (200, 304, 400, 401, 404, 405, 411, 413, 414, 415, 431, 501, 503), 0)
        self.commit_duration_seconds = Histogram(
            .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10)
        self.last_event_timestamp_seconds = self.last_registry_log_line_timestamp_seconds = 0.0
        self.pulls_started_total = self.pulls_resumed_total = self.pulls_running = 0
        self.pulls_ended_total = dict.fromkeys(
            ("complete", "up to date", "interrupted", "failed", "unknown"), 0)
        self.pull_duration_seconds = Histogram(1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
        self.sent_bytes_total = 0
        self.inboxes: List[Inbox] = []

    @property
    def dropped_messages_total(self) -> int:
        return sum(inbox.dropped for inbox in self.inboxes)

    def count_events(self, events: List[dict], now: float) -> None:
        """New EVENTS were written."""
        for event in events:
            action = text_of(event, "action")
            self.events_total[action if action in self.events_total else "other"] += 1
            self.last_event_timestamp_seconds = now

    def events_repeat(self, now: float) -> bool:
        """Whether nothing new comes, but the same again and again."""
        return self.repeats >= OFTEN and now - self.last_commit < MENDED_SECONDS

    def count_change(self, change: Change) -> None:
        if change.what == "started":
            self.pulls_started_total += 1
        elif change.what == "resumed":
            self.pulls_resumed_total += 1
        elif change.what == "ended":
            self.pulls_ended_total[change.verdict] += 1
            if change.verdict == "complete":
                self.pull_duration_seconds.add(max(0, change.pull.end[0] - change.pull.started))

    def answer(self, answered: Dict[int, int]) -> Answer:
        """ANSWERED: how many requests were, by status."""
        self.http_requests_total.update(answered)
        families = []
        for title, about in self.FAMILIES:
            name, _, label = title.rstrip("}").partition("{")
            families.append(metric_family(
                f"registry_listener_{name}", about, getattr(self, name), label))
        return Answer(200, ("".join(families) + process_metrics(self.started)).encode(),
                      "text/plain; version=0.0.4")


# ------------------------------------------------------------------------------------------ console

class Terminal:
    """Writes lines to stdout or stderr, in a thread of its own: nothing else waits for a reader."""

    def __init__(self, file: TextIO) -> None:
        self._file, self.inbox = file, Inbox(1 << 20)
        self._thread = threading.Thread(target=self._run, daemon=True)
        start_thread(self._thread)

    def write(self, line: str) -> None:
        self.inbox.put(line, sys.getsizeof(line))

    def stop(self, timeout: float) -> bool:
        """Write all that waits, for up to TIMEOUT seconds; whether that was enough."""
        self.inbox.put(None, 0)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            lines, dropped = self.inbox.take()
            for line in lines:
                if line is None:
                    return
                self._write(line)
            if dropped:
                self._write(f"{clock(time.time())} {counted(dropped, 'line')} came too fast to be "
                            "shown")

    def _write(self, line: str) -> None:
        # Past Python's buffers: they keep what a broken stdout refuses, and fail again at exit.
        data = (line + "\n").encode(self._file.encoding, "backslashreplace")
        while data:
            try:
                data = data[os.write(self._file.fileno(), data):]
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    return  # nobody reads any more: the log goes on
                time.sleep(.2)  # a file on a disk that is full, and may have room again


class Refusals:
    """Refused requests: a few lines a second for the console, the last ones for the page."""

    SAID = 3  # refusals per second, client and status
    NAMED = 10  # clients per second
    SHOWN, SHOWN_SECONDS = 10, 3600  # on the page

    def __init__(self) -> None:
        self._last: Dict[Tuple[str, str], Tuple[float, int]] = {}  # time of the last; how many
        self._second: collections.Counter = collections.Counter()  # those of this second
        self._unsaid: collections.Counter = collections.Counter()  # of them

    def add(self, who: str, why: str, now: float) -> List[str]:
        """WHO was refused, and WHY; what is to say of that at once."""
        key = who, why[:MAX_SHOWN_TEXT]
        _, times = self._last.pop(key, (now, 0))
        self._last[key] = now, times + 1
        keep_latest(self._last, self.SHOWN)
        self._second[who] += 1
        if self._second[who] <= self.SAID and len(self._second) <= self.NAMED:
            return [f"{who}: {why}"]
        self._unsaid[who] += 1
        return []

    def sum_up(self) -> List[str]:
        """The second is over; how many of it were not said."""
        unsaid = self._unsaid.most_common()
        lines = [f"{who}: and {number} more" for who, number in unsaid[:self.NAMED]]
        others = sum(number for _, number in unsaid[self.NAMED:])
        lines += [f"others were refused: {others} more"] if others else []
        self._second.clear()
        self._unsaid.clear()
        return lines

    def notices(self, now: float) -> List[str]:
        """The last ones, newest first."""
        return [f"{clock(at, now)} {who}: {why}" + (f" ({times} times)" if times > 1 else "")
                for (who, why), (at, times) in reversed(list(self._last.items()))
                if now - at < self.SHOWN_SECONDS]


class Console:
    """The one thread that owns the live Tracker: it follows the pulls, says and shows them.

    Other threads hand it work, which it does in the order in which that came, and never wait.
    """

    def __init__(self, options: argparse.Namespace, metrics: Metrics) -> None:
        self._options, self._metrics = options, metrics
        self._tracker, self._trouble, self._board = Tracker(), Trouble(), Board()
        self._refusals = Refusals()
        self._inbox = Inbox(16 << 20)  # of functions to call; None is the last
        self._out, self._err = Terminal(sys.stdout), Terminal(sys.stderr)
        metrics.inboxes += [self._inbox, self._out.inbox, self._err.inbox]
        self._snapshot: Tuple[float, Optional[Answer]] = (-math.inf, None)  # the page's data
        self._asked = False  # whether newer data are being made
        self._next_second = 0.0
        self._last_error = ""  # that was said
        self._repeating = SaidOnce(self.warn)
        self._colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        # The wall clock may be set; this one cannot, and agrees with it at the start.
        self._wall_offset = time.time() - time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self, remember: Callable[[Tracker, Trouble, Board], None]) -> None:
        """Begin with REMEMBER, which takes in what the files tell of the time before."""
        self._inbox.put(lambda: remember(self._tracker, self._trouble, self._board), 0)
        self._inbox.put(lambda: self.warn(*self._trouble.standing(self._now())), 0)
        start_thread(self._thread)

    # -- for other threads

    def follow_events(self, lines: Iterable[bytes]) -> None:
        """Follow and show events: LINES of the log."""
        for line in lines:
            self._inbox.put(functools.partial(self._take_event, line), sys.getsizeof(line))

    def follow_lines(self, lines: Iterable[str]) -> None:
        """Follow LINES of the registry's log."""
        for line in lines:
            self._inbox.put(functools.partial(self._take_line, line), sys.getsizeof(line))

    def refused(self, status: int, client: str, why: str) -> None:
        """A request of CLIENT was refused with STATUS; 0: without an answer."""
        who = f"{client} was refused" + (f" with {status}" if status else "")
        self._inbox.put(lambda: self.warn(*self._refusals.add(who, why, self._now())),
                        500 + len(why))

    def say(self, line: str) -> None:
        """Tell LINE to the person at the terminal, on stdout."""
        self._out.write(f"{self._clock()} {line}")

    def warn(self, *messages: str) -> None:
        """Tell MESSAGES to the person at the terminal, on stderr."""
        for message in messages:
            self._err.write(f"{self._clock()} {plain(message[:MAX_TEXT])}")

    def answer(self, since: float, known: str, wake: Callable[[], None]) -> Optional[Answer]:
        """The data of the page, as of SINCE (time.monotonic()) or later; None: it is being made.

        KNOWN is the ETag of what the client has already. WAKE is called when it has been made.
        """
        made, answer = self._snapshot
        if made < since:
            if not self._asked:
                self._asked = True
                self._inbox.put(lambda: self._make_snapshot(wake), 0)
            return None
        return answer._replace(status=304, body=b"") if answer.headers["ETag"] in known else answer

    def stop(self, timeout: float) -> bool:
        """Show all that waits, for up to TIMEOUT seconds each; whether that was enough."""
        if self._thread.is_alive():
            self._inbox.put(None, 0)
            self._thread.join(timeout)
        written = [terminal.stop(timeout) for terminal in (self._out, self._err)]
        return all(written) and not self._thread.is_alive()

    # -- in its own

    def _now(self) -> float:
        return time.monotonic() + self._wall_offset

    def _clock(self) -> str:
        return clock(self._now())

    def _run(self) -> None:
        while True:
            works, dropped = self._inbox.take(1)
            for work in works:
                if work is None:
                    return self.warn(*self._refusals.sum_up())
                self._guard(work)
            self._guard(self._tick)
            if dropped:
                self.warn(f"{counted(dropped, 'message')} came too fast to be followed; the files "
                          "have them")
            if not self._inbox:
                time.sleep(.05)  # to wake once for much, rather than for each

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # errors in display must not stop the log
            if repr(error) != self._last_error:
                self.warn(f"internal error, something is not shown: {error!r}")
            self._last_error = repr(error)

    def _tick(self) -> None:
        now = self._now()
        self._tell(self._tracker.tick(now))
        if now >= self._next_second:
            self._next_second = now + 1
            self.warn(*self._refusals.sum_up())
            if self._metrics.events_repeat(now):
                self._repeating.begin(REPEATS)
            elif not self._metrics.repeats:
                self._repeating.end()
        self._metrics.pulls_running = len(self._board.running)
        self._metrics.registry_cannot_send = int(self._trouble.cannot_send)

    def _take_event(self, line: bytes) -> None:
        self.warn(*self._trouble.arrived(self._now()))
        event = decode_json(line.decode())
        self._board.follow_event(event)
        action = text_of(event, "action")
        if self._options.verbose or action != "pull":
            self._show(event_line(event, self._now()), action)
        self._follow(event_fact(event))

    def _take_line(self, line: str) -> None:
        self.warn(*self._trouble.feed(line))
        with contextlib.suppress(ValueError):
            self._follow(line_fact(line))

    def _follow(self, fact: Optional[Fact]) -> None:
        if fact:
            if fact.written and fact.status in (200, 206):
                self._metrics.sent_bytes_total += fact.written
            self._tell(self._tracker.tick(self._now()) + self._tracker.feed(fact))

    def _tell(self, changes: List[Change]) -> None:
        now = self._tracker.now
        for change in changes:
            self._board.follow(change, now)
            self._metrics.count_change(change)
            if change.what in ("started", "resumed", "ended"):
                self._show(pull_line(change, now), change.verdict)
            if change.what == "ended":
                for line in cut_layers(change.pull, now) if self._options.verbose else ():
                    self._show(line, "interrupted")
                with contextlib.suppress(OSError):  # so that a restart does not say it again
                    os.utime(self._options.log, (now, now))
                for sentence in self._board.caveats.news():
                    self._show(f"{self._clock()} {sentence}")

    def _show(self, line: str, kind: str = "") -> None:
        if self._colour and kind in COLOURS:
            line = f"\033[{COLOURS[kind]}m{line}\033[0m"
        if not self._options.quiet:
            self._out.write(line)

    def _make_snapshot(self, wake: Callable[[], None]) -> None:
        self._asked, made = False, time.monotonic()
        metrics = self._metrics
        body = self._board.data(self._now(), {
            "since": rfc3339(metrics.started), "events": sum(metrics.events_total.values()),
            "duplicates": metrics.duplicate_events_total,
            "last_event": rfc3339(metrics.last_event_timestamp_seconds),
            "last_line": rfc3339(metrics.last_registry_log_line_timestamp_seconds),
            "token": self._options.token_file is not None}, self._notices())
        etag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
        self._snapshot = made, Answer(200, body, "application/json", {
            "ETag": etag, "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"})
        wake()

    def _notices(self) -> List[str]:
        """What is wrong now: a sentence each, for the page."""
        metrics, now = self._metrics, self._now()
        notices = [f"{metrics.write_error}. Registries are told to send again until it can be "
                   "written."] if metrics.write_error else []
        notices += [f"{plain(metrics.input_ended)}."] if metrics.input_ended else []
        notices += self._trouble.standing(now)
        notices += [REPEATS] if metrics.events_repeat(now) else []
        if metrics.last_event_timestamp_seconds and (
                not metrics.last_registry_log_line_timestamp_seconds):
            notices.append("No line of the registry's log arrives, so pulls end as unknown: let "
                           "its logging driver send it to the listener's --syslog-port, or pipe it "
                           "into the listener with --registry-log -.")
        return notices + self._board.caveats.standing() + self._refusals.notices(now)


# ----------------------------------------------------------------------------------- read the files

DEFAULT_LOG = os.path.join("listener_log", "log.log")
REPLAYED_BYTES = 16 << 20  # of each file, to find the pulls that were under way at a restart
MAX_READ_LINE = 16 << 20  # bytes
TOO_LONG = b"\0"  # stands for a line with more of them
Parse = Callable[[bytes], Optional[Fact]]
_WITHOUT_TIME = re.compile(rb"(?:INFO|WARN|ERRO|DEBU)(?:\x1b\[0m)?\[\d{4}\]")


def registry_log_beside(log: str) -> str:
    return os.path.join(os.path.dirname(log), "registry.log")


def read_lines(path: str) -> Iterator[bytes]:
    """The lines of a file, of one that is gzipped if its name ends in .gz, or of stdin for -."""
    try:
        with (open(0, "rb", closefd=False) if path == "-" else
              (gzip.open if path.endswith(".gz") else open)(path, "rb")) as file:
            for line in iter(functools.partial(file.readline, MAX_READ_LINE), b""):
                if len(line) == MAX_READ_LINE and not line.endswith(b"\n"):
                    while line and not line.endswith(b"\n"):
                        line = file.readline(MAX_READ_LINE)
                    line = TOO_LONG
                yield line
    except (EOFError, OSError, zlib.error) as error:
        remedy = "" if isinstance(error, OSError) else (
            "; if it is being compressed, try again, else name the other logs")
        raise Problem(f"cannot read {path}: {reason(error)}{remedy}") from None


def logged_event(line: bytes) -> Optional[Fact]:
    """What a line of log.log says of a pull; ValueError if it is no event."""
    # Most of a log may be pushes: what is none of a pull's is not taken apart at all.
    if line.endswith(b"}\n") and b"/blobs/sha256:" in line and (
            b'"action":"push"' in line or b'"method":"HEAD"' in line):
        return None
    try:
        return event_fact(decode_json(line.decode()))
    except (AttributeError, RecursionError) as error:
        raise ValueError(f"not an event: {error!r}") from None


def logged_line(line: bytes) -> Optional[Fact]:
    """What a line of registry.log says of a pull; ValueError as line_fact."""
    if line is TOO_LONG:
        raise ValueError(f"a line of over {MAX_READ_LINE} bytes")
    if not (b"GET" in line and b"/blobs/" in line) and b"listening on" not in line:
        return None
    return line_fact(line.decode("utf-8", "replace").rstrip())


def parse_all(lines: Iterable[bytes], parse: Parse, counts: collections.Counter) -> Iterator[Fact]:
    """What LINES say of pulls; COUNTS["unreadable"] goes up by each line that cannot be read."""
    for line in lines:
        try:
            if fact := parse(line):
                yield fact
        except ValueError:
            counts["unreadable"] += not line.isspace()


def checked_lines(path: str, notes: List[str]) -> Iterator[bytes]:
    """All lines of a registry's log; NOTES gets a sentence if none can tell of a request."""
    number, found, without_time = 0, False, False
    name = "standard input" if path == "-" else path
    for number, line in enumerate(read_lines(path), 1):
        if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
            notes.append(f"{name} is UTF-16, as PowerShell's > writes it: convert it with "
                         f"iconv -f UTF-16 -t UTF-8 {path}")
            return
        if not found:
            without_time = without_time or _WITHOUT_TIME.search(line[:200]) is not None
            # At level warn and error it tells of requests that were refused, and of those alone.
            found = not without_time and (
                b"http.request." in line and (
                    b"info" in line or b"/blobs/" in line and b"GET" in line)
                or b"listening on" in line and b"instance.id" in line)
        yield line
    if without_time:
        notes.append(f"{name} was written for a terminal, without the time of day: run the "
                     "registry without one (no docker run -t, no tty: true), or with "
                     "log: formatter: json")
    elif number and not found:
        text = shown(line[:MAX_LINE].decode("utf-8", "replace").strip(" \t\r\n\0"))
        lines = f"none of its {number} lines tells" if number > 1 else "its line does not tell"
        notes.append(f"{name}: {lines} of a request: is it the registry's log, with "
                     "log: {level: info} in its config.yml?" + (
                         f" It says: {text}" if number == 1 and text else ""))


def read_all(paths: List[str], parse: Parse, counts: collections.Counter,
             notes: List[str]) -> Iterator[Fact]:
    """The facts in files; of several, as of replicas, in the order of their times.

    COUNTS["unreadable"] and NOTES learn of what was not read; raises Problem.
    """
    read = [parse_all(checked_lines(path, notes) if parse is logged_line else read_lines(path),
                      parse, counts) for path in paths]
    return read[0] if len(read) == 1 else map(operator.itemgetter(1), merged(read))


def _send_facts(paths: List[str], parse: Parse, sending: Any) -> None:
    """Send lists of facts; at last how many lines could not be read, notes, and what went wrong."""
    counts: collections.Counter = collections.Counter()
    notes: List[str] = []
    found = map(tuple, read_all(paths, parse, counts, notes))
    problem = ""
    with contextlib.suppress(BrokenPipeError):
        try:
            for first in found:
                sending.send_bytes(marshal.dumps([first, *itertools.islice(found, 499)]))
        except Problem as error:
            problem = str(error)
        sending.send_bytes(marshal.dumps((counts["unreadable"], notes, problem)))


def read_apart(paths: List[str], parse: Parse, counts: collections.Counter,
               notes: List[str]) -> Iterator[Fact]:
    """As read_all, in a process of its own: big logs keep more than one core busy."""
    receiving, sending = multiprocessing.Pipe(duplex=False)
    with contextlib.suppress(AttributeError, OSError):  # only Linux has it, and Python 3.10
        fcntl.fcntl(sending, fcntl.F_SETPIPE_SZ, 1 << 20)  # so that neither has to wait often
    reader = multiprocessing.get_context("fork").Process(
        target=_send_facts, args=(paths, parse, sending), daemon=True)
    # A reader must not hold this end open itself, or it would not notice that its parent is gone.
    multiprocessing.util.register_after_fork(receiving, type(receiving).close)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for this one
    try:
        reader.start()
    except OSError:  # no room for another process
        reader = None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    if not reader:
        yield from read_all(paths, parse, counts, notes)
        return
    sending.close()
    message: Any = []
    while isinstance(message, list):
        yield from map(Fact._make, message)
        try:
            message = marshal.loads(receiving.recv_bytes())
        except EOFError:
            raise Problem(f"the process that reads {', '.join(paths)} was ended") from None
    reader.join()
    unreadable, more, problem = message
    counts["unreadable"] += unreadable
    notes += more
    if problem:
        raise Problem(problem)


def recall(log: str, log_end: End, registry_log_end: End, tracker: Tracker, trouble: Trouble,
           board: Board) -> None:
    """Let TRACKER, TROUBLE and BOARD know of what stood in the files at the start.

    Pulls that ended before the log was last touched were said then: the Console touches it when it
    has said an end.
    """
    pushes: collections.deque = collections.deque(maxlen=MAX_PUSHES)

    def event_heard(line: bytes) -> Optional[Fact]:
        if b'"action":"push"' in line and b"/manifests/" in line:
            pushes.append(line)
        return logged_event(line)

    def line_heard(line: bytes) -> Optional[Fact]:
        trouble.feed(line.decode("utf-8", "replace").rstrip("\n"))
        return logged_line(line)

    trouble.arrived(log_end.written)
    events = last_lines(log, REPLAYED_BYTES, log_end)
    lines = last_lines(registry_log_beside(log), REPLAYED_BYTES, registry_log_end)
    unread: collections.Counter = collections.Counter()
    for changes in replay(tracker, parse_all(events, event_heard, unread),
                          parse_all(lines, line_heard, unread)):
        for change in changes:
            board.follow(change, tracker.now)
    last = max(tracker.now, log_end.touched)
    for change in tracker.review(last):
        board.follow(change, last)
    for line in pushes:
        with contextlib.suppress(ValueError, RecursionError):
            board.follow_event(decode_json(line.decode()))


def line_time(line: str) -> Optional[float]:
    """When the registry wrote LINE of its log, in seconds since 1970; None if it does not say."""
    try:
        return seconds(str(log_fields(line)[0].get("time", "")))
    except ValueError:
        return None


class KnownLines:
    """Tells new lines of a registry's log from those kept: `docker logs` begins with old lines.

    Known are the last MAX_LINES lines of those kept in the file PATH, by their hashes; and what is
    older than the first of these, if they are not all.
    """

    MAX_LINES = 100_000

    def __init__(self, path: str) -> None:
        self._hashes = Remembered(self.MAX_LINES)
        self._since = -math.inf  # seconds since 1970
        self._at = math.inf  # the time of the line before
        files = list(filter(os.path.exists, log_files(path)))
        lines = [line.decode("utf-8", "replace").rstrip("\n")
                 for line in last_lines(path, REPLAYED_BYTES)]
        known = lines[-self.MAX_LINES:]
        if (len(lines) > len(known) or len(files) > 1
                or sum(map(os.path.getsize, files)) > REPLAYED_BYTES):
            self._since = next(filter(None, map(line_time, known)), -math.inf)
        for line in known:
            self._hashes.add(hash(line))

    def is_new(self, line: str) -> bool:
        """Whether LINE was not known; from now on it is."""
        name = hash(line)
        if name in self._hashes:
            return False
        if math.isfinite(self._since):
            self._at = line_time(line) or self._at  # one without a time is of that before it
            if self._at < self._since:
                return False
        self._hashes.add(name)
        return True


# ------------------------------------------------------------------------------------- command line

IS_FOLDER = {errno.EISDIR: ": docker makes a folder where the file to mount is missing on its host"}
MAX_DEBUG = 4 << 20  # bytes of a debug server's answer
DEBUG_SECONDS = 5  # for the whole of it


def open_log(kind: Callable, path: str, warn: Callable[[str], None],
             rotation: Optional[Rotation]) -> Any:
    """A log of that KIND; raises Problem."""
    remedy = f"; who runs the listener (user {os.getuid()}) must own it and its folder"
    with cannot(f"write {path}", {errno.EACCES: remedy, errno.EPERM: remedy}):
        try:
            return kind(path, warn, rotation)
        except BlockingIOError:
            raise Problem(f"{path} is written by another listener: stop that one, or choose "
                          "another --log") from None


def read_token(path: Optional[str]) -> Optional[bytes]:
    """The token in the file PATH; raises Problem."""
    if path is None:
        return None
    with cannot(f"read the token in {path}", IS_FOLDER), open(path, "rb") as file:
        token = file.read().strip()
    if not token:
        raise Problem(f"no token in {path}: write one into it")
    if len(token.split()) > 1 or token.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE)):
        raise Problem(f"{path} has more than a token in it: write it alone, without Bearer, a "
                      "second line or a byte order mark")
    return token


def read_tls(options: argparse.Namespace) -> Optional[ssl.SSLContext]:
    """The certificate with its key, if there are any; raises Problem."""
    def refuse_passphrase() -> str:  # else OpenSSL asks for it at the terminal, and waits
        raise ValueError("the key is encrypted; write it without a passphrase: "
                         f"openssl pkey -in {options.tls_key} -out NEW")

    if options.tls_cert is None:
        return None
    for path in (options.tls_cert, options.tls_key):
        with cannot(f"read {path}", IS_FOLDER):
            open(path, "rb").close()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with cannot(f"use certificate {options.tls_cert} with key {options.tls_key}"):
        try:
            context.load_cert_chain(options.tls_cert, options.tls_key, refuse_passphrase)
        except ssl.SSLError as error:
            if "PEM" in str(error):
                raise ValueError("one of them is no PEM file, or they are swapped") from None
            raise
    return context


def _listening_remedies(option: str) -> Dict[Optional[int], str]:
    return {errno.EADDRINUSE: f"; stop what listens there, or choose another --host or {option}",
            errno.EADDRNOTAVAIL: "; --host must be an address of this machine",
            errno.EACCES: f"; choose a {option} of 1024 or more"}


class LineIntake:
    """Keeps the registry's log, from --syslog-port and --registry-log, in registry.log."""

    def __init__(self, options: argparse.Namespace, console: Console, metrics: Metrics) -> None:
        """Open the file and the socket; raises Problem."""
        self._console, self._metrics = console, metrics
        self.path = registry_log_beside(options.log)
        self.log = open_log(RegistryLog, self.path, console.warn, options.rotate)
        self._known = KnownLines(self.path) if options.registry_log else None
        self._lock = threading.Lock()  # lines may come from two threads
        self._sources: Dict[str, Any] = {}
        if options.syslog_port is not None:
            family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
            place = options.host, options.syslog_port
            with cannot(f"listen on udp {host_with_port(*place)}",
                        _listening_remedies("--syslog-port")):
                datagrams = socket.socket(family, socket.SOCK_DGRAM)
                datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
                datagrams.bind(place)
            syslog = Syslog(datagrams, self._keep, console.warn)
            metrics.inboxes.append(syslog.inbox)
            self._sources[f"udp port {datagrams.getsockname()[1]}"] = syslog
        if options.registry_log:
            self._sources["standard input"] = StandardInput(self._keep, self._end_input)

    def start(self) -> str:
        """Begin; returns what to say of that."""
        for source in self._sources.values():
            source.start()
        return f", the registry's log on {' and '.join(self._sources)} to {self.path}"

    def _end_input(self, why: str) -> None:
        self._metrics.input_ended = why
        self._console.warn(why)

    def _keep(self, lines: List[str]) -> None:
        lines = [mask_secrets(line) for line in lines]
        with self._lock:
            if self._known:
                lines = [line for line in lines if self._known.is_new(line)]
            if not lines:
                return
            self.log.append(lines)
        self._metrics.last_registry_log_line_timestamp_seconds = time.time()
        self._metrics.input_ended = ""  # the other source goes on
        self._console.follow_lines(lines)


class Service:
    """`serve`: what comes is kept, counted, and handed to the console."""

    def __init__(self, options: argparse.Namespace, console: Console, metrics: Metrics) -> None:
        """Open files and sockets; raises Problem."""
        self._options, self._console, self._metrics = options, console, metrics
        token, tls = read_token(options.token_file), read_tls(options)
        log_end, registry_log_end = end_of(options.log), end_of(registry_log_beside(options.log))
        metrics.last_event_timestamp_seconds = log_end.written
        metrics.last_registry_log_line_timestamp_seconds = registry_log_end.written
        self._remember = functools.partial(recall, options.log, log_end, registry_log_end)
        self._log = open_log(EventLog, options.log, console.warn, options.rotate)
        self._intake = LineIntake(options, console, metrics) if (
            options.syslog_port is not None or options.registry_log) else None
        with cannot(f"listen on {host_with_port(options.host, options.port)}",
                    _listening_remedies("--port")):
            self._server = Server(options.host, options.port, self._log.add, self._commit,
                                  self._answer, console.refused, token, tls)

    def run(self, wakeup: int) -> None:
        """Serve until WAKEUP, a pipe with the numbers of signals, gives another than SIGHUP."""
        self._console.start(self._remember)
        options, scheme = self._options, "https" if self._options.tls_cert else "http"
        place = host_with_port(options.host, self._server.port)
        intake = self._intake.start() if self._intake else ""
        self._console.say(f"listening on {scheme}://{place}, writing to {options.log}{intake}")
        self._server.start()
        while True:
            if select.select([wakeup], [], [], 1)[0]:
                if set(os.read(wakeup, 100)) != {signal.SIGHUP}:
                    break
                self._reload()
            if self._intake:
                self._intake.log.sync()
        self._server.stop()

    def _commit(self) -> Callable[[], None]:
        """Keep the envelopes that were added; what is to do when they were answered."""
        log, metrics, began = self._log, self._metrics, time.monotonic()
        try:
            fresh = log.commit()
            metrics.commit_duration_seconds.add(time.monotonic() - began)
        finally:
            metrics.write_error, metrics.write_failing = log.error, int(log.error is not None)
            metrics.duplicate_events_total, metrics.repeats = log.duplicates, log.repeats
            metrics.last_commit = time.time()
        return functools.partial(self._follow, fresh)

    def _follow(self, fresh: List[Tuple[dict, bytes]]) -> None:
        self._metrics.count_events([event for event, _ in fresh], time.time())
        self._console.follow_events([line for _, line in fresh])

    def _answer(self, request: Handler) -> Optional[Answer]:
        """The Answer to a GET or HEAD; None: it is being made."""
        if request.path == "/":
            return page()
        if request.path == "/healthz":
            return self._health()
        if request.path == "/pulls":
            return self._console.answer(
                request.arrived, request.headers.get("If-None-Match", ""), self._server.wake)
        if request.path == "/metrics":
            return self._metrics.answer(self._server.answered)
        return Answer(404, b"nothing is here: POST notifications, or GET /, /pulls, /metrics or "
                      b"/healthz\n")

    def _health(self) -> Answer:
        log = self._log
        status, found = 200, {"status": "ok", "events": log.written, "duplicates": log.duplicates}
        if log.error:
            status, found = 503, {"status": "failing", "error": str(log.error)}
        return Answer(status, json.dumps(found).encode() + b"\n", "application/json")

    def _reload(self) -> None:
        """Read the token and the certificate again."""
        options = self._options
        try:
            self._server.token, self._server.tls = read_token(options.token_file), read_tls(options)
        except Problem as problem:
            return self._console.warn(f"{problem}; what was read before stays in use")
        files = ", ".join(filter(None, (options.token_file, options.tls_cert, options.tls_key)))
        self._console.say(f"read again: {files or 'nothing: no --token-file, no --tls-cert'}")


def serve(options: argparse.Namespace) -> None:
    """Listen until SIGTERM or SIGINT; raises Problem if that cannot begin."""
    wakeup, signalled = os.pipe()
    os.set_blocking(signalled, False)
    signal.set_wakeup_fd(signalled)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # the pipe tells; and PID 1 has no default action
    sys.setswitchinterval(0.0005)  # seconds: the console's thread soon gives way to the server's
    metrics = Metrics(time.time())
    console = Console(options, metrics)
    try:
        Service(options, console, metrics).run(wakeup)
    finally:
        stopped = console.stop(.5)  # what it was told is said before a Problem is
    if not stopped:
        os._exit(0)  # it hangs in a terminal that was stopped, and Python would wait for it


def files_of(options: argparse.Namespace) -> Tuple[List[str], List[str]]:
    """The paths of the logs of events, and of registries' logs, that a command reads."""
    logs, registry_logs = options.logs or log_files(DEFAULT_LOG), options.registry_log or []
    if not options.logs and not registry_logs:
        registry_logs = list(filter(os.path.exists, log_files(registry_log_beside(DEFAULT_LOG))))
    return logs, registry_logs


def list_pulls(options: argparse.Namespace) -> None:
    """Print the pulls in the logs, in the order of their start; raises Problem."""
    logs, registry_logs = files_of(options)
    gc.set_threshold(50_000)  # hardly anything here is in a cycle that has to be searched for
    counts: collections.Counter = collections.Counter()
    caveats, notes = Caveats(), []
    events = read_apart(logs, logged_event, counts, notes)
    lines = read_apart(registry_logs, logged_line, counts, notes)
    if not options.json:
        print(TABLE_ROW.format("STARTED", "IMAGE", "SIZE", "SENT", "VERDICT", "WHO"))
    for found in pull_objects(events, lines, caveats=caveats):
        print(json.dumps(found) if options.json else pull_row(found))
    notes += [] if options.json else caveats.standing()
    if counts["unreadable"]:
        notes.append(f"{counted(counts['unreadable'], 'line')} could not be read")
    for sentence in notes:
        print(f"listener: {sentence}", file=sys.stderr)


def fetch_debug(url: str) -> Any:
    """The JSON of /debug/vars at a registry's debug server; raises Problem."""
    where = url.rstrip("/").removesuffix("/debug/vars") + "/debug/vars"
    result: list = []
    opener = urllib.request.OpenerDirector()  # of no other scheme, and without proxies
    for handler in (urllib.request.HTTPHandler, urllib.request.HTTPSHandler,
                    urllib.request.HTTPRedirectHandler, urllib.request.HTTPErrorProcessor,
                    urllib.request.HTTPDefaultErrorHandler, urllib.request.UnknownHandler):
        opener.add_handler(handler())

    def fetch() -> None:
        try:
            with opener.open(where, timeout=DEBUG_SECONDS) as answer:
                result.append(decode_json(answer.read(MAX_DEBUG).decode()))
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=fetch, daemon=True)
    start_thread(thread)
    thread.join(DEBUG_SECONDS)  # the timeout of a socket is for each read, and not for names
    found = result[0] if result else TimeoutError(f"no answer within {DEBUG_SECONDS} seconds")
    if isinstance(found, Exception):
        raise Problem(f"cannot read {mask_secrets(where)}: {reason(found)}; --registry takes the "
                      "address of the registry's debug server, such as http://registry:5001, which "
                      "`http: debug: addr: :5001` in its config.yml starts")
    return found


def read_trouble(paths: List[str], lines: LineCount, notes: List[str]) -> Trouble:
    """What registries' logs tell of faults, by time; LINES and NOTES learn what else they tell."""
    def texts(path: str) -> Iterator[str]:
        for line in checked_lines(path, notes):
            if text := mask_secrets(line.decode("utf-8", "replace").rstrip("\r\n")):
                lines.feed(text)
                yield text

    def timed(path: str) -> Iterator[Tuple[float, bool, str]]:
        # A line without a time comes behind all of the time before it, whatever log has those; at
        # the beginning of a log with what is next, or when the log was written last.
        at, before = 0.0, collections.deque(maxlen=MAX_FAULTS)
        for text in telling_lines(texts(path)):
            found = line_time(text)
            at = max(at, found or at)
            before.append((found is None, text))
            if at:
                yield from ((at, *one) for one in before)
                before.clear()
        if before:
            at = time.time() if path == "-" else os.path.getmtime(path)
            yield from ((at, *one) for one in before)

    trouble, last = Trouble(), ""
    for lines.latest, _, text in heapq.merge(*map(timed, paths), key=operator.itemgetter(0, 1)):
        if text != last:  # `docker logs` and registry.log have the same
            trouble.feed(text)
        last = text
    return trouble


def check(options: argparse.Namespace) -> int:
    """Print why nothing arrives, or that all is well; the exit status: 1 if something is wrong."""
    logs, registry_logs = files_of(options)
    missing = not options.logs and not os.path.exists(logs[-1])
    events, lines, now = EventCount(), LineCount(), time.time()
    for line in itertools.chain.from_iterable(map(read_lines, () if missing else logs)):
        events.feed(line)
    notes: List[str] = []
    trouble = read_trouble(registry_logs, lines, notes)
    trouble.delivered(events.last)
    findings, problem = trouble.standing(now), None
    if options.registry is not None:
        try:
            findings += debug_findings(fetch_debug(options.registry))
        except Problem as error:
            problem = error
    if missing:
        findings.append(f"there is no {DEFAULT_LOG}: run this in the folder where the listener "
                        "runs, or name its log.")
    if events.events or not trouble.keeps_all_away:
        findings += [] if lines.requests else [f"pulls end as unknown: {note}" for note in notes]
        findings += arrival_findings(events, lines, trouble.urls, now)
    said = list(dict.fromkeys(findings))
    if not missing:
        mended = [] if findings else trouble.mended
        said.append(events.text(now) + (f"; mended since: {', '.join(mended)}." if mended else "."))
    print("\n\n".join(plain(text[:1].upper() + text[1:]) for text in said))
    if problem:
        raise problem
    return 1 if findings else 0


def port_number(text: str) -> int:
    if not text.isdecimal() or len(text) > 5 or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port: a number up to 65535")
    return int(text)


def parse_rotation(text: str) -> Rotation:
    """What --rotate says: 1G:9, or 500M, with as many files as usual."""
    found = re.fullmatch(r"([1-9]\d{0,15})([KMG]?)(?::([1-9]\d{0,5}))?", text.upper())
    if not found:
        raise argparse.ArgumentTypeError(f"{text} is not SIZE[:FILES], such as 500M or 1G:9")
    size, unit, files = found.groups()
    return Rotation(int(size) << {"": 0, "K": 10, "M": 20, "G": 30}[unit], int(files or 9))


def standard_input(text: str) -> str:
    if text != "-":
        raise argparse.ArgumentTypeError(
            "serve reads it from standard input only: tail -F FILE | listener.py --registry-log -")
    return text


def parse_arguments(arguments: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="listener.py", description="Take a Docker registry's notifications, lose none, and "
        "say what is being pulled. Without a command it serves.")
    # `pulls --registry URL` is no `--registry-log`.
    commands = parser.add_subparsers(
        dest="command", metavar="{serve,pulls,check}",
        parser_class=functools.partial(argparse.ArgumentParser, allow_abbrev=False))
    serving = commands.add_parser("serve", help="listen for notifications (the default)")
    serving.add_argument("--host", default="0.0.0.0", help="address to listen on (%(default)s)")
    serving.add_argument("--port", type=port_number, default=8086, help="TCP port (%(default)s)")
    serving.add_argument("--log", default=DEFAULT_LOG, help="file for the events (%(default)s)")
    serving.add_argument("--syslog-port", type=port_number, metavar="PORT",
                         help="UDP port for the registry's log; kept in registry.log beside --log")
    serving.add_argument("--registry-log", type=standard_input, metavar="-",
                         help="take the registry's log from standard input; kept like syslog's")
    serving.add_argument("--token-file", metavar="FILE",
                         help="take only requests with the token in FILE in Authorization")
    serving.add_argument("--tls-cert", metavar="FILE", help="serve https with this certificate")
    serving.add_argument("--tls-key", metavar="FILE", help="and this key")
    serving.add_argument("--rotate", type=parse_rotation, metavar="SIZE[:FILES]",
                         help="begin log.log and registry.log anew before they are larger than "
                         "SIZE (1G, 500M, 10K), and keep FILES (9) of each as log.log.1 and so on")
    serving.add_argument("--quiet", action="store_true", help="no lines for pushes and pulls")
    serving.add_argument("--verbose", action="store_true",
                         help="a line per event of a pull too, and the layers that were cut")
    reading = commands.add_parser("pulls", help="list the pulls in the logs, and how they ended")
    checking = commands.add_parser("check", help="say why nothing arrives, and what to do")
    for command in (reading, checking):
        command.add_argument("logs", nargs="*", metavar="LOG",
                             help=f"logs of events, .gz too, oldest first ({DEFAULT_LOG})")
        command.add_argument("--registry-log", action="append", metavar="FILE",
                             help="the registry's log, - for stdin; may be given again for "
                             "rotated ones (registry.log beside the default LOG)")
    reading.add_argument("--json", action="store_true", help="one JSON object per line")
    checking.add_argument("--registry", metavar="URL",
                          help="the registry's debug server, as in http://registry:5001")
    if not arguments or arguments[0] not in ("serve", "pulls", "check", "-h", "--help"):
        arguments = ["serve", *arguments]
    options = parser.parse_args(arguments)
    if options.command != "serve" and [*options.logs, *(options.registry_log or [])].count("-") > 1:
        parser.error("standard input (-) can be read once only")
    if options.command == "serve" and os.path.basename(options.log) == "registry.log" and (
            options.syslog_port is not None or options.registry_log):
        serving.error("--log: registry.log is where the registry's own log goes")
    if options.command == "serve" and (options.tls_cert is None) != (options.tls_key is None):
        serving.error("--tls-cert and --tls-key go together")
    return options


def main(arguments: Optional[List[str]] = None) -> int:
    """Do what ARGUMENTS say; the exit status: 0 done, 1 cannot, 2 wrong usage, 130 Ctrl-C."""
    # A stream that the shell has closed is None, and the next file that is opened takes its number.
    if sys.stdin is None:
        os.open(os.devnull, os.O_RDONLY)
    sys.stdout = sys.stdout or open(os.devnull, "w")
    sys.stderr = sys.stderr or open(os.devnull, "w")
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    try:
        status = {"serve": serve, "pulls": list_pulls, "check": check}[options.command](options)
        sys.stdout.flush()
        return status or 0
    except Problem as problem:
        print("listener:", plain(str(problem)), file=sys.stderr)
        return 1
    except OSError as error:
        with contextlib.suppress(OSError):  # no more files can be opened
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 0  # `| head` has seen enough
        print("listener: cannot write what was asked for:", reason(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
