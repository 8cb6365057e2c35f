"""What the listener's files look like, whatever was in them and whenever it was killed."""

import contextlib
import gzip
import json
import os

import pytest
from support import listener as module
from support.disk import Faulty
from support.process import Listener, read_log, run, until
from support.recordings import recorded
from support.traffic import event

RENAMES = ["log.log.3", "log.log.2", "log.log.1"]  # in the order in which they happen


def written(tmp_path, data, name="log.log"):
    """A file with DATA where the listener keeps its own."""
    path = tmp_path / "listener_log" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


# ---------------------------------------------------------------------------- what was there before


@pytest.mark.parametrize("whole", [b"", b'{"id":"a"}\n', b'{"id":"a"}\n{"id":"b"}\n'],
                         ids=["nothing", "a line", "two lines"])
@pytest.mark.parametrize("torn", [b'{"id":"t","half', b"x", b"x" * 200_000, b"\0" * 100],
                         ids=["half", "a byte", "200 kB", "NULs"])
def test_a_torn_last_line_is_moved_aside_at_the_start(tmp_path, whole, torn):
    log = written(tmp_path, whole + torn)
    aside = log.with_name("log.log.torn")
    with Listener(tmp_path) as listener:
        assert log.read_bytes() == whole
        assert aside.read_bytes() == torn + b"\n"
        said = until(lambda: listener.err)
        assert len(said.splitlines()) == 1
        assert f"its last {len(torn)} byte" in said and str(aside.relative_to(tmp_path)) in said
        assert listener.post({"id": "t"}) == (200, "")
        assert log.read_bytes() == whole + b'{"id":"t"}\n'
        listener.kill()
        with open(log, "ab") as file:
            file.write(b"more")
        listener.start()
        assert aside.read_bytes() == torn + b"\nmore\n"  # what was there before stays there


def test_a_last_line_that_is_whole_gets_its_newline(tmp_path):
    log = written(tmp_path, b'{"id":"a"}\n{"id":"b"}')
    with Listener(tmp_path) as listener:
        assert listener.post([{"id": "b"}, {"id": "c"}]) == (200, "")
        assert log.read_bytes() == b'{"id":"a"}\n{"id":"b"}\n{"id":"c"}\n'
        assert listener.err == ""
    assert not log.with_name("log.log.torn").exists()


@pytest.mark.parametrize("data", [
    b"shopping\nmilk\n", b"shopping\nmilk", b'{"id":"a"}\nmilk\n', b"[1]\n", b"7\n", b"\n",
    b"\xff\xfe\n", b'{"id":"a"}\nmilk\n{"id":"tor'],
    ids=["text", "no newline", "text at the end", "array", "number", "empty line", "binary",
         "torn after text"])
def test_a_file_that_is_not_a_listeners_is_left_as_it_is(tmp_path, data):
    (tmp_path / "notes").write_bytes(data)
    status, out, err = run(tmp_path, "--port", "0", "--log", "notes")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "cannot write notes" in err and "choose another --log" in err
    assert (tmp_path / "notes").read_bytes() == data
    assert sorted(os.listdir(tmp_path)) == ["notes"]


def test_a_foreign_file_in_the_logs_place_is_left_as_it_is(tmp_path):
    """The events are not accepted until it is gone."""
    with Listener(tmp_path) as listener:
        listener.post(event())
        listener.log.rename(listener.log.with_name("aside"))
        listener.log.write_bytes(b"milk\n")
        status, text = listener.post(event())
        assert status == 503 and "choose another" in text
        assert listener.log.read_bytes() == b"milk\n"
        listener.log.unlink()
        new = event()
        assert listener.post(new) == (200, "")
        assert listener.events() == [new]


def test_a_torn_line_of_the_registrys_log_is_moved_aside(tmp_path):
    path = written(tmp_path, b"whole\ntor", "registry.log")
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        listener.syslog(b"next")
        until(lambda: path.read_bytes() == b"whole\nnext\n", path.read_bytes)
    assert path.with_name("registry.log.torn").read_bytes() == b"tor\n"


def test_a_file_that_is_emptied_after_a_write_failed_gets_no_nuls(tmp_path):
    with Faulty(tmp_path) as listener:
        listener.post([event() for _ in range(3)])
        listener.fault("torn for long")
        assert listener.post(event())[0] == 503
        os.truncate(listener.log, 0)
        listener.fault("")
        new = event()
        assert listener.post(new) == (200, "")
        assert listener.events() == [new]


# ---------------------------------------------------------------------------------------- escapes

STRANGE = "".join(map(chr, [*range(32), *range(0x7f, 0xa0), 0x61c, 0x200e, 0x200f,
                            *range(0x202a, 0x202f), *range(0x2066, 0x206a)]))


def test_no_control_character_gets_into_the_log(tmp_path):
    """They are escapes in it, of the same event: `cat` shows it and drives no terminal."""
    with Listener(tmp_path) as listener:
        news = [event(**{character: f"a{character}\\{character}é\u2028"}) for character in STRANGE]
        assert listener.post(news) == (200, "")
        assert listener.events() == news
        text = listener.log.read_text("utf-8")
        assert not set(text) & (set(STRANGE) - {"\n"})
        assert "é\u2028" in text and "\\u0085" in text


# --------------------------------------------------------------------------------------- rotation


def kept_events(listener):
    """The events in all files of the log, oldest first, and how many files there are."""
    files = module.log_files(str(listener.log))
    return [new for path in files for new in read_log(path)], len(files)


