"""The Tracker over recordings and made-up pulls in all orders; and the real process beside it."""

import functools
import itertools
import json
import random
import re
import time

import pytest

from support import listener
from support.disk import Faulty
from support.process import Listener, until
from support.recordings import NAMES, Recording, a_minute_later, differences, send
from support.traffic import FOO, IMAGE, START, Client, Image, Index, Life, digest_of


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


def moved(fact, by):
    """FACT of a clock that is so many seconds ahead; None: of a log that tells whole seconds."""
    if fact.event:
        return fact
    if by is None:
        by = fact.time // 1 - fact.time
        fact = fact._replace(stamp=fact.stamp[:19] + "Z")
    return fact._replace(time=fact.time + by,
                         began=None if fact.began is None else fact.began + by)


# A client's pulls of a repository that begin within a second of each other.
CLOSE = {"again_after_whole_in_flight_docker26-cache3",
         "build_two_platforms_interrupted_after_question_buildkit021-registry3",
         "compose_and_docker_at_once_docker26gd-registry2",
         "interrupted_then_by_digest_noauth_docker-registry3",
         "wrong_platform_inferred_docker26c-registry3"}


@pytest.mark.parametrize("by", [-2, -0.3, 0.3, 2, None])
def test_the_log_of_another_clock(by):
    """What a pull comes to hardly depends on how exact the times are: one verdict is lost."""
    lost = 0
    for name in sorted(set(NAMES) - CLOSE):
        facts = recording(name).facts()
        life = Life(*(moved(fact, by) for fact in facts)).wait(4000)
        wrong = differences(life.pulls(), recording(name).truth)
        lost += len(wrong)
        assert all("verdict is 'unknown'" in each for each in wrong), (name, wrong)
    assert lost <= 1


# Where a client asks for no manifest, its blobs may be those of another at the same moment.
ALONE = [name for name in NAMES if not any(fact.kind == "start" for fact in recording(name).facts())
         and len({fact.client for fact in recording(name).facts()}) == 1
         and not name.startswith("interrupted_then_by_digest")]


@pytest.mark.parametrize("members", [{"client": "10.77.0.9"}, {"user": "other"}],
                         ids=["other address", "same address"])
@pytest.mark.parametrize("later", [0, 0.4, 3.3, 40])
def test_two_who_pull_the_same(later, members):
    """Each has what it would have alone. From one address they differ only in their users: where
    those ask again for what the other got, nobody knows what their client keeps."""
    for name in ALONE:
        facts = recording(name).facts()
        others = [fact._replace(
            request=f"other {fact.request}", time=fact.time + later,
            began=None if fact.began is None else fact.began + later,
            **(members if "client" in members or fact.event or fact.user else {}))
            for fact in facts]
        alone = Life(*facts).wait(4000).pulls()
        both = Life(*facts, *others).wait(4000).pulls()
        theirs = [pull for pull in both if all(pull[key] == members[key] for key in members)]
        for pulls in theirs, [pull for pull in both if pull not in theirs]:
            assert len(pulls) == len(alone), name
            for pull, same in zip(pulls, alone):
                assert pull["image"] == same["image"], name
                assert pull["verdict"] == same["verdict"] or (
                    "user" in members and name.startswith("two_users")
                    and pull["verdict"] == "unknown"), name


# Of what a registry refuses there is no event: a line that is lost is all that told of it.
REFUSING = {name for name in NAMES if name.startswith("06")}


@pytest.mark.parametrize("name", sorted(set(NAMES) - REFUSING))
def test_a_line_that_is_lost_makes_no_verdict_wrong(name):
    """It may leave it unknown; and there are neither more pulls nor fewer."""
    facts = recording(name).facts()
    now = max((fact.time for fact in facts), default=START) + 4000

    def verdicts(lost):
        return [(pull["image"], pull["verdict"]) for pull in listener.pull_objects(
            (fact for fact in facts if fact.event),
            (fact for fact in facts if not fact.event and fact is not lost), now)]
    in_full = verdicts(None)
    for lost in facts:
        if not lost.event and lost.kind != "start":
            assert all(found in (full, (full[0], "unknown")) for found, full
                       in itertools.zip_longest(verdicts(lost), in_full)), lost


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


# -------------------------------------------------------------------------------------------- alive

PULL_LINE = re.compile(r"\d\d:\d\d:\d\d pull  (\S+)(?: of [\d:]+ |  )(started|goes on after all|"
                       r"complete|up to date|interrupted|unknown|failed)(?:  |: |$)", re.M)

# All have one name here, so that they are replicas: nobody knows whose requests ended with one that
# was killed, and for all that the log tells they may go on for ten minutes.
STAYS_OPEN = {name for name in NAMES if name.startswith(("killed", "stopped"))}

# Of these either of two verdicts will do; and those made by hand share the ids of their events.
VAGUE = {name for name in NAMES if name[0].isdigit() or any(
    "|" in pull["verdict"] for pull in Recording(name).truth)}


def test_what_is_said_is_taken_back_before_another_end_is():
    """Also if nobody looked between: complete, when the client went on to the next platform."""
    facts = recording("skopeo_multiarch_all_interrupted-r2n").facts()
    second = [fact.kind for fact in facts].index("manifest", 2)
    life = Life(*facts[:second]).wait(1)
    life.hear(*facts[second:])
    life.now += 40
    life.tick()
    assert [(what, verdict) for _, what, _, verdict in life.said] == [
        ("started", "complete"), ("ended", "complete"), ("resumed", "interrupted"),
        ("ended", "interrupted")]


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
    """The real process hears of many pulls, and says live what `pulls` says later."""
    recordings = happen_again(name for name in NAMES if name not in STAYS_OPEN | VAGUE)
    truth = [pull for each in recordings for pull in each.truth if pull["verdict"] != "?"]
    assert {pull["verdict"] for pull in truth} == {"complete", "up to date", "interrupted",
                                                  "failed", "unknown"}
    found = sorted(message for each in recordings for message in each.messages())
    first, last = listener.seconds(found[0][0]), listener.seconds(found[-1][0])
    with Faulty(tmp_path, "--syslog-port", "0", "--host", "127.0.0.1", start=False) as process:
        began = time.time()
        process.set_clock(first - began)
        process.start()

        def be_at(moment):
            process.pass_time(moment - first - (time.time() - began))
        for message in found:  # each at its time: the console says `complete` a second later
            be_at(listener.seconds(message[0]))
            send(process, [message])
        be_at(last + 31)  # then what was interrupted is said to be
        until(lambda: told(process.out) == as_told(truth), lambda: process.out)
        started = sorted(image for image, what in PULL_LINE.findall(process.out)
                         if what == "started")
        # That there is nothing newer is told without a start, if only HEAD asked for it.
        assert set(started) <= {image for image, _ in as_told(truth)}
        assert set(started) >= {image for image, verdict in as_told(truth)
                                if verdict != "up to date"}
        assert process.err == ""
    out, err = a_minute_later(process.log, "--json")
    assert err == ""
    pulls = [json.loads(line) for line in out.splitlines()]
    for each in recordings:
        repositories = {pull["image"].partition(":")[0].partition("@")[0] for pull in each.truth}
        mine = [pull for pull in pulls if pull["repository"] in repositories]
        assert differences(mine, each.truth) == [], each.name


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_pull_under_way_is_known_after_a_restart(end, tmp_path):
    again, = happen_again(["docker_complete-registry3"])
    found = again.messages()
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
