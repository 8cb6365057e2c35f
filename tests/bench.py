"""Measures listener.py beside what one would use instead, on this machine, in one run.

    python tests/bench.py [--quick] [--only http|crowd|slow|pulls]

http:  Servers that take a registry's notifications, each under the same load in turn, for several
       rounds, so that a slow minute of the machine hits all of them. "fsync: yes" says that an
       answer of 200 means the event is on the disk. A log with fewer lines than its server gave
       200s ends the run: such a result would count for nothing.
crowd: What one sender waits for its answer while others keep connections open and say nothing, or
       a part of a request; and how long the listener takes to end with all of them connected.
slow:  How many of 100 events of a registry with a timeout of 1 s are answered, and how soon, while
       four others send what is slow to read: each one of SLOW.
pulls: `listener.py pulls` on a big log, beside json.loads and jq. The log is made of the recordings
       in tests/recordings, repeated with ids, digests, times and clients of their own.

Needs Linux. Installs Flask, gunicorn, FastAPI and uvicorn into .venv-bench; uses go and jq if they
are there. The load is sent to 127.0.0.1 only.
"""

import argparse
import collections
import contextlib
import datetime
import http.client
import json
import multiprocessing
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
import venv
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
CACHE = TOP / ".venv-bench"
CORES = os.cpu_count() or 1
PEERS = ["flask", "gunicorn", "fastapi", "uvicorn[standard]"]
SHAPES = [("new", 1), ("new", 64), ("kept", 1), ("kept", 64)]  # connections, senders
MIX = ["docker_complete", "docker_interrupted", "docker_cached", "docker_resumed",
       "docker_complete", "docker_multiarch", "docker_multiarch_again", "podman_complete",
       "push_only"]
ID = "00000000-0000-4000-8000-000000000000"  # where each request gets an event id of its own

# ---------------------------------------------------------------------- what is run, as sources

SOURCES = {}

SOURCES["keep.py"] = '''
import json, os, threading

log, fsync, lock = open(os.environ["LOG"], "a"), os.environ["FSYNC"] == "yes", threading.Lock()

def keep(events):
    lines = "".join(json.dumps(event) + "\\n" for event in events)
    with lock:
        log.write(lines)
        log.flush()
        if fsync:
            os.fsync(log.fileno())
'''

SOURCES["bare.py"] = '''
import json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from keep import keep

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        keep(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["events"])
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass

class Server(ThreadingHTTPServer):
    request_queue_size = 128  # the default of 5 makes most of 64 senders wait a second to connect

Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
'''

SOURCES["flask_app.py"] = '''
from flask import Flask, request
from keep import keep

app = Flask(__name__)

@app.post("/log")
def take():
    keep(request.get_json()["events"])
    return ""
'''

SOURCES["fastapi_app.py"] = '''
from fastapi import FastAPI, Response
from pydantic import BaseModel
from keep import keep

class Envelope(BaseModel):
    events: list

app = FastAPI()

@app.post("/log")
def take(envelope: Envelope):
    keep(envelope.events)
    return Response()
'''

SOURCES["server.go"] = '''
package main

import ("bytes"; "encoding/json"; "io"; "log"; "net/http"; "os"; "sync")

func main() {
	file, err := os.OpenFile(os.Getenv("LOG"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	var mu sync.Mutex
	http.HandleFunc("/log", func(w http.ResponseWriter, r *http.Request) {
		var envelope struct{ Events []json.RawMessage }
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 8<<20))
		if err == nil {
			err = json.Unmarshal(body, &envelope)
		}
		if err != nil {
			http.Error(w, err.Error(), 400)
			return
		}
		var lines bytes.Buffer
		for _, event := range envelope.Events {
			json.Compact(&lines, event)
			lines.WriteByte('\\n')
		}
		mu.Lock()
		defer mu.Unlock()
		if _, err = file.Write(lines.Bytes()); err == nil {
			err = file.Sync()
		}
		if err != nil {
			http.Error(w, err.Error(), 503)
		}
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
'''

