"""What is told of one data set: bytes, times, and what the goals are about, each beside the best peer and the machine's limit."""

import measure
from measure import summary

NOT_YET, NONE = "not yet", "–"


class Figures:
    """Medians of what one contest measured."""

    def __init__(self, found):
        self.found, self.last = found, len(found["releases"])
        self.names = list(dict.fromkeys(name for round in found["rounds"] for step in round["steps"] for name in step if name != "limits"))
        self.peers = [name for name in self.names if name != "Ship"]

    def median(self, name, what, key, first=False, caches="warm"):
        """Over the first release, or over those that follow, of all rounds that `name` was in; None without any."""
        values = [
            step[name][what][key]
            for round in self.found["rounds"]
            if round["caches"] == caches
            for step in (round["steps"][:1] if first else round["steps"][1:])
            if name in step
        ]
        return summary(values)["median"] if values else None

    def limit(self, key, first=False):
        steps = [step for round in self.found["rounds"] for step in (round["steps"][:1] if first else round["steps"][1:])]
        values = [step["limits"][key] for step in steps]
        values = [value["wall"] if isinstance(value, dict) else value for value in values]
        return summary(values)["median"] if values else None

    def wire(self, name, first=False):
        steps = self.found["wire"][:1] if first else self.found["wire"][1:]
        values = [step[name]["update"] for step in steps if name in step]
        return summary(values)["median"] if values else None

    def each_update(self, peer):
        """Our bytes in parts of a peer's, for each release after the first."""
        steps = self.found["wire"][1:]
        return [step["Ship"]["update"] / step[peer]["update"] for step in steps if peer in step]

    def stored(self, name, key="apparent", nth=-1):
        steps = self.found["rounds"][0]["steps"]
        return steps[nth][name]["publish"][key] if name in steps[nth] else None

    def grown(self, name):
        """Of each version after the first, on average."""
        return (self.stored(name) - self.stored(name, nth=0)) / (self.last - 1) if self.last > 1 else None

    def after(self, name, what):
        """Once the store's own work is done; a word where there is no such work."""
        after = self.found["after"].get(name)
        if not after:
            return NOT_YET if name == "Ship" else NONE
        return after["update"] if what == "update" else (after["apparent"] - self.stored(name, nth=0)) / (self.last - 1)

    def disk(self, name):
        steps = self.found["rounds"][0]["steps"]
        return steps[-1][name]["update"]["disk"] if name in steps[-1] else None


def mb(value):
    return value if isinstance(value, str) else NONE if value is None else f"{value / 1e6:,.3f}" if value < 1e7 else f"{value / 1e6:,.1f}"


def seconds(value):
    return NONE if value is None else f"{value:,.3f}" if value < 1 else f"{value:,.2f}"


def mib(value):
    return NONE if value is None else f"{value / (1 << 20):,.0f}"


def bytes_table(figures):
    patched = lambda level: figures.wire(f"patch {level}")
    columns = [
        ("cold, first", lambda name: figures.wire(name, first=True), mb, figures.limit("packed", first=True)),
        ("cold, last", lambda name: figures.found["cold"].get(name), mb, figures.limit("packed")),
        ("per update", figures.wire, mb, patched(19)),
        ("… after background", lambda name: figures.after(name, "update"), mb, patched(19)),
        (f"store with {figures.last}", figures.stored, mb, None),
        ("… allocated", lambda name: figures.stored(name, "allocated"), mb, None),
        ("growth a version", figures.grown, mb, patched(19)),
        ("… after background", lambda name: figures.after(name, "grown"), mb, patched(19)),
        (f"host disk with {figures.last}", figures.disk, mb, None),
    ]
    print("\nBytes, in MB (10⁶). Limit: `tar | zstd -3 -T1` for cold ones, patch 19 for updates and growth.\n")
    compare(figures, columns)


