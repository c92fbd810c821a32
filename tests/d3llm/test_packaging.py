"""The front door, and what an installation holds: every file of every room, under one name."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from setuptools.config.pyprojecttoml import read_configuration

import d3llm
from tests.helpers.paths import ROOT


ROOMS = sorted(path.name for path in (ROOT / "d3llm").iterdir() if path.is_symlink())


def run(*command: str | Path, cwd: Path, **kwargs) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, **kwargs)
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a clone has, so that nothing is left in the tree and no old `build/` gets in."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("d3llm", *ROOMS):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def build_wheel(origin: Path, target: Path) -> Path:
    options = ("--quiet", "--no-deps", "--no-build-isolation", "-w", target)
    run(sys.executable, "-m", "pip", "wheel", *options, origin, cwd=target)
    (wheel,) = target.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the source distribution."""
    target = tmp_path_factory.mktemp("wheel")
    build = f"import setuptools.build_meta as backend; print(backend.build_sdist({str(target)!r}))"
    return build_wheel(target / run(sys.executable, "-c", build, cwd=source).stdout.strip().splitlines()[-1], target)


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment with the dependencies and without d3llm."""
    run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=tmp_path)
    (site,) = (tmp_path / "venv").glob("lib/python3*/site-packages")
    paths = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(paths) + "\n")
    return tmp_path / "venv"


def install(environment: Path, *what: str | Path) -> None:
    options = ("install", "--quiet", "--no-compile", "--no-deps", "--no-build-isolation", "--ignore-installed")
    run(sys.executable, "-m", "pip", "--python", environment / "bin/python", *options, *what, cwd=environment)


def check(environment: Path, root: Path) -> None:
    """An installation has its command, its module and its checkpoints, all from `root`."""
    assert run(environment / "bin/d3llm", "--version", cwd=environment).stdout == f"d3llm {d3llm.__version__}\n"
    python = environment / "bin/python"
    assert "d3llm presets" in run(python, "-m", "d3llm", "presets", "--help", cwd=environment).stdout
    program = "import d3llm; print(d3llm.__file__, d3llm.checkpoint_path('teacher'))"
    for path in run(python, "-c", program, cwd=environment).stdout.split():
        assert Path(path).is_relative_to(root)


def tracked_files() -> list[str]:
    tracked = subprocess.run(["git", "ls-files", *ROOMS], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    return tracked


def check_files(wheel: Path) -> None:
    """A wheel holds every file of the package and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.split("/")[0] for name in names} == {"d3llm", f"d3llm-{d3llm.__version__}.dist-info"}
    missing = {f"d3llm/{name}" for name in tracked_files() if (ROOT / name).exists()} - names
    assert not missing, f"not packaged: add the ending to package-data in pyproject.toml: {sorted(missing)}"
    assert "d3llm/py.typed" in names


def test_every_ending_is_packaged():
    """What the slow tests find in a wheel, without building one."""
    data = read_configuration(ROOT / "pyproject.toml", expand=False)["tool"]["setuptools"]["package-data"]
    endings = tuple(pattern.rpartition("*")[2] for pattern in data["*"]) + (".py",)
    others = [name for name in tracked_files() if not name.endswith(endings)]
    assert {str(Path(name).parent) for name in others} <= {"hub_cards/metric", "hub_cards/space"}, others


@pytest.mark.processes
@pytest.mark.slow
def test_the_wheel_of_the_source_distribution_holds_every_file(wheel):
    check_files(wheel)


@pytest.mark.slow
def test_the_wheel_of_a_checkout_holds_every_file(source, tmp_path):
    check_files(build_wheel(source, tmp_path))


@pytest.mark.processes
@pytest.mark.slow
def test_an_installed_wheel_works(wheel, environment):
    install(environment, wheel)
    check(environment, environment)
    program = "import d3llm; print(d3llm.LLaDAModelLM.__module__)"
    printed = run(environment / "bin/python", "-c", program, cwd=environment).stdout
    assert printed == "d3llm.modeling.modeling_llada\n"


@pytest.mark.processes
def test_an_editable_installation_works(source, environment):
    install(environment, "-e", source)
    check(environment, source)


def test_importing_the_package_is_cheap():
    program = """import sys, d3llm
dir(d3llm), d3llm.checkpoint_path
heavy = {"torch", "transformers", "datasets"} & set(sys.modules)
assert not heavy, heavy
from d3llm import DreamConfig
from transformers import AutoConfig
assert type(AutoConfig.for_model(DreamConfig.model_type)) is DreamConfig"""
    run(sys.executable, "-c", program, cwd=ROOT)


def test_every_public_name_is_there():
    for name in d3llm.__all__:
        assert getattr(d3llm, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'LLaDA'"):
        d3llm.LLaDA  # noqa: B018


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_one_name(room):
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {room}"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert f"ImportError: {room} is a part of d3llm: import d3llm.{room}." in result.stderr
