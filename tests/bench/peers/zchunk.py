"""zchunk: a tar in content-defined chunks; a host fetches those by ranges that its last archive lacks."""

from peers.peer import TAR, Peer, quoted, shell


class Zchunk(Peer):
    name = "zchunk"
    tools = {"zck": "zchunk", "zckdl": "zchunk", "unzck": "zchunk", "nginx": "nginx-light"}
    web = True

    def publish(self, tree, number):
        # Its chunker and its level are the program's own; it offers no other level.
        tar = quoted(self.aside / "new.tar")
        return shell(f"{TAR} -C {quoted(tree)} -cf {tar} .", f"zck -o {quoted(self.store / f'{number}.zck')} {tar}")

    def update(self, host, number):
        source = f"-s {host.newest}.zck" if host.newest else ""
        release = quoted(host.release(number))
        # The last archive stays, as the next one's source; those before it go.
        gone = f"rm {host.newest}.zck" if host.newest else "true"
        lines = [f"zckdl -q {source} {host.way.url}/{number}.zck", f"mkdir {release}"]
        return shell(*lines, f"unzck -c {number}.zck | tar -C {release} -xf -", gone, cwd=host.kept)
