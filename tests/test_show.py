"""What people read: lines of the console and rows of the table, from plain values."""

import re
import time

import pytest

from support import listener
from support.traffic import (DOCKER_29, DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST, FOO,
                             OCI_INDEX, START, Client, Image, Index, Life, attestation, digest_of,
                             with_attestation)

CONTROLS = "\x1b[31m\x07\r\n\t\0\x7f\x9b2J\u202e\u2028\ud800"

pytestmark = pytest.mark.usefixtures("utc")


def push(**target):
    sizes = [1484, 50_000_000, 25_000_000, 25_000_000, 25_000_000, 24_998_516]
    references = [{"mediaType": DOCKER_LAYER if number else DOCKER_CONFIG, "size": size,
                   "digest": "sha256:b6ef15975150" + f"{number:052x}"}
                  for number, size in enumerate(sizes)]
    return {
        "id": "1", "timestamp": "2020-01-01T06:09:49.123456789Z", "action": "push",
        "target": {"mediaType": DOCKER_MANIFEST, "digest": digest_of("m"), "size": 1366,
                   "repository": "my/ubuntu", "tag": "latest", "references": references,
                   "url": "https://r:5000/v2/my/ubuntu/manifests/" + digest_of("m"), **target},
        "request": {"id": "2", "addr": "172.18.0.1:50412", "host": "r:5000", "method": "PUT",
                    "useragent": "docker/20.10.24+dfsg1 go/go1.19.8 os/linux"},
        "actor": {"name": "foo"}, "source": {"addr": "r:5000"}}


# ----------------------------------------------------------------------------------- an event

def test_line_of_a_push():
    assert listener.event_line(push()) == (
        "06:09:49 push  my/ubuntu:latest  150.0 MB in 5 layers  image b6ef15975150  "
        "by foo from 172.18.0.1 (docker/20.10.24)")


def test_line_is_in_local_time(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    assert listener.event_line(push()).startswith("15:09:49 push  my/ubuntu:latest  ")


def test_line_of_a_push_without_a_tag_and_of_one_layer():
    line = listener.event_line(push(tag="", references=push()["target"]["references"][:2]))
    assert line.startswith(f"06:09:49 push  my/ubuntu@{digest_of('m')[7:19]}  "
                           "50.0 MB in 1 layer  image b6ef15975150  by foo")


def test_line_of_an_index():
    index = Index(Image("amd64"), Image("arm64"))
    line = listener.event_line(push(mediaType=OCI_INDEX, references=index.references))
    assert line.startswith("06:09:49 push  my/ubuntu:latest  index of 2 manifests  by foo from ")


def test_line_of_a_layer_and_of_a_mount():
    url = "https://r:5000/v2/my/ubuntu/blobs/" + digest_of("m")
    blob = push(mediaType="application/octet-stream", size=75_181_999, url=url, tag="",
                references=None)
    assert listener.event_line(blob).startswith(
        f"06:09:49 push  my/ubuntu  layer {digest_of('m')[7:19]}  75.2 MB")
    mount = {**blob, "action": "mount"}
    mount["target"]["fromRepository"] = "my/debian"
    assert re.match(r"06:09:49 mount +my/ubuntu  layer \w{12}  75.2 MB  from my/debian\b",
                    listener.event_line(mount))


def test_line_of_a_delete():
    """It has neither size nor references, and no tag."""
    event = push()
    event["action"], event["target"] = "delete", {"digest": digest_of("m"),
                                                  "repository": "my/ubuntu"}
    assert listener.event_line(event) == (
        f"06:09:49 delete  my/ubuntu@{digest_of('m')[7:19]}  "
        "by foo from 172.18.0.1 (docker/20.10.24)")


@pytest.mark.parametrize("path", [
    ("action",), ("timestamp",), ("target", "repository"), ("target", "tag"), ("target", "digest"),
    ("target", "mediaType"), ("target", "url"), ("target", "fromRepository"),
    ("target", "references", 0, "digest"), ("request", "addr"), ("request", "useragent"),
    ("request", "method"), ("actor", "name")], ids=str)
def test_controls_are_escaped_in_every_field(path):
    for text in (CONTROLS, "abc" + CONTROLS, CONTROLS * 1000):
        event = push()
        inside = event
        for name in path[:-1]:
            inside = inside[name]
        inside[path[-1]] = text
        for event["action"] in (event["action"], "pull"):
            line = listener.event_line(event)
            assert line.isprintable(), line
            line.encode("utf-8")


WRONG = [None, True, 5, -1, 1e300, "", [], {}, [None], {"x": 1}, "x" * 5000, 10 ** 50]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: repr(wrong)[:10])
def test_members_of_any_type(wrong):
    """Whatever JSON may hold where a registry would not put it: a line, and no exception."""
    def walk(value, put):
        put(wrong)
        yield
        put(value)
        items = value.items() if isinstance(value, dict) else (
            enumerate(value) if isinstance(value, list) else ())
        for key, inside in list(items):
            yield from walk(inside, lambda new, key=key: value.__setitem__(key, new))
    for action in ("push", "pull", "delete"):
        event = {**push(), "action": action}
        for key, value in list(event.items()):
            for _ in walk(value, lambda new, key=key: event.__setitem__(key, new)):
                assert listener.event_line(event).isprintable()
                listener.event_fact(event)
    assert listener.event_line({}).isprintable()


# ------------------------------------------------------------------------------------------- a pull

