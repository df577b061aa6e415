#!/usr/bin/env python3
"""Submit the training of a recipe to SLURM by means of submitit. When the job's time is over, or it has to give way to
others, it saves and goes back into the queue, until the training is finished.

    python scripts/submit.py software50 preset=full run=gpu task.expert_parallel_size=8 --hours 24 \
        'optimization.update_freq=[1]' dataset.max_tokens=8192

It needs: pip install -e '.[slurm]'.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import zlib

# SLURM signals all processes of a task: submitit, which asks to be put back, and the training, which saves.
os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"
try:
    import submitit
except ImportError:
    sys.exit("submit.py needs submitit: pip install -e '.[slurm]'")

SAVED = 75
MAX_RESTARTS = 10_000


class Training:
    """What each task of the job does: start one process of the training, and wait for it to end well."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments
        self.process_id: int | None = None

    def __call__(self) -> None:
        job = submitit.JobEnvironment()
        place: dict[str, object] = {"RANK": job.global_rank, "LOCAL_RANK": job.local_rank, "WORLD_SIZE": job.num_tasks}
        place |= {"MASTER_ADDR": job.hostnames[0], "MASTER_PORT": 20000 + zlib.crc32(job.job_id.encode()) % 12000}
        environment = {**os.environ, **{name: str(value) for name, value in place.items()}}
        environment.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        # A signal that comes before the training is ready to save waits until it is.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        command = [sys.executable, "-m", "mmt.cli.main", "train", *self.arguments]
        self.process_id = subprocess.Popen(command, env=environment).pid
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        status = self._wait()
        if status not in (0, SAVED):
            raise RuntimeError(f"process {job.global_rank} of the training ended with {status}")

    def _wait(self) -> int:
        """Return the exit code (or signal); a signal's handler may call this while it is already waiting."""
        assert self.process_id is not None
        return os.waitid(os.P_PID, self.process_id, os.WEXITED | os.WNOWAIT).si_status  # type: ignore[union-attr]

    def checkpoint(self) -> submitit.helpers.DelayedSubmission | None:
        """Let the training save, and return what to do when the job begins again; submitit calls this in one task."""
        if self.process_id is not None:
            os.kill(self.process_id, signal.SIGUSR1)  # which it may have had from SLURM: that is one request
            if self._wait() != SAVED:
                return None
        return submitit.helpers.DelayedSubmission(Training(self.arguments))


def main() -> None:
    """Submit, and say where to look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arguments", nargs="+", metavar="RECIPE key=value", help="what follows `mmt train`")
    for name, default, text in (
        ("--nodes", 1, "number of machines"),
        ("--tasks-per-node", 8, "processes on each, one per GPU"),
        ("--gpus-per-node", 8, "0 trains on CPUs"),
        ("--cpus-per-task", 8, "for the loading of data, and for all work without GPUs"),
        ("--save-seconds", 120, "how long before the end of its time the job is told to save"),
    ):
        parser.add_argument(name, type=int, default=default, metavar="N", help=f"{text} ({default})")
    parser.add_argument("--hours", type=float, default=24, help="time of the job before it is put back (24)")
    parser.add_argument("--partition", help="(SLURM's default)")
    parser.add_argument("--logs", default="runs/slurm/%j", help="folder of the logs, %%j is the job (runs/slurm/%%j)")
    parser.add_argument("--dry-run", action="store_true", help="print the job's parameters, submit nothing")
    options = parser.parse_intermixed_args()
    sizes = ("nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task")
    parameters = {name: getattr(options, name) for name in sizes}
    parameters |= {"name": "mmt-train", "timeout_min": max(1, round(60 * options.hours))}
    parameters |= {"slurm_signal_delay_s": options.save_seconds}
    # srun takes over what a job has but for the processors of a task (since SLURM 22.05).
    srun_arguments = ["--kill-on-bad-exit=0", "--wait=60", f"--cpus-per-task={options.cpus_per_task}"]
    parameters |= {"slurm_srun_args": srun_arguments}
    if options.partition:
        parameters["slurm_partition"] = options.partition
    if options.dry_run:
        print(*(f"{name}={value}" for name, value in parameters.items()), sep="\n")
        print(shlex.join(["mmt", "train", *options.arguments]))
        return
    executor = submitit.AutoExecutor(options.logs, cluster="slurm", slurm_max_num_timeout=MAX_RESTARTS)
    executor.update_parameters(**parameters)
    job = executor.submit(Training(options.arguments))
    print(f"job {job.job_id}, logs in {job.paths.folder}")


if __name__ == "__main__":
    main()
