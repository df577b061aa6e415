"""Fetching with the real programs from a registry on this disk: nothing here needs the network."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from data_prep.apt import Apt
from data_prep.clean import clean
from data_prep.errors import DataError
from data_prep.extract import extract
from data_prep.fetch import Fetcher, fetch, read_versions
from data_prep.files import write_json
from data_prep.pairs import read_rows
from data_prep.recipe import Language, Recipe, Source, load_recipe
from data_prep.steps import stats_path
from tests.data_prep.helpers import assert_user_error, deb_package, mo_catalog, run_step

GERMAN = Language("de", "deu_Latn", "German", "IE Germanic", "Latin", "high", ("de", "de_DE"))
SOURCE = Source("tiny", "mo", packages=("tiny-l10n", "missing-l10n"), licence="MIT")

needs_apt = pytest.mark.skipif(
    not all(map(shutil.which, ("apt-get", "apt-cache", "dpkg-deb"))),
    reason="needs apt, which Debian and its relatives have",
)
needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")


def recipe(folder: Path, versions: str = "") -> Recipe:
    base = load_recipe("software50")
    (folder / "versions.tsv").write_text("package\tversion\tsha256\n" + versions)
    return Recipe(**{**vars(base), "version_files": (folder / "versions.tsv",)})


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that apt takes as its only source."""
    folder = tmp_path / "repository"
    folder.mkdir()
    catalogs = {
        "./usr/share/locale/de/LC_MESSAGES/a.mo": mo_catalog({"Open the file": "Die Datei öffnen"}),
        "./usr/share/locale/de_DE/LC_MESSAGES/a.mo": mo_catalog({"Open the file": "Datei auf", "Close it": "Zumachen"}),
        "./usr/share/locale/de/LC_MESSAGES/broken.mo": b"broken",
        "./usr/share/locale/xx/LC_MESSAGES/a.mo": mo_catalog({"Open the file": "xx"}),
    }
    package = deb_package(
        catalogs, "Package: tiny-l10n\nVersion: 1:2.0\nArchitecture: all\nMaintainer: a\nDescription: x\n"
    )
    (folder / "tiny-l10n_2.0_all.deb").write_bytes(package)
    (folder / "Packages").write_text(
        "Package: tiny-l10n\nVersion: 1:2.0\nArchitecture: all\nMaintainer: a\nDescription: x\n"
        f"Filename: ./tiny-l10n_2.0_all.deb\nSize: {len(package)}\nSHA256: {hashlib.sha256(package).hexdigest()}\n"
    )
    os.utime(folder / "Packages", (10**9, 10**9))  # apt sees that it has changed by its time, in whole seconds
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] file:{folder} ./\n")
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/sources.list";\n'
        'Dir::Etc::sourceparts "/dev/null";\nDir::Etc::parts "/dev/null";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    return folder


@needs_apt
def test_package_is_fetched_recorded_and_not_fetched_again_and_a_missing_one_is_named(
    tmp_path: Path, repository: Path
) -> None:
    output = tmp_path / "downloads"

    first = fetch(recipe(tmp_path), [SOURCE], output, ["de"])
    second = fetch(recipe(tmp_path), [SOURCE], output, ["de"])

    assert (first.fetched, second.fetched) == (1, 0)
    assert first.missing == {"missing-l10n": "not offered by this machine's apt sources"}
    (entry,) = json.loads((output / "manifest.json").read_text())
    assert (entry["package"], entry["version"], entry["licence"]) == ("tiny-l10n", "1:2.0", "MIT")
    assert entry["sha256"] == hashlib.sha256((output / "tiny" / entry["file"]).read_bytes()).hexdigest()

    extract(output, tmp_path / "raw", [GERMAN], [SOURCE], jobs=1)
    rows = sorted(read_rows(tmp_path / "raw" / "tiny" / "en-de.tsv", fields=2))
    assert rows == [["Close it", "Zumachen"], ["Open the file", "Die Datei öffnen"]]
    assert json.loads((tmp_path / "raw" / "tiny.stats.json").read_text())["counts"]["damaged_catalogs"] == 1


