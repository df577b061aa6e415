"""The whole model: what its output may and may not depend on."""

from pathlib import Path

import pytest
import torch
from fairseq.models.transformer import TransformerConfig, TransformerModelBase

from mmt.errors import UserError
from mmt.models import build_moe
from mmt.models.config import MoETransformerConfig, nested_config
from mmt.models.moe_transformer import MoETransformerModel
from mmt.modules.router import TokenRouter
from mmt.tasks.config import MultilingualMoETranslationConfig
from mmt.tasks.multilingual_moe_translation import MultilingualMoETranslationTask
from tests.models.tiny import TINY, batch, tiny_model, tiny_task

ROUTINGS = ["token", "sentence", "task"]
SOURCES, TARGETS = [[5, 6, 7, 8], [9, 10]], [[11, 12, 13], [14, 15, 16]]


def moe(routing: str, **options):
    """Build a model with experts in every layer, so that one layer of them could tell the next what it must not."""
    routings = {"encoder_routing": routing, "decoder_routing": routing}
    return tiny_model(**{"moe_experts": 4, "moe_freq": 1, **routings, **options}).eval()


def test_with_no_experts_it_is_fairseqs_transformer_and_exchanges_checkpoints_with_it() -> None:
    ours = tiny_model(moe_experts=0).eval()
    theirs = TransformerModelBase.build_model(nested_config(MoETransformerConfig(**TINY)), tiny_task()).eval()
    assert isinstance(nested_config(MoETransformerConfig(**TINY)), TransformerConfig)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(ours.state_dict())
    sample = batch(SOURCES, TARGETS)
    expected, _ = theirs(sample["src_tokens"], sample["src_lengths"], sample["prev_output_tokens"])
    torch.testing.assert_close(ours(**sample)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_more_padding_and_other_sentences_change_no_real_token(routing: str) -> None:
    model = moe(routing)
    together, _ = model(**batch(SOURCES, TARGETS))
    for row, (source, target) in enumerate(zip(SOURCES, TARGETS)):
        alone, _ = model(**batch([source], [target]))
        torch.testing.assert_close(together[row, : len(target) + 1], alone[0], rtol=1e-4, atol=1e-5)
    longer, _ = model(**batch([*SOURCES, [4] * 12], [*TARGETS, [4] * 9]))
    torch.testing.assert_close(longer[:2, :4], together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("moe_freq", "tolerance"),
    # Up to rounding where experts follow experts: later tokens change how many rows an expert's product has.
    [(2, {"rtol": 0, "atol": 0}), (1, {"rtol": 1e-5, "atol": 1e-6})],
    ids=["in the last layer", "in every layer"],
)
@pytest.mark.parametrize("routing", ROUTINGS)
def test_a_later_target_token_changes_no_earlier_logit(routing: str, moe_freq: int, tolerance: dict) -> None:
    model = moe(routing, moe_freq=moe_freq)
    before, _ = model(**batch([SOURCES[0]], [[11, 12, 13, 14]]))
    after, _ = model(**batch([SOURCES[0]], [[11, 12, 17, 18]]))
    torch.testing.assert_close(after[:, :3], before[:, :3], **tolerance)
    assert (after[:, 3:] - before[:, 3:]).abs().max() > 1e-2


@pytest.mark.parametrize("routing", ROUTINGS)
def test_incremental_decoding_gives_the_logits_of_the_full_forward_pass(routing: str) -> None:
    model = moe(routing)
    sample = batch(SOURCES, TARGETS)
    expected, _ = model(**sample)
    inputs = {key: value for key, value in sample.items() if key != "prev_output_tokens"}
    encoder_out = model.encoder(**inputs)
    state: dict = {}
    for step in range(1, sample["prev_output_tokens"].size(1) + 1):
        logits, _ = model.decoder(
            sample["prev_output_tokens"][:, :step], encoder_out=encoder_out, incremental_state=state
        )
        torch.testing.assert_close(logits[:, -1], expected[:, step - 1], rtol=1e-4, atol=1e-5)


def test_task_routing_uses_the_experts_of_the_task_whatever_the_text() -> None:
    model = moe("task")
    statistics = [
        model(**batch(sources, targets, target_language=language))[1]["routing_statistics"]
        for sources, targets, language in ((SOURCES, TARGETS, 1), ([[4, 4, 4]], [[19, 3]], 1), (SOURCES, TARGETS, 2))
    ]
    chosen = [
        {layer: layer_statistics.tokens_per_expert_E > 0 for layer, layer_statistics in each.items()}
        for each in statistics
    ]
    assert set(chosen[0]) == {"encoder.0", "encoder.1", "decoder.0", "decoder.1"}
    for layer in chosen[0]:
        assert torch.equal(chosen[0][layer], chosen[1][layer])
        assert chosen[0][layer].sum() == 2  # top-2 of one task
    assert any(not torch.equal(chosen[0][layer], chosen[2][layer]) for layer in chosen[0])


@pytest.mark.parametrize("normalize_before", [False, True], ids=["post-norm", "pre-norm"])
@pytest.mark.parametrize("routing", ["token", "sentence", "task"])
def test_a_model_of_one_expert_is_the_dense_model(routing: str, normalize_before: bool) -> None:
    norms = {"encoder_normalize_before": normalize_before, "decoder_normalize_before": normalize_before}
    dense = tiny_model(moe_experts=0, **norms)
    routings = {"encoder_routing": routing, "decoder_routing": routing}
    ours = tiny_model(moe_experts=1, moe_freq=1, moe_top_k=1, **routings, **norms)
    experts = {"fc1.weight": "weight_1", "fc1.bias": "bias_1", "fc2.weight": "weight_2", "fc2.bias": "bias_2"}
    state = ours.state_dict()
    copied = {name: name for name in state if name in dense.state_dict()}
    for name in dense.state_dict():
        layer, _, last = name.rpartition(".fc")
        if layer:
            (match,) = [other for other in state if other.startswith(layer) and other.endswith(experts[f"fc{last}"])]
            copied[match] = name
    assert {name for name in state if name not in copied} == {name for name in state if "router" in name}
    for name, source in copied.items():
        state[name] = dense.state_dict()[source].reshape(state[name].shape)
    ours.load_state_dict(state)

    logits = [model(**batch(SOURCES, TARGETS))[0] for model in (dense, ours)]
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-5, atol=1e-6)
    for model_logits in logits:
        model_logits.square().sum().backward()
    gradients = [dict(model.named_parameters()) for model in (dense, ours)]
    for name, source in copied.items():
        if name in gradients[1]:
            expected = gradients[0][source].grad.reshape(state[name].shape)
            torch.testing.assert_close(gradients[1][name].grad, expected, rtol=1e-4, atol=1e-5)


