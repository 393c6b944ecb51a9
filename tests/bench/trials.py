"""What tests/bench/restarts tries once beside the restarts: releases that cannot work, warm reverts, the app's own boot."""

import os
import pathlib
import socket
import subprocess
import threading
import time

import measure
from measure import wait_for

# How long users are watched while a release that cannot work is tried.
BAD = 4.0
# What an operator by hand waits for, and a keeper.
PATIENCE = 3.0

# What a release that cannot work has in the place of the app, by the name of its file: what ends at once, and what starts and
# answers 500 to everything, without saying which release it is.
SPOILED = {
    "app.py": {
        "exits": "raise SystemExit('this release cannot start')\n",
        "sick": (
            "async def sick(scope, receive, send):\n"
            "    await send({'type': 'http.response.start', 'status': 500, 'headers': []})\n"
            "    await send({'type': 'http.response.body', 'body': b'sick'})\n\n\n"
            "def app(first, second, *third):\n"
            "    if third:\n"
            "        return sick(first, second, *third)\n"
            "    second('500 Sick', [('content-length', '4')])\n"
            "    return [b'sick']\n"
        ),
    },
    "config.ru": {
        "exits": "abort 'this release cannot start'\n",
        "sick": "run ->(_) { [500, { 'content-length' => '4' }, ['sick']] }\n",
    },
    "app.psgi": {
        "exits": "die 'this release cannot start';\n",
        "sick": "sub { [500, ['Content-Length' => 4], ['sick']] };\n",
    },
    "app.js": {
        "exits": "throw new Error('this release cannot start');\n",
        "sick": (
            "const { PORT } = process.env;\n"
            "require('http').createServer((_, response) => { response.statusCode = 500; response.end('sick'); })\n"
            "  .listen(PORT ? { host: '127.0.0.1', port: Number(PORT) } : { fd: 3 });\n"
        ),
    },
    "site.conf": {
        "exits": "a mistake\n",
        "sick": "server { listen 127.0.0.1:{port}; location / { return 500 'sick'; } }\n",
    },
    "haproxy.cfg": {
        "exits": "a mistake\n",
        "sick": (
            "defaults\n  mode http\n  timeout client 60s\nfrontend web\n  bind 127.0.0.1:{port}\n"
            "  http-request return status 500\n"
        ),
    },
    "beside.cfg": {
        "exits": "a mistake\n",
        "sick": (
            "defaults\n  mode http\n  timeout client 60s\nfrontend web\n  bind fd@3\n"
            "  http-request return status 500\n"
        ),
    },
    # The sample app makes sick releases itself.
    "bin/server": {"exits": "#!/bin/sh\nexit 1\n"},
}
# The numbers of releases that cannot work.
EXITS, SICK = 3, 4
MANNERS = {EXITS: "exits", SICK: "sick"}


def make(subject, number, tree):
    """Makes a release, one that cannot work where its number says so."""
    subject.make(number, tree)
    for name, manners in SPOILED.items():
        text = manners.get(MANNERS.get(number))
        if text is not None and (tree / name).exists():
            # A copy may be a link to the real one.
            (tree / name).unlink()
            (tree / name).write_text(text.replace("{port}", str(subject.port)), encoding="utf-8")
            (tree / name).chmod(0o755)


def bad_releases(server, users):
    """What users saw while each of them was tried; the server is whole again before the next."""
    seen = {}
    for number, manner in MANNERS.items():
        crowd = users()
        began = time.monotonic()
        try:
            with measure.patience(PATIENCE):
                server.try_bad(number)
            time.sleep(max(0.0, began + BAD - time.monotonic()))
        finally:
            seen[manner] = crowd.end()
        server.recover()
    return seen


def warm_revert(server, release_at, times=2):
    """Seconds from the word to the end of the last answer of the release that was taken back, on new connections."""
    found = []
    for _ in range(times):
        server.switch(2, soak_ms=60_000)
        server.outcome()
        with Asking(lambda: release_at(server.subject.port)) as asking:
            asking.until(lambda answers: len(answers) > 20)
            began = time.monotonic()
            server.switch(1)
            asking.until(lambda answers: all(release == "1" for _, release in answers[-30:]))
            last = [when for when, release in asking.answers if release != "1"][-1]
        found.append(max(0.0, last - began))
        server.settle(1)
    return found


class Asking:
    """Two who ask without a pause, on new connections; when each answer ended, and which release it was of."""

    def __init__(self, ask):
        self.ask, self.answers, self.ended = ask, [], False
        self.threads = [threading.Thread(target=self._go, daemon=True) for _ in range(2)]

    def _go(self):
        while not self.ended:
            release = self.ask()
            self.answers.append((time.monotonic(), release))

    def until(self, enough):
        wait_for("enough answers", lambda: enough(self.answers), pause=0.002)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ended = True
        for thread in self.threads:
            thread.join()


def boot(subject, tree, release_at, users, times=2):
    """Seconds from the start of the command, with a listener handed over, to its first answer. None where Ship hands none over.

    The release before serves the same users meanwhile, as it does when a keeper starts the next: both have as much of the
    machine."""
    if subject.strategy() or not subject.boots_by_hand:
        return []
    crowd = users()
    try:
        return [_boot(subject, tree, release_at) for _ in range(times)]
    finally:
        crowd.end()


def _boot(subject, tree, release_at):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        # Whoever takes the socket wants to be the process that it was meant for: the shell becomes it.
        script = f'export LISTEN_PID=$$; exec "$@" 3<&{listener.fileno()}'
        env = {**os.environ, **subject.env(), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http", "PWD": str(tree)}
        # So is Server::Starter's own protocol told, which names the port.
        env = {name: value.replace(str(subject.port), str(port)) for name, value in env.items()}
        env["SHIP_RELEASE"] = pathlib.Path(tree).name.split("-")[0]
        began = time.monotonic()
        child = subprocess.Popen(
            ["/bin/sh", "-c", script, "sh", *subject.command()], cwd=tree, env=env, start_new_session=True,
            pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(f"{subject.name} to boot", lambda: release_at(port), pause=0.002)
            return time.monotonic() - began
        finally:
            subject.kill_session(child)
