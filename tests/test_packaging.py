"""What a wheel holds: every sub-package, the data files, and nothing at the top level but `d3llm`."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .conftest import ROOT


try:
    import tomllib
except ImportError:  # Python 3.10
    tomllib = pytest.importorskip("tomli")

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGE_DIRS = PROJECT["tool"]["setuptools"]["package-dir"]


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    # Built from a copy, so that no `build/` is left in the tree and none that lies there gets in.
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in {path.split("/")[0] for path in PACKAGE_DIRS.values()}:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    target = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        target,
        source,
    ]
    subprocess.run(command, check=True)
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_nothing_but_the_package_at_the_top_level(wheel_names):
    version = PROJECT["project"]["version"]
    assert {name.split("/")[0] for name in wheel_names} == {"d3llm", f"d3llm-{version}.dist-info"}


def test_every_package_folder_is_listed():
    folders = {
        ".".join(["d3llm", *path.parent.relative_to(ROOT).parts])
        for top in PACKAGE_DIRS.values()
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert folders == set(PROJECT["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize("package", sorted(PACKAGE_DIRS))
def test_every_file_of_a_package_is_in_the_wheel(wheel_names, package):
    folder = ROOT / PACKAGE_DIRS[package]
    tracked = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    inside = {name.removeprefix(package.replace(".", "/") + "/") for name in wheel_names}
    missing = {
        name.removeprefix(f"{PACKAGE_DIRS[package]}/") for name in tracked if Path(ROOT / name).exists()
    } - inside
    assert not missing, f"not packaged: add the ending to package-data in pyproject.toml: {sorted(missing)}"
    assert "py.typed" in inside
