"""Made-up traffic of registries: envelopes, and facts of pulls; and a Tracker to live them."""

import hashlib
import json
import re
import uuid
from datetime import datetime, timezone

from support import HERE, listener

MEDIA_TYPE = "application/vnd.docker.distribution.events.v1+json"
SAMPLE = (HERE / "sample.json").read_bytes()
START = 1577872800.0  # 2020-01-01T10:00:00Z: recordings are moved here, away from the clock's now


def stamp(at):
    """A time as registries write it."""
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# -------------------------------------------------------------------------------------- envelopes

def event(**members):
    """A push of an image, as a registry tells of it, with an id of its own and these MEMBERS."""
    made = sample()
    made["id"] = str(uuid.uuid4())
    made.update(members)
    return made


def sample():
    """The event in sample.json."""
    return json.loads(SAMPLE)["events"][0]


def envelope(events):
    """The body that a registry would POST for one event or some."""
    events = [events] if isinstance(events, dict) else events
    return json.dumps({"events": events}).encode("utf-8")


# ------------------------------------------------------------------------------- facts of pulls

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def digest_of(name):
    return "sha256:" + hashlib.sha256(name.encode()).hexdigest()


class Image:
    """A manifest with a config and layers: `image.config` and `image.layers` are digests."""

    def __init__(self, name="image", sizes=(500, 1_000_000, 2_000_000), oci=False,
                 config_type=None, references=True, shared=()):
        """SIZES are of the config and of each layer; SHARED digests come before layers of its own.

        References are left out of its events unless REFERENCES.
        """
        self.digest = digest_of(name)
        self.media_type = OCI_MANIFEST if oci else DOCKER_MANIFEST
        names = [digest_of(f"{name}/{number}") for number in range(len(sizes))]
        names[1:1 + len(shared)] = shared
        self.sizes = dict(zip(names, sizes))
        self.config, *self.layers = names
        types = [config_type or (OCI_CONFIG if oci else DOCKER_CONFIG)]
        types += [OCI_LAYER if oci else DOCKER_LAYER] * len(self.layers)
        self.references = [{"mediaType": kind, "size": size, "digest": digest}
                           for kind, (digest, size) in zip(types, self.sizes.items())]
        if not references:
            self.references = None

    @property
    def size(self):
        return sum(self.sizes.values())


def attestation(*sizes):
    """What BuildKit puts into an index beside an image: an SBOM, or how it was built."""
    made = Image("attestation", sizes=(177, *sizes), oci=True)
    for layer in made.references[1:]:
        layer["mediaType"] = "application/vnd.in-toto+json"
    return made


class Index:
    """What a tag of an image for several platforms points to."""

    def __init__(self, *images, name="index", oci=True):
        self.digest = digest_of(name)
        self.media_type = OCI_INDEX if oci else DOCKER_INDEX
        self.references = [{"mediaType": image.media_type, "size": 500, "digest": image.digest}
                           for image in images]


