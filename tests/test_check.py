"""Why nothing arrives: by the registry's log, live on the console and from files."""

import contextlib
import datetime
import http.server
import json
import re
import socket
import threading

import pytest

from support import HERE, listener as module
from support.process import CLOCK, Listener, command, free_port, run, until
from support.recordings import RECORDINGS, recorded_lines
from support.registry import Registry
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
    "unit": "/ok only 500 ns to answer, so every event comes again and again",
    "http": ": server gave HTTP response to HTTPS client. The listener speaks plain http",
    "https": ": the connection was closed. What listens there may speak https",
    "x509": ": x509: certificate is not valid for any names, but wanted to match g-tls-",
    "untrusted": ": x509, its certificate is not accepted. Give the registry's container",
    "proxy": "http://listener:8086/log: its proxy cannot be reached. The registry sends through a "
             "proxy: in the environment of its container add listener to NO_PROXY",
    "scheme": " listener:8086/log: unsupported protocol scheme. Write http:// before",
    "expired": ": x509: certificate has expired or is not yet valid. Make another",
    "badyaml": "does not run, as its log ends with: configuration error: error parsing /c.yml: "
               "yaml: line 8: mapping values are not allowed in this context. Correct that",
    "headers": "does not run, as its log ends with: line 9: cannot unmarshal !!str `***` into "
               "[]string. Write it with brackets, as in `headers: {Authorization: [Bearer TOKEN]}`",
    "nofile": "does not run, as its log ends with: open /no.crt: no such file or directory. Corr",
    "bundle": "does not run, as its log ends with: panic: unable to configure authorization "
              "(token): unable to open token auth root certificate bundle file",
    "key": "does not trust the key CVZ6:AAAA:BBBB:CCCC that they are signed with",
}

NOT_RUNNING = [name for name, said in FAULTS.items() if said.startswith("does not run")]


def recorded(name, registry, year=2020):
    """Lines of a recording, as if they were written in YEAR: before the test, or after it."""
    text = (RECORDED / f"{name}-registry{registry}.log").read_text()
    return re.sub("2026-11-2[59]", f"{year}-11-25", text).splitlines()


def sent(listener, lines):
    """Send LINES as the syslog driver does; returns when the listener has kept them all."""
    before = listener.registry_log.read_bytes().count(b"\n")
    for line in lines:
        listener.syslog(b"<27>1 2026-11-25T12:00:00Z h registry 1 registry - " + line.encode())
    until(lambda: listener.registry_log.read_bytes().count(b"\n") == before + len(lines))


def metric(listener, name, token="any"):
    text = listener.request("GET", "/metrics", headers={"Authorization": f"Bearer {token}"})[1]
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
        assert metric(listener, "registry_cannot_send") == (name not in ("key", *NOT_RUNNING))
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


@pytest.mark.parametrize("registry", [2, 3])
@pytest.mark.parametrize("name", NOT_RUNNING)
def test_a_registry_that_does_not_run_is_the_first_thing_said_until_it_runs(tmp_path, name,
                                                                            registry):
    """An event may come from another: only its log tells that it runs."""
    broken, well = recorded(name, registry), recorded("ok", registry, 2021)
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        sent(listener, broken + [line for line in recorded("nohost", registry) if "lookup" in line])
        until(lambda: "nosuch" in listener.err, lambda: listener.err)
        assert "does not run" in notices(listener)[0] and "nosuch" in notices(listener)[1]
        listener.post(event())
        until(lambda: "can send to http://nosuch:8086/log again" in listener.err)
        assert len(notices(listener)) == 1
        sent(listener, well)
        until(lambda: "the registry was started anew: it runs" in listener.err)
        assert notices(listener) == []
        sent(listener, broken)  # once more, and at once
        until(lambda: listener.err.count("does not run") == 2, lambda: listener.err)
        sent(listener, [recorded_lines("docker_complete-registry2")[-1]])  # of a request
        until(lambda: notices(listener) == [], lambda: notices(listener))
    lines = recorded_lines("docker_complete-registry2") + recorded(name, registry, 2999)
    status, out, _ = run(tmp_path, "check", PULLED[0], "--registry-log", "-",
                         given="\n".join(lines).encode())
    assert status == 1 and out.startswith("The registry does not run")
    (tmp_path / "empty").mkdir()
    status, out, _ = run(tmp_path / "empty", "check", "--registry-log", "-",
                         given="\n".join(broken).encode())
    assert "No event has arrived" not in out and "tells of" not in out


