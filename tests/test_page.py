"""The page and its data: asked for over a socket, and seen in a real browser."""

import base64
import contextlib
import json
import os
import re
import time

import pytest
from support import HERE, listener as module
from support.browser import CHROMIUM, Browser
from support.disk import Faulty
from support.process import Listener, need, statuses, until
from support.recordings import Recording
from support.traffic import Client, Image, event, stamp

ALICE = Client("alice", "10.0.3.17", "docker/27.3.1 go/go1.22", "ml/pytorch")
KB = 1000


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    need("" if CHROMIUM else "there is none in PATH", "Chromium")
    with Browser(tmp_path_factory.mktemp("browser")) as made:
        yield made


@pytest.fixture
def listener(tmp_path):
    with Listener(tmp_path, "--syslog-port", "0") as made:
        yield made


def data(listener, **headers):
    status, text = listener.request("GET", "/pulls", headers=headers)
    return status, json.loads(text or "null")


def address(listener):
    return f"http://127.0.0.1:{listener.port}/"


def unharmed(tab, listener):
    """Nothing in the tab was blocked, has failed, or came from anywhere else."""
    tab.evaluate("1")  # what it had to say has been heard
    assert tab.complaints == []
    assert {re.match(r"(?:https?://[^/]+/|data:)", url)[0] for url in tab.requests} <= {
        address(listener), "data:"}


def begin(listener, at, image, tag="2.4-cuda", client=ALICE):
    """A pull that has begun: the config is sent, a layer is cut, another is being sent."""
    assert listener.post(client.event(
        at, f"m-{image.digest}-{at}", image.digest, 800, "manifests", "GET", tag, image.references,
        image.media_type))[0] == 200
    for number, (digest, size) in enumerate(image.sizes.items()):
        lines = [client.line(at + 0.1, f"{number}-{at}", digest, "authorized request")]
        if number != 1:
            lines.append(client.line(
                at + 1, f"{number}-{at}", digest, "response completed",
                " http.response.contenttype=application/octet-stream http.response.duration=0.9s "
                f"http.response.status=200 http.response.written={size // (1 + number)}"))
        listener.syslog(*[b"<27>1 - - registry - - - " + line.encode() for line in lines])


# ---------------------------------------------------------------------------------- its data


def test_data_of_pulls_and_pushes(listener):
    now = time.time()
    begin(listener, now - 5, Image("one", sizes=(5000, 70_000_000, 30_000_000)))
    listener.post(event(timestamp=stamp(now)))
    until(lambda: data(listener)[1]["running"]
          and data(listener)[1]["running"][0]["blobs"][2]["state"] == "cut")
    found = data(listener)[1]
    assert listener.headers["Content-Type"].startswith("application/json")
    running, = found["running"]
    assert running["blobs"] == [{"state": "whole", "sent": 5000, "size": 5000},
                                {"state": "open", "sent": None, "size": 70_000_000},
                                {"state": "cut", "sent": 10_000_000, "size": 30_000_000}]
    assert (running["image"], running["verdict"], running["user"], running["size"]) == (
        "ml/pytorch:2.4-cuda", "running", "alice", 100_005_000)
    assert found["running_count"] == 1 and found["events"] == 2 and found["notices"] == []
    push, = found["pushes"]
    assert (push["image"], push["size"], push["layers"]) == ("my/pushed:latest", 3_002_874, 2)


def test_what_has_not_changed_is_304_without_a_body(listener):
    listener.post(event())
    assert data(listener)[0] == 200
    etag = listener.headers["ETag"]
    for method in ("GET", "HEAD"):
        assert listener.request(method, "/pulls", headers={"If-None-Match": etag}) == (304, "")
        assert listener.headers["ETag"] == etag
    listener.post(event())
    status, found = data(listener, **{"If-None-Match": etag})
    assert status == 200 and len(found["pushes"]) == 2 and listener.headers["ETag"] != etag


def test_an_answer_tells_of_all_that_was_answered_before_it(listener):
    """It is made after it was asked for, however fast one asks."""
    for number in range(50):
        listener.post(event())
        assert data(listener)[1]["events"] == number + 1


