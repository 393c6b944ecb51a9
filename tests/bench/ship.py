"""Ship's turn: a store and a host as they are in production, TLS and all, from a folder to a tree that may be switched to."""

import json
import os
import threading
import time

import measure
from fleet import Fleet
from measure import run, wait_for
from transport import Watched
from trees import same_file, same_tree


class ShipTurn:
    """`counting` rounds publish and promote everything in a second fleet, too, whose clients go through counters."""

    name = "Ship"

    def __init__(self, binaries, folder, app, counting):
        self.binaries, self.folder, self.app = binaries, folder, app
        self.timed, self.counted = Fleet(binaries, folder / "timed"), None
        try:
            self.counted = Fleet(binaries, folder / "counted", counted=True) if counting else None
        except BaseException:
            self.stop()
            raise

    def publish(self, tree, number):
        fleet = self.timed
        watched = Watched(fleet.store.pid)
        ran = fleet.shipctl("publish", tree, "-o", "json")
        # Before anything else asks the store: what is durable then was acknowledged.
        used = {"cpu": ran.cpu + watched.cpu(), "rss": max(ran.rss, watched.peak())}
        said = json.loads(ran.out)
        assert said["release"] == number, said
        told = {key: said[key] for key in ("files", "bytes", "new_bytes", "stored_bytes") if key in said}
        return used | {"wall": ran.wall, "synced": ran.wall, "rss_shipctl": ran.rss, "said": told} | self.stored()

    def stored(self):
        folder = self.timed.store_dir
        parts = {entry.name: measure.size_of(entry) for entry in folder.iterdir() if entry.is_dir()}
        return {"apparent": measure.apparent_size_of(folder), "allocated": measure.size_of(folder), "parts": parts}

    def update(self, tree, number):
        """From the word `promote` until `releases/N-…` stands on the host: its last step, after it is verified and synced."""
        fleet = self.timed
        watched = Watched(fleet.store.pid, fleet.agent.pid)
        with Standing(fleet.apps / self.app / "releases", number) as standing:
            promoted = fleet.shipctl("promote", self.app, "-o", "json")
        cpu = watched.cpu() + promoted.cpu
        host = fleet.app(self.app)["hosts"][0]
        assert host["release"] == number, host
        self.compare(fleet.apps, tree)
        wall = standing.at - standing.began
        return {
            "wall": wall,
            "synced": wall,
            "promoted": promoted.wall,
            "stage": host["stage_ms"] / 1000,
            "switch": host["switch_ms"] / 1000,
            # The host's own word of what it moved, and how.
            "moved": {key: value for key, value in host.items() if key.startswith(("fetched", "moved"))},
            "cpu": cpu,
            "rss": watched.peak(),
            "rss_agent": measure.peak_of(fleet.agent.pid),
            "disk": measure.size_of(fleet.host),
            "disk_assets": sum(measure.size_of(fleet.apps / self.app / part) for part in ("assets", "assets.records")),
        }

    def compare(self, apps, tree):
        """The tree that runs, and every asset of it in the folder that assets are served from."""
        same_tree(tree, (apps / self.app / "current").resolve(strict=True))
        union, root = apps / self.app / "assets", tree / "streamlit/static"
        for asset in (path for path in union.rglob("*") if path.is_file()):
            source = root / asset.relative_to(union)
            if source.is_file() and not same_file(source, asset):
                raise SystemExit(f"{asset} has other bytes than {source}")

    def count(self, tree, number):
        """Bytes of publishing and of an update of a host that has the release before, TLS, handshakes and heartbeats included."""
        fleet = self.counted
        fleet.counters["shipctl"].take()
        fleet.shipctl("publish", tree, "-o", "json")
        published = fleet.counters["shipctl"].take()
        fleet.counters["agent"].take()
        fleet.shipctl("promote", self.app)
        carried = fleet.counters["agent"].take()
        self.compare(fleet.apps, tree)
        return {"publish": published, "update": carried}

    def count_cold(self, tree, number):
        """Bytes to a host that joins with nothing, until what its environment runs stands there, as with peers.

        After it come assets of other releases, and the releases to revert to.
        """
        host = self.counted.join(f"cold{number}")
        app = host.apps / self.app
        with Standing(app / "releases", number) as standing:
            wait_for(f"release {number} on {host.name}", lambda: standing.at, patience=600)
            carried = host.counter.take()
        current = app / "current"
        stands = lambda: current.is_symlink() and os.readlink(current).startswith(f"releases/{number}-")
        wait_for(f"release {number} to run on {host.name}", stands, patience=600)
        self.compare(host.apps, tree)
        return carried

    @staticmethod
    def background(fleet):
        """What the store does in its idle time, all at once; returns what ran. It needs the folder for itself meanwhile."""
        fleet.stop_store()
        ran = run([fleet.binaries / "shipstore", "optimize", "--dir", fleet.store_dir])
        fleet.start_store()
        return ran

    def after_background(self, trees):
        """The store's size once its own work is done; and, in a fleet of its own, the bytes of the last update when that work came before it."""
        ran = self.background(self.timed)
        fleet = Fleet(self.binaries, self.folder / "background", counted=True)
        try:
            for tree in trees[:-1]:
                fleet.shipctl("publish", tree)
                fleet.shipctl("promote", self.app)
            fleet.shipctl("publish", trees[-1])
            self.background(fleet)
            fleet.counters["agent"].take()
            fleet.shipctl("promote", self.app)
            carried = fleet.counters["agent"].take()
            self.compare(fleet.apps, trees[-1])
        finally:
            fleet.stop()
        return self.stored() | {"wall": ran.wall, "cpu": ran.cpu, "update": carried}

    def stop(self):
        for fleet in (self.timed, self.counted):
            if fleet:
                fleet.stop()


class Standing:
    """Looks every half a millisecond for a release's folder, which gets its name as the last step of staging."""

    def __init__(self, releases, number):
        self.releases, self.prefix, self.at, self.over = releases, f"{number}-", None, False
        self.looker = threading.Thread(target=self._look, daemon=True)

    def __enter__(self):
        self.looker.start()
        self.began = time.monotonic()
        return self

    def __exit__(self, *failed):
        self.over = True
        self.looker.join()

    def _look(self):
        # Once more after the end: the word may come back faster than this looks.
        over = False
        while self.at is None and not over:
            over = self.over
            if self._stands():
                self.at = time.monotonic()
            time.sleep(0.0005)

    def _stands(self):
        try:
            return any(name.startswith(self.prefix) and "." not in name for name in os.listdir(self.releases))
        except FileNotFoundError:
            return False
