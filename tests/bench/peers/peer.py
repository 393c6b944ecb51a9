"""What every peer is: a store, hosts that are brought from release to release, and how the next release is put into the one and got on the other."""

import shlex
import shutil

from measure import run
from transport import Way, Web

# The same trees give the same tars, whoever reads the folder.
TAR = "tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner"


class Host:
    """Release folders as they are on a server, and what the peer keeps there beside them."""

    def __init__(self, folder, web, counted):
        self.folder, self.kept, self.releases = folder, folder / "kept", folder / "releases"
        self.kept.mkdir(parents=True)
        self.releases.mkdir()
        self.way = Way(folder.with_name(folder.name + ".way"), web, counted)
        # Number of the newest release here.
        self.newest = None

    def release(self, number):
        return self.releases / str(number)

    def before(self):
        """The folder of the newest release here, if there is one."""
        return None if self.newest is None else self.release(self.newest)


class Peer:
    """One program with one set of flags. Subclasses say what is run; every command may use all processors."""

    name = None
    # Programs that must be there, with the Debian packages that bring them.
    tools = {}
    # Reached over HTTP: an nginx stands over the store.
    web = False
    # Unchanged files of two releases on a host are the same blocks of the disk.
    links = False
    # Publishing takes minutes: the first round only.
    slow = False
    # Larger trees than this it cannot do.
    most = None

    def __init__(self, folder):
        self.store, self.aside = folder / "store", folder / "publisher"
        self.store.mkdir(parents=True)
        self.aside.mkdir()
        self.server = Web(folder, self.store) if self.web else None
        self.folder = folder
        self.hosts = []
        self.prepare()

    @classmethod
    def missing(cls):
        return {tool: package for tool, package in cls.tools.items() if not shutil.which(tool)}

    def host(self, name, counted=False):
        host = Host(self.folder / name, self.server, counted)
        self.hosts.append(host)
        self.prepare_host(host)
        return host

    def prepare(self):
        """Makes the empty store."""

    def prepare_host(self, host):
        """Makes what a host needs before its first release."""

    def publish(self, tree, number):
        """Puts a release into the store; returns what ran."""
        raise NotImplementedError

    def update(self, host, number):
        """Brings the release from the store into `host.release(number)`; returns what ran."""
        raise NotImplementedError

    # Or a method without arguments, that does what the program's own manual says should be done to a store from time to time.
    after_background = None

    def pids(self):
        return self.server.pids() if self.server else []

    def stop(self):
        for host in self.hosts:
            host.way.stop()
        if self.server:
            self.server.stop()


def shell(*lines, **options):
    """Runs lines of bash, each of which must succeed; a pipe fails with any of its parts."""
    return run(["bash", "-e", "-o", "pipefail", "-c", "\n".join(lines)], **options)


def quoted(path):
    return shlex.quote(str(path))
