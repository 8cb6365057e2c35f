"""`python made.py ROOT PULLS [REGISTRIES]` makes folders of logs: so many pulls, over a day.

Of ten pulls one is interrupted; one in fifty only asks. Clients and images come again.
"""

import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support.traffic import START, Client, Image  # noqa: E402


def made(number, images, chance):
    """The lines of one pull for log.log and for registry.log."""
    at = START + chance.random() * 86400
    client = Client(user=chance.choice(["foo", "ci", None]), host=f"10.0.{chance.randrange(40)}.1",
                    agent=chance.choice(["docker/24.0.5 go/go1.20", "containerd/v1.7.2"]))
    client.repository, image = chance.choice(images)
    events = [client.event(at, f"{number}-head", image.digest, 800, "manifests", "HEAD", "1",
                           image.references, image.media_type)]
    lines, answer = [], (" http.response.contenttype=x http.response.duration=0.8s "
                         "http.response.status=200 http.response.written=")
    cut = chance.randrange(10) == 0 and image.layers[-1]
    for place, (digest, size) in enumerate(image.sizes.items() if number % 50 else ()):
        request, begin, end = f"{number}-{place}", at + place + .1, at + place + .9
        written = size // 2 if digest == cut else size
        lines.append(client.line(begin, request, digest, "authorized request"))
        lines.append(client.line(end, request, digest, "response completed", answer + str(written)))
        events.append(client.event(end, request, digest, size, "blobs", "GET"))
    return [json.dumps(event, separators=(",", ":")) for event in events], lines


def make(root, pulls, registries=20):
    images = [(f"team{number % 7}/app{number}", Image(f"image{number}", (500, 10_000, 3_000_000)))
              for number in range(50)]
    for registry in range(registries):
        chance = random.Random(registry)
        folder = Path(root) / f"registry-{registry}"
        folder.mkdir(parents=True)
        made_pulls = [made(number, images, chance) for number in range(pulls // registries)]
        for name, order, place in (("log.log", '"timestamp":"', 0), ("registry.log", 'time="', 1)):
            told = [line for pull in made_pulls for line in pull[place]]
            told.sort(key=lambda line: line.partition(order)[2][:26])
            (folder / name).write_text("".join(line + "\n" for line in told))


if __name__ == "__main__":
    make(sys.argv[1], *map(int, sys.argv[2:]))
