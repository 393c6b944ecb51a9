"""Everybody whom the content is measured beside, and how those are installed that are not there."""

import os
import subprocess

from fleet import CACHE
from peers.bita import Bita
from peers.borg import Borg
from peers.casync import Casync
from peers.git import Git
from peers.ostree import Ostree, OstreeDeltas
from peers.patch import Patch3, Patch9, Patch19
from peers.restic import Restic
from peers.rsync import Rsync
from peers.tar import Tar
from peers.zchunk import Zchunk

ALL = (Tar, Patch3, Patch9, Patch19, Casync, Ostree, OstreeDeltas, Rsync, Restic, Borg, Zchunk, Git, Bita)
BITA = "0.15.0"


def chosen(words):
    """The peers whose names begin with one of the words; all of them where there are no words."""
    for word in words:
        if not any(peer.name.startswith(word) for peer in ALL):
            raise SystemExit(f"no peer is named {word}: {', '.join(peer.name for peer in ALL)}")
    return [peer for peer in ALL if not words or any(peer.name.startswith(word) for word in words)]


def install(wanted):
    """Debian's packages and crates of those that lack something; what cannot be had is told by `absent` afterwards."""
    lacking = {tool: package for peer in wanted for tool, package in peer.missing().items()}
    packages = sorted({package for package in lacking.values() if package})
    if packages and os.geteuid() != 0:
        print(f"only root can install {', '.join(packages)}", flush=True)
    elif packages:
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        for package in packages:
            words = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
            subprocess.run(words, check=False, stdout=subprocess.DEVNULL, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    if "bita" in lacking:
        # Without TLS, which brings a compiler's worth of dependencies and is not used here.
        words = ["--version", BITA, "--locked", "--no-default-features", "--features", "zstd-compression"]
        subprocess.run(["cargo", "install", "bita", *words, "--root", CACHE / "bench/bita"], check=False)


def absent(wanted):
    """What is not measured, and why, in words."""
    return [f"{peer.name} is left out: {', '.join(peer.missing())} is not installed (--install)" for peer in wanted if peer.missing()]
