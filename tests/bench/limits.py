"""What the machine itself needs: for reading and hashing, for compressing, for writing, for linking."""

import os
import shutil

from measure import run
from peers.peer import TAR, quoted, shell


class Limits:
    name = "the machine's own limit"
    tools = {"b3sum": "b3sum", "zstd": "zstd"}

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True)

    def measure(self, release, tree):
        """Each by the fastest ordinary program, nothing left behind."""
        out, copy = self.folder / "out", self.folder / "copy"
        found = {
            # Every byte, on all processors.
            "hash": shell(f"find {quoted(tree)} -type f -print0 | xargs -0 -P {os.cpu_count()} -n 256 b3sum >/dev/null"),
            "zstd": shell(f"{TAR} -C {quoted(tree)} -cf - . | zstd -q -3 -T1 -o {quoted(out)}"),
        }
        packed = out.stat().st_size
        out.unlink()
        found["write new"] = self._write(out, release.new)
        found["write all"] = self._write(out, release.total)
        found["link"] = run(["cp", "-al", tree, copy])
        shutil.rmtree(copy)
        return {name: {"wall": ran.wall, "cpu": ran.cpu} for name, ran in found.items()} | {"packed": packed}

    def _write(self, out, size):
        ran = run(["dd", "if=/dev/zero", f"of={out}", "bs=1M", "iflag=count_bytes", f"count={size}", "conv=fsync", "status=none"])
        out.unlink()
        return ran

    @classmethod
    def missing(cls):
        return {tool: package for tool, package in cls.tools.items() if not shutil.which(tool)}