def test_the_reason_why_a_registry_does_not_run_is_the_last_one(tmp_path):
    first, second = recorded("badyaml", 2), recorded("nofile", 2)
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        sent(listener, first + second)
        until(lambda: listener.err.count("does not run") == 2, lambda: listener.err)
        notice, = notices(listener)
        assert "/no.crt" in notice and "(2 times, from 11-25 13:12:27 to 11-25 13:12:27.)" in notice


@pytest.mark.parametrize("wrap", [
    lambda line: json.dumps({"log": f"{line}\n", "stream": "stderr", "time": "2999-01-01T00:00Z"}),
    lambda line: json.dumps({"MESSAGE": line}), lambda line: f"registry-1  | {line}",
    lambda line: '{app="registry"} ' + line], ids=["json-file", "journald", "compose", "logcli"])
@pytest.mark.parametrize("name", NOT_RUNNING)
def test_a_registry_that_does_not_run_is_seen_in_each_form_of_its_log(tmp_path, name, wrap):
    given = "\n".join(map(wrap, recorded(name, 2))).encode()
    _, out, _ = run(tmp_path, "check", "--registry-log", "-", given=given)
    assert FAULTS[name] in out and "stream" not in out and "has arrived" not in out


def test_a_registry_that_does_not_run_is_said_once_for_each_reason(tmp_path):
    """It is started again and again, and each time it says the same; at most five are said."""
    lines = recorded("headers", 2)
    more = [line.replace("line 9:", f"line {number}:") for number in range(9) for line in lines]
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        sent(listener, (lines + more[:len(lines)]) * 3)
        until(lambda: listener.err.count("does not run") == 2, lambda: listener.err)
        sent(listener, more * 2 + recorded("nohost", 2, 2999))
        until(lambda: "nosuch" in listener.err)
        assert listener.err.count("does not run") == 5
        assert metric(listener, "registry_cannot_send") == 1


def test_another_key_that_is_not_trusted_is_no_news(tmp_path):
    """Whoever sends the token chooses its id."""
    lines = recorded("key", 3)
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        for number in range(9):
            sent(listener, [line.replace("CVZ6:AAAA", f"CVZ6:AA{number}A") for line in lines])
        sent(listener, recorded("nohost", 2, 2999))
        until(lambda: "nosuch" in listener.err)
        assert listener.err.count("does not trust the key") == 1


def test_what_others_make_a_registry_log_does_not_say_that_it_does_not_run(tmp_path):
    """A user agent may be anything. And of several registries only a start tells which runs."""
    line = '172.17.0.1 - - [25/Nov/2026:10:00:00 +0000] "GET /v2/ HTTP/1.1" 200 2 "" "panic: x"'
    given = "\n".join([*recorded_lines("docker_complete-registry2"), line]).encode()
    assert run(tmp_path, "check", PULLED[0], "--registry-log", "-", given=given)[0] == 0
    request = recorded_lines("docker_complete-registry2")[-1]
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        for _ in range(4):
            sent(listener, recorded("badyaml", 2) + [request])
        sent(listener, recorded("nohost", 2, 2999))
        until(lambda: "nosuch" in listener.err)
        assert listener.err.count("does not run") == 1 and listener.err.count("it runs") <= 1