def test_a_task_routed_model_says_so_when_it_is_not_told_the_languages() -> None:
    sample = batch(SOURCES, TARGETS)
    del sample["src_lang_id"], sample["tgt_lang_id"]
    with pytest.raises(ValueError, match="multilingual_moe_translation"):
        moe("task")(**sample)


def test_pair_tasks_refuse_a_pair_that_was_not_trained_by_name() -> None:
    model = moe("task", moe_task_id="pair")
    model(**batch(SOURCES, TARGETS, source_language=1, target_language=0))
    with pytest.raises(UserError, match="de-fr"):
        model(**batch(SOURCES, TARGETS, source_language=1, target_language=2))


def test_pair_tasks_keep_their_experts_when_fewer_pairs_are_named_later() -> None:
    trained = moe("task", moe_task_id="pair")
    task = tiny_task()
    task.trained_lang_pairs = ["fr-en", "en-fr", "fr-de", "de-fr"]
    routings = {"encoder_routing": "task", "decoder_routing": "task", "moe_task_id": "pair"}
    options = {"moe_experts": 4, "moe_freq": 1, **routings}
    later = type(trained).build_model(MoETransformerConfig(**TINY, **options), task).eval()
    later.load_state_dict(trained.state_dict())
    sample = batch(SOURCES, TARGETS, source_language=1, target_language=0)
    torch.testing.assert_close(later(**sample)[0], trained(**sample)[0])


def test_a_model_that_asks_for_no_task_saves_none() -> None:
    model = moe("token", moe_task_id="pair")
    state = model.state_dict()
    assert not [name for name in state if "task_ids" in name]
    state["encoder.task_ids.task_of_pair"] = torch.zeros(3, 3, dtype=torch.long)  # an older checkpoint's
    model.load_state_dict(state)


