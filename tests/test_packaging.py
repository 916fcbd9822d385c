"""What is installed is what stands in the checkout, under one name; and the test run enforces shapes."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import physadv
from physadv.files import to_pil
from physadv.transforms.colour import luminance

ROOT = Path(physadv.__file__).parents[1]


def _run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel made from the sdist made from the checkout, as an installer would that finds no wheel."""
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("physadv-*.whl")
    return built


def _shipped(folder: str) -> set[str]:
    files = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in files}


def test_wheel_holds_the_checkout_under_one_name(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    beside = {f"physadv/{name}" for folder in ("transforms", "assets") for name in _shipped(folder)}
    assert names == _shipped("physadv") | beside | {"physadv/cli.py"}


def test_wheel_has_the_command_and_the_licence(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    names = [name for name in archive.namelist() if ".dist-info/" in name]
    meta = {name.split(".dist-info/")[1]: archive.read(name).decode() for name in names}
    assert "physadv = physadv.cli:main" in meta["entry_points.txt"]
    assert meta["licenses/LICENSE"] == (ROOT / "LICENSE").read_text()
    assert f"Version: {physadv.__version__}\n" in meta["METADATA"]


def test_installed_package_finds_its_parts_inside_itself(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import sys; sys.path.insert(0, '.'); import physadv; from importlib.util import find_spec as find;"
        "print(len(physadv.__path__), physadv.ASSETS, find('physadv.cli').origin, find('physadv.transforms').origin)"
    )
    inside = tmp_path / "physadv"
    expected = f"1 {inside / 'assets'} {inside / 'cli.py'} {inside / 'transforms' / '__init__.py'}"
    assert _run(sys.executable, "-I", "-c", code, cwd=tmp_path).strip() == expected


def test_checkout_runs_without_being_installed(tmp_path: Path) -> None:
    assert "attack" in _run(sys.executable, ROOT / "cli.py", "--help", cwd=tmp_path)


def test_every_dependency_is_pinned_to_a_version_it_allows() -> None:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            (exact,) = pin.specifier
            assert (exact.operator, pin.url) == ("==", None)
            assert "+" not in exact.version
            pins[canonicalize_name(pin.name)] = exact.version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for wanted in map(Requirement, project["dependencies"] + project["optional-dependencies"]["dev"]):
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), wanted


def test_ci_runs_the_commands_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    readme = (ROOT / "README.md").read_text()
    for command in ("pip install -c constraints.txt -e '.[dev]'", "pytest -n 2 -q -m 'not slow'"):
        assert command in script
        assert command in readme


def test_wrong_shapes_are_refused_while_testing() -> None:
    with pytest.raises(TypeCheckError, match="c h w"):
        to_pil(torch.zeros(1, 3, 4, 4))


def test_shapes_of_modules_beside_the_package_are_enforced_too() -> None:
    with pytest.raises(TypeCheckError, match="n 3 h w"):
        luminance(torch.zeros(1, 4, 2, 2))