def test_a_hundred_questions_at_once_are_all_answered(listener):
    many = b"GET /pulls HTTP/1.1\r\nHost: x\r\n\r\n" * 100
    assert statuses(listener.raw(many)) == [200] * 100


def test_pulls_of_before_a_restart(listener):
    for name in ("docker_complete-registry2", "skopeo_interrupted-registry2"):
        Recording(name).just_now().play(listener)
    listener.post(event())
    before = until(lambda: len(data(listener)[1]["pulls"]) == 1 and data(listener)[1])
    listener.kill()
    listener.start()
    after = data(listener)[1]
    for name in ("pulls", "running", "pushes"):
        assert after[name] == before[name]
    assert after["last_event"] and after["last_line"]


def test_quiet_has_the_page_too(tmp_path):
    with Listener(tmp_path, "--syslog-port", "0", "--quiet") as listener:
        Recording("docker_complete-registry2").just_now().play(listener)
        until(lambda: [pull["verdict"] for pull in data(listener)[1]["pulls"]] == ["complete"])
        assert listener.out.count("\n") == 1


def test_answers_are_bounded(listener):
    """Hundreds of pulls with the longest names, of images with the most layers."""
    now = time.time()
    for number in range(40):
        client = Client("u" * 4000, f"10.0.0.{number}", "\U0001f40b" * 3000,
                        f"{number}" + "\u202e" * 900)
        image = Image(f"{number}", sizes=[10 ** 9] * 400)
        listener.post([client.event(now, f"{number}-{tag}", image.digest, 800, "manifests", "GET",
                                    f"{tag}" * 100, image.references, image.media_type)
                       for tag in range(5)])
        listener.post([event(target={**event()["target"], "tag": "\u00e9" * 5000})
                       for _ in range(10)])
    for number in range(20):
        listener.raw(b"POST / HTTP/1.1\r\nTransfer-Encoding: %d" % number + b"\xff" * 5000
                     + b"\r\n\r\n")
    found = data(listener)[1]
    assert found["running_count"] == 200 and len(found["running"]) >= 1 and found["pushes"]
    for path in ("/", "/pulls", "/metrics"):
        status, text = listener.request("GET", path)
        assert status == 200 and len(text.encode()) < 200 * KB


def test_who_asks_and_does_not_read_holds_nobody_up(listener):
    many = b"".join(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path
                    for path in (b"/", b"/pulls", b"/metrics") * 100)
    with contextlib.ExitStack() as open_ones:
        for _ in range(50):
            open_ones.enter_context(listener.connect()).sendall(many)
        for _ in range(20):
            assert listener.post(event()) == (200, "")
        assert data(listener)[1]["events"] == 20


def test_with_a_token_the_page_needs_it(tmp_path):
    (tmp_path / "token").write_text("secret\n")
    with Listener(tmp_path, "--token-file", "token") as listener:
        basic = "Basic " + base64.b64encode(b"anybody:secret").decode()
        for path in ("/", "/pulls", "/metrics"):
            assert listener.request("GET", path)[0] == 401
            # A header each: what names both in one is a malformed Basic to browsers.
            assert listener.headers.get_all("WWW-Authenticate") == [
                "Bearer", 'Basic realm="registry listener"']
            for given in ("Bearer secret", "secret", basic):
                assert listener.request("GET", path, headers={"Authorization": given})[0] == 200
        assert listener.health()[0] == 200
        found = data(listener, Authorization=basic)[1]
        assert found["token"] is True
        assert found["notices"] == []  # that a browser has to ask for the password is no refusal
        assert listener.request("GET", "/", headers={"Authorization": "Basic eDp5"})[0] == 401
        assert "401" in data(listener, Authorization=basic)[1]["notices"][0]


def test_headers_of_the_page(listener):
    status, text = listener.request("GET", "/")
    assert status == 200
    policy = listener.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and "*" not in policy
    assert listener.headers["X-Content-Type-Options"] == "nosniff"
    assert listener.headers["Referrer-Policy"] == "no-referrer"


