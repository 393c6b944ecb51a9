"""Trees that are made and not fetched: the same for the same seed and scale, on every machine."""

import random

SEED = 7
FILES = 100_000
LARGE = 2 << 30
PAGE = 4096
# So much of a large file is made and written at a time.
STRETCH = 8 << 20


def many(folder, nth, scale):
    """100,000 small files of words, of which each release edits, adds and removes 1 % together."""
    count = max(200, int(FILES * scale))
    vocabulary = words()
    for name, version in sorted(names(count, nth).items()):
        path = folder / f"{name % 97:02}" / f"{name % 11}" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text(vocabulary, name, version))


def names(count, nth):
    """Which files the `nth` release has, each with the number of its last edit."""
    dice = random.Random(SEED)
    held = dict.fromkeys(range(count), 0)
    for release in range(1, nth + 1):
        changed = max(3, count // 100)
        touched = dice.sample(sorted(held), changed)
        renewed = changed // 6
        for name in touched[renewed:]:
            held[name] = release
        for place, name in enumerate(touched[:renewed]):
            del held[name]
            held[count * (release + 1) + place] = 0
    return held


def words():
    dice = random.Random(SEED)
    letters = "etaoinshrdlucmfwypvbgkqjxz"
    return ["".join(dice.choices(letters, k=dice.randint(2, 9))) for _ in range(4096)]


def text(vocabulary, name, version):
    """Some 2 KB of lines; an edit replaces one of them."""
    dice = random.Random(name * 1009 + 3)
    lines = [" ".join(dice.choices(vocabulary, k=10)) for _ in range(int(dice.lognormvariate(3, 0.8)) + 1)]
    for edit in range(1, version + 1):
        dice = random.Random(f"{name} {edit}")
        lines[dice.randrange(len(lines))] = " ".join(dice.choices(vocabulary, k=10))
    return "\n".join(lines) + "\n"


def large(folder, nth, scale):
    """One file of random bytes; each release writes anew 1 % of its pages, here and there, and inserts a few bytes near its start."""
    pages = max(64, int(LARGE * scale) // PAGE)
    edited = {}
    for release in range(1, nth + 1):
        for page in random.Random(SEED + release).sample(range(pages), pages // 100 or 1):
            edited[page] = release
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "large.bin", "wb") as file:
        for release in range(nth, 0, -1):
            file.write(random.Random(f"insertion {release}").randbytes(1000))
        for start in range(0, pages, STRETCH // PAGE):
            file.write(stretch(start, min(pages, start + STRETCH // PAGE), edited))


def stretch(start, end, edited):
    made = bytearray(random.Random(f"stretch {start}").randbytes((end - start) * PAGE))
    for page in range(start, end):
        if page in edited:
            at = (page - start) * PAGE
            made[at : at + PAGE] = random.Random(f"page {page} {edited[page]}").randbytes(PAGE)
    return made


def tiny(folder, nth, _scale):
    """2 MB with one of everything that a tree may have, to try each program's way through."""
    many(folder / "files", nth, 0.003)
    large(folder / "data", nth, (1 << 20) / LARGE)
    odd = folder / "odd names"
    odd.mkdir()
    (odd / "run me").write_text("#!/bin/sh\necho here\n")
    (odd / "run me").chmod(0o755)
    (odd / "empty").write_bytes(b"")
    (odd / "Größe").write_text(f"{nth}\n")
    (odd / "link").symlink_to("run me")
    (odd / "up").symlink_to("../files")
