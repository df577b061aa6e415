"""The task: options, directions, and the languages of every sentence."""

import argparse
import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
import torch
from fairseq import options
from fairseq.data import FairseqDataset
from fairseq.dataclass.configs import GenerationConfig
from fairseq.tasks.translation_multi_simple_epoch import TranslationMultiSimpleEpochTask

from mmt.errors import UserError
from mmt.models.config import MoETransformerConfig
from mmt.models.moe_transformer import MoETransformerModel
from mmt.tasks.config import MultilingualMoETranslationConfig, parse_lang_pairs
from mmt.tasks.generation_options import parse_generation_options
from mmt.tasks.multilingual_moe_translation import MultilingualMoETranslationTask
from tests.models.tiny import TINY
from tests.toy_data import LANGUAGES


def make_task(data: Path, **options: Any) -> MultilingualMoETranslationTask:
    values = {
        "data": str(data),
        "train_subset": "train",
        "dataset_impl": "mmap",
        "seed": 1,
        "decoder_langtok": True,
        **options,
    }
    return MultilingualMoETranslationTask.setup_task(MultilingualMoETranslationConfig(**values))


def batches(task: MultilingualMoETranslationTask, split: str) -> list[dict[str, Any]]:
    task.load_dataset(split, epoch=1)
    dataset: FairseqDataset = task.dataset(split)
    return list(task.get_batch_iterator(dataset, max_tokens=300, seed=1).next_epoch_itr(shuffle=True))


def test_every_option_of_fairseqs_task_is_one_of_ours_with_the_same_default() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    TranslationMultiSimpleEpochTask.add_args(parser)
    theirs = {action.dest: action.default for action in parser._actions if action.dest != "data"}  # needed
    ours = {field.name: field.default for field in dataclasses.fields(MultilingualMoETranslationConfig)}
    assert len(theirs) > 30
    assert {name: ours.get(name, "none") for name in theirs} == theirs


def test_languages_directions_and_dictionary_come_from_the_data_folder(toy_data: Path) -> None:
    task = make_task(toy_data)
    assert task.langs == LANGUAGES
    assert task.trained_lang_pairs == ["en-aa", "aa-en", "en-bb", "bb-en"]
    assert task.source_dictionary is task.target_dictionary
    assert all(f"__{language}__" in task.target_dictionary for language in LANGUAGES)


def test_more_directions_than_a_file_name_has_letters_are_a_list(toy_data: Path) -> None:
    directions = [f"en-language{number}" for number in range(100)]
    assert parse_lang_pairs(",".join(directions), toy_data) == directions


def test_a_direction_that_is_named_twice_counts_once(toy_data: Path) -> None:
    further = {"extra_data": f"{{'mined': '{toy_data}'}}", "extra_lang_pairs": "{'mined': 'en-bb,en-bb'}"}
    task = make_task(toy_data, lang_pairs="en-aa,aa-en,en-aa", sampling_method="temperature", **further)
    assert task.lang_pairs == task.validation_scores.directions == ["en-aa", "aa-en"]
    task.load_dataset("train")
    assert task.dataset("train").keys == ["main:en-aa", "main:aa-en", "mined:en-bb"]


@pytest.mark.parametrize("split", ["train", "valid"])
def test_every_row_of_every_batch_has_its_own_languages(split: str, toy_data: Path) -> None:
    task = make_task(toy_data, sampling_method="temperature", sampling_temperature=5.0)
    mixed = 0
    for batch in batches(task, split):
        net_input = task._with_language_ids(batch)["net_input"]
        for tokens, source in zip(net_input["src_tokens"], net_input["src_lang_id"].flatten().tolist()):
            words = [task.source_dictionary[int(t)] for t in tokens if int(t) > 3]
            assert all(word.startswith(LANGUAGES[source]) for word in words)
        for tokens, target in zip(batch["target"], net_input["tgt_lang_id"].flatten().tolist()):
            assert task.target_dictionary[int(tokens[0])] == f"__{LANGUAGES[target]}__"
        mixed += len(set(net_input["tgt_lang_id"].flatten().tolist())) > 1
    assert mixed > 0


def test_validation_can_be_limited_per_direction(toy_data: Path) -> None:
    task = make_task(toy_data, valid_sentences_per_direction=5)
    assert sum(batch["nsentences"] for batch in batches(task, "valid")) == 4 * 5


