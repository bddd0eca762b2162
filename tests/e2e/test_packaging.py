"""The distributions: they build, hold what they should, and work without the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import numpy
import pytest

from bert_serving.client import __version__ as client_version
from bert_serving.server import __version__

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheel and source distribution of client and server, built from copies of their folders."""
    out = tmp_path_factory.mktemp("dist")
    for name in ("client", "server"):
        source = tmp_path_factory.mktemp(name) / name
        shutil.copytree(ROOT / name, source, ignore=shutil.ignore_patterns("*.egg-info", "build", "__pycache__"))
        code = f"import setuptools.build_meta as b; b.build_sdist({str(out)!r}); b.build_wheel({str(out)!r})"
        done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, timeout=150)
        assert done.returncode == 0, done.stderr
    return out


def wheel(built: Path, name: str) -> Path:
    return next(built.glob(f"bert_serving_{name}-*.whl"))


def metadata(path: Path) -> Message:
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def requirements(path: Path) -> list[str]:
    return metadata(path).get_all("Requires-Dist") or []


def test_the_client_brings_numpy_and_pyzmq_and_nothing_else(built: Path) -> None:
    needed = [r for r in requirements(wheel(built, "client")) if "extra ==" not in r]
    assert sorted(r.split(">")[0] for r in needed) == ["numpy", "pyzmq"]


def test_the_server_has_its_extras(built: Path) -> None:
    needed = requirements(wheel(built, "server"))
    for extra in ("tensorflow", "http"):
        assert any(f'extra == "{extra}"' in r for r in needed)
    assert not any(r.startswith("tensorflow") and "extra ==" not in r for r in needed)


@pytest.mark.parametrize("name", ["client", "server"])
def test_packages_share_the_namespace(built: Path, name: str) -> None:
    with zipfile.ZipFile(wheel(built, name)) as archive:
        names = archive.namelist()
    assert f"bert_serving/{name}/__init__.py" in names
    assert "bert_serving/__init__.py" not in names
    other = "server" if name == "client" else "client"
    assert not any(n.startswith(f"bert_serving/{other}/") for n in names)
    assert f"bert_serving/{name}/py.typed" in names
    assert any(n.endswith("/LICENSE") for n in names)
    assert (ROOT / name / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    sources = {p.relative_to(ROOT / name).as_posix() for p in (ROOT / name / "bert_serving").rglob("*.py")}
    assert sources <= set(names)
    with tarfile.open(next(built.glob(f"bert_serving_{name}-*.tar.gz"))) as archive:
        packed = {"/".join(n.split("/")[1:]) for n in archive.getnames()}
    assert sources | {"pyproject.toml", "README.md"} <= packed


@pytest.mark.parametrize("name", ["client", "server"])
def test_the_metadata_names_licence_authors_and_addresses(built: Path, name: str) -> None:
    fields = metadata(wheel(built, name))
    assert fields["License-Expression"] == "MIT"
    assert fields.get_all("License-File") == ["LICENSE"]
    assert fields["Author"]
    assert fields.get_all("Project-URL")
    assert "Typing :: Typed" in (fields.get_all("Classifier") or [])


def test_the_server_brings_its_dashboard(built: Path) -> None:
    folder = ROOT / "server" / "bert_serving" / "server" / "http" / "static"
    files = {p.relative_to(ROOT / "server").as_posix() for p in folder.rglob("*") if p.is_file()}
    assert len(files) > 10
    with zipfile.ZipFile(wheel(built, "server")) as archive:
        assert files <= set(archive.namelist())
    with tarfile.open(next(built.glob("bert_serving_server-*.tar.gz"))) as archive:
        assert files <= {"/".join(n.split("/")[1:]) for n in archive.getnames()}


def test_they_work_when_installed(built: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True, timeout=120)
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    for name in ("client", "server"):
        with zipfile.ZipFile(wheel(built, name)) as archive:
            archive.extractall(site)
    # What they depend on comes from the environment of the tests, whose editable installs are not followed.
    (site / "dependencies.pth").write_text(str(Path(numpy.__file__).parents[1]))
    code = (
        "import bert_serving.client as c, bert_serving.server as s; from bert_serving.server.cli.start import start; "
        "from bert_serving.server import BertServer; print(c.__file__); print(s.__file__); start(['-version'])"
    )
    done = subprocess.run(
        [str(tmp_path / "env" / "bin" / "python"), "-c", code],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    client, server, version = done.stdout.splitlines()
    assert client.startswith(str(site))
    assert server.startswith(str(site))
    assert __version__ in version


def test_commands_are_installed(built: Path) -> None:
    with zipfile.ZipFile(wheel(built, "server")) as archive:
        name = next(n for n in archive.namelist() if n.endswith("entry_points.txt"))
        text = archive.read(name).decode()
    for command in (
        "bert-serving-start",
        "bert-serving-terminate",
        "bert-serving-join",
        "bert-serving-ray",
        "bert-serving-keygen",
    ):
        assert command in text


# -- a release: CONTRIBUTING.md ----------------------------------------------------------------------------------------


def test_the_version_is_the_same_everywhere(built: Path) -> None:
    assert client_version == __version__
    assert f"bert-serving-client=={__version__}" in requirements(wheel(built, "server"))
    manifest = (ROOT / "deploy" / "kubernetes" / "deployment.yaml").read_text(encoding="utf-8")
    assert f"image: bert-as-service:{__version__}\n" in manifest
    code = (
        "import setuptools; setuptools.setup = lambda **words: print(words['version']); exec(open('setup.py').read())"
    )
    setup = subprocess.run(
        [sys.executable, "-c", f"__file__ = 'setup.py'; {code}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert setup.stdout.strip() == __version__


def test_the_changelog_tells_of_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.M)


def test_the_pages_for_pypi_are_well_formed(built: Path) -> None:
    pytest.importorskip("twine", reason="make dist installs it")
    files = [str(path) for path in built.iterdir()]
    assert len(files) == 4
    command = [sys.executable, "-m", "twine", "check", "--strict", *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
