"""restic: content-defined chunks of about 1 MiB in encrypted packs. Its restore fetches the whole tree."""

import json
import os

from measure import run
from peers.peer import Peer

SFTP = "/usr/lib/openssh/sftp-server"


class Restic(Peer):
    name = "restic"
    tools = {"restic": "restic", SFTP: "openssh-sftp-server"}

    def prepare(self):
        self.repo = self.store / "repo"
        self.snapshots = {}
        self.restic(self.aside, "-r", self.repo, "init", "--repository-version", "2")

    @staticmethod
    def restic(cache, *words, **options):
        env = {**os.environ, "RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(cache / "cache")}
        return run(["restic", "-q", *words], env=env, **options)

    def publish(self, tree, number):
        # Of files it knows, size and time decide: a tree that was written anew is not read again.
        words = ["--ignore-inode", "--ignore-ctime", "--compression", "auto", "--host", "build", "--json"]
        ran = self.restic(self.aside, "-r", self.repo, "backup", *words, ".", cwd=tree)
        said = [json.loads(line) for line in ran.out.splitlines()]
        self.snapshots[number] = next(line["snapshot_id"] for line in said if line["message_type"] == "summary")
        return ran

    def update(self, host, number):
        # In place of `ssh HOST -s sftp`.
        sftp = f"sftp.command={host.way.shell} store {SFTP}"
        words = ["-r", f"sftp:store:{self.repo}", "-o", sftp, "restore", self.snapshots[number], "--target", host.release(number)]
        return self.restic(host.kept, *words)

    def after_background(self):
        return self.restic(self.aside, "-r", self.repo, "prune")