@pytest.mark.parametrize("name", NOT_RUNNING)
def test_a_registry_that_does_not_run_is_said_though_another_log_has_its_requests(tmp_path, name):
    """`make check`: docker logs of a new container, and registry.log of the one before."""
    broken = recorded(name, 2, 2999)
    (tmp_path / "registry.log").write_text(PULLED[2].read_text())
    for given in (broken, recorded_lines("docker_complete-registry2") + broken):
        status, out, _ = run(tmp_path, "check", PULLED[0], "--registry-log", "-", "--registry-log",
                             "registry.log", given="\n".join(given).encode())
        assert status == 1 and out.startswith("The registry does not run")


@pytest.mark.parametrize("registry", [2, 3])
def test_an_endpoint_that_is_disabled_is_said_until_there_is_another(tmp_path, registry):
    lines = [line for line in recorded("ok", registry) if "configuring endpoint" not in line]
    finding = "the registry sends no events: its endpoint other is disabled. Write `disabled: "
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        sent(listener, lines)
        until(lambda: finding in listener.err)
        assert metric(listener, "registry_cannot_send") == 0
        sent(listener, recorded("zero", registry, 2999)[:3])
        until(lambda: "the registry was started anew: it has an endpoint" in listener.err)
        assert notices(listener) == []


@pytest.mark.parametrize("registry", [2, 3])
def test_a_key_that_is_trusted_again_is_said(tmp_path, registry):
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        sent(listener, recorded("key", registry))
        until(lambda: FAULTS["key"] in listener.err)
        sent(listener, [line for line in recorded_lines(f"docker_complete-registry{registry}")
                        if "authorized request" in line])
        until(lambda: "the registry trusts the token server's key again" in listener.err)
        assert not any("trust" in notice for notice in notices(listener))


def test_a_registry_that_tries_no_more_can_send(tmp_path):
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        sent(listener, recorded("zero", 2))
        until(lambda: "0.0.0.0" in listener.err)
        sent(listener, recorded_lines("docker_complete-registry2"))  # years later
        until(lambda: "the registry can send to http://0.0.0.0:8086/log again" in listener.err)


def test_events_that_come_again_and_again_are_said_until_a_new_one_comes(tmp_path):
    said = "events come again and again, and no new ones: the registry does not wait for the answer"
    one = event()
    with Listener(tmp_path) as listener:
        for _ in range(10):
            listener.post(one)
        assert said not in str(notices(listener))
        for _ in range(3):
            listener.post(one)
        until(lambda: said in listener.err)
        assert said in str(notices(listener)) and listener.err.count(said) == 1
        listener.post(event())
        assert said not in str(notices(listener))


def test_a_registry_that_fails_again_after_a_while_is_not_said_to_be_able_to_send(tmp_path):
    line = next(line for line in recorded("zero", 2) if "retryingsink" in line)
    request = recorded_lines("docker_complete-registry2")[-1]
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        for minute in (10, 50):
            sent(listener, [re.sub(r"2020[^.]*", f"2020-11-24T06:{minute}:00", line)])
        until(lambda: "(2 times, from 11-24 06:10:00 to 11-24 06:50:00.)" in str(notices(listener)))
        assert "again" not in listener.err
        sent(listener, [request])  # years later
        until(lambda: "the registry can send to http://0.0.0.0:8086/log again" in listener.err)
        sent(listener, [re.sub(r"2020[^.]*", "2999-11-24T06:10:00", line)])
        until(lambda: listener.err.count("cannot send to http://0.0.0.0") == 2)


def test_what_a_client_writes_is_no_fault(tmp_path):
    line = recorded_lines("docker_complete-registry2_noauth")[-1]
    agent = re.search('useragent="([^"]*)', line)[1]
    lie = 'httpSink{http://a}: connection refused msg=\\"retryingsink: error writing events: x'
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        sent(listener, [line.replace(agent, lie)])
        assert notices(listener) == []


