"""transformers' own common tests: fetched with the installed release's source distribution, and run over our models.

The wheel has no tests. The source distribution has those of one level, `tests/*.py`, not the packages that they import
from: what little they take from there is put in place here.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path


CASES = Path(__file__).with_name("transformers_cases.py")
# The mixins are for `export` and autoregressive generation; the values are those of a config that differ from its own.
LEFT_OUT = {
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/test_configuration_utils.py": """config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 1,
    "architectures": ["Model"],
    "id2label": {0: "label"},
    "label2id": {"label": "0"},
    "problem_type": "regression",
}
""",
}


class NotAvailableError(RuntimeError):
    """What the tests need cannot be had here: no package index, or a package of the `dev` extra."""


def fetch(version: str, folder: Path) -> Path:
    """The root folder of the tests of a transformers release, fetched into `folder` unless it is there.

    Raises:
        NotAvailableError: If the package index cannot be reached.
    """
    root = folder / f"transformers-{version}"
    if root.is_dir():
        return root
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        download = ["download", "--quiet", "--no-deps", "--no-binary", "transformers", "--dest", scratch]
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--timeout", "15", "--retries", "1"]
        run = subprocess.run([*pip, *download, f"transformers=={version}"], capture_output=True, text=True)
        if run.returncode:
            last = (run.stderr.strip().splitlines() or ["pip failed"])[-1]
            raise NotAvailableError(f"cannot fetch the source distribution of transformers {version}: {last}")
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        unpacked = Path(scratch) / "root"
        shutil.copytree(Path(scratch) / f"transformers-{version}" / "tests", unpacked / "tests")
        unpacked.rename(root)
    return root


def prepare(root: Path):
    """Put our cases, and the modules that the source distribution leaves out, next to transformers' tests."""
    (root / "pytest.ini").write_text("[pytest]\nfilterwarnings = ignore\n")
    files = LEFT_OUT | {"models/d3llm/test_modeling_d3llm.py": CASES.read_text(encoding="utf-8")}
    for name, text in files.items():
        path = root / "tests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for package in {root / "tests", *(path.parent for path in (root / "tests").rglob("*.py"))}:
        (package / "__init__.py").touch()
    (root / "tests" / "models" / "__init__.py").touch()


def outcomes(report: Path) -> dict[str, str]:
    """`"passed"`, `"failed"` or `"skipped"` of each `Class.test` of a JUnit report; a subtest can fail its test."""
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname', '').rsplit('.', 1)[-1]}.{case.get('name', '')}"
        if case.find("failure") is not None or case.find("error") is not None:
            found[name] = "failed"
        elif case.find("skipped") is not None:
            found.setdefault(name, "skipped")
        else:
            found.setdefault(name, "passed")
    return found


def run_common_tests(version: str, folder: Path) -> tuple[dict[str, str], str]:
    """Run the common tests of a transformers release over our models.

    Args:
        version (`str`): The installed release.
        folder (`Path`): Where the source distributions are kept.

    Returns:
        `tuple[dict[str, str], str]`: What became of each test, as [`outcomes`] says it, and what pytest printed.

    Raises:
        NotAvailableError: If the tests cannot be had.
        RuntimeError: If pytest did not come to its end.
    """
    if importlib.util.find_spec("parameterized") is None:
        raise NotAvailableError("transformers' tests need parameterized: pip install -e '.[dev]'")
    root = fetch(version, folder)
    prepare(root)
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=short"]
            + [f"--junitxml={report}", "tests/models/d3llm"],
            cwd=root,
            env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
            # More threads than one make the tiny models several times as slow.
            | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        if not report.is_file():
            last = "\n".join((run.stdout + run.stderr).splitlines()[-20:])
            raise RuntimeError(f"pytest ended with {run.returncode} and wrote no report; its last lines:\n{last}")
        return outcomes(report), run.stdout
