"""The small helpers: sizes, times and hosts, as text and as values."""

import pytest

from support import listener
from support.traffic import START, sample

pytestmark = pytest.mark.usefixtures("utc")


@pytest.mark.parametrize("size, text", [
    (0, "0 B"), (1, "1 B"), (999, "999 B"), (1000, "1.0 kB"), (1499, "1.5 kB"),
    (999_949, "999.9 kB"), (999_950, "1.0 MB"), (150_000_000, "150.0 MB"),
    (999_999_999, "1.0 GB"), (1_500_000_000, "1.5 GB"), (2 * 10 ** 12, "2.0 TB"), (None, "?")])
def test_sizes(size, text):
    assert listener.byte_size(size) == text


@pytest.mark.parametrize("text, at", [
    ("2020-01-01T10:00:00Z", START), ("2020-01-01T10:00:00.5Z", START + 0.5),
    ("2020-01-01T10:00:00.123456789Z", START + 0.123456789),
    ("2020-01-01T12:00:00.5+02:00", START + 0.5), ("2020-01-01T04:30:00-05:30", START)])
def test_times(text, at):
    assert listener.seconds(text) == pytest.approx(at, abs=1e-6)
    event = {**sample(), "timestamp": text}
    assert listener.event_line(event).startswith("10:00:00 push")


@pytest.mark.parametrize("text", ["", "now", "2020-01-01", "10:00:00", "2020-13-01T10:00:00Z",
                                  "2020-01-01T10:00:xxZ", "2020-01-01T10:00:00", "nan", "Z",
                                  "2020-01-01T10:00:nanZ", "2020-01-01T10:00:1e9Z",
                                  "2020-01-01T10:00:00.1.2Z", "2020-01-01T10:00:00+99:99"])
def test_times_that_are_none(text):
    with pytest.raises(ValueError):
        listener.seconds(text)
    assert listener.event_line({**sample(), "timestamp": text}).isprintable()
    assert listener.event_fact({**sample(), "action": "pull", "timestamp": text}) is None


@pytest.mark.parametrize("address, host", [
    ("172.18.0.1:50412", "172.18.0.1"), ("[fe80::1]:50412", "fe80::1"), ("fe80::1", "fe80::1"),
    ("172.18.0.1", "172.18.0.1"), ("client.example:1", "client.example"), ("", "")])
def test_hosts(address, host):
    assert listener.host(address) == host