def test_of_many_faults_few_are_remembered(tmp_path):
    line = next(line for line in recorded("zero", 2) if "retryingsink" in line)
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        sent(listener, [line.replace("0.0.0.0", f"host-{number}") for number in range(100)])
        until(lambda: "host-99" in listener.err)
        assert len(notices(listener)) == 20


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
             'time="2026-11-25T12:00:00Z" level=info msg="configuring endpoint a (http://u:'
             + secret + '@h/log), timeout=1s, headers=map[X:[' + quoted + ']]" go.version=go1',
             f'time="2026-11-25T12:00:00Z" level=info msg="Authorization: Bearer {secret}"',
             'time="2026-11-25T12:00:00Z" level=error msg="retryingsink: error writing events: '
             f'httpSink{{http://u:{secret}@h/log}}: EOF, retrying"',
             '{"Headers": {"Authorization": ["Bearer ' + secret + '"]}, "Timeout": 1}',
             f'http://user:p@{secret}@h/log', f'Headers:map[X-Token:[{secret}]]',
             '{"Authorization":["Token ' + secret + '"]}']
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        sent(listener, lines)
        until(lambda: "http://***@h/log" in listener.err, lambda: listener.err)
        kept = listener.registry_log.read_text()
        assert "headers=map[***]" in kept and "go.version=go1" in kept
        for text in (kept, listener.err, listener.out, *notices(listener)):
            assert secret not in text


def test_a_proxy_is_a_caveat_until_a_cut_was_seen_through_it():
    caveats = module.Caveats()
    caveats.learn("interrupted", False, False)
    assert caveats.news() == []
    caveats.learn("complete", True, False)
    assert caveats.news() == caveats.standing() == [module.THROUGH_PROXY]
    caveats.learn("complete", True, False)
    assert caveats.news() == []
    caveats.learn("interrupted", True, False)
    assert caveats.standing() == []


# ------------------------------------------------------------------------------------- from files

PULLED = [RECORDINGS / "docker_complete-registry2.log", "--registry-log",
          RECORDINGS / "docker_complete-registry2.registry.log"]


def test_a_timeout_that_is_none_is_no_trouble(tmp_path):
    log = tmp_path / "log"
    log.write_text('time="2026-11-25T10:00:00Z" level=info msg="configuring endpoint a (http://u), '
                   'timeout=1.2.3s, headers=map[]" instance.id=x\n')
    status, _, err = run(tmp_path, "check", PULLED[0], "--registry-log", log)
    assert status in (0, 1) and "Traceback" not in err and "could not convert" not in err


@pytest.mark.parametrize("registry", [2, 3])
@pytest.mark.parametrize("name", FAULTS)
def test_check_says_what_the_registry_log_says(tmp_path, name, registry):
    (tmp_path / "log.log").write_bytes(b"")
    lines = "\n".join(recorded(name, registry, 2999)).encode()
    status, out, err = run(tmp_path, "check", "log.log", "--registry-log", "-", given=lines)
    assert (status, err) == (1, "")
    assert FAULTS[name] in out.split("\n\n")[0] + out.split("\n\n")[1]
    assert "s3cret" not in out


def test_check_of_a_complete_pull_says_in_a_line_what_arrives(tmp_path):
    status, out, err = run(tmp_path, "check", *PULLED)
    assert (status, err) == (0, "")
    assert re.fullmatch(r"7 events arrived, 7 of them of pulls, the last at [\d :-]+\.\n", out)


def test_check_says_what_was_mended(tmp_path):
    (tmp_path / "registry.log").write_text("\n".join(recorded("zero", 2)) + "\n")
    status, out, _ = run(tmp_path, "check", *PULLED, "--registry-log", "registry.log")
    assert (status, out.count("\n")) == (0, 1)
    assert "mended since: connection refused" in out and "0.0.0.0" not in out


def test_what_was_sent_after_all_was_mended_though_it_happened_before(tmp_path):
    line = next(line for line in recorded("zero", 2) if "retryingsink" in line)
    for first, status in (("06:28:50", 0), ("06:28:57", 1)):  # the last event is of 06:28:55
        given = "\n".join(re.sub(r"2020[^.]*", f"2026-11-24T{at}", line)
                          for at in (first, "06:28:58", "06:28:59")).encode()
        found = run(tmp_path, "check", *PULLED, "--registry-log", "-", given=given)
        assert found[0] == status, found


