"""The trainer of several processes: what it tells fairseq, and what it saves of it."""

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from mmt.distributed.trainer import STOPPING, ParallelTrainer


def test_what_makes_fairseq_stop_is_not_saved_as_what_the_user_has_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {
        "optimization": {"stop_time_hours": 9.0},
        "dataset": {"validate_after_updates": 3},
        "checkpoint": {"no_last_checkpoints": True},
    }
    trainer = ParallelTrainer.__new__(ParallelTrainer)
    trainer.cfg = OmegaConf.create(chosen)
    trainer.is_stopping, trainer._before_stopping, trainer._num_updates = False, {}, 7
    trainer.stop_request = SimpleNamespace(signal="SIGUSR1")
    monkeypatch.setattr(
        ParallelTrainer.__base__, "state_dict", lambda self: {"cfg": OmegaConf.to_container(self.cfg, resolve=True)}
    )

    assert trainer.state_dict()["cfg"] == chosen
    trainer._stop_if_asked()

    assert {name: trainer.cfg[name[0]][name[1]] for name in STOPPING} == STOPPING
    assert trainer.state_dict()["cfg"] == chosen