# Writes requests by hand: Go's own client would take from two cores what belongs to the server.
SOURCES["sender.go"] = '''
package main

import (
	"bufio"; "bytes"; "encoding/json"; "fmt"; "io"; "net"; "net/http"; "os"; "strconv"; "sync"
	"syscall"; "time"
)

var kept = os.Args[2] == "kept"

type tally struct{ Latencies []float64; Problems []string }

type connection struct{ net.Conn; in *bufio.Reader }

func (c *connection) post(request []byte) (err error) {
	if c.Conn == nil {
		if c.Conn, err = net.DialTimeout("tcp", "127.0.0.1:"+os.Args[1], 10*time.Second); err != nil {
			c.Conn = nil
			return err
		}
		c.in = bufio.NewReader(c)
	}
	last := !kept
	defer func() {
		if last || err != nil {
			c.Close()
			c.Conn = nil
		}
	}()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err = c.Write(request); err != nil {
		return err
	}
	answer, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	last = last || answer.Close
	if answer.StatusCode != 200 {
		return fmt.Errorf("status %d", answer.StatusCode)
	}
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}

func send(n int, requests [][]byte, end time.Time, t *tally) {
	var c connection
	for i := 0; time.Now().Before(end); i++ {
		id := fmt.Sprintf("%08x-%04x-4%03x-8000-%012x", end.Unix(), os.Getpid()&0xffff, n, i)
		request := bytes.Replace(requests[(n+i)%len(requests)], []byte(os.Args[6]), []byte(id), 1)
		start := time.Now()
		if err := c.post(request); err != nil {
			t.Problems = append(t.Problems, err.Error())
			time.Sleep(10 * time.Millisecond) // not to spin where everything is refused
		} else {
			t.Latencies = append(t.Latencies, time.Since(start).Seconds()*1e3)
		}
	}
}

func main() {
	senders, _ := strconv.Atoi(os.Args[3])
	seconds, _ := strconv.ParseFloat(os.Args[4], 64)
	file, _ := os.ReadFile(os.Args[5])
	start, tallies := time.Now(), make([]tally, senders)
	var all sync.WaitGroup
	for n := range tallies {
		all.Add(1)
		go func(n int) {
			send(n, bytes.Split(file, []byte{0}), start.Add(time.Duration(seconds*1e9)), &tallies[n])
			all.Done()
		}(n)
	}
	all.Wait()
	took := time.Since(start).Seconds()
	var sum tally
	for _, t := range tallies {
		sum.Latencies = append(sum.Latencies, t.Latencies...)
		sum.Problems = append(sum.Problems, t.Problems...)
	}
	var used syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &used)
	json.NewEncoder(os.Stdout).Encode(map[string]any{"latencies": sum.Latencies, "problems":
		sum.Problems, "seconds": took, "cpu": float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9})
}
'''

JSON_LOADS = "import json, sys\nfor line in open(sys.argv[1], 'rb'): json.loads(line)"

# --------------------------------------------------------------------------------- the servers

Server = collections.namedtuple("Server", "name fsync process port log")


def say(*words):
    """Progress goes to stderr, the report to stdout."""
    print(*words, file=sys.stderr, flush=True)


def install_peers():
    """The folder of the peers' commands, made on the first run; None where pip can't."""
    commands = CACHE / "venv" / "bin"
    if not (commands / "gunicorn").exists() or not (commands / "uvicorn").exists():
        say("installing", *PEERS, "into", CACHE)
        venv.create(CACHE / "venv", with_pip=True, clear=True)
        if subprocess.call([commands / "python", "-m", "pip", "install", "--quiet", *PEERS]):
            return None
    return commands


def peer_versions(commands):
    code = ("import sys, importlib.metadata as have\n"
            "print(*(f'{name} {have.version(name)}' for name in sys.argv[1:]), sep=', ')")
    names = [name.partition("[")[0] for name in PEERS]
    return subprocess.check_output([commands / "python", "-c", code, *names], text=True).strip()


def go_build(work, name):
    """The program built from NAME.go; None where there is no Go."""
    if not shutil.which("go"):
        return None
    env = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": ""}
    subprocess.run(["go", "build", "-o", name, name + ".go"], cwd=work, check=True, env=env)
    return work / name


def start(work, name, fsync, command):
    """Start a server in a process group of its own, and wait until it accepts connections."""
    log = work / (re.sub(r"\W+", "-", name) + ("-fsync.log" if fsync else ".log"))
    out = log.with_suffix(".out")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [str(word).format(port=port, log=log) for word in command]
    env = {**os.environ, "LOG": str(log), "PORT": str(port), "FSYNC": "yes" if fsync else "no"}
    with open(out, "wb") as file:
        process = subprocess.Popen(words, cwd=work, env=env, stdout=file, stderr=file,
                                   start_new_session=True)
    for _ in range(300):
        ready = re.search(r"listening on http://\S+:(\d+)", out.read_text())
        port = int(ready[1]) if ready else port
        server = Server(name, fsync, process, port, log)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server
        if process.poll() is not None:
            break
        time.sleep(0.1)
    stop([server])
    sys.exit(f"bench: {name} did not start: {out.read_text()[-2000:]}")