@needs_apt
def test_damaged_download_is_fetched_again(tmp_path: Path, repository: Path) -> None:
    output = tmp_path / "downloads"
    fetch(recipe(tmp_path), [SOURCE], output, ["de"])
    (package,) = (output / "tiny").glob("*.deb")
    whole = package.read_bytes()
    package.write_bytes(whole[:-10])

    assert fetch(recipe(tmp_path), [SOURCE], output, ["de"]).fetched == 1
    assert package.read_bytes() == whole


@needs_apt
def test_new_version_takes_the_place_of_the_old_one(tmp_path: Path, repository: Path) -> None:
    output = tmp_path / "downloads"
    fetch(recipe(tmp_path), [SOURCE], output, ["de"])
    (old,) = (output / "tiny").glob("*.deb")
    index = (repository / "Packages").read_text()
    (repository / "Packages").write_text(index.replace("Version: 1:2.0", "Version: 1:2.1"))
    old.write_bytes(b"damaged")  # so that it is fetched again

    fetched = fetch(recipe(tmp_path), [SOURCE], output, ["de"])

    assert [e["version"] for e in fetched.entries] == ["1:2.1"]
    assert [p.name for p in (output / "tiny").iterdir()] == [fetched.entries[0]["file"]] != [old.name]
    assert json.loads((output / "manifest.json").read_text()) == fetched.entries


def test_files_of_one_package_stay_together_when_a_new_version_is_added(tmp_path: Path) -> None:
    fetcher = Fetcher(tmp_path / "downloads", {}, ["de", "fr"])
    for release in ("old", "new"):
        names = [f"{release}_Translation-{locale}" for locale in ("de", "fr")]
        for name in names:
            (tmp_path / name).write_text(name)
            fetcher.add(SOURCE, "descriptions", release, tmp_path / name, name, siblings=names)

    assert [e["file"] for e in fetcher.entries] == ["new_Translation-de", "new_Translation-fr"]
    assert sorted(p.name for p in (tmp_path / "downloads" / "tiny").iterdir()) == names


def test_what_is_downloaded_is_recorded_at_once(tmp_path: Path) -> None:
    fetcher = Fetcher(tmp_path / "downloads", {}, [])
    (tmp_path / "a.deb").write_text("text")
    fetcher.add(SOURCE, "tiny-l10n", "1", tmp_path / "a.deb", "a.deb")  # and then the process is killed

    assert Fetcher(tmp_path / "downloads", {}, []).has(SOURCE, "tiny-l10n")


@needs_apt
def test_descriptions_that_are_not_all_there_are_left_out_and_named(tmp_path: Path) -> None:
    (tmp_path / "downloads").mkdir()
    english = tmp_path / "host_debian_dists_bookworm_main_i18n_Translation-en"
    english.write_text("text")
    descriptions = Source("ddtp", "ddtp", packages=("descriptions",), registry="apt-descriptions")
    fetcher = Fetcher(tmp_path / "downloads", {}, ["en", "de"])
    failure = "Failed to fetch http://host/debian/dists/bookworm/main/i18n/Translation-de.xz  Connection timed out"
    apt = Apt(tmp_path / "apt", ["en", "de"])
    apt.not_fetched, fetcher._apt = [failure], apt  # which is no failure to apt
    apt.lists = tmp_path

    fetcher.fetch_descriptions(descriptions)
    assert fetcher.missing == {"descriptions": f"not all languages are there now: {failure}"}
    assert not fetcher.has(descriptions, "descriptions")

    apt.not_fetched = []
    fetcher.fetch_descriptions(descriptions)
    assert fetcher.has(descriptions, "descriptions")


def test_descriptions_are_fetched_again_when_a_language_is_added(tmp_path: Path) -> None:
    descriptions = Source("ddtp", "ddtp", packages=("descriptions",), registry="apt-descriptions")
    first = Fetcher(tmp_path / "downloads", {}, ["de"])
    (tmp_path / "Translation-de").write_text("text")
    first.add(descriptions, "descriptions", "1", tmp_path / "Translation-de", "Translation-de", asked_for=["de"])
    first.save()

    assert Fetcher(tmp_path / "downloads", {}, ["de"]).has(descriptions, "descriptions")
    assert not Fetcher(tmp_path / "downloads", {}, ["de", "sw"]).has(descriptions, "descriptions")