def test_a_log_that_lacks_the_start_is_no_fault_if_events_arrive(tmp_path):
    start = [line for line in recorded("ok", 2, 2025) if "listening on" in line]
    given = "\n".join([*start, PULLED[2].read_text()]).encode()
    assert run(tmp_path, "check", PULLED[0], "--registry-log", "-", given=given)[0] == 0
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        sent(listener, start)
        until(lambda: notices(listener))
        listener.post(event())
        until(lambda: "it has an endpoint" in listener.err)
        assert notices(listener) == []


def test_a_short_timeout_does_not_hide_why_no_event_comes(tmp_path):
    start = [line.replace("timeout=1s", "timeout=500ns") for line in recorded("local", 2)
             if "httpSink" not in line]
    assert "timeout=500ns" in str(start)
    status, out, _ = run(tmp_path, "check", "--registry-log", "-", given="\n".join(start).encode())
    assert status == 1 and "only 500 ns" in out
    assert "No event has arrived. The registry sends its events to http://" in out


def test_check_without_any_file_says_what_to_do(tmp_path):
    status, out, err = run(tmp_path, "check")
    assert (status, err) == (1, "")
    assert out.startswith("There is no listener_log/log.log: run this in the folder where")
    assert "No event has arrived. In the registry's config.yml" in out
    assert "docker logs REGISTRY 2>&1 | python listener.py check --registry-log -" in out


def test_check_of_a_file_that_is_not_there_is_one_line(tmp_path):
    assert run(tmp_path, "check", "no.log") == (
        1, "", "listener: cannot read no.log: no such file or directory\n")


def changed(tmp_path, change):
    """The recorded pull's log, each line of which CHANGE makes another, or leaves out."""
    lines = [json.loads(line) for line in PULLED[0].read_text().splitlines()]
    (tmp_path / "log.log").write_text("".join(
        json.dumps(found, separators=(",", ":")) + "\n" for found in map(change, lines) if found))
    return "log.log", *PULLED[1:]


def pushed(found):
    return {**found, "action": "push"}


def without_layers(found):
    return found if "/manifests/" in found["target"]["url"] else None


def without_references(found):
    found["target"].pop("references", None)
    return found


@pytest.mark.parametrize("change, finding", [
    (pushed, "7 events arrived, but none of a pull. In the registry's config.yml, under "
             "`notifications:`, `ignore: actions:` must not list `pull`"),
    (without_layers, "none of a layer. In the registry's config.yml, under `notifications:`, "
                     "neither `ignoredmediatypes:` nor `ignore: mediatypes:` must list "
                     "`application/octet-stream`"),
    (without_references, "write `events:` `includereferences: true`"),
    (lambda found: {**found, "timestamp": "2020-01-01T00:00:00Z"},
     "but the registry has answered requests since"),
])
def test_check_says_what_is_missing_in_the_log(tmp_path, change, finding):
    status, out, _ = run(tmp_path, "check", *changed(tmp_path, change))
    assert status == 1 and finding in out


def later(seconds):
    """A change that has an event happen so much later."""
    def change(found):
        at = datetime.datetime.fromisoformat(found["timestamp"][:19])
        return {**found, "timestamp": f"{at + datetime.timedelta(seconds=seconds):%FT%T}Z"}
    return change


def test_check_says_that_the_registrys_log_ends_before_the_events(tmp_path):
    """`docker logs -f` ends when its container does."""
    status, out, _ = run(tmp_path, "check", *changed(tmp_path, later(90)))
    assert status == 1 and out.startswith("The registry's log ends at ")
    assert run(tmp_path, "check", *changed(tmp_path, later(50)))[0] == 0