def stop(servers):
    """End each server with its workers."""
    for server in servers:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(server.process.pid, number)
                server.process.wait(5)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                pass


def start_all(work, commands, go_server):
    """Start every server that can be had here."""
    listener = [sys.executable, TOP / "listener.py", "--host", "127.0.0.1", "--port", "0", "--log",
                "{log}", "--quiet"]
    wanted = [("listener.py", True, listener), ("http.server", False, [sys.executable, "bare.py"])]
    if go_server:
        wanted.append(("Go net/http", True, [go_server]))
    if commands:
        # As many workers as gunicorn's manual recommends, and one per core for uvicorn. Measured:
        # gunicorn's threads and more or fewer workers of either are slower with 64 senders.
        gunicorn = [commands / "gunicorn", "--workers", 2 * CORES + 1, "--bind", "127.0.0.1:{port}",
                    "flask_app:app"]
        uvicorn = [commands / "uvicorn", "--workers", CORES, "--port", "{port}", "--no-access-log",
                   "fastapi_app:app"]
        for fsync in (False, True):
            wanted += [("Flask, gunicorn", fsync, gunicorn), ("FastAPI, uvicorn", fsync, uvicorn)]
    servers = []
    try:
        for name, fsync, command in wanted:
            servers.append(start(work, name, fsync, command))
    except BaseException:
        stop(servers)
        raise
    return servers


def descendants(pid):
    """The process and all that come of it."""
    pids = [pid]
    for one in pids:
        try:
            for task in os.listdir(f"/proc/{one}/task"):
                pids += map(int, Path(f"/proc/{one}/task/{task}/children").read_text().split())
        except OSError:
            pass  # it has ended
    return pids


def memory(pid, member="VmRSS"):
    """MB of a process with its descendants, shared pages in each; VmHWM: the peaks."""
    total = 0
    for one in descendants(pid):
        try:
            status = Path(f"/proc/{one}/status").read_text()
            total += int(re.search(member + r":\s+(\d+)", status)[1])
        except (OSError, TypeError):
            pass  # it has ended
    return total / 1024


def cpu_ms(pid):
    """What a process with its descendants has used of the cores, so far."""
    stats = [Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
             for one in descendants(pid)]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) * 1000 / os.sysconf("SC_CLK_TCK")

# --------------------------------------------------------------------------------- the senders


def requests(recordings):
    """What a registry sends for each recorded event; for a made-up one where none is recorded."""
    paths = [recordings / f"{name}-registry2.log" for name in dict.fromkeys(MIX)]
    events = [json.loads(line) for path in paths if path.exists()
              for line in path.read_text().splitlines()]
    blob = {"mediaType": "application/octet-stream", "size": 31122, "digest": "sha256:" + "a" * 64}
    events = events or [{
        "id": ID, "timestamp": "2026-01-01T00:00:00.123456789Z", "action": "pull",
        "target": {**blob, "length": 31122, "repository": "my/app", "references": [blob] * 4},
        "request": {"id": ID, "addr": "172.25.0.1:35754", "method": "GET", "useragent": "docker"},
        "actor": {"name": "foo"}, "source": {"addr": "cc875016b03b:5000", "instanceID": ID}}]
    for event in events:
        body = json.dumps({"events": [{**event, "id": ID}]}, indent=3)  # 3, as a registry does
        yield ("POST /log HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Go-http-client/1.1\r\n"
               f"Content-Length: {len(body)}\r\nAccept-Encoding: gzip\r\n"
               f"Content-Type: application/vnd.docker.distribution.events.v1+json\r\n\r\n{body}")


