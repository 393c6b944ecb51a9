"""What an operator writes for kind = "hook": takes SHIP_HOST out of a balancer, or puts it back.

    balancer.py drain|ready SOCKET

Here the balancer is an HAProxy that the agent knows nothing of.
"""
import os
import socket
import sys
import time

WORD, SOCKET = sys.argv[1:]
SERVER = f"web/{os.environ['SHIP_HOST']}"


def ask(command):
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(5)
        line.connect(SOCKET)
        line.sendall(command.encode() + b"\n")
        return line.makefile("rb").read().decode()


def tell(state):
    said = ask(f"set server {SERVER} state {state}").strip()
    if said:
        sys.exit(f"HAProxy: {said}")


def under_way():
    head, *rows = ask("show stat web 4 -1").lstrip("# ").splitlines()
    columns = head.split(",")
    rows = (dict(zip(columns, row.split(","))) for row in rows if row)
    return next(int(row["scur"]) for row in rows if row["svname"] == os.environ["SHIP_HOST"])


if WORD == "ready":
    tell("ready")
else:
    tell("drain")
    while under_way():
        time.sleep(0.05)
    tell("maint")