@pytest.mark.parametrize(("content", "message"), [(b"\xff", "must be UTF-8"), (b"a\nb 1 0\n", "'b 1 0' has 1 fields")])
def test_unreadable_record_of_versions_is_an_error_that_names_it(tmp_path: Path, content: bytes, message: str) -> None:
    made = recipe(tmp_path)
    (tmp_path / "versions.tsv").write_bytes(content)

    with pytest.raises(DataError, match=f"versions.tsv: {message}"):
        fetch(made, [SOURCE], tmp_path / "downloads", ["de"])


@needs_apt
def test_package_that_differs_from_its_recorded_hash_is_refused(tmp_path: Path, repository: Path) -> None:
    with pytest.raises(DataError, match="tiny-l10n 1:2.0: its SHA-256 must be 0000, but is"):
        fetch(recipe(tmp_path, "tiny-l10n\t1:2.0\t0000\n"), [SOURCE], tmp_path / "downloads", ["de"])
    assert not list((tmp_path / "downloads").rglob("*.deb"))


def add_table(output: Path, text: str, name: str = "tables") -> Source:
    """Put a table among the downloads, as the only package of a source."""
    source = Source(name, "table", packages=("table",))
    fetcher = Fetcher(output, {}, ["de"])
    file = output.parent / "table.tsv"
    file.write_text(text)
    fetcher.add(source, "table", "1", file, "table.tsv")
    fetcher.save()
    return source


@pytest.mark.parametrize("recorded", [{}, {("table", "1"): "0000"}])
def test_a_download_that_has_not_its_hash_is_not_kept(tmp_path: Path, recorded: dict[tuple[str, str], str]) -> None:
    output = tmp_path / "downloads"
    source = add_table(output, "en\tde\nOpen it\tAufmachen\n")
    if not recorded:
        (output / "tables" / "table.tsv").write_text("en\tde\nOpen it\tAltered\n")

    assert not Fetcher(output, recorded, ["de"]).has(source, "table")
    assert not (output / "tables" / "table.tsv").exists()


def test_only_files_that_were_fetched_for_todays_packages_are_extracted(tmp_path: Path) -> None:
    output = tmp_path / "downloads"
    source = add_table(output, "en\tde\nOpen it\tAufmachen\n")
    (output / "tables" / "stray.tsv").write_text("en\tde\nClose it\tZumachen\n")

    extract(output, tmp_path / "raw", [GERMAN], [source], jobs=1)
    assert list(read_rows(tmp_path / "raw" / "tables" / "en-de.tsv", fields=2)) == [["Open it", "Aufmachen"]]

    with pytest.raises(DataError, match="nothing to extract"):
        extract(output, tmp_path / "raw", [GERMAN], [Source("tables", "table", packages=("table@2",))], jobs=1)


def test_a_source_whose_packages_are_gone_takes_along_what_was_made_of_them(tmp_path: Path) -> None:
    output, raw = tmp_path / "downloads", tmp_path / "raw"
    sources = [
        add_table(output, "en\tde\nOpen it\tAufmachen\n"),
        add_table(output, "en\tde\nClose it\tZumachen\n", "others"),
    ]
    extract(output, raw, [GERMAN], sources, jobs=1)
    (output / "others" / "table.tsv").write_text("altered")
    Fetcher(output, {}, ["de"]).save()

    (raw / "others" / "mine").write_text("my own notes")
    with pytest.raises(DataError, match="others/mine: not a file of the step extract, .* move it to another folder"):
        extract(output, raw, [GERMAN], sources, jobs=1)
    (raw / "others" / "mine").unlink()
    extract(output, raw, [GERMAN], sources, jobs=1)
    clean(raw, tmp_path / "clean", [GERMAN], sources, jobs=1)

    assert sorted(path.name for path in raw.iterdir()) == ["tables", "tables.stats.json"]
    assert list(read_rows(tmp_path / "clean" / "en-de.tsv", fields=2)) == [["Open it", "Aufmachen", "tables"]]


