"""The stack as its user starts it: `make run` on a copy of the repository."""

import base64
import contextlib
import fcntl
import functools
import hashlib
import io
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tarfile
import tempfile
import textwrap
import urllib.error
import urllib.request

import pytest

from support import HERE, process
from support.process import command as run, need
from support.recordings import a_minute_later

REPOSITORY = HERE.parent
FILES = ["listener.py", "Dockerfile", ".dockerignore", ".env", "docker-compose.yml", "config.yml",
         "auth_config.yml", "Makefile"]
CONTAINERS = ["sts_docker_auth_registry_1", "sts_docker_auth", "sts_listener_server"]
REGISTRY, _, LISTENER = CONTAINERS
PASSWORDS = {"foo": "foopass", "bar": "barpass"}
LAYER = "application/octet-stream"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
# What the stack may be told by its user's environment is for the tests to say.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in {
    "HOSTNAME", "REGISTRY", "BIND", "COMPOSE", "PYTHON", "ARGS", "LISTENER_USER", "MAKEFLAGS",
    "MAKELEVEL"}}
# Its own name, as what a user pushed must not be removed with what the tests did.
ENVIRONMENT["COMPOSE_PROJECT_NAME"] = f"sts_test_{os.getpid()}"


until = functools.partial(process.until, seconds=60)


def copy_to(folder):
    for name in FILES:
        shutil.copy(REPOSITORY / name, folder)
    return folder


def blocks(title):
    """The indented blocks of a section of the README, as text."""
    section = (REPOSITORY / "README.md").read_text().partition(f"## {title}\n")[2]
    section = section.partition("\n## ")[0]
    found = re.findall(r"(?:^(?: {4}.*)?\n)+", section, re.M)
    return [textwrap.dedent(block).strip() + "\n" for block in found if block.strip()]


def inspect(container, template, ok=True):
    return run("docker", "inspect", "-f", template, container, ok=ok).strip()


def locked(file):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


