"""The difference of two releases' tars, by zstd's long-distance matcher: the fewest bytes that a general program makes."""

from peers.peer import TAR, Peer, quoted, shell


class Patch(Peer):
    level = None
    tools = {"tar": "tar", "zstd": "zstd", "curl": "curl", "nginx": "nginx-light"}
    web = True
    # zstd refuses a larger file to patch from.
    most = 2_000_000_000

    def publish(self, tree, number):
        # The publisher keeps the last tar, so that only the new one must be written.
        new, old = quoted(self.aside / "new.tar"), quoted(self.aside / "old.tar")
        out = quoted(self.store / f"{number}.zst")
        # --single-thread: as the program itself advises for patches. With a worker thread, the default, it cuts the input into
        # jobs: 1,177 KB instead of 756 at level 3 on streamlit 1.62 → 1.63, 958 instead of 695 at level 9.
        # --long=31: the window covers both tars.
        coding = f"--patch-from={old} --long=31" if number > 1 else "-T0"
        single = "--single-thread" if number > 1 else ""
        level = self.level if number > 1 else 3
        return shell(
            f"{TAR} -C {quoted(tree)} -cf {new} .",
            f"zstd -q -{level} {single} {coding} -o {out} {new}",
            f"mv {new} {old}",
        )

    def update(self, host, number):
        """A host that is behind takes every patch since; a new one the first archive, too."""
        behind = range((host.newest or 0) + 1, number + 1)
        release, old, new = quoted(host.release(number)), quoted(host.kept / "old.tar"), quoted(host.kept / "new.tar")
        lines = []
        for step in behind:
            patch = quoted(host.kept / "patch.zst")
            lines.append(f"curl -sSf -o {patch} {host.way.url}/{step}.zst")
            lines.append(f"zstd -q -d -f --long=31 {f'--patch-from={old}' if step > 1 else ''} -o {new} {patch}")
            lines.append(f"mv {new} {old}")
        return shell(f"mkdir {release}", *lines, f"tar -C {release} -xf {old}", f"rm {quoted(host.kept / 'patch.zst')}")


class Patch3(Patch):
    name, level = "patch 3", 3


class Patch9(Patch):
    name, level = "patch 9", 9


class Patch19(Patch):
    name, level = "patch 19", 19
    slow = True
