"""Agents and keepers killed at random instants of promotes and reverts, under load: `restarts --kills N`."""

import json
import os
import random
import signal
import subprocess
import time

import measure
from fleet import Fleet
from measure import run, wait_for

# A promote on one host takes about as long, in seconds.
WITHIN = 1.5


def bench(options, binaries, folder):
    before = measure.machine()
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    dice = random.Random(seed)
    print(f"--seed {seed}", flush=True)
    figures = {"seed": seed}
    fleet = Fleet(binaries, folder / "kills")
    try:
        for number in (1, 2):
            tree = folder / f"tree-{number}"
            run([binaries / "ship-sample", "make", "--out", tree, "--version", str(number), "--listen", "tcp:0"])
            fleet.shipctl("publish", tree)
        fleet.shipctl("promote", "web@1")
        for name, victim in (("agent", Agent(fleet)), ("keeper", Keeper(fleet))):
            figures[name] = kill(options, fleet, victim, dice)
    finally:
        fleet.stop()
    report(figures)
    figures["machine"] = measure.say_machine(before, folder)
    measure.write_json(options.json, figures)


def kill(options, fleet, victim, dice):
    """So many deaths of one kind, with users all the time; half of them on the way back."""
    address = fleet.app("web")["hosts"][0]["listen"]["http"]
    words = ["run", "--json", "--rate", str(options.rate), "--keep-alive-rate", str(options.rate)]
    load = subprocess.Popen(
        [fleet.binaries / "ship-load", *words, "--target", f"http://{address}/"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    times, refused = [], 0
    try:
        for nth in range(options.kills):
            order = ("promote", "web@2", "--force") if nth % 2 == 0 else ("revert", "web")
            shipctl = subprocess.Popen(
                [fleet.binaries / "shipctl", "-c", fleet.context, *order],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            time.sleep(dice.random() * WITHIN)
            old = victim.kill()
            began = time.monotonic()
            wait_for("the next one to have taken over", lambda: victim.is_back(old), pause=0.005)
            times.append(time.monotonic() - began)
            refused += shipctl.wait() != 0
    finally:
        out, _ = load.communicate()
    seen = next(json.loads(line) for line in reversed(out.splitlines()) if '"summary"' in line)
    return {"kills": options.kills, "times": times, "unfinished": refused, "seen": seen}


class Agent:
    def __init__(self, fleet):
        self.fleet = fleet

    def kill(self):
        self.fleet.kill_agent()
        self.fleet.agent = self.fleet._start("ship-agent", ["run", "--config", self.fleet.config], "agent")

    def is_back(self, _):
        """It answers by itself, and knows what runs."""
        status = json.loads(self.fleet.agent_says("status", "-o", "json").out)
        alive = not status["store_error"].startswith("the agent does not run")
        return alive and all(app["healthy"] for app in status["apps"])


class Keeper:
    def __init__(self, fleet):
        self.fleet = fleet

    def kill(self):
        pid = wait_for("the keeper", self._pid)
        os.kill(pid, signal.SIGKILL)
        return pid

    def _pid(self):
        words = [self.fleet.binaries / "ship-keeper", "status", "--run", self.fleet.run_dir / "web"]
        said = run(words, codes=(0, 1))
        return json.loads(said.out)["pid"] if said.code == 0 else None

    def is_back(self, old):
        return self._pid() not in (None, old)


def report(figures):
    heads = ["SIGKILL at random instants of promotes and reverts", "requests failed", "taken over, median / worst"]
    rows = []
    for name in ("agent", "keeper"):
        found = figures[name]
        seen, times = found["seen"], measure.summary(found["times"])
        failed = sum(seen[kind]["failed"] for kind in ("connection", "keep_alive"))
        due = sum(seen[kind]["due"] for kind in ("connection", "keep_alive"))
        worst = measure.ms(max(found["times"]))
        rows.append([f"{name}, {found['kills']}×", f"{failed:,} of {due:,}", f"{measure.ms(times['median'])} / {worst}"])
    print()
    measure.table(heads, rows)
