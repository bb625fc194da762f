"""What runs beside the default job: the lowest versions, newer Pythons, macOS, Lightning's main branch."""

import subprocess
import sys
import tomllib
from itertools import chain

import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
JOBS = WORKFLOW["jobs"]


def lines(job: str) -> list[str]:
    return [step["run"] for step in JOBS[job]["steps"] if "run" in step]


def test_lower_bounds_are_those_of_pyproject():
    """Each package that is named, at a version that is allowed and below which none is."""
    printed = subprocess.run(
        [sys.executable, ROOT / ".ci" / "lower_bounds"], check=True, capture_output=True, encoding="utf-8"
    )
    bounds = dict(line.split("==") for line in printed.stdout.splitlines())
    named = [*PROJECT["dependencies"], *chain.from_iterable(PROJECT["optional-dependencies"].values())]
    requirements = [requirement for requirement in map(Requirement, named) if requirement.name != "gan"]
    assert len(requirements) > 15
    assert {requirement.name for requirement in requirements} == set(bounds)
    for requirement in requirements:
        assert bounds[requirement.name] in requirement.specifier
        assert f">={bounds[requirement.name]}" in map(str, requirement.specifier)


def test_the_lowest_versions_are_tested_on_the_lowest_python():
    (python,) = [step["with"]["python-version"] for step in JOBS["lowest"]["steps"] if "with" in step]
    assert PROJECT["requires-python"] == f">={python}"
    assert lines("lowest") == [
        ".ci/lower_bounds > lowest.txt",
        'pip install -e ".[test]" --constraint lowest.txt',
        "pytest",
    ]


def test_the_newest_are_tested_on_linux_and_macos():
    matrix = JOBS["newest"]["strategy"]["matrix"]["include"]
    assert {job["os"].split("-")[0] for job in matrix} == {"ubuntu", "macos"}
    assert all(job["python"] in SpecifierSet(PROJECT["requires-python"]) for job in matrix)
    assert lines("newest")[-1].endswith("pytest")


def test_main_branch_of_lightning_is_a_report():
    """It runs on a schedule alone, and holds nothing up."""
    assert "schedule" in WORKFLOW[True]  # YAML's word for `on`
    assert JOBS["lightning"]["continue-on-error"] is True
    assert "schedule" in JOBS["lightning"]["if"]
    assert not any("continue-on-error" in job for name, job in JOBS.items() if name != "lightning")
