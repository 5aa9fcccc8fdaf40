"""What runs on this machine for the drills: servers, a node and its consumers, on free ports, and how to ask them."""
import json
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TOPIC, GROUP, PROJECTION = "identity.user.v1", "linting_group", "markdown-lint-consumer"
PATIENCE = 60

# Listeners of tidegate.yaml by their usual port.
API, BACKEND, RELAY, CONSUMER, CONSUMER_OF_TABLES, PROMETHEUS = 7300, 8000, 8080, 8081, 8082, 9090


def until(what, look, patience=PATIENCE):
    """Waits until `look` finds something true, and returns it."""
    end = time.monotonic() + patience
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"waited {patience:g} s in vain: {what}")
        time.sleep(0.05)


def free_ports(count):
    """Ports that are free now; all are held until all are found, so that none is found twice."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def say(text):
    """Prints what a drill saw."""
    print(f"         {text}", flush=True)


def find_tidegate():
    """The program: $TIDEGATE, or the newest build, or one that is built now."""
    named = os.environ.get("TIDEGATE")
    if named:
        return str(pathlib.Path(named).resolve())
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    builds = [path for path in (target / "release/tidegate", target / "debug/tidegate") if path.exists()]
    if not builds:
        print("drills: building (the first time takes a few minutes)", flush=True)
        subprocess.run(["cargo", "build", "--release", "--package", "tidegate"], cwd=ROOT, check=True)
        builds = [target / "release/tidegate"]
    return str(max(builds, key=lambda path: path.stat().st_mtime).resolve())


def find_python(scratch):
    """A Python with redis-py: this one, Debian's, or a new environment with it."""
    for python in (sys.executable, "/usr/bin/python3"):
        if os.path.exists(python) and subprocess.run([python, "-c", "import redis"], capture_output=True).returncode == 0:
            return python
    print("drills: redis-py is missing, installing it in the scratch directory", flush=True)
    subprocess.run([sys.executable, "-m", "venv", scratch / "python"], check=True)
    subprocess.run([scratch / "python/bin/pip", "install", "--quiet", "redis>=4,<6"], check=True)
    return str(scratch / "python/bin/python")


