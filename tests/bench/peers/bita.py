"""bita: a tar in content-defined chunks; a host fetches those by ranges that its last tar lacks."""

import re
import shutil

from fleet import CACHE
from measure import run
from peers.peer import TAR, Peer, quoted, shell

BITA = CACHE / "bench/bita/bin/bita"
TRIES = 50


class Bita(Peer):
    name = "bita"
    tools = {"nginx": "nginx-light"}
    web = True

    @classmethod
    def missing(cls):
        installed = BITA if BITA.exists() else shutil.which("bita")
        return super().missing() | ({} if installed else {"bita": None})

    def prepare(self):
        self.program = BITA if BITA.exists() else shutil.which("bita")
        self.bita = quoted(self.program)

    def publish(self, tree, number):
        """Compresses again where the archive lacks its end: bita 0.15 may exit before its last write. The whole run counts alone."""
        archive = self.store / f"{number}.cba"
        for _ in range(TRIES):
            # brotli at 6 and chunks of 64 KiB, its defaults: with zstd at 3 an update of streamlit takes a tenth more.
            ran = shell(f"{TAR} -C {quoted(tree)} -cf - . | {self.bita} compress -f {quoted(archive)}")
            said = run([self.program, "info", archive]).out
            if int(re.search(r"Archive size: .*\((\d+) bytes\)", said)[1]) == archive.stat().st_size:
                return ran
        raise SystemExit(f"bita left its archive without its end {TRIES} times")

    def update(self, host, number):
        seed = "--seed old.tar" if host.newest else ""
        release = quoted(host.release(number))
        return shell(
            f"{self.bita} clone {seed} --verify-output {host.way.url}/{number}.cba new.tar",
            f"mkdir {release}",
            f"tar -C {release} -xf new.tar",
            "mv new.tar old.tar",
            cwd=host.kept,
        )
