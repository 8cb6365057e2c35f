"""The Tracker: facts of requests in, pulls and their verdicts out, with no I/O and no clock."""

import pytest

from support import listener
from support.traffic import (BIG, CONFIG, CONTAINERD, DOCKER_29, DOCKER_MANIFEST, FIRST, FOO, IMAGE,
                             ORAS, SECOND, SKOPEO, START, Client, Image, Index, Life, attestation,
                             cut_at, registry_started, stamp, with_attestation)


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


@pytest.mark.parametrize("status, size, written, verdict", [
    (500, BIG, BIG, "complete"), (404, BIG, BIG, "failed"), (500, 90, 120, "failed")])
def test_an_error_that_came_after_all_had_been_written(status, size, written, verdict):
    """But if the layer is small, it may be the error itself that was written."""
    image = Image(sizes=(500, 1000, size))
    life = Life(*FOO.asks(START, image), *FOO.blob(START + 1, image, image.config),
                *FOO.blob(START + 1, image, image.layers[0]),
                *FOO.blob(START + 1, image, image.layers[1], written, status)).wait(31)
    assert life.verdicts() == [verdict]


@pytest.mark.parametrize("client_left, verdict", [(True, "interrupted"), (False, "failed")])
def test_nothing_of_a_layer_was_sent(client_left, verdict):
    """The client was gone before the first byte; or the layer's file is."""
    facts = [*FOO.asks(START, IMAGE), *FOO.blob(START + 1, IMAGE, CONFIG),
             *FOO.blob(START + 1, IMAGE, SECOND, 0)]
    facts[-1] = facts[-1]._replace(client_left=client_left)
    assert Life(*facts).wait(31).verdicts() == [verdict]


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


def test_a_question_about_one_tag_is_not_a_pull_by_another():
    life = Life(FOO.manifest(START, IMAGE, "HEAD", "1"), FOO.manifest(START + 5, IMAGE, "GET", "2"))
    assert [pull["image"] for pull in life.pulls()] == ["my/app:1", "my/app:2"]


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


@pytest.mark.parametrize("change, later", [({"user": "bar"}, 6), ({}, 60)])
def test_a_layer_for_another_address_that_is_not_of_the_same_pull(change, later):
    """Another user asks for it, or the pull that lacks it is long over."""
    other = Client(host="2001:db8::2", **change)
    life = Life(*cut_at(START + 5), *other.blob(START + later, IMAGE, SECOND)).wait(31)
    assert life.verdicts()[0] == "interrupted"


def test_another_user_at_another_address_goes_not_on_with_a_pull():
    other = Client(user="bar", host="2001:db8::2")
    life = Life(FOO.manifest(START, IMAGE, "HEAD", "1"), other.manifest(START + 0.1, IMAGE))
    assert [(pull["user"], pull["image"]) for pull in life.pulls()] == [
        ("foo", "my/app:1"), ("bar", f"my/app@{IMAGE.digest}")]


def test_a_replica_whose_clock_is_ahead_answers_the_first_request():
    """It seems the second, but is no second pull; one replica's clock does not go back."""
    head, get, *rest = FOO.pull(START, IMAGE)
    late = head._replace(time=get.time + 0.02)
    pull = Life(get, late._replace(instance="2"), *rest).wait(31).pull()
    assert (pull["image"], pull["verdict"], pull["sent"]) == ("my/app:1", "complete", IMAGE.size)
    assert len(Life(get, late, *rest).wait(31).pulls()) == 2
    mine, index = Image("amd64"), Index(Image("amd64"), Image("arm64"))
    blobs = [fact for digest in mine.sizes for fact in FOO.blob(START + 1, mine, digest)]
    get, late = FOO.manifest(START, mine), FOO.manifest(START + 0.5, index, "GET", "1")
    pull = Life(get, late._replace(instance="2"), *blobs).wait(31).pull()
    assert (pull["image"], pull["verdict"], pull["layers"]) == ("my/app:1", "complete", 2)
    again = Client(user="bar").asks(START + 0.3, IMAGE)
    found = Life(*FOO.asks(START, IMAGE), again[0]._replace(instance="2"), again[1]).wait(31)
    assert [pull["user"] for pull in found.pulls()] == ["foo", "bar"]


