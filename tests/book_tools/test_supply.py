"""Where the book's parts come from: the lock, the oldest versions, the workflows, and the notes of what was run."""

import base64
import json
import re
import sys
from importlib.metadata import distribution, version

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from book_tools.chapter import ROOT
from trials import versions

WORKFLOWS = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in (ROOT / ".github/workflows").glob("*.yml")}
JOBS = [(file, name, job) for file, content in WORKFLOWS.items() for name, job in content["jobs"].items()]
# Which job may write what, and why.
WRITES = {
    ("book", "deploy"): {"pages", "id-token"},  # publishes the site, and proves who does
    ("book", "notebooks"): {"contents"},  # pushes the branch that Colab reads
    ("links", "links"): {"issues"},  # reports dead links
}


def needed():
    """Every package that the environment takes, from its declarations; torch names its CUDA packages itself."""
    seen, todo = set(), [("kexue", "book")]
    while todo:
        name, extra = todo.pop()
        for line in distribution(name).requires or []:
            requirement = Requirement(line)
            package = canonicalize_name(requirement.name)
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
            cuda = name == "torch" and re.match("nvidia-|cuda-|triton", package)
            if wanted and not cuda:
                extras = requirement.extras or {""}
                todo += [(package, each) for each in extras if (package, each) not in seen]
                seen |= {(package, each) for each in extras}
    return {name for name, _ in seen}


def test_every_package_that_is_needed_is_pinned_and_installed_at_its_pin():
    locked = {name: line.partition("==")[2] for name, line in versions.pins()}
    found = needed()
    assert {"numpy", "hatchling", "editables", "sphinx", "jinja2"} <= found <= set(locked)
    for name in found:
        pins = [line.partition("==")[2].partition(" ")[0] for other, line in versions.pins() if other == name]
        assert version(name).split("+")[0] in pins, f"{name} is installed in another version than the lock has"


def test_the_build_takes_nothing_that_is_not_locked():
    project = versions.tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert all(versions.pinned(Requirement(line).name) for line in project["build-system"]["requires"])
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all("--no-build-isolation" in line for line in makefile.splitlines() if "--editable" in line)
    assert "--no-deps --require-hashes -r requirements-hashed.txt" in makefile


def test_every_pin_has_its_hashes():
    packages = re.split(r"\n(?=\S)", (ROOT / "requirements-hashed.txt").read_text(encoding="utf-8"))
    entries = [package for package in packages if not package.startswith("#")]
    assert [entry.partition("\n")[0].rstrip(" \\") for entry in entries] == [line for _, line in versions.pins()]
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", package) for package in entries) and len(entries) > 100
    assert not [name for name, _ in versions.pins() if re.match("nvidia-|cuda-|triton", name)]


def test_finishing_a_lock_drops_cuda_with_its_hashes(tmp_path, monkeypatch):
    packages = ("numpy==2.0", "aa"), ("nvidia-x==1", "bb"), ("triton==3 ; sys_platform == 'linux'", "cc")
    fresh = "#    made by uv\n" + "".join(f"{pin} \\\n    --hash=sha256:{each}\n" for pin, each in packages)
    (tmp_path / "requirements-hashed.txt").write_text(fresh, encoding="utf-8")
    monkeypatch.setattr(versions, "ROOT", tmp_path)
    for _ in range(2):  # what is finished stays
        versions.finish_lock()
        hashed, plain = ((tmp_path / f"requirements{end}.txt").read_text(encoding="utf-8") for end in ("-hashed", ""))
        assert hashed.splitlines() == [*versions.HASHED_HEADER, "numpy==2.0 \\", "    --hash=sha256:aa"]
        assert plain.splitlines() == [*versions.HEADER, "numpy==2.0"]


def test_the_oldest_versions_are_the_bounds_of_the_metadata():
    lines = versions.oldest()
    bounds = {Requirement(line).name: line.replace(">=", "==") for line in distribution("kexue").requires if ">=" in line}
    for name in versions.PROMISED:
        assert [line for line in lines if re.match(rf"{name}==", line)] == [bounds[name].partition(";")[0].strip()]
    assert not [line for line in lines if line.startswith("sympy")]
    assert f"pytest=={versions.pinned('pytest')}" in lines
    assert versions.pinned("no-such-package") is None


REPORT = '<testsuites><testsuite tests="9" failures="1" errors="1" skipped="2">{}</testsuite></testsuites>'


def test_a_run_is_noted_once_per_versions(tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "RESULTS", tmp_path)
    report = tmp_path / "report.xml"
    report.write_text(REPORT.format(""), encoding="utf-8")
    for what in ("unit tests", "chapters", "unit tests"):
        versions.record(what, report)
    entries = json.loads((tmp_path / "versions.json").read_text(encoding="utf-8"))["entries"]
    assert [entry["what"] for entry in entries] == ["chapters", "unit tests"]
    assert (entries[0]["passed"], entries[0]["failed"], entries[0]["skipped"]) == (5, 2, 2)
    assert entries[0]["python"] == ".".join(map(str, sys.version_info[:3])) and entries[0]["torch"] == version("torch")


def test_examples_are_counted_and_a_failure_is_not_noted(tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "RESULTS", tmp_path)
    told = base64.b64encode(b"  - 70 passing, 0 failing, and 3 invalid test cases").decode()
    good, bad = tmp_path / "good.xml", tmp_path / "bad.xml"
    good.write_text(REPORT.format(f'<property name="a" value="{told}"/><property name="b" value="{told}"/>'), encoding="utf-8")
    bad.write_text(REPORT.format("<testcase><failure/></testcase>"), encoding="utf-8")
    versions.properties([good, good])
    noted = json.loads((tmp_path / "properties.json").read_text(encoding="utf-8"))
    assert (noted["tests"], noted["examples"]) == (4, 280)
    with pytest.raises(SystemExit, match="nothing was noted"):
        versions.properties([good, bad])


def test_actions_are_pinned_by_commit_and_keep_no_credentials():
    for file in WORKFLOWS:
        lines = (ROOT / ".github/workflows" / f"{file}.yml").read_text(encoding="utf-8").splitlines()
        used = [line for line in lines if "uses:" in line]
        assert used and all(re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v[\d.]+$", line) for line in used)
    steps = [step for _, _, job in JOBS for step in job["steps"] if "checkout" in step.get("uses", "")]
    assert steps and all(step["with"]["persist-credentials"] is False for step in steps)


def test_tokens_read_except_where_a_job_must_write():
    assert all(content["permissions"] == {"contents": "read"} for content in WORKFLOWS.values())
    writing = {(file, name): {k for k, v in job.get("permissions", {}).items() if v == "write"} for file, name, job in JOBS}
    assert {job: rights for job, rights in writing.items() if rights} == WRITES
    for content in WORKFLOWS.values():
        assert not {"pull_request_target", "workflow_run"} & set(content[True])  # YAML reads "on" as true


def test_nothing_is_published_before_everything_is_tested():
    jobs = WORKFLOWS["book"]["jobs"]
    for name in ("deploy", "notebooks"):
        assert set(jobs[name]["needs"]) == {"test", "portable", "oldest"}
        assert "github.event_name == 'push'" in jobs[name]["if"]
