"""casync: content-defined chunks in a folder that is served over HTTP."""

from measure import run
from peers.peer import Peer

# Nothing but names, kinds, bytes and permissions, as everybody here. After `--without=all` it would drop links whatever follows.
KEPT = ("--with=symlinks", "--with=permissions")


class Casync(Peer):
    name = "casync"
    tools = {"casync": "casync", "nginx": "nginx-light"}
    web = True
    links = True

    def publish(self, tree, number):
        # 64 KiB chunks, its default: half of it saves 3 % of the bytes of an update and takes a fifth more on the disk.
        # zstd: with its default, xz, publishing takes ten times as long.
        words = ["--chunk-size=65536", "--compression=zstd", *KEPT]
        return run(["casync", "make", f"--store={self.store / 'chunks.castr'}", *words, self.store / f"{number}.caidx", tree])

    def update(self, host, number):
        # What is in the tree before is not fetched, and linked where a whole file is the same.
        seed = [f"--seed={host.before()}"] if host.before() else []
        words = [f"--store={host.way.url}/chunks.castr", *seed, "--hardlink=yes", *KEPT]
        return run(["casync", "extract", *words, f"{host.way.url}/{number}.caidx", host.release(number)])