def test_check_says_that_a_log_has_no_event_in_it(tmp_path):
    """The two files were taken for each other."""
    status, out, _ = run(tmp_path, "check", PULLED[2], "--registry-log", PULLED[0])
    assert status == 1
    assert re.search(r"^No event is in the log that was given: \d+ lines could not be read\. If it "
                     r"is a registry's log, give it with --registry-log", out, re.M)
    assert re.search(r"No event arrived; \d+ lines could not be read\.\n$", out)


@pytest.mark.parametrize("registry", [2, 3])
def test_check_says_that_the_registry_logs_too_little(tmp_path, registry):
    """At level warn it tells of the HEAD requests of a push, as they found nothing."""
    lines = (RECORDED / f"warn-registry{registry}.log").read_bytes()
    status, out, _ = run(tmp_path, "check", PULLED[0], "--registry-log", "-", given=lines)
    assert status == 1
    assert re.match(r"Pulls end as unknown: standard input: none of its \d+ lines tells of a "
                    r"request: .* log: \{level: info\}", out)


def test_check_names_the_registries_that_events_came_from(tmp_path):
    def to_another(found):
        if "/manifests/" in found["target"]["url"]:
            found["request"]["host"] = "other:5000"
        return found
    status, out, _ = run(tmp_path, "check", *changed(tmp_path, to_another))
    assert status == 0 and re.search(r", from 2 registries \(other:5000, [^,]+\)\.\n$", out)


def test_events_in_any_order_of_members_count_and_what_is_none_does_not(tmp_path):
    lines = [json.dumps(dict(reversed(json.loads(line).items())))
             for line in PULLED[0].read_text().splitlines()]
    lines += ["no event", "[]", '{"id": 1}', "[" * 9999]
    (tmp_path / "log.log").write_text("\n".join(lines))
    status, out, _ = run(tmp_path, "check", "log.log", *PULLED[1:])
    assert status == 0 and out.startswith("8 events arrived, 7 of them of pulls, the last at")


def test_check_says_that_the_same_event_comes_again(tmp_path):
    (tmp_path / "log.log").write_text(PULLED[0].read_text() * 3)
    status, out, _ = run(tmp_path, "check", "log.log", *PULLED[1:])
    assert status == 1 and "Events came again, 14 of 21" in out and "`timeout: 1s`" in out


@pytest.mark.parametrize("lines, finding", [
    (None, "No line of the registry's log arrives, so pulls end as unknown"),
    ("a line of another program\n",
     "Pulls end as unknown: standard input: its line does not tell of a request: is it the "
     "registry's log, with log: {level: info} in its config.yml? It says: a line of another "
     "program"),
    (f"{'x' * 190} https://foo:{'s3cret' * 200}@r:5000 is down\n",
     f"It says: {'x' * 190} https://*\n"),
])
def test_check_says_that_verdicts_are_unknown(tmp_path, lines, finding):
    options = ["--registry-log", "-"] if lines else []
    status, out, _ = run(tmp_path, "check", PULLED[0], *options, given=(lines or "").encode())
    assert status == 1 and finding in out


def test_what_is_wrong_with_the_log_that_was_given_comes_before_what_it_does_not_tell(tmp_path):
    """Of `docker logs` with a misspelt container, docker's own words."""
    said = b"Error response from daemon: No such container: regstry\n"
    status, out, _ = run(tmp_path, "check", "--registry-log", "-", given=said)
    assert status == 1 and out.index("No such container: regstry") < out.index("No event has")


def test_the_log_of_a_registry_that_nobody_has_asked_yet_is_a_registrys(tmp_path):
    said = (b'time="2026-11-24T06:28:00.1Z" level=info msg="listening on [::]:5000" '
            b'go.version=go1.20.8 instance.id=1 service=registry version=2.8.3\n')
    status, out, _ = run(tmp_path, "check", "--registry-log", "-", given=said)
    assert status == 1 and "tells of a request" not in out


@pytest.mark.parametrize("registry", [2, 3])
def test_check_says_that_the_storage_sends_the_bytes(tmp_path, registry):
    name = RECORDINGS / f"docker_complete-registry{registry}_redirect"
    status, out, _ = run(tmp_path, "check", f"{name}.log", "--registry-log",
                         f"{name}.registry.log")
    assert status == 1 and "redirect: {disable: true}" in out


