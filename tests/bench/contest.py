"""The rounds on one data set: everybody has the same releases, in turns, each round with new stores and new hosts."""

import contextlib
import os

from fleet import fresh
from limits import Limits
from ship import ShipTurn
from turns import PeerTurn

DROP = "/proc/sys/vm/drop_caches"


class Contest:
    def __init__(self, data, releases, peers, options, folder):
        self.data, self.releases, self.peers, self.options, self.folder = data, releases, peers, options, folder
        # The tree to publish always lies here, as on a build machine: programs that know paths may use what they know.
        self.build = folder / "build"
        self.cold, self.after, self.wire = {}, {}, []

    def hold(self):
        """All that was measured, as plain values."""
        rounds = [self._round(nth, dropped=False) for nth in range(self.options.rounds)]
        if self.options.drop_caches:
            rounds.append(self._round(self.options.rounds, dropped=True))
        told = [{"version": release.version, "total": release.total, "new": release.new} for release in self.releases]
        return {"data": self.data.name, "releases": told, "rounds": rounds, "wire": self.wire, "cold": self.cold, "after": self.after}

    def _round(self, nth, dropped):
        folder = fresh(self.folder / "round")
        with contextlib.ExitStack() as open_turns:
            turns = [open_turns.enter_context(stopping(turn)) for turn in self._turns(nth, folder)]
            limits, steps = Limits(folder / "limits"), []
            for number, release in enumerate(self.releases, 1):
                with self._built(release):
                    order = rotated(turns, nth + number)
                    step = {turn.name: self._step(turn, number, dropped) for turn in order}
                    step["limits"] = limits.measure(release, self.build)
                    if nth == 0:
                        self.wire.append({turn.name: self._alone(lambda turn=turn: turn.count(self.build, number)) for turn in order})
                steps.append(step)
                print(f"  {self.data.name} {release.version}: round {nth + 1}, release {number} of {len(self.releases)}", flush=True)
            if nth == 0:
                self._afterwards(turns)
        fresh(folder)
        return {"caches": "dropped" if dropped else "warm", "steps": steps}

    def _turns(self, nth, folder):
        yield ShipTurn(self.options.binaries, folder / "ship", self.data.name, counting=nth == 0)
        for peer in self.peers:
            if nth == 0 or not peer.slow:
                place = folder / peer.__name__.lower()
                yield PeerTurn(peer, place, counting=nth == 0, tight=self.options.tight)

    def _step(self, turn, number, dropped):
        os.sync()
        published = turn.publish(self.build, number)
        os.sync()
        if dropped:
            with open(DROP, "w", encoding="ascii") as file:
                file.write("3")
        return {"publish": published, "update": turn.update(self.build, number)}

    @staticmethod
    def _alone(work):
        os.sync()
        return work()

    def _afterwards(self, turns):
        """Once all are published: new hosts, and what a store does in its idle time."""
        last = len(self.releases)
        with self._built(self.releases[-1]):
            for turn in turns:
                self.cold[turn.name] = turn.count_cold(self.build, last)
        if last > 1:
            for turn in turns:
                self.after[turn.name] = turn.after_background([release.tree for release in self.releases])

    @contextlib.contextmanager
    def _built(self, release):
        os.rename(release.tree, self.build)
        try:
            yield
        finally:
            os.rename(self.build, release.tree)


@contextlib.contextmanager
def stopping(turn):
    try:
        yield turn
    finally:
        turn.stop()


def rotated(turns, by):
    """Each is first in its turn, and last in another."""
    by %= len(turns)
    return turns[by:] + turns[:by]