def test_the_page_stands_legibly_in_the_module():
    lines = module.PAGE.splitlines()
    assert len(lines) <= 200 and max(map(len, lines)) <= 100
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!data:)|@import|url\(", module.PAGE)


# ------------------------------------------------------------------------------- in a browser


def test_a_pull_appears_goes_on_and_ends(browser, tmp_path):
    again = Recording("docker_interrupted-registry2").just_now()
    with Faulty(tmp_path, "--syslog-port", "0") as listener:
        tab = browser.open(address(listener))
        tab.until(lambda text: "Nothing has arrived yet" in text)
        again.play(listener, 0.8)
        tab.until(lambda text: "1 running" in text and "my/" in text)
        assert "Nothing has arrived yet" not in tab.text()
        assert tab.evaluate("document.querySelectorAll('#running .bar > i').length") > 1
        assert tab.evaluate("document.title").startswith("(1) ")
        again.play(listener)  # what came before came again
        tab.until(lambda text: "5 cut: interrupted, unless" in text)
        listener.pass_time(40)
        tab.until(lambda text: "✕ interrupted" in text and "running" not in text)
        assert re.search(r"\d+(\.\d)? MB of \d+(\.\d)? MB", tab.text("#pulls"))
        Recording("docker_complete-registry2").just_now().play(listener)
        tab.until(lambda text: "✓ complete" in text)
        unharmed(tab, listener)


def test_it_is_filled_in_for_this_host_while_nothing_has_arrived(browser, listener):
    tab = browser.open(address(listener))
    text = tab.until(lambda text: "Nothing has arrived yet" in text and text)
    assert f"url: http://127.0.0.1:{listener.port}/log" in text
    assert "includereferences: true" in text and "check --registry-log -" in text
    assert "TOKEN" not in text
    made = re.search(r"curl (http\S+) \\\s+-d '(.*)'", text)
    assert made[1] == address(listener) + "log"
    assert listener.post(made[2].encode()) == (200, "")
    tab.until(lambda text: "hello:world" in text and "Nothing has arrived" not in text)
    unharmed(tab, listener)


def test_the_search_finds_by_image_user_address_and_verdict(browser, listener):
    Recording("docker_complete-registry2").just_now().play(listener)
    begin(listener, time.time() - 1, Image())
    listener.post(event())
    tab = browser.open(address(listener))
    tab.until(lambda text: "complete" in text and "2.4-cuda" in text and "my/pushed" in text)
    # With nothing but the keyboard.
    for _ in range(10):
        tab.press("Tab")
        if tab.evaluate("document.activeElement.id") == "find":
            break
    for words, found in (("cuda", "ml/pytorch"), ("ALICE", "ml/pytorch"), ("10.0.3", "ml/pytorch"),
                         ("complete", "my/ubuntu:latest"), ("foo ubuntu", "my/ubuntu:latest"),
                         ("pushed", "my/pushed:latest"), ("nothing of this", None)):
        tab.evaluate("document.querySelector('#find').value = ''")
        for letter in words:
            tab.press(letter)
        shown = tab.text()
        assert [name for name in ("ml/pytorch", "my/ubuntu:latest", "my/pushed:latest")
                if name in shown] == ([found] if found else []), words
    unharmed(tab, listener)


def test_names_are_text(browser, listener):
    """Whatever a client sends as a name is shown as it is, and does nothing."""
    wild = ["<img src=x onerror=alert(1)>", "\u202egnp.exe", "a\x1b[2Jb\u2028", "</script><b>",
            "javascript:alert(1)", "\ud800", "constructor", "{{1}}"]
    now = time.time()
    for number, name in enumerate(wild):
        client = Client(name, f"10.0.0.{number}", name, name)
        listener.post(client.event(now, f"m{number}", "sha256:" + str(number) * 64, 800,
                                   "manifests", "GET", name, [], Image().media_type))
        listener.post(event(target={**event()["target"], "repository": name, "tag": name}))
    tab = browser.open(address(listener))
    tab.until(lambda text: f"{len(wild)} running" in text and "{{1}}:{{1}}" in tab.text("#pushes"))
    shown = tab.text()
    for name in ("<img src=x onerror=alert(1)>:<img src=x onerror=alert(1)>", "\\u202egnp.exe",
                 "a\\u001b[2Jb\\u2028", "</script><b>"):
        assert name in shown
    assert not re.search("[\u202e\x1b\u2028]", shown)
    assert tab.evaluate("document.querySelectorAll('img, main script, main a').length") == 0
    unharmed(tab, listener)


def test_notices(browser, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    with Faulty(tmp_path, "--token-file", "token") as listener:
        assert listener.post(event(), Authorization="Bearer wrong")[0] == 401
        listener.post(event(), Authorization="Bearer secret")
        tab = browser.open(address(listener), password="secret")
        tab.until(lambda text: "127.0.0.1 was refused with 401" in text
                  and "--syslog-port" in tab.text("#notice"))
        listener.fault("fsync")
        assert listener.post(event(), Authorization="Bearer secret")[0] == 503
        tab.until(lambda text: "cannot write" in text)
        listener.fault("")
        assert listener.post(event(), Authorization="Bearer secret")[0] == 200
        tab.until(lambda text: "cannot write" not in text)
        listener.pass_time(3700)
        tab.until(lambda text: "was refused" not in text)


def test_it_says_when_the_listener_is_gone_and_comes_back(browser, tmp_path):
    with Listener(tmp_path, "--syslog-port", "0") as listener:
        listener.post(event())
        tab = browser.open(address(listener))
        tab.until(lambda text: "last event" in text)
        listener.options += ["--port", str(listener.port)]
        listener.stop()
        tab.until(lambda text: "does not answer" in text)
        listener.start()
        tab.until(lambda text: "does not answer" not in text and "last event" in text)


@pytest.mark.parametrize("width, dark", [(1200, False), (390, False), (390, True)])
def test_it_fits_a_narrow_window_and_dark_colours(browser, listener, width, dark):
    for name in ("docker_complete-registry2", "containerd_ranges-registry2"):
        Recording(name).just_now().play(listener)
    begin(listener, time.time() - 1, Image(), "x" * 128)
    listener.post(b"refused")
    tab = browser.open(address(listener), width=width, dark=dark, still=True)
    tab.until(lambda text: "complete" in text and "1 running" in text)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    red, green, blue, *_ = map(int, re.findall(r"\d+", tab.evaluate(
        "getComputedStyle(document.body).backgroundColor")))
    assert (red + green + blue < 200) == dark
    assert tab.evaluate("document.getAnimations().length") == 0
    unharmed(tab, listener)


def test_it_asks_once_a_second_and_gets_304_while_nothing_changes(browser, listener):
    listener.post(event())
    tab = browser.open(address(listener))
    tab.until(lambda text: "last event" in text)
    until(lambda: tab.evaluate("1") and tab.requests.count(address(listener) + "pulls") >= 4)
    asked = re.findall(r'http_requests_total\{code="(304|200)"\} (\d+)',
                       listener.request("GET", "/metrics")[1])
    assert int(dict(asked)["304"]) >= 2
    unharmed(tab, listener)


def test_a_picture(browser, tmp_path):
    """With PICTURE=1 in the environment, tests/page.png is made anew; it is in the README."""
    with Faulty(tmp_path, "--syslog-port", "0") as listener:
        for name in ("docker_complete-registry2", "skopeo_interrupted-registry2",
                     "docker_interrupted_again-registry2", "podman_interrupted-registry2",
                     "docker_multiarch-registry2", "docker_two_images_one_interrupted-registry2",
                     "docker_complete-registry3_redirect"):
            Recording(name).just_now().play(listener)
        tab = browser.open(address(listener))
        tab.until(lambda text: "last event" in text and text.count("cut:") >= 2)
        listener.pass_time(40)
        tab.until(lambda text: text.count("✕ interrupted") >= 3)
        Recording("docker_interrupted-registry2").just_now().play(listener, 0.8)
        listener.post(event(timestamp=stamp(time.time())))
        tab.until(lambda text: "1 running" in text and "my/pushed" in text)
        picture = tab.picture()
        unharmed(tab, listener)
    assert picture.startswith(b"\x89PNG") and len(picture) < 300 * KB
    if os.environ.get("PICTURE"):
        (HERE / "page.png").write_bytes(picture)
