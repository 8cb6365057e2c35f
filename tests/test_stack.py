"""The stack as its user starts it: `make run` on a copy of the repository, and a real docker."""
import collections
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request

import pytest

from support.browser import CHROMIUM, Browser
from support.process import command as run, need
from support.stack import (CONTAINERS, ENVIRONMENT, LAYER, LISTENER, REGISTRY, REPOSITORY,
                           SlowLink, Stack, copy_to, inspect, interrupt, machine,
                           pull_and_interrupt, pulling, pulls_later, push_for_two_platforms, until)


def times(events, action, method, mediatype=LAYER):
    """How often each digest was in an event of this kind."""
    return collections.Counter(
        event["target"]["digest"] for event in events if event["action"] == action
        and event["request"]["method"] == method and event["target"]["mediaType"] == mediatype)


def once_each(digests):
    return {digest: 1 for digest in digests}


def same_ids_once(stack):
    ids = [event["id"] for event in stack.events]
    assert len(ids) == len(set(ids))


# ------------------------------------------------------------------------------ without the stack

def make(folder, *arguments, ok=True, **environment):
    environment = {**ENVIRONMENT, **environment}
    return run("make", *arguments, ok=ok, cwd=folder, env=environment)


def test_certificate_is_for_its_names_and_stays_until_they_change(tmp_path):
    copy_to(tmp_path)
    key, certificate = tmp_path / "certs" / "sts.key", tmp_path / "certs" / "sts.crt"

    def names():
        text = run("openssl", "x509", "-in", str(certificate), "-noout", "-text")
        return set(re.search(r"Alternative Name:\s*(.*)", text).group(1).split(", "))

    always = {"DNS:localhost", "IP Address:127.0.0.1", f"DNS:{os.uname().nodename}"}
    make(tmp_path, "certs")
    assert names() == always
    assert key.stat().st_mode & 0o777 == 0o600
    first = key.read_bytes()
    make(tmp_path, "certs")
    assert key.read_bytes() == first
    make(tmp_path, "certs", "HOSTNAME=registry.example")
    assert names() == always | {"DNS:registry.example"}
    assert key.read_bytes() != first
    make(tmp_path, "certs", "HOSTNAME=192.0.2.7")
    assert names() == always | {"IP Address:192.0.2.7"}


def test_certs_makes_what_compose_needs_for_either_registry_and_the_one_named(tmp_path):
    copy_to(tmp_path)
    make(tmp_path, "certs", "HOSTNAME=registry.example", "REGISTRY=3.1.2")
    own = (tmp_path / "auth_config.yml").read_text()
    for registry, config in [("2", own), ("3", own.replace("key_id: false", "key_id: true")),
                             ("3.1.2", own.replace("key_id: false", "key_id: true"))]:
        made = tmp_path / "certs" / f"auth_config_for_registry_{registry}.yml"
        assert made.read_text() == config
        made = tmp_path / "certs" / f"made_by_make_certs_for_registry_{registry}.env"
        assert "REALM=https://registry.example:5001/auth" in made.read_text()
    (tmp_path / "auth_config.yml").write_text("changed")
    assert (tmp_path / "certs" / "auth_config_for_registry_2.yml").read_text() == "changed"


def test_help_is_the_default_and_names_every_target(tmp_path):
    copy_to(tmp_path)
    targets = re.findall(r"^\.PHONY: (\w+)", (tmp_path / "Makefile").read_text(), re.M)
    assert re.findall(r"^  make ([a-z]+) ", make(tmp_path), re.M) == targets


@pytest.mark.parametrize("target, tool", [
    ("build", "docker"), ("run", "openssl"), ("stop", "docker"), ("demo", "docker"),
    ("pulls", "Python"), ("check", "Python"), ("test", "python3"), ("bench", "python3"),
    ("clean", "docker")])
