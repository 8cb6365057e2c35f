"""What is read of an event and of a line of the registry's log: a fact each."""

import json

import pytest

from support import listener
from support.traffic import FOO, START, Client, Image, Life, digest_of, stamp


def test_fields_of_a_line_are_unquoted_as_go_quotes_them():
    agent = 'docker/20 "x" \\(linux\\) \t\n\x1b \x7f \u00e9 \u2028 \U0001f600'
    quoted = ('"docker/20 \\"x\\" \\\\(linux\\\\) \\t\\n\\x1b \\x7f \u00e9 \\u2028 \U0001f600"')
    line = Client(agent="AGENT").line(START, "1", digest_of("x"), "authorized request")
    fact = listener.line_fact(line.replace("AGENT", quoted))
    assert fact.agent == agent
    fields = {"time": stamp(START), "level": "info", "msg": "authorized request",
              "http.request.id": "1", "http.request.method": "GET",
              "http.request.host": "r:5000", "http.request.remoteaddr": "172.18.0.1:50412",
              "http.request.useragent": agent,
              "http.request.uri": "/v2/my/app/blobs/" + digest_of("x")}
    assert listener.line_fact(json.dumps(fields)) == fact


@pytest.mark.parametrize("took, began", [
    ("969.665\u00b5s", 0.000969665), ("3.861889ms", 0.003861889), ("1.5s", 1.5),
    ("2m3.5s", 123.5), ("1h2m3s", 3723), ("999ns", 999e-9), ("0s", 0)])
def test_begin_of_a_request_is_told_by_its_end(took, began):
    line = FOO.line(START, "1", digest_of("x"), "response completed",
                    f' http.response.duration="{took}" http.response.status=200 '
                    "http.response.written=5")
    assert listener.line_fact(line).began == pytest.approx(START - began, abs=1e-6)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_that_was_cut_before_the_bytes_written_tells_of_no_end(form):
    """As by a crash. Of a number that was cut itself nobody can tell."""
    line = FOO.line(START, "1", digest_of("x"), "response completed",
                    " http.response.duration=1ms http.response.status=200 "
                    "http.response.written=1000")
    if form == "json":
        fields, _ = listener.log_fields(line)
        line = json.dumps({**fields, "http.response.status": 200, "http.response.written": 1000})
    assert listener.line_fact(line).written == 1000
    for end in range(line.index("1000")):
        try:
            fact = listener.line_fact(line[:end])
        except ValueError:
            continue
        assert fact is None or not fact.ended, line[:end]


@pytest.mark.parametrize("query", ["", "?x=1", "?ns=docker.io"])
def test_repository_and_digest_of_a_line(query):
    for repository in ("a", "a/b/c", "a/blobs/b", "a-b.c/d_e"):
        client = Client(repository=repository)
        line = client.line(START, "1", digest_of("x") + query, "authorized request")
        fact = listener.line_fact(line)
        assert (fact.repository, fact.digest) == (repository, digest_of("x"))


@pytest.mark.parametrize("repository", ["a", "a/blobs/b", "a/manifests/b", "blobs", "manifests"])
def test_repository_of_any_name(repository):
    """The parts of the address have these names too."""
    client = Client(repository=repository)
    image = Image()
    life = Life(*client.pull(START, image)).wait(2)
    assert [(pull["image"], pull["verdict"]) for pull in life.pulls()] == [
        (f"{repository}:1", "complete")]


# What a pull-through cache says when its client leaves in the middle of a blob, by http/1 and 2;
# and what it says when it cannot read from the registry behind it.
@pytest.mark.parametrize("detail, left", [
    ("write tcp 10.0.0.1:5000->10.0.0.2:54992: write: broken pipe", True),
    ("write tcp 10.0.0.1:5000->10.0.0.2:54992: write: connection timed out", True),
    ("write tcp 10.0.0.1:5000->10.0.0.2:54992: write: software caused connection abort", True),
    ("connection reset by peer", True), ("context canceled", True), ("client disconnected", True),
    ("read tcp 10.0.0.1:5000->10.0.0.9:443: read: connection reset by peer", False),
    ("unexpected EOF", False), ("filesystem: no space left on device", False)])
def test_an_error_that_the_client_made_by_leaving(detail, left):
    line = FOO.line(START, "1", digest_of("x"), "response completed with error",
                    f' err.detail="{detail}" http.response.duration=1s http.response.status=500 '
                    "http.response.written=5000")
    assert listener.line_fact(line).client_left == left


@pytest.mark.parametrize("late", ["9999-12-31T23:59:69.0Z", "9999-12-31T23:59:00.5-23:59"])
def test_a_time_after_all_that_can_be_written_is_none(late):
    line = FOO.line(START, "1", digest_of("x"), "response completed",
                    " http.response.duration=1s http.response.status=200 http.response.written=5")
    with pytest.raises(ValueError):
        listener.line_fact(line.replace(stamp(START), late))
