"""What the stores are given: consecutive releases of real projects, fetched once, and trees that are generated."""

import dataclasses
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import generate
import trees
from fleet import CACHE

VERSIONS = pathlib.Path(__file__).parent / "versions"


@dataclasses.dataclass
class Release:
    """One tree, and what its release changed."""

    version: str
    tree: pathlib.Path
    # Bytes of all files, and of those that the release before does not have anywhere.
    total: int
    new: int


@dataclasses.dataclass(frozen=True)
class Data:
    name: str
    about: str
    # So many releases unless asked for others.
    releases: int
    # (folder, number from 0, scale) -> writes the tree; what must be fetched is there by then.
    write: callable
    # Versions in `versions/NAME`; without them the trees are generated.
    listed: bool = False
    # What its ship.toml says beside the app's name.
    settings: str = ""

    def versions(self, count):
        if not self.listed:
            return [str(nth + 1) for nth in range(count)]
        known = (VERSIONS / self.name).read_text().split()
        if count > len(known):
            raise SystemExit(f"{self.name} has {len(known)} releases in tests/bench/versions, not {count}")
        return known[:count]


def write_streamlit(folder, version, _scale):
    words = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", ".", f"streamlit=={version}"]
    wheel = fetched("wheels", f"streamlit-{version}-*.whl", words)
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder)


def write_next(folder, version, _scale):
    packed = fetched("npm", f"next-{version}.tgz", ["npm", "pack", "--silent", f"next@{version}"])
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")


def fetched(place, pattern, words):
    """The file in the cache, fetched if it is not there yet."""
    folder = CACHE / place
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob(pattern)):
        print(f"fetching: {' '.join(map(str, words))}", flush=True)
        if subprocess.run(words, cwd=folder, stdout=subprocess.DEVNULL, check=False).returncode != 0:
            raise SystemExit(f"{pattern} could not be fetched into {folder}")
    return next(folder.glob(pattern))


def generated(make):
    return lambda folder, version, scale: make(folder, int(version) - 1, scale)


ASSETS = '[[assets]]\nroot = "streamlit/static"\nurl = "/"\n'
ALL = {
    data.name: data
    for data in (
        Data("streamlit", "consecutive wheels from PyPI", 10, write_streamlit, listed=True, settings=ASSETS),
        Data("next", "an npm package with a large built tree, consecutive", 10, write_next, listed=True),
        Data("many", "100,000 small files, 1 % changed", 4, generated(generate.many)),
        Data("large", "one file of 2 GiB, 1 % scattered edits and an insertion near its start", 3, generated(generate.large)),
        Data("tiny", "2 MB with one of everything", 3, generated(generate.tiny)),
    )
}
USUAL = ("streamlit", "next", "many", "large")


def prepare(data, folder, count, scale):
    """The trees below `folder`, oldest first, with times that tell what changed."""
    releases, before, ages = [], {}, {}
    for nth, version in enumerate(data.versions(count or data.releases)):
        tree = folder / version
        tree.mkdir(parents=True)
        data.write(tree, version, scale)
        (tree / "ship.toml").write_text(f'app = "{data.name}"\n{data.settings}')
        found = trees.digests(tree)
        ages = trees.date_files(tree, found, before, ages, nth)
        known = set(before.values())
        new = [name for name, digest in found.items() if digest not in known]
        releases.append(Release(version, tree, trees.size_of_files(tree, found), trees.size_of_files(tree, new)))
        before = found
    return releases


def remove(folder):
    shutil.rmtree(folder, ignore_errors=True)