def test_inference_batches_carry_the_current_direction(toy_data: Path) -> None:
    task = make_task(toy_data)
    task.set_direction("bb", "en")
    dataset = task.build_dataset_for_inference([torch.tensor([5, 6, 2])], [3])
    sample = task._with_language_ids(dataset.collater([dataset[0]]))
    assert sample["net_input"]["src_lang_id"].tolist() == [[LANGUAGES.index("bb")]]
    # fairseq-interactive passes on tokens and lengths alone.
    bare = {"net_input": {"src_tokens": torch.tensor([[5, 6, 2]]), "src_lengths": torch.tensor([3])}}
    assert task._with_language_ids(bare)["net_input"]["tgt_lang_id"].tolist() == [[LANGUAGES.index("en")]]


def test_text_without_languages_needs_a_direction(toy_data: Path) -> None:
    bare = {"net_input": {"src_tokens": torch.tensor([[5, 6, 2]]), "src_lengths": torch.tensor([3])}}
    with pytest.raises(UserError, match="--source-lang and --target-lang are needed"):
        make_task(toy_data)._with_language_ids(bare)


def test_interactive_use_needs_a_direction(toy_data: Path) -> None:
    needed = "--source-lang and --target-lang are needed to translate text without languages"
    with pytest.raises(UserError, match=needed):
        make_task(toy_data).build_dataset_for_inference([torch.tensor([5, 6, 2])], [3])
    with pytest.raises(UserError, match=needed):  # to know whose token to take out of the output
        make_task(toy_data).build_generator([], argparse.Namespace(beam=1))


@pytest.mark.parametrize("keep", [False, True])
def test_the_language_token_of_a_translation_is_taken_out_unless_it_is_to_be_kept(keep: bool, toy_data: Path) -> None:
    task = make_task(toy_data, source_lang="en", target_lang="aa", keep_inference_langtok=keep)
    model = MoETransformerModel.build_model(MoETransformerConfig(**TINY), task)
    generator = task.build_generator([model], GenerationConfig())  # as fairseq-generate does
    token = task.target_dictionary.index("__aa__")
    assert (token not in generator.symbols_to_strip_from_output) == keep


def test_further_data_brings_directions_of_its_own(toy_data: Path) -> None:
    further = {"extra_data": f"{{'mined': '{toy_data}'}}", "extra_lang_pairs": "{'mined': 'en-aa,aa-bb'}"}
    task = make_task(toy_data, lang_pairs="en-aa", **further)
    assert task.trained_lang_pairs == ["en-aa", "aa-bb"]
    assert task.lang_pairs == ["en-aa"]


def test_dictionaries_are_needed_of_the_languages_that_are_read(toy_data: Path, tmp_path: Path) -> None:
    for language in ("en", "aa"):
        shutil.copy(toy_data / "dict.txt", tmp_path / f"dict.{language}.txt")
    assert make_task(tmp_path, langs="en,aa,bb", lang_pairs="en-aa").langs == ["en", "aa", "bb"]
    with pytest.raises(UserError, match=f"{tmp_path} has neither dict.txt nor dict.bb.txt"):
        make_task(tmp_path, langs="en,aa,bb", lang_pairs="en-aa,en-bb")
    # A direction to translate is all that is read.
    make_task(tmp_path, langs="en,aa,bb", lang_pairs="en-aa,en-bb", source_lang="aa", target_lang="en")
    make_task(tmp_path, langs="en,aa,bb", lang_pairs="en-bb", target_dict=str(toy_data / "dict.txt"))


def test_two_dictionaries_that_differ_are_named(toy_data: Path, tmp_path: Path) -> None:
    for language in ("en", "aa", "bb"):
        shutil.copy(toy_data / "dict.txt", tmp_path / f"dict.{language}.txt")
    with (tmp_path / "dict.bb.txt").open("a") as file:
        file.write("another 1\n")
    with pytest.raises(UserError, match="dict.aa.txt and dict.bb.txt differ, but all languages share one dictionary"):
        make_task(tmp_path, langs="en,aa,bb", lang_pairs="en-aa,en-bb")


