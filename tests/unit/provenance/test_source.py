"""What counts as a stage's code, and which edits change its digest."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mudit.provenance import source
from mudit.stages import STAGES

FILES = {
    "a.py": "from mudit.b import thing\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mudit.typed import T\n",
    "b/__init__.py": "",
    "b/thing.py": "def f():\n    from . import inner\n    from ..c import value\n",
    "b/inner.py": "import mudit.errors\nREGISTRY = {'d': 'mudit.d:Model'}\n",
    "c.py": '"""Names mudit.typed in its docstring."""\nvalue = 1\n',
    "d.py": "import os\n",
    "errors.py": "import mudit.typed\n",
    "typed.py": "",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    root = tmp_path / "mudit"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(source, "PACKAGE", root)
    _forget()
    yield root
    _forget()


def _forget() -> None:
    for function in (source._path, source._tree, source._imports, source._digest, source._data_files):
        function.cache_clear()


def test_closure_follows_every_import_that_runs(package: Path) -> None:
    assert list(source.closure("mudit.a")) == ["mudit.a", "mudit.b", "mudit.b.inner", "mudit.b.thing", "mudit.c", "mudit.d"]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ('"""Another docstring."""\n\n# a comment\nvalue = (\n    1\n)\n', True),
        ("value = 1\n'''What the value means.'''\n", True),
        ("value = 2\n", False),
        ("value = 1.0\n", False),
        ("value = 1\nother = 1\n", False),
        ("value: int = 1\n", False),
    ],
)
def test_cosmetic_edits_keep_the_digest(package: Path, text: str, same: bool) -> None:
    before = source.closure("mudit.c")
    (package / "c.py").write_text(text)
    _forget()
    assert (source.closure("mudit.c") == before) is same


def test_data_files_beside_the_stages_module_count(package: Path) -> None:
    (package / "b" / "templates").mkdir()
    (package / "b" / "templates" / "page.html").write_text("<p>")
    assert "mudit/b/templates/page.html" in source.closure("mudit.b.thing")


def test_functions_that_only_document_themselves(package: Path) -> None:
    (package / "c.py").write_text('def f(x: int = 1) -> None:\n    """Do nothing."""\n')
    before = source.closure("mudit.c")
    _forget()
    (package / "c.py").write_text('def f(x: int = 2) -> None:\n    """Do nothing."""\n')
    assert source.closure("mudit.c") != before


def test_a_model_of_the_users_own_counts_with_what_it_imports(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the working directory and the user's other folders, but not from installed packages or Python itself."""
    here, elsewhere = package.parent / "here", package.parent / "elsewhere"
    (elsewhere / "ownlib").mkdir(parents=True)
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(elsewhere)
    (here / "own_net.py").write_text(
        "import json\nimport torch\nimport own_parts\nfrom ownlib import layers\nname = 'own_idle:x'\n"
    )
    (here / "own_parts.py").write_text("from mudit.c import value\n")
    (here / "own_idle.py").write_text("")
    (elsewhere / "ownlib" / "__init__.py").write_text("")
    (elsewhere / "ownlib" / "layers.py").write_text("from . import missing\n")
    own = {"family": "external", "factory": "own_net:Net", "call": None}
    other = {"family": "external", "factory": "torch.nn:Linear", "call": "nowhere.at_all:call"}
    named = source.named_modules({"model": own, "coordcheck": {"also": [{"model": other}]}, "data": {"factory": "own_idle:x"}})
    assert named == ["own_net", "torch.nn", "nowhere.at_all"]
    before = source.closure("mudit.a", *named)
    assert before.keys() - source.closure("mudit.a").keys() == {"own_net", "own_parts", "ownlib", "ownlib.layers"}
    (elsewhere / "ownlib" / "layers.py").write_text("from . import missing\nrate = 1\n")
    _forget()
    after = source.closure("mudit.a", *named)
    assert {name for name in after if after[name] != before[name]} == {"ownlib.layers"}


def test_closures_of_all_stages_leave_infrastructure_out() -> None:
    for stage in STAGES.values():
        modules = source.closure(stage.module)
        assert stage.module in modules
        assert not [name for name in modules if name.startswith(("mudit.config", "mudit.provenance", "mudit.stages", "mudit.cli"))]


def test_every_module_that_a_stage_loads_is_in_its_closure() -> None:
    """The closure is read from the source; this compares it with what Python imports."""
    names = [stage.module for stage in STAGES.values()]
    program = f"import sys\nfor name in {names!r}: __import__(name)\nprint(*[n for n in sys.modules if n.startswith('mudit')])"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    known = {module for name in names for module in source.closure(name)}
    assert {name for name in loaded if not source._is_infrastructure(name)} <= known


def test_environment_names_interpreter_lock_and_libraries() -> None:
    facts = source.environment()
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["packages"]["torch"]
    assert len(facts["lock"]) == 64
    assert facts["processor"].startswith(platform.machine())
