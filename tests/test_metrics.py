"""GET /metrics: what Prometheus gets, and the files for it that the README shows."""

import re
import shutil
import subprocess
import time

import pytest
from support import HERE
from support.disk import Faulty
from support.process import Listener, need, until
from support.recordings import Recording
from support.traffic import event

PROMTOOL = shutil.which("promtool")
START = {  # every series that there is from the start, and that says nothing has happened
    **{f'events_total{{action="{action}"}}': 0
       for action in ("pull", "push", "mount", "delete", "other")},
    **{f'pulls_ended_total{{verdict="{verdict}"}}': 0
       for verdict in ("complete", "up to date", "interrupted", "failed", "unknown")},
    **{f'http_requests_total{{code="{code}"}}': 0
       for code in (200, 304, 400, 401, 404, 405, 411, 413, 415, 431, 501, 503)},
    **dict.fromkeys((
        "duplicate_events_total", "write_failing", "last_event_timestamp_seconds",
        "last_registry_log_line_timestamp_seconds", "registry_cannot_send", "pulls_started_total",
        "pulls_resumed_total", "pulls_running", "sent_bytes_total", "dropped_messages_total",
        "commit_duration_seconds_count", "commit_duration_seconds_sum",
        "pull_duration_seconds_count", 'pull_duration_seconds_bucket{le="+Inf"}'), 0)}


def metrics(listener):
    """The values by their series, without the prefix that all have; process_… with theirs."""
    status, text = listener.request("GET", "/metrics")
    assert status == 200
    assert listener.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    found = re.findall(r"^(?:registry_listener_)?(\w+(?:\{[^}]*\})?) (\S+)$", text, re.M)
    assert len(found) == sum(not line.startswith("#") for line in text.splitlines())
    return {series: float(value) for series, value in found}


def promtool(*words, given=None):
    need("" if PROMTOOL else "there is none in PATH", "promtool")
    done = subprocess.run([PROMTOOL, "check", *words], input=given, text=True, timeout=60,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


def test_every_series_is_there_from_the_start(tmp_path):
    with Listener(tmp_path) as listener:
        found = metrics(listener)
        assert {series: found.get(series) for series in START} == START
        again = metrics(listener)
        assert found.keys() == again.keys()
        assert again['http_requests_total{code="200"}'] == 1
    assert abs(found["process_start_time_seconds"] - time.time()) < 600
    assert found["process_cpu_seconds_total"] > 0 and found["process_max_fds"] > 10


def test_what_has_happened_is_counted(tmp_path):
    with Faulty(tmp_path, "--syslog-port", "0") as listener:
        began = time.time()
        once = event()
        for new in (once, once, event(action="delete"), event(action=["odd"]), event(action="x")):
            assert listener.post(new) == (200, "")
        assert listener.post(b"{")[0] == 400
        for name in ("docker_complete-registry2", "skopeo_interrupted-registry2"):
            Recording(name).just_now().play(listener)
        until(lambda: metrics(listener)['pulls_ended_total{verdict="complete"}'] == 1)
        until(lambda: metrics(listener)["sent_bytes_total"] > 40_000_000)
        assert metrics(listener)["pulls_running"] == 1
        listener.pass_time(40)
        until(lambda: metrics(listener)['pulls_ended_total{verdict="interrupted"}'] == 1)
        until(lambda: metrics(listener)["pulls_running"] == 0)  # counted after all of them
        found = metrics(listener)
    assert found['events_total{action="push"}'] == 1
    assert found["duplicate_events_total"] == 1
    assert found['events_total{action="delete"}'] == 1
    assert found['events_total{action="other"}'] == 2
    assert found['events_total{action="pull"}'] > 10
    assert found['http_requests_total{code="400"}'] == 1
    assert found["pulls_started_total"] == 2
    commits = found["commit_duration_seconds_count"]
    assert found['commit_duration_seconds_bucket{le="+Inf"}'] == commits > 10
    assert found["pull_duration_seconds_count"] == 1
    assert found["last_event_timestamp_seconds"] >= began
    assert found["last_registry_log_line_timestamp_seconds"] >= began


def test_a_disk_that_fails_and_any_line_of_the_registrys_log(tmp_path):
    with Faulty(tmp_path, "--syslog-port", "0") as listener:
        listener.fault("fsync")
        assert listener.post(event())[0] == 503
        assert metrics(listener)["write_failing"] == 1
        assert metrics(listener)['http_requests_total{code="503"}'] == 1
        listener.fault("")
        assert listener.post(event())[0] == 200
        assert metrics(listener)["write_failing"] == 0
        listener.syslog(b"<27>1 - - registry - - - any line at all")
        until(lambda: metrics(listener)["last_registry_log_line_timestamp_seconds"])


def test_no_client_makes_a_series(tmp_path):
    with Listener(tmp_path) as listener:
        before = metrics(listener).keys()
        wild = '"}\n# x{y="z'
        for name in (wild, "a", "b"):
            listener.post(event(action=name, id=name, actor={"name": name},
                                target={"repository": name, "tag": name}))
        assert metrics(listener).keys() == before


def test_promtool_finds_nothing_wrong(tmp_path):
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        listener.post(event())
        Recording("docker_complete-registry2").just_now().play(listener)
        assert promtool("metrics", given=listener.request("GET", "/metrics")[1]) == (0, "")


@pytest.mark.parametrize("kind, name", [("rules", "alerts.yml"), ("config", "scrape.yml")])
def test_promtool_takes_the_files(kind, name):
    status, said = promtool(kind, str(HERE / "prometheus" / name))
    assert status == 0 and "SUCCESS" in said, said


def test_the_rules_ask_for_series_that_there_are(tmp_path):
    with Listener(tmp_path) as listener:
        there = {series.partition("{")[0] for series in metrics(listener)}
    text = (HERE / "prometheus" / "alerts.yml").read_text()
    asked = set(re.findall(r"registry_listener_(\w+)", text))
    assert asked and asked <= there
