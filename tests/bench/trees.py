"""Folders of files: whether two are the same, what one has that another lacks, which file is how old. No file is held in memory."""

import hashlib
import os
import pathlib
import stat

# Small, so that comparing two gigabytes does not grow this process: its peak is the floor of every child's (see measure.run).
PIECE = 1 << 20
# Of files that came with the first release: a whole second, as some peers know nothing finer.
EPOCH = 1_600_000_000


def same_tree(source, copy):
    """Kinds, bytes, link targets and the executable bit of every entry, both ways; ends the program where they differ."""
    left, right = entries(source), entries(copy)
    if left.keys() != right.keys():
        raise SystemExit(f"{copy} has other names than {source}: {sorted(left.keys() ^ right.keys())[:5]}")
    for name, found in left.items():
        if found != right[name]:
            raise SystemExit(f"{name} in {copy} is another kind than in {source}")
        if found[0] == "file" and not same_file(source / name, copy / name):
            raise SystemExit(f"{name} in {copy} has other bytes than in {source}")


def same_file(left, right):
    with open(left, "rb", buffering=0) as one, open(right, "rb", buffering=0) as other:
        while True:
            piece = one.read(PIECE)
            if piece != other.read(PIECE):
                return False
            if not piece:
                return True


def entries(tree):
    found = {}
    for root, folders, files in os.walk(tree):
        for name in folders + files:
            path = pathlib.Path(root, name)
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                kind = ("link", os.readlink(path))
            elif stat.S_ISDIR(mode):
                kind = ("folder",)
            else:
                kind = ("file", bool(mode & 0o100))
            found[str(path.relative_to(tree))] = kind
    return found


def digests(tree):
    """Of every file, by its name below the tree."""
    found = {}
    for name, kind in entries(tree).items():
        if kind[0] == "file":
            with open(tree / name, "rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").digest()
    return found


def size_of_files(tree, names):
    return sum((tree / name).stat().st_size for name in names)


def date_files(tree, found, before, ages, nth):
    """Gives each file the time of the release that brought its bytes, as a build does that leaves alone what is the same.

    Peers that look at times first (rsync, restic, borg, git) are at their best so. Returns the times by name.
    """
    dated = {}
    for name, digest in found.items():
        dated[name] = ages[name] if before.get(name) == digest else EPOCH + nth * 1000
        os.utime(tree / name, (dated[name], dated[name]))
    for root, folders, _ in os.walk(tree):
        for folder in (root, *(os.path.join(root, name) for name in folders)):
            os.utime(folder, (EPOCH, EPOCH), follow_symlinks=False)
    return dated
