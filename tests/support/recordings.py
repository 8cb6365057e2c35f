"""Recordings: traffic of real registries, and what really happened."""

import functools
import json
import re
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

from support import HERE, listener
from support.process import read_log, run, until
from support.traffic import START, stamp

RECORDINGS = HERE / "recordings"
NAMES = sorted(path.name[:-len(".registry.log")] for path in RECORDINGS.glob("*.registry.log"))
NOTES = {"tool", "note", "really", "action"}  # members of the truth that no pull shows
STAMP = re.compile(rb"\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(?=[.Z])")


def recorded(name):
    """The events of a recording."""
    return read_log(RECORDINGS / f"{name}.log")


def recorded_lines(name):
    """The lines of the registry's log in a recording."""
    with open(RECORDINGS / f"{name}.registry.log", encoding="utf-8") as file:
        return file.read().splitlines()


def move(data, seconds):
    """Recorded bytes with every time in them so many whole seconds later."""
    @functools.lru_cache(maxsize=None)
    def moved(text):
        at = datetime.fromisoformat(text.decode()).replace(tzinfo=timezone.utc).timestamp()
        return stamp(at + seconds)[:19].encode()
    return STAMP.sub(lambda match: moved(match[0]), data)


def a_minute_later(log, *options):
    """What `pulls` says of LOG and of the registry.log beside it when no client tries again any
    more: stdout, stderr."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["pulls", f"{folder}/log.log", "--registry-log", f"{folder}/registry.log"]
        for path in log, log.with_name("registry.log"):
            (Path(folder) / path.name).write_bytes(move(path.read_bytes(), -60))
        status, out, err = run(folder, *words, *options)
    assert status == 0, err
    return out, err


class Recording:
    """A registry's events and log lines while somebody pulled, as bytes, and what really happened.

    It happens again at START; without that a test would depend on the date.
    """

    def __init__(self, name, start=START):
        self.name = name
        events = (RECORDINGS / f"{name}.log").read_bytes()
        lines = (RECORDINGS / f"{name}.registry.log").read_bytes()
        truth = json.loads((RECORDINGS / f"{name}.truth.json").read_text("utf-8"))
        self.truth = [pull for pull in truth if "verdict" in pull]
        first = min(STAMP.findall(events + lines)).decode()
        recorded = datetime.fromisoformat(first).replace(tzinfo=timezone.utc).timestamp()
        self.events, self.lines = (move(data, int(start - recorded)) for data in (events, lines))

    def write(self, folder):
        """Write the files that the listener would have; their paths as text."""
        folder.mkdir(exist_ok=True)
        log, registry_log = folder / "log.log", folder / "registry.log"
        log.write_bytes(self.events)
        registry_log.write_bytes(self.lines)
        return str(log), str(registry_log)

    def facts(self):
        """What it says, in the order of time."""
        facts = [listener.event_fact(json.loads(line)) for line in self.events.splitlines()]
        facts += [listener.line_fact(line) for line in self.lines.decode("utf-8").splitlines()]
        return sorted((fact for fact in facts if fact), key=lambda fact: fact.time)

    def just_now(self):
        """The same, as if it had ended now."""
        took = max((fact.time for fact in self.facts()), default=START) - min(
            (fact.time for fact in self.facts()), default=START)
        return Recording(self.name, time.time() - took)

    def messages(self):
        """Its events and lines in the order of time: (time, "event" or "line", text) each."""
        return sorted(
            (match[0].decode(), kind, line) for kind, lines in (
                ("event", self.events), ("line", self.lines)) for line in lines.splitlines()
            for match in [re.search(rb"20\d\d-\d\d-\d\dT[\d:.]+Z", line)] if match)

    def play(self, process, part=1.0):
        """Send the first PART of it to a listener, in the order of time."""
        found = self.messages()
        send(process, found[:round(part * len(found))])


def send(process, messages):
    """Send MESSAGES as a registry and docker's syslog driver do, and none before the last is kept.

    Returns when the console has heard of them all: the data of the page are made after that.
    """
    kept = process.registry_log.read_bytes().count(b"\n")
    for _, kind, text in messages:
        if kind == "event":
            assert process.post(b'{"events":[' + text + b"]}")[0] == 200
        else:
            process.syslog(b"<30>Nov 24 06:29:13 registry[123]: " + text)
            kept += 1
            until(lambda: process.registry_log.read_bytes().count(b"\n") == kept)
    assert process.request("GET", "/pulls")[0] == 200


def differences(pulls, truth):
    """What is not as it really was, in words; an empty list when all is."""
    if len(pulls) != len(truth):
        return [f"{len(pulls)} pulls: {[pull['image'] for pull in pulls]}, in truth {len(truth)}"]
    wrong = []
    for pull, real in zip(pulls, truth):
        for name, value in real.items():
            if name == "sent_min":
                right = pull["sent"] is not None and pull["sent"] >= value
            elif name == "sent_max":
                right = pull["sent"] is not None and pull["sent"] <= value
            else:
                # "?" is a truth that is still to be found out; of "a|b" either will do, of "*" any.
                right = name in NOTES or value in ("?", "*") or pull[name] == value or (
                    name == "verdict" and pull[name] in value.split("|"))
            if not right:
                shown = pull[name.split("_m")[0]] if name.startswith("sent") else pull[name]
                wrong.append(f"{pull['image']}: {name} is {shown!r}, in truth {value!r}")
    return wrong
