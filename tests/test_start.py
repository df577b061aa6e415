"""What every command waits for before it begins."""

import subprocess
import sys


def test_what_only_several_processes_need_is_not_imported() -> None:
    program = "import sys, mmt, mmt.trainer; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    loaded = set(result.stdout.split())
    assert "torch.distributed" in loaded
    for slow in ("torch.distributed.tensor", "torch.distributed.checkpoint", "torch.distributed.fsdp"):
        assert slow not in loaded