def time_table(figures):
    timed = lambda what, key, first=False, caches="warm": lambda name: figures.median(name, what, key, first, caches)
    packing = figures.limit("zstd"), figures.limit("zstd", first=True)
    writing = figures.limit("write new"), figures.limit("write all", first=True)
    columns = []
    for title, first in (("first", True), ("next", False)):
        columns += [
            (f"publish {title}, s", timed("publish", "wall", first), seconds, packing[first]),
            ("CPU s", timed("publish", "cpu", first), seconds, None),
            ("MiB", timed("publish", "rss", first), mib, None),
        ]
    for title, first in (("first", True), ("next", False)):
        columns += [
            (f"update {title}, s", timed("update", "wall", first), seconds, None),
            ("synced, s", timed("update", "synced", first), seconds, writing[first]),
            ("CPU s", timed("update", "cpu", first), seconds, None),
            ("MiB", timed("update", "rss", first), mib, None),
        ]
    if any(round["caches"] == "dropped" for round in figures.found["rounds"]):
        columns.append(("update next, cold caches, synced, s", timed("update", "synced", caches="dropped"), seconds, None))
    print("\nTimes, CPU of all processes, peak of the largest. Limit: `tar | zstd -3 -T1` into a file; write and fsync of the new bytes.\n")
    compare(figures, columns)
    print("\nThe machine, s: " + "; ".join(f"{name} {seconds(figures.limit(name))}" for name in ("hash", "zstd", "write new", "write all", "link")))


def compare(figures, columns):
    """A row for each, then Ship beside the best peer of each column, and beside the limit."""
    rows = [[name, *(show(look(name)) for _, look, show, _ in columns)] for name in figures.names]
    rows.append(["**Ship / best peer**", *(best(figures, look) for _, look, _, _ in columns)])
    rows.append(["**Ship / limit**", *(ratio(look("Ship"), limit) for _, look, _, limit in columns)])
    measure.table(["", *(title for title, _, _, _ in columns)], rows)


def best(figures, look):
    ours, known = look("Ship"), [(look(name), name) for name in figures.peers]
    known = [(value, name) for value, name in known if isinstance(value, int | float)]
    if ours == NOT_YET or not known:
        return NOT_YET if ours == NOT_YET else NONE
    value, name = min(known)
    return f"{ratio(ours, value)} ({name})"


def ratio(ours, other):
    if ours == NOT_YET:
        return NOT_YET
    return f"{ours / other:.2f}" if isinstance(ours, int | float) and other else NONE


def goals_table(figures):
    """What was set as a goal: a figure, what it is measured against, and how far it may go."""
    tar = "tar, zstd -3"
    linking = [figures.disk(name) for name in figures.peers if name in ("rsync", "ostree", "ostree, deltas", "casync")]
    # Bytes of a large file may be a tenth more: there is nothing beside its edits to save.
    slack = "1.1" if figures.found["data"] == "large" else "1.0"
    patched = figures.each_update("patch 3")
    there = lambda name: name in figures.names
    fetched = there(tar) and figures.median(tar, "update", "synced")
    rows = [
        ("bytes per update, after background / patch 19", figures.after("Ship", "update"), figures.wire("patch 19"), "1.1"),
        ("cold bytes / tar, zstd -3 -T1", figures.found["cold"].get("Ship"), figures.limit("packed"), "1.0"),
        ("growth a version, after background / patch 9", figures.after("Ship", "grown"), there("patch 9") and figures.grown("patch 9"), "1.2"),
        ("publish next / tar, zstd -3 -T1", figures.median("Ship", "publish", "wall"), figures.limit("zstd"), "1.0, with the full bundle 1.5"),
        ("update next, synced / fetch, tar --zstd, sync", figures.median("Ship", "update", "synced"), fetched, "0.6"),
        ("stage / cp -al", figures.median("Ship", "update", "stage"), figures.limit("link"), "1.3, of 100,000 files"),
        ("host disk / best linking peer", figures.disk("Ship"), min(filter(None, linking), default=None), "1.0"),
        ("peak MiB / 256, publish next", figures.median("Ship", "publish", "rss"), 256 << 20, "1.0"),
        ("peak MiB / 256, update next", figures.median("Ship", "update", "rss"), 256 << 20, "1.0"),
    ]
    print("\nThe goals.\n")
    moved = f"{summary(patched)['median']:.2f}, at worst {max(patched):.2f}" if patched else NONE
    first = [["bytes per update / patch 3", moved, slack]]
    measure.table(["", "here", "at most"], first + [[title, ratio(ours, other), most] for title, ours, other, most in rows])


def report(found, data):
    figures = Figures(found)
    names = ", ".join(release["version"] for release in found["releases"])
    rounds = sum(round["caches"] == "warm" for round in found["rounds"])
    size = f"{found['releases'][-1]['total'] / 1e6:,.1f} MB"
    print(f"\n## {data.name}: {data.about}\n\n{figures.last} releases ({names}), the last of {size}; medians of {rounds} rounds.")
    bytes_table(figures)
    time_table(figures)
    goals_table(figures)