def test_beam_search_reorders_what_decoder_routers_need() -> None:
    model = moe("sentence")
    sample = batch(SOURCES, TARGETS)
    del sample["prev_output_tokens"]
    encoder_out = model.encoder(**sample)
    swapped = model.encoder.reorder_encoder_out(encoder_out, torch.tensor([1, 0]))
    torch.testing.assert_close(swapped["sentence_state"][0], encoder_out["sentence_state"][0].flip(0))


def test_checkpointed_activations_keep_the_gradient_of_the_balance_loss() -> None:
    gradients = []
    for checkpoint_activations in (False, True):
        model = tiny_model(moe_experts=4, checkpoint_activations=checkpoint_activations).train()
        output, extra = model(**batch(SOURCES, TARGETS))
        loss = output.float().pow(2).sum() + sum(
            s.probability_sum_E.pow(2).sum() for s in extra["routing_statistics"].values()
        )
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@pytest.mark.parametrize("experts", [0, 4])
def test_activations_are_computed_again_in_the_type_of_the_first_time(experts: int) -> None:
    model = tiny_model(moe_experts=experts, checkpoint_activations=True).train()
    types = []
    model.encoder.layers[0].fc1.register_forward_hook(lambda module, inputs, output: types.append(output.dtype))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = model(**batch(SOURCES, TARGETS))
    output.float().square().sum().backward()

    assert types == [torch.bfloat16] * 2


def test_activations_that_are_computed_again_are_let_go_of_after_the_backward_pass() -> None:
    model = tiny_model(moe_experts=4, checkpoint_activations=True, dropout=0.1).train()
    output, extra = model(**batch(SOURCES, TARGETS))
    (output.float().square().sum() + sum(s.entropy_sum for s in extra["routing_statistics"].values())).backward()

    for side in (model.encoder, model.decoder):
        assert not side.routing_state.take_statistics()


def test_a_decoder_that_routes_by_sentence_refuses_to_go_by_its_own_tokens() -> None:
    model = moe("sentence")
    sample = batch(SOURCES, TARGETS)
    targets = sample.pop("prev_output_tokens")
    encoder_out = model.encoder(**sample)
    del encoder_out["sentence_state"]

    with pytest.raises(ValueError, match="needs encoder_out"):
        model.decoder(targets, encoder_out)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"activation_dropout": 1.0}, r"--activation-dropout must be in \[0, 1\), but is 1\.0"),
        ({"moe_top_k": 5}, r"--moe-top-k must be between 1 and --moe-experts \(4\), but is 5"),
        ({"moe_freq": 3}, r"--moe-freq must not exceed --encoder-layers \(2\), but is 3"),
        ({"encoder_routing": "dense", "decoder_routing": "dense"}, "both 'dense'"),
        ({"moe_capacity_factor": 0.0}, r"--moe-capacity-factor must be above 0, but is 0\.0"),
        ({"moe_input_jitter": 1.5}, r"--moe-input-jitter must be in \[0, 1\), but is 1\.5"),
        ({"moe_capacity_factor": float("nan")}, "--moe-capacity-factor must be above 0, but is nan"),
        ({"activation_fn": "tanh"}, "--activation-fn must be one of relu, gelu with .* but is 'tanh'"),
        ({"offload_activations": True}, "--offload-activations does not work with --moe-experts"),
        ({"quant_noise_pq": 0.1}, "--quant-noise-pq does not work with --moe-experts"),
        ({"quant_noise_scalar": 0.1}, "--quant-noise-scalar does not work with --moe-experts"),
        ({"decoder_layerdrop": 0.1}, "--decoder-layerdrop does not work with --moe-experts"),
        (
            {"encoder_xformers_att_config": "__import__('os').getcwd()"},
            "--encoder-xformers-att-config must be a literal",
        ),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny_model(moe_experts=4, **options)


