"""The command line: options, what is said of wrong ones, and how it ends."""

import contextlib
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys

import pytest

from support import LISTENER
from support.disk import Faulty
from support.process import (CLOCK, Listener, drain, make_certificate, read_log, run, statuses,
                             until, written)
from support.recordings import Recording
from support.traffic import event


# ------------------------------------------------------------------------------------------ options


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
    ["--tls-cert", "a.pem"], ["--tls-key", "a.pem"], ["--syslog-port", "x"], ["--syslog", "1"],
    ["pulls", "--registry", "http://registry:5001"],
    ["pulls", "-", "--registry-log", "-"], ["check", "--registry-log", "-", "--registry-log", "-"]])
def test_wrong_usage_is_exit_2(tmp_path, options):
    status, out, err = run(tmp_path, *options)
    assert (status, out) == (2, "")
    assert "usage:" in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["", "0", "1X", "-1K", "1K:0", "1K:x", "K"])
def test_a_rotation_that_means_nothing_is_wrong_usage(tmp_path, value):
    status, _, err = run(tmp_path, "--port", "0", "--rotate", value)
    assert status == 2 and "--rotate" in err


def test_only_standard_input_can_be_followed(tmp_path):
    done = subprocess.run(["python3", LISTENER, "--registry-log", "registry.log"], cwd=tmp_path,
                          stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert "--registry-log: serve reads it from standard input only: tail -F FILE |" in done.stderr


@pytest.mark.parametrize("options, why", [
    (["--log", "folder"], "folder"),
    (["--log", "file/log.log"], "file/log.log"),
    (["--log", os.devnull], "not a regular file"),
    (["--log", ""], "cannot write"),
    (["--token-file", "missing"], "missing"),
    (["--token-file", "empty"], "no token in empty"),
    (["--token-file", "folder"], "where the file to mount is missing on its host"),
    (["--token-file", "file"], "file has more than a token in it: write it alone, without Bearer"),
    (["--token-file", "mark"], "a byte order mark"),
    (["--tls-cert", "", "--tls-key", ""], "no such file"),  # of a variable that is not set
    (["--tls-cert", "missing", "--tls-key", "file"], "missing"),
    (["--tls-cert", "file", "--tls-key", "missing"], "cannot read missing: "),
    (["--tls-cert", "folder", "--tls-key", "file"], "where the file to mount is missing"),
    (["--tls-cert", "file", "--tls-key", "file"], "one of them is no PEM file, or they are sw"),
    (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
    (["--host", "a..b"], "a..b"),
    (["--host", "192.0.2.1"], "--host must be an address of this machine"),
    (["--host", "192.0.2.1", "--syslog-port", "0"], "udp 192.0.2.1:0: ")])
def test_what_cannot_be_is_exit_1_and_one_line_that_says_why(tmp_path, options, why):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("no certificate\n")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "mark").write_text("token", encoding="utf-8-sig")
    cannot(run(tmp_path, "--port", "0", *options), why)


def test_an_encrypted_key_is_refused_without_asking_for_its_passphrase(tmp_path):
    """At a terminal, at which OpenSSL would ask."""
    key, certificate, _ = make_certificate(tmp_path)
    subprocess.run(["openssl", "pkey", "-aes256", "-passout", "pass:x", "-in", key, "-out",
                    tmp_path / "secret.pem"], check=True)
    ours, theirs = pty.openpty()
    done = subprocess.run(
        ["setsid", "--ctty", sys.executable, LISTENER, "--port", "0", "--tls-cert", certificate,
         "--tls-key", "secret.pem"], cwd=tmp_path, stdin=theirs, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, timeout=30)
    assert not select.select([ours], [], [], 0)[0]
    os.close(ours), os.close(theirs)
    cannot((done.returncode, done.stdout, done.stderr), "the key is encrypted",
           "openssl pkey -in secret.pem")


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
        cannot(run(tmp_path, "--port", first.port, "--log", "free/log.log"),
               f":{first.port}: address already in use; stop what listens there, or choose")
        cannot(run(tmp_path, "--port", "0", "--log", "free/log.log", "--syslog-port",
                   first.syslog_port), f"udp 0.0.0.0:{first.syslog_port}: address already in use",
               "--syslog-port")
        assert first.post(event())[0] == 200
        assert len(first.events()) == 1


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
    log = written(tmp_path, b"".join(b'{"id":"%d"}\n' % number for number in range(200_000)))
    with Listener(tmp_path, start=False) as listener:
        listener.launch()
        descriptors = f"/proc/{listener.process.pid}/fd"
        if not os.path.isdir(descriptors):
            pytest.skip("no /proc here, which tells how far it is")
        until(lambda: any(os.path.realpath(f"{descriptors}/{name}") == str(log)
                          for name in os.listdir(descriptors)))
        assert listener.stop() == 0


# ------------------------------------------------------------------------ no room, and a silent end

NAME = "docker_interrupted-registry2"


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
    Recording(NAME).write(tmp_path / "listener_log")
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
