"""`mudit release NAME`: reports, ledgers, certificates, manifests and what they were made with, in one folder with checksums.

Weights and data sets stay out: they are versioned by DVC, and the manifests say their names, sizes and SHA-256.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mudit.config.schema import Config
from mudit.errors import ConfigError, ProvenanceError
from mudit.files import sha256_file
from mudit.provenance import manifest as manifests
from mudit.provenance import records
from mudit.provenance.verdict import Verdict, inspect
from mudit.release import crate
from mudit.stages import Artefact

ROOT = Path("releases")
CHECKSUMS = "SHA256SUMS"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHOWN = ("report", "select", "search", "transfer")  # stages whose files are small and are the findings
_PROJECT_FILES = ("config.yaml", "dvc.yaml", "dvc.lock", "requirements.lock", "requirements-nodeps.txt", "LICENSE", "Snakefile")


@dataclass(frozen=True)
class Part:
    """One artefact of the release."""

    artefact: Artefact
    manifest: dict[str, Any]


def release(config: Config, selection: str | None, name: str, root: Path) -> Path:
    """Write the release of a study or experiment into `root/name`, in one rename. Returns that folder.

    Raises ConfigError if the name cannot be that of a folder or is taken, ProvenanceError unless every artefact is up to date and
    the files that are shown are here.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"release {name!r}: a name has letters, digits, '.', '_' and '-'")
    final = root / name
    if final.exists():
        raise ConfigError(f"release {name}: {final} is there already; take another name, releases do not change")
    parts = [_part(verdict) for verdict in _up_to_date(inspect(config, selection, quick=False))]
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=root, prefix=f".{name}-"))
    except OSError as error:
        raise ConfigError(f"release {name}: {root} cannot be made or written ({error.strerror or error}); change --to") from error
    try:
        folder.chmod(0o755)
        _write(folder, name, parts)
        folder.rename(final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return final


def _up_to_date(verdicts: list[Verdict]) -> list[Verdict]:
    for verdict in verdicts:
        if not verdict.done:
            raise ProvenanceError(f"{verdict.artefact.id} is {verdict}, so nothing is released; make it with: {verdict.mend}")
        if verdict.state == "elsewhere" and verdict.artefact.stage.name in _SHOWN:
            raise ProvenanceError(f"{verdict.artefact.id} is not here, and a release shows it; fetch it with: {verdict.mend}")
    return verdicts


def _part(verdict: Verdict) -> Part:
    manifest = manifests.read(verdict.artefact.path) or records.read(verdict.artefact)
    assert manifest is not None, "an artefact that is up to date has a manifest or a record"
    return Part(verdict.artefact, manifest)


def _write(folder: Path, name: str, parts: list[Part]) -> None:
    for file in (Path(each) for each in _PROJECT_FILES):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    if Path("workflow").is_dir():
        shutil.copytree("workflow", folder / "workflow", ignore=shutil.ignore_patterns("__pycache__"))
    for part in parts:
        if part.artefact.stage.name in _SHOWN:
            shutil.copytree(part.artefact.path, folder / part.artefact.path)
        else:
            path = folder / part.artefact.path / manifests.FILE
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(part.manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_readme(name, parts), encoding="utf-8")
    crate.describe(folder, name, parts)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{sha256_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


_README = """# {name}

Findings of `mudit`, which finds hyperparameters of diffusion transformers on small models under μP and transfers them.

{reports}

{count} artefacts, made at commit {commits}. Each folder under `results/` holds its manifest: parameters, inputs, code, environment,
and the SHA-256 of every file, those of weights and data sets included, which are not in this folder.

`sha256sum -c {checksums}` checks this folder; `ro-crate-metadata.json` describes it for machines (Workflow Run RO-Crate).
"""


def _readme(name: str, parts: list[Part]) -> str:
    reports = [part.artefact for part in parts if part.artefact.stage.name == "report"]
    commits = sorted({(part.manifest["git"] or {}).get("commit", "(no repository)") for part in parts})
    text = _README.format(
        name=name,
        reports="\n".join(
            f"- `{each.experiment}`: [report]({each.path}/report.html), [ledger]({each.path}/ledger.json)" for each in reports
        ),
        count=len(parts),
        commits=", ".join(commits),
        checksums=CHECKSUMS,
    )
    return "\n".join([text, *(line for report in reports for line in _ledger(report))]) + "\n"


def _ledger(report: Artefact) -> Iterable[str]:
    ledger = json.loads((report.path / "ledger.json").read_text(encoding="utf-8"))
    yield from (f"## {report.experiment}", "", "| claim | paper | here | verdict |", "|---|---|---|---|")
    for row in ledger["rows"]:
        said = (row["claim"], row["published"]["value"], row["ours"], row["verdict"])
        cells = (cell.replace("|", "\\|").replace("\n", " ") for cell in said)
        yield f"| {' | '.join(cells)} |"
    yield ""
