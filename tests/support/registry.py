"""A real registry in a container of its own, and a client that pulls as docker does."""

import contextlib
import hashlib
import http.client
import json
import os
import uuid

from support.process import command, free_port, until
from support.traffic import DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST

CONFIG = """
version: 0.1
storage: {{filesystem: {{rootdirectory: /var/lib/registry}}}}
http: {{addr: "127.0.0.1:{port}", debug: {{addr: "127.0.0.1:{debug_port}"}}}}
{more}
notifications:
  events: {{includereferences: true}}
  endpoints:
  - {{name: listener, url: "{url}", timeout: 5s, threshold: 10, backoff: 1s, {endpoint}}}
"""


class Registry:
    """`docker run registry:VERSION` on a free port of 127.0.0.1, without auth; gone at the end."""

    def __init__(self, folder, url, version=2, more="", endpoint="", syslog_port=None):
        """It sends its events to URL, with ENDPOINT, more of that, and its log to SYSLOG_PORT.

        MORE are lines of its config.
        """
        self.port, self.debug_port = free_port(), free_port()
        config = folder / "config.yml"
        config.write_text(CONFIG.format(port=self.port, debug_port=self.debug_port, url=url,
                                        more=more, endpoint=endpoint))
        self.name = f"listener-test-{uuid.uuid4().hex[:12]}"
        self.run = ["docker", "run", "-d", "--name", self.name, "--network", "host",
                    *(("--log-driver", "syslog", "--log-opt", "syslog-format=rfc5424",
                       "--log-opt", f"syslog-address=udp://127.0.0.1:{syslog_port}")
                      if syslog_port else ()),
                    "-e", "OTEL_TRACES_EXPORTER=none", "-v", f"{config}:/config.yml:ro",
                    f"registry:{version}", "serve", "/config.yml"]

    def __enter__(self):
        command(*self.run)
        until(self._answers, lambda: command("docker", "logs", self.name), 60)
        return self

    def __exit__(self, *_):
        command("docker", "rm", "-f", "-v", self.name)

    def _answers(self):
        with contextlib.suppress(OSError):
            return self.request("GET", "/v2/")[0] == 200
        return False

    def request(self, method, path, body=None, **headers):
        """Status, headers and body of the answer."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
                                ) as connection:
            headers = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def push(self, repository, *sizes):
        """Push an image of a config and layers of these SIZES in random bytes; its manifest."""
        parts = []
        for kind, size in [(DOCKER_CONFIG, 100), *((DOCKER_LAYER, size) for size in sizes)]:
            data = os.urandom(size)
            digest = "sha256:" + hashlib.sha256(data).hexdigest()
            _, headers, _ = self.request("POST", f"/v2/{repository}/blobs/uploads/")
            place = headers["Location"].partition("/v2/")[2]
            status, _, _ = self.request("PUT", f"/v2/{place}&digest={digest}", data)
            assert status == 201
            parts.append({"mediaType": kind, "size": size, "digest": digest})
        manifest = {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": parts[0],
                    "layers": parts[1:]}
        status, _, body = self.request("PUT", f"/v2/{repository}/manifests/1",
                                       json.dumps(manifest), Content_Type=DOCKER_MANIFEST)
        assert status == 201, body
        return manifest

    def pull(self, repository, cut=None):
        """Pull its image by HEAD, GET, GET ...; with CUT, leave after so many bytes of a layer."""
        path = f"/v2/{repository}/manifests/1"
        _, headers, _ = self.request("HEAD", path, Accept=DOCKER_MANIFEST)
        path = path[:-1] + headers["Docker-Content-Digest"]
        manifest = json.loads(self.request("GET", path, Accept=DOCKER_MANIFEST)[2])
        self.request("GET", f"/v2/{repository}/blobs/{manifest['config']['digest']}")
        for layer in manifest["layers"]:
            path = f"/v2/{repository}/blobs/{layer['digest']}"
            if cut is None:
                assert len(self.request("GET", path)[2]) == layer["size"]
            else:
                with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port)
                                        ) as connection:
                    connection.request("GET", path)
                    connection.getresponse().read(cut)
                return
