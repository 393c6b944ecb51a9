"""A compressed archive of each release, unpacked whole: what people write in an afternoon."""

from peers.peer import TAR, Peer, quoted, shell


class Tar(Peer):
    name = "tar, zstd -3"
    tools = {"tar": "tar", "zstd": "zstd", "curl": "curl", "nginx": "nginx-light"}
    web = True

    def publish(self, tree, number):
        # -T0: all processors. Level 3 is zstd's own, and the fastest that is worth its bytes.
        return shell(f"{TAR} -C {quoted(tree)} -cf - . | zstd -q -3 -T0 -o {quoted(self.store / f'{number}.tar.zst')}")

    def update(self, host, number):
        release = quoted(host.release(number))
        return shell(f"mkdir {release}", f"curl -sSf {host.way.url}/{number}.tar.zst | zstd -q -dc | tar -C {release} -xf -")
