"""Download the packages of a recipe: ``<output>/<source>/<file>``, described in ``manifest.json``.

The manifest holds version, SHA-256 and licence. Packages are unpacked in memory by data_prep.extract and never
installed. A package that is there and has its recorded hash is not fetched again; one that the registry does not have
is left out and named.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from data_prep import npm
from data_prep.apt import Apt
from data_prep.errors import DataError, run_program
from data_prep.files import move_into_place, read_json, remove, sha256_of, write_json
from data_prep.lines import read_text
from data_prep.options import (
    add_common_options,
    add_recipe_options,
    chosen_recipe,
    refuse_without_effect,
    set_up_logging,
)
from data_prep.recipe import Recipe, Source
from data_prep.steps import stats_path

logger = logging.getLogger(__name__)
TRIES = 3
WAIT_SECONDS = 3

Entry = dict[str, Any]
Wanted = tuple[Source, str]  # where a package belongs, and its name


class Fetcher:
    """Fetches sources into one folder and keeps its manifest.

    Args:
        output: folder of the downloads.
        recorded: hash by package and version, from an earlier day; a download that differs is refused.
        locales: all languages' names in the sources.
    """

    def __init__(self, output: Path, recorded: dict[tuple[str, str], str], locales: list[str]) -> None:
        self.output = output
        self.recorded = recorded
        self.locales = locales
        self.missing: dict[str, str] = {}
        self.fetched = 0
        manifest = read_json(output / "manifest.json")
        self.entries: list[Entry] = manifest if isinstance(manifest, list) else []
        self._apt: Apt | None = None
        self._forget_damaged()

    def _forget_damaged(self) -> None:
        """Remove packages of which a file is gone, or has another hash than the manifest or the record says."""
        damaged = {(e["source"], e["package"]) for e in self.entries if not self._is_whole(e)}
        for entry in [e for e in self.entries if (e["source"], e["package"]) in damaged]:
            remove(self.output / entry["source"] / entry["file"])
            self.entries.remove(entry)

    def _is_whole(self, entry: Entry) -> bool:
        path = self.output / entry["source"] / entry["file"]
        recorded = self.recorded.get((entry["package"], entry["version"]), entry["sha256"])
        return path.is_file() and sha256_of(path) == entry["sha256"] == recorded

    def has(self, source: Source, package: str) -> bool:
        """Whether the package's files are there, and were asked for with today's languages."""
        entries = [e for e in self.entries if e["source"] == source.name and e["package"] == package]
        if source.registry == "apt-descriptions" and any(e.get("asked_for") != self.locales for e in entries):
            return False
        return bool(entries)

    def add(
        self,
        source: Source,
        package: str,
        version: str,
        file: Path,
        name: str,
        *,
        expected: str | None = None,
        siblings: Collection[str] = (),
        **facts: Any,
    ) -> None:
        """Check a downloaded file, move it to its place and record it; other files of the package are an old version.

        Args:
            source: where the package belongs.
            package: its name.
            version: its version.
            file: what was downloaded.
            name: the file's name among the downloads.
            expected: SHA-256 that the registry gives.
            siblings: names of further files that belong to the same package.
            facts: what else the manifest says of the file.
        """
        sha256 = sha256_of(file)
        for wanted in (expected, self.recorded.get((package, version))):
            if wanted is not None and wanted != sha256:
                raise DataError(f"{package} {version}: its SHA-256 must be {wanted}, but is {sha256}; it was not kept")
        target = self.output / source.name / name
        target.parent.mkdir(parents=True, exist_ok=True)
        others = [e for e in self.entries if (e["source"], e["package"]) == (source.name, package)]
        for entry in others:
            if entry["file"] not in {name, *siblings}:
                remove(target.with_name(entry["file"]))
                self.entries.remove(entry)
        move_into_place(file, target)
        entry = {
            "source": source.name, "package": package, "version": version, "file": name,
            "bytes": target.stat().st_size, "sha256": sha256, "licence": source.licence, **facts,
        }  # fmt: skip
        self.entries = [
            e for e in self.entries if (e["source"], e["package"], e["file"]) != (source.name, package, name)
        ]
        self.entries.append(entry)
        self.entries.sort(key=lambda e: (e["source"], e["package"], e["file"]))
        self.save()  # at once: what is there need not be fetched again after a kill
        self.fetched += 1

    def save(self) -> None:
        """Write the manifest."""
        write_json(self.output / "manifest.json", self.entries)

    def apt(self) -> Apt:
        """apt, with its lists fetched once."""
        if self._apt is None:
            apt = Apt(self.output / ".apt", self.locales)
            _retried(apt.update)
            self._apt = apt
        return self._apt

    def fetch_packages(self, wanted: list[Wanted]) -> None:
        """Fetch Debian packages, all at once."""
        offered = self.apt().offered([package for _, package in wanted])
        failures = "".join(f"; {failure}" for failure in self.apt().not_fetched[:1])
        for _, package in wanted:
            if package not in offered:
                self.missing[package] = f"not offered by this machine's apt sources{failures}"
        names = sorted(offered[p].package for _, p in wanted if p in offered)
        if not names:
            return
        with tempfile.TemporaryDirectory(dir=self.output, prefix=".partial-") as name:
            folder = Path(name)
            reason = ""
            for attempt in range(TRIES):
                here = {p.name.split("_")[0] for p in folder.glob("*.deb")}
                if not (left := [n for n in names if n not in here]):
                    break
                if attempt:
                    time.sleep(WAIT_SECONDS * attempt)
                reason = self.apt().download(left, folder)
            files = {p.name.split("_")[0]: p for p in folder.glob("*.deb")}
            for source, package in wanted:
                if package in files:
                    offer, file = offered[package], files[package]
                    self.add(source, package, offer.version, file, file.name, expected=offer.sha256)
                elif package in offered:
                    self.missing[package] = reason or "not downloaded"

    def fetch_descriptions(self, source: Source) -> None:
        """Fetch the indices of translated package descriptions, which apt downloads with its lists."""
        package = source.packages[0]
        if failures := [failure for failure in self.apt().not_fetched if "Translation-" in failure]:
            self.missing[package] = f"not all languages are there now: {failures[0]}"
            return
        # <host>_<folders>_dists_bookworm_main_i18n_Translation-de
        paths = {path.name.partition("_dists_")[2].replace("%5f", "_"): path for path in self.apt().descriptions()}
        names = [name for name in paths if name.rpartition("Translation-")[2] in self.locales]
        for name in names:
            copy = self.output / f".partial-{name}"
            shutil.copyfile(paths[name], copy)
            version = f"{name.split('_')[0]} {int(paths[name].stat().st_mtime)}"
            self.add(source, package, version, copy, name, siblings=names, asked_for=self.locales)
        if not paths:
            self.missing[package] = "apt fetched no translated descriptions"

    def fetch_npm(self, source: Source, package: str) -> None:
        """Fetch one package of the npm registry."""
        with tempfile.TemporaryDirectory(dir=self.output, prefix=".partial-") as name:
            try:
                version, file = _retried(lambda: npm.pack(package, Path(name)))
            except DataError as error:
                self.missing[package] = str(error)
                return
            self.add(source, package, version, file, file.name)


def _retried(work: Callable[[], Any]) -> Any:
    for attempt in range(TRIES):
        try:
            return work()
        except DataError as error:
            if attempt == TRIES - 1:
                raise
            logger.warning("fetch: %s; trying again", error)
            time.sleep(WAIT_SECONDS * (attempt + 1))


def _without_apt(fetcher: Fetcher, wanted: list[Wanted]) -> list[Wanted]:
    """What is left to fetch: nothing with apt where that fails, but all that it would bring was missing before.

    A package that is never offered would else make every later run need the network.
    """
    of_apt = [(source, package) for source, package in wanted if source.registry in {"apt", "apt-descriptions"}]
    if not of_apt:
        return wanted
    try:
        fetcher.apt()
    except DataError as error:
        missing_before = (read_json(stats_path(fetcher.output)) or {}).get("missing", {})
        if not all(package in missing_before for _, package in of_apt):
            raise
        fetcher.missing |= {package: str(error) for _, package in of_apt}
        return [item for item in wanted if item not in of_apt]
    return wanted


def read_versions(recipe: Recipe) -> dict[tuple[str, str], str]:
    """``versions.tsv`` of the recipe and of those that it extends: hashes of packages, by name and version."""
    recorded = {}
    for path in recipe.version_files:
        rows = [line.split("\t") for line in read_text(path).splitlines()[1:] if line] if path.is_file() else []
        for row in rows:
            if len(row) != 3:
                raise DataError(f"{path}: {row[0]!r} has {len(row)} fields, but must have package, version and sha256")
            recorded[row[0], row[1]] = row[2]
    return recorded


def fetch(recipe: Recipe, sources: list[Source], output: Path, locales: list[str]) -> Fetcher:
    """Fetch all sources' packages that are not there yet."""
    output.mkdir(parents=True, exist_ok=True)
    for leftover in output.glob(".partial-*"):
        remove(leftover)
    fetcher = Fetcher(output, read_versions(recipe), locales)
    wanted = [(s, p) for s in sources for p in s.packages if not fetcher.has(s, p)]
    try:
        wanted = _without_apt(fetcher, wanted)
        if debian := [(s, p) for s, p in wanted if s.registry == "apt"]:
            fetcher.fetch_packages(debian)
        for source, package in wanted:
            if source.registry == "apt-descriptions":
                fetcher.fetch_descriptions(source)
            elif source.registry == "npm":
                fetcher.fetch_npm(source, package)
            elif source.registry != "apt":
                raise DataError(
                    f"source {source.name}: unknown registry {source.registry!r}; known are apt, apt-descriptions, npm"
                )
    finally:
        fetcher.save()
    return fetcher


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.fetch", description=__doc__.splitlines()[0])
    add_recipe_options(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder to download to")
    add_common_options(parser, jobs=False)
    args = parser.parse_args()
    set_up_logging(args)
    refuse_without_effect(args, "here: packages hold all languages", "--languages")
    recipe, preset, _ = chosen_recipe(args)
    sources = [source for source in recipe.sources_of(preset) if source.packages]
    locales = sorted(
        {locale for language in recipe.languages.values() for locale in language.locales if "-" not in locale}
    )
    start = time.monotonic()
    fetcher = fetch(recipe, sources, args.output, locales)
    here = [e for e in fetcher.entries if e["source"] in {s.name for s in sources}]
    if not here:
        reasons = "; ".join(f"{package}: {reason}" for package, reason in list(fetcher.missing.items())[:3])
        raise DataError(f"no package of preset {preset.name} could be fetched ({reasons})")
    counts = {
        "files": len(here), "bytes": sum(e["bytes"] for e in here), "fetched_now": fetcher.fetched,
        "missing": len(fetcher.missing),
    }  # fmt: skip
    write_json(
        stats_path(args.output),
        {"step": "fetch", "seconds": round(time.monotonic() - start, 2), "counts": counts, "missing": fetcher.missing},
    )
    for package, reason in fetcher.missing.items():
        print(f"fetch: left out {package}: {reason}")
    print(
        f"fetch: {counts['files']} files, {counts['bytes'] / 1e6:.0f} MB; {counts['fetched_now']} of them fetched now"
    )


if __name__ == "__main__":
    os.umask(0o022)
    run_program(main, "data_prep.fetch")
