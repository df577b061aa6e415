"""How processes are laid out, and what cannot be."""

import pytest

from mmt.distributed.mesh import MeshShape, check_exchange, choose_shape
from mmt.errors import UserError


@pytest.mark.parametrize(
    "world_size, options, expected",
    [
        (4, {}, MeshShape(4, 1, 1, 1)),
        (4, {"expert_parallel_size": 2}, MeshShape(2, 1, 2, 1)),
        (4, {"expert_parallel_size": 2, "num_experts": 2}, MeshShape(2, 1, 2, 1)),
        (8, {"expert_parallel_size": 2, "tensor_parallel_size": 2}, MeshShape(2, 1, 2, 2)),
        (8, {"expert_parallel_size": 2, "zero": 3}, MeshShape(1, 4, 2, 1)),
        (16, {"expert_parallel_size": 2, "zero": 1, "data_parallel_replicas": 2}, MeshShape(2, 4, 2, 1)),
    ],
)
def test_processes_that_are_left_over_are_replicas_or_with_zero_shards(
    world_size: int, options: dict[str, int], expected: MeshShape
) -> None:
    shape = choose_shape(world_size, **options)
    assert shape == expected
    assert shape.world_size == world_size


def test_every_process_but_those_of_tensor_parallelism_has_a_batch_of_its_own() -> None:
    assert MeshShape(2, 3, 4, 5).data_parallel_size == 24


@pytest.mark.parametrize(
    "world_size, options, message",
    [
        (4, {"expert_parallel_size": 3}, r"the number of processes \(4\) must be a multiple of .* \(3 x 1\)"),
        (2, {"expert_parallel_size": 2, "num_experts": 0}, "--expert-parallel-size 2 goes with --moe-experts"),
        (8, {"expert_parallel_size": 8, "num_experts": 4}, r"must divide --moe-experts \(4\), but is 8"),
        (4, {"expert_parallel_size": 4, "num_experts": 6}, r"must divide --moe-experts \(6\), but is 4"),
        (4, {"tensor_parallel_size": 0}, "--tensor-parallel-size must be 1 or more, but is 0"),
        (4, {"zero": 4}, "--zero must be 0, 1, 2 or 3, but is 4"),
        (4, {"data_parallel_replicas": 2}, "--data-parallel-replicas goes with --zero"),
        (4, {"zero": 2, "data_parallel_replicas": 3}, "--data-parallel-replicas must divide the 4 .* but is 3"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused_by_name(world_size: int, options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_shape(world_size, **options)


@pytest.mark.parametrize(
    "sizes, message",
    [
        ((4, 3, 1), r"--expert-parallel-node-size must divide --expert-parallel-size \(4\), but is 3"),
        ((1, 2, 1), r"--expert-parallel-node-size must divide --expert-parallel-size \(1\), but is 2"),
        ((1, 1, 2), "--expert-parallel-chunks 2 goes with --expert-parallel-size 2 or more, but that is 1"),
        ((4, 1, 0), "--expert-parallel-chunks must be 1 or more, but is 0"),
    ],
)
def test_ways_for_tokens_that_do_not_fit_are_refused_by_name(sizes: tuple[int, int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_exchange(*sizes)


def test_a_shape_tells_what_is_more_than_one() -> None:
    assert str(MeshShape(1, 4, 2, 1)) == "4 shards x 2 experts"
    assert str(MeshShape(1, 1, 1, 1)) == "1 process"