def send(sender, port, connections, senders, seconds, path):
    """One run: how many a second were answered 200, how fast, and what failed."""
    if sender:
        words = [sender, port, connections, senders, seconds, path, ID]
        run = json.loads(subprocess.check_output([str(word) for word in words]))
    else:
        begin = time.time() + 0.5  # until then the processes start
        with multiprocessing.Pool(senders) as pool:
            parts = pool.starmap(send_in_python, senders * [(
                port, connections, begin, begin + seconds, path.read_bytes())], 1)
        run = {"latencies": sum((part[0] for part in parts), []), "seconds": seconds,
               "problems": sum((part[1] for part in parts), []),
               "cpu": sum(part[2] for part in parts)}
    latencies, problems = sorted(run["latencies"] or []), run["problems"] or []  # Go's nil is null
    p50, p99 = (latencies[len(latencies) * q // 100] if latencies else 0 for q in (50, 99))
    return {"ok": len(latencies), "rate": len(latencies) / run["seconds"], "p50": p50, "p99": p99,
            "cpu": run["cpu"] / run["seconds"], "problems": problems}


def send_in_python(port, connections, begin, end, requests):
    """What sender.go's send does, slower: one sender, in a process of its own."""
    requests, latencies, problems, sock = requests.split(b"\0"), [], [], None
    time.sleep(max(0, begin - time.time()))
    used = time.process_time()
    while time.time() < end:
        request = requests[len(latencies) % len(requests)]
        request = request.replace(ID.encode(), str(uuid.uuid4()).encode(), 1)
        start = time.perf_counter()
        try:
            sock = sock or socket.create_connection(("127.0.0.1", port), 10)
            sock.sendall(request)
            answer = http.client.HTTPResponse(sock)
            answer.begin()
            answer.read()
            if answer.status != 200:
                raise OSError(f"status {answer.status}")
            latencies.append((time.perf_counter() - start) * 1e3)
            last = connections == "new" or answer.will_close
        except (OSError, http.client.HTTPException) as error:
            problems.append(repr(error))
            time.sleep(0.01)
            last = True
        if last and sock:
            sock.close()
            sock = None
    return latencies, problems, time.process_time() - used

# ------------------------------------------------------------------------------------ the load


def bench_http(work, options):
    """Run the rounds over all servers, and print a table for each shape of the load."""
    for name, source in SOURCES.items():
        (work / name).write_text(source)
    (work / "requests").write_text("\0".join(requests(options.recordings)))
    sender, go_server = go_build(work, "sender"), go_build(work, "server")
    commands = install_peers()
    servers = start_all(work, commands, go_server)
    try:
        time.sleep(2)  # the peers' workers go on loading after the first of them accepts
        idle = [memory(server.process.pid) for server in servers]
        runs = run_rounds(servers, sender, work / "requests", options)
        loaded = [memory(server.process.pid) for server in servers]
    finally:
        stop(servers)
    busy = max(run["cpu"] for some in runs.values() for run in some)
    print(f"\nHTTP: {options.rounds} rounds of {options.seconds:g} s, medians over the rounds.")
    print("Sender:", "Go" if sender else "Python, as go is not there (it may be the limit itself)",
          f"(it took at most {busy:.1f} of {CORES} cores).")
    print(peer_versions(commands) if commands else "pip could not install the Python peers.")
    print("CPU ms: the server's, per event. To Go: events/s over those of Go net/http; to Python:")
    print("over the best of Flask and FastAPI with fsync. Failed: answered other than 200, or not.")
    for shape in SHAPES:
        print_shape(shape, servers, runs)
    print("\nEvery log held as many lines as its server gave 200s, or more.\n")
    table(["memory in MB, with workers", "fsync", "idle", "after the load"], [
        [server.name, server.fsync, f"{before:.0f}", f"{after:.0f}"]
        for server, before, after in zip(servers, idle, loaded)])


def run_rounds(servers, sender, path, options):
    """The runs of each (shape, server). Ends the bench where a log lacks what was answered 200."""
    runs, answered = collections.defaultdict(list), collections.Counter()
    for number in range(options.rounds):
        first = number % len(servers)
        for shape in SHAPES:
            for server in servers[first:] + servers[:first]:
                used = cpu_ms(server.process.pid)
                run = send(sender, server.port, *shape, options.seconds, path)
                run["each"] = (cpu_ms(server.process.pid) - used) / max(1, run["ok"])
                say(f"round {number + 1}: {shape}, {server.name}{' fsync' * server.fsync}: "
                    f"{run['rate']:.0f}/s", *run["problems"][:1])
                runs[shape, server].append(run)
                answered[server] += run["ok"]
                lines = count_lines(server.log)
                if lines < answered[server]:
                    sys.exit(f"bench: {server.name} answered 200 to {answered[server]} events, "
                             f"but its log has {lines} lines")
    return runs


def count_lines(path):
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def print_shape(shape, servers, runs):
    def median(server, key):
        return statistics.median(run[key] for run in runs[shape, server])

    def best(names):
        rates = [median(server, "rate") for server in servers if server.fsync and
                 server.name.startswith(names)]
        return max(rates, default=0)

    go, peer = best("Go"), best(("Flask", "FastAPI"))
    rows = []
    for server in servers:
        rates = [run["rate"] for run in runs[shape, server]]
        rate = median(server, "rate")
        rows.append([server.name, server.fsync, f"{rate:.0f}",
                     f"{min(rates):.0f}..{max(rates):.0f}",
                     f"{median(server, 'p50'):.2f}", f"{median(server, 'p99'):.2f}",
                     f"{median(server, 'each'):.2f}",
                     f"{rate / go:.2f}" if go else "-", f"{rate / peer:.2f}" if peer else "-",
                     sum(len(run["problems"]) for run in runs[shape, server])])
    print(f"\n{shape[1]} sender{'s' * (shape[1] > 1)},", "connections kept open"
          if shape[0] == "kept" else "a new connection per event, as a registry does")
    table(["", "fsync", "events/s", "min..max", "p50 ms", "p99 ms", "CPU ms", "to Go",
           "to Python", "failed"], rows)
    if not go:
        print("Go net/http: go is not there")


def table(head, rows):
    """Print rows: names to the left, numbers to the right."""
    rows = [[("yes" if cell else "no") if isinstance(cell, bool) else str(cell) for cell in row]
            for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for first, *rest in rows:
        print(first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:])),
              sep="  ")

