"""BorgBackup: content-defined chunks behind `borg serve`. Its extract fetches the whole tree."""

import os

from measure import run
from peers.peer import Peer


class Borg(Peer):
    name = "borg"
    tools = {"borg": "borgbackup"}

    def prepare(self):
        self.repo = self.store / "repo"
        # No encryption: what it would cost is not asked of the others.
        self.borg(self.aside, "init", "-e", "none", self.repo)

    @staticmethod
    def borg(base, *words, **options):
        known = {"BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes", "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes"}
        env = {**os.environ, **known, "BORG_BASE_DIR": str(base), **options.pop("env", {})}
        return run(["borg", *words], env=env, **options)

    def publish(self, tree, number):
        # Its fine chunks, of 64 KiB; with the default of 2 MiB a version of streamlit takes more.
        # Of files it knows, size and time decide, as with restic.
        words = ["--compression", "zstd,3", "--chunker-params", "buzhash,10,23,16,4095", "--files-cache", "mtime,size"]
        plain = ["--noxattrs", "--noacls", "--noflags"]
        return self.borg(self.aside, "create", *words, *plain, f"{self.repo}::{number}", ".", cwd=tree)

    def update(self, host, number):
        host.release(number).mkdir()
        words = ["extract", "--noxattrs", "--noacls", "--noflags", f"ssh://store{self.repo}::{number}"]
        return self.borg(host.kept, *words, cwd=host.release(number), env={"BORG_RSH": str(host.way.shell)})

    def after_background(self):
        return self.borg(self.aside, "compact", self.repo)
