"""What code an artefact depends on, and a digest of it that cosmetic edits do not change.

A stage depends on its module and on every `mudit` module that it imports, directly or not, at module level or inside a function.
The digest of a module is over its syntax tree without docstrings: comments, docstrings and layout may change, and Python
versions give the same value. Infrastructure (configuration, registry, provenance, command line, logs, progress, files, who takes
which share of the work) carries no science and does not count. Where parameters name a model of the user's own, its module counts
too, with what that imports outside of installed packages, which the environment describes.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent
REPOSITORY = PACKAGE.parent.parent
LOCK = REPOSITORY / "requirements.lock"
IMAGE = Path(sys.prefix) / "image.json"

_INFRASTRUCTURE = (
    "mudit",
    "mudit.cli",
    "mudit.data.rounds",
    "mudit.depend",
    "mudit.errors",
    "mudit.files",
    "mudit.logs",
    "mudit.runs",
    "mudit.scoped",
    "mudit.stages",
    "mudit.sweep.watch",
    "mudit.train.events",
    "mudit.train.watch",
    "mudit.__main__",
)
_INFRASTRUCTURE_PACKAGES = ("mudit.commands", "mudit.config", "mudit.jobs", "mudit.plan", "mudit.provenance")
_DECISIVE_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "timm", "diffusers", "torch-fidelity", "mup")


def closure(module: str, *named: str) -> dict[str, str]:
    """Everything that `module` and the modules `named` by parameters depend on, themselves included -> digest. Sorted by name.

    Modules go by their dotted name; files that are not Python and lie below the folder of `module` (templates) by their path.
    """
    found: set[str] = set()
    queue = [module, *named]
    while queue:
        name = queue.pop()
        if name in found or _is_infrastructure(name) or (name != module and _path(name) is None):
            continue
        found.add(name)
        queue.extend(_imports(name))
    path = _path(module)
    assert path is not None, f"no module {module} in {PACKAGE}"
    return {name: _digest(name) for name in sorted(found)} | _data_files(path.parent)


def file(name: str) -> Path:
    """The file of one entry of `closure`."""
    path = PACKAGE.parent / name if "/" in name else _path(name)
    assert path is not None, f"no module {name}"
    return path


def files_below(folder: Path) -> list[Path]:
    """Every file of the package's that lies in a folder or below it, without what Python makes."""
    return [path for path in folder.rglob("[!.]*") if path.is_file() and path.suffix != ".pyc"]


def named_modules(parameters: Any) -> list[str]:
    """Modules that a stage's parameters name: factories and calls of models of the user's own (`family: external`)."""
    if isinstance(parameters, list):
        return [name for item in parameters for name in named_modules(item)]
    if not isinstance(parameters, dict):
        return []
    named = [name for item in parameters.values() for name in named_modules(item)]
    if parameters.get("family") == "external":
        named += [parameters[key].partition(":")[0] for key in ("factory", "call") if parameters[key] is not None]
    return named


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@cache
def environment() -> dict[str, Any]:
    """Interpreter, libraries, processor and, inside of one, the image. Recorded and compared, but another makes nothing stale.

    Processors round differently (their vector units sum in another order), so the last digits of a run belong to one of them.
    The image describes itself (containers/train.def): digest of its recipe, its base, and a digest of all that is installed.
    """
    lock = hashlib.sha256(LOCK.read_bytes()).hexdigest() if LOCK.is_file() else None
    packages: dict[str, str | None] = {}
    for name in _DECISIVE_PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = None
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "lock": lock,
        "packages": packages,
        "processor": _processor(),
    }
    if IMAGE.is_file():
        facts["image"] = json.loads(IMAGE.read_text(encoding="utf-8"))
    return {**facts, "digest": digest(facts)}