def quoted(text):
    """A value in a log line: logrus quotes what has other than these characters, as Go does."""
    if re.fullmatch(r"[a-zA-Z0-9._/@^+-]*", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Client:
    """Somebody who pulls; makes the facts that a registry tells of each request."""

    def __init__(self, user="foo", host="172.18.0.1", agent="docker/20.10.24 go/go1.19",
                 repository="my/app"):
        self.user, self.host, self.agent, self.repository = user, host, agent, repository
        self.port = ":50412"

    @property
    def address(self):
        return self.host + self.port

    def event(self, at, request, digest, size, kind, method, tag=None, references=None,
              media_type="application/octet-stream"):
        target = {"mediaType": media_type, "size": size, "digest": digest, "length": size,
                  "repository": self.repository,
                  "url": f"https://r:5000/v2/{self.repository}/{kind}/{digest}"}
        if tag:
            target["tag"] = tag
        if references is not None:
            target["references"] = references
        return {"id": f"event-of-{request}", "timestamp": stamp(at), "action": "pull",
                "target": target,
                "request": {"id": request, "addr": self.address, "host": "r:5000",
                            "method": method, "useragent": self.agent},
                "actor": {"name": self.user} if self.user else {},
                "source": {"addr": "r:5000", "instanceID": "1"}}

    def manifest(self, at, image, method="GET", tag=None, request=None):
        """The event of a request for the manifest of an image, or for an index."""
        request = request or f"{method}-{self.user}-{image.digest[7:15]}-{at}"
        return listener.event_fact(self.event(at, request, image.digest, 800, "manifests", method,
                                              tag, image.references, image.media_type))

    def sent(self, at, request, digest, size, method="GET"):
        """The event at the end of a request for a blob, which looks the same if it was cut."""
        return listener.event_fact(self.event(at, request, digest, size, "blobs", method))

    def line(self, at, request, digest, message, more=""):
        return (f'time="{stamp(at)}" level=info msg="{message}" go.version=go1.24.4 '
                f'http.request.host="r:5000" http.request.id={request} http.request.method=GET '
                f'http.request.remoteaddr={quoted(self.address)} '
                f'http.request.uri={quoted(f"/v2/{self.repository}/blobs/{digest}")} '
                f'http.request.useragent={quoted(self.agent)}{more}')

    def begins(self, at, request, digest):
        """The log line at the start of a request for a blob."""
        return listener.line_fact(self.line(at, request, digest, "authorized request"))

    def ends(self, at, request, digest, written, status=200, took=0.5):
        """The log line at its end."""
        return listener.line_fact(self.line(
            at, request, digest, "response completed",
            f" http.response.contenttype=application/octet-stream http.response.duration={took}s "
            f"http.response.status={status} http.response.written={written}"))

    def blob(self, at, image, digest, written=None, status=200, took=0.5, request=None):
        """All three facts of a request that begins AT, and ends when it TOOK so many seconds."""
        request = request or f"GET-{self.user}-{digest[7:15]}-{at}"
        size = image.sizes[digest]
        return [self.begins(at, request, digest),
                self.sent(at + took, request, digest, size),
                self.ends(at + took, request, digest, size if written is None else written, status,
                          took)]

    def asks(self, at, image, tag="1"):
        """HEAD by tag and GET by digest, as docker does."""
        return [self.manifest(at, image, "HEAD", tag), self.manifest(at + 0.1, image)]

    def pull(self, at, image, tag="1", cut=None):
        """A whole pull, a layer a second; of a layer to CUT half is sent."""
        facts = self.asks(at, image, tag)
        for number, (digest, size) in enumerate(image.sizes.items()):
            facts += self.blob(at + 0.2 + number, image, digest,
                               size // 2 if digest == cut else None)
        return facts


def registry_started(at):
    return listener.line_fact(f'time="{stamp(at)}" level=info msg="listening on [::]:5000" '
                              "go.version=go1.24.4 instance.id=1 service=registry version=2.8.3")


def with_attestation(client, image, beside):
    """The facts of an index and two manifests in it, and of IMAGE's config and layers."""
    index = Index(image, beside, Image("arm64"))
    facts = [client.manifest(START, index, "GET", "1"), client.manifest(START + 0.1, image),
             client.manifest(START + 0.1, beside)]
    return facts + [fact for digest in image.sizes
                    for fact in client.blob(START + 0.2, image, digest)]


# -------------------------------------------------------- who and what most tests of pulls speak of

FOO = Client()
DOCKER_29 = Client(agent="docker/29.9.3 go/go1.26.8 containerd-client/2.3.5 os/linux")
SKOPEO, ORAS = Client(agent="skopeo/1.23.0"), Client(agent="oras/1.3.6")
CONTAINERD = Client(agent="containerd/2.4.2")
IMAGE = Image()
CONFIG, FIRST, SECOND = IMAGE.sizes
BIG = IMAGE.sizes[SECOND]


def cut_at(at, written=BIG // 4):
    """A pull of IMAGE of which one layer was cut at that time."""
    return [*FOO.asks(START, IMAGE), *FOO.blob(START + 0.2, IMAGE, CONFIG),
            *FOO.blob(START + 0.2, IMAGE, FIRST),
            *FOO.blob(START + 0.2, IMAGE, SECOND, written, took=at - START - 0.2)]


# ------------------------------------------------------------------------------------- live it

class Life:
    """A Tracker to which the time passes second by second; what it says is kept in `said`."""

    def __init__(self, *facts, now=None):
        """Live through FACTS in the order of their time, the first of which is now."""
        self.tracker = listener.Tracker()
        self.now = min((fact.time for fact in facts), default=START) if now is None else now
        self.said = []  # (seconds since START, what, image, verdict)
        self.over = []  # pulls that were forgotten, as objects
        self.feed(*facts)

    def feed(self, *facts):
        """Hear of FACTS, each at its own time."""
        for fact in sorted(facts, key=lambda fact: fact.time):
            self.wait_until(fact.time)
            self.hear(fact)
        return self

    def hear(self, *facts):
        """Hear of FACTS now."""
        for fact in facts:
            self._keep(self.tracker.feed(fact))
        return self

    def wait_until(self, at):
        # A second at a time, but hours without anybody at longer steps.
        while self.now < at:
            step = 1 if at - self.now < 3000 else 10
            self.now = min(self.now + step, at)
            self.tick()
        self.tick()

    def tick(self):
        self._keep(self.tracker.tick(self.now))

    def wait(self, seconds):
        self.wait_until(self.now + seconds)
        return self

    def _keep(self, changes):
        for change in changes:
            pull = listener.pull_object(
                change.pull, self.now, change.verdict if change.what == "forgotten" else None)
            if change.what == "forgotten":
                self.over.append(pull)
            else:
                self.said.append((self.now - START, change.what, pull["image"], pull["verdict"]))

    def pulls(self):
        """All pulls, in the order of their start."""
        known = [listener.pull_object(pull, self.now) for pull in self.tracker]
        return sorted(self.over + known, key=lambda pull: pull["started"])

    def pull(self):
        """The one pull that there is."""
        pulls = self.pulls()
        assert len(pulls) == 1, pulls
        return pulls[0]

    def verdicts(self):
        return [pull["verdict"] for pull in self.pulls()]

    def told(self, what):
        """When, in seconds since START, and with which verdict it said so."""
        return [(at, verdict) for at, told, _, verdict in self.said if told == what]