def test_shares_must_be_given_of_every_direction(toy_data: Path, tmp_path: Path) -> None:
    shares = {"main:en-aa": 0.5, "main:aa-en": 0.5}
    inline = {"sampling_weights": str(shares)}
    (tmp_path / "shares").write_text(json.dumps(shares))
    (tmp_path / "broken").write_text("{")
    (tmp_path / "list").write_text("[1]")
    for given, message in (
        (inline, "--sampling-weights must give the share of every direction, but has none for 'main:en-bb'"),
        ({"sampling_weights_from_file": str(tmp_path / "shares")}, "shares must give the share of every direction"),
        ({"sampling_weights_from_file": str(tmp_path / "broken")}, "broken: not JSON"),
        ({"sampling_weights_from_file": str(tmp_path / "list")}, r"list must be a dictionary .* but is \[1\]"),
    ):
        with pytest.raises(UserError, match=message):
            make_task(toy_data, **given).load_dataset("train")
    make_task(toy_data, lang_pairs="en-aa,aa-en", **inline).load_dataset("train")


@pytest.mark.parametrize(
    ("share", "message"),
    [
        ("'much'", "must give numbers of 0 or more, but gives 'main:aa-en' 'much'"),
        ("-1", "must give numbers of 0 or more, but gives 'main:aa-en' -1"),
        ("0", "must give a share above 0 to one direction at least"),
    ],
)
def test_shares_that_are_none_are_refused(share: str, message: str, toy_data: Path) -> None:
    shares = f"{{'main:en-aa': 0, 'main:aa-en': {share}}}"
    with pytest.raises(UserError, match=f"^--sampling-weights {message}$"):
        make_task(toy_data, lang_pairs="en-aa,aa-en", sampling_weights=shares).load_dataset("train")


def test_virtual_epochs_of_several_folders_need_the_size_of_a_pass(toy_data: Path) -> None:
    folders = f"{toy_data}:{toy_data}"
    further = {"extra_data": f"{{'mined': '{folders}'}}", "extra_lang_pairs": "{'mined': 'en-aa'}"}
    for data, given in ((Path(folders), {}), (toy_data, further)):
        with pytest.raises(UserError, match="--virtual-epoch-size with several data folders needs --virtual-data-size"):
            make_task(data, virtual_epoch_size=10, **given)
        make_task(data, virtual_epoch_size=10, virtual_data_size=100, **given)
    make_task(toy_data, virtual_epoch_size=10)