def test_rotate_begins_a_new_file_at_that_size_and_keeps_so_many(tmp_path):
    news = [event() for _ in range(40)]
    size = len(module.encode_event(news[0]))
    with Listener(tmp_path, "--rotate", f"{size * 4}:3", "--syslog-port", "0") as listener:
        for new in news:
            assert listener.post(new) == (200, "")
        kept, files = kept_events(listener)
        assert files == 4 and kept == news[-16:]
        assert all(path.stat().st_size <= size * 4 for path in listener.log.parent.glob("log.log*"))
        lines = [f"{number:0{size}}" for number in range(10)]
        for line in lines:
            listener.syslog(line.encode())
            until(lambda: listener.registry_log.read_text().endswith(line + "\n"))
        assert "".join(open(path).read() for path in module.log_files(
            str(listener.registry_log))).split() == lines
        assert listener.registry_log.with_name("registry.log.3").exists()


def test_ids_are_remembered_over_rotation_and_restart(tmp_path):
    news = [event() for _ in range(30)]
    with Listener(tmp_path, "--rotate", "4K:99") as listener:
        for new in news:
            listener.post(new)
        for end in (listener.stop, listener.kill):
            assert listener.post(news) == (200, "")
            end()
            listener.start()
            assert listener.post(news) == (200, "")
        assert kept_events(listener)[0] == news


@pytest.mark.parametrize("moment", [f"killed {when} {name}" for name in RENAMES
                                    for when in ("at", "after")])
def test_kill_9_in_the_middle_of_a_rotation_loses_nothing(tmp_path, moment):
    news = [event() for _ in range(12)]
    with Faulty(tmp_path, "--rotate", "3K") as listener:
        for new in news[:-1]:
            if listener.log.with_name("log.log.2").exists():
                listener.fault(moment)
            with contextlib.suppress(OSError):
                listener.post(new)
            if listener.process.poll() is not None:
                break
        assert listener.process.wait(20) == -9
        listener.fault("")
        listener.start()
        for new in news:  # all of them: whether the last was acknowledged, its sender does not know
            assert listener.post(new) == (200, "")
        kept, files = kept_events(listener)
        assert sorted(new["id"] for new in kept) == sorted(new["id"] for new in news)
        assert kept == news and files > 3


def test_files_before_a_gap_are_not_renamed_nor_removed(tmp_path):
    """As a listener leaves it that was killed while it renamed them."""
    others = {2: {"id": "two"}, 3: {"id": "three"}}
    for number, old in others.items():
        written(tmp_path, module.encode_event(old), f"log.log.{number}")
    news = [event() for _ in range(2)]
    with Listener(tmp_path, "--rotate", "1K:3") as listener:
        for new in news:
            assert listener.post(new) == (200, "")
        assert kept_events(listener) == ([others[3], others[2], *news], 4)


def test_a_log_that_cannot_be_renamed_goes_on(tmp_path):
    with Faulty(tmp_path, "--rotate", "2K") as listener:
        listener.fault("no rename")
        news = [event() for _ in range(6)]
        for new in news:
            assert listener.post(new) == (200, "")
        assert listener.events() == news
        until(lambda: "cannot rename" in listener.err)
        listener.fault("")
        newer = event()
        assert listener.post(newer) == (200, "")
        assert listener.events() == [newer]
        until(lambda: "could be renamed" in listener.err)
        assert listener.err.count("cannot rename") == 1


def test_logrotate_may_come_in_between(tmp_path):
    with Listener(tmp_path, "--rotate", "3K:20") as listener:
        news = [event() for _ in range(12)]
        for number, new in enumerate(news):
            if number == 7:
                listener.log.rename(listener.log.with_name("log.log-20261125"))
            assert listener.post(new) == (200, "")
        kept = kept_events(listener)[0] + read_log(listener.log.with_name("log.log-20261125"))
        assert sorted(new["id"] for new in kept) == sorted(new["id"] for new in news)


@pytest.mark.parametrize("value", ["", "0", "1X", "-1K", "1K:0", "1K:x", "K"])
def test_a_rotation_that_means_nothing_is_wrong_usage(tmp_path, value):
    status, _, err = run(tmp_path, "--port", "0", "--rotate", value)
    assert status == 2 and "--rotate" in err


def test_pulls_reads_the_rotated_files_first(tmp_path):
    """As in one file, gzipped ones and those of the registry's log as well."""
    name = "docker_interrupted-registry2"
    lines = [json.dumps(new).encode() + b"\n" for new in recorded(name)]
    events = written(tmp_path, b"".join(lines))
    _, expected, _ = run(tmp_path, "pulls", "--json")
    assert expected
    third = len(lines) // 3
    events.with_name("log.log.2.gz").write_bytes(gzip.compress(b"".join(lines[:third])))
    events.with_name("log.log.1").write_bytes(b"".join(lines[third:2 * third]))
    events.write_bytes(b"".join(lines[2 * third:]))
    events.with_name("log.log.torn").write_bytes(b"not read\n")
    assert run(tmp_path, "pulls", "--json") == (0, expected, "")
    events.rename(events.with_name("log.log.0"))  # no log.log for a moment, as when it is renamed
    status, _, err = run(tmp_path, "pulls", "--json")
    assert (status, err) == (0, "")


def test_a_line_that_is_too_long_is_skipped_and_counted(tmp_path):
    """With all of it: its end would be an event."""
    lines, others = ([json.dumps(new).encode() + b"\n" for new in recorded(name)] for name in (
        "docker_complete-registry2", "docker_interrupted-registry2"))
    written(tmp_path, b"".join(lines))
    _, expected, _ = run(tmp_path, "pulls", "--json")
    written(tmp_path, gzip.compress(b"".join(lines[:1]) + b" " * (2 * module.MAX_READ_LINE)
                                    + b"".join(others[:1] + lines[1:]), 1), "a.gz")
    status, out, err = run(tmp_path, "pulls", "--json", "listener_log/a.gz")
    assert (status, out) == (0, expected)
    assert "1 line could not be read" in err