def test_a_pull_by_tag_soon_after_one_by_digest_is_another_though_replicas_answer():
    """Two replicas answer in turn: nothing else tells that the tag was not asked for first."""
    facts = [*FOO.blob(START + 0.1, IMAGE, CONFIG, took=0.1),
             *FOO.blob(START + 0.1, IMAGE, SECOND, 10, took=0.3)]
    head, get, *rest = FOO.pull(START + 0.8, IMAGE)
    head = head._replace(instance="2")
    found = Life(FOO.manifest(START, IMAGE), *facts, head, get, *rest).wait(31).pulls()
    assert [(pull["tag"], pull["verdict"]) for pull in found] == [
        (None, "interrupted"), ("1", "complete")]
    # Nor does a GET by tag come before one by digest, nor a tag before a question by digest.
    podman = Client(agent="containers/5.34.2")
    by_tag = podman.manifest(START + 0.2, IMAGE, "GET", "1")._replace(instance="2")
    for first in "GET", "HEAD":
        life = Life(podman.manifest(START, IMAGE, first), by_tag, *podman.blob(
            START + 0.3, IMAGE, CONFIG)).wait(31)
        assert [pull["tag"] for pull in life.pulls()] == [None, "1"]
    head = podman.manifest(START + 0.2, IMAGE, "HEAD", "1")._replace(instance="2")
    life = Life(podman.manifest(START, IMAGE, "HEAD"), head).wait(31)
    assert [pull["tag"] for pull in life.pulls()] == [None, "1"]


def test_a_question_from_another_address_is_no_part_of_a_pull_by_digest():
    """Hosts that ask whether a tag has moved, and one that pulls the image by its digest."""
    other = Client(host="10.0.0.77")
    by_digest = FOO.pull(START + 1, IMAGE)[1:]
    found = Life(other.manifest(START, IMAGE, "HEAD", "1"), *by_digest).wait(31).pulls()
    assert [(pull["client"], pull["verdict"]) for pull in found] == [
        ("10.0.0.77", "up to date"), ("172.18.0.1", "complete")]


