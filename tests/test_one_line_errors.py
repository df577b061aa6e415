"""Mistakes of a user are one line, whichever process they were found in."""

import subprocess
import sys

import pytest
import torch.multiprocessing as mp
from torch.multiprocessing import ProcessRaisedException

from mmt.errors import NotWritten, UserError
from mmt.one_line_errors import SAID_BY_FAIRSEQ, as_user_error


def test_user_errors_end_a_command_with_one_line_and_exit_code_2() -> None:
    code = "import mmt; from mmt.errors import UserError; raise UserError('--lang-pairs: nothing')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == "mmt: error: --lang-pairs: nothing"
    assert "Traceback" not in result.stderr


def _fail(rank: int, is_ours: bool) -> None:
    try:
        raise OSError("no room")
    except OSError as error:
        raise (NotWritten("checkpoint a.pt: no room") if is_ours else RuntimeError("a fault")) from error


@pytest.mark.parametrize("is_ours", [True, False])
def test_the_error_of_a_process_that_fairseq_starts_for_a_gpu_is_found_in_its_traceback(is_ours: bool) -> None:
    with pytest.raises(ProcessRaisedException) as raised:
        mp.spawn(_fail, args=(is_ours,), nprocs=1)
    found = as_user_error(raised.value)
    assert (str(found), type(found)) == (("checkpoint a.pt: no room", NotWritten) if is_ours else ("None", type(None)))


def test_what_fairseq_says_well_needs_no_traceback() -> None:
    assert isinstance(as_user_error(AssertionError(SAID_BY_FAIRSEQ[0])), UserError)
    assert as_user_error(AssertionError("a fault")) is None
