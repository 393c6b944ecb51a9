"""A store and one host on loopback, from the release binaries, with nothing around them that would be measured too."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import threading

from measure import run, wait_for

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("SHIP_TESTS_CACHE", ROOT / ".cache"))


def build():
    """The binaries that are measured, as a user builds them."""
    for what in (["--bins"], ["-p", "ship-durable", "--example", "link"]):
        if subprocess.run(["cargo", "build", "--release", *what], cwd=ROOT, check=False).returncode != 0:
            raise SystemExit("the release binaries cannot be built")
    target = os.environ.get("CARGO_TARGET_DIR", ROOT / "target")
    return pathlib.Path(target).resolve() / "release"


def free_port(address="127.0.0.1"):
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


class Counter:
    """Counts bytes between clients and one port by carrying them; only for runs whose times do not count."""

    def __init__(self, port):
        self.port, self.to_server, self.to_client = port, 0, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.port))
            except OSError:
                # The client is told as the server would: nobody is there.
                client.close()
                continue
            for source, sink, up in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._carry, args=(source, sink, up), daemon=True).start()

    def _carry(self, source, sink, up):
        try:
            while data := source.recv(1 << 16):
                if up:
                    self.to_server += len(data)
                else:
                    self.to_client += len(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            sink.close()

    def take(self):
        """Bytes both ways since the last call."""
        counted = self.to_server + self.to_client
        self.to_server = self.to_client = 0
        return counted

    def close(self):
        self.listener.close()


class Fleet:
    """One store, one host `h1` of every class in environment `bench`. Ended by `stop`, whatever happened."""

    def __init__(self, binaries, folder, counted=False, soak_ms=0):
        self.binaries, self.folder = binaries, pathlib.Path(folder)
        self.store_dir, self.host = self.folder / "store", self.folder / "h1"
        self.apps, self.run_dir = self.host / "apps", self.host / "run"
        self.store = self.agent = None
        self.counters, self.joined = {}, []
        self.logs = self.folder / "logs"
        self.logs.mkdir(parents=True)
        self._init(soak_ms)
        try:
            self.start_store()
            self._write_files(counted)
            self.start_agent()
        except BaseException:
            self.stop()
            raise

    def _init(self, soak_ms):
        shipstore = self.binaries / "shipstore"
        run([shipstore, "init", "--dir", self.store_dir, "--fleet", "bench"])
        run([shipstore, "issue", "--dir", self.store_dir, "--role", "operator", "--name", "bench", "--out", self.folder / "tls"])
        settings = self.store_dir / "store.toml"
        kept = [line for line in settings.read_text().splitlines() if not line.startswith(("soak_ms", "heartbeat_ms"))]
        top = next((nth for nth, line in enumerate(kept) if line.startswith("[")), len(kept))
        kept[top:top] = [f"soak_ms = {soak_ms}", "heartbeat_ms = 1000"]
        settings.write_text("\n".join(kept) + "\n")

    def start_store(self):
        addresses = self.store_dir / "run/addresses.json"
        addresses.unlink(missing_ok=True)
        words = ["serve", "--dir", self.store_dir, *self._ports()]
        self.store = self._start("shipstore", words, "store")
        said = wait_for("the store to serve", lambda: self._living(self.store, "store") and self._addresses(addresses))
        self.grpc, self.assets = said["grpc"], said["assets"]

    def stop_store(self):
        """Until `start_store`, at the same addresses; the agent goes on."""
        end(self.store)
        self.store = None

    def _ports(self):
        # Chosen once: a store that is started again must be found where it was.
        if not hasattr(self, "grpc"):
            self.grpc, self.assets = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        return ["--listen", self.grpc, "--assets-listen", self.assets]

    @staticmethod
    def _addresses(path):
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError):
            return None

    def _living(self, process, name):
        if process.poll() is not None:
            raise SystemExit(f"{name} ended with {process.returncode}:\n{(self.logs / name).read_text()[-4000:]}")
        return True

    def _write_files(self, counted):
        seen = {name: self.grpc for name in ("shipctl", "agent")}
        if counted:
            port = int(self.grpc.rsplit(":", 1)[1])
            self.counters = {name: Counter(port) for name in seen}
            seen = {name: counter.address for name, counter in self.counters.items()}
        self.context = self.folder / "context.toml"
        self.context.write_text(
            f'version = 1\nstore = "https://{seen["shipctl"]}"\nenv = "bench"\n'
            'ca = "tls/ca.pem"\ncert = "tls/cert.pem"\nkey = "tls/key.pem"\n'
            f'assets = "http://{self.assets}"\n'
        )
        self.config = self._write_host("h1", self.host, seen["agent"])

    def _write_host(self, name, folder, store):
        for part in ("apps", "state", "run"):
            (folder / part).mkdir(parents=True)
        shipstore = self.binaries / "shipstore"
        run([shipstore, "issue", "--dir", self.store_dir, "--role", "agent", "--env", "bench", "--name", name, "--out", folder / "tls"])
        config = folder / "agent.toml"
        config.write_text(
            f'version = 1\nenv = "bench"\nhost = "{name}"\nclasses = ["web", "assets"]\n'
            f'store = "https://{store}"\naddress = "127.0.0.1"\nasset_listen = "127.0.0.1:{free_port()}"\n'
            f'apps_dir = "{folder / "apps"}"\nstate_dir = "{folder / "state"}"\nrun_dir = "{folder / "run"}"\n'
            '[tls]\nca = "tls/ca.pem"\ncert = "tls/cert.pem"\nkey = "tls/key.pem"\n'
        )
        return config

    def join(self, name):
        """A further host, with a counter of its own on its way to the store; it takes by itself what the environment runs."""
        host = Joined(name, self.folder / name, Counter(int(self.grpc.rsplit(":", 1)[1])))
        config = self._write_host(name, host.folder, host.counter.address)
        self.joined.append(host)
        host.process = self._start("ship-agent", ["run", "--config", config], name)
        return host

    def start_agent(self):
        self.agent = self._start("ship-agent", ["run", "--config", self.config], "agent")
        wait_for("the agent to report", lambda: self._living(self.agent, "agent") and self._reports())

    def _reports(self):
        # Before its first word the store does not even know the environment.
        ran = self.shipctl("hosts", "-o", "json", codes=(0, 1))
        hosts = json.loads(ran.out)["hosts"] if ran.code == 0 else []
        return any(host["host"] == "h1" and host["state"] in ("available", "installing") for host in hosts)

    def _start(self, binary, words, log):
        with open(self.logs / log, "ab") as file:
            return subprocess.Popen(
                [self.binaries / binary, *words], stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=self.folder
            )

    def shipctl(self, *words, codes=(0,)):
        """Runs `shipctl` as the operator."""
        return run([self.binaries / "shipctl", "-c", self.context, *words], codes=codes)

    def agent_says(self, *words, codes=(0,)):
        """Runs `ship-agent WORDS` on the host."""
        return run([self.binaries / "ship-agent", *words, "-c", self.config], codes=codes)

    def app(self, name):
        status = json.loads(self.shipctl("status", "-o", "json").out)
        return next(app for app in status["apps"] if app["app"] == name)

    def kill_store(self):
        self.store.kill()
        self.store.wait()

    def kill_agent(self):
        self.agent.kill()
        self.agent.wait()

    def keeper_pid(self, app):
        status = run([self.binaries / "ship-keeper", "status", "--run", self.run_dir / app])
        return json.loads(status.out)["pid"]

    def stop(self):
        for agent in (self.agent, *(host.process for host in self.joined)):
            if agent:
                end(agent)
        for run_dir in (self.run_dir, *(host.folder / "run" for host in self.joined)):
            for app in run_dir.iterdir() if run_dir.is_dir() else ():
                stop_keeper(self.binaries, app)
        if self.store:
            end(self.store)
        for counter in (*self.counters.values(), *(host.counter for host in self.joined)):
            counter.close()


class Joined:
    """A host that came later."""

    def __init__(self, name, folder, counter):
        self.name, self.folder, self.counter, self.process = name, folder, counter, None
        self.apps = folder / "apps"


def stop_keeper(binaries, run_dir):
    """Ends an app with its keeper, which goes last; a keeper that is only killed leaves the app running, as it should."""
    if (run_dir / "keeper.sock").exists():
        run([binaries / "ship-keeper", "stop", "--run", run_dir], codes=(0, 1))
        wait_for("the keeper to end", lambda: not (run_dir / "keeper.sock").exists())


def end(process, patience=0):
    """Waits for its own end for a while, then asks for it, then insists."""
    for ask, wait in ((lambda: None, patience), (process.terminate, 20)):
        ask()
        try:
            return process.wait(wait)
        except subprocess.TimeoutExpired:
            pass
    process.kill()
    return process.wait()


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
