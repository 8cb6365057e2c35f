"""What the listener's files look like, whatever was in them and whenever it was killed."""

import contextlib
import ctypes
import gzip
import json
import os
import shutil
import subprocess

import pytest

from support import listener as module
from support.disk import Faulty
from support.process import Listener, read_log, run, until, written
from support.recordings import recorded
from support.traffic import event

RENAMES = ["log.log.3", "log.log.2", "log.log.1"]  # in the order in which they happen


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


def test_what_another_program_has_left_of_a_line_is_moved_aside(tmp_path):
    """While it runs: else the next event would stand behind that, and none could be read."""
    log = tmp_path / "listener_log" / "log.log"
    with Listener(tmp_path) as listener:
        assert listener.post([{"id": "a"}, {"id": "b"}]) == (200, "")
        os.truncate(log, len('{"id":"a"}\n{"id'))
        assert listener.post({"id": "c"}) == (200, "")
        assert log.read_bytes() == b'{"id":"a"}\n{"id":"c"}\n'
        assert log.with_name("log.log.torn").read_bytes() == b'{"id\n'
        until(lambda: "its last 4 bytes, what another program has left of a line" in listener.err)
        os.truncate(log, 0)
        assert listener.post({"id": "d"}) == (200, "")
        assert log.read_bytes() == b'{"id":"d"}\n'


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


def test_a_log_too_large_to_search_is_refused_at_once(tmp_path):
    """Its last line would have to be read from the beginning: a TiB of it."""
    with open(tmp_path / "notes", "wb") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    status, _, err = run(tmp_path, "--port", "0", "--log", "notes")
    assert status == 1 and "cannot write notes" in err and "choose another --log" in err
    assert (tmp_path / "notes").stat().st_size == 1 << 40


@pytest.mark.parametrize("old", [b"whole\ntor", b"x" * 200_000, b"\0" * 100, b'{"id":"a"', b"\xc3"],
                         ids=["half", "200 kB", "NULs", "JSON", "half a character"])
def test_a_last_line_of_the_registrys_log_is_kept_and_gets_its_newline(tmp_path, old):
    """It may be anybody's text: whether it is whole, nobody can tell."""
    path = written(tmp_path, old, "registry.log")
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        listener.syslog(b"next")
        until(lambda: path.read_bytes() == old + b"\nnext\n", path.read_bytes)
        assert listener.err == ""
    assert sorted(os.listdir(path.parent)) == ["log.log", "registry.log"]


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


# ------------------------------------------------------------------------------------- what is kept

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
    log = written(tmp_path, b"".join(b'{"id":"%d"}\n' % number for number in range(100_500)))
    with Listener(tmp_path) as listener:
        before = log.read_bytes()
        assert listener.post([{"id": "500"}, {"id": "100499"}, {"id": "50000"}]) == (200, "")
        assert log.read_bytes() == before
        assert listener.post({"id": "new"}) == (200, "")
        assert log.read_bytes() == before + b'{"id":"new"}\n'


def test_lines_that_nobody_can_read_do_not_keep_it_from_starting(tmp_path):
    before = b'\xff\n{"id":"a"\n[]\n"id"\n\n' + b"[" * 100_000 + b'\n{"id":"b"}\n'
    log = written(tmp_path, before)
    with Listener(tmp_path) as listener:
        assert listener.post([{"id": "b"}, {"id": "c"}]) == (200, "")
        assert log.read_bytes() == before + b'{"id":"c"}\n'
        assert listener.err == ""


CONTROLS = "".join(map(chr, [*range(32), *range(0x7f, 0xa0), 0x61c, 0x200e, 0x200f,
                             *range(0x202a, 0x202f), *range(0x2066, 0x206a)]))


def test_no_control_character_gets_into_the_log(tmp_path):
    """They are escapes in it, of the same event: `cat` shows it and drives no terminal."""
    with Listener(tmp_path) as listener:
        news = [event(**{character: f"a{character}\\{character}é\u2028"}) for character in CONTROLS]
        assert listener.post(news) == (200, "")
        assert listener.events() == news
        text = listener.log.read_text("utf-8")
        assert not set(text) & (set(CONTROLS) - {"\n"})
        assert "é\u2028" in text and "\\u0085" in text


# ----------------------------------------------------------------------------------------- rotation


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


