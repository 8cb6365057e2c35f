"""The Tracker: facts of requests in, pulls and their verdicts out, with no I/O and no clock."""

import functools
import gc
import itertools
import json
import random
import re
import sys
import time
import weakref

import pytest

from support import listener
from support.process import Listener, run, until
from support.recordings import NAMES, Recording, differences
from support.traffic import (DOCKER_INDEX, DOCKER_MANIFEST, START, Client, Image, Index, Life,
                             digest_of, registry_started, stamp)

FOO = Client()
IMAGE = Image()
CONFIG, FIRST, SECOND = IMAGE.sizes
BIG = IMAGE.sizes[SECOND]


def cut_at(at, written=BIG // 4):
    """A pull of IMAGE of which one layer was cut at that time."""
    return [*FOO.asks(START, IMAGE), *FOO.blob(START + 0.2, IMAGE, CONFIG),
            *FOO.blob(START + 0.2, IMAGE, FIRST),
            *FOO.blob(START + 0.2, IMAGE, SECOND, written, took=at - START - 0.2)]


# ------------------------------------------------------------------------------------ the verdicts

def test_complete():
    life = Life(*FOO.pull(START, IMAGE)).wait(1)
    pull = life.pull()
    assert pull["verdict"] == "complete"
    assert (pull["requested"], pull["sent"], pull["size"], pull["layers"]) == (
        3, IMAGE.size, IMAGE.size, 2)
    assert (pull["image"], pull["digest"], pull["image_id"]) == ("my/app:1", IMAGE.digest, CONFIG)
    assert (pull["started"], pull["ended"]) == (stamp(START), stamp(START + 2.7))
    # Said as soon as it is: nobody waits to hear that a download is done.
    assert life.told("ended") == [(pytest.approx(3, abs=1), "complete")]


def test_started_is_said_when_image_and_size_are_known():
    life = Life(FOO.manifest(START, IMAGE, "HEAD", "1"), FOO.manifest(START + 0.1, IMAGE))
    said = [(what, image) for _, what, image, _ in life.said]
    assert said == [("started", "my/app:1")]
    life = Life(*FOO.pull(START, IMAGE)).wait(100)
    assert len(life.told("started")) == 1


@pytest.mark.parametrize("oci", [False, True], ids=["docker", "oci"])
def test_media_types(oci):
    image = Image(oci=oci)
    assert Life(*FOO.pull(START, image)).wait(1).verdicts() == ["complete"]
    life = Life(*FOO.pull(START, image, cut=image.layers[1])).wait(31)
    assert life.verdicts() == ["interrupted"]
    # No config asked for: that it became an image is not sure.
    some = [*FOO.asks(START, image), *FOO.blob(START + 1, image, image.layers[0])]
    assert Life(*some).wait(40).verdicts() == ["unknown"]


def test_up_to_date():
    life = Life(FOO.manifest(START, IMAGE, "HEAD", "1")).wait(29)
    assert life.pull()["verdict"] == "running"
    life.wait(2)
    pull = life.pull()
    assert pull["verdict"] == "up to date"
    assert (pull["requested"], pull["sent"], pull["size"]) == (0, 0, IMAGE.size)
    assert life.told("ended") == [(pytest.approx(30, abs=1), "up to date")]


def test_interrupted_is_said_30_seconds_after_the_last_request():
    life = Life(*cut_at(START + 5)).wait(29)
    assert life.pull()["verdict"] == "running" and not life.told("ended")
    life.wait(2)
    pull = life.pull()
    assert pull["verdict"] == "interrupted"
    assert pull["sent"] == IMAGE.sizes[CONFIG] + IMAGE.sizes[FIRST] + BIG // 4
    assert pull["ended"] == stamp(START + 5)
    assert life.told("ended") == [(pytest.approx(35.5, abs=0.5), "interrupted")]
    life.wait(300)
    assert len(life.told("ended")) == 1  # and once only


@pytest.mark.parametrize("phase", [0, 0.25, 0.5, 0.999])
@pytest.mark.parametrize("pause", [0.1, 0.4, 1])
def test_interrupted_is_said_in_time_whenever_the_ticks_come(phase, pause):
    life = Life(*cut_at(START + 5))
    end = life.now
    life.now += phase
    while life.now < end + 32:
        life.now += pause
        life.tick()
    (said, verdict), = life.told("ended")
    assert verdict == "interrupted" and 30 <= said - 5 <= 31.1


def test_interrupted_is_taken_back_when_the_client_goes_on():
    life = Life(*cut_at(START + 5)).wait(35)
    life.feed(*FOO.blob(START + 60, IMAGE, SECOND, BIG - BIG // 4, 206, took=3)).wait(2)
    assert [told for _, told, _, _ in life.said] == ["started", "ended", "resumed", "ended"]
    assert life.told("resumed") == [(pytest.approx(60, abs=1), "running")]
    assert life.told("ended")[1] == (pytest.approx(64, abs=1), "complete")
    assert life.pull()["sent"] == IMAGE.size


def test_open_request_is_running_for_as_long_as_a_slow_line_may_take():
    big = Image(sizes=(500, 1_000_000_000))
    life = Life(*FOO.asks(START, big), *FOO.blob(START + 1, big, big.config),
                FOO.begins(START + 1, "slow", big.layers[0]))
    for _ in range(4):
        life.wait(900)
        assert life.verdicts() == ["running"]
    life.feed(FOO.sent(START + 4000, "slow", big.layers[0], 1_000_000_000),
              FOO.ends(START + 4000, "slow", big.layers[0], 1_000_000_000, took=3999)).wait(2)
    assert life.verdicts() == ["complete"]
    assert [told for _, told, _, _ in life.said] == ["started", "ended"]


def test_request_that_never_ends_is_cut_in_the_end():
    """Its last line was lost on the way, and some storage drivers make no event of a cut blob."""
    life = Life(*FOO.asks(START, IMAGE), *FOO.blob(START + 1, IMAGE, CONFIG),
                FOO.begins(START + 1, "lost", SECOND)).wait(7200)
    assert life.told("ended") and life.told("ended")[-1][1] in ("interrupted", "unknown")
    assert life.pull()["sent"] is None


def test_no_line_of_the_log_is_unknown():
    facts = [fact for fact in FOO.pull(START, IMAGE) if fact.event]
    pull = Life(*facts).wait(31).pull()
    assert (pull["verdict"], pull["sent"], pull["requested"]) == ("unknown", None, 3)


def test_lost_line_is_unknown():
    facts = FOO.pull(START, IMAGE)
    lost = next(fact for fact in facts if fact.written == BIG)
    pull = Life(*(fact for fact in facts if fact is not lost)).wait(31).pull()
    assert (pull["verdict"], pull["sent"]) == ("unknown", None)


def test_lost_line_of_a_pull_that_was_cut_is_still_interrupted():
    facts = FOO.pull(START, IMAGE, cut=FIRST)
    lost = next(fact for fact in facts if fact.written == BIG)
    pull = Life(*(fact for fact in facts if fact is not lost)).wait(31).pull()
    assert (pull["verdict"], pull["sent"]) == ("interrupted", None)


def test_redirect_to_the_storage_is_unknown():
    life = Life(*FOO.asks(START, IMAGE), *FOO.blob(START + 1, IMAGE, CONFIG),
                *FOO.blob(START + 1, IMAGE, SECOND, 0, 307)).wait(31)
    assert (life.pull()["verdict"], life.pull()["sent"]) == ("unknown", None)


@pytest.mark.parametrize("status", [403, 404, 429, 500, 503])
def test_blob_that_was_refused(status):
    """The user did nothing: the registry answered with an error, and nothing brought it later."""
    life = Life(*FOO.asks(START, IMAGE), *FOO.blob(START + 1, IMAGE, CONFIG),
                *FOO.blob(START + 1, IMAGE, SECOND, 80, status)).wait(31)
    pull = life.pull()
    assert (pull["verdict"], pull["error"], pull["requested"]) == ("failed", status, 2)
    life.feed(*FOO.blob(START + 40, IMAGE, SECOND)).wait(31)
    assert (life.pull()["verdict"], life.pull()["error"]) == ("complete", None)


def test_what_follows_the_end_is_no_refusal():
    life = Life(*FOO.asks(START, IMAGE), *FOO.blob(START + 1, IMAGE, CONFIG),
                *FOO.blob(START + 1, IMAGE, SECOND, 80, 416)).wait(31)
    assert life.verdicts() == ["unknown"]
    assert Life(*FOO.pull(START, IMAGE), *FOO.asks(START + 40, IMAGE),
                *FOO.blob(START + 41, IMAGE, SECOND, 80, 416)).wait(31).verdicts() == [
                    "complete", "complete"]


def test_request_without_a_token_yet_is_none():
    refused = [fact for fact in FOO.blob(START + 1, IMAGE, SECOND, 80, 401) if fact.status]
    life = Life(*FOO.asks(START, IMAGE), *refused).wait(31)
    assert (life.pull()["verdict"], life.pull()["requested"]) == ("up to date", 0)


# ------------------------------------------------------------------------------------- manifests

def test_head_then_get_is_one_pull():
    assert len(Life(*FOO.asks(START, IMAGE)).pulls()) == 1
    by_tag = [FOO.manifest(START, IMAGE, "HEAD", "1"), FOO.manifest(START + 1, IMAGE, "GET", "1")]
    assert len(Life(*by_tag).pulls()) == 1
    by_digest = [FOO.manifest(START, IMAGE, "HEAD"), FOO.manifest(START + 1, IMAGE, "GET")]
    pull = Life(*by_digest).pull()
    assert pull["image"] == f"my/app@{IMAGE.digest}" and pull["tag"] is None


def test_asking_again_is_another_pull():
    life = Life(*FOO.asks(START, IMAGE), *FOO.asks(START + 5, IMAGE)).wait(31)
    assert life.verdicts() == ["up to date", "up to date"]
    for method in ("HEAD", "GET"):
        life = Life(*(FOO.manifest(START + at, IMAGE, method, "1") for at in (0, 5)))
        assert len(life.pulls()) == 2


def test_another_tag_of_the_same_image_is_another_pull():
    life = Life(*FOO.asks(START, IMAGE, "1"), *FOO.asks(START + 5, IMAGE, "latest"))
    assert [pull["image"] for pull in life.pulls()] == ["my/app:1", "my/app:latest"]


@pytest.mark.parametrize("change", [{"user": "bar"}, {"host": "172.18.0.2"}, {"agent": "podman/4"},
                                    {"repository": "my/other"}, {"user": None}])
def test_another_client_is_another_pull(change):
    other = Client(**change)
    life = Life(FOO.manifest(START, IMAGE, "HEAD", "1"), other.manifest(START + 5, IMAGE))
    assert len(life.wait(31).pulls()) == 2


def test_client_with_two_addresses():
    """Behind NAT, or with IPv4 and IPv6: what its own address has no pull for is another's."""
    other = Client(host="2001:db8::2")
    facts = [FOO.manifest(START, IMAGE, "HEAD", "1"), other.manifest(START + 0.1, IMAGE),
             *FOO.blob(START + 0.2, IMAGE, CONFIG), *FOO.blob(START + 0.3, IMAGE, FIRST),
             *other.blob(START + 0.4, IMAGE, SECOND, 10)]
    pull = Life(*facts).wait(31).pull()
    assert (pull["image"], pull["verdict"], pull["requested"]) == ("my/app:1", "interrupted", 3)


@pytest.mark.parametrize("oci", [False, True], ids=["docker", "oci"])
def test_tag_comes_from_the_index_and_layers_from_the_manifest(oci):
    mine, other = Image("amd64", oci=oci), Image("arm64", sizes=(500, 10), oci=oci)
    index = Index(other, mine, oci=oci)
    facts = [FOO.manifest(START, index, "HEAD", "1"), FOO.manifest(START + 0.1, index),
             FOO.manifest(START + 0.2, mine)]
    for digest in mine.sizes:
        facts += FOO.blob(START + 1, mine, digest)
    pull = Life(*facts).wait(1).pull()
    assert (pull["image"], pull["digest"], pull["image_id"]) == ("my/app:1", mine.digest,
                                                                 mine.config)
    assert (pull["size"], pull["layers"], pull["verdict"]) == (mine.size, 2, "complete")


def test_started_is_not_said_before_the_index_led_to_a_manifest():
    mine = Image("amd64", oci=True)
    index = Index(mine)
    life = Life(FOO.manifest(START, index, "HEAD", "1"), FOO.manifest(START + 0.1, index))
    assert life.said == []
    # Nor before a layer: containerd asks for the manifests and configs of all platforms.
    life.feed(FOO.manifest(START + 0.2, mine), FOO.begins(START + 0.3, "1", mine.layers[0]))
    assert [what for _, what, _, _ in life.said] == ["started"]


def test_index_alone():
    """docker has the image of its platform already."""
    index = Index(Image("amd64"))
    pull = Life(FOO.manifest(START, index, "HEAD", "1")).wait(31).pull()
    assert (pull["verdict"], pull["image"]) == ("up to date", "my/app:1")
    assert (pull["digest"], pull["size"], pull["layers"], pull["image_id"]) == (None,) * 4


def test_all_platforms_of_an_index():
    """`skopeo copy --all`: a manifest after the other, by one client."""
    images = [Image(name, sizes=(500, 7000 + number)) for number, name in enumerate("abc")]
    facts = [FOO.manifest(START, Index(*images), "GET", "1")]
    for number, image in enumerate(images):
        facts.append(FOO.manifest(START + 1 + number * 3, image))
        for digest in image.sizes:
            facts += FOO.blob(START + 2 + number * 3, image, digest)
    life = Life(*facts).wait(31)
    assert set(life.verdicts()) <= {"complete", "up to date"}
    sent = sum(pull["sent"] for pull in life.pulls())
    assert sent == sum(image.size for image in images)
    assert life.pulls()[0]["image"] == "my/app:1"


def test_layers_that_were_there_are_not_missed():
    life = Life(*FOO.asks(START, IMAGE), *FOO.blob(START + 1, IMAGE, CONFIG),
                *FOO.blob(START + 1, IMAGE, SECOND)).wait(10)
    pull = life.pull()
    assert (pull["verdict"], pull["requested"]) == ("complete", 2)
    assert pull["sent"] == IMAGE.size - IMAGE.sizes[FIRST]


def test_all_layers_but_no_config_is_unknown():
    """skopeo asks for the config last."""
    life = Life(*FOO.asks(START, IMAGE), *FOO.blob(START + 1, IMAGE, FIRST),
                *FOO.blob(START + 2, IMAGE, SECOND)).wait(29)
    assert life.pull()["verdict"] == "running"
    life.wait(5)
    assert life.pull()["verdict"] == "unknown"
    assert life.pull()["sent"] == IMAGE.size - 500


@pytest.mark.parametrize("config_type", ["application/vnd.oci.empty.v1+json",
                                         "application/vnd.cncf.helm.config.v1+json"])
def test_artifact_needs_no_config(config_type):
    thing = Image("thing", oci=True, config_type=config_type)
    facts = [FOO.manifest(START, thing, "GET", "1")]
    facts += [fact for digest in thing.layers for fact in FOO.blob(START + 1, thing, digest)]
    pull = Life(*facts).wait(31).pull()
    assert (pull["verdict"], pull["requested"], pull["layers"]) == ("complete", 2, 2)
    facts[-1] = facts[-1]._replace(written=5)
    assert Life(*facts).wait(31).pull()["verdict"] == "interrupted"


def test_manifest_without_references():
    image = Image(references=False)
    pull = Life(*FOO.pull(START, image)).wait(31).pull()
    assert pull["verdict"] == "complete"
    assert (pull["size"], pull["layers"], pull["sent"]) == (None, None, image.size)
    pull = Life(*FOO.pull(START, image, cut=image.layers[0])).wait(31).pull()
    assert (pull["verdict"], pull["sent"]) == ("interrupted", image.size - 500_000)


def test_blobs_whose_manifest_never_came():
    blobs = [fact for fact in FOO.pull(START, IMAGE) if fact.kind == "blob"]
    pull = Life(*blobs).wait(31).pull()
    assert (pull["image"], pull["size"], pull["digest"]) == ("my/app", None, None)
    assert (pull["verdict"], pull["sent"], pull["requested"]) == ("complete", IMAGE.size, 3)
    blobs = [fact for fact in FOO.pull(START, IMAGE, cut=FIRST) if fact.kind == "blob"]
    assert Life(*blobs).wait(31).verdicts() == ["interrupted"]


def test_layer_that_an_image_has_twice():
    image = Image(sizes=(500, 1000))
    image.references.append(image.references[1])
    pull = Life(*FOO.pull(START, image)).wait(1).pull()
    assert (pull["verdict"], pull["requested"], pull["sent"]) == ("complete", 2, 1500)


def test_empty_layer():
    image = Image(sizes=(500, 0, 1000))
    assert Life(*FOO.pull(START, image)).wait(1).verdicts() == ["complete"]


def test_push_is_no_pull():
    """A client that pushes asks with HEAD what is there; its log lines are no downloads either."""
    assert FOO.sent(START, "1", FIRST, 5, "HEAD") is None
    event = FOO.event(START, "1", IMAGE.digest, 800, "manifests", "PUT", "1", IMAGE.references,
                      DOCKER_MANIFEST)
    assert listener.event_fact({**event, "action": "push"}).kind == "pushed"
    assert Life(listener.event_fact({**event, "action": "push"})).wait(31).pulls() == []
    for message in ("authorized request", "response completed"):
        line = FOO.line(START, "1", FIRST, message,
                        " http.response.status=200 http.response.written=0")
        assert listener.line_fact(line) is not None
        for method in ("HEAD", "PUT", "POST", "PATCH", "DELETE"):
            assert listener.line_fact(line.replace("method=GET", f"method={method}")) is None
        assert listener.line_fact(line.replace("/blobs/", "/blobs/uploads/")) is None


# ------------------------------------------------------------------------- layers in several parts

def test_resumed_with_a_range():
    facts = cut_at(START + 5) + FOO.blob(START + 10, IMAGE, SECOND, BIG - BIG // 4, 206)
    pull = Life(*facts).wait(1).pull()
    assert (pull["verdict"], pull["sent"], pull["requested"]) == ("complete", IMAGE.size, 3)


def test_cut_again_and_again():
    facts, sent = cut_at(START + 2, 100_000), 100_000
    for at in (7, 17, 32, 52, 77):  # docker waits 5, 10, 15, 20, 25 s
        facts += FOO.blob(START + at, IMAGE, SECOND, 100_000, 206, took=0.1)
        sent += 100_000
    life = Life(*facts)
    assert not life.told("ended")
    life.wait(31)
    assert (life.pull()["verdict"], life.pull()["sent"]) == (
        "interrupted", IMAGE.size - BIG + sent)


def test_several_ranges_of_one_blob_at_once():
    part = BIG // 4
    facts = [*FOO.asks(START, IMAGE), *FOO.blob(START + 1, IMAGE, CONFIG)]
    ranges = [FOO.blob(START + 1, IMAGE, SECOND, part, 206, took=1 + number, request=f"r{number}")
              for number in range(4)]
    pull = Life(*facts, *sum(ranges, [])).wait(1).pull()
    assert (pull["verdict"], pull["sent"]) == ("complete", 500 + BIG)
    pull = Life(*facts, *sum(ranges[1:], [])).wait(31).pull()
    # As a client that reads some parts on purpose.
    assert (pull["verdict"], pull["sent"]) == ("unknown", None)


def test_repeats_from_the_start_are_not_counted_twice():
    """Two halves are no whole when both are the first half."""
    facts = cut_at(START + 2, BIG // 2) + FOO.blob(START + 7, IMAGE, SECOND, BIG // 2 + 1)
    pull = Life(*facts).wait(31).pull()
    assert (pull["verdict"], pull["sent"]) == ("interrupted", IMAGE.size - BIG + BIG // 2 + 1)


def test_repeated_from_the_start_and_whole():
    facts = cut_at(START + 2, BIG // 2) + FOO.blob(START + 7, IMAGE, SECOND)
    pull = Life(*facts).wait(1).pull()
    assert (pull["verdict"], pull["sent"]) == ("complete", IMAGE.size)


def test_next_pull_goes_on_where_the_last_was_cut():
    """containerd keeps the config and what it has of a layer: its next pull asks for the rest."""
    rest = BIG - BIG // 4
    first, again = cut_at(START + 5), FOO.asks(START + 20, IMAGE)
    life = Life(*first, *again, *FOO.blob(START + 21, IMAGE, SECOND, rest, 206)).wait(31)
    assert [(pull["verdict"], pull["sent"]) for pull in life.pulls()] == [
        ("interrupted", IMAGE.size - rest), ("complete", rest)]
    life = Life(*first, *again, *FOO.blob(START + 21, IMAGE, SECOND, rest // 2, 206)).wait(31)
    assert life.verdicts() == ["interrupted", "interrupted"]


def test_ranges_after_a_whole_pull():
    """The image was removed since: nothing of it is there any more, and all answers are 206."""
    def ranges(at, number):
        return [fact for part in range(number) for fact in FOO.blob(
            at, IMAGE, SECOND, BIG // 4, 206, request=f"{at}-{part}")]

    facts = [*FOO.asks(START, IMAGE), *FOO.blob(START + 1, IMAGE, CONFIG), *ranges(START + 1, 4),
             *FOO.asks(START + 100, IMAGE), *FOO.blob(START + 101, IMAGE, CONFIG),
             *ranges(START + 101, 3)]
    assert Life(*facts).wait(31).verdicts() == ["complete", "interrupted"]


def test_next_pull_asks_for_the_layers_that_the_last_did_not():
    first = [*FOO.asks(START, IMAGE), *FOO.blob(START + 1, IMAGE, CONFIG),
             *FOO.blob(START + 1, IMAGE, FIRST, 5)]
    again = [*FOO.asks(START + 20, IMAGE), *FOO.blob(START + 21, IMAGE, FIRST),
             *FOO.blob(START + 21, IMAGE, SECOND)]
    assert Life(*first, *again).wait(31).verdicts() == ["interrupted", "complete"]


def test_rest_of_a_layer_is_not_all_of_it_where_nothing_came_before():
    other = Client(host="172.18.0.2")
    facts = [*other.asks(START + 20, IMAGE), *other.blob(START + 21, IMAGE, CONFIG),
             *other.blob(START + 21, IMAGE, SECOND, BIG - BIG // 4, 206)]
    assert Life(*cut_at(START + 5), *facts).wait(31).verdicts()[1] in ("interrupted", "unknown")


def test_more_than_the_blob_has_is_not_sent():
    facts = cut_at(START + 2, BIG - 5) + FOO.blob(START + 7, IMAGE, SECOND, 5000, 206)
    assert Life(*facts).wait(1).pull()["sent"] == IMAGE.size


# --------------------------------------------------------------------------- the registry is killed

def killed(*later):
    """Two layers are under way when the registry is killed at 5 s and started at 8 s."""
    return [*FOO.asks(START, IMAGE), *FOO.blob(START + 0.2, IMAGE, CONFIG),
            FOO.begins(START + 0.2, "first", FIRST), FOO.begins(START + 0.2, "second", SECOND),
            registry_started(START + 8), *later]


def test_registry_killed_in_mid_layer():
    life = Life(*killed()).wait(29)
    assert life.verdicts() == ["running"]
    life.wait(2)
    pull = life.pull()
    # Nothing was sent after the last that was heard of the registry.
    assert (pull["verdict"], pull["sent"]) == ("interrupted", None)
    assert START <= listener.seconds(pull["ended"]) < START + 1


def test_registry_killed_and_all_sent_again_from_the_start():
    later = FOO.blob(START + 10, IMAGE, FIRST) + FOO.blob(START + 10, IMAGE, SECOND)
    pull = Life(*killed(*later)).wait(1).pull()
    assert (pull["verdict"], pull["sent"]) == ("complete", IMAGE.size)


def test_registry_killed_and_resumed_where_nobody_knows():
    later = (FOO.blob(START + 10, IMAGE, FIRST, 1000, 206)
             + FOO.blob(START + 10, IMAGE, SECOND, 1000, 206))
    assert Life(*killed(*later)).wait(31).verdicts() == ["unknown"]


def test_registry_killed_where_no_line_tells_what_it_was_sending():
    """Without token auth: a layer may have been under way, or have been there."""
    facts = [*FOO.asks(START, IMAGE), *FOO.blob(START + 0.2, IMAGE, CONFIG)[1:],
             registry_started(START + 8)]
    assert Life(*facts).wait(31).verdicts() == ["unknown"]


def test_registry_started_without_anybody_there():
    life = Life(registry_started(START), *FOO.pull(START + 1, IMAGE),
                registry_started(START + 100)).wait(31)
    assert life.verdicts() == ["complete"]


def test_start_of_another_registry_takes_nothing_from_what_goes_on():
    """Two registries may write into one log: an end that comes after all counts."""
    facts = killed(FOO.ends(START + 9, "first", FIRST, IMAGE.sizes[FIRST], took=9),
                   FOO.ends(START + 9, "second", SECOND, BIG, took=9))
    assert Life(*facts).wait(1).verdicts() == ["complete"]


# ------------------------------------------------------------------------------ several at one time

def test_two_images_by_one_client_at_once():
    """Each blob goes to the image that has it."""
    other = Image("other", sizes=(600, 3000, 4000))
    facts = FOO.pull(START, IMAGE) + FOO.pull(START + 0.5, other, "2", cut=other.layers[0])
    pulls = Life(*facts).wait(31).pulls()
    assert [(pull["image"], pull["verdict"], pull["sent"]) for pull in pulls] == [
        ("my/app:1", "complete", IMAGE.size), ("my/app:2", "interrupted", other.size - 1500)]


def test_shared_layer_goes_to_the_newest_that_lacks_it():
    """The first pull has the shared layer whole when the second asks for it."""
    other = Image("other", sizes=(600, 1_000_000, 4000), shared=[FIRST])
    facts = FOO.pull(START, IMAGE) + FOO.pull(START + 10, other, "2", cut=FIRST)
    pulls = Life(*facts).wait(31).pulls()
    assert [(pull["verdict"], pull["sent"]) for pull in pulls] == [
        ("complete", IMAGE.size), ("interrupted", other.size - 500_000)]


def test_blob_goes_to_the_newest_pull_that_lacks_it():
    """Two pulls of one image: the second has the layer whole, so who asks for it is the first."""
    facts = [*FOO.asks(START, IMAGE), *FOO.blob(START + 0.2, IMAGE, CONFIG),
             *FOO.asks(START + 1, IMAGE), *FOO.blob(START + 1.2, IMAGE, CONFIG),
             *FOO.blob(START + 1.2, IMAGE, SECOND), *FOO.blob(START + 2, IMAGE, SECOND, 77)]
    assert [(pull["verdict"], pull["sent"]) for pull in Life(*facts).wait(31).pulls()] == [
        ("interrupted", 500 + 77), ("complete", 500 + BIG)]


def test_same_image_again_after_an_interruption():
    facts = FOO.pull(START, IMAGE, cut=SECOND) + FOO.pull(START + 10, IMAGE)
    life = Life(*facts).wait(31)
    assert [(pull["verdict"], pull["sent"]) for pull in life.pulls()] == [
        ("interrupted", IMAGE.size - BIG // 2), ("complete", IMAGE.size)]
    assert sorted(verdict for _, verdict in life.told("ended")) == ["complete", "interrupted"]


def test_two_users_behind_one_address():
    """Same address, same agent, same image: the event's user tells whose request it was."""
    bar = Client(user="bar")
    facts = FOO.pull(START, IMAGE) + bar.pull(START + 0.1, IMAGE, cut=FIRST)
    pulls = Life(*facts).wait(31).pulls()
    assert [(pull["user"], pull["verdict"], pull["sent"]) for pull in pulls] == [
        ("foo", "complete", IMAGE.size), ("bar", "interrupted", IMAGE.size - 500_000)]


def test_attribution_is_mended_when_the_event_names_the_user():
    """The log alone gives bar's request to one of the two; its event comes later than its end."""
    bar = Client(user="bar")
    cut = bar.blob(START + 1, IMAGE, FIRST, 10, request="bars")
    facts = [*FOO.asks(START, IMAGE), *bar.asks(START + 0.1, IMAGE),
             *FOO.blob(START + 0.5, IMAGE, CONFIG), *bar.blob(START + 0.6, IMAGE, CONFIG),
             *FOO.blob(START + 0.9, IMAGE, FIRST), cut[0], cut[2]]
    life = Life(*facts)
    life.hear(cut[1]).wait(31)
    assert [(pull["user"], pull["verdict"], pull["sent"]) for pull in life.pulls()] == [
        ("foo", "unknown", 500 + 1_000_000), ("bar", "interrupted", 510)]


def test_pull_without_a_user_and_one_with():
    """Where a registry lets everybody read, some are logged in and others are not."""
    nobody = Client(user=None)
    facts = FOO.pull(START, IMAGE, cut=FIRST) + nobody.pull(START + 0.05, IMAGE)
    pulls = Life(*facts).wait(31).pulls()
    assert [(pull["user"], pull["verdict"]) for pull in pulls] == [
        ("foo", "interrupted"), (None, "complete")]


def test_event_that_comes_after_the_blobs():
    """A manifest's event that had to be sent again: until then the blobs are of no image."""
    facts = FOO.pull(START, IMAGE)
    manifests = [fact for fact in facts if fact.kind == "manifest"]
    life = Life(*(fact for fact in facts if fact not in manifests)).wait(3)
    assert life.pull()["image"] == "my/app"
    life.hear(*manifests).wait(2)
    pull = life.pull()
    assert (pull["image"], pull["verdict"]) == ("my/app:1", "complete")
    assert (pull["started"], pull["ended"]) == (stamp(START), stamp(START + 2.7))


def test_same_fact_twice_changes_nothing():
    facts = [fact for fact in cut_at(START + 5) for _ in range(2)]
    pull = Life(*facts).wait(31).pull()
    assert (pull["verdict"], pull["requested"]) == ("interrupted", 3)
    assert pull["sent"] == IMAGE.size - BIG + BIG // 4


@pytest.mark.parametrize("seconds", [20, 90, 900])
def test_layer_that_takes_long_where_no_line_tells_of_its_start(seconds):
    """Without token auth a registry's log says nothing when a request starts."""
    facts = [fact for fact in cut_at(START + seconds) if fact.ended]
    life = Life(*facts).wait(31)
    pull = life.pull()
    assert (pull["image"], pull["verdict"], pull["requested"]) == ("my/app:1", "interrupted", 3)
    facts = [fact for fact in cut_at(START + seconds, BIG) if fact.ended]
    pull = Life(*facts).wait(31).pull()
    assert (pull["verdict"], pull["sent"]) == ("complete", IMAGE.size)


# ------------------------------------------------------------------------- recordings in all orders

@functools.lru_cache(maxsize=None)
def recording(name):
    return Recording(name)


@pytest.mark.parametrize("name", NAMES)
def test_recording_lived_in_order(name):
    life = Life(*recording(name).facts()).wait(4000)
    assert differences(life.pulls(), recording(name).truth) == []
    check_story(life)


def check_story(life):
    """Each pull is said to start once, before anything else is said of it."""
    started = set()
    for _, what, image, verdict in life.said:
        # A question (HEAD) is none.
        assert what == "started" or image in started or verdict == "up to date"
        started.add(image)
        assert (what == "ended") == (verdict not in ("running",)) or what == "started"


def check_same(pulls, in_order):
    """Each member is the same, but the end: event and log line of a request differ in it by a
    millisecond, and a request that first seemed to be of another pull leaves its end there."""
    assert [{**pull, "ended": None} for pull in pulls] == [
        {**pull, "ended": None} for pull in in_order]
    for pull, same in zip(pulls, in_order):
        assert listener.seconds(pull["ended"]) > listener.seconds(same["ended"]) - 0.02


def mixed(facts, key):
    """FACTS in the order of KEY(fact), but each on its side of a registry's start.

    A registry that was killed takes along what it had not told.
    """
    starts = [fact.time for fact in facts if fact.kind == "start"]
    return sorted(facts, key=lambda fact: (sum(fact.time >= at for at in starts),
                                           fact.kind != "start", key(fact)))


@pytest.mark.parametrize("name", NAMES)
def test_recording_in_other_orders(name):
    """All at once, in any order: as when a listener that was away gets what was held back."""
    facts = recording(name).facts()
    in_order = Life(*facts).wait(4000)
    for seed in range(10):
        rest = random.Random(seed)
        life = Life(now=max((fact.time for fact in facts), default=START))
        life.hear(*mixed(facts, lambda _: rest.random())).wait(4000)
        assert differences(life.pulls(), recording(name).truth) == [], f"seed {seed}"
        check_same(life.pulls(), in_order.pulls())


@pytest.mark.parametrize("name", NAMES)
def test_recording_with_delays(name):
    """Events are up to 20 s late, as after a retry, and log lines a little; ticks go on."""
    facts = recording(name).facts()
    in_order = Life(*facts).wait(4000)
    for seed in range(5):
        rest = random.Random(seed)
        due = {fact: fact.time + rest.random() * (20 if fact.event else 0.2) for fact in facts}
        life = Life(now=min((fact.time for fact in facts), default=START))
        for fact in mixed(facts, due.get):
            life.wait_until(due[fact])
            life.hear(fact)
        life.wait(4000)
        assert differences(life.pulls(), recording(name).truth) == [], f"seed {seed}"
        check_same(life.pulls(), in_order.pulls())


@pytest.mark.parametrize("late", [0, 2])
def test_replicas_behind_one_name(late):
    """Two instances tell of the requests of one client in turn, each in a log of its own.

    LATE is how many seconds the lines of the second come after those of the first.
    """
    cut = FOO.pull(START + 40, Image("next"), "2", cut=digest_of("next/2"))
    facts = FOO.pull(START, IMAGE) + cut
    numbers = {fact.request: number for number, fact in enumerate(facts)}
    life = Life(now=START)
    due = {}
    for number, fact in enumerate(facts):
        instance = "ab"[numbers[fact.request] % 2]
        fact = fact._replace(instance=instance if fact.event else "")
        due[number] = fact.time + (late if instance == "b" and not fact.event else 0), fact
    for at, fact in sorted(due.values(), key=lambda entry: entry[0]):
        life.wait_until(at)
        life.hear(fact)
    life.wait(40)
    assert life.verdicts() == ["complete", "interrupted"]
    assert [verdict for _, verdict in life.told("ended")] == ["complete", "interrupted"]
    assert life.told("resumed") == []


# ------------------------------------------------------------------------------ made-up pulls, many

def story(rest, client, image, tag, at):
    """Random facts of one pull that ended by START + 600, and its verdict and bytes in truth."""
    index = Index(image, Image("other"), name=f"index of {image.digest}")
    if rest.random() < 0.3:
        facts = [client.manifest(at, index, "HEAD", tag), client.manifest(at + 0.1, index),
                 client.manifest(at + 0.2, image)]
    elif rest.random() < 0.5:
        facts = [client.manifest(at, image, "GET", tag)]
    else:
        facts = client.asks(at, image, tag)
    end = rest.choice(["complete", "complete", "up to date", "interrupted", "no config", "unknown"])
    if end == "up to date":
        return facts, end, 0
    layers = image.layers[rest.randrange(len(image.layers)):]  # those before them are there
    if end != "no config":
        layers.append(image.config)
        rest.shuffle(layers)
    victim, sent = layers[0], 0
    for digest in layers:
        size, at = image.sizes[digest], at + rest.random()
        if digest == victim and end == "unknown":
            lost = client.blob(at, image, digest, rest.randint(0, size - 1), took=rest.random() * 5)
            how = rest.choice(["lost", "redirected"])
            facts += lost[:2] if how == "lost" else [
                *lost[:2], lost[2]._replace(status=307, written=0)]
            continue
        cut = digest == victim and end == "interrupted"
        attempts, have = rest.choice([1, 1, 2, 3]), 0
        for attempt in range(attempts):
            last = attempt == attempts - 1
            part = rest.randint(0, (size - have) // 2)
            if last:
                part = rest.randint(0, size - have - 1) if cut else size - have
            took = 0.1 + rest.random() * 10
            facts += client.blob(at, image, digest, part, 206 if attempt else 200, took)
            have, at = have + part, at + took + rest.random() * 10
        sent += have
    verdict = "unknown" if end == "no config" else end
    return facts, verdict, None if end == "unknown" else sent


@pytest.mark.parametrize("seed", range(30))
def test_many_made_up_pulls_at_once(seed):
    """Users behind one address pull images at once and again; in order, and with late events."""
    rest = random.Random(seed)
    facts, truth = [], []
    for user in ("foo", "bar", "baz", None):
        client = Client(user=user, repository=rest.choice(["my/app", "my/other"]))
        for number in range(6):
            # One user's pulls at one time are of different images: of the same one, nobody knows.
            image = Image(f"image {number} of {user}", oci=rest.random() < 0.5, sizes=[
                rest.randint(1, 10 ** 6) for _ in range(rest.randint(2, 5))])
            tag, at = f"tag{number}", START + rest.random() * 60
            more, verdict, sent = story(rest, client, image, tag, at)
            facts += more
            truth.append((f"{client.repository}:{tag}", user or "", image.digest, verdict, sent))
    for delay in (0, 20):
        due = {fact: fact.time + rest.random() * (delay if fact.event else 0.2 * bool(delay))
               for fact in facts}
        life = Life(now=START)
        for fact in sorted(facts, key=due.get):
            life.wait_until(due[fact])
            life.hear(fact)
        life.wait(4000)
        assert sorted(truth, key=str) == sorted((
            (pull["image"], pull["user"] or "", pull["digest"], pull["verdict"], pull["sent"])
            for pull in life.pulls()), key=str)


@pytest.mark.parametrize("seed", range(10))
def test_nonsense(seed):
    """Facts that contradict each other, in no order of time: no exception, and all is forgotten."""
    rest = random.Random(seed)
    tracker, now = listener.Tracker(), START
    digests = [digest_of(str(number)) for number in range(6)]
    for _ in range(3000):
        now += rest.choice([0, 0, 0.1, 1, 20, -5, 4000 if rest.random() < 0.05 else 0])
        kind = rest.choice(["manifest", "pushed", "blob", "blob", "blob", "start"])
        at = now + rest.choice([0, -1, 1, -40, 1000])
        references = tuple((digest, rest.randint(0, 5), rest.choice(["", "x"]))
                           for digest in rest.choices(digests, k=rest.randint(0, 4)))
        ended, event = rest.random() < 0.6, rest.random() < 0.5
        fact = listener.Fact(
            kind, at, stamp(at), request=str(rest.randint(0, 300)), registry=rest.choice("rs"),
            instance=rest.choice("xyz"), method=rest.choice(["GET", "HEAD"]),
            repository=rest.choice("ab"), digest=rest.choice(digests),
            tag=rest.choice([None, "1", "2"]), size=rest.choice([None, 0, 5]),
            media_type=rest.choice([DOCKER_MANIFEST, DOCKER_INDEX, "application/octet-stream", ""]),
            references=references, client=rest.choice("cd"), agent=rest.choice("ef"),
            user=rest.choice([None, "foo", "bar"]), event=event, ended=ended or event,
            began=at - rest.randint(0, 3) if not event else None,
            status=rest.choice([200, 206, 307, 404, 416]) if ended and not event else None,
            written=rest.randint(0, 7) if ended and not event else None)
        tracker.feed(fact if kind != "start" else listener.Fact(
            "start", at, stamp(at), instance=rest.choice("xyzabc")))
        for change in tracker.tick(now):
            if change.what == "withdrawn":
                continue
            listener.pull_object(change.pull, now)
            assert listener.pull_line(change, now).isprintable()
            assert len(listener.pull_row(listener.pull_object(change.pull, now))) <= 100
        assert len(tracker) == sum(1 for _ in tracker)
    for day in range(20):
        tracker.tick(now + day * 86400)
    assert len(tracker) == 0 and held(tracker) < 300  # manifests, and when registries began


# ----------------------------------------------------------------------------------------- it stays

def held(thing, seen=None):
    """How many objects hang on the Tracker: its own, its containers', and all that is in them."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, (type(None), bool, type, type(held))):
        return 0
    seen.add(id(thing))
    inside = []
    if isinstance(thing, dict):
        inside = [*thing, *thing.values()]
    elif isinstance(thing, (list, tuple, set, frozenset)):
        inside = list(thing)
    names = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    inside += [getattr(thing, name) for name in names if hasattr(thing, name)]
    inside += vars(thing).values() if hasattr(thing, "__dict__") else []
    return 1 + sum(held(part, seen) for part in inside)


def feed_all(tracker, facts):
    """Live through FACTS, which are in the order of their time, without keeping what it says."""
    for fact in facts:
        tracker.tick(fact.time)
        tracker.feed(fact)


def test_year_of_pulls_stays_small():
    """Every verdict, every hour, every day; with clients that come and go."""
    tracker, sizes, at = listener.Tracker(), [], START
    for hour in range(24 * 365):
        client = Client(host=f"10.0.{hour % 7}.{hour % 251}", user=f"user{hour % 11}",
                        repository=f"my/app{hour % 13}")
        at = START + hour * 3600
        facts = client.pull(at, IMAGE, f"tag{hour}", cut=SECOND if hour % 3 == 0 else None)
        if hour % 5 == 0:
            facts = facts[:2]
        if hour % 5 == 1:
            facts = [fact for fact in facts if fact.event]
        if hour % 5 == 2:
            facts.append(client.begins(at + 60, f"open{hour}", SECOND))
        feed_all(tracker, sorted(facts, key=lambda fact: fact.time))
        if hour % 500 == 499:
            sizes.append((len(tracker), held(tracker)))
    assert max(number for number, _ in sizes) < 50
    assert max(objects for _, objects in sizes[1:]) < 2 * max(sizes[0][1], 2000)
    for hour in range(48):
        tracker.tick(at + hour * 3600)
    assert len(tracker) == 0 and held(tracker) < 200  # with manifests, as a client may have them


def endless_requests():
    """Requests that begin and never end, each by another client."""
    for number in range(20_000):
        client = Client(host=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        yield client.begins(START + number * 0.01, f"open{number}", FIRST)


def endless_repeats():
    """One client that asks for one blob over and over."""
    yield from FOO.asks(START, IMAGE)
    for number in range(20_000):
        yield FOO.ends(START + 1 + number * 0.01, f"again{number}", FIRST, 10, 206, took=0.001)


def endless_blobs():
    """Blobs of images whose manifests never come, each another."""
    for number in range(20_000):
        yield FOO.ends(START + number * 0.01, f"blob{number}", digest_of(str(number)), 10)


def endless_manifests():
    for number in range(20_000):
        yield FOO.manifest(START + number * 0.01, IMAGE, "HEAD", f"tag{number}")


def huge_events(media_type):
    """Manifests that each name a thousand blobs or manifests, the next manifest among them."""
    for number in range(400):
        references = [{"mediaType": "x", "size": 1, "digest": digest_of(f"{number}/{part}")}
                      for part in range(1000)]
        references[0]["digest"] = digest_of(f"huge{number + 1}")
        at = START + number * 0.5
        yield listener.event_fact(FOO.event(at, f"huge{number}", digest_of(f"huge{number}"), 800,
                                            "manifests", "GET", None, references, media_type))


ENDLESS = {
    "requests that never end": endless_requests, "one blob again and again": endless_repeats,
    "blobs without a manifest": endless_blobs, "manifests only": endless_manifests,
    **{f"huge {kind} events": functools.partial(huge_events, media_type)
       for kind, media_type in (("manifest", DOCKER_MANIFEST), ("index", DOCKER_INDEX),
                                ("unknown", "application/x-unknown"))}}


@pytest.mark.parametrize("endless", ENDLESS.values(), ids=ENDLESS)
def test_what_never_ends_is_bounded(endless, monkeypatch):
    """With limits a hundred times lower than they are, to be quick."""
    monkeypatch.setattr(listener.Tracker, "MAX_PULLS", 50)
    monkeypatch.setattr(listener.Tracker, "MAX_HELD", 3_000_000)
    tracker, began, most = listener.Tracker(), time.process_time(), 0
    for number, fact in enumerate(endless()):
        tracker.tick(fact.time)
        tracker.feed(fact)
        if number in (399, 9_999, 19_999):
            most = max(most, held(tracker))
    # A second's worth of facts may come before the limits are looked at.
    assert len(tracker) < 50 * 1.1 + 101
    assert most < 30 * 2000
    assert time.process_time() - began < 20


def test_forgotten_pulls_are_held_by_nothing(monkeypatch):
    """Not even by a review of them that is due later."""
    monkeypatch.setattr(listener.Tracker, "MAX_PULLS", 50)
    tracker, pulls = listener.Tracker(), weakref.WeakSet()
    for number in range(1000):
        tracker.tick(START + number * 0.01)
        tracker.feed(FOO.manifest(START + number * 0.01, IMAGE, "GET", f"tag{number}"))
        pulls.update(tracker)
        tracker.tick(START + number * 0.01 + 1.1)
    gc.collect()
    assert len(pulls) == len(tracker) < 60


def test_limits_take_the_oldest(monkeypatch):
    monkeypatch.setattr(listener.Tracker, "MAX_PULLS", 50)
    life = Life(*FOO.asks(START, IMAGE, "old"))
    for number in range(100):
        life.feed(*FOO.asks(START + 5 + number, IMAGE, f"tag{number}"))
    life.feed(*FOO.pull(START + 110, IMAGE, "new")).wait(2)
    assert life.pulls()[-1]["image"] == "my/app:new" and life.pulls()[-1]["verdict"] == "complete"
    assert "my/app:old" in [pull["image"] for pull in life.over]


def test_many_at_once_take_no_more_than_their_share():
    """Machines behind one address pull one image at once; a client reads in thousands of ranges."""
    def work(facts, in_order=True):
        """How many functions are called for FACTS: the same on every machine, however busy."""
        facts = sorted(facts, key=lambda fact: fact.time) if in_order else facts
        tracker, calls = listener.Tracker(), itertools.count()
        sys.setprofile(lambda *_: next(calls))
        try:
            for fact in facts:
                tracker.tick(max(tracker.now, fact.time))
                tracker.feed(fact)
            for pull in tracker:
                listener.pull_object(pull, tracker.now)
        finally:
            sys.setprofile(None)
        return next(calls)

    def machines(number):
        return [fact for start in range(number) for fact in FOO.pull(START + start * 0.01, IMAGE)]

    def ranges(number):
        return FOO.asks(START, IMAGE) + [
            FOO.ends(START + 1 + at * 0.001, f"r{at}", SECOND, 10, 206) for at in range(number)]

    def falling(number):
        """Manifests that are told of in the order opposite to that of their times."""
        return [FOO.manifest(START + 10 ** 6 - at, IMAGE, "GET", "1") for at in range(number)]

    def late(number):
        """As these, while the time goes on in another repository."""
        other = Client(repository="my/other")
        return [fact for at in range(number) for fact in (
            FOO.manifest(START + 10 ** 6 - at, IMAGE, "GET", "1"),
            other.manifest(START + 10 ** 6 + at * 2, IMAGE, "HEAD", f"t{at}"))]

    def resumed(number):
        """Each pull goes on by Range where the one before it was cut."""
        return [*cut_at(START + 5, 1), *(fact for at in range(1, number) for fact in (
            FOO.manifest(START + at * 20, IMAGE, "HEAD", "1"),
            *FOO.blob(START + at * 20 + 1, IMAGE, SECOND, 1, 206, request=f"part {at}")))]

    # Without a limit to the pulls that are looked at for a request, the first would be 37 times.
    assert work(machines(400)) < 20 * work(machines(100))
    assert work(ranges(16_000)) < 12 * work(ranges(2000))
    assert work(falling(4000), in_order=False) < 20 * work(falling(500), in_order=False)
    assert work(late(4000), in_order=False) < 20 * work(late(500), in_order=False)
    assert work(resumed(40)) < 20 * work(resumed(5))
    assert work(resumed(800)) < 20 * work(resumed(100))


# ------------------------------------------------------------------------------------------- alive

PULL_LINE = re.compile(r"\d\d:\d\d:\d\d pull  (\S+)(?: of [\d:]+ |  )(started|goes on after all|"
                       r"complete|up to date|interrupted|unknown)(?:  |$)", re.M)
# All have one name here, so that they are replicas: nobody knows whose requests ended with one that
# was killed, and for all that the log tells they may go on for ten minutes.
STAYS_OPEN = {name for name in NAMES if name.startswith(("killed", "stopped"))}
# Of these either of two verdicts will do; and those made by hand share the ids of their events.
VAGUE = {name for name in NAMES if name[0].isdigit() or any(
    "|" in pull["verdict"] for pull in Recording(name).truth)}


def happen_again(names):
    """Recordings that end now, without those that are of the same repository as one before."""
    chosen, repositories = [], set()
    for name in names:
        once = recording(name)
        took = max((fact.time for fact in once.facts()), default=START) - START
        again = Recording(name, time.time() - took)
        theirs = {pull["image"].partition(":")[0].partition("@")[0] for pull in again.truth}
        if not repositories & theirs:
            repositories |= theirs
            chosen.append(again)
    return chosen


def messages(recordings):
    """Events and lines of the registry's log, in the order of their time."""
    found = []
    for each in recordings:
        found += [(json.loads(line)["timestamp"], "event", line)
                  for line in each.events.splitlines()]
        found += [(match[0], "line", line) for line in each.lines.splitlines()
                  for match in [re.search(r"20\d\d-\d\d-\d\dT[\d:.]+Z", line.decode())] if match]
    return sorted(found)


def send(process, found):
    """Send messages as a registry and docker's syslog driver do, and none before the last is kept.

    The log line of a request reaches the listener when its event may still be on its way.
    """
    lines = process.registry_log.read_bytes().count(b"\n")
    for _, kind, text in found:
        if kind == "event":
            assert process.post(b'{"events":[' + text + b"]}")[0] == 200
        else:
            process.syslog(b"<30>Nov 24 06:29:13 registry[123]: " + text)
            lines += 1
            until(lambda: process.registry_log.read_bytes().count(b"\n") == lines)


def told(output):
    """Image and verdict of what the console has said to have ended, and has not taken back."""
    ended = []
    for image, what in PULL_LINE.findall(output):
        if what == "goes on after all":
            last = max(number for number, (other, _) in enumerate(ended) if other == image)
            del ended[last]
        elif what != "started":
            ended.append((image, what))
    return sorted(ended)


def as_told(truth):
    """Image and verdict of pulls as the console shows them."""
    return sorted((re.sub(r"@sha256:(.{12}).*", r"@\1", pull["image"]), pull["verdict"])
                  for pull in truth)


def test_live_is_as_replayed(tmp_path):
    """The real process hears of many pulls, and says live what `pulls` says later.

    The one test that waits for half a minute: for what is interrupted.
    """
    recordings = happen_again(name for name in NAMES if name not in STAYS_OPEN | VAGUE)
    truth = [pull for each in recordings for pull in each.truth if pull["verdict"] != "?"]
    assert {pull["verdict"] for pull in truth} == {"complete", "up to date", "interrupted",
                                                  "unknown"}
    with Listener(tmp_path, "--syslog-port", "0", "--host", "127.0.0.1") as process:
        assert process.syslog_port
        send(process, messages(recordings))
        until(lambda: told(process.out) == as_told(truth), "the end of all pulls", 45)
        started = sorted(image for image, what in PULL_LINE.findall(process.out)
                         if what == "started")
        # That there is nothing newer is told without a start, if only HEAD asked for it.
        assert set(started) <= {image for image, _ in as_told(truth)}
        assert set(started) >= {image for image, verdict in as_told(truth)
                                if verdict != "up to date"}
        assert process.err == ""
    status, out, err = run(tmp_path, "pulls", "--json")
    assert (status, err) == (0, "")
    pulls = [json.loads(line) for line in out.splitlines()]
    for each in recordings:
        repositories = {pull["image"].partition(":")[0].partition("@")[0] for pull in each.truth}
        mine = [pull for pull in pulls if pull["repository"] in repositories]
        assert differences(mine, each.truth) == [], each.name


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_pull_under_way_is_known_after_a_restart(end, tmp_path):
    again, = happen_again(["docker_complete-registry3"])
    found = messages([again])
    half = next(number for number, (_, kind, text) in enumerate(found)
                if b"response completed" in text and b"/blobs/" in text)
    assert 0 < half < len(found) - 3
    process = Listener(tmp_path, "--syslog-port", "0", "--host", "127.0.0.1")
    with process:
        send(process, found[:half])
        until(lambda: "started" in process.out)
        getattr(process, end)()
        process.start()
        send(process, found[half:])
        until(lambda: told(process.out) == as_told(again.truth))
        assert "started" not in process.out  # that was said before
