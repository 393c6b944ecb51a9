"""Runs a shell line, carries its standard streams and appends to a file how many bytes went both ways.

  relay.py FILE LINE
"""

import fcntl
import os
import subprocess
import sys
import threading


def carry(source, sink, counted):
    try:
        while piece := os.read(source, 1 << 16):
            counted.append(len(piece))
            while piece:
                piece = piece[os.write(sink, piece) :]
    except (BrokenPipeError, ConnectionResetError):
        pass
    finally:
        os.close(sink)


def main():
    file, line = sys.argv[1:]
    counts = open(file, "a", encoding="ascii")
    # Held until the figure is written: who started this may end before.
    fcntl.flock(counts, fcntl.LOCK_SH)
    for stream in (0, 1):
        # rsync's ends do not block, and it has one for both.
        os.set_blocking(stream, True)
    child = subprocess.Popen(["sh", "-c", line], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    up, down = [], []
    # Not waited for: who started this may keep its end open until the child has ended.
    threading.Thread(target=carry, args=(0, os.dup(child.stdin.fileno()), up), daemon=True).start()
    child.stdin.close()
    back = os.dup(1)
    os.close(1)
    carry(child.stdout.fileno(), back, down)
    code = child.wait()
    counts.write(f"{sum(up) + sum(down)}\n")
    counts.flush()
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
