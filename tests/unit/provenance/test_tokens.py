"""One token per fresh artefact."""

from __future__ import annotations

from pathlib import Path

from mudit.provenance import tokens
from project import Project, forget_code


def present() -> set[str]:
    return {str(path.relative_to(tokens.ROOT)) for path in tokens.ROOT.rglob("*") if path.is_file()}


def test_tokens_follow_the_verdicts(project: Project) -> None:
    tokens.sync(project.config, "desk")
    assert present() == set()
    project.make("data")
    project.make("coordcheck/dit")
    project.make("extractor")
    tokens.sync(project.config, "desk")
    assert present() == {"smoke/data", "smoke/coordcheck/dit", "smoke/extractor"}
    project.edit_config("extractor: digits-cnn", "extractor: efficientnet-lite0")
    forget_code()
    verdicts = tokens.sync(project.config, "desk")
    assert present() == {"smoke/data", "smoke/coordcheck/dit"}
    assert [verdict.artefact.id for verdict in verdicts if verdict.fresh] == ["smoke/data", "smoke/coordcheck/dit"]


def test_forged_tokens_are_removed(project: Project) -> None:
    token = tokens.path(project.artefact("train/mup_s0"))
    token.parent.mkdir(parents=True)
    token.touch()
    tokens.sync(project.config, "desk")
    assert not Path(token).exists()
