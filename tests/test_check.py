"""Why nothing arrives: by the registry's log, live on the console and from files."""

import json
import re

import pytest

from support import HERE
from support.process import CLOCK, Listener, until
from support.traffic import event

RECORDED = HERE / "registry_logs"
FAULTS = {  # the name of the recording: what is said of it
    "zero": "http://0.0.0.0:8086/log: connection refused. In a container 0.0.0.0 is that container",
    "local": "http://localhost:8086/log: connection refused. In a container localhost is that",
    "nohost": "http://nosuch:8086/log: no such host. The container nosuch is stopped (docker start "
              "nosuch), or not on one network",
    "s401": "/401: status 401 Unauthorized. The token is wrong or missing",
    "s404": "/404: status 404 Not Found. What answers there is no listener",
    "s413": "/413: status 413 Content Too Large. The event is too large",
    "s503": "/503: status 503 Service Unavailable. The listener cannot write its log",
    "slow": "/slow: no answer within its timeout. In the registry's config.yml write `timeout: 1s`",
    "unit": "/ok 5e-07 s to answer, so every event comes again and again",
    "http": ": server gave HTTP response to HTTPS client. The listener speaks plain http",
    "https": ": the connection was closed. What listens there may speak https",
    "x509": ": x509, its certificate is not accepted. Give the registry's container",
    "key": "does not trust the key CVZ6:AAAA:BBBB:CCCC that they are signed with",
}


def recorded(name, registry, year=2020):
    """Lines of a recording, as if they were written in YEAR: before the test, or after it."""
    text = (RECORDED / f"{name}-registry{registry}.log").read_text()
    return text.replace("2026-11-25", f"{year}-11-25").splitlines()


def sent(listener, lines):
    """Send LINES as the syslog driver does; returns when the listener has kept them all."""
    before = len(listener.registry_log.read_text().splitlines())
    for line in lines:
        listener.syslog(b"<27>1 2026-11-25T12:00:00Z h registry 1 registry - " + line.encode())
    until(lambda: len(listener.registry_log.read_text().splitlines()) == before + len(lines))


def metric(listener, name):
    text = listener.request("GET", "/metrics")[1]
    return float(re.search(rf"^registry_listener_{name} (\S+)$", text, re.M)[1])


def notices(listener):
    return json.loads(listener.request("GET", "/pulls")[1])["notices"]


@pytest.mark.parametrize("registry", [2, 3])
@pytest.mark.parametrize("name", FAULTS)
def test_the_console_says_a_fault_once_and_the_page_as_long_as_it_lasts(tmp_path, name, registry):
    lines = recorded(name, registry)
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        sent(listener, lines + lines[-1:])
        until(lambda: FAULTS[name] in listener.err, lambda: listener.err)
        assert any(FAULTS[name] in notice for notice in notices(listener))
        assert metric(listener, "registry_cannot_send") == (name != "key")
        said = [line for line in listener.err.splitlines() if FAULTS[name] in line]
        assert len(said) == 1 and re.match(rf"{CLOCK} the registry ", said[0])


@pytest.mark.parametrize("registry", [2, 3])
def test_a_healthy_start_says_nothing(tmp_path, registry):
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        sent(listener, recorded("ok", registry))
        assert notices(listener) == []
        assert metric(listener, "registry_cannot_send") == 0
        assert listener.stop() == 0 and listener.err == ""


@pytest.mark.parametrize("registry", [2, 3])
def test_it_is_over_when_events_arrive_and_may_come_again(tmp_path, registry):
    lines = recorded("nohost", registry)
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        sent(listener, lines)
        until(lambda: "no such host" in listener.err)
        assert listener.post(event()) == (200, "")
        until(lambda: "the registry can send to http://nosuch:8086/log again" in listener.err)
        assert not any("nosuch" in notice for notice in notices(listener))
        assert metric(listener, "registry_cannot_send") == 0
        sent(listener, lines)  # from before the event: they came late
        assert notices(listener) == []
        sent(listener, recorded("nohost", registry, 2999))
        until(lambda: listener.err.count("no such host") == 2, lambda: listener.err)


@pytest.mark.parametrize("registry", [2, 3])
def test_it_is_over_when_the_registry_starts_with_another_url(tmp_path, registry):
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        sent(listener, recorded("zero", registry))
        until(lambda: "0.0.0.0" in listener.err)
        sent(listener, recorded("ok", registry))  # was recorded later
        until(lambda: "the registry was started anew: it sends nothing to http://0.0.0.0:8086/log "
              "any more" in listener.err, lambda: listener.err)
        assert notices(listener) == []


def test_a_restart_of_the_listener_says_what_lasts_and_not_what_is_over(tmp_path):
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        sent(listener, recorded("zero", 2))
        until(lambda: "0.0.0.0" in listener.err)
        listener.stop()
        listener.start()
        until(lambda: FAULTS["zero"] in listener.err)
        listener.post(event())
        until(lambda: "again" in listener.err)
        listener.stop()
        listener.start()
        assert notices(listener) == []
        assert "0.0.0.0" not in listener.err


def test_no_token_is_written_to_the_registry_log_or_shown(tmp_path):
    secret = "s3cret"
    quoted = 'a \\"' + secret + "] x"
    lines = [*recorded("s401", 2), *recorded("s404", 3),
             json.dumps({"log": recorded("s401", 2)[0] + "\n", "stream": "stderr"}),
             'time="2026-11-25T12:00:00Z" level=info msg="configuring endpoint a (http://u:' + secret
             + '@h/log), timeout=1s, headers=map[X:[' + quoted + ']]" go.version=go1',
             f'time="2026-11-25T12:00:00Z" level=info msg="Authorization: Bearer {secret}"',
             'time="2026-11-25T12:00:00Z" level=error msg="retryingsink: error writing events: '
             f'httpSink{{http://u:{secret}@h/log}}: EOF, retrying"',
             '{"Headers": {"Authorization": ["Bearer ' + secret + '"]}, "Timeout": 1}']
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        sent(listener, lines)
        until(lambda: "http://***@h/log" in listener.err, lambda: listener.err)
        kept = listener.registry_log.read_text()
        assert "headers=map[***]" in kept and "go.version=go1" in kept
        for text in (kept, listener.err, listener.out, *notices(listener)):
            assert secret not in text
