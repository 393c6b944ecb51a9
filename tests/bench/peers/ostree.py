"""OSTree: files by their digests over HTTP, each compressed by itself; with static deltas, one file for a transition."""

from measure import run
from peers.peer import Peer, quoted, shell


class Ostree(Peer):
    name = "ostree"
    tools = {"ostree": "ostree", "nginx": "nginx-light"}
    web = True
    links = True

    def prepare(self):
        self.repo = self.store / "repo"
        # The mode that is made for serving over HTTP.
        run(["ostree", f"--repo={self.repo}", "init", "--mode=archive"])

    def prepare_host(self, host):
        # No owners and no extended attributes: files of the repository and of trees are the same inodes.
        repo = f"--repo={host.kept / 'repo'}"
        run(["ostree", repo, "init", "--mode=bare-user-only"])
        run(["ostree", repo, "remote", "add", "--no-gpg-verify", "--no-sign-verify", "store", f"{host.way.url}/repo"])

    def publish(self, tree, number):
        ostree = f"ostree --repo={quoted(self.repo)}"
        commit = f"--branch=app --tree=dir={quoted(tree)} --no-xattrs --owner-uid=0 --owner-gid=0 --no-bindings"
        return shell(f"{ostree} commit -s {number} {commit}", *self.after_commit(ostree, number))

    def after_commit(self, ostree, _number):
        return [f"{ostree} summary -u"]

    def update(self, host, number):
        ostree = f"ostree --repo={quoted(host.kept / 'repo')}"
        # -H: hard links or nothing.
        return shell(*self.fetch(host, ostree, number), f"{ostree} checkout -U -H v{number} {quoted(host.release(number))}")

    def fetch(self, _host, ostree, number):
        return [f"{ostree} pull --disable-static-deltas store app", f"{ostree} refs --create=v{number} store:app"]


class OstreeDeltas(Ostree):
    """Each delta is one file, fetched by curl: `ostree pull` takes objects one by one beside a delta that would bring them all."""

    name = "ostree, deltas"
    tools = Ostree.tools | {"curl": "curl"}
    slow = True

    def after_commit(self, ostree, number):
        # From the release before, for hosts that run it, and from nothing, for new ones; no file is left to be fetched by itself.
        made = f"{ostree} static-delta generate --inline --min-fallback-size=0 --to=app --filename={quoted(self.store)}/{number}"
        return [f"{made}-empty --empty", *([f"{made}-next --from=app^"] if number > 1 else [])]

    def fetch(self, host, ostree, number):
        delta = quoted(host.kept / "delta")
        return [
            f"curl -sSf -o {delta} {host.way.url}/{number}-{'next' if host.newest else 'empty'}",
            f"{ostree} static-delta apply-offline {delta}",
            f"{ostree} refs --create=v{number} $(curl -sSf {host.way.url}/repo/refs/heads/app)",
            f"rm {delta}",
        ]
