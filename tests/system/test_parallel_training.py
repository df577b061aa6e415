"""Several processes that share a batch, and a model, end with the weights of one process with the whole of both."""

import functools
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils

import mmt  # noqa: F401  (lets fairseq read checkpoints with shards)
from tests.system.commands import ROUTINGS, launcher, records, run, run_anew, train, train_command, train_together
from tests.system.launched import TIMEOUT_SECONDS

# In the order of their length, batches of one process are those of several side by side, each of another length.
IN_ORDER = ["--curriculum", "100", "--required-batch-size-multiple", "1", "--sampling-method", "concat"]
SENTENCES = 16
# Some gradients, such as those of key biases, are zero but for rounding, and Adam would scale the rounding up.
OPTIONS = [*IN_ORDER, "--max-update", "6", "--disable-validation", "--clip-norm", "0.5", "--adam-eps", "0.001"]
OPTIONS += ["--moe-z-loss-weight", "0.01", "--max-tokens", "100000", "--encoder-layers", "2", "--decoder-layers", "2"]
OPTIONS += ["--moe-freq", "2", "--warmup-updates", "1", "--lr", "0.002"]
EXPERTS, TENSORS = "--expert-parallel-size", "--tensor-parallel-size"
NODES, CHUNKS = "--expert-parallel-node-size", "--expert-parallel-chunks"

# First the forms of Kim et al. 2021, table 1: E expert, D data, T tensor parallelism, ZeRO.
FORMS = {
    "E": (2, [EXPERTS, "2"]),
    "E+D": (4, [EXPERTS, "2"]),
    "E+ZeRO": (2, [EXPERTS, "2", "--zero", "2"]),
    "E+D+T": (4, [EXPERTS, "2", TENSORS, "2"]),
    "E+D+ZeRO": (4, [EXPERTS, "2", "--zero", "2", "--data-parallel-replicas", "2"]),
    "E+ZeRO-Offload+T": (4, [EXPERTS, "2", TENSORS, "2", "--zero", "3", "--cpu-offload"]),
    "D": (2, []),
    "T": (2, [TENSORS, "2"]),
    "ZeRO-1": (2, ["--zero", "1"]),
    "ZeRO-3": (2, ["--zero", "3"]),
    "E of 4": (4, [EXPERTS, "4"]),
    "E+ZeRO of 4": (4, [EXPERTS, "2", "--zero", "3"]),
    "E in chunks+ZeRO": (2, [EXPERTS, "2", CHUNKS, "2", "--zero", "3"]),
    "E of 4 on 2 nodes": (4, [EXPERTS, "4", NODES, "2"]),
}


def batch_options(data_parallel_size: int, update_freq: int) -> list[str]:
    return ["--batch-size", str(SENTENCES // data_parallel_size), "--update-freq", str(update_freq)]


@pytest.fixture(scope="session")
def reference(toy_data: Path, tmp_path_factory: pytest.TempPathFactory):
    """Return a function that trains with one process, once for all tests with the same options."""

    @functools.cache
    def checkpoint(routing: str, update_freq: int, *options: str) -> Path:
        folder = tmp_path_factory.mktemp("one")
        train(toy_data, folder, *ROUTINGS[routing], *OPTIONS, *batch_options(1, update_freq), *options)
        return folder / "checkpoint_last.pt"

    return checkpoint


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))["model"]


def assert_same_weights(found: Path, expected: Path) -> None:
    weights_found, weights_expected = weights(found), weights(expected)
    assert weights_found.keys() == weights_expected.keys()
    for name, weight in weights_expected.items():
        scale = weight.abs().max().item() if weight.is_floating_point() and weight.numel() else 1.0
        torch.testing.assert_close(weights_found[name], weight, rtol=0.0, atol=1e-5 * max(scale, 1e-3), msg=name)


def data_parallel_size(processes: int, options: list[str]) -> int:
    return processes // (int(options[options.index(TENSORS) + 1]) if TENSORS in options else 1)