@pytest.mark.parametrize("experts", [0, 4])
@pytest.mark.parametrize("probability", [-0.1, 1.0, 10.0, float("nan")])
@pytest.mark.parametrize("option", ["dropout", "attention_dropout", "activation_dropout"])
def test_a_dropout_that_is_no_probability_is_refused(option: str, probability: float, experts: int) -> None:
    rule = rf"^--{option.replace('_', '-')} must be in \[0, 1\), but is {probability}$"
    with pytest.raises(UserError, match=rule):
        tiny_model(moe_experts=experts, **{option: probability})


@pytest.mark.parametrize(
    ("options", "is_warned"),
    [
        ({"encoder_routing": "sentence"}, True),
        ({"decoder_routing": "task"}, True),
        ({}, False),
        ({"moe_capacity_factor": 1.0, "moe_input_jitter": 0.01}, False),  # a recipe's, with model=dense
    ],
)
def test_a_dense_model_that_is_to_be_routed_is_warned_of(
    options: dict, is_warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_model(moe_experts=0, **options)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("mmt")]
    assert said == ["--moe-experts is 0: the model is dense, and its routing options have no effect"] * is_warned


@pytest.mark.parametrize(
    "routing, options, message",
    [
        ("token", {"moe_drop_policy": "position"}, "--moe-drop-policy without --moe-capacity-factor has no effect"),
        ("task", {"moe_input_jitter": 0.01}, "--moe-input-jitter without token or sentence routing has no effect"),
        ("sentence", {"moe_task_id": "pair"}, "--moe-task-id without task routing has no effect"),
        ("task", {"moe_task_id": "pair", "moe_capacity_factor": 1.0, "moe_drop_policy": "position"}, None),
    ],
)
def test_options_without_effect_are_named_in_a_warning(
    routing: str, options: dict, message: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    moe(routing, **options)
    assert [record.getMessage() for record in caplog.records if record.name.startswith("mmt")] == (
        [message] if message else []
    )


def test_experts_use_the_activation_of_the_model() -> None:
    outputs = [moe("token", activation_fn=name)(**batch(SOURCES, TARGETS))[0] for name in ("relu", "gelu")]
    assert moe("token", activation_fn="gelu").encoder.layers[1].moe.experts.activation == "gelu"
    assert not torch.allclose(*outputs)


def test_a_router_that_looks_at_the_whole_batch_is_refused_in_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    class ExpertChoice(TokenRouter):
        batch_wise = True

    monkeypatch.setitem(build_moe.ROUTERS, "token", ExpertChoice)
    with pytest.raises(UserError, match="--decoder-routing token .* must not see yet"):
        tiny_model(moe_experts=4)
    tiny_model(moe_experts=4, decoder_routing="dense")


def test_a_state_without_a_version_leaves_the_norms_after_the_last_layers_where_they_are() -> None:
    model = tiny_model(encoder_normalize_before=True, decoder_normalize_before=True)
    state = {key: value for key, value in model.state_dict().items() if not key.endswith(".version")}
    model.load_state_dict(state, strict=False)
    assert model.encoder.layer_norm is not None and model.decoder.layer_norm is not None
    assert model.decoder.version.item() == 3


def test_a_dictionary_that_does_not_fit_the_checkpoint_is_refused_with_both_sizes() -> None:
    small = tiny_model(moe_experts=0)
    task = tiny_task(words=25)
    large = type(small).build_model(MoETransformerConfig(**TINY), task)
    with pytest.raises(UserError, match="it has 29 entries .* has 24 embeddings"):
        large.load_state_dict(small.state_dict())


def test_a_task_that_tells_no_languages_is_refused_by_name() -> None:
    task = tiny_task()
    del task.trained_lang_pairs
    with pytest.raises(UserError, match="needs --task multilingual_moe_translation.*but the task is SimpleNamespace"):
        MoETransformerModel.build_model(MoETransformerConfig(**TINY, moe_experts=4), task)
    MoETransformerModel.build_model(MoETransformerConfig(**TINY), task)  # a dense model needs none


def test_the_stand_in_task_has_what_the_real_one_has(toy_data: Path) -> None:
    config = MultilingualMoETranslationConfig(data=str(toy_data), train_subset="train", dataset_impl="mmap", seed=1)
    real = MultilingualMoETranslationTask.setup_task(config)
    assert all(hasattr(real, name) for name in vars(tiny_task()))
