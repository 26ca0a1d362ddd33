"""Metadata of a release: Workflow Run RO-Crate 0.5 (RO-Crate 1.1), through the `rocrate` library.

The workflow is the Snakefile, its run one `CreateAction` per experiment: what it read (the configuration), what it made (reports,
ledgers, certificates), when, and with which software.
"""

from __future__ import annotations

import importlib.metadata
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

from mudit import __version__

if TYPE_CHECKING:
    from mudit.release.folder import Part

_VERSION = "1.1"
_PROFILES = (
    ("https://w3id.org/ro/wfrun/process/0.5", "Process Run Crate", "0.5"),
    ("https://w3id.org/ro/wfrun/workflow/0.5", "Workflow Run Crate", "0.5"),
    ("https://w3id.org/workflowhub/workflow-ro-crate/1.0", "Workflow RO-Crate", "1.0"),
)
_LICENCE = "https://spdx.org/licenses/MIT"
_TYPES = {
    ".html": "text/html",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".yaml": "application/yaml",
    ".md": "text/markdown",
}


def describe(folder: Path, name: str, parts: list[Part]) -> None:
    """Write `ro-crate-metadata.json` into the folder, about the files that are in it."""
    crate = ROCrate(version=_VERSION)
    crate.name = f"{name}: findings of mudit"
    crate.description = "Reports, claims ledgers, transfer certificates and manifests of a study of muP for diffusion transformers"
    crate.license = _entity(crate, _LICENCE, "CreativeWork", name="MIT License", url=_LICENCE)
    crate.datePublished = datetime.fromisoformat(max(part.manifest["run"]["ended"] for part in parts))
    profiles = [_entity(crate, url, "CreativeWork", name=title, version=version) for url, title, version in _PROFILES]
    crate.root_dataset["conformsTo"] = profiles
    crate.metadata["conformsTo"] = [
        {"@id": f"https://w3id.org/ro/crate/{_VERSION}"},
        {"@id": "https://w3id.org/workflowhub/workflow-ro-crate/1.0"},
    ]
    workflow = crate.add_workflow(folder / "Snakefile", "Snakefile", main=True, lang="snakemake")
    workflow["name"] = "mudit"
    workflow["version"] = __version__
    workflow["license"] = {"@id": _LICENCE}
    files = {path: _file(crate, folder, path) for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "Snakefile"}
    software = _entity(
        crate,
        "#mudit",
        "SoftwareApplication",
        name="mudit",
        softwareVersion=__version__,
        softwareRequirements=[{"@id": f"#{package}"} for package in ("torch", "snakemake", "mup")],
    )
    for package in ("torch", "snakemake", "mup"):
        _entity(crate, f"#{package}", "SoftwareApplication", name=package, softwareVersion=importlib.metadata.version(package))
    agent = _entity(crate, "#mudit-users", "Organization", name="Users of mudit")
    for experiment in dict.fromkeys(part.artefact.experiment for part in parts):
        own = [part for part in parts if part.artefact.experiment == experiment]
        start, end = _span(own)
        results = [entity for path, entity in files.items() if path.is_relative_to(folder / "results" / experiment)]
        action = _entity(
            crate,
            f"#run-{experiment}",
            "CreateAction",
            name=f"Run of {experiment}",
            description=f"{len(own)} artefacts of the experiment {experiment}",
            startTime=start.isoformat(),
            endTime=end.isoformat(),
            actionStatus="http://schema.org/CompletedActionStatus",
        )
        action["instrument"] = workflow
        action["agent"] = agent
        action["object"] = [files[folder / "config.yaml"]]
        action["result"] = results
        crate.root_dataset.append_to("mentions", action)
    workflow["softwareRequirements"] = software
    crate.metadata.write(folder)


def _span(parts: list[Part]) -> tuple[datetime, datetime]:
    """When the first artefact was begun and the last was ended."""
    ends = [datetime.fromisoformat(part.manifest["run"]["ended"]) for part in parts]
    starts = [end - timedelta(seconds=part.manifest["run"]["wall_s"]) for part, end in zip(parts, ends, strict=True)]
    return min(starts).replace(microsecond=0), max(ends)


def _file(crate: ROCrate, folder: Path, path: Path) -> Any:
    name = path.relative_to(folder).as_posix()
    properties = {"name": name, "contentSize": str(path.stat().st_size)}
    if path.suffix in _TYPES:
        properties["encodingFormat"] = _TYPES[path.suffix]
    return crate.add_file(path, name, properties=properties)


def _entity(crate: ROCrate, identifier: str, kind: str, **properties: Any) -> Any:
    return crate.add(ContextEntity(crate, identifier, properties={"@type": kind, **properties}))