def test_more_rotated_files_than_are_kept_are_somebody_elses(tmp_path):
    """Of what logrotate has left, those with higher numbers stay as they are."""
    for number in (1, 2, 3, 5, 9):
        written(tmp_path, module.encode_event({"id": str(number)}), f"log.log.{number}")
    others = {number: written(tmp_path, b"", f"log.log.{number}.gz") for number in (4, 30)}
    news = [event() for _ in range(4)]
    with Listener(tmp_path, "--rotate", "1K:2") as listener:
        for new in news:
            assert listener.post(new) == (200, "")
        kept = [new for ending in (".9", ".5", ".3", ".2", ".1", "")
                for new in read_log(f"{listener.log}{ending}")]
        assert [{"id": "9"}, {"id": "5"}, {"id": "3"}, *news[1:]] == kept
        assert all(path.exists() for path in others.values())


def test_a_log_that_cannot_be_renamed_goes_on(tmp_path):
    with Faulty(tmp_path, "--rotate", "2K") as listener:
        listener.fault("no rename")
        news = [event() for _ in range(6)]
        for new in news:
            assert listener.post(new) == (200, "")
        assert listener.events() == news
        until(lambda: "cannot rename" in listener.err)
        assert (tmp_path / "renames").read_text() == "log.log.1\n"  # for now, one attempt will do
        listener.fault("")
        listener.pass_time(60)
        newer = event()
        assert listener.post(newer) == (200, "")
        assert listener.events() == [newer]
        until(lambda: "could be renamed" in listener.err)
        assert listener.err.count("cannot rename") == 1


def test_the_registrys_log_is_on_the_disk_before_the_next_file_is_begun(tmp_path):
    """Its last second may not be there yet: it is no event, whose sender waits for that."""
    with Faulty(tmp_path, "--rotate", "2K", "--syslog-port", "0") as listener:
        for number in range(8):
            listener.syslog(b"%d " % number * 600)
            until(lambda: listener.registry_log.read_bytes().startswith(b"%d" % number))
        synced = (tmp_path / "synced").read_text().splitlines()
        for number in range(1, 8):
            rotated = listener.registry_log.with_name(f"registry.log.{number}").stat()
            assert f"{rotated.st_ino} {rotated.st_size}" in synced


@pytest.mark.parametrize("name", ["log.log-20261125", "log.log-2026112514", "log.log-20261125.gz",
                                  "log.log-20261125-1764064800"])
def test_logrotate_may_come_in_between(tmp_path, name):
    """Its files are read before those that were rotated later."""
    with Listener(tmp_path, "--rotate", "3K:20") as listener:
        news = [event() for _ in range(12)]
        for number, new in enumerate(news):
            if number == 7:
                for old in module.log_files(str(listener.log))[:-1]:
                    os.unlink(old)
                data = listener.log.read_bytes()
                listener.log.unlink()
                written(tmp_path, gzip.compress(data) if ".gz" in name else data, name)
                first = [json.loads(line) for line in data.splitlines()]
            assert listener.post(new) == (200, "")
        files = module.log_files(str(listener.log))
        assert files[0].endswith(name) and len(files) > 2
        events = first + [new for path in files[1:] for new in read_log(path)]
        assert events == news[-len(events):] and len(events) > len(first)
    status, out, err = run(tmp_path, "check")
    assert f"{len(events)} events" in out, out


# ----------------------------------------------------------------------------------- the log's file


def test_a_renamed_log_is_begun_anew(listener):
    old, new = event(), event()
    listener.post(old)
    rotated = listener.log.with_name("log.log.1")
    listener.log.rename(rotated)
    assert listener.post([new, old]) == (200, "")
    assert read_log(rotated) == [old]
    assert listener.events() == [new]
    status, _, err = run(listener.folder, "--port", "0")  # and the new file is locked as well
    assert status == 1 and "another listener" in err


def test_a_removed_log_is_begun_anew(listener):
    new = event()
    listener.post(event())
    listener.log.unlink()
    assert listener.post(new) == (200, "")
    assert listener.events() == [new]


