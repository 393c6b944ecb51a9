"""Looking at processes, folders and rows of numbers. Linux only; nothing but the standard library."""

import contextlib
import json
import os
import platform
import signal
import stat
import statistics
import subprocess
import time

TICK = os.sysconf("SC_CLK_TCK")


def stop_in_order():
    """On SIGTERM too, what was started is ended and what was made is taken away."""

    def leave(_signal, _frame):
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, leave)


class Ran:
    """A command that ended: how long it took, what it used and said."""

    def __init__(self, code, wall, usage, out):
        self.code = code
        self.wall = wall
        self.cpu = usage.ru_utime + usage.ru_stime
        # Of the largest process among it and the children it waited for. This process's own peak is the least that it can say:
        # the kernel keeps it across fork and exec.
        self.rss = usage.ru_maxrss * 1024
        self.out = out


def run(words, codes=(0,), **options):
    """Runs to the end. The time is from before the fork until the exit was collected."""
    began = time.monotonic()
    child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    out, err = _drain(child)
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in codes:
        shown = " ".join(str(word) for word in words)
        raise SystemExit(f"{shown} ended with {child.returncode}:\n{out}\n{err}")
    return Ran(child.returncode, wall, usage, out)


def _drain(child):
    # `communicate` would collect the child, and with it the usage that wait4 tells.
    import selectors

    parts = {child.stdout: [], child.stderr: []}
    with selectors.DefaultSelector() as selector:
        for pipe in parts:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                data = os.read(key.fileobj.fileno(), 65536)
                if data:
                    parts[key.fileobj].append(data)
                else:
                    selector.unregister(key.fileobj)
    texts = [b"".join(part).decode(errors="replace") for part in parts.values()]
    child.stdout.close()
    child.stderr.close()
    return texts


def cpu_of(pid):
    """Seconds of CPU that a living process and its ended, collected children used so far; steps of one clock tick."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return sum(int(field) for field in fields[11:15]) / TICK


def forget_peak(pid):
    """From now on, `peak_of` tells the peak since this moment."""
    with open(f"/proc/{pid}/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def peak_of(pid):
    return _field(f"/proc/{pid}/status", "VmHWM:")


def memory_of(pid):
    """Resident bytes, and the process's fair share of them where pages are shared with others."""
    rollup = f"/proc/{pid}/smaps_rollup"
    return {"rss": _field(rollup, "Rss:"), "pss": _field(rollup, "Pss:"), "anonymous": _field(rollup, "Anonymous:")}


def _field(path, name):
    with open(path, encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0


def size_of(folder):
    """Bytes on disk below a folder, a hard-linked file counted once."""
    return sum(found.st_blocks * 512 for found in _inodes(folder))


def apparent_size_of(folder):
    """Bytes of the files below a folder, whatever the disk rounds them up to; a hard-linked file counted once."""
    return sum(found.st_size for found in _inodes(folder) if stat.S_ISREG(found.st_mode))


def _inodes(folder):
    seen = set()
    for root, folders, files in os.walk(folder):
        for name in files + folders:
            try:
                found = os.lstat(os.path.join(root, name))
            except FileNotFoundError:
                # A server lives there.
                continue
            if (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                yield found


_patience = 60.0


@contextlib.contextmanager
def patience(seconds):
    """Within it, whatever names no patience of its own is given up so soon."""
    global _patience
    before, _patience = _patience, seconds
    try:
        yield
    finally:
        _patience = before


def wait_for(what, look, patience=None, pause=0.01):
    """Looks until something is there; the patience only decides when it is given up."""
    patience = _patience if patience is None else patience
    end = time.monotonic() + patience
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise SystemExit(f"waited {patience:.0f} s in vain for {what}")
        time.sleep(pause)


def summary(values):
    values = sorted(values)
    last = len(values) - 1
    return {
        "n": len(values),
        "median": statistics.median(values),
        "min": values[0],
        "p90": values[min(last, round(0.9 * last))],
        "max": values[-1],
    }


def machine():
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return {
        "cpus": os.cpu_count(),
        "model": models[0] if models else platform.machine(),
        "kernel": platform.release(),
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def file_system(folder):
    found = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def say_machine(before, folder):
    now = machine()
    loads = " → ".join("/".join(str(value) for value in state["load"]) for state in (before, now))
    print(f"\n{now['cpus']} × {now['model']}, Linux {now['kernel']}, {file_system(folder)}; load average {loads}")
    return {"before": before, "after": now, "file_system": file_system(folder)}


def table(heads, rows):
    """A Markdown table that also reads well in a terminal."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[nth]) for row in [heads, *rows]) for nth in range(len(heads))]
    line = lambda cells: "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"
    print(line(heads))
    print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    for row in rows:
        print(line(row))


def ms(seconds):
    return f"{seconds * 1000:,.0f} ms" if seconds >= 0.1 else f"{seconds * 1000:.1f} ms"


def mib(count):
    return f"{count / (1 << 20):,.1f} MiB"


def write_json(path, value):
    if path:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
            file.write("\n")
        print(f"written: {path}")