@pytest.mark.parametrize("update_freq", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_ends_with_the_weights_of_one_process(
    form: str, update_freq: int, reference, toy_data: Path, tmp_path: Path
) -> None:
    processes, options = FORMS[form]
    batches = batch_options(data_parallel_size(processes, options), update_freq)
    # One form of all kinds starts anew: its processes import for themselves, and hash strings each in its own way.
    start = run_anew if (form, update_freq) == ("E+ZeRO-Offload+T", 2) else run
    train_together(processes, toy_data, tmp_path, *ROUTINGS["token_task"], *OPTIONS, *batches, *options, start=start)
    assert_same_weights(tmp_path / "checkpoint_last.pt", reference("token_task", update_freq))


@pytest.mark.parametrize("routing", ["dense", "token", "sentence", "task"])
def test_every_routing_ends_with_the_weights_of_one_process(
    routing: str, reference, toy_data: Path, tmp_path: Path
) -> None:
    options = [] if routing == "dense" else [EXPERTS, "2"]
    train_together(2, toy_data, tmp_path, *ROUTINGS[routing], *OPTIONS, *batch_options(2, 1), *options)
    assert_same_weights(tmp_path / "checkpoint_last.pt", reference(routing, 1))


@pytest.mark.parametrize(
    ("routing", "options"), [("token", [EXPERTS, "2"]), ("sentence", [EXPERTS, "2"]), ("token", [])]
)
def test_the_same_tokens_are_dropped(
    routing: str, options: list[str], reference, toy_data: Path, tmp_path: Path
) -> None:
    capacity = ["--moe-capacity-factor", "1.0", "--moe-drop-policy", "probability"]
    together = train_together(
        2, toy_data, tmp_path, *ROUTINGS[routing], *OPTIONS, *batch_options(2, 1), *options, *capacity
    )
    assert float(records(together, "train_inner")[0]["moe_dropped"]) > 1
    assert_same_weights(tmp_path / "checkpoint_last.pt", reference(routing, 1, *capacity))


def test_the_moving_average_is_that_of_one_process(reference, toy_data: Path, tmp_path: Path) -> None:
    average = ["--store-ema", "--ema-decay", "0.5", "--encoder-normalize-before", "--decoder-normalize-before"]
    train_together(2, toy_data, tmp_path, *ROUTINGS["token"], *OPTIONS, *batch_options(2, 1), *average)
    two, one = (
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
        for path in (tmp_path / "checkpoint_last.pt", reference("token", 1, *average))
    )
    assert two["extra_state"]["ema"].keys() == one["extra_state"]["ema"].keys() == one["model"].keys()
    for name, expected in one["extra_state"]["ema"].items():
        torch.testing.assert_close(two["extra_state"]["ema"][name], expected, rtol=0.0, atol=1e-5, msg=name)
    projection = "decoder.layers.0.fc1.weight"
    assert not torch.equal(one["extra_state"]["ema"][projection], one["model"][projection])


def test_chunks_that_do_not_fit_the_experts_are_refused_in_one_line(toy_data: Path, tmp_path: Path) -> None:
    command = train_command(toy_data, tmp_path, *ROUTINGS["token"], *OPTIONS, EXPERTS, "2", CHUNKS, "3")
    result = run([*launcher(2), *command], timeout=TIMEOUT_SECONDS)
    assert result.returncode != 0
    message = "--expert-parallel-chunks must divide the number of experts of each process (2), but is 3"
    assert f"mmt: error: {message}\n" in result.stderr


# Processes and options, one stage after the other; each goes on from the checkpoint of the one before.
STAGES = [
    (1, []),
    (2, [EXPERTS, "2", "--zero", "1"]),
    (2, []),
    (4, [EXPERTS, "2", TENSORS, "2", "--zero", "3"]),
    (2, [TENSORS, "2"]),
    (2, ["--zero", "2"]),
    (1, []),
]
UPDATES_PER_STAGE = 3
MICRO_BATCHES = 4


def test_a_training_goes_on_with_other_numbers_of_processes_on_another_mesh(toy_data: Path, tmp_path: Path) -> None:
    # A balance loss is one of micro-batches, which differ.
    options = [*ROUTINGS["token_task"], *OPTIONS, "--batch-size", "4", "--moe-balance-loss-weight", "0"]
    options += ["--moe-z-loss-weight", "0", "--max-epoch", "1"]
    total = len(STAGES) * UPDATES_PER_STAGE
    whole = train(toy_data, tmp_path / "whole", *options, "--max-update", total, "--update-freq", MICRO_BATCHES)
    stages = []
    for number, (processes, mesh) in enumerate(STAGES, start=1):
        frequency = MICRO_BATCHES // data_parallel_size(processes, mesh)
        last = ["--max-update", str(number * UPDATES_PER_STAGE), "--update-freq", str(frequency)]
        if processes == 1:
            stages += records(train(toy_data, tmp_path / "stages", *options, *last, *mesh), "train_inner")
        else:
            result = train_together(processes, toy_data, tmp_path / "stages", *options, *last, *mesh)
            stages += records(result, "train_inner")
    expected = records(whole, "train_inner")
    assert [record["num_updates"] for record in stages] == [record["num_updates"] for record in expected]
    for record, one in zip(stages, expected, strict=True):
        # Logged with three digits behind the point, of which the last may be rounded either way.
        assert float(record["loss"]) == pytest.approx(float(one["loss"]), rel=1e-4, abs=0.0015), record
    assert_same_weights(tmp_path / "stages" / "checkpoint_last.pt", tmp_path / "whole" / "checkpoint_last.pt")


@pytest.fixture(scope="module")
def learnt(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt some of the toy task."""
    folder = tmp_path_factory.mktemp("learnt")
    train(toy_data, folder, *ROUTINGS["token_task"], "--max-update", "150", "--disable-validation")
    return folder / "checkpoint_last.pt"


@pytest.mark.parametrize("options", [[TENSORS, "2"], [EXPERTS, "2", "--zero", "3"]], ids=str)
def test_validation_translates_as_one_process_does(
    options: list[str], learnt: Path, toy_data: Path, tmp_path: Path
) -> None:
    """Sentences end after different numbers of steps, and every step needs all processes."""
    validating = [*ROUTINGS["token_task"], "--finetune-from-model", str(learnt), "--max-update", "1", "--lr", "1e-9"]
    validating += ["--eval-bleu", "--valid-sentences-per-direction", "9", "--batch-size-valid", "4"]
    one = train(toy_data, tmp_path / "1", *validating)
    two = train_together(2, toy_data, tmp_path / "2", *validating, *options)
    scores = [
        {name: value for name, value in record.items() if "bleu" in name or "chrf" in name}
        for result in (one, two)
        for record in records(result, "valid")
    ]
    assert scores[0] == scores[1]
    assert float(scores[0]["valid_chrf"]) > 10


def test_experts_that_cannot_be_shared_out_evenly_are_refused_before_training(toy_data: Path, tmp_path: Path) -> None:
    refused = run([*launcher(2), *train_command(toy_data, tmp_path, "--moe-experts", "3", EXPERTS, "2")])
    assert "mmt: error: --expert-parallel-size must divide --moe-experts (3), but is 2; " in refused.stderr
    # The first process to fail; torchrun may have stopped the other by then.
    assert "exitcode  : 2 " in refused.stderr and "RuntimeError" not in refused.stderr
    assert not records(refused, "train_inner")
