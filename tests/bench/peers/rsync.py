"""rsync --link-dest: trees of hard links on both sides, and its delta of files that changed."""

from measure import run
from peers.peer import Peer


class Rsync(Peer):
    name = "rsync"
    tools = {"rsync": "rsync"}
    links = True

    def tree(self, number):
        return self.store / "releases" / str(number)

    def publish(self, tree, number):
        self.tree(number).mkdir(parents=True)
        linked = [f"--link-dest={self.tree(number - 1)}"] if number > 1 else []
        return run(["rsync", "-a", *linked, f"{tree}/", f"{self.tree(number)}/"])

    def update(self, host, number):
        linked = [f"--link-dest={host.before()}"] if host.before() else []
        # -yy: files of another name in the release before are looked at too, as fingerprinted names change with every build.
        # zstd at 3: fewer bytes than its default, in less time.
        words = ["-a", "-yy", "--compress", "--compress-choice=zstd", "--compress-level=3", "-e", host.way.shell]
        return run(["rsync", *words, *linked, f"store:{self.tree(number)}/", f"{host.release(number)}/"])