@contextlib.contextmanager
def machine():
    """The whole machine for one stack: its ports and the names of its containers are fixed."""
    with contextlib.ExitStack() as afterwards:
        path = os.path.join(tempfile.gettempdir(), "sts-stack.lock")
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        afterwards.callback(os.close, lock)
        until(lambda: locked(lock), "the end of another test run's stack", seconds=300)
        for kind, port in [(socket.SOCK_STREAM, 5000), (socket.SOCK_STREAM, 5001),
                           (socket.SOCK_STREAM, 8086), (socket.SOCK_DGRAM, 8086)]:
            with socket.socket(socket.AF_INET, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError as error:
                    pytest.fail(f"port {port} of 127.0.0.1: {error}: stop what uses it (your own"
                                " stack: make stop), the tests need it for a stack of their own")
        # A stack that was stopped keeps its containers: they get their names back afterwards.
        for name in CONTAINERS:
            if inspect(name, "{{.Id}}", ok=None).isalnum():
                run("docker", "rename", name, f"{name}_kept")
                afterwards.callback(run, "docker", "rename", f"{name}_kept", name)
        yield


def pulls_later(log, image):
    """What LOG and the registry.log beside it say of the pulls of IMAGE a minute later."""
    rows = map(json.loads, a_minute_later(log, "--json")[0].splitlines())
    return [row for row in rows if row["image"] == image.partition("/")[2]]


class Stack:
    """`make run` in FOLDER, attached to no terminal; what it wrote is in `console`."""

    def __init__(self, folder, command, user=None, **settings):
        self.folder, self.settings = folder, settings
        self.log = folder / "listener_log" / "log.log"
        self.registry_log = self.log.with_name("registry.log")
        self.user = {} if user in (None, os.getuid()) else {
            "user": user, "group": user, "extra_groups": [os.stat("/var/run/docker.sock").st_gid]}
        self.env = {**ENVIRONMENT, **settings, "HOME": str(folder)}
        self.output = open(folder / "console", "w+")
        self.process = subprocess.Popen(
            command, cwd=folder, env=self.env, stdout=self.output, stderr=subprocess.STDOUT,
            start_new_session=True, **self.user)

    def __enter__(self):
        try:
            until(self.answers, lambda: f"the registry answers\n{self.console}", seconds=120)
            self.healthy = inspect(LISTENER, "{{json .State.Health.Log}}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        """Leave nothing of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.output.close()
        self.make("clean")

    def answers(self):
        """Whether the registry says 401, under a certificate that is for localhost."""
        assert self.process.poll() is None, self.console
        try:
            trust = ssl.create_default_context(cafile=str(self.folder / "certs" / "sts.crt"))
            urllib.request.urlopen("https://localhost:5000/v2/", context=trust, timeout=5)
        except urllib.error.HTTPError as error:
            return error.code == 401
        except OSError:
            return False

    @property
    def console(self):
        with open(self.folder / "console", errors="replace") as file:
            return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.read())

    @property
    def events(self):
        text = self.log.read_text() if self.log.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def interrupt(self):
        """Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(timeout=60)

    def make(self, *arguments, ok=True):
        return run("make", *arguments, ok=ok, cwd=self.folder, env=self.env, **self.user)

    def client(self, user):
        """A docker client of USER's: the environment for `docker push` and so on."""
        config = self.folder / f"docker-{user}"
        host = run("docker", "context", "inspect", "-f", "{{.Endpoints.docker.Host}}").strip()
        return {**ENVIRONMENT, "DOCKER_HOST": host, "DOCKER_CONFIG": str(config)}

    def login(self, user, password=None, ok=True):
        return run("docker", "login", "-u", user, "--password-stdin", "https://localhost:5000",
                   ok=ok, env=self.client(user), input=password or PASSWORDS[user])

    def docker(self, user, *arguments, ok=True):
        return run("docker", *arguments, ok=ok, env=self.client(user))

    def ask(self, repository, method, path, body=None, **headers):
        """The answer to a request of foo's for PATH below REPOSITORY."""
        trust = ssl.create_default_context(cafile=str(self.folder / "certs" / "sts.crt"))
        password = base64.b64encode(f"foo:{PASSWORDS['foo']}".encode()).decode()
        token = urllib.request.Request(
            f"https://localhost:5001/auth?service=registry&scope=repository:{repository}:pull,push",
            headers={"Authorization": f"Basic {password}"})
        with urllib.request.urlopen(token, context=trust, timeout=20) as answer:
            headers["Authorization"] = "Bearer " + json.load(answer)["token"]
        question = urllib.request.Request(f"https://localhost:5000/v2/{repository}/{path}", body,
                                          headers, method=method)
        return urllib.request.urlopen(question, context=trust, timeout=20)

    def pulls(self, image):
        """What `make pulls` says of IMAGE."""
        rows = map(json.loads, self.make("-s", "pulls", "ARGS=--json").splitlines())
        return [row for row in rows if row["image"] == image.partition("/")[2]]

    def says(self, image, verdict):
        """The line of its console that IMAGE's pull ended so, or None."""
        return re.search(rf"{LISTENER} .* pull +{image.partition('/')[2]} +{verdict}\b.*",
                         self.console)

    def blobs_pushed(self, image):
        """The digests of IMAGE's config and layers, from the event of its push, once that came."""
        repository, tag = image.partition("/")[2].split(":")

        def manifest():
            for event in self.events:
                target = event["target"]
                if event["action"] == "push" and target["repository"] == repository \
                        and target.get("tag") == tag:
                    return target
        found = until(manifest, f"the event of {image}'s manifest\n{self.console[-3000:]}")
        digests = [reference["digest"] for reference in found["references"]]
        assert digests[0] == inspect(image, "{{.Id}}")
        return digests


def tar(files):
    """An archive with FILES, contents by name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def push_for_two_platforms(image, ask, environment):
    """Push an index of two images, of 15 MB in 3 layers each.

    IMAGE is the fixture; ASK(repository, method, path, body, **headers) is what the registry
    answers. Returns the name, and the digest of the config for this machine.
    """
    name = f"localhost:5000/test/{os.urandom(4).hex()}:latest"
    repository = name.partition("/")[2].partition(":")[0]
    own = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    manifests = []
    for architecture in ["amd64", "arm64"]:
        tagged = image(4_000_000, 5_000_000, 6_000_000, architecture=architecture,
                       name=name.replace("latest", architecture))
        if architecture == own:
            config = inspect(tagged, "{{.Id}}")
        run("docker", "push", tagged, env=environment)
        run("docker", "rmi", tagged)
        with ask(repository, "HEAD", f"manifests/{architecture}", Accept=MANIFEST) as answer:
            manifests.append({
                "mediaType": MANIFEST, "size": int(answer.headers["Content-Length"]),
                "digest": answer.headers["Docker-Content-Digest"],
                "platform": {"os": "linux", "architecture": architecture}})
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
    ask(repository, "PUT", "manifests/latest", json.dumps(index).encode(),
        **{"Content-Type": INDEX}).close()
    return name, config


class SlowLink:
    """While it is open, a container sends at most 3 MB/s."""

    def __init__(self, container):
        need("" if os.getuid() == 0 else f"this is user {os.getuid()}", "root, for a slow link")
        need("" if shutil.which("tc") and shutil.which("nsenter") else "not found",
             "tc and nsenter")
        self.enter = ["nsenter", "-t", inspect(container, "{{.State.Pid}}"), "-n"]

    def _limit(self, word, *rate):
        run(*self.enter, "tc", "qdisc", word, "dev", "eth0", "root", *rate)

    def __enter__(self):
        self._limit("add", *"tbf rate 24mbit burst 256kb latency 400ms".split())
        return self

    def __exit__(self, *_):
        self._limit("del")

    def sent(self):
        """Bytes that the container has sent so far."""
        shown = run(*self.enter, "tc", "-s", "qdisc", "show", "dev", "eth0")
        return int(re.search(r"Sent (\d+) bytes", shown).group(1))

    @contextlib.contextmanager
    def held(self):
        """Hardly anything is sent, so that on a busy machine nothing ends before its time."""
        self._limit("change", *"tbf rate 64kbit burst 2kb latency 400ms".split())
        try:
            yield
        finally:
            self._limit("change", *"tbf rate 24mbit burst 256kb latency 400ms".split())


@contextlib.contextmanager
def pulling(name, environment):
    """A `docker pull`, which runs."""
    pull = subprocess.Popen(["docker", "pull", name], env=environment, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True)
    try:
        yield pull
    finally:
        pull.kill()
        pull.communicate()


def interrupt(pull):
    """Ctrl-C."""
    assert pull.poll() is None, pull.stderr.read()
    pull.send_signal(signal.SIGINT)
    assert pull.wait(timeout=30) != 0


def pull_and_interrupt(name, environment, link, after):
    """Pull, and press Ctrl-C when the registry has sent AFTER bytes."""
    sent = link.sent()
    with pulling(name, environment) as pull:
        until(lambda: link.sent() > sent + after or pull.poll() is not None, f"{after} bytes")
        with link.held():
            interrupt(pull)


def image_archive(name, *sizes, architecture="amd64"):
    """What `docker load` takes: an image with a layer of random bytes for each of SIZES.

    It is loaded, not built: a builder's cache would keep the layers, and no pull would want them.
    """
    layers = [tar({f"{number}.bin": os.urandom(size)}) for number, size in enumerate(sizes)]
    ids = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
    config = {"architecture": architecture, "os": "linux", "config": {},
              "rootfs": {"type": "layers", "diff_ids": ids}}
    files = {f"{number}.tar": layer for number, layer in enumerate(layers)}
    index = [{"Config": "config.json", "RepoTags": [name], "Layers": list(files)}]
    files.update({"config.json": json.dumps(config).encode(),
                  "manifest.json": json.dumps(index).encode()})
    return tar(files)