def test_check_says_that_a_proxy_may_hide_what_was_interrupted(tmp_path):
    text = re.sub(r'(remoteaddr=)"([^"]*):\d+"', r"\1\2", PULLED[2].read_text())
    status, out, _ = run(tmp_path, "check", PULLED[0], "--registry-log", "-", given=text.encode())
    assert status == 1 and "proxy_buffering off" in out


# ------------------------------------------------------------------------------ the debug server

ENDPOINT = {"name": "a", "url": "http://listener:8086/log", "Timeout": 10**9,
            "Headers": {"Authorization": ["Bearer s3cret"]}, "IgnoredMediaTypes": None,
            "Ignore": {"MediaTypes": None, "Actions": None},
            "Metrics": {"Pending": 0, "Successes": 3, "Failures": 0, "Errors": 0, "Statuses": {}}}


@contextlib.contextmanager
def debug_server(body):
    class Debug(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/debug/vars" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Debug) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("members, finding", [
    ({}, None),
    ({"Timeout": 500}, "only 500 ns to answer"),
    ({"IgnoredMediaTypes": ["pull"], "Ignore": {"Actions": ["application/octet-stream"]}}, None),
    ({"url": "http://localhost?x=1", "Metrics": {}}, "In a container localhost is that container"),
    ({"IgnoredMediaTypes": ["application/octet-stream"]},
     "hides every layer from http://listener:8086/log: its `ignoredmediatypes:` lists"),
    ({"Ignore": {"MediaTypes": ["application/octet-stream"], "Actions": None}},
     "its `ignore: mediatypes:` lists `application/octet-stream`"),
    ({"Ignore": {"MediaTypes": None, "Actions": ["pull"]}},
     "hides every pull from http://listener:8086/log: its `ignore: actions:` lists `pull`"),
    ({"Metrics": {"Pending": 2, "Failures": 9, "Errors": 1, "Statuses": {"401 Unauthorized": 9}}},
     "2 events wait to be sent to http://listener:8086/log: 10 times it could not be done "
     "(9 times 401 Unauthorized)"),
    ({"url": "http://0.0.0.0:8086/log", "Metrics": {}}, "In a container 0.0.0.0 is that container"),
])
def test_check_asks_the_debug_server(tmp_path, members, finding):
    endpoints = [{**ENDPOINT, **members}]
    body = json.dumps({"registry": {"notifications": {"endpoints": endpoints}}}).encode()
    with debug_server(body) as url:
        status, out, err = run(tmp_path, "check", *PULLED, "--registry", url)
    assert (status, err) == (1 if finding else 0, "")
    assert finding is None or finding in out
    assert "s3cret" not in out


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"registry": {"notifications": null}}'])
def test_check_says_that_the_registry_has_no_endpoint(tmp_path, body):
    with debug_server(body) as url:
        status, out, _ = run(tmp_path, "check", *PULLED, "--registry", url)
    assert status == 1 and "it has no endpoint" in out


@pytest.mark.parametrize("url", [f"http://127.0.0.1:{free_port()}", "word", "http://[", "ftp:x"])
def test_a_debug_server_that_does_not_answer_is_one_line(tmp_path, url):
    status, out, err = run(tmp_path, "check", *PULLED, "--registry", url)
    assert status == 1 and err.count("\n") == 1 and err.startswith("listener: cannot read ")
    assert "<" not in err and "rrno" not in err
    assert "7 events arrived" in out


def test_a_file_is_no_debug_server(tmp_path):
    (tmp_path / "debug").mkdir()
    (tmp_path / "debug" / "vars").write_text("{}")
    status, out, err = run(tmp_path, "check", *PULLED, "--registry", f"file://{tmp_path}")
    assert status == 1 and "unknown url type: file; --registry takes the address" in err
    assert "no endpoint" not in out