# ------------------------------------------------------------------------- among silent ones


def bench_crowd(work, options):
    """Print what one sender waits, among more and more others."""
    (work / "sender.go").write_text(SOURCES["sender.go"])
    (work / "requests").write_text("\0".join(requests(options.recordings)))
    sender, rows = go_build(work, "sender"), []
    for number in 0, 100, 500:
        server = start(work, f"crowd {number}", True, [
            sys.executable, TOP / "listener.py", "--host", "127.0.0.1", "--port", "0", "--log",
            "{log}", "--quiet"])
        others = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(number)]
        for other in others[::2]:
            other.sendall(b"POST /log HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{")
        run = send(sender, server.port, "new", 1, options.seconds, work / "requests")
        began = time.monotonic()
        server.process.terminate()
        server.process.wait()
        rows.append([number, f"{run['rate']:.0f}", f"{run['p50']:.2f}", f"{run['p99']:.2f}",
                     f"{time.monotonic() - began:.2f}"])
        for other in others:
            other.close()
    print("\nOne sender, a new connection per event, among connections that are open:\n")
    table(["others", "events/s", "p50 ms", "p99 ms", "s to end"], rows)


# ------------------------------------------------------------------- beside what is slow to read


def slow_request(kind):
    """A request of 8 MiB, or a head of 128 KiB, that takes long to read."""
    if kind == "bare CRs":
        return b"POST /log HTTP/1.1\r\nHost: x\r\n" + b"a: b\r" * 21_000 + b"\r\n\r\n"
    before, piece, after = b'{"events":[{"a":[', kind.encode(), b"0]}]}"
    if kind == "U+0085":
        members = ",".join(f'"{name}":"{chr(0x85) * 100}"' for name in (
            "action", "timestamp", "actor", "target"))
        before, piece, after = b'{"events":[', f"{{{members}}},".encode(), b"{}]}"
    body = before + piece * ((8 << 20) // len(piece) - 10) + after
    return b"POST /log HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


SLOW = "[0],", "5e-324,", "U+0085", "bare CRs"


def send_slow(port, kind):
    data = slow_request(kind)
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 30) as connection:
                connection.sendall(data)
                connection.recv(1000)
        except OSError:
            time.sleep(0.01)


