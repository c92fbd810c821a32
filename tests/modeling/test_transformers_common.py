"""Whether our models pass transformers' own common tests, those of the list apart."""

import os
from pathlib import Path

import pytest
import transformers
import yaml
from packaging.version import Version

from tests.helpers import transformers_common
from tests.helpers.transformers_common import NotAvailableError, run_common_tests


pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(
        Version(transformers.__version__) < Version("5.23"), reason="the list is of transformers 5.23 and later"
    ),
]
LIST = Path(__file__).with_name("transformers_common.yaml")
# Of 5.23.0, where 297 pass; fewer mean that the cases are no longer collected, or are skipped.
FEWEST_PASSED = 285


@pytest.fixture(scope="module")
def run(pytestconfig: pytest.Config) -> tuple[dict[str, str], str]:
    try:
        return run_common_tests(transformers.__version__, pytestconfig.cache.mkdir("transformers"))
    except NotAvailableError as reason:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def listed() -> set[str]:
    return {name for group in yaml.safe_load(LIST.read_text(encoding="utf-8")) for name in group["tests"]}


@pytest.mark.slow
def test_every_common_test_passes_or_is_on_the_list(run, listed):
    found, printed = run
    failed = {name for name, outcome in found.items() if outcome == "failed"} - listed
    assert not failed, f"{sorted(failed)}\n{printed}"
    assert sum(outcome == "passed" for outcome in found.values()) >= FEWEST_PASSED


@pytest.mark.slow
def test_everything_on_the_list_fails(run, listed):
    found, printed = run
    others = {name: found.get(name, "not collected") for name in listed if found.get(name) != "failed"}
    assert not others, f"{others}\n{printed}"


def test_a_run_that_breaks_off_says_how(monkeypatch, tmp_path):
    monkeypatch.setattr(transformers_common, "fetch", lambda version, folder: tmp_path)
    monkeypatch.setattr(transformers_common, "prepare", lambda root: (root / "pytest.ini").write_text("[pytest\n"))
    with pytest.raises(RuntimeError, match=r"pytest ended with 4 and wrote no report; its last lines:\n(.|\n)*unexp"):
        run_common_tests("5.23.0", tmp_path)


def test_each_test_is_on_the_list_once_with_a_reason():
    groups = yaml.safe_load(LIST.read_text(encoding="utf-8"))
    names = [name for group in groups for name in group["tests"]]
    assert len(names) == len(set(names))
    assert all(group["reason"].strip() and group["tests"] for group in groups)
