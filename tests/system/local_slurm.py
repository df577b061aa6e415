"""A real SLURM of one node on this machine, for tests of the job scripts: munged, slurmctld and slurmd.

All that it writes is in one folder, and nothing of a SLURM that the machine may belong to is used.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmt.files import locked
from tests.system.commands import free_port, worker_number

PACKAGES = ["slurmctld", "slurmd", "slurm-client", "munge"]
PROGRAMS = ["munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol"]
ENDS = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
TIMEOUT_SECONDS = 180.0
# A job that begins again sooner has credentials that slurmd takes for those it has just revoked.
REQUEUE_SECONDS = 4.0
# Two processors are promised whatever the machine has: the tests' two tasks take turns on one.
CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
# Jobs' ports follow from their numbers, and each process of pytest starts a SLURM of its own.
FirstJobId={first_job}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MinJobAge=3600
ReturnToService=2
KillWait=60
OverTimeLimit=3
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def install_packages(programs: list[str], packages: list[str]) -> str | None:
    """Install Debian's ``packages`` if ``programs`` are missing; return why that is not possible, or None."""
    if all(shutil.which(program) for program in programs):
        return None
    if os.getuid() != 0 or shutil.which("apt-get") is None:
        return f"not installed, and not root on Debian to install: {' '.join(packages)}"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with locked(Path(tempfile.gettempdir(), "mmt-tests-apt")):  # apt-get refuses to run twice at a time
        for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            done = subprocess.run(["apt-get", "-qq", *command], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        return f"apt-get could not install {' '.join(packages)}: {done.stderr.strip()[-200:]}"
    return None


class LocalSlurm:
    """The running daemons, and the commands that speak to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def ask(self, *command: str | Path, **kwargs: Any) -> str:
        """Run one of SLURM's commands, and return what it prints."""
        words = [str(word) for word in command]
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, **kwargs)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout

    def job(self, number: str) -> dict[str, str]:
        """Return what SLURM knows of a job: JobState, Restarts, ExitCode, Reason ..."""
        words = self.ask("scontrol", "show", "job", number, "--oneliner").split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, number: str, states: tuple[str, ...], begin_again: bool = True) -> dict[str, str]:
        """Wait until a job is in one of ``states``.

        Args:
            number: of the job.
            states: such as COMPLETED.
            begin_again: let a job that was put back into the queue begin at once, not after SLURM's two minutes, and
                have time enough to finish.
        """
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            job = self.job(number)
            is_put_back = job["JobState"] == "PENDING" and int(job["Restarts"]) > 0
            if job["JobState"] in states and (is_put_back or job["JobState"] != "PENDING"):
                return job
            assert job["JobState"] not in ENDS, f"job {number} is {job['JobState']}, not {states}: {job}"
            assert time.monotonic() < deadline, f"job {number} is {job['JobState']}, not {states}: {job}"
            if begin_again and is_put_back:
                time.sleep(REQUEUE_SECONDS)
                self.ask("scontrol", "update", f"JobId={number}", "StartTime=now", "TimeLimit=10")
                begin_again = False
            time.sleep(0.3)

    def wait_until_gone(self, number: str) -> None:
        """Wait until no process of a job is left."""
        _wait_for(lambda: not self.ask("squeue", "--noheader", f"--job={number}").strip(), self.folder)


@contextlib.contextmanager
def local_slurm(folder: Path) -> Iterator[LocalSlurm]:
    """Start the daemons, wait until the node is idle, and stop them at the end."""
    slurm = LocalSlurm(folder)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            folder=folder,
            host=host,
            controller_port=free_port(),
            node_port=free_port(),
            first_job=1 + 100 * worker_number(),
        )
    )
    munge_files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munge.pid"}
    munge_files |= {"log-file": "munge.log", "seed-file": "munge.seed"}
    munged = ["munged", "--foreground", "--force", *(f"--{name}={folder / file}" for name, file in munge_files.items())]
    daemons = []
    try:
        for command in (munged, ["slurmctld", "-D", "-i"], ["slurmd", "-D"]):
            with open(folder / f"{command[0]}.out", "w") as log:
                daemons.append(subprocess.Popen(command, env=slurm.environment, stdout=log, stderr=log))
            _wait_for(lambda: (folder / "munge.socket").exists(), folder)
        _wait_for(lambda: _state(slurm) == "idle", folder)
        yield slurm
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(timeout=60)


def _state(slurm: LocalSlurm) -> str:
    command = ["sinfo", "--noheader", "--format=%t"]
    return subprocess.run(command, env=slurm.environment, capture_output=True, text=True).stdout.strip()


def _wait_for(condition: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        logs = {path.name: path.read_text()[-500:] for path in folder.glob("*.out")}
        assert time.monotonic() < deadline, f"SLURM does not come up: {logs}"
        time.sleep(0.2)