def test_a_model_that_is_used_has_the_directions_that_it_was_trained_with(toy_data: Path) -> None:
    state = make_task(toy_data).state_dict()
    translates = make_task(toy_data, lang_pairs="en-aa", source_lang="en", target_lang="aa")
    config = MultilingualMoETranslationConfig(
        data=str(toy_data), train_subset="train", dataset_impl="mmap", seed=1, decoder_langtok=True, lang_pairs="en-aa"
    )
    validates = MultilingualMoETranslationTask.setup_task(config, from_checkpoint=True)
    for used in (translates, validates):
        used.load_state_dict(state)
        assert used.trained_lang_pairs == ["en-aa", "aa-en", "en-bb", "bb-en"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lang_pairs": "en-xx"}, "unknown language 'xx' in en-xx; the languages are en, aa, bb"),
        ({"lang_pairs": "en"}, "'en' is not of the form source-target"),
        ({"extra_data": "{'m': '.'}", "extra_lang_pairs": "{'m': 'en-xx'}"}, "unknown language 'xx' in en-xx"),
        ({"extra_lang_pairs": "{'mined': 'en'}"}, "--extra-lang-pairs: 'en' is not of the form source-target"),
        ({"extra_data": "{'mined': '.'}"}, "--extra-data names 'mined', but --extra-lang-pairs does not: .* both"),
        ({"extra_lang_pairs": "{'m': 'en-aa'}"}, "--extra-lang-pairs names 'm', but --extra-data does not: .* both"),
        ({"extra_data": "{'main': '.'}", "extra_lang_pairs": "{'main': 'en-aa'}"}, "--extra-data: 'main' is the data"),
        (
            {"extra_data": "{'mono_dae': '.'}", "extra_lang_pairs": "{'mono_dae': 'en-en'}"},
            "--extra-data: 'mono_dae' is text of one language, which cannot be used yet",
        ),
        ({"source_lang": "en", "target_lang": "zz"}, "unknown language 'zz'"),
        ({"source_lang": "en"}, "--source-lang and --target-lang go together"),
        ({"lang_dict": "/nowhere/langs.txt"}, "--lang-dict /nowhere/langs.txt: no such file"),
        ({"langtoks": "__import__('os').getcwd()"}, "--langtoks must be a dictionary"),
        ({"eval_bleu_args": "[1]"}, "--eval-bleu-args must be a JSON dictionary such as .* but is '\\[1\\]'"),
        ({"eval_bleu_args": '{"beams": 4}'}, "--eval-bleu-args: fairseq's generation has no option 'beams'"),
        ({"eval_bleu_args": '{"beam": "four"}'}, "--eval-bleu-args: beam: Value 'four' .* converted to Integer"),
        ({"eval_bleu_args": '{"beam": null}'}, "--eval-bleu-args: beam: "),
        ({"langtoks": "{'main': 'tgt'}"}, "--langtoks must give 'main' a pair, .* but gives 'tgt'"),
        ({"langtoks": "{'mined': ('tgt', 5)}"}, "--langtoks must give 'mined' a pair, .* but gives .'tgt', 5"),
        ({"langtoks": "{'mined': ('source', 'tgt')}"}, "--langtoks must give 'mined' a pair, .* but gives .'source'"),
        (
            {"eval_bleu": True, "lang_tok_replacing_bos_eos": True},
            "--eval-bleu does not work with --decoder-langtok --lang-tok-replacing-bos-eos",
        ),
        (
            {
                "eval_bleu": True,
                "lang_tok_replacing_bos_eos": True,
                "decoder_langtok": False,
                "langtoks": "{'main': ('src', 'tgt')}",
            },
            "--eval-bleu does not work with --langtoks --lang-tok-replacing-bos-eos",
        ),
        (
            {"enable_reservsed_directions_shared_datasets": True},
            "wrong language tokens: use --encoder-langtok src --decoder-langtok, or no tokens",
        ),
        (
            {
                "enable_reservsed_directions_shared_datasets": True,
                "encoder_langtok": "src",
                "langtoks": "{'mined': ('tgt', 'tgt')}",
            },
            r"wrong language tokens: use --langtoks \{'mined': \('src', 'tgt'\)\}, or no tokens",
        ),
        (
            {
                "enable_reservsed_directions_shared_datasets": True,
                "encoder_langtok": "src",
                "truncate_source": True,
            },
            "--enable-reservsed-directions-shared-datasets does not work with --truncate-source",
        ),
        ({"langs": "en,aa,bb,"}, "--langs must name each language once, and nothing empty, but is 'en,aa,bb,'"),
        ({"langs": "en,aa,bb,en"}, "--langs must name each language once, and nothing empty, but is 'en,aa,bb,en'"),
        ({"lang_dict": "lang_list.txt", "langs": "en,aa"}, "--langs and --lang-dict .* only one of them"),
        ({"valid_sentences_per_direction": 0}, "--valid-sentences-per-direction must be 1 or more, but is 0"),
        ({"virtual_epoch_size": 0}, "--virtual-epoch-size must be 1 or more, but is 0"),
        ({"virtual_data_size": -1}, "--virtual-data-size must be 1 or more, but is -1"),
        ({"sampling_temperature": 0.0}, "--sampling-temperature must be above 0, but is 0.0"),
        ({"left_pad_source": "__import__('os').getcwd()"}, "--left-pad-source must be True or False"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, Any], message: str, toy_data: Path) -> None:
    if "lang_dict" in options:
        options = {**options, "lang_dict": str(toy_data / options["lang_dict"])}
    with pytest.raises(UserError, match=message):
        make_task(toy_data, **options)


def test_values_of_generation_options_have_the_type_that_fairseq_wants() -> None:
    given = '{"beam": "4", "lenpen": 1, "sampling": true, "print_alignment": "soft", "retain_dropout_modules": ["A"]}'
    assert parse_generation_options(given) == {
        "beam": 4,
        "lenpen": 1.0,
        "sampling": True,
        "print_alignment": "soft",
        "retain_dropout_modules": ["A"],
    }


def test_a_search_that_validations_cannot_do_is_refused_before_the_training(toy_data: Path) -> None:
    architecture = argparse.Namespace(**{**vars(MoETransformerConfig(**TINY)), "arch": "moe_transformer"})
    impossible = {"eval_bleu_args": '{"sampling_topk": 5}'}
    with pytest.raises(UserError, match="^--eval-bleu-args .*: --sampling-topk requires --sampling$"):
        make_task(toy_data, eval_bleu=True, **impossible).build_model(architecture)
    make_task(toy_data, **impossible).build_model(architecture)  # no validation translates
    model = make_task(toy_data, eval_bleu=True).build_model(architecture)
    assert all(module.training for module in model.modules())


