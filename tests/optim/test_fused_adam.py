"""``fused_adam`` against fairseq's ``adam``."""

import pytest
import torch
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig

from mmt.errors import UserError
from mmt.optim.fused_adam import FusedAdam, parse_betas


def test_updates_equal_those_of_fairseqs_adam_with_weight_decay() -> None:
    torch.manual_seed(1)
    start = torch.randn(6, 4)
    config = FairseqAdamConfig(adam_betas="(0.9, 0.98)", adam_eps=1e-12, weight_decay=0.1, lr=[0.01])
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    optimizers = FusedAdam(config, [ours]), FairseqAdam(config, [theirs])
    for _ in range(5):
        gradient = torch.randn(6, 4)
        for parameter, optimizer in zip((ours, theirs), optimizers):
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_state_survives_saving_and_loading() -> None:
    config = FairseqAdamConfig(adam_betas="(0.9, 0.98)", lr=[0.01])
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = FusedAdam(config, [parameter])
    parameter.grad = torch.ones(3)
    optimizer.step()
    resumed = FusedAdam(config, [torch.nn.Parameter(parameter.detach().clone())])
    resumed.load_state_dict(optimizer.state_dict(), {"lr": 0.5})
    assert resumed.get_lr() == 0.5
    torch.testing.assert_close(
        resumed.optimizer.state[resumed.param_groups[0]["params"][0]]["exp_avg"], torch.full((3,), 0.1)
    )


@pytest.mark.parametrize("text", ["0.9", "(0.9, 1.5)", "(a, b)", "__import__('os').getcwd()"])
def test_betas_that_are_not_two_numbers_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--adam-betas must be two numbers in .* but is"):
        parse_betas(text)


@pytest.mark.parametrize("option", ["use_old_adam", "fp16_adam_stats"])
def test_options_of_fairseqs_own_kernels_are_refused(option: str) -> None:
    with pytest.raises(UserError, match=f"--{option.replace('_', '-')} does not work with --optimizer fused_adam"):
        FusedAdam(FairseqAdamConfig(lr=[0.01], **{option: True}), [torch.nn.Parameter(torch.ones(1))])
