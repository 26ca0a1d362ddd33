"""Provenance as a section of the page: every artefact with its digests and cost, and how to make it again."""

from __future__ import annotations

from typing import Any

from mudit.report import text
from mudit.report.costs import spent
from mudit.report.evidence import Evidence

_SHORT = 10  # characters of a digest that are shown


def provenance_section(evidence: Evidence) -> dict[str, Any]:
    """Tables of stages and artefacts, environments, source states."""
    manifests = evidence.manifests
    stages: dict[str, list[str]] = {}
    for name in manifests:
        stages.setdefault(name.partition("/")[0], []).append(name)
    return {
        "stages": [_stage(evidence, stage, names) for stage, names in stages.items()],
        "artefacts": [_artefact(name, manifest) for name, manifest in manifests.items()],
        "environments": _environments(evidence),
        "commits": _commits(evidence),
        "config": evidence.config_digest[:_SHORT],
    }


def _stage(evidence: Evidence, stage: str, names: list[str]) -> dict[str, Any]:
    cost = spent(evidence.manifests, names)
    runs = [evidence.manifests[name]["run"] for name in names]
    return {
        "name": stage,
        "count": len(names),
        "time": text.seconds(cost.core_seconds),
        "flops": text.flops(cost.flops) if cost.flops else "–",
        "memory": f"{max(run['max_rss_bytes'] for run in runs) / 2**30:.2f} GiB",
        "device": text.listed(sorted({run["device"] for run in runs})),
    }


def _artefact(name: str, manifest: dict[str, Any]) -> dict[str, Any]:
    run = manifest["run"]
    return {
        "name": name,
        "content": manifest["content"][:_SHORT],
        "code": manifest["digests"]["code"][:_SHORT],
        "parameters": manifest["digests"]["parameters"][:_SHORT],
        "environment": manifest["environment"]["digest"][:_SHORT],
        "wall": text.seconds(run["wall_s"]),
        "threads": f"{run['processes']} × {run['threads']}",
        "flops": text.flops(run["flops"]) if run["flops"] else "–",
        "device": run["device"],
    }


def _environments(evidence: Evidence) -> list[dict[str, str]]:
    found = {manifest["environment"]["digest"]: manifest["environment"] for manifest in evidence.manifests.values()}
    return [
        {
            "digest": digest[:_SHORT],
            "python": environment["python"],
            "packages": ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version),
            "lock": environment["lock"][:_SHORT] if environment["lock"] else "none",
        }
        for digest, environment in sorted(found.items())
    ]


def _commits(evidence: Evidence) -> list[str]:
    """Source states that the artefacts were made from."""
    states = {
        "no git checkout" if git is None else git["commit"][:_SHORT] + (" with uncommitted changes" if git["dirty"] else "")
        for git in (manifest["git"] for manifest in evidence.manifests.values())
    }
    return sorted(states)
