"""git: blobs and trees, and packs of deltas that the server makes for what a host lacks."""

import os

from measure import run
from peers.peer import Peer, quoted, shell

# No file of the machine's or of the tree's decides anything; nothing is tidied while something is measured.
ENV = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "GIT_SSH_VARIANT": "simple"}
NAMED = "-c user.name=bench -c user.email=bench@localhost -c gc.auto=0 -c maintenance.auto=false"


class Git(Peer):
    name = "git"
    tools = {"git": "git"}

    def prepare(self):
        self.repo = self.store / "repo.git"
        self.bare(self.repo)

    @staticmethod
    def bare(repo):
        run(["git", "init", "-q", "--bare", repo], env={**os.environ, **ENV})
        (repo / "info").mkdir(exist_ok=True)
        (repo / "info/attributes").write_text("* -text -filter -ident -export-subst\n")

    def prepare_host(self, host):
        self.bare(host.kept / "repo.git")

    def publish(self, tree, number):
        # looseCompression=1, the default, spelled out: new files are compressed fast, and well by `git gc` later.
        git = f"git --git-dir={quoted(self.repo)} --work-tree={quoted(tree)} -c core.looseCompression=1 {NAMED}"
        return shell(f"{git} add -A -f .", f"{git} commit -q -m {number}", f"{git} tag {number}", cwd=tree, env={**os.environ, **ENV})

    def update(self, host, number):
        repo, index, release = host.kept / "repo.git", host.kept / "index", host.release(number)
        # --depth=1: a new host takes no history. unpackLimit: what came stays one pack.
        git = f"git --git-dir={quoted(repo)} -c fetch.unpackLimit=1 {NAMED}"
        return shell(
            f"{git} fetch -q --depth=1 --no-tags store:{quoted(self.repo)} refs/tags/{number}:refs/tags/{number}",
            f"mkdir {quoted(release)}",
            f"{git} -c checkout.workers=0 --work-tree={quoted(release)} checkout -q -f {number} -- .",
            f"rm {quoted(index)}",
            env={**os.environ, **ENV, "GIT_SSH_COMMAND": quoted(host.way.shell), "GIT_INDEX_FILE": str(index)},
        )

    def after_background(self):
        return run(["git", f"--git-dir={self.repo}", "gc", "-q"], env={**os.environ, **ENV})
