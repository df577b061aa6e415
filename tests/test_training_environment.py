"""Environment variables of trainings."""

import json
import subprocess
import sys

from mmt.training_environment import training_environment


def test_what_the_user_has_set_stays() -> None:
    environment = training_environment({"GOMP_SPINCOUNT": "7", "HOME": "/home/me"})

    assert environment["GOMP_SPINCOUNT"] == "7"
    assert environment["HOME"] == "/home/me"
    assert "GLIBC_TUNABLES" in environment
    assert "GOMP_SPINCOUNT" not in training_environment({"OMP_WAIT_POLICY": "passive"})


def test_memory_that_one_step_frees_serves_the_next() -> None:
    # Sixteen tensors of 16 MB: without the settings each step would touch 65,536 fresh pages of 4 kB.
    program = """
import json, resource, torch
faults = []
for step in range(4):
    tensors = [torch.ones(4 * 2**20) for _ in range(16)]
    del tensors
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(json.dumps(faults))
"""
    result = subprocess.run([sys.executable, "-c", program], env=training_environment(), capture_output=True, text=True)

    assert result.returncode == 0, result.stderr
    faults = json.loads(result.stdout)
    assert faults[-1] - faults[1] < 5_000  # of 131,072: the system may have taken some back