def test_make_says_which_tool_is_missing_and_where_to_get_it(tmp_path, target, tool):
    copy_to(tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ["sh", "make", "rm", "mkdir"]:
        (tools / name).symlink_to(shutil.which(name))
    output = make(tmp_path, target, ok=False, PATH=str(tools))
    says = rf": {tool}[^:]* does not work here: install |needs {tool} 3.9 or newer: install"
    assert re.search(says, output), output


@pytest.mark.docker
@pytest.mark.parametrize("buildkit", ["0", "1"], ids=["classic", "buildkit"])
def test_image_builds(tmp_path, buildkit):
    copy_to(tmp_path)
    name = f"sts_test_{os.getpid()}"
    environment = {**ENVIRONMENT, "DOCKER_BUILDKIT": buildkit}
    run("docker", "build", "-t", name, str(tmp_path), env=environment)
    try:
        assert "healthz" in inspect(name, "{{.Config.Healthcheck.Test}}")
        output = run("docker", "run", "--rm", "--user", "4711", name, "serve", "--help")
        assert "--syslog-port" in output
    finally:
        run("docker", "rmi", name)


@pytest.mark.docker
def test_bind_publishes_the_registry_and_the_tokens_but_never_the_listener(tmp_path):
    copy_to(tmp_path)
    make(tmp_path, "certs")
    for bind in [None, "0.0.0.0"]:
        environment = {**ENVIRONMENT, "BIND": bind} if bind else ENVIRONMENT
        config = json.loads(run("docker", "compose", "config", "--format", "json", cwd=tmp_path,
                                env=environment))
        ports = {(int(port["published"]), port["protocol"]): port["host_ip"]
                 for service in config["services"].values() for port in service["ports"]}
        address = bind or "127.0.0.1"
        assert ports == {(5000, "tcp"): address, (5001, "tcp"): address,
                         (8086, "tcp"): "127.0.0.1", (8086, "udp"): "127.0.0.1"}


@pytest.mark.docker
@pytest.mark.parametrize("compose", ["docker compose", "docker-compose"])
def test_compose_up_without_certificates_says_what_is_missing_and_leaves_nothing(tmp_path, compose):
    need("" if shutil.which(compose.split()[0]) else "not found", compose)
    copy_to(tmp_path)
    missing = tmp_path / "certs" / "made_by_make_certs_for_registry_3.env"
    output = run(*compose.split(), "up", "-d", ok=False, cwd=tmp_path,
                 env={**ENVIRONMENT, "REGISTRY": "3"})
    assert len(output.splitlines()) == 1 and str(missing) in output
    ours = f"label=com.docker.compose.project={ENVIRONMENT['COMPOSE_PROJECT_NAME']}"
    assert run("docker", "ps", "-aq", "--filter", ours) == ""
    assert run("docker", "network", "ls", "-q", "--filter", ours) == ""


@pytest.mark.docker
def test_make_leaves_the_containers_of_another_folder_alone(tmp_path):
    copy_to(tmp_path)
    with machine():
        run("docker", "create", "--name", LISTENER, "--label",
            "com.docker.compose.project.working_dir=/some/other", "registry:2")
        try:
            for target in ["run", "stop", "demo", "pulls", "check", "clean"]:
                output = make(tmp_path, target, ok=False)
                assert f"{LISTENER} belongs to /some/other, not to {tmp_path}" in output
                assert "docker rm -f" in output
            assert inspect(LISTENER, "{{.State.Status}}") == "created"
        finally:
            run("docker", "rm", LISTENER)


@pytest.mark.docker
@pytest.mark.parametrize("port, bind", [(8086, "127.0.0.1"), (8086, "0.0.0.0"), (5000, "0.0.0.0")])
def test_make_run_says_which_process_holds_a_port(tmp_path, port, bind):
    """`python listener.py` of the README's first step may still run."""
    copy_to(tmp_path)
    with machine():
        listener = subprocess.Popen(
            [sys.executable, "listener.py", "--host", bind, "--port", str(port)],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            assert b"listening on" in listener.stdout.readline()
            output = make(tmp_path, "run", ok=False)
        finally:
            listener.kill()
            listener.communicate()
        assert f"needs port {port}/tcp, which is held by `{sys.executable} listener.py" in output
        assert f"kill {listener.pid}" in output
        assert inspect(LISTENER, "{{.Id}}", ok=None) == f"Error: No such object: {LISTENER}"


@pytest.mark.docker
def test_make_run_says_which_container_holds_a_port(tmp_path):
    copy_to(tmp_path)
    name = f"sts_test_{os.getpid()}"
    with machine():
        run("docker", "run", "-d", "--name", name, "-p", "127.0.0.1:8086:9/udp",
            "--entrypoint", "sleep", "registry:2", "1000")
        try:
            output = make(tmp_path, "run", ok=False)
        finally:
            run("docker", "rm", "-f", name)
    assert f"8086/udp, which is held by the container {name}: docker stop {name}" in output


@pytest.mark.docker
@pytest.mark.parametrize("command", ["make run", "docker-compose up"])
def test_docker_compose_1_29_for_a_user_who_is_not_root(command):
    """The old Compose, and a checkout that only its owner can read."""
    need("" if shutil.which("docker-compose") and "version 1." in run("docker-compose", "version")
         else "not found", "docker-compose 1.29")
    user = 1000 if os.getuid() == 0 else os.getuid()
    with contextlib.ExitStack() as afterwards:
        folder = pathlib.Path(tempfile.mkdtemp())  # as only the tests' user may enter tmp_path
        afterwards.callback(shutil.rmtree, folder)
        copy_to(folder)
        for path in [folder, *folder.iterdir()]:
            path.chmod(0o700)
            os.chown(path, user, -1)
        afterwards.enter_context(machine())
        if command != "make run":
            run("make", "certs", cwd=folder, env=ENVIRONMENT, user=user)
            command = f"env REGISTRY=3 {command}"
        stack = afterwards.enter_context(
            Stack(folder, command.split(), user=user, COMPOSE="docker-compose"))
        stack.make("demo")
        assert times(stack.events, "push", "PUT")
        if command == "make run":
            assert {path.stat().st_uid for path in folder.glob("listener_log/*")} == {user}
        else:
            assert re.search(rf'{REGISTRY} .*msg="response completed"', stack.console)
        assert re.search(rf"{LISTENER} .* push +demo/tiny:latest ", stack.console)


# ------------------------------------------- with the stack that the following tests have in common

@pytest.fixture(scope="module", params=["2", "3"], ids=["registry2", "registry3"])
def stack(request, tmp_path_factory):
    folder = copy_to(tmp_path_factory.mktemp("stack"))
    with machine(), Stack(folder, ["make", "run"], REGISTRY=request.param) as stack:
        stack.login("foo")
        stack.login("bar")
        yield stack


@pytest.mark.docker
def test_registry_starts_after_the_listener_is_healthy(stack):
    checks = [check["End"] for check in json.loads(stack.healthy) if check["ExitCode"] == 0]
    assert seconds(min(checks)) < seconds(inspect(REGISTRY, "{{.State.StartedAt}}"))
    assert inspect(REGISTRY, "{{.Config.Image}}") == f"registry:{stack.settings['REGISTRY']}"


def seconds(stamp):
    """Seconds of the hour in an RFC 3339 STAMP of docker's, whatever its zone."""
    minute, second = re.search(r":(\d\d):([\d.]+)", stamp).groups()
    return int(minute) * 60 + float(second)


@pytest.mark.docker
def test_listener_may_do_nothing_but_write_its_log(stack):
    status = run("docker", "exec", LISTENER, "cat", "/proc/1/status")
    dac_override = 1 << 1
    assert int(re.search(r"CapEff:\s*(\w+)", status).group(1), 16) in (0, dac_override)
    assert int(re.search(r"CapBnd:\s*(\w+)", status).group(1), 16) == dac_override
    assert re.search(r"NoNewPrivs:\s*1", status)
    output = run("docker", "exec", LISTENER, "python", "-c", "open('/x', 'w')", ok=False)
    assert "Read-only file system" in output


@pytest.mark.docker
def test_wrong_password(stack):
    assert "unauthorized" in stack.login("foo", password="barpass", ok=False).lower()


@pytest.mark.docker
def test_push_and_pull_give_each_event_once(stack, image):
    name = image(300_000, 200_000)
    before = len(stack.events)
    stack.docker("foo", "push", name)
    blobs = stack.blobs_pushed(name)
    assert len(blobs) == 3
    assert times(stack.events[before:], "push", "PUT") == once_each(blobs)

    run("docker", "rmi", name)
    before = len(stack.events)
    stack.docker("bar", "pull", name)
    until(lambda: times(stack.events[before:], "pull", "GET") == once_each(blobs),
          lambda: f"one event for each blob pulled, in {stack.events[before:]}")
    assert {event["actor"]["name"] for event in stack.events[before:]} == {"bar"}
    same_ids_once(stack)
    assert stack.log.stat().st_uid == os.getuid()

    # Each request that made an event is in the registry's log as well.
    def logged(text):
        return set(re.findall(r'msg="response completed".* http\.request\.id=(\S+)', text))
    asked = {event["request"]["id"] for event in stack.events}
    until(lambda: asked <= logged(stack.registry_log.read_text()), "all requests in registry.log")
    assert asked <= logged(run("docker", "logs", REGISTRY))
    # The console shows what the listener says, and nothing of the registry's requests.
    until(lambda: f"push  {name.partition('/')[2]}" in stack.console, "the push on the console")
    assert "http.request" not in stack.console and "http://localhost:8086/" in stack.console
    assert re.search(rf"{LISTENER} .* push +{name.partition('/')[2]} .* by foo", stack.console)


@pytest.mark.docker
def test_push_without_rights_is_denied(stack, image):
    name = image(1000)
    before = len(stack.events)
    output = stack.docker("bar", "push", name, ok=False)
    assert "denied" in output, output
    # An event of a later push is there, so one of the denied push would be.
    stack.docker("foo", "push", name)
    stack.blobs_pushed(name)
    assert {event["actor"]["name"] for event in stack.events[before:]} == {"foo"}


@pytest.mark.docker
def test_listener_stopped_during_a_push_and_started_again(stack, image):
    name = image(1000, 150_000_000)  # the first is there while the second is still compressed
    before = len(stack.events)
    push = subprocess.Popen(["docker", "push", name], env=stack.client("foo"),
                            stdout=subprocess.DEVNULL)
    try:
        until(lambda: len(stack.events) > before, "the event of the small layer")
        run("docker", "stop", LISTENER)
        assert inspect(LISTENER, "{{.State.ExitCode}}") == "0"
        assert push.poll() is None, "the push was over before the listener stopped"
        assert push.wait(timeout=120) == 0
        assert not any(event["target"].get("tag") for event in stack.events[before:])
    finally:
        push.kill()
        push.wait()
        run("docker", "start", LISTENER)
    blobs = stack.blobs_pushed(name)
    assert times(stack.events[before:], "push", "PUT") == once_each(blobs)
    same_ids_once(stack)
    # The registry's log finds its way to a listener that was started anew.
    size = stack.registry_log.stat().st_size
    stack.login("foo")
    until(lambda: stack.registry_log.stat().st_size > size, "more lines in registry.log")


@pytest.mark.docker
def test_demo_shows_what_arrived_and_leaves_the_docker_config_alone(stack):
    output = stack.make("demo")
    assert output.index("What the listener said") < output.index('{"id"')
    shown = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert {"push", "pull"} == {event["action"] for event in shown}
    assert all(event["target"]["repository"] == "demo/tiny" for event in shown)
    assert max(times(shown, "pull", "GET").values()) == 1
    assert re.search(r"pull +demo/tiny:latest +complete", output)
    assert not (stack.folder / ".docker" / "config.json").exists()
    # What an earlier test of this stack broke is mended since.
    assert re.search(r"^\d+ events arrived, \d+ of them of pulls, the last at [\d: -]+[.;]",
                     stack.make("check"), re.M)


@pytest.fixture
def slow_link(stack):
    with SlowLink(REGISTRY) as link:
        yield link


@pytest.mark.docker
def test_pull_that_the_user_interrupts(stack, image, slow_link):
    name = image(25_000_000)
    stack.docker("foo", "push", name)
    config, _ = stack.blobs_pushed(name)
    run("docker", "rmi", name)
    pull_and_interrupt(name, stack.client("bar"), slow_link, 8_000_000)

    shown = name.partition("/")[2]
    line = rf"{LISTENER} .* pull +{shown} +interrupted .*\((\d+) %\).* by bar"
    share = until(lambda: re.search(line, stack.console),
                  lambda: f"{line} in\n{stack.console[-5000:]}")
    assert 0 < int(share.group(1)) < 100
    assert re.search(rf"{LISTENER} .* pull +{shown} +started +25\.\d MB in 1 layer"
                     rf" +image {config[7:19]} .*bar", stack.console)

    told = json.loads(stack.make("-s", "pulls", "ARGS=--json").splitlines()[-1])
    assert (told["verdict"], told["image"], told["user"]) == ("interrupted", shown, "bar")
    assert told["image_id"] == config and 0 < told["sent"] < told["size"]
    row = stack.make("-s", "pulls").splitlines()[-1]
    assert f"{share.group(1)} %  interrupted" in row and shown in row


@pytest.mark.docker
def test_the_page_shows_a_pull_while_it_runs_and_how_it_ended(stack, image, slow_link, tmp_path):
    """As people see it in a browser, and as programs read it."""
    name = image(15_000_000)
    shown = name.partition("/")[2]
    stack.docker("foo", "push", name)
    stack.blobs_pushed(name)
    run("docker", "rmi", name)
    need("" if CHROMIUM else "there is none in PATH", "Chromium")
    with Browser(tmp_path / "browser") as browser:
        tab = browser.open("http://127.0.0.1:8086/")
        tab.until(lambda text: "last event" in text)
        pull = subprocess.Popen(["docker", "pull", name], env=stack.client("bar"),
                                stdout=subprocess.DEVNULL)
        try:
            tab.until(lambda text: "1 running" in text and "1 being sent" in text)
            assert shown in tab.text("#running") and "bar from" in tab.text("#running")
            with urllib.request.urlopen("http://127.0.0.1:8086/pulls", timeout=20) as answer:
                running, = json.load(answer)["running"]
            assert running["image"] == shown
            assert [blob["state"] for blob in running["blobs"]] == ["whole", "open"]
            assert pull.wait(timeout=60) == 0
        finally:
            pull.kill()
            pull.wait()
        tab.until(lambda text: "1 running" not in text)
        row = tab.evaluate("document.querySelector('#pulls tr').innerText")
        assert shown in row and "complete" in row and "bar from" in row
        assert tab.complaints == []


@pytest.mark.docker
def test_a_pull_that_is_interrupted_while_it_waits_for_another(stack, image, slow_link):
    """An engine fetches three layers at once: the second image's wait.

    docker 20.10 sees that its user is gone when it begins to fetch the next layer, and may have
    asked for all others by then: they are so large that each takes a second or more.
    """
    names = [image(12_000_000, 12_000_000, 12_000_000), image(*[4_000_000] * 5)]
    for name in names:
        stack.docker("foo", "push", name)
        stack.blobs_pushed(name)
        run("docker", "rmi", name)
    first, second = names
    repository, config = (f"/v2/{name.partition('/')[2].partition(':')[0]}/blobs/sha256"
                          for name in names)
    with pulling(first, stack.client("bar")) as one:
        until(lambda: len(re.findall(rf"authorized request.*GET.*{repository}",
                                     stack.registry_log.read_text())) == 4, "config and 3 layers")
        with pulling(second, stack.client("bar")) as other:
            until(lambda: re.search(rf"response completed.*GET.*{config}",
                                    stack.registry_log.read_text()), "the second's config")
            with slow_link.held():
                interrupt(other)
        assert one.wait(timeout=60) == 0
    until(lambda: stack.says(first, "complete"), lambda: stack.console[-3000:])
    assert not stack.says(second, "complete"), stack.console[-5000:]
    assert [pull["verdict"] for pull in pulls_later(stack.log, first)] == ["complete"]
    assert [pull["verdict"] for pull in pulls_later(stack.log, second)] == ["interrupted"]


@pytest.mark.docker
def test_an_image_for_two_platforms_interrupted_and_pulled_again(stack, image, slow_link):
    """The second time docker asks for the index and for blobs, as it has the manifest."""
    name, config = push_for_two_platforms(image, stack.ask, stack.client("foo"))
    bar = stack.client("bar")
    pull_and_interrupt(name, bar, slow_link, 8_000_000)
    run("docker", "pull", name, env=bar)
    run("docker", "rmi", name, env=bar)
    until(lambda: stack.says(name, "complete"), lambda: stack.console[-3000:])
    one, other = pulls_later(stack.log, name)
    assert (one["verdict"], other["verdict"]) == ("interrupted", "complete")
    for pull in one, other:
        assert (pull["layers"], pull["image_id"], pull["user"]) == (3, config, "bar")
    assert one["size"] == other["size"] > 15_000_000


@pytest.mark.docker
def test_a_layer_that_is_gone_from_the_storage(stack, image):
    name = image(100_000, 200_000)
    stack.docker("foo", "push", name)
    _, _, layer = stack.blobs_pushed(name)
    run("docker", "rmi", name)
    algorithm, digits = layer.split(":")
    run("docker", "exec", REGISTRY, "rm", "-r", "/var/lib/registry/docker/registry/v2/blobs/"
        f"{algorithm}/{digits[:2]}/{digits}")
    run("docker", "restart", REGISTRY)  # or it would remember the layer
    until(stack.answers, "the registry answers")
    stack.docker("bar", "pull", name, ok=False)
    line = until(lambda: stack.says(name, "failed"), lambda: stack.console[-3000:])
    assert f"the registry answered 404 for layer {digits[:12]}" in line.group()
    pull, = stack.pulls(name)
    assert (pull["verdict"], pull["error"]) == ("failed", 404)


@pytest.mark.docker
def test_what_a_listener_missed_is_in_the_registrys_own_log(stack, image, slow_link):
    name = image(30_000_000)
    stack.docker("foo", "push", name)
    stack.blobs_pushed(name)
    run("docker", "rmi", name)
    sent = slow_link.sent()
    with pulling(name, stack.client("bar")) as pull:
        until(lambda: slow_link.sent() > sent + 4_000_000, "4 MB are sent")
        try:
            with slow_link.held():
                run("docker", "stop", LISTENER)
                interrupt(pull)
            until(lambda: re.search(rf"response completed.*{name.partition('/')[2][:-7]}/blobs/.*"
                                    r"written=\d{7}", run("docker", "logs", REGISTRY)), "its end")
        finally:
            run("docker", "start", LISTENER)
    pull, = until(lambda: [pull for pull in stack.pulls(name) if pull["verdict"] != "running"],
                  lambda: f"a verdict: {stack.pulls(name)}")
    assert pull["verdict"] == "interrupted" and 4_000_000 < pull["sent"] < pull["size"]


def restart_registry(stack, *changes):
    """Start the registry anew, with CHANGES to the config.yml of the repository."""
    config = (REPOSITORY / "config.yml").read_text()
    for old, new in changes:
        assert old in config
        config = config.replace(old, new)
    (stack.folder / "config.yml").write_text(config)
    run("docker", "restart", REGISTRY)
    until(stack.answers, "the registry answers")


@pytest.mark.docker
@pytest.mark.parametrize("changes, cannot, also", [
    ([("http://sts_listener_server", "http://0.0.0.0"),
      ("ignoredmediatypes: []", "ignoredmediatypes: [application/octet-stream]"),
      ("  mediatypes: []", "  mediatypes: [application/octet-stream]"),
      ("actions: []", "actions: [pull]")],
     "http://0.0.0.0:8086/log: connection refused", ["application/octet-stream", "pull"]),
    ([("sts_listener_server:8086", "sts_listner:8086")],
     "http://sts_listner:8086/log: no such host", []),
    ([("url: http:", "url: https:")], "https://sts_listener_server:8086/log: "
     "server gave HTTP response to HTTPS client", []),
], ids=["as it was", "wrong name", "https for http"])
def test_check_and_the_console_say_why_nothing_arrives(stack, image, changes, cannot, also):
    name = image(1000)
    try:
        restart_registry(stack, *changes)
        stack.docker("foo", "push", name)
        until(lambda: f"the registry cannot send to {cannot}" in stack.console,
              lambda: stack.console[-3000:])
        told = stack.make("check", ok=False)
        assert cannot in told
        for word in also:
            assert word in told
    finally:
        restart_registry(stack)
    stack.make("demo")
    stack.make("check")  # all is well: exit status 0


@pytest.mark.docker
def test_check_says_that_the_listener_is_stopped_until_it_is_started(stack, image):
    name = image(1000)
    run("docker", "stop", LISTENER)
    try:
        stack.docker("foo", "push", name)
        until(lambda: "httpSink" in run("docker", "logs", "--since", "1m", REGISTRY), "it tries")
        told = stack.make("check", ok=False)
        assert f"Not running: {LISTENER} (exited). Start the stack: make run" in told
        assert f"http://{LISTENER}:8086/log" in told
    finally:
        run("docker", "start", LISTENER)
    stack.blobs_pushed(name)
    stack.make("demo")
    stack.make("check")


@pytest.mark.docker
def test_ctrl_c_stops_the_containers(stack):  # the last one of those that use this stack
    stack.interrupt()
    for name in CONTAINERS:
        assert inspect(name, "{{.State.Status}}") == "exited"
    assert "the stack does not run" in stack.make("demo", ok=False)
    # What is in the files, and in the stopped registry's log, can be read all the same.
    assert "demo/tiny:latest" in stack.make("pulls")
    told = stack.make("clean")
    for removed in ["containers", "network", "volume", "image", "certs/", ".venv/"]:
        assert removed in told
    assert "listener_log/ is still there" in told and stack.log.exists()
    assert not (stack.folder / "certs").exists()
    stack.make("clean")  # also where there is nothing