def test_a_debug_server_that_never_ends_is_waited_for_once(tmp_path):
    """Each byte of it comes in time, and none is the last."""
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.ExitStack() as ending:
        ended = threading.Event()
        ending.callback(ended.set)

        def drip():
            client, _ = server.accept()
            with client, contextlib.suppress(OSError):
                client.sendall(b"HTTP/1.1 200 OK\r\n")
                while not ended.wait(0.1):
                    client.sendall(b"X")
        threading.Thread(target=drip, daemon=True).start()
        status, out, err = run(tmp_path, "check", *PULLED, "--registry",
                               f"http://127.0.0.1:{server.getsockname()[1]}")
    assert status == 1 and "no answer within 5 seconds" in err and "7 events arrived" in out


# -------------------------------------------------------------------------------- real registries

@pytest.mark.docker
@pytest.mark.parametrize("version", [2, 3])
def test_each_fault_of_a_real_registry_is_named_until_it_is_mended(tmp_path, version):
    (tmp_path / "token").write_text("right")
    with Listener(tmp_path / "listener", "--syslog-port", "0", "--token-file",
                  tmp_path / "token") as listener:
        right = f"http://127.0.0.1:{listener.port}/log"
        ignoring = ("ignoredmediatypes: [application/octet-stream], "
                    "ignore: {mediatypes: [application/octet-stream], actions: [pull]}")
        faults = [
            (f"http://0.0.0.0:{free_port()}/log", "", "In a container 0.0.0.0 is that container"),
            ("http://no-such-host.invalid/log", "", ": no such host. The container"),
            (right.replace("http:", "https:"), "", "The listener speaks plain http"),
            (right, "headers: {Authorization: [Bearer wr0ng]}", "status 401 Unauthorized"),
            (right, "headers: {Authorization: [Bearer right]}, " + ignoring, None)]
        for url, endpoint, finding in faults:
            with Registry(tmp_path, url, version, endpoint=endpoint,
                          syslog_port=listener.syslog_port) as registry:
                registry.push("a/b", 100)
                if finding:
                    until(lambda: finding in listener.err, lambda: listener.err)
                else:
                    until(listener.events)
                    finding = "hides every pull from"
                out = run(tmp_path, "check", listener.log, "--registry-log", listener.registry_log,
                          "--registry", f"http://127.0.0.1:{registry.debug_port}")
                assert out[0] == 1 and finding in out[1]
        assert "hides every layer from" in out[1]
        with Registry(tmp_path, right, version, syslog_port=listener.syslog_port,
                      endpoint="headers: {Authorization: [Bearer right]}") as registry:
            registry.push("a/b", 100)
            registry.pull("a/b")
            until(lambda: any(each["action"] == "pull" and "/blobs/" in each["target"]["url"]
                              and each["target"]["size"] == 100 for each in listener.events()))
            until(lambda: "response completed" in listener.registry_log.read_text())
            status, out, err = run(
                tmp_path, "check", listener.log, "--registry-log", listener.registry_log,
                "--registry", f"http://127.0.0.1:{registry.debug_port}")
            assert (status, err) == (0, ""), out
        assert "wr0ng" not in listener.registry_log.read_text() + listener.err
        assert metric(listener, "registry_cannot_send", "right") == 0


@pytest.mark.docker
@pytest.mark.parametrize("version", [2, 3])
def test_a_listener_that_was_stopped_is_named_until_it_runs_again(tmp_path, version):
    port = free_port()
    with Registry(tmp_path, f"http://127.0.0.1:{port}/log", version) as registry:
        registry.push("a/b", 100)
        registry.pull("a/b")

        def check():
            given = command("docker", "logs", registry.name).encode()
            return run(tmp_path, "check", *log, "--registry-log", "-", given=given)
        log = []
        until(lambda: "connection refused" in check()[1])
        with Listener(tmp_path, "--port", port) as listener:
            log = [listener.log]
            until(lambda: len(listener.events()) >= 6, seconds=60)
            status, out, err = check()
            assert (status, err) == (0, ""), out
