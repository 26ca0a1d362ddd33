"""Is an artefact what the present configuration and code would make? And if not, why not, in words.

Decided from manifests and file contents alone: no file times, no records of a workflow engine, so it holds after a clone, a pull or
a copy.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mudit.config.schema import Config, Experiment
from mudit.files import sha256_file
from mudit.provenance import manifest as manifests
from mudit.provenance import records, source
from mudit.stages import Artefact, inputs, plan

State = Literal["fresh", "elsewhere", "stale", "damaged", "foreign", "missing"]

_QUICK_BYTES = 8 << 20
_MAX_KEYS = 4


@dataclass(frozen=True)
class Verdict:
    """`reasons` say why it is not fresh; `notes` what differs without making it stale.

    `elsewhere` is fresh by its record in Git, but its files are not here: nothing needs to be made, but they have to be fetched
    before something can be made from them.
    """

    artefact: Artefact
    state: State
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    content: str | None = None
    """Digest of the artefact's files; None unless its manifest or record could be read."""

    @property
    def fresh(self) -> bool:
        """Here and up to date."""
        return self.state == "fresh"

    @property
    def done(self) -> bool:
        """Up to date, here or elsewhere: there is nothing to make."""
        return self.state in ("fresh", "elsewhere")

    @property
    def mend(self) -> str | None:
        """The command after which it is fresh; None if it is."""
        fetch = f"dvc pull {self.artefact.folder.as_posix()}"
        commands: dict[State, str | None] = {
            "fresh": None,
            "elsewhere": fetch,
            "damaged": f"{fetch} --force" if records.path(self.artefact).is_file() else self.artefact.command,
            "foreign": f"rm -r {self.artefact.path.as_posix()} && {self.artefact.command}",
        }
        return commands.get(self.state, self.artefact.command)

    @property
    def own_reasons(self) -> tuple[str, ...]:
        """Reasons that lie in this artefact, not in what it reads."""
        return tuple(reason for reason in self.reasons if not reason.removeprefix("record: ").startswith("input "))

    def __str__(self) -> str:
        """State and reasons on one line."""
        return f"{self.state} ({'; '.join(self.reasons)})" if self.reasons else self.state


@dataclass
class Inspector:
    """Verdicts of one experiment's artefacts, each decided once.

    `quick` compares the sizes of files above 8 MiB and the contents of the others; without it, every byte is read.
    """

    experiment: Experiment
    quick: bool
    _known: dict[str, Verdict] = field(default_factory=dict)

    def verdict(self, artefact: Artefact) -> Verdict:
        if artefact.id not in self._known:
            self._known[artefact.id] = self.judge(artefact, artefact.path)
        return self._known[artefact.id]

    def recipe(self, artefact: Artefact) -> dict[str, Any]:
        """What the artefact's manifest would record if it were made now: parameters, inputs, code."""
        parameters = artefact.stage.parameters(self.experiment, artefact.key)
        return {
            "parameters": parameters,
            "inputs": {each.name: self.verdict(each).content for each in inputs(artefact, self.experiment)},
            "code": source.closure(artefact.stage.module, *source.named_modules(parameters)),
        }

    def judge(self, artefact: Artefact, folder: Path) -> Verdict:
        """The verdict that the artefact would get if the files in `folder` were in its place. Not remembered."""
        try:
            manifest = manifests.read(folder)
        except manifests.ManifestError as error:
            return Verdict(artefact, "damaged", (str(error),))
        if manifest is None:
            return self._by_record(artefact)
        if manifest["artefact"] != artefact.id:
            return Verdict(artefact, "foreign", (f"its manifest is that of {manifest['artefact']}",))
        damage = _damage(folder, manifest["outputs"], self.quick)
        if damage:
            return Verdict(artefact, "damaged", (damage,), content=manifest["content"])
        reasons = self._changes(artefact, manifest)
        notes = tuple(_environment_changes(manifest["environment"]))
        return Verdict(artefact, "stale" if reasons else "fresh", tuple(reasons), notes, manifest["content"])

    def _by_record(self, artefact: Artefact) -> Verdict:
        """An artefact that is not here: `elsewhere` if its record fits the present parameters, inputs and code, else `missing`."""
        try:
            manifest = records.read(artefact)
        except manifests.ManifestError as error:
            return Verdict(artefact, "missing", (f"record: {error}",))
        if manifest is None:
            return Verdict(artefact, "missing")
        reasons = self._changes(artefact, manifest)
        if reasons:
            return Verdict(artefact, "missing", tuple(f"record: {reason}" for reason in reasons))
        return Verdict(artefact, "elsewhere", (), tuple(_environment_changes(manifest["environment"])), manifest["content"])

    def _changes(self, artefact: Artefact, manifest: dict[str, Any]) -> list[str]:
        """What is not as it was when the manifest was written."""
        recipe = self.recipe(artefact)
        return [
            *_parameter_changes(manifest["parameters"], recipe["parameters"]),
            *_code_changes(manifest["code"], recipe["code"]),
            *self._input_changes(artefact, manifest["inputs"], recipe["inputs"]),
        ]

    def _input_changes(self, artefact: Artefact, old: dict[str, str], new: dict[str, str | None]) -> list[str]:
        changes = [f"input {name} is no longer one" for name in old.keys() - new.keys()]
        for each in inputs(artefact, self.experiment):
            verdict = self.verdict(each)
            if each.name not in old:
                changes.append(f"input {each.name} is new")
            elif not verdict.done:
                changes.append(f"input {each.name} is {verdict.state}")
            elif old[each.name] != new[each.name]:
                changes.append(f"input {each.name} has other content")
        return sorted(changes)


