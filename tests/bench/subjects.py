"""The servers of tests/bench/restarts: how each is restarted by its own best known way, and how Ship starts it.

A subject's folder has `releases/1`, `releases/2` and the link `current`. A bare one is started through `current`; `restart`
is called after the link was moved, and returns once the old version is on its way out by the server's own account.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import time

import trials
from fleet import CACHE, ROOT
from measure import wait_for

APPS = ROOT / "tests/servers"
RECIPES = ROOT / "agent/drain"
HERE = ROOT / "tests/bench/servers"
PYTHON = CACHE / "venv/bin/python"
NODE_MODULES = CACHE / "node/node_modules"


class Subject:
    """A server: the files of a release, its command under Ship, and its own way."""

    name = way = ""
    files = ()
    websockets = streams = False
    stop_signal = "TERM"
    boots_by_hand = True
    stop = signal.SIGTERM

    def __init__(self, folder, port, binaries):
        self.folder, self.port, self.binaries = folder, port, binaries
        self.current = folder / "current"
        self.process = None

    def missing(self):
        """What is not installed, if anything."""
        return None

    def make(self, number, tree):
        tree.mkdir(parents=True)
        (tree / "release").write_text(str(number), encoding="ascii")
        for source, name in self.files:
            shutil.copy(source, tree / name)

    # Under Ship.
    def command(self):
        return None

    def env(self):
        return {}

    def strategy(self):
        """Keys of the process that say how it is replaced, where it is not by a listener handed over."""
        return {}

    @property
    def linked(self):
        """Where a release that runs under Ship is found by those that live on through releases."""
        return self.folder / "home/current"

    # Bare.
    def start(self):
        raise NotImplementedError

    def restart(self):
        raise NotImplementedError

    def run(self, words, cwd=None, **env):
        log = open(self.folder / "log", "ab")
        cwd = cwd or self.current
        # Servers that start themselves again do it where PWD says, if that is where they are.
        env = {**os.environ, **{name: str(value) for name, value in env.items()}, "PWD": str(cwd)}
        env.pop("SHIP_DRAIN_FILE", None)
        words = [str(word) for word in words]
        self.process = subprocess.Popen(
            words, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        log.close()

    def end(self):
        """Ends everything that was started here: all of it is in one session, unless a server left it."""
        session = self.process.pid
        if self.process.poll() is None:
            self.process.send_signal(self.stop)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                pass
        self.kill_session(self.process)

    @staticmethod
    def kill_session(process):
        # One that forks while it is looked for leaves a child that this look did not find.
        while left := of_session(process.pid):
            for pid in left:
                tell(pid, signal.SIGKILL)
            time.sleep(0.01)
        process.wait()

    def signal_file(self, name, number):
        os.kill(pid_in(self.folder / name), number)


def of_session(session):
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(errors="replace").rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def pid_in(file):
    def read():
        try:
            found = int(file.read_text() or 0)
        except (OSError, ValueError):
            return None
        # 0 would be our own group, and 1 is nobody's server.
        return found if found > 1 else None

    return wait_for(f"a process id in {file}", read)


class Gunicorn(Subject):
    streams = True
    files = (
        (RECIPES / "wsgi.py", "drain.py"),
        (APPS / "wsgi/app.py", "app.py"),
        (APPS / "wsgi/gunicorn.conf.py", "gunicorn.conf.py"),
    )

    def missing(self):
        return None if (CACHE / "venv/bin/gunicorn").exists() else "gunicorn (tests/setup)"

    def command(self):
        return [str(PYTHON), "-m", "gunicorn", "app:app"]

    def start(self):
        words = ["--bind", f"127.0.0.1:{self.port}", "--pid", self.folder / "pid", "--chdir", self.current, "app:app"]
        self.run([PYTHON, "-m", "gunicorn", *words])

    def end(self):
        # After a USR2 the master that lives may not be the process that was started, but it is in its session.
        for pid in of_session(self.process.pid):
            tell(pid, signal.SIGTERM)
        super().end()


class GunicornHup(Gunicorn):
    name, way = "gunicorn HUP", "HUP: new workers under the old master"

    def restart(self):
        self.signal_file("pid", signal.SIGHUP)


class GunicornUsr2(Gunicorn):
    name, way = "gunicorn USR2", "USR2: a second master; TERM to the first once the second answers"

    def restart(self):
        old = pid_in(self.folder / "pid")
        os.kill(old, signal.SIGUSR2)
        wait_for("the second master", lambda: (self.folder / "pid.2").exists())
        self.first_answer()
        os.kill(old, signal.SIGTERM)
        wait_for("the first master to end", lambda: gone(old))
        wait_for("the pid file to be taken over", lambda: not (self.folder / "pid.2").exists())


class Unicorn(Subject):
    name, way = "Unicorn USR2", "USR2: a second master; QUIT to the first once the second answers"
    streams = True
    stop_signal, stop = "QUIT", signal.SIGQUIT
    files = (
        (RECIPES / "rack.rb", "drain.rb"),
        (APPS / "rack/config.ru", "config.ru"),
        (APPS / "rack/unicorn.rb", "unicorn.rb"),
    )

    def missing(self):
        return None if shutil.which("unicorn") else "unicorn"

    def command(self):
        return [shutil.which("unicorn"), "-c", "unicorn.rb", "-E", "production"]

    def start(self):
        config = self.folder / "bare.rb"
        config.write_text(
            f"working_directory '{self.current}'\nworker_processes 6\ntimeout 60\n"
            f"listen '127.0.0.1:{self.port}'\npid '{self.folder}/pid'\n"
        )
        self.run([shutil.which("unicorn"), "-c", config, "-E", "production", self.current / "config.ru"])

    def restart(self):
        old = pid_in(self.folder / "pid")
        os.kill(old, signal.SIGUSR2)
        wait_for("the second master", lambda: (self.folder / "pid.oldbin").exists())
        wait_for("its pid file", lambda: (self.folder / "pid").exists())
        self.first_answer()
        os.kill(old, signal.SIGQUIT)
        wait_for("the first master to end", lambda: gone(old))

    def end(self):
        for pid in of_session(self.process.pid):
            tell(pid, signal.SIGQUIT)
        super().end()


class Puma(Subject):
    name, way = "Puma phased", "USR1: workers one after the other"
    streams = True
    files = ((RECIPES / "rack.rb", "drain.rb"), (APPS / "rack/config.ru", "config.ru"))

    def missing(self):
        return None if shutil.which("puma") else "puma"

    def command(self):
        return [shutil.which("puma"), "--bind-to-activated-sockets", "only", "-t", "16:16", "-e", "production"]

    def start(self):
        config = self.folder / "bare.rb"
        config.write_text(
            f"directory '{self.current}'\nenvironment 'production'\nworkers 2\nthreads 16, 16\n"
            f"bind 'tcp://127.0.0.1:{self.port}'\npidfile '{self.folder}/pid'\nworker_shutdown_timeout 20\n"
        )
        self.run([shutil.which("puma"), "-C", config])

    def restart(self):
        self.signal_file("pid", signal.SIGUSR1)


class Node(Subject):
    name, way = "node cluster", "HUP to a primary that forks new workers and disconnects the old"
    streams = websockets = True
    files = ((RECIPES / "node.js", "drain.js"), (APPS / "node/app.js", "app.js"))

    def missing(self):
        if not shutil.which("node"):
            return "node"
        return None if (NODE_MODULES / "ws").exists() else "ws for node (tests/setup)"

    def command(self):
        return [shutil.which("node"), "app.js"]

    def env(self):
        return {"NODE_PATH": str(NODE_MODULES)}

    def start(self):
        self.run([shutil.which("node"), HERE / "cluster.js", self.current], PORT=self.port, **self.env())

    def restart(self):
        self.process.send_signal(signal.SIGHUP)


class StopStart(Subject):
    """Stopped, waited for, started."""

    way = "stop, then start"

    def restart(self):
        self.end()
        self.start()


class Uvicorn(StopStart):
    name = "uvicorn"
    streams = websockets = True
    files = ((RECIPES / "asgi.py", "drain.py"), (APPS / "asgi/app.py", "app.py"))
    words = ["--log-level", "warning", "--timeout-keep-alive", "75", "--timeout-graceful-shutdown", "10", "app:app"]

    def missing(self):
        return None if (CACHE / "venv/bin/uvicorn").exists() else "uvicorn (tests/setup)"

    def command(self):
        return [str(PYTHON), "-m", "uvicorn", "--fd", "3", *self.words]

    def start(self):
        self.run([PYTHON, "-m", "uvicorn", "--port", self.port, *self.words])


class Sample(StopStart):
    name = "sample"
    streams = websockets = True

    def make(self, number, tree):
        words = [self.binaries / "ship-sample", "make", "--out", tree, "--version", str(number)]
        words += ["--broken"] if number == trials.SICK else []
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)

    def command(self):
        return ["bin/server", "serve"]

    def start(self):
        release = os.path.basename(os.readlink(self.current))
        self.run(["bin/server", "serve", "--listen", f"127.0.0.1:{self.port}"], SHIP_RELEASE=release)


class Starlet(Subject):
    name, way = "Server::Starter + Starlet", "HUP to start_server"
    streams = True
    files = ((APPS / "psgi/app.psgi", "app.psgi"),)
    words = ["-E", "production", "-s", "Starlet", "--max-workers=6"]

    def missing(self):
        return None if shutil.which("start_server") and shutil.which("plackup") else "starlet, libserver-starter-perl"

    def command(self):
        return [shutil.which("plackup"), *self.words, "app.psgi"]

    def env(self):
        return {"SERVER_STARTER_PORT": f"127.0.0.1:{self.port}=3", "SERVER_STARTER_GENERATION": "1"}

    def start(self):
        words = [f"--port=127.0.0.1:{self.port}", "--interval=1", "--", shutil.which("plackup"), *self.words]
        self.run([shutil.which("start_server"), *words, self.current / "app.psgi"], cwd=self.folder)

    def restart(self):
        self.process.send_signal(signal.SIGHUP)


class Nginx(Subject):
    # A master whose parent lives ignores USR2: it takes itself for the new one of an upgrade.
    daemon = "off"
    stop_signal = "QUIT"

    def missing(self):
        return None if shutil.which("nginx") else "nginx-light"

    def make(self, number, tree):
        super().make(number, tree)
        (tree / "site.conf").write_text(
            f"server {{ listen 127.0.0.1:{self.port}; location / {{ default_type text/plain; "
            f"add_header X-Release {number}; return 200 'ok\\n'; }} }}\n"
        )
        (tree / "nginx.conf").write_text(self.config(self.linked, self.folder / "run/nginx.pid"))

    def config(self, current, pid):
        return (
            f"worker_processes 2;\npid {pid};\nerror_log {self.folder}/error;\nevents {{ }}\n"
            f"http {{ access_log off; keepalive_requests 1000000; include {current}/site.conf; }}\n"
        )

    def start(self):
        config = self.folder / "nginx.conf"
        config.write_text(self.config(self.current, self.folder / "pid"))
        self.run([shutil.which("nginx"), "-c", config, "-g", f"daemon {self.daemon};"], cwd=self.folder)

    def command(self):
        return [shutil.which("nginx"), "-c", str(self.linked / "nginx.conf"), "-g", f"daemon {self.daemon};"]


class NginxReload(Nginx):
    name, way = "nginx reload", "HUP: new workers with the new configuration"

    def strategy(self):
        return {"strategy": "signal-reload", "restart": {"reload": {"signal": "HUP"}}}

    def restart(self):
        self.signal_file("pid", signal.SIGHUP)


class NginxUpgrade(Nginx):
    name, way = "nginx upgrade", "USR2: a second master; QUIT to the first once the second answers"
    daemon = "on"

    def strategy(self):
        signals = {"upgrade": "USR2", "pause": "WINCH", "resume": "HUP"}
        return {"strategy": "signal-reexec", "restart": {"reexec": {**signals, "pidfile": "nginx.pid"}}}

    def restart(self):
        old = pid_in(self.folder / "pid")
        os.kill(old, signal.SIGUSR2)
        wait_for("the second master", lambda: (self.folder / "pid.oldbin").exists() and (self.folder / "pid").exists())
        self.first_answer()
        os.kill(old, signal.SIGQUIT)
        wait_for("the first master to end", lambda: gone(old))

    def end(self):
        pid_in(self.folder / "pid")
        # Two of them, when an upgrade was given up.
        masters = [pid_in(file) for file in self.folder.glob("pid*")]
        for pid in masters:
            tell(pid, signal.SIGQUIT)
        wait_for("nginx to end", lambda: all(gone(pid) for pid in masters))
        super().end()


class NginxBeside(NginxUpgrade):
    """Bare as NginxUpgrade; under Ship each release is an nginx of its own on sockets handed over."""

    name, way = "nginx, own generations", "bare: USR2, as above; under Ship by agent/drain/nginx.sh"
    files = ((RECIPES / "nginx.sh", "nginx.sh"),)
    # Its configuration names its port.
    boots_by_hand = False

    def strategy(self):
        return {}

    def make(self, number, tree):
        super().make(number, tree)
        (tree / "nginx.conf.in").write_text(
            "worker_processes 2;\npid @PREFIX@.pid;\nerror_log stderr;\nevents { }\n"
            "http { access_log off; keepalive_requests 1000000; map '' $drain { default '@DRAIN_FILE@'; }\n"
            f"include {tree}/site.conf; }}\n"
        )
        (tree / "site.conf").write_text(
            f"server {{ listen 127.0.0.1:{self.port}; default_type text/plain; add_header X-Release {number};\n"
            f"  error_page 418 = @leaving;\n"
            f"  location / {{ if (-f $drain) {{ return 418; }} return 200 'ok\\n'; }}\n"
            f"  location @leaving {{ keepalive_timeout 0; return 200 'ok\\n'; }} }}\n"
        )

    def command(self):
        return ["sh", "nginx.sh"]


class Haproxy(Subject):
    name, way = "HAProxy reload", "USR2 to the master"
    stop_signal = "USR1"

    def command(self):
        return [shutil.which("haproxy"), "-W", "-f", str(self.linked / "haproxy.cfg")]

    def strategy(self):
        return {"strategy": "signal-reload", "restart": {"reload": {"signal": "USR2"}}}

    def missing(self):
        return None if shutil.which("haproxy") else "haproxy"

    def make(self, number, tree):
        super().make(number, tree)
        (tree / "haproxy.cfg").write_text(
            "global\n  maxconn 2000\ndefaults\n  mode http\n  timeout client 60s\n  timeout http-keep-alive 60s\n"
            f"  option idle-close-on-response\nfrontend web\n  bind 127.0.0.1:{self.port}\n"
            f"  http-request return status 200 content-type text/plain lf-string 'ok' hdr X-Release {number}\n"
        )

    def start(self):
        self.run([shutil.which("haproxy"), "-W", "-db", "-f", self.current / "haproxy.cfg"], cwd=self.folder)

    def restart(self):
        self.process.send_signal(signal.SIGUSR2)


class HaproxyBeside(Haproxy):
    """Bare as Haproxy; under Ship each release is an HAProxy of its own on the socket handed over."""

    name, way = "HAProxy, own generations", "bare: USR2 to the master; under Ship `bind fd@3`"

    def strategy(self):
        # It leaves by its stop signal.
        return {"drain_ms": 100}

    def make(self, number, tree):
        super().make(number, tree)
        text = (tree / "haproxy.cfg").read_text()
        (tree / "beside.cfg").write_text(text.replace(f"bind 127.0.0.1:{self.port}", "bind fd@3"))

    def command(self):
        return [shutil.which("haproxy"), "-db", "-f", "beside.cfg"]


def tell(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def gone(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


ALL = [
    GunicornHup, GunicornUsr2, Uvicorn, Unicorn, Puma, Node, Starlet, NginxReload, NginxUpgrade, NginxBeside, Haproxy, HaproxyBeside, Sample,
]
