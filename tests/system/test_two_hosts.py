"""A training on two hosts: it works, it ends on both when the network between them is cut, and goes on afterwards."""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.system.commands import FOR_EVER, ROUTINGS, free_port, installed, train_command
from tests.system.launched import launched, saved_updates, updates, wait_for_updates, wait_until
from tests.system.local_slurm import install_packages
from tests.system.two_hosts import ADDRESSES, CABLE, Hosts, two_hosts


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    reason = install_packages(["ip", "unshare"], ["iproute2", "util-linux"])
    if reason is None and os.getuid() != 0:
        reason = "only root can make network namespaces"
    if reason is not None:
        pytest.skip(reason)
    with ExitStack() as stack:
        try:
            found = stack.enter_context(two_hosts())
        except OSError as error:
            pytest.skip(f"no network namespaces here: {error}")
        yield found


def start(stack: ExitStack, hosts: Hosts, command: list[str], logs: list[Path]) -> list:
    """Start ``torchrun`` on both hosts."""
    port = str(free_port())
    processes = []
    for host, log in enumerate(logs):
        place = ["--node-rank", str(host), "--master-addr", ADDRESSES[0], "--master-port", port]
        torchrun = [installed("torchrun"), "--nnodes", "2", "--nproc-per-node", "1", *place, *command]
        processes.append(
            stack.enter_context(launched(hosts.command(host, torchrun), log, {"GLOO_SOCKET_IFNAME": CABLE}))
        )
    return processes


def test_a_cut_network_ends_both_sides_and_the_training_goes_on_when_it_is_mended(
    hosts: Hosts, toy_data: Path, tmp_path: Path
) -> None:
    options = [*ROUTINGS["token_task"], "--expert-parallel-size", "2", "--disable-validation"]
    options += ["--heartbeat-timeout", "20", "--save-interval-updates", "10", "--keep-interval-updates", "1"]
    command = train_command(toy_data, tmp_path / "run", *options)
    logs = [tmp_path / "alpha.log", tmp_path / "beta.log"]

    with ExitStack() as stack:
        processes = start(stack, hosts, [*command, *FOR_EVER], logs)
        wait_for_updates(25, logs[0])  # between two saves
        hosts.cut()
        for process, log in zip(processes, logs):
            wait_until(lambda: process.poll() is not None, "the end after the network was cut", log)
            assert process.returncode == 1
    on_alpha, on_beta = (log.read_text() for log in logs)
    assert re.search("mmt: error: process 1 on host beta has given no sign of life .* ends on process 0", on_alpha)
    assert re.search("mmt: error: process 0 on host alpha cannot be reached .* ends on process 1", on_beta)

    hosts.join()
    saved = saved_updates(tmp_path / "run")
    logs = [tmp_path / "alpha2.log", tmp_path / "beta2.log"]
    with ExitStack() as stack:
        for process in start(stack, hosts, [*command, "--max-update", str(saved + 3)], logs):
            wait_until(lambda: process.poll() is not None, "the end", logs[0])
            assert process.returncode == 0
    # The cut may come in the middle of saving, which leaves the checkpoint before that.
    assert saved >= 10 and saved % 10 == 0
    assert updates(logs[0]) == [saved + 1, saved + 2, saved + 3]
