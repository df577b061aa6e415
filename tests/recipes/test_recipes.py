"""Every shipped recipe is valid, and mistakes are named in the user's words."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import mmt  # noqa: F401  (registers the models and tasks that recipes name)
import pytest
from mmt.errors import UserError
from mmt.recipes import compose, groups, recipe_folder

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
NAMES = sorted(path.parent.name for path in RECIPES.glob("*/train.yaml"))


def test_the_promised_recipes_are_there() -> None:
    assert {"demo", "own_data", "software6", "software50", "zcode50"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_has_a_readme_and_all_routings(name: str) -> None:
    assert (RECIPES / name / "README.md").is_file()
    assert groups(RECIPES / name)["model"] == ["dense", "sentence", "task", "token", "token_task"]


@pytest.mark.parametrize("name", NAMES)
def test_no_recipe_lets_a_sentence_that_is_too_long_stop_a_validation(name: str) -> None:
    assert compose(RECIPES / name).dataset.skip_invalid_size_inputs_valid_test is True


@pytest.mark.parametrize(
    ("routing", "expected"),
    [
        ("dense", None),
        ("token", ("token", "token")),
        ("sentence", ("sentence", "sentence")),
        ("task", ("task", "task")),
        ("token_task", ("token", "task")),
    ],
)
def test_routings_differ_in_nothing_but_the_routing(routing: str, expected: tuple[str, str] | None) -> None:
    config = compose(RECIPES / "software6", [f"model={routing}"])
    reference = compose(RECIPES / "software6", ["model=token"])

    if expected is None:
        assert config.model.moe_experts == 0
    else:
        assert (config.model.encoder_routing, config.model.decoder_routing) == expected
        assert config.model.moe_experts == reference.model.moe_experts > 0
    for section in ("common", "dataset", "optimization", "task", "criterion", "optimizer", "lr_scheduler"):
        assert config[section] == reference[section]
    differing = {key for key in config.model if config.model[key] != reference.model[key]}
    assert differing <= {"moe_experts", "encoder_routing", "decoder_routing"}


def test_runs_of_different_choices_do_not_share_a_folder() -> None:
    choices = [["model=token"], ["model=dense"], ["preset=full"], ["preset=full", "model=dense"], ["run=gpu"]]
    folders = [compose(RECIPES / "software50", overrides).checkpoint.save_dir for overrides in choices]

    assert len(set(folders)) == len(choices)


@pytest.mark.parametrize(
    ("recipe", "run"), [(path.parents[1].name, path.stem) for path in sorted(RECIPES.glob("*/run/*.yaml"))]
)
def test_make_finds_the_folder_of_every_run(recipe: str, run: str) -> None:
    save_dir = compose(RECIPES / recipe, [f"run={run}", "model=token"]).checkpoint.save_dir
    words = ["make", "--old-file=.venv/.installed", "evaluate", f"RECIPE={recipe}", f"RUN={run}"]
    words += ["ROUTING=token", "DRY=1"]

    printed = subprocess.run(words, cwd=RECIPES.parent, check=True, capture_output=True, text=True).stdout

    assert printed.split()[-2:] == ["evaluate", save_dir]


def test_a_valid_key_need_not_be_in_the_files() -> None:
    config = compose(RECIPES / "demo", ["model.layernorm_embedding=true", "optimization.update_freq=[3]"])

    assert config.model.layernorm_embedding is True
    assert config.optimization.update_freq == [3]


@pytest.mark.parametrize("text", ["en-de,de-en", "it's,quoted", "(0.9, 0.98)"])
def test_text_may_have_commas(text: str) -> None:
    assert compose(RECIPES / "demo", [f"task.lang_pairs={text}"]).task.lang_pairs == text


@pytest.mark.parametrize("override", ["task.zero=2", 'task.zero="2"'])
def test_zero_is_a_number_that_needs_no_quotes(override: str) -> None:
    assert compose(RECIPES / "demo", [override]).task.zero == 2


def test_a_named_architecture_can_be_chosen() -> None:
    config = compose(RECIPES / "demo", ["model=moe_transformer_base_32e"])

    assert config.model._name == "moe_transformer_base_32e"
    assert (config.model.moe_experts, config.model.encoder_embed_dim) == (32, 512)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("modl=task", r"unknown group 'modl' in 'modl=task'; did you mean model\?"),
        ("model=tsk", r"unknown choice 'tsk' in 'model=tsk'; did you mean task"),
        ("model.dropot=0.2", r"unknown key 'model.dropot': model moe_transformer .*; did you mean dropout"),
        ("task.lang_pair=a-b", r"unknown key 'task.lang_pair': .*; did you mean lang_pairs"),
        ("optimization.max_updat=3", r"unknown key 'optimization.max_updat': .*; did you mean max_update"),
        ("optimisation.max_update=3", r"unknown section 'optimisation' .*; did you mean optimization\?"),
        ("task.zero=two", r"recipe demo: .*'two'.*; key: zero"),
        ("optimization.max_update=many", r"recipe demo: .*'many'.*; key: optimization.max_update"),
        ("model.decoder_routing=word", r"recipe demo: .*'word'.*\[dense, token, sentence, task\]"),
        ("model._name=moe_transfomer", r"unknown model 'moe_transfomer'; did you mean moe_transformer"),
        ("max_update", r"'max_update' is not of the form group=choice or section.key=value"),
    ],
)
def test_a_mistake_is_named(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        compose(RECIPES / "demo", [override])
    assert "\n" not in str(error.value)


def test_a_mistake_in_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    shutil.copytree(RECIPES / "demo", tmp_path / "mine", dirs_exist_ok=True)
    shutil.copytree(RECIPES / "common", tmp_path / "common")
    file = tmp_path / "mine" / "train.yaml"
    file.write_text(file.read_text().replace("label_smoothing", "label_smothing"))

    message = "recipe mine: unknown key 'criterion.label_smothing'.*did you mean label_smoothing"
    with pytest.raises(UserError, match=message):
        compose(tmp_path / "mine")


def test_an_unknown_recipe_lists_the_recipes() -> None:
    with pytest.raises(UserError, match=r"recipe 'software51': no train.yaml .*; recipes are demo, .*software50"):
        recipe_folder("software51", RECIPES)


def test_outside_of_the_repository_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UserError, match="no recipes in recipes; run from the repository's root"):
        recipe_folder("demo")


def test_the_page_of_options_is_up_to_date() -> None:
    script = RECIPES.parent / "scripts" / "make_options_docs.py"
    environment = {**os.environ, "PYTHONPATH": str(RECIPES.parent)}

    result = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, env=environment)

    assert result.returncode == 0, result.stderr