def inspect(config: Config, selection: str | None, *, quick: bool) -> list[Verdict]:
    """Verdicts of every artefact of a study or experiment, each after its inputs. Raises ConfigError on an unknown name."""
    inspectors: dict[str, Inspector] = {}
    verdicts = []
    for artefact, experiment in plan(config, selection):
        inspector = inspectors.setdefault(artefact.experiment, Inspector(experiment, quick))
        verdicts.append(inspector.verdict(artefact))
    return verdicts


def to_fetch(config: Config, verdicts: list[Verdict]) -> str | None:
    """The command that fetches all that the artefacts which are to be made read and which is elsewhere; None if nothing is."""
    making = [verdict.artefact for verdict in verdicts if not verdict.done]
    read = {each.id for artefact in making for each in inputs(artefact, config.experiments[artefact.experiment])}
    absent = [verdict.artefact for verdict in verdicts if verdict.state == "elsewhere" and verdict.artefact.id in read]
    folders = dict.fromkeys(artefact.folder.as_posix() for artefact in absent)
    return f"dvc pull {' '.join(folders)}" if folders else None


def causes(verdicts: list[Verdict]) -> list[str]:
    """One line for each reason that lies in artefacts themselves, with the stages that it touches."""
    groups: dict[tuple[str, tuple[str, ...]], Counter[str]] = {}
    for verdict in verdicts:
        if verdict.own_reasons:
            groups.setdefault((verdict.state, verdict.own_reasons), Counter())[verdict.artefact.stage.name] += 1
    lines = []
    for (state, reasons), stages in groups.items():
        touched = ", ".join(f"{name} x{count}" if count > 1 else name for name, count in stages.items())
        lines.append(f"{state}: {touched}: {'; '.join(reasons)}")
    return lines


def _damage(folder: Path, outputs: dict[str, dict[str, Any]], quick: bool) -> str | None:
    for name, recorded in outputs.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is gone"
        if path.stat().st_size != recorded["bytes"]:
            return f"{name} has {path.stat().st_size} bytes instead of {recorded['bytes']}"
        if (not quick or recorded["bytes"] <= _QUICK_BYTES) and sha256_file(path) != recorded["sha256"]:
            return f"{name} has other content than its sha256 says"
    return None


def _parameter_changes(old: Any, new: Any) -> list[str]:
    changes = [f"{key}: {before} -> {after}" for key, before, after in _differences("", old, new)]
    return _shortened("parameter", changes)


def _differences(key: str, old: Any, new: Any) -> list[tuple[str, str, str]]:
    """Dotted keys at which two JSON values differ, with both values as text."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for name in sorted(old.keys() | new.keys()):
            found += _differences(f"{key}.{name}" if key else name, old.get(name), new.get(name))
        return found
    # JSON has one kind of number: 1 and 1.0 are the same setting.
    return [] if old == new and isinstance(old, bool) == isinstance(new, bool) else [(key, _text(old), _text(new))]


def _text(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _code_changes(old: dict[str, str], new: dict[str, str]) -> list[str]:
    changed = [f"{name} changed" for name in sorted(old.keys() & new.keys()) if old[name] != new[name]]
    changed += [f"{name} added" for name in sorted(new.keys() - old.keys())]
    changed += [f"{name} no longer used" for name in sorted(old.keys() - new.keys())]
    return _shortened("code", changed)


def _shortened(what: str, changes: list[str]) -> list[str]:
    shown = [f"{what} {change}" for change in changes[:_MAX_KEYS]]
    return [*shown, f"{what}: {len(changes) - _MAX_KEYS} more"] if len(changes) > _MAX_KEYS else shown


def _environment_changes(old: dict[str, Any]) -> list[str]:
    new = source.environment()
    if old.get("digest") == new["digest"]:
        return []
    facts = [{"image": {}, **{key: value for key, value in each.items() if key != "digest"}} for each in (old, new)]
    changes = _differences("", *facts)
    return [f"made with {key} {before}, here {after}" for key, before, after in changes if key != "lock"] or [
        "made with another requirements.lock"
    ]