def test_what_another_user_of_the_address_was_sent_by_range_is_not_ones_own():
    """Two machines behind one address, each interrupted, and interrupted again."""
    facts = []
    for later, user in enumerate(["bar", "zed"]):
        client, at = Client(user=user, agent=CONTAINERD.agent), START + 0.7 * later
        facts += [*client.asks(at, IMAGE), *client.blob(at + 0.2, IMAGE, CONFIG, took=0.1),
                  *client.blob(at + 0.2, IMAGE, FIRST, took=0.1),
                  *client.blob(at + 0.2, IMAGE, SECOND, BIG // 3, took=0.4),
                  client.manifest(at + 0.9, IMAGE, "HEAD", "1"),
                  *client.blob(at + 1, IMAGE, SECOND, BIG // 3 + 2, 206, took=0.4)]
    assert Life(*facts).wait(31).verdicts() == ["interrupted"] * 4


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


COPIERS = ["skopeo/1.9.3", "containers/5.34.2", "Buildah/1.28.2", "crane/v0.22.1", "oras/1.3.6",
           "oras-go", "regclient/regctl", "go-containerregistry/v0.22.1"]


@pytest.mark.parametrize("agent, begun", [
    *((agent, "config") for agent in COPIERS), ("crane/v0.22.1", "layer"),
    ("containerd/2.4.2", "config"), ("Harbor", "config")])
def test_a_platform_of_which_no_more_was_asked_for(agent, begun):
    """Others than copiers, and proxies on their behalf, ask for what they do not take."""
    client = Client(agent=agent)
    first, second = Image("amd64", sizes=(500, 7000)), Image("arm64", sizes=(501, 8000))
    index = Index(first, second)
    more = second.config if begun == "config" else second.layers[0]
    pull = Life(client.manifest(START, index, "GET", "1"), client.manifest(START + 0.1, first),
                *client.blob(START + 0.2, first, first.config),
                *client.blob(START + 0.3, first, first.layers[0]),
                client.manifest(START + 1, second),
                *client.blob(START + 1.1, second, more)).wait(31).pull()
    found = pull["verdict"], pull["digest"], pull["image_id"], pull["size"], pull["layers"]
    if agent.startswith(("containerd", "Harbor")):
        assert found == ("complete", first.digest, first.config, first.size, 1)
    else:
        assert found == ("unknown", index.digest, None, first.size + second.size, 2)


@pytest.mark.parametrize("asked, later, took", [
    (0.2, 0.05, 0.7), (0.2, 1, 0.7), (0.2, 2.5, 0.7), (1, 0.3, 1), (0.2, 5, 4), (0.2, 8, 4)])
def test_two_platforms_of_an_index_at_once(asked, later, took):
    """`crane pull --platform` twice on one machine; the first is interrupted."""
    client = Client(agent="crane/v0.22.1")
    images = [Image(name, sizes=(500 + number, *[7_000_000] * 4))
              for number, name in enumerate(["amd64", "arm64"])]
    index, facts = Index(*images), []
    for number, image in enumerate(images):
        at = START + number * later
        facts += [client.manifest(at, index, "GET", "1"), client.manifest(at + asked, image)]
        for place, digest in enumerate(image.sizes):
            cut = number == 0 and digest == image.layers[-1]
            facts += client.blob(at + asked + 0.2 + place * took, image, digest,
                                 3_000_000 if cut else None, took=took - 0.1)
    found = [(pull["digest"], pull["layers"], pull["requested"], pull["verdict"])
             for pull in Life(*facts).wait(31).pulls()]
    assert found == [(images[0].digest, 4, 5, "interrupted"), (images[1].digest, 4, 5, "complete")]


@pytest.mark.parametrize("gap", [5, 20, 29])
def test_another_platform_soon_after_one_that_was_interrupted(gap):
    """BuildKit has the first one's manifest, and asks for what it lacks of both."""
    client = Client(agent="buildkit/v0.34")
    mine, other = Image("amd64"), Image("arm64", sizes=(501, 1_000_001, 2_000_001))
    index, last = Index(mine, other), mine.layers[1]
    facts = [client.manifest(START, index, "HEAD", "1"), client.manifest(START + 0.1, index),
             client.manifest(START + 0.2, mine), *client.blob(START + 0.3, mine, mine.config),
             *client.blob(START + 0.3, mine, mine.layers[0]),
             *client.blob(START + 0.3, mine, last, 10)]
    again = START + gap
    facts += [client.manifest(again, index, "HEAD", "1"), client.manifest(again + 0.1, other),
              *client.blob(again + 0.2, mine, last)]
    for digest in other.sizes:
        facts += client.blob(again + 0.2, other, digest)
    found = [(pull["verdict"], pull["layers"]) for pull in Life(*facts).wait(31).pulls()]
    assert found == [("interrupted", 2), ("complete", 4)]


def test_two_questions_for_an_index_before_a_pull():
    """skopeo inspect of a tag, and a moment later skopeo copy of another of the same index."""
    image = Image("amd64")
    index = Index(image, Image("arm64"))
    facts = [SKOPEO.manifest(START, index, "GET", "latest"),
             SKOPEO.manifest(START + 0.6, index, "GET", "1"), SKOPEO.manifest(START + 0.7, image)]
    for digest in image.sizes:
        facts += SKOPEO.blob(START + 0.8, image, digest)
    life = Life(*facts).wait(31)
    found = [(pull["tag"], pull["layers"], pull["verdict"]) for pull in life.pulls()]
    assert found == [("latest", None, "up to date"), ("1", 2, "complete")]


def test_all_platforms_of_which_one_was_there_already():
    """skopeo asks for the config of an image that it has, and for none of its layers."""
    old, new, same = (Image(name, sizes=(500 + number, 7000 + number))
                      for number, name in enumerate(["old", "new", "same"]))
    facts, later = [], START
    for changed in old, new:
        facts.append(SKOPEO.manifest(later, Index(changed, same, name=f"of {later}"), "GET", "1"))
        for image in changed, same:
            facts.append(SKOPEO.manifest(later + 1, image))
            asked = [image.config] if image is same and changed is new else image.sizes
            facts += [fact for digest in asked for fact in SKOPEO.blob(later + 2, image, digest)]
            later += 3
        later += 60
    pull = Life(*facts).wait(31).pulls()[1]
    assert (pull["verdict"], pull["size"], pull["layers"], pull["requested"]) == (
        "complete", new.size + same.size, 2, 3)


@pytest.mark.parametrize("written, status, verdict", [
    (None, 200, "complete"), (50_000, 200, "interrupted"), (80, 404, "failed")])
@pytest.mark.parametrize("client", [DOCKER_29, SKOPEO], ids=["docker", "skopeo"])
def test_an_attestation_that_comes_with_an_image(client, written, status, verdict):
    """It is no platform, but part of the download."""
    image, sbom = Image("amd64", oci=True), attestation(200_000)
    facts = with_attestation(client, image, sbom) + client.blob(START + 1, sbom, sbom.config)
    pull = Life(*facts, *client.blob(START + 1, sbom, sbom.layers[0], written, status)).wait(
        31).pull()
    assert (pull["verdict"], pull["digest"], pull["image_id"]) == (
        verdict, image.digest, image.config)
    assert (pull["size"], pull["layers"], pull["requested"]) == (image.size + sbom.size, 2, 5)


@pytest.mark.parametrize("client, parts, verdict", [
    (DOCKER_29, 2, "unknown"), (DOCKER_29, 3, "complete"), (SKOPEO, 1, "unknown"),
    (CONTAINERD, 1, "complete")])
def test_an_attestation_of_which_a_part_was_not_asked_for(client, parts, verdict):
    """containerd asks for the configs of those that it does not take."""
    image, both = Image("amd64", oci=True), attestation(200_000, 3000)
    facts = with_attestation(client, image, both)
    for digest in [both.config, *both.layers][:parts]:
        facts += client.blob(START + 1, both, digest)
    pull = Life(*facts).wait(31).pull()
    assert (pull["verdict"], pull["digest"], pull["layers"]) == (verdict, image.digest, 2)
    assert pull["requested"] == (3 if client is CONTAINERD else 3 + parts)


def test_an_attestation_is_known_before_the_image():
    """A build has asked for the image's manifest, and the listener was not there."""
    image, sbom = Image("amd64", oci=True), attestation(200_000)
    facts = [fact for fact in with_attestation(DOCKER_29, image, sbom)
             if fact.digest not in (image.digest, *image.layers)]
    facts += [fact for digest in sbom.sizes for fact in DOCKER_29.blob(START + 0.3, sbom, digest)]
    life = Life(*facts, *DOCKER_29.blob(START + 4, image, image.layers[1], 5)).wait(31)
    assert (life.pull()["verdict"], life.pull()["size"]) == ("interrupted", None)
    assert [verdict for _, verdict in life.told("ended")] == ["interrupted"]


def test_a_blob_after_an_attestation_that_was_asked_for_by_itself():
    sbom = attestation(200_000)
    facts = ORAS.pull(START, sbom, tag=None) + ORAS.blob(START + 5, IMAGE, SECOND, 9)
    assert Life(*facts).wait(31).verdicts() == ["complete", "interrupted"]


def test_an_image_with_an_attestation_among_its_layers_is_an_image():
    image = Image(sizes=(500, 1000, 2000), oci=True)
    image.references[1]["mediaType"] = "application/vnd.in-toto+json"
    facts = with_attestation(DOCKER_29, image, attestation(200_000))
    assert Life(*facts).wait(31).pull()["digest"] == image.digest


def test_an_attestation_alone():
    sbom = attestation(200_000)
    pull = Life(*ORAS.pull(START, sbom)).wait(31).pull()
    assert (pull["verdict"], pull["digest"], pull["layers"]) == ("complete", sbom.digest, 1)
    facts = [FOO.manifest(START, Index(sbom), "GET", "1"), *FOO.pull(START, sbom, tag=None)]
    pull = Life(*facts).wait(31).pulls()[0]
    assert (pull["verdict"], pull["digest"], pull["layers"]) == ("complete", sbom.digest, 1)


def test_layers_that_were_there_are_not_missed():
    life = Life(*FOO.asks(START, IMAGE), *FOO.blob(START + 1, IMAGE, CONFIG),
                *FOO.blob(START + 1, IMAGE, SECOND)).wait(10)
    pull = life.pull()
    assert (pull["verdict"], pull["requested"]) == ("complete", 2)
    assert pull["sent"] == IMAGE.size - IMAGE.sizes[FIRST]


@pytest.mark.parametrize("media_type", [
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"])
def test_layers_that_come_from_elsewhere_are_not_missed(media_type):
    """Those of Windows: the registry is not asked for them."""
    image = Image(sizes=(500, 1_000_000, 2_000_000))
    image.references[2]["mediaType"] = media_type
    life = Life(*FOO.asks(START, image), *FOO.blob(START + 1, image, image.config),
                *FOO.blob(START + 1, image, image.layers[0])).wait(31)
    assert life.verdicts() == ["complete"]


def test_the_empty_layer_is_there_already():
    """Of BuildKit, in the middle of the list: docker has it of another image, and never asks."""
    empty = "sha256:4f4fb700ef54461cfa02571ae0db9a0dc1e0cdb5577484a6d75e68dc38e8acc1"
    image = Image(sizes=(500, 1_000_000, 32, 2_000_000))
    facts = FOO.pull(START, image)
    hidden = [fact._replace(references=tuple(
        (empty if digest == image.layers[1] else digest, size, kind)
        for digest, size, kind in fact.references))
        for fact in facts if fact.digest != image.layers[1]]
    assert Life(*hidden).wait(31).verdicts() == ["complete"]
    other = [fact for fact in facts if fact.digest != image.layers[1]]
    assert Life(*other).wait(31).verdicts() == ["unknown"]


@pytest.mark.parametrize("asked, verdict", [([3], "complete"), ([0, 3], "complete"),
                                            ([0], "unknown"), ([0, 2], "unknown")])
def test_a_layer_that_is_in_the_list_twice(asked, verdict):
    """Asked for, it may be as the last one: it does not tell that those before it were missing."""
    image = Image(sizes=(500, 1000, 2000, 3000, 4000, 5000))
    facts = [FOO.manifest(START, image, "GET", "1"), *FOO.blob(START + 1, image, CONFIG)]
    for number in asked:
        facts += FOO.blob(START + 1, image, image.layers[number])
    twice = [fact._replace(references=tuple(
        (image.layers[0], 1000, kind) if digest == image.layers[4] else (digest, size, kind)
        for digest, size, kind in fact.references)) for fact in facts]
    assert Life(*twice).wait(40).verdicts() == [verdict]


def test_a_pull_that_loses_a_layer_to_the_next_is_said_to_be_interrupted_again():
    """docker asks for a layer, and the config after it tells that another pull has begun."""
    facts = [*FOO.asks(START, IMAGE), *FOO.blob(START + .2, IMAGE, CONFIG),
             *FOO.blob(START + .2, IMAGE, FIRST), *FOO.blob(START + .2, IMAGE, SECOND, 1000)]
    again = [*FOO.blob(START + 45, IMAGE, SECOND, took=.3),
             *FOO.blob(START + 46.5, IMAGE, CONFIG, took=.1)]
    life = Life(*facts).feed(*again).wait(60)
    assert life.verdicts() == ["interrupted", "complete"]
    assert [verdict for _, what, image, verdict in life.said
            if what == "ended" and image == "my/app:1"][-1] == "interrupted"
    life.wait(8000)
    assert life.verdicts() == ["interrupted", "complete"]


def test_a_config_that_is_asked_for_twice_before_any_layer_begins_no_pull():
    facts = [*FOO.asks(START, IMAGE), *FOO.blob(START + .2, IMAGE, CONFIG, took=.1),
             *FOO.blob(START + .6, IMAGE, CONFIG, took=.1), *FOO.blob(START + .8, IMAGE, FIRST),
             *FOO.blob(START + .8, IMAGE, SECOND)]
    pull = Life(*facts).wait(60).pull()
    assert (pull["image"], pull["verdict"]) == ("my/app:1", "complete")


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


def test_index_without_references():
    """What is asked for at once after it is taken for a manifest in it, and nothing else is."""
    index, image = Index(), Image(references=False)
    facts = [FOO.manifest(START, index, "HEAD", "1"), FOO.manifest(START + 0.1, index)]
    life = Life(*facts, *FOO.pull(START + 0.2, image, tag=None)).wait(31)
    assert (life.pull()["image"], life.pull()["verdict"]) == ("my/app:1", "complete")
    life.feed(*FOO.asks(START + 5, Image("next", references=False), tag=None)).wait(31)
    assert [pull["tag"] for pull in life.pulls()] == ["1", None]


def test_complete_is_not_said_before_the_manifests_event_came():
    """The config's line may come before it."""
    manifests, blobs = FOO.asks(START, IMAGE), FOO.blob(START + 1, IMAGE, CONFIG)
    life = Life(*blobs).wait(20)
    assert life.told("ended") == []
    assert life.hear(*manifests).wait(31).verdicts() == ["unknown"]


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


@pytest.mark.parametrize("later", [0.01, 0.4])
def test_two_machines_behind_nat_that_pull_at_once(later):
    """Nothing but times tells the requests of one from those of the other."""
    for cut, verdict in [(SECOND, "interrupted"), (None, "complete")]:
        life = Life(*FOO.pull(START, IMAGE, cut=cut), *FOO.pull(START + later, IMAGE, cut=cut))
        assert life.wait(31).verdicts() == [verdict] * 2


@pytest.mark.parametrize("behind", [0.3, 1])
def test_the_next_pull_when_the_clock_of_its_blobs_is_behind(behind):
    """One replica tells of the manifest, another of the blobs, as if they were asked for before."""
    again = FOO.asks(START + 45, IMAGE)
    for digest in IMAGE.sizes:
        again += FOO.blob(START + 45.2 - behind, IMAGE, digest)
    life = Life(*FOO.pull(START, IMAGE, cut=SECOND), *again).wait(60)
    assert life.verdicts() == ["interrupted", "complete"]


@pytest.mark.parametrize("again", [6, 10])
def test_a_second_request_goes_not_to_a_pull_that_is_over(again):
    """Interrupted and pulled again, when a connection stalls and the client opens another."""
    at = START + again
    facts = [*cut_at(START + 5), *FOO.asks(at, IMAGE), *FOO.blob(at + 0.2, IMAGE, CONFIG),
             *FOO.blob(at + 0.2, IMAGE, FIRST), *FOO.blob(at + 15, IMAGE, SECOND, took=3),
             *FOO.blob(at + 0.2, IMAGE, SECOND, BIG // 4, took=60)]
    for life in Life(*facts), Life(now=at + 61).hear(*facts):
        assert life.wait(31).verdicts() == ["interrupted", "complete"]


def test_ranges_that_may_be_of_either_of_two_machines_behind_nat():
    facts = []
    for at, parts in (START, 4), (START + 0.1, 3):
        facts += [*FOO.asks(at, IMAGE), *FOO.blob(at + 0.5, IMAGE, CONFIG, 500, 206)]
        for part in range(parts):
            facts += FOO.blob(at + 1, IMAGE, SECOND, BIG // 4, 206, request=f"{at}-{part}")
    assert "interrupted" not in Life(*facts).wait(31).verdicts()


def test_next_pull_goes_on_where_the_last_was_cut():
    """containerd keeps the config and what it has of a layer: its next pull asks for the rest."""
    rest = BIG - BIG // 4
    first, again = cut_at(START + 5), FOO.asks(START + 20, IMAGE)
    life = Life(*first, *again, *FOO.blob(START + 21, IMAGE, SECOND, rest, 206)).wait(31)
    assert [(pull["verdict"], pull["sent"]) for pull in life.pulls()] == [
        ("interrupted", IMAGE.size - rest), ("complete", rest)]
    life = Life(*first, *again, *FOO.blob(START + 21, IMAGE, SECOND, rest // 2, 206)).wait(31)
    assert life.verdicts() == ["interrupted", "interrupted"]


def test_next_pull_goes_on_where_nobody_knows_how_much_there_was():
    """The line at the end of the first one's layer is lost."""
    rest = BIG - BIG // 4
    first = [fact for fact in cut_at(START + 5) if fact.written != BIG // 4]
    life = Life(*first, *FOO.asks(START + 20, IMAGE),
                *FOO.blob(START + 21, IMAGE, SECOND, rest, 206)).wait(31)
    assert life.verdicts() == ["unknown", "unknown"]


def test_several_ranges_in_one_answer():
    """With what parts it from the next: nobody knows how much of the layer that is."""
    facts = [*FOO.asks(START, IMAGE), *FOO.blob(START + 1, IMAGE, CONFIG, status=206),
             *FOO.blob(START + 1, IMAGE, SECOND, BIG // 2, 206)]
    assert Life(*facts).wait(31).verdicts() == ["interrupted"]
    facts[-1] = facts[-1]._replace(in_parts=True)
    assert Life(*facts).wait(31).verdicts() == ["unknown"]


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


def test_a_pull_that_waits_behind_another_of_its_engine_has_not_ended():
    """docker fetches three layers at a time: while one image's come, another's wait for minutes."""
    big = Client(repository="big/app")
    facts = [*big.asks(START, IMAGE), *big.blob(START + 0.2, IMAGE, CONFIG),
             *big.blob(START + 0.3, IMAGE, FIRST, took=90),
             *big.blob(START + 0.3, IMAGE, SECOND, took=150),
             *FOO.asks(START + 1, IMAGE), *FOO.blob(START + 1.2, IMAGE, CONFIG),
             *FOO.blob(START + 155, IMAGE, FIRST), *FOO.blob(START + 155, IMAGE, SECOND)]
    life = Life(*facts).wait(31)
    assert [(what, image, verdict) for _, what, image, verdict in life.said] == [
        ("started", "big/app:1", "running"), ("started", "my/app:1", "running"),
        ("ended", "big/app:1", "complete"), ("ended", "my/app:1", "complete")]


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
