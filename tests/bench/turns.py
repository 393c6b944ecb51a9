"""A peer's turn: each command with what it used, what lies on the disks after it, and every tree compared with its source."""

import shutil

import measure
from measure import run
from transport import Watched
from trees import same_tree


class PeerTurn:
    """A peer in one round. `counting` rounds bring each release to a second host, too, through a counter."""

    def __init__(self, peer, folder, counting, tight):
        self.peer, self.name = peer(folder), peer.name
        # Where the disk is short: what shares no blocks with another release is added up and removed.
        self.tight, self.removed = tight and not peer.links, 0
        try:
            self.timed = self.peer.host("host")
            self.counted = self.peer.host("counted", counted=True) if counting else None
        except BaseException:
            self.stop()
            raise

    def publish(self, tree, number):
        return self._used(lambda: self.peer.publish(tree, number), self.peer.store) | self.stored()

    def update(self, tree, number):
        host = self.timed
        used = self._used(lambda: self.peer.update(host, number), host.releases)
        same_tree(tree, host.release(number))
        host.newest = number
        used["disk"] = self.removed + measure.size_of(host.folder)
        if self.tight and number > 2:
            self._remove(number - 2)
        return used

    def _remove(self, number):
        gone = self.timed.release(number)
        self.removed += measure.size_of(gone)
        shutil.rmtree(gone)

    def _used(self, work, folder):
        watched = Watched(*self.peer.pids())
        ran = work()
        cpu, peak = ran.cpu + watched.cpu(), max(ran.rss, watched.peak())
        # Apart: peers that sync nothing themselves are shown without and with it.
        synced = run(["sync", "-f", folder])
        return {"wall": ran.wall, "synced": ran.wall + synced.wall, "cpu": cpu, "rss": peak}

    def stored(self):
        return {"apparent": measure.apparent_size_of(self.peer.store), "allocated": measure.size_of(self.peer.store)}

    def count(self, tree, number):
        """Bytes of an update of a host that has the release before."""
        return {"update": self._carried(self.counted, tree, number)}

    def count_cold(self, tree, number):
        """Bytes to a host that has nothing."""
        return self._carried(self.peer.host(f"cold{number}", counted=True), tree, number)

    def _carried(self, host, tree, number):
        host.way.take()
        self.peer.update(host, number)
        carried = host.way.take()
        same_tree(tree, host.release(number))
        if host.newest and not self.peer.links:
            shutil.rmtree(host.before())
        host.newest = number
        return carried

    def after_background(self, trees):
        """The store's size once its own work is done, and the bytes of the last update then; None where there is no such work."""
        if not self.peer.after_background:
            return None
        ran, last = self.peer.after_background(), len(trees)
        host = self.peer.host("after", counted=True)
        self._carried(host, trees[-2], last - 1)
        return self.stored() | {"wall": ran.wall, "cpu": ran.cpu, "update": self._carried(host, trees[-1], last)}

    def stop(self):
        self.peer.stop()
