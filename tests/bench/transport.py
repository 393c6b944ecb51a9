"""How peers reach their store: an nginx over its folder, or a program's standard streams in place of ssh. Both can be counted."""

import fcntl
import os
import pathlib
import shutil
import subprocess
import sys

import measure
from fleet import Counter, end, free_port
from measure import wait_for

RELAY = pathlib.Path(__file__).parent / "relay.py"


class Web:
    """nginx over a folder, on loopback, without TLS: nothing is faster, and peers pay for no encryption."""

    def __init__(self, folder, root):
        self.port, own = free_port(), folder / "nginx"
        own.mkdir(parents=True)
        spools = "".join(f"{kind}_temp_path {own}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (own / "nginx.conf").write_text(
            f"{'user root;' if os.geteuid() == 0 else ''}\npid {own}/pid;\nerror_log {own}/error.log;\ndaemon off;\n"
            f"events {{}}\nhttp {{\n{spools}access_log off;\nsendfile on;\ntcp_nopush on;\nkeepalive_requests 1000000000;\n"
            f"server {{ listen 127.0.0.1:{self.port}; root {root}; }}\n}}\n"
        )
        self.process = subprocess.Popen([shutil.which("nginx"), "-p", own, "-c", own / "nginx.conf"], stdin=subprocess.DEVNULL)
        wait_for("nginx to run", lambda: self.process.poll() is None and (own / "pid").is_file() and self.pids()[1:])

    def pids(self):
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [self.process.pid, *map(int, children.split())]

    def stop(self):
        end(self.process)


class Way:
    """A host's way to the store. `url` for those that speak HTTP, `shell` in place of ssh for the others."""

    def __init__(self, folder, web, counted):
        folder.mkdir(parents=True, exist_ok=True)
        self.counter = Counter(web.port) if counted and web else None
        self.url = f"http://{self.counter.address if self.counter else f'127.0.0.1:{web.port}'}" if web else None
        self.counts = folder / "counted"
        self.shell = folder / "shell"
        # As ssh does: the first word is the host, the others are one line for a shell there.
        relay = f'exec "{sys.executable}" "{RELAY}" "{self.counts}" "$*"' if counted else 'exec sh -c "$*"'
        self.shell.write_text(f"#!/bin/sh\nshift\n{relay}\n")
        self.shell.chmod(0o755)

    def take(self):
        """Bytes both ways since the last call."""
        with open(self.counts, "a+", encoding="ascii") as counts:
            # Relays that still run have it, and write their figure last.
            fcntl.flock(counts, fcntl.LOCK_EX)
            counts.seek(0)
            carried = sum(map(int, counts.read().split()))
            counts.truncate(0)
        return carried + (self.counter.take() if self.counter else 0)

    def stop(self):
        if self.counter:
            self.counter.close()


class Watched:
    """What long-lived processes use while something happens."""

    def __init__(self, *pids):
        self.pids = pids
        for pid in self.pids:
            measure.forget_peak(pid)
        self.before = sum(measure.cpu_of(pid) for pid in self.pids)

    def cpu(self):
        return sum(measure.cpu_of(pid) for pid in self.pids) - self.before

    def peak(self):
        return max((measure.peak_of(pid) for pid in self.pids), default=0)
