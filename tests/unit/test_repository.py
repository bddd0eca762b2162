"""Files for GitHub and pre-commit: they are valid, and agree with Makefile and packages."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def classified_pythons(name: str) -> list[str]:
    text = (ROOT / name / "pyproject.toml").read_text(encoding="utf-8")
    return re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text)


@pytest.mark.parametrize("path", WORKFLOWS, ids=[path.name for path in WORKFLOWS])
def test_workflows_call_targets_that_exist(path: Path) -> None:
    for name, job in load(path)["jobs"].items():
        for step in job.get("steps", []):
            assert ("uses" in step) != ("run" in step), f"{path.name}: {name}"
            for call in re.findall(r"\bmake ((?:[a-z-]+ )*[a-z-]+)(?= |$)", step.get("run", "")):
                assert set(call.split()) <= MAKE_TARGETS, f"{path.name}: make {call}"


def test_the_matrix_has_the_pythons_of_the_classifiers() -> None:
    jobs = load(ROOT / ".github" / "workflows" / "test.yml")["jobs"]
    pythons = jobs["test"]["strategy"]["matrix"]["python"]
    assert pythons == classified_pythons("client") == classified_pythons("server")


def test_only_publishing_gets_a_token() -> None:
    release = load(ROOT / ".github" / "workflows" / "release.yml")
    assert release["permissions"] == {"contents": "read"}
    assert [name for name, job in release["jobs"].items() if "permissions" in job] == ["publish"]
    publish = release["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"] == "pypi"
    assert "password" not in str(release)


def test_the_site_of_a_release_has_its_version_as_name() -> None:
    docs = load(ROOT / ".github" / "workflows" / "docs.yml")
    assert docs["permissions"] == {"contents": "read"}
    steps = "".join(step.get("run", "") for step in docs["jobs"]["site"]["steps"])
    assert 'docs/site/push.sh "${GITHUB_REF_NAME#v}"' in steps
    assert (ROOT / "docs" / "site" / "push.sh").is_file()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_site_is_pushed_beside_other_versions(tmp_path: Path) -> None:
    def run(*command: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"] if command[0] == "git" else []
        full = [command[0], *identity, *command[1:]]
        return subprocess.run(full, cwd=work, check=True, capture_output=True, text=True, timeout=60).stdout

    work, remote = tmp_path / "work", tmp_path / "remote.git"
    shutil.copytree(ROOT / "docs" / "site", work / "docs" / "site")
    (work / ".gitignore").write_text("build/\n")
    run("git", "init", "--quiet", "--initial-branch=main")
    run("git", "init", "--quiet", "--bare", str(remote))
    run("git", "remote", "add", "origin", str(remote))
    run("git", "add", "--all")
    run("git", "commit", "--quiet", "--message", "The sources")
    for text, name in (("new", "main"), ("released", "2.0.0"), ("newer", "main"), ("newer", "main")):
        shutil.rmtree(work / "build", ignore_errors=True)
        run("git", "worktree", "prune")
        site = work / "build" / "site"
        site.mkdir(parents=True)
        (site / "index.html").write_text(text)
        run("docs/site/push.sh", name)
    assert run("git", "--git-dir", str(remote), "show", "gh-pages:main/index.html") == "newer"
    assert run("git", "--git-dir", str(remote), "show", "gh-pages:2.0.0/index.html") == "released"
    listed = json.loads(run("git", "--git-dir", str(remote), "show", "gh-pages:versions.json"))
    assert listed == {"versions": ["main", "2.0.0"], "latest": "2.0.0"}
    files = run("git", "--git-dir", str(remote), "ls-tree", "--name-only", "gh-pages").split()
    assert files == [".nojekyll", "2.0.0", "index.html", "main", "versions.json"]
    assert run("git", "--git-dir", str(remote), "rev-list", "--count", "gh-pages").strip() == "3"


def test_dependabot_watches_folders_that_exist() -> None:
    for update in load(ROOT / ".github" / "dependabot.yml")["updates"]:
        assert (ROOT / update["directory"].lstrip("/")).is_dir()


def test_pre_commit_runs_what_make_check_runs() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    commands = "".join(re.findall(r"^check-(?:types|text):.*\n((?:\t.*\n)+)", makefile, re.M))
    assert re.search(r"^check:.*\n\t.* check-types check-text\n", makefile, re.M)
    for repository in load(ROOT / ".pre-commit-config.yaml")["repos"]:
        for hook in repository["hooks"]:
            program = " ".join(word for word in hook["entry"].split()[:2] if not word.startswith("-"))
            assert program.replace(".venv/bin", "$(BIN)") in commands, hook["id"]


def test_tests_quoted_in_the_docs_exist() -> None:
    functions = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text("utf-8"), re.M)
    }
    quoted: list[str] = []
    unknown: list[str] = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        text = page.read_text(encoding="utf-8")
        names = re.findall(r"`(test_\w+)`", text)
        files = re.findall(r"\btests/[\w/]+\.py", text)
        quoted += names + files
        unknown += [f"{page.name}: {name}" for name in names if name not in functions]
        unknown += [f"{page.name}: {file}" for file in files if not (ROOT / file).is_file()]
    assert quoted
    assert unknown == []