@cache
def _processor() -> str:
    """Its architecture, name and widest vector instructions, for example `x86_64 AMD EPYC 9654, avx512f`."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return f"{platform.machine()} {platform.processor()}".strip()
    facts = {name.strip(): value.strip() for name, _, value in lines}
    widest = next((each for each in ("avx512f", "avx2") if each in facts.get("flags", "").split()), None)
    return ", ".join(filter(None, [f"{platform.machine()} {facts.get('model name', '')}".strip(), widest]))


def git() -> dict[str, Any] | None:
    """Commit of the source and whether tracked files differ from it. None outside a git checkout."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _is_infrastructure(name: str) -> bool:
    return name in _INFRASTRUCTURE or any(name == package or name.startswith(package + ".") for package in _INFRASTRUCTURE_PACKAGES)


@cache
def _data_files(folder: Path) -> dict[str, str]:
    """Files below a package that are neither Python nor made by it -> digest."""
    files = sorted(path for path in files_below(folder) if path.suffix != ".py")
    return {path.relative_to(PACKAGE.parent).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@cache
def _path(name: str) -> Path | None:
    """Source file of a module of `mudit` or of the user's own; None if there is no such module or it is an installed one."""
    top, *parts = name.split(".")
    folder = PACKAGE.parent if top == PACKAGE.name else _own_folder(top)
    if folder is None:
        return None
    base = folder.joinpath(top, *parts)
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _own_folder(top: str) -> Path | None:
    """Folder of a top-level module of the user's own: the working directory, or where Python finds it outside of installations."""
    here = Path.cwd()
    if (here / f"{top}.py").is_file() or (here / top).is_dir():
        return here
    spec = importlib.util.find_spec(top)  # runs nothing: only a parent package would be imported, and this has none
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or ()) + ([spec.origin] if spec.has_location and spec.origin else [])
    return next((Path(place).parent for place in places if not _is_installed(Path(place))), None)


def _is_installed(place: Path) -> bool:
    """Whether it belongs to Python or to an installed package."""
    return place.is_relative_to(sysconfig.get_path("stdlib")) or not {"site-packages", "dist-packages"}.isdisjoint(place.parts)


@cache
def _tree(name: str) -> ast.Module:
    path = _path(name)
    assert path is not None, f"no module {name} in {PACKAGE}"
    return ast.parse(path.read_bytes())


@cache
def _imports(name: str) -> frozenset[str]:
    """The modules that a module names: in its imports, and in strings such as a registry's `mudit.models.dit:DiT`.

    `mudit` names only modules of its own; a user's module also others of the user's.
    """
    ours = name.partition(".")[0] == PACKAGE.name
    path = _path(name)
    package = name if path is not None and path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in _executed(_tree(name)):
        if isinstance(node, ast.Import):
            candidates = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (base, node.module) if part)
            candidates = [base] + [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            candidates = [node.value.partition(":")[0]]
        else:
            continue
        for candidate in candidates:
            if (candidate.partition(".")[0] == PACKAGE.name or not (ours or isinstance(node, ast.Constant))) and _path(candidate):
                parts = candidate.split(".")
                found.update(".".join(parts[:depth]) for depth in range(1, len(parts) + 1))  # importing a.b runs a, too
    return frozenset(found - {name})


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes below `node` except docstrings and blocks that only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        yield child
        yield from _executed(child)


@cache
def _digest(name: str) -> str:
    return hashlib.sha256(_canonical(_tree(name)).encode()).hexdigest()


def _canonical(value: Any) -> str:
    """A syntax tree as text, without what does not run. Empty fields are left out, since newer Pythons add some."""
    if isinstance(value, ast.AST):
        fields = ((field, getattr(value, field, None)) for field in value._fields if field not in ("kind", "type_comment"))
        inner = ",".join(f"{field}={_canonical(content)}" for field, content in fields if content is not None and content != [])
        return f"{type(value).__name__}({inner})"
    if isinstance(value, list):
        return "[" + ",".join(_canonical(item) for item in value if not _is_docstring(item)) + "]"
    return repr(value)


def _is_docstring(node: Any) -> bool:
    """Docstrings, and the strings that document fields: expression statements that are nothing but a constant."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