def test_an_architecture_that_does_not_take_languages_is_refused_by_name(
    toy_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["fairseq-train"])  # where fairseq looks for --user-dir
    arguments = [str(toy_data), "--task", "multilingual_moe_translation", "--arch", "transformer_tiny"]
    args = options.parse_args_and_arch(options.get_training_parser(), input_args=arguments)
    with pytest.raises(UserError, match="--arch transformer_tiny does not take: use --arch moe_transformer"):
        make_task(toy_data).build_model(args)


def test_a_missing_folder_split_and_language_are_named(toy_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"data folder {tmp_path}/nothing does not exist"):
        make_task(tmp_path / "nothing")
    with pytest.raises(UserError, match=f"data folder {tmp_path}/nothing does not exist"):
        make_task(Path(f"{toy_data}:{tmp_path}/nothing"))
    with pytest.raises(UserError, match="no binarized test data of en-aa"):
        make_task(toy_data).load_dataset("test")
    damaged = Path(shutil.copytree(toy_data, tmp_path / "damaged"))
    for ending in ("bin", "idx"):
        shutil.copy(toy_data / f"train.en-aa.aa.{ending}", damaged / f"valid.en-aa.aa.{ending}")
    with pytest.raises(UserError, match="valid data of en-aa in .*damaged: Source and target must contain"):
        make_task(damaged).load_dataset("valid")
    for name, option in (("lang_list.txt", "--lang-dict"), ("lang_pairs.txt", "--lang-pairs")):
        (damaged / name).write_bytes(b"caf\xe9")
        with pytest.raises(UserError, match=f"{option} .*{name}: not valid UTF-8"):
            make_task(damaged)
        shutil.copy(toy_data / name, damaged / name)
    (damaged / "lang_pairs.txt").write_text("\n")
    with pytest.raises(UserError, match="lang_pairs.txt': there is no direction"):
        make_task(damaged)
    with pytest.raises(UserError, match="unknown language 'de'; the model knows en, aa, bb"):
        make_task(toy_data).set_direction("en", "de")


def test_scores_of_a_validation_are_sacrebleus_over_all_batches(toy_data: Path) -> None:
    scores = make_task(toy_data).validation_scores
    hypotheses = ["the cat sat on the mat", "a dog", "one two three four five"]
    references = ["the cat sat on a mat", "a dog barks", "one two three four six"]
    directions = ["en-aa", "en-aa", "en-bb"]
    table = scores.sums(hypotheses[:1], references[:1], directions[:1]) + scores.sums(
        hypotheses[1:], references[1:], directions[1:]
    )
    found = scores.scores(table)
    expected = sacrebleu.corpus_bleu(hypotheses[:2], [references[:2]]).score
    assert found["bleu_en-aa"] == pytest.approx(expected)
    assert found["chrf_en-aa"] == pytest.approx(
        sacrebleu.corpus_chrf(hypotheses[:2], [references[:2]], word_order=2).score
    )
    assert found["bleu"] == pytest.approx((found["bleu_en-aa"] + found["bleu_en-bb"]) / 2)
    assert "bleu_aa-en" not in found


def test_text_is_put_together_without_language_tokens_and_padding(toy_data: Path) -> None:
    task = make_task(toy_data)
    dictionary = task.target_dictionary
    tokens = torch.tensor(
        [
            dictionary.index("__aa__"),
            dictionary.index("aa1"),
            dictionary.index("aa0"),
            dictionary.eos(),
            dictionary.pad(),
        ]
    )
    assert task.detokenize(tokens) == "aa1 aa0"

    pieces = [dictionary.add_symbol(piece) for piece in ("ham@@", "bur@@", "ger", "and", "fri@@")]
    assert task.detokenize(torch.tensor([*pieces, dictionary.eos()])) == "hamburger and fri"


def test_the_namespace_form_of_the_options_works_too(toy_data: Path) -> None:
    config = MultilingualMoETranslationConfig(data=str(toy_data), train_subset="train", dataset_impl="mmap", seed=1)
    assert MultilingualMoETranslationTask.setup_task(argparse.Namespace(**vars(config))).langs == LANGUAGES
