"""A registry behind the real nginx, as the README configures it, and with its usual buffers."""
import hashlib
import http.client
import json
import os
import shutil
import subprocess
import urllib.request

import pytest

from support.process import Listener, command, free_port, need, until
from support.recordings import a_minute_later
from support.stack import MANIFEST, blocks

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
LAYER_SIZE = 60_000_000
CONFIG = """
daemon off;
{user}
pid nginx.pid;
error_log error.log;
events {{}}
http {{
    access_log off;
    proxy_temp_path proxy;
    client_body_temp_path body;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{buffering};
        {usual}
    }}
    server {{
        listen 127.0.0.1:{passing};
        {advised}
    }}
}}
"""
REGISTRY_CONFIG = """
version: 0.1
storage: {{filesystem: {{rootdirectory: /var/lib/registry}}}}
http: {{addr: "127.0.0.1:{registry}"}}
notifications:
  events: {{includereferences: true}}
  endpoints:
    - {{name: listener, url: "http://127.0.0.1:{listener}/log", timeout: 1s, threshold: 9,
       backoff: 1s}}
"""


def answers(port):
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5).close()
        return True
    except OSError:
        return False


@pytest.fixture(params=["2", "3"], ids=["registry2", "registry3"])
def served(request, tmp_path):
    """The listener of a registry behind nginx; its ports are in `buffering` and `passing`."""
    need("" if NGINX else "not found", "nginx")
    name = f"sts_nginx_{os.getpid()}"
    registry, buffering, passing = free_port(), free_port(), free_port()
    with Listener(tmp_path, "--syslog-port", "0") as served:
        (tmp_path / "config.yml").write_text(
            REGISTRY_CONFIG.format(registry=registry, listener=served.port))
        advised, *_ = blocks("Behind nginx, with other storage, in Kubernetes")
        advised = advised.replace("//registry:5000", f"//127.0.0.1:{registry}")
        usual = advised.replace("proxy_buffering off; proxy_request_buffering off;", "")
        assert usual != advised
        (tmp_path / "nginx.conf").write_text(CONFIG.format(
            user="user root;" if os.getuid() == 0 else "", buffering=buffering, passing=passing,
            usual=usual, advised=advised))
        command("docker", "run", "-d", "--name", name, "--network", "host",
                "--log-driver", "syslog", "--log-opt", "syslog-format=rfc5424",
                "--log-opt", f"syslog-address=udp://127.0.0.1:{served.syslog_port}",
                "-e", "OTEL_TRACES_EXPORTER=none",
                "-v", f"{tmp_path}/config.yml:/config.yml:ro", f"registry:{request.param}",
                "serve", "/config.yml")
        nginx = subprocess.Popen([NGINX, "-p", tmp_path, "-c", "nginx.conf", "-e", "error.log"])
        try:
            until(lambda: answers(buffering), "the registry answers through nginx")
            served.registry, served.buffering, served.passing = registry, buffering, passing
            yield served
        finally:
            nginx.terminate()
            nginx.wait()
            command("docker", "rm", "-f", "-v", name)


def push(port, repository):
    """Push an image of one layer to the registry itself; the digests of manifest and blobs."""
    layer, config = os.urandom(LAYER_SIZE), b"{}" + os.urandom(8).hex().encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(method, path, body=None, **headers):
        connection.request(method, path, body, headers)
        with connection.getresponse() as answer:
            assert answer.status < 300, (path, answer.status, answer.read())
            answer.read()
            return answer
    descriptors = []
    for media_type, blob in [("application/vnd.docker.container.image.v1+json", config),
                             ("application/vnd.docker.image.rootfs.diff.tar.gzip", layer)]:
        digest = "sha256:" + hashlib.sha256(blob).hexdigest()
        place = ask("POST", f"/v2/{repository}/blobs/uploads/").headers["Location"]
        place = place.partition(f":{port}")[2]
        ask("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest}", blob)
        descriptors.append({"mediaType": media_type, "size": len(blob), "digest": digest})
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptors[0],
                "layers": descriptors[1:]}
    answer = ask("PUT", f"/v2/{repository}/manifests/1", json.dumps(manifest).encode(),
                 **{"Content-Type": MANIFEST})
    connection.close()
    return answer.headers["Docker-Content-Digest"], *(each["digest"] for each in descriptors)


def pull_and_leave(served, port, repository):
    """Pull through nginx, and leave when 8 MB of the layer have come, which takes a second."""
    manifest, config, layer = push(served.registry, repository)
    url = f"http://127.0.0.1:{port}/v2/{repository}"
    with urllib.request.urlopen(urllib.request.Request(
            f"{url}/manifests/1", headers={"Accept": MANIFEST}), timeout=20) as answer:
        answer.read()
    with urllib.request.urlopen(f"{url}/blobs/{config}", timeout=20) as answer:
        answer.read()
    with urllib.request.urlopen(f"{url}/blobs/{layer}", timeout=20) as answer:
        answer.read(8_000_000)
        if port == served.buffering:
            until(lambda: told(served, layer), "the registry has sent all")
    until(lambda: told(served, layer), "the registry tells how much was sent")


def told(served, layer):
    """Whether the event and the log line of the layer's GET are there."""
    lines = served.log.read_text().splitlines() + served.registry_log.read_text().splitlines()
    return sum(f"/blobs/{layer}" in line and ('"method":"GET"' in line or (
        "response completed" in line and "method=GET" in line)) for line in lines) == 2


@pytest.mark.docker
def test_behind_a_proxy_that_buffers_an_interrupted_pull_looks_complete_and_that_is_said(served):
    advice = "proxy_buffering off"
    pull_and_leave(served, served.buffering, "test/buffered")
    pull = json.loads(a_minute_later(served.log, "--json")[0])
    assert (pull["verdict"], pull["proxied"]) == ("complete", True)
    assert pull["sent"] == pull["size"] > LAYER_SIZE
    assert advice in a_minute_later(served.log)[1]
    until(lambda: advice in served.out + served.err, lambda: f"{advice} on the console")

    pull_and_leave(served, served.passing, "test/passed")
    pull = json.loads(a_minute_later(served.log, "--json")[0].splitlines()[1])
    assert (pull["verdict"], pull["proxied"]) == ("interrupted", True)
    assert 8_000_000 <= pull["sent"] < LAYER_SIZE
    assert advice not in a_minute_later(served.log)[1]
