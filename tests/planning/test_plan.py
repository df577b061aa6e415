"""Which meshes fit, how large a model can be, and that more of a thing is never less."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from mmt.distributed.mesh import MeshShape
from mmt.errors import UserError
from mmt.models.architectures import ARCHITECTURES
from mmt.models.config import MoETransformerConfig
from mmt.planning.activations import Batch
from mmt.planning.cluster import GIB, Cluster, names, read_cluster
from mmt.planning.from_recipe import from_recipe, own_layout
from mmt.planning.largest import Largest, more_experts, wider
from mmt.planning.model import PlannedModel, plan_model
from mmt.planning.plan import fits, judge, layouts, plans
from mmt.planning.rank_memory import Layout, rank_memory
from mmt.planning.scaling import scale
from mmt.planning.step_time import forward_flops, ring_speed, step_time
from tests.planning.models import SMALL

BATCH = Batch(128, 32, 32)
REPOSITORY = Path(__file__).resolve().parents[2]


def architecture(name: str = "moe_transformer_zcode_64e", **options: Any) -> PlannedModel:
    """Lay out a named architecture with 128,000 words."""
    return plan_model(MoETransformerConfig(**{**ARCHITECTURES[name], **options}), 128_000)


@pytest.fixture(scope="module")
def zcode() -> PlannedModel:
    return architecture()


@pytest.fixture(scope="module")
def a100x512() -> Cluster:
    return read_cluster("a100x512")


def test_every_shipped_cluster_can_be_read() -> None:
    assert {"t4", "a100x8", "a100x512", "h100x64"} <= set(names())
    assert [read_cluster(name).name for name in names()] == names()


def test_another_number_of_experts_is_the_model_that_would_be_built(zcode: PlannedModel) -> None:
    assert zcode.with_experts(32).parameters == architecture("moe_transformer_zcode_32e").parameters


@pytest.mark.parametrize("run", ["a100x8", "h100x64", "a100x512"])
def test_zcode50_has_the_named_size_and_fits_its_cluster(run: str) -> None:
    subject = from_recipe("zcode50", [f"run={run}"], vocabulary=128_000)
    cluster = read_cluster(run)
    batch = Batch(subject.tokens // 32, 32, 32)
    assert subject.parallel is not None

    own = judge(subject.model, own_layout(subject.parallel, cluster.num_gpus), batch, cluster)

    assert round(subject.model.num_parameters / 1e9, 2) == 10.15
    assert subject.model.cfg.moe_experts == 64
    assert own.fits and own.memory.gpu < 0.95 * cluster.usable_gpu_bytes


def test_10_billion_parameters_do_not_fit_one_gpu(zcode: PlannedModel) -> None:
    assert not any(plan.fits for plan in plans(zcode, BATCH, read_cluster("t4")))


def test_plans_that_fit_come_first_and_fast_ones_before_slow_ones(zcode: PlannedModel) -> None:
    found = plans(zcode, BATCH, read_cluster("a100x8"))
    fitting = [plan for plan in found if plan.fits]

    assert 0 < len(fitting) < len(found)
    assert found[: len(fitting)] == fitting
    assert [plan.words_per_s for plan in fitting] == sorted((plan.words_per_s for plan in fitting), reverse=True)
    # ZeRO-2 and 3 would be as fast here, but send more.
    assert fitting[0].layout.zero == 1


@pytest.mark.parametrize(
    ("overrides", "languages"), [(["preset=sample"], 4), ([], 50)], ids=["of a preset", "of the table"]
)
def test_languages_are_those_of_the_data_that_the_recipe_asks_for(
    overrides: list[str], languages: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where nothing is prepared
    recipe = REPOSITORY / "recipes" / ("demo" if overrides else "software50")

    assert from_recipe(str(recipe), overrides, vocabulary=1_000).model.languages == languages

    data = tmp_path / "bin"
    data.mkdir()
    (data / "lang_list.txt").write_text("en\nde\nru\n")
    assert from_recipe(str(recipe), [*overrides, f"task.data={data}"], vocabulary=1_000).model.languages == 2


def test_all_layouts_use_all_gpus_and_split_nothing_unevenly(zcode: PlannedModel, a100x512: Cluster) -> None:
    found = list(layouts(zcode, a100x512))

    assert len(found) == len(set(found))
    for layout in found:
        assert layout.mesh.world_size == 512
        assert zcode.cfg.moe_experts % layout.mesh.experts == 0
        assert zcode.cfg.encoder.attention_heads % layout.mesh.tensors == 0
        assert not layout.offload or layout.zero > 0


@pytest.mark.parametrize("mesh", [MeshShape(1, 2, 4, 1), MeshShape(1, 1, 8, 1)], ids=str)
def test_offload_takes_all_states_to_the_host(mesh: MeshShape, zcode: PlannedModel) -> None:
    memory = rank_memory(zcode, Layout(mesh, 3, offload=True), BATCH)

    assert memory.parameters == memory.gradients == memory.optimizer == 0
    assert memory.host * 8 == pytest.approx(16 * zcode.num_parameters, rel=0.001)


def test_whole_gradients_are_held_where_they_are_added_up_over_micro_batches(zcode: PlannedModel) -> None:
    def gathered(zero: int, update_freq: int) -> int:
        return rank_memory(zcode, Layout(MeshShape(1, 2, 4, 1), zero), BATCH, update_freq=update_freq).gathered

    assert gathered(1, 4) > gathered(1, 1) == gathered(2, 1) == gathered(2, 4)


def by_way(found: list[Largest]) -> dict[str, Largest]:
    return {largest.way: largest for largest in found}


@pytest.mark.parametrize("grow", [more_experts, wider])
def test_512_a100_hold_over_three_and_a_half_trillion_parameters_with_host_memory(
    grow: Any, a100x512: Cluster
) -> None:
    """As Kim et al. 2021 are said to; without host memory the answer depends on what grows."""
    found = by_way(grow(architecture(checkpoint_activations=True), BATCH, a100x512))
    alone, with_host = found["GPUs, whole dense part on each"], found["GPUs and hosts, ZeRO-3"]
    assert alone.model is not None and with_host.model is not None and with_host.memory is not None

    assert 3.5e12 < with_host.model.num_parameters < 4e12
    assert 0.2e12 < alone.model.num_parameters < 0.8e12
    # 16 bytes for each parameter, held once.
    assert with_host.memory.host * 512 / with_host.model.num_parameters == pytest.approx(16, rel=0.01)
    assert with_host.memory.host < a100x512.usable_host_bytes


def test_with_one_expert_per_gpu_host_memory_makes_the_dense_part_ten_times_larger(a100x512: Cluster) -> None:
    """Kim et al. 2021 are said to name 1.4B without, and 15B with host memory."""
    found = by_way(wider(architecture(checkpoint_activations=True), BATCH, a100x512))

    def dense(way: str) -> float:
        model = found[way].model
        assert model is not None
        return sum(parameter.num_elements for parameter in model.dense) / 1e9

    assert dense("GPUs, whole dense part on each") == pytest.approx(1.4, rel=0.1)
    assert dense("GPUs and hosts, ZeRO-3") > 15


def test_the_largest_model_is_the_largest(a100x512: Cluster) -> None:
    for largest in more_experts(architecture(checkpoint_activations=True), BATCH, a100x512):
        assert largest.model is not None and largest.memory is not None
        more = largest.model.with_experts(largest.model.cfg.moe_experts + largest.layout.mesh.experts)
        memory = rank_memory(more, largest.layout, BATCH)
        if "not copied" in largest.way:
            memory = dataclasses.replace(memory, gathered=0)
        assert fits(largest.memory, a100x512) and not fits(memory, a100x512)


def test_the_largest_model_of_one_gpu_has_as_many_experts_as_a_token_chooses() -> None:
    model, cluster = architecture("moe_transformer_base_32e", checkpoint_activations=True), read_cluster("t4")  # top-2
    [largest] = wider(model, BATCH, cluster)
    assert largest.model is not None and largest.model.cfg.moe_experts == 2

    one_expert = rank_memory(model.with_experts(1), Layout(MeshShape(1, 1, 1, 1)), BATCH).gpu / GIB
    small = dataclasses.replace(cluster, gpu_memory_gib=cluster.reserved_gib + one_expert + 0.001)
    [largest] = more_experts(model, BATCH, small)
    assert largest.model is None


@pytest.mark.parametrize("grow", [more_experts, wider])
def test_the_largest_model_fits_in_the_precision_of_the_training(
    grow: Any, zcode: PlannedModel, a100x512: Cluster
) -> None:
    for largest in grow(zcode, BATCH, a100x512, bf16=False):
        if largest.model is not None and largest.memory is not None:
            in_32_bits = rank_memory(largest.model, largest.layout, BATCH, bf16=False)
            assert largest.memory.work == in_32_bits.work > rank_memory(largest.model, largest.layout, BATCH).work


def test_the_operations_of_a_small_model_are_those_worked_out_by_hand() -> None:
    # Width 64, hidden 256, 2 + 2 layers, 1,000 words; 10 sentences of 12 and 14 tokens. By token of the encoder:
    # attention 8*64*64 + 4*12*64 = 35,840 a layer, feed-forward 4*64*256 = 65,536, the router 2*64*4 = 512 once.
    encoder = 120 * (2 * (35_840 + 65_536) + 512)
    # Decoder: attention to itself 8*64*64 + 4*14*64 = 36,352, to the encoder 4*64*64 + 4*12*64 = 19,456.
    decoder = 140 * (2 * (36_352 + 19_456 + 65_536) + 512) + 2 * 120 * 4 * 64 * 64
    model = plan_model(MoETransformerConfig(**SMALL), 1_000)

    assert forward_flops(model.cfg, 1_000, Batch(10, 12, 14)) == encoder + decoder + 140 * 2 * 64 * 1_000


def test_all_to_all_sends_what_leaves_the_process(zcode: PlannedModel, a100x512: Cluster) -> None:
    # 18 layers x 4,096 rows x 1,024 x 2 bytes, there and back, forward and backward, 7 of 8 to others.
    layout = Layout(MeshShape(64, 1, 8, 1))

    assert step_time(zcode, layout, BATCH, a100x512).all_to_all_bytes == 18 * 4096 * 1024 * 2 * 4 * 7 // 8


def test_groups_within_a_node_are_faster_than_groups_across_nodes(a100x512: Cluster) -> None:
    assert ring_speed(a100x512, 8, 1) == 250e9
    assert ring_speed(a100x512, 64, 8) == 22e9  # one member on each node
    assert ring_speed(a100x512, 512, 1) == 8 * 22e9  # eight, each with its own port


def test_speed_grows_with_the_number_of_gpus_but_not_faster(zcode: PlannedModel) -> None:
    found = scale(zcode, BATCH, read_cluster("a100x8"), bf16=True, update_freq=1, most=64)
    speeds = [plan.words_per_s for plan in found.values() if plan is not None]

    assert list(found) == [8, 16, 32, 64]
    assert all(slow < fast <= 2.2 * slow for slow, fast in zip(speeds, speeds[1:]))


def test_checkpointed_activations_need_less_memory_and_more_time(zcode: PlannedModel) -> None:
    cluster, layout = read_cluster("a100x8"), Layout(MeshShape(1, 1, 8, 1), 2)
    plain = judge(zcode, layout, BATCH, cluster)
    checkpointed = judge(architecture(checkpoint_activations=True), layout, BATCH, cluster)

    assert checkpointed.memory.gpu < plain.memory.gpu
    assert checkpointed.time.total > plain.time.total


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": 0}, "nodes must be a whole number above 0, but is 0"),
        ({"nods": 1}, "unknown 'nods'"),
        ({"teraflops": "many"}, "teraflops must be a number above 0, but is 'many'"),
    ],
)
def test_a_mistake_in_a_cluster_file_is_named(change: dict[str, Any], message: str, tmp_path: Any) -> None:
    values = {**dataclasses.asdict(read_cluster("t4")), **change}
    (tmp_path / "mine.yaml").write_text("".join(f"{key}: {value!r}\n" for key, value in values.items()))

    with pytest.raises(UserError, match=message):
        read_cluster(str(tmp_path / "mine.yaml"))


def test_memory_is_in_bytes() -> None:
    assert read_cluster("a100x8").usable_gpu_bytes == 37 * GIB