def postgres_program(name):
    """A program of the newest PostgreSQL that Debian installed, or the one on the path."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return str(found[-1]) if found else shutil.which(name) or sys.exit(f"drills: {name} is missing: install postgresql")


class Place:
    """Everything that runs on this machine for the drills."""

    def __init__(self, scratch, late):
        self.scratch, self.running, self.late, self.event = scratch, {}, late, None
        self.tidegate, self.python = find_tidegate(), find_python(scratch)
        usual = (6379, 5432, API, BACKEND, RELAY, CONSUMER, CONSUMER_OF_TABLES, PROMETHEUS)
        self.ports = dict(zip(usual, free_ports(len(usual))))
        self.redis_port, self.pg_port = self.ports[6379], self.ports[5432]
        self.redis_url = f"redis://127.0.0.1:{self.redis_port}/0"
        self.pg_url = f"postgres://drills@127.0.0.1:{self.pg_port}/postgres"
        self.url = self.address(API)
        self.broken = scratch / "broken"
        self.write("tidegate.yaml", {"./data/outbox": "./data", "queue_latency: 60s": f"queue_latency: {late:g}s"})
        self.write("prometheus.yml", {"_interval: 5s": "_interval: 1s"})
        self.write("alerts.yml", {"(consumer_group) > 60": f"(consumer_group) > {late:g}"})

    def write(self, name, changes):
        """Writes a file of the example into the scratch directory, with the free ports in place of the usual ones."""
        text = (HERE / name).read_text()
        for was, now in changes.items():
            assert was in text, f"{name} holds no {was}"
            text = text.replace(was, now)
        for usual, free in self.ports.items():
            text = text.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{free}")
        (self.scratch / name).write_text(text)

    def address(self, usual):
        return f"http://127.0.0.1:{self.ports[usual]}"

    def start(self, name, command, **more):
        log = open(self.scratch / f"{name}.log", "ab")
        self.running[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **more)

    def end(self, name, how=signal.SIGTERM):
        process = self.running.pop(name)
        process.send_signal(how)
        process.wait(PATIENCE)

    def start_redis(self):
        self.start("redis", ["redis-server", "--bind", "127.0.0.1", "--port", str(self.redis_port), "--dir",
                             str(self.scratch), "--save", "", "--appendonly", "yes", "--appendfsync", "always"])
        until("Redis answers", lambda: self.redis("PING", check=False) == "PONG")

    def start_postgres(self):
        place = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-drills-pg-"))
        self.pg_place = place
        user = {}
        if os.getuid() == 0:  # The server refuses to run as root.
            account = pwd.getpwnam("postgres")
            os.chown(place, account.pw_uid, account.pw_gid)
            user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        subprocess.run([postgres_program("initdb"), "-D", place / "files", "-U", "drills", "-A", "trust", "-E", "UTF8",
                        "--locale=C"], check=True, capture_output=True, cwd=place, **user)
        self.start("postgres", [postgres_program("postgres"), "-D", place / "files", "-k", place, "-h", "127.0.0.1",
                                "-p", str(self.pg_port)], cwd=place, **user)
        until("PostgreSQL answers", lambda: self.sql("SELECT 1", check=False) == "1")

    def ddl(self, *words):
        """SQL that the program prints: `tidegate outbox ddl tidegate.yaml`."""
        done = subprocess.run([self.tidegate, words[0], "ddl", *words[1:]], cwd=self.scratch, check=True, text=True,
                              capture_output=True, env=dict(os.environ, DATABASE_URL=self.pg_url))
        return done.stdout

    def start_node(self):
        self.start("node", [self.tidegate, "run", "tidegate.yaml", "--data", "data"], cwd=self.scratch,
                   env=dict(os.environ, DATABASE_URL=self.pg_url))
        until("the node is ready", lambda: self.get("/readyz") is not None)

    def start_prometheus(self):
        for tool, kind, name in (("promtool", "config", "prometheus.yml"), ("promtool", "rules", "alerts.yml")):
            subprocess.run([tool, "check", kind, name], cwd=self.scratch, check=True, capture_output=True)
        self.start("prometheus", ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=series",
                                  f"--web.listen-address=127.0.0.1:{self.ports[PROMETHEUS]}"], cwd=self.scratch)
        until("Prometheus has scraped every listener", lambda: len(self.query("up == 1")) == 4)

    def query(self, promql):
        """What Prometheus answers: labels and value of each series."""
        answer = self.get("/api/v1/query?" + urllib.parse.urlencode({"query": promql}), PROMETHEUS)
        found = json.loads(answer)["data"]["result"] if answer else []
        drop = ("__name__", "instance", "job")
        return [({k: v for k, v in one["metric"].items() if k not in drop}, float(one["value"][1])) for one in found]

    def firing(self):
        answer = self.get("/api/v1/alerts", PROMETHEUS)
        return {one["labels"]["alertname"] for one in json.loads(answer)["data"]["alerts"]} if answer else set()

    def end_all(self):
        for name in ("prometheus", "worker", "consumer", "node", "redis"):
            if name in self.running:
                self.end(name)
        if "postgres" in self.running:
            self.end("postgres", signal.SIGINT)
        if hasattr(self, "pg_place"):
            shutil.rmtree(self.pg_place, ignore_errors=True)

    def redis(self, *words, check=True):
        done = subprocess.run(["redis-cli", "-p", str(self.redis_port), *words], capture_output=True, text=True)
        if check and (done.returncode or done.stdout.startswith("ERR")):
            raise AssertionError(f"redis-cli {words}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def sql(self, sql, check=True):
        done = subprocess.run([postgres_program("psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d",
                               self.pg_url, "-c", sql], capture_output=True, text=True)
        if check and done.returncode:
            raise AssertionError(f"{sql}: {done.stderr}")
        return done.stdout.strip()

    def cli(self, *words, expect=0):
        """Runs a command of the client and returns what it answers as JSON."""
        done = subprocess.run([self.tidegate, *words, "-o", "json"], capture_output=True, text=True,
                              env=dict(os.environ, TIDEGATE_URL=self.url))
        if done.returncode != expect:
            raise AssertionError(f"{' '.join(words)}: exit {done.returncode}, not {expect}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def get(self, path, listener=API):
        try:
            with urllib.request.urlopen(self.address(listener) + path, timeout=10) as answer:
                return answer.read().decode()
        except OSError:
            return None

    def document(self, path, listener):
        """The JSON that a path shows, such as `curl -s :8080/metrics | jq`; with any status."""
        try:
            with urllib.request.urlopen(self.address(listener) + path, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def save(self, count, mail="u{}@example.com", users=5):
        """Changes users, each in a transaction of its own; returns their ids."""
        ids = [str(uuid.uuid5(uuid.NAMESPACE_DNS, f"user-{number}")) for number in range(users)]
        changes = [f"SELECT identity.save_user('{ids[number % users]}', '{mail.format(number)}');" for number in range(count)]
        self.sql("\n".join(changes))
        return ids

    def rows(self):
        return self.sql("SELECT event_id FROM identity.outbox ORDER BY id").split()

    def left(self):
        return int(self.sql("SELECT count(*) FROM identity.outbox WHERE NOT published"))

    def lines(self, name):
        path = self.scratch / name
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def effects(self):
        return [line[0] for line in self.lines("effects")]

    def log(self, name):
        """What a listener's log says, in the words of the services of old."""
        path = self.scratch / "data/old" / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def group(self, name=GROUP):
        return self.cli("group", "show", name)

    def comes_back(self):
        return until("the group has come back", lambda: (lambda one: one if one["waiting"] + one["in_flight"] == 0 else None)(self.group()))

    def entered(self, event):
        """Entries of an event in the ledger table."""
        return self.sql(f"SELECT consumer_group, processing_result FROM public.event_ledger WHERE event_id = '{event}'").split("\n")

    def all_done(self):
        """Waits until every committed change is published, handled and read by both consumers, each once."""
        until("the outbox is empty", lambda: self.left() == 0)
        rows = self.rows()
        until("the worker has handled all", lambda: set(rows) <= set(self.effects()) | self.dead_events())
        read = lambda: [line[1] for line in self.lines("read") if line[0] == "ok"]
        until("the other consumer has read all", lambda: set(rows) <= set(read()))
        entered = lambda: set(self.sql("SELECT event_id FROM public.event_ledger").split())
        until("the projection has all", lambda: set(rows) <= entered() | self.dead_events(PROJECTION))
        for who, lines in (("worker", self.lines("effects")), ("consumer", [line[1:] for line in self.lines("read") if line[0] == "ok"])):
            last = {}
            for line in lines:
                seen = last.setdefault(line[1], [])
                seen.append(int(line[2]))
            for user, seen in last.items():
                firsts = list(dict.fromkeys(seen))
                assert firsts == sorted(firsts), f"{who}: the changes of {user} came as {seen}"
        return rows

    def dead(self, group=GROUP):
        return self.cli("dlq", "list", "--stream", TOPIC, "--group", group)["entries"]

    def dead_events(self, group=GROUP):
        return {entry["event"]["id"] for entry in self.dead(group)}