def test_only_packages_that_were_missing_before_are_done_without_where_apt_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "downloads"
    here = add_table(output, "en\tde\nOpen it\tAufmachen\n")
    descriptions = Source("ddtp", "ddtp", packages=("descriptions",), registry="apt-descriptions")
    monkeypatch.setenv("PATH", str(tmp_path))

    # As after a first run that was interrupted: the others must not be left out without a word of the first's failure.
    with pytest.raises(DataError, match="the program apt-get is missing"):
        fetch(recipe(tmp_path), [here, SOURCE, descriptions], output, ["de"])

    missing = dict.fromkeys([*SOURCE.packages, "descriptions"], "not offered by this machine's apt sources")
    write_json(stats_path(output), {"step": "fetch", "missing": missing})
    fetched = fetch(recipe(tmp_path), [here, SOURCE, descriptions], output, ["de"])

    assert fetched.missing.keys() == {*SOURCE.packages, "descriptions"}
    assert all("the program apt-get is missing" in reason for reason in fetched.missing.values())
    assert [entry["source"] for entry in fetched.entries] == ["tables"]


@needs_npm
def test_npm_package_is_packed_and_read(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    (folder / "locales").mkdir(parents=True)
    (folder / "package.json").write_text('{"name": "tiny", "version": "1.2.3"}')
    (folder / "locales" / "en-US.json").write_text('{"a": {"message": "Open the file"}, "b": {"message": "Close it"}}')
    (folder / "locales" / "de.json").write_text('{"a": {"message": "Die Datei öffnen"}, "@meta": "x"}')
    source = Source("web", "json", (str(folder),), registry="npm", files=r"package/locales/LOCALE\.json")

    fetched = fetch(recipe(tmp_path), [source], tmp_path / "downloads", ["de"])
    extract(tmp_path / "downloads", tmp_path / "raw", [GERMAN], [source], jobs=1)

    assert [(e["version"], e["file"]) for e in fetched.entries] == [("1.2.3", "tiny-1.2.3.tgz")]
    assert list(read_rows(tmp_path / "raw" / "web" / "en-de.tsv", fields=2)) == [["Open the file", "Die Datei öffnen"]]


def test_machine_without_apt_is_told_what_works_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    result = run_step("fetch", "--recipe", "software50", "--preset", "full", "--output", tmp_path / "downloads")

    assert_user_error(result, "apt-get is missing", "preset sample", "--input")


def test_shipped_record_of_versions_covers_every_package_of_the_full_preset() -> None:
    base = load_recipe("software50")
    wanted = {p for s in base.sources_of(base.preset("full")) for p in s.packages if s.registry != "apt-descriptions"}

    assert {package for package, _ in read_versions(base)} == wanted


def test_a_recipe_that_extends_another_keeps_to_its_record_of_versions(tmp_path: Path) -> None:
    assert read_versions(load_recipe("software6")) == read_versions(load_recipe("software50"))

    (tmp_path / "data.yaml").write_text("extends: software50\npresets: {a: {corpus: debian, vocab_size: 1}}")
    (tmp_path / "versions.tsv").write_text("package\tversion\tsha256\nmine\t1\tabc\n")
    extended = read_versions(load_recipe(str(tmp_path / "data.yaml")))
    assert extended == {**read_versions(load_recipe("software50")), ("mine", "1"): "abc"}


def test_nothing_is_written_outside_the_downloads(tmp_path: Path) -> None:
    """A name with slashes stays a name: npm's scoped packages have them."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    folder = tmp_path / "scoped"
    folder.mkdir()
    (folder / "package.json").write_text('{"name": "@scope/tiny", "version": "1.0.0"}')

    fetched = fetch(recipe(tmp_path), [Source("s", "json", (str(folder),), registry="npm")], tmp_path / "downloads", [])

    assert [e["file"] for e in fetched.entries] == ["scope-tiny-1.0.0.tgz"]
    assert (
        subprocess.run(["ls", tmp_path / "downloads" / "s"], capture_output=True, text=True).stdout
        == "scope-tiny-1.0.0.tgz\n"
    )
    assert os.listdir(folder) == ["package.json"]
