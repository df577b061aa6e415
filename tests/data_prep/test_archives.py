"""Packages are read in memory, and refused if a member points outside."""

import shutil
from pathlib import Path

import pytest

from data_prep.archives import read_members
from data_prep.errors import DataError
from tests.data_prep.helpers import deb_package, tar_bytes

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs the program dpkg-deb")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x"])
def test_member_that_points_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "bad.tar.gz"
    archive.write_bytes(tar_bytes({"good": b"1", name: b"2"}))

    with pytest.raises(DataError, match=f"bad.tar.gz: refused, its member '{name}' points outside"):
        list(read_members(archive, lambda _: True))


@needs_dpkg
def test_debian_package_is_read_without_installing_it(tmp_path: Path) -> None:
    archive = tmp_path / "tiny.deb"
    archive.write_bytes(deb_package({"./usr/a.mo": b"one", "./usr/b.txt": b"two", "./usr/c.mo": b"three" * 5000}))

    assert list(read_members(archive, lambda n: n.endswith(".mo"))) == [
        ("usr/a.mo", b"one"),
        ("usr/c.mo", b"three" * 5000),
    ]


@needs_dpkg
def test_debian_package_with_a_member_outside_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "tiny.deb"
    archive.write_bytes(deb_package({"../../x": b"1"}))

    with pytest.raises(DataError, match="points outside"):
        list(read_members(archive, lambda _: True))


def test_damaged_archive_is_an_error_that_names_it(tmp_path: Path) -> None:
    archive = tmp_path / "cut.tgz"
    archive.write_bytes(tar_bytes({"a": bytes(100_000)})[:60])

    with pytest.raises(DataError, match="cut.tgz: damaged or not an archive"):
        list(read_members(archive, lambda _: True))


@needs_dpkg
def test_damaged_debian_package_is_an_error_that_names_it(tmp_path: Path) -> None:
    archive = tmp_path / "cut.deb"
    archive.write_bytes(b"!<arch>\nno package")

    with pytest.raises(DataError, match="cut.deb: damaged or not a .deb package"):
        list(read_members(archive, lambda _: True))