def bench_slow(work, options):
    """Print what becomes of an honest registry's events."""
    server = start(work, "slow", True, [
        sys.executable, TOP / "listener.py", "--host", "127.0.0.1", "--port", "0", "--log",
        "{log}"])
    others = [multiprocessing.Process(target=send_slow, args=(server.port, kind), daemon=True)
              for kind in SLOW]
    request, waits = next(requests(options.recordings)), []
    for other in others:
        other.start()
    time.sleep(2)
    for _ in range(100):
        began = time.monotonic()
        event = request.replace(ID, str(uuid.uuid4())).encode()
        with contextlib.suppress(OSError), socket.create_connection(
                ("127.0.0.1", server.port), 1) as connection:
            connection.sendall(event)
            if connection.recv(1000).startswith(b"HTTP/1.1 200"):
                waits.append((time.monotonic() - began) * 1000)
        time.sleep(0.1)
    for other in others:
        other.kill()
    print(f"\nA registry with a timeout of 1 s beside four others, who send what is slow to read "
          f"({'; '.join(SLOW)}):\n")
    table(["sent", "answered", "p50 ms", "longest ms", "RSS MB"],
          [[100, len(waits), f"{statistics.median(waits):.0f}", f"{max(waits):.0f}",
            f"{memory(server.process.pid, 'VmHWM'):.0f}"]])
    stop([server])


# ------------------------------------------------------------------------- pulls on a big log


class Recording:
    """A recording as two templates, which `copy` fills in."""

    STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")

    def __init__(self, truth):
        base = str(truth)[:-len("truth.json")]
        events, lines = Path(base + "log").read_bytes(), Path(base + "registry.log").read_bytes()
        self.verdicts = collections.Counter(one["verdict"] for one in json.loads(truth.read_text())
                                            if "verdict" in one)
        # The log begins with the push that made the image, whose events were not recorded.
        first = min(self.STAMP.findall(events))
        lines = b"".join(line for line in lines.splitlines(True)
                         if self.STAMP.search(line) and self.STAMP.search(line)[0] >= first)
        seconds = sorted(set(self.STAMP.findall(events + lines)))
        times = [datetime.datetime.fromisoformat(second.decode()) for second in seconds]
        self.offsets = {second: moment - times[0] for second, moment in zip(seconds, times)}
        self.span = times[-1] - times[0] + datetime.timedelta(seconds=1)
        host = json.loads(events.splitlines()[0])["request"]["addr"].rpartition(":")[0].encode()
        self.events, self.lines = self.template(events, host), self.template(lines, host)

    def template(self, text, host):
        text = text.replace(b"%", b"%%").replace(host, b"%(host)b")
        text = re.sub(rb"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-)[0-9a-f]{12}", rb"\1%(id)b", text)
        text = re.sub(rb"(sha256(?::|%%3A))[0-9a-f]{8}", rb"\1%(image)b", text)
        return self.STAMP.sub(lambda stamp: b"%%(%b)b" % stamp[0], text)

    def copy(self, number, begin):
        """The events and the log's lines, as if this had happened once more at another time."""
        fill = {second: (begin + offset).isoformat().encode()
                for second, offset in self.offsets.items()}
        fill.update({b"id": b"%012x" % number, b"image": b"%08x" % (number % 2000),
                     b"host": b"10.0.%d.%d" % divmod(number % 5000, 250)})
        return self.events % fill, self.lines % fill


def generate(recordings, size, log, registry_log):
    """Write both logs until log.log has SIZE bytes; the number of each verdict to expect."""
    number, written, verdicts = 0, 0, collections.Counter()
    now = datetime.datetime(2026, 1, 1)
    with open(log, "wb", 1 << 20) as events, open(registry_log, "wb", 1 << 20) as lines:
        while written < size:
            recording = recordings[number % len(recordings)]
            some_events, some_lines = recording.copy(number, now)
            written += events.write(some_events)
            lines.write(some_lines)
            verdicts.update(recording.verdicts)
            now, number = now + recording.span, number + 1
    return verdicts


def measure(command, out):
    """Seconds, CPU seconds and peak MB of a command that writes into a file."""
    began, used, peak = time.perf_counter(), os.times(), 0
    with open(out, "wb") as file:
        process = subprocess.Popen([str(word) for word in command], stdout=file)
        try:
            while process.poll() is None:
                peak = max(peak, memory(process.pid, "VmHWM"))
                time.sleep(0.02)
        finally:
            process.kill()
    if process.returncode:
        sys.exit(f"bench: {' '.join(map(str, command))}: exit status {process.returncode}")
    took, now = time.perf_counter() - began, os.times()
    cpu = now.children_user + now.children_system - used.children_user - used.children_system
    return took, cpu, peak


