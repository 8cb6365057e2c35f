"""The Tracker stays small and quick, whatever comes for however long."""

import functools
import gc
import itertools
import random
import sys
import weakref

import pytest

from support import listener
from support.traffic import (DOCKER_INDEX, DOCKER_MANIFEST, FIRST, FOO, IMAGE, SECOND, START,
                             Client, Life, cut_at, digest_of, stamp)


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
            sizes.append((len(list(tracker)), held(tracker)))
    assert max(number for number, _ in sizes) < 50
    assert max(objects for _, objects in sizes[1:]) < 2 * max(sizes[0][1], 2000)
    for hour in range(48):
        tracker.tick(at + hour * 3600)
    assert not list(tracker) and held(tracker) < 200  # with manifests, as a client may have them


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


def endless_changes():
    """Requests of which the event names another client, agent and repository than the line did."""
    for number in range(20_000):
        fact = FOO.begins(START + number * 0.01, f"other{number}", FIRST)
        yield fact._replace(client=f"10.1.{number}", agent=f"a{number}", repository=f"x{number}")
        yield FOO.sent(START + number * 0.01, f"other{number}", FIRST, 10)


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
    "requests that turn out to be another's": endless_changes,
    **{f"huge {kind} events": functools.partial(huge_events, media_type)
       for kind, media_type in (("manifest", DOCKER_MANIFEST), ("index", DOCKER_INDEX),
                                ("unknown", "application/x-unknown"))}}


@pytest.mark.parametrize("endless", ENDLESS.values(), ids=ENDLESS)
def test_what_never_ends_is_bounded(endless, monkeypatch):
    """With limits a hundred times lower than they are, to be quick."""
    monkeypatch.setattr(listener.Tracker, "MAX_PULLS", 50)
    monkeypatch.setattr(listener.Tracker, "MAX_HELD", 3_000_000)
    tracker, most = listener.Tracker(), 0
    for number, fact in enumerate(endless()):
        tracker.tick(fact.time)
        tracker.feed(fact)
        if number in (399, 9_999, 19_999):
            most = max(most, held(tracker))
    # A second's worth of facts may come before the limits are looked at.
    assert len(list(tracker)) < 50 * 1.1 + 101
    assert most < 30 * 2000


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
    assert len(pulls) == len(list(tracker)) < 60


def test_a_request_that_comes_late_after_one_that_went_elsewhere_is_forgotten():
    tracker = listener.Tracker()
    for number in range(20):
        at, other = START + number * 10, f"other{number}"
        tracker.tick(at)
        tracker.feed(FOO.ends(at, f"one{number}", FIRST, 5)._replace(repository=other))
        tracker.feed(FOO.sent(at, f"one{number}", FIRST, 5))
        tracker.feed(FOO.ends(at, f"two{number}", SECOND, 5, took=9)._replace(repository=other))
    for minutes in range(10, 300, 5):
        tracker.tick(START + minutes * 60)
    assert not list(tracker) and held(tracker) < 200


def test_a_pull_whose_only_request_went_elsewhere_is_no_pull(monkeypatch):
    """Also if it is looked at before its conversation is settled."""
    monkeypatch.setattr(listener.Tracker, "STEPS", 0)
    tracker = listener.Tracker()
    tracker.tick(START)
    tracker.feed(FOO.begins(START, "one", FIRST)._replace(agent="before"))
    tracker.tick(START + 2)
    tracker.feed(FOO.sent(START + 3, "one", FIRST, 5))
    said = [change for at in range(4, 8000, 60) for change in tracker.tick(START + at)]
    assert {change.pull.agent for change in said} <= {FOO.agent}
    assert not list(tracker)


@pytest.mark.parametrize("late", [-1, -2, -3])
def test_a_pull_is_not_forgotten_before_its_conversation_is_settled(monkeypatch, late):
    """As when all steps were spent on another: a layer's event names another agent, late."""
    monkeypatch.setattr(listener.Tracker, "STEPS", 0)
    facts = sorted(FOO.pull(START, IMAGE), key=lambda fact: fact.event)
    event = facts.pop(late)
    life = Life(*facts).wait(40).hear(event._replace(agent="other/1")).wait(1000)
    monkeypatch.setattr(listener.Tracker, "STEPS", 4)
    life.wait(8000)
    assert sorted(pull["agent"] for pull in life.over) == [FOO.agent, "other/1"]
    assert list(life.tracker) == []


def test_a_pull_that_was_due_while_it_had_no_requests_is_judged_all_the_same(monkeypatch):
    """As above; and a request that comes late takes all of a pull away until it is settled."""
    *facts, event = sorted(FOO.pull(START, IMAGE), key=lambda fact: fact.event)
    life = Life(*facts)
    monkeypatch.setattr(listener.Tracker, "STEPS", -1000)
    other = Client(user="bar", host="10.9.9.9")
    life.hear(other.begins(START - 10, "late", FIRST), event._replace(agent="other/1"))
    life.wait(40)
    monkeypatch.setattr(listener.Tracker, "STEPS", 1000)
    life.wait(8000)
    assert FOO.agent in [pull["agent"] for pull in life.over]
    assert list(life.tracker) == []


def test_limits_take_the_oldest(monkeypatch):
    monkeypatch.setattr(listener.Tracker, "MAX_PULLS", 50)
    life = Life(*FOO.asks(START, IMAGE, "old"))
    for number in range(100):
        life.feed(*FOO.asks(START + 5 + number, IMAGE, f"tag{number}"))
    life.feed(*FOO.pull(START + 110, IMAGE, "new")).wait(2)
    assert life.pulls()[-1]["image"] == "my/app:new" and life.pulls()[-1]["verdict"] == "complete"
    assert "my/app:old" in [pull["image"] for pull in life.over]


def test_pulls_of_one_moment_are_bounded_as_well(monkeypatch):
    """A log in whole seconds, or one that somebody made: no tick comes between its facts."""
    monkeypatch.setattr(listener.Tracker, "MAX_PULLS", 50)
    one = FOO.manifest(START, IMAGE, "GET", "1")
    facts = [one._replace(request=f"a{number}", agent=f"a{number}/1")
             for number in range(3000)]
    tracker, sizes = listener.Tracker(), []
    for number, fact in enumerate(facts):
        tracker.feed(fact)
        if number % 1000 == 999:
            sizes.append(held(tracker))
            assert len(list(tracker)) <= 75
    assert max(sizes) < 2 * min(sizes)
    read = iter(facts)
    told = listener.pull_objects(read, [])
    first = next(told)
    assert next(read)  # it was told before all was read
    assert [first["verdict"], *(pull["verdict"] for pull in told)] == ["up to date"] * 2999


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
    for day in range(20):
        tracker.tick(now + day * 86400)
    assert not list(tracker) and held(tracker) < 300  # manifests, and when registries began
