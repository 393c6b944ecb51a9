"""Replaces its workers one after the other at USR1, as Puma does in a phased restart, calls itself and them as Puma does,
and hears no USR1 while it is at that."""
import os
import signal
import socket
import time

PYTHON, HERE = os.path.realpath("/proc/self/exe"), os.path.abspath(__file__)
# From one worker to the next.
BOOT = 1.5


def become(title, role):
    os.environ["ROLE"] = role
    os.execv(PYTHON, [title, HERE])


def main():
    ip, port = os.environ["ADDR"].split(":")
    listener = socket.create_server((ip, int(port)), backlog=128)
    listener.set_inheritable(True)
    own, state = os.getpid(), {"heard": False, "busy": False}

    def spawn(number):
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            become(f"puma: cluster worker {number}: {own} [test]", str(listener.fileno()))
        return pid

    workers = [spawn(number) for number in range(2)]

    def hear(*_):
        state["heard"] = state["heard"] or not state["busy"]

    def leave(*_):
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGUSR1, hear)
    signal.signal(signal.SIGTERM, leave)
    while True:
        time.sleep(0.02)
        if state["heard"]:
            state.update(heard=False, busy=True)
            os.chdir(os.environ["CURRENT"])
            for number, old in enumerate(workers):
                time.sleep(BOOT if number else 0)
                os.kill(old, signal.SIGTERM)
                os.waitpid(old, 0)
                workers[number] = spawn(number)
            state["busy"] = False


def work(listener):
    with open("release", encoding="ascii") as file:
        release = file.read().strip()
    status = "500 Sick" if os.path.exists("broken") else "200 OK"
    head = f"HTTP/1.1 {status}\r\nx-release: {release}\r\ncontent-length: 3\r\nconnection: close\r\n\r\nok\n"
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(head.encode())


ROLE = os.environ.get("ROLE")
if ROLE is None:
    become("puma 0 [test]", "main")
elif ROLE == "main":
    main()
else:
    work(socket.socket(fileno=int(ROLE)))