def lines(*facts, wait=31):
    """What the console would say of FACTS, without the colours."""
    life, said = Life(now=START), []
    keep = life._keep

    def follow(changes):
        said.extend(listener.pull_line(change, life.now) for change in changes
                    if change.what != "forgotten")
        keep(changes)

    life._keep = follow
    life.feed(*facts).wait(wait)
    return said


def test_lines_of_a_complete_pull():
    image = Image(sizes=(1000, 100_000_000, 49_999_000))
    assert lines(*FOO.pull(START, image)) == [
        f"10:00:00 pull  my/app:1  started  150.0 MB in 2 layers  image {image.config[7:19]}  "
        "by foo from 172.18.0.1 (docker/20.10.24)",
        "10:00:02 pull  my/app:1  complete  150.0 MB after 3 s  "
        "by foo from 172.18.0.1 (docker/20.10.24)"]


def test_lines_of_an_interrupted_pull_that_goes_on():
    image = Image(sizes=(1000, 100_000_000, 49_999_000))
    facts = FOO.pull(START, image, cut=image.layers[0])
    facts += FOO.blob(START + 60, image, image.layers[0], 50_000_000, 206, took=5)
    _, interrupted, resumed, complete = lines(*facts)
    assert interrupted == (
        "10:00:02 pull  my/app:1  interrupted  100.0 MB of 150.0 MB (66 %) after 3 s  "
        "by foo from 172.18.0.1 (docker/20.10.24)")
    assert re.match(r"10:01:0\d pull  my/app:1 of 10:00:00 goes on after all  by foo from ",
                    resumed)
    assert complete.startswith("10:01:05 pull  my/app:1  complete  150.0 MB after 65 s  ")


def test_lines_of_other_ends():
    image = Image()
    said, = lines(FOO.manifest(START, image, "HEAD", "1"))
    assert said.startswith("10:00:00 pull  my/app:1  up to date  by foo from ")
    refused = [*FOO.asks(START, image), *FOO.blob(START + 1, image, image.layers[0], 80, 404)]
    assert (f"  failed: the registry answered 404 for layer {image.layers[0][7:19]}  after "
            in lines(*refused)[1])
    gone = [*FOO.asks(START, image), *FOO.blob(START + 1, image, image.layers[0], 0)]
    assert (f"  failed: the registry sent nothing of layer {image.layers[0][7:19]}  after "
            in lines(*gone)[1])
    events = [fact for fact in FOO.pull(START, image) if fact.event]
    assert "  unknown  " in lines(*events)[1]
    some = [*FOO.asks(START, image), *FOO.blob(START + 1, image, image.config),
            *FOO.blob(START + 1, image, image.layers[0])]
    assert "  unknown  1.0 MB after " in lines(*some)[1]
    assert "whether the client had the other 1 blob is not known" in lines(*some)[1]
    cached = [*FOO.asks(START, image), *FOO.blob(START + 1, image, image.config),
              *FOO.blob(START + 1, image, image.layers[1])]
    assert "1 layer there already" in lines(*cached)[1]


def test_lines_of_an_image_with_an_attestation():
    """It is downloaded, but it is no layer, and no other platform's image."""
    image, sbom = Image("amd64", oci=True), attestation(200_000)
    first, second = image.layers
    facts = [fact for fact in with_attestation(DOCKER_29, image, sbom) if fact.digest != first]
    facts += [fact for digest in sbom.sizes for fact in DOCKER_29.blob(START + 0.2, sbom, digest)]
    started, complete = lines(*facts)
    assert f" in 2 layers  image {image.config[7:19]}  " in started
    assert "  complete  2.2 MB after " in complete and "  1 layer there already  " in complete


def test_interrupted_is_never_said_to_be_all_of_it():
    """Rounding does not make 100 % of what is not whole; nor 0 of what nobody knows."""
    image = Image(sizes=(1000, 100_000_000))
    facts = FOO.asks(START, image) + FOO.blob(START + 1, image, image.config)
    facts += FOO.blob(START + 1, image, image.layers[0], 99_999_999)
    assert "(99 %)" in lines(*facts)[1]


def test_line_without_user_tag_and_agent():
    nobody = Client(user=None, agent="", host="fe80::1")
    nobody_asks = nobody.manifest(START, Image("m"), "GET")
    line = lines(nobody_asks)[0]
    assert re.fullmatch(rf"10:00:00 pull  my/app@{digest_of('m')[7:19]}  started  .*"
                        r"  from \[?fe80::1\]?.*", line) and "by" not in line.split()


def test_controls_are_escaped_in_the_lines_of_pulls():
    client = Client(user=CONTROLS, host=CONTROLS, agent=CONTROLS, repository=CONTROLS)
    image = Image(CONTROLS.replace("\ud800", ""))
    image.digest = image.references[0]["digest"] = CONTROLS
    for facts in ([client.manifest(START, image, "GET", CONTROLS)],
                  [client.manifest(START, image)],
                  [client.sent(START, "1", CONTROLS, 5)]):
        said = lines(*facts)
        assert len(said) >= 2 and all(line.isprintable() for line in said)


def test_layers_that_were_cut():
    image = Image()
    life = Life(*FOO.pull(START, image, cut=image.layers[1])).wait(31)
    pull, = life.tracker
    line, = listener.cut_layers(pull, life.now)
    assert line.split("cut: ")[1] == f"{image.layers[1][7:19]}  1.0 MB of 2.0 MB"
