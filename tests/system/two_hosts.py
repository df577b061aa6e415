"""Two hosts on this machine: network namespaces with a name and an address each, joined by a cable that can be cut."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NAMES = ("alpha", "beta")
CABLE = "cable"
ADDRESSES = ("10.99.0.1", "10.99.0.2")


@dataclass(frozen=True)
class Hosts:
    """The names of the two network namespaces."""

    namespaces: tuple[str, str]

    def command(self, host: int, words: list[str]) -> list[str | Path]:
        """Return a command that runs ``words`` on a host, where ``hostname`` is "alpha" or "beta"."""
        rename = 'echo "$1" >/proc/sys/kernel/hostname; shift; exec "$@"'
        of_host = ["ip", "netns", "exec", self.namespaces[host], "unshare", "--uts"]
        return [*of_host, "sh", "-c", rename, "sh", NAMES[host], *words]

    def cut(self) -> None:
        """Pull the cable out, on the first host's side."""
        _ip("-netns", self.namespaces[0], "link", "set", CABLE, "down")

    def join(self) -> None:
        """Put the cable in, on both sides."""
        for namespace in self.namespaces:
            _ip("-netns", namespace, "link", "set", CABLE, "up")


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@contextlib.contextmanager
def two_hosts() -> Iterator[Hosts]:
    """Set up the two hosts, and remove them at the end.

    Raises:
        OSError: if this system does not let us.
    """
    hosts = Hosts((f"{NAMES[0]}-{os.getpid()}", f"{NAMES[1]}-{os.getpid()}"))
    first, second = hosts.namespaces
    try:
        for namespace in hosts.namespaces:
            _ip("netns", "add", namespace)
            _ip("-netns", namespace, "link", "set", "lo", "up")
        _ip("link", "add", CABLE, "netns", first, "type", "veth", "peer", "name", CABLE, "netns", second)
        for namespace, address in zip(hosts.namespaces, ADDRESSES):
            _ip("-netns", namespace, "address", "add", f"{address}/24", "dev", CABLE)
        hosts.join()
        yield hosts
    finally:
        for namespace in hosts.namespaces:
            with contextlib.suppress(OSError):
                _ip("netns", "delete", namespace)