def bench_pulls(work, options):
    """Make the logs, have each program read them in turn, and print the table."""
    recordings = [Recording(options.recordings / f"{name}-registry2.truth.json") for name in MIX]
    log, registry_log, out = work / "log.log", work / "registry.log", work / "pulls.json"
    say(f"making {options.size} MB of log.log")
    expected = generate(recordings, options.size * 10**6, log, registry_log)
    commands = {"json.loads of every line of log.log": [sys.executable, "-c", JSON_LOADS, log],
                "listener.py pulls --json, of both files": [
                    sys.executable, TOP / "listener.py", "pulls", "--json", log,
                    "--registry-log", registry_log]}
    if shutil.which("jq"):
        commands["jq -c '[.action,.target.repository]', of log.log"] = [
            "jq", "-c", "[.action,.target.repository]", log]
    runs = collections.defaultdict(list)
    for _ in range(options.repeats):
        for name, command in commands.items():
            runs[name].append(measure(command, out if "pulls" in name else os.devnull))
            say(f"{name}: {runs[name][-1][0]:.1f} s")
    sizes = [os.path.getsize(path) / 1e6 for path in (log, registry_log)]
    print(f"\npulls: log.log of {sizes[0]:.0f} MB with its registry.log of {sizes[1]:.0f} MB,"
          f" {sum(expected.values())} pulls, medians of {options.repeats}")
    rows, base = [], None
    for name in runs:
        seconds, cpu = (statistics.median(run[n] for run in runs[name]) for n in (0, 1))
        base = base or (seconds, cpu)
        rows.append([name, f"{seconds:.1f}", f"{seconds / base[0]:.2f}", f"{cpu:.1f}",
                     f"{cpu / base[1]:.2f}", f"{max(run[2] for run in runs[name]):.0f}"])
    table(["", "seconds", "ratio", "CPU s", "ratio", "peak MB"], rows)
    print("jq knows nothing of pulls, and cannot read registry.log: it is no JSON."
          if shutil.which("jq") else "jq is not there.")
    with open(out, "rb") as lines:
        found = collections.Counter(json.loads(line)["verdict"] for line in lines)
    print("verdicts:", dict(found), "as they should be" if found == expected
          else f"BUT THEY SHOULD BE {dict(expected)}")

# --------------------------------------------------------------------------------- the machine


def filesystem(folder):
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    around = [(len(point), kind) for point, kind in mounts
              if f"{folder}/".startswith(point.rstrip("/") + "/")]
    return max(around)[1]


def fsync_ms(folder):
    """The median time of appending 1 KB and fsyncing it."""
    times = []
    with open(folder / "fsync", "ab", 0) as file:
        for _ in range(200):
            began = time.perf_counter()
            file.write(b"." * 1023 + b"\n")
            os.fsync(file.fileno())
            times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times)


def print_machine(work):
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    go = subprocess.check_output(["go", "env", "GOVERSION"], text=True).strip() \
        if shutil.which("go") else "no go"
    kind = filesystem(work)
    print(f"{cpu[1] if cpu else platform.machine()}, {CORES} cores, Linux {platform.release()}, "
          f"Python {platform.python_version()}, {go}\nlogs on {kind}, where appending 1 KB and "
          f"fsyncing it takes {fsync_ms(work):.2f} ms"
          + (": NO DISK, an fsync promises nothing here" if kind == "tmpfs" else ""))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 rounds of 1 s; 100 MB of log")
    parser.add_argument("--only", choices=["http", "crowd", "slow", "pulls"])
    parser.add_argument("--rounds", type=int, help="over all servers (default: 5)")
    parser.add_argument("--seconds", type=float, help="of each server's turn (default: 3)")
    parser.add_argument("--size", type=int, help="MB of log.log for pulls (default: 1000)")
    parser.add_argument("--recordings", type=Path, default=TOP / "tests" / "recordings")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (1 if options.quick else 3)
    options.size = options.size or (100 if options.quick else 1000)
    options.repeats = 1 if options.quick else 3
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # not to leave the servers running
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n")
    # Beside the sources, since a temporary folder is in memory on many machines.
    with tempfile.TemporaryDirectory(prefix="run-", dir=CACHE) as work:
        print_machine(Path(work))
        for name, bench in (("http", bench_http), ("crowd", bench_crowd), ("slow", bench_slow),
                            ("pulls", bench_pulls)):
            if options.only in (None, name):
                bench(Path(work), options)


if __name__ == "__main__":
    main()