def test_a_removed_folder_is_made_anew(tmp_path):
    with Listener(tmp_path, "--log", "a/b/log.log", "--syslog-port", "0") as listener:
        log = tmp_path / "a" / "b" / "log.log"
        listener.post(event())
        shutil.rmtree(tmp_path / "a")
        new = event()
        assert listener.post(new) == (200, "")
        assert read_log(log) == [new]
        listener.syslog(b"a line")
        until(lambda: log.with_name("registry.log").exists()
              and log.with_name("registry.log").read_bytes() == b"a line\n")


def test_another_file_in_the_logs_place_is_gone_on_with(listener):
    """As logrotate's `create` and `copytruncate` leave it; a torn line in it is cut off."""
    news = [event() for _ in range(3)]
    listener.post(event())
    other = listener.log.with_name("other")
    other.write_bytes(b'{"id":"whole"}\n{"id":"tor')
    other.replace(listener.log)
    assert listener.post(news[0]) == (200, "")
    assert listener.events() == [{"id": "whole"}, news[0]]
    os.truncate(listener.log, 0)
    assert listener.post(news[1]) == (200, "")
    assert listener.post(news[2]) == (200, "")
    assert listener.events() == news[1:]


def test_a_log_that_is_removed_while_it_is_written(tmp_path):
    with Faulty(tmp_path) as listener:
        new = event()
        listener.fault("removed")
        assert listener.post(new) == (200, "")
        assert listener.events() == [new]


def test_a_log_that_cannot_be_opened_loses_nothing(listener):
    """A folder in its place, then a file in its folder's place."""
    news = [event(), event()]
    listener.post(event())
    folder, aside = listener.log.parent, listener.folder / "aside"

    listener.log.unlink()
    listener.log.mkdir()
    assert listener.post(news)[0] == 503
    assert listener.health()[0] == 503
    listener.log.rmdir()
    assert listener.post(news) == (200, "")
    assert listener.health()[0] == 200
    assert listener.events() == news

    folder.rename(aside)
    folder.write_bytes(b"")
    late = event()
    assert listener.post(late)[0] == 503
    assert listener.health()[0] == 503
    folder.unlink()
    aside.rename(folder)
    assert listener.post(late) == (200, "")
    assert listener.health()[0] == 200
    assert listener.events() == [*news, late]


def obey_permissions():
    """Root that executes after this has no power to write where it may not (CAP_DAC_OVERRIDE)."""
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(24, 1, 0, 0, 0):
        os._exit(77)


def test_a_log_that_may_not_be_written_loses_nothing(tmp_path):
    try:
        obeying = subprocess.run(["true"], preexec_fn=obey_permissions).returncode == 0
    except (OSError, subprocess.SubprocessError, AttributeError):
        obeying = False
    if not obeying:
        pytest.skip("nothing makes root obey file permissions here")
    with Listener(tmp_path, preexec_fn=obey_permissions) as listener:
        folder, new = listener.log.parent, event()
        listener.post(event())
        listener.log.unlink()
        folder.chmod(0o555)
        try:
            assert listener.post(new)[0] == 503
            status, health = listener.health()
            assert status == 503 and "permission denied" in health["error"]
        finally:
            folder.chmod(0o755)
        assert listener.post(new) == (200, "")
        assert listener.health()[0] == 200
        listener.log.chmod(0o000)  # it is open: nothing changes until it is opened again
        newer = event()
        assert listener.post(newer) == (200, "")
        listener.log.chmod(0o644)
        assert listener.events() == [new, newer]
        listener.log.chmod(0o444)
        listener.stop()
        status, out, err = run(tmp_path, "--port", "0", preexec_fn=obey_permissions)
        assert (status, out, err.count("\n")) == (1, "", 1) and "permission denied" in err


@pytest.mark.parametrize("data, why", [
    (b"plain\n", "not a gzipped file"),
    (gzip.compress(b"{}\n" * 100)[:-9], "compressed file ended before the end-of-stream marker"),
    (gzip.compress(b"{}\n" * 100)[:-8] + b"\0" * 8, "CRC check failed")],
    ids=["plain", "cut", "spoilt"])
def test_a_file_that_is_not_gzipped_is_said_in_plain_words(tmp_path, data, why):
    (tmp_path / "log.gz").write_bytes(data)
    status, _, err = run(tmp_path, "pulls", "log.gz")
    assert status == 1 and err.startswith(f"listener: cannot read log.gz: {why}")
    assert ("if it is being compressed, try again" in err) == ("ended before" in why)
    assert "b'" not in err and "rror" not in err
