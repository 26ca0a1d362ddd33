"""What of a study fits into a budget, and what it can still test. Imports no torch.

Cuts are made in one stated order until the expected hours fit: what the paper's first claim, transfer over widths, stands on goes
last. If the whole ladder is not enough, the dearest experiment is left out and it starts again.

What is proposed is a study of its own, of experiments with names of their own. Its text is added to `config.yaml` and replaces
nothing but the cap: other experiments may share sections of the file with those that are cut, by YAML's anchors, and keep them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import yaml

from mudit.config.schema import Config
from mudit.errors import ConfigError
from mudit.plan import claims
from mudit.plan.show import span
from mudit.plan.study import study_plan
from mudit.stages import experiments

Raw = dict[str, Any]  # sections of one experiment, as in the file


@dataclass(frozen=True)
class Cut:
    """One step of the ladder."""

    what: str
    change: Callable[[Raw], None]


@dataclass(frozen=True)
class Proposal:
    """The study that fits."""

    study: str
    budget: float
    hours: float  # expected, which is what has to fit
    worst_hours: float
    cuts: list[str]
    left_out: list[str]
    claims: list[str]
    config: Config  # with the study, of which `config.study` is the name
    added: dict[str, Raw]  # new experiments; none if those that stay are not changed

    def text(self) -> str:
        """What is proposed, what it can test, and what to add to the file if it is not what the file has."""
        budget, expected = span(self.budget, "processor"), span(self.hours, "processor")
        head = [f"{self.study} within {budget}: {expected} expected, {span(self.worst_hours, 'processor')} at most"]
        halvings = self.cuts.count(_HALF.what)
        head += [
            f"cut: {cut}" for cut in self.cuts if cut != _HALF.what and not (cut == _TENTH.what and _HUNDREDTH.what in self.cuts)
        ]
        head += [f"cut: all numbers of steps to 1/{2**halvings}"] if halvings else []
        head += ["nothing is cut"] if not self.cuts else []
        head += [f"left out: {name}, so nothing of it is tested" for name in self.left_out]
        rule = [claims.RULE] if any("not tested:" in claim for claim in self.claims) else []
        return "\n".join([*head, *self.claims, *rule, *self._advice()])

    def _advice(self) -> list[str]:
        if not self.added and not self.left_out:
            return []
        return [
            "# In config.yaml, add the lines below `studies` and `experiments` to those sections, and set the cap of `cluster`.",
            f"# Then: mudit plan {self.config.study}",
            self.fragment,
        ]

    @property
    def fragment(self) -> str:
        """YAML: entries for `studies` and `experiments`, and `cluster.cap_hours`, which holds the study to the budget."""
        study = self.config.study
        text: Raw = {"studies": {study: self.config.studies[study]}}
        if self.added:
            text["experiments"] = self.added
        cap = yaml.safe_dump({"cluster": {"cap_hours": self.budget}})
        return cap + yaml.safe_dump(text, sort_keys=False, default_flow_style=None, width=130)


def parse_hours(text: str) -> float:
    """`200h` or `200` -> 200.0. Raises ConfigError."""
    try:
        hours = float(text.removesuffix("h"))
    except ValueError:
        raise ConfigError(f"plan --budget {text}: not hours; write for example 200h") from None
    if not 0 < hours < float("inf"):
        raise ConfigError(f"plan --budget {text}: must be above 0")
    return hours


def propose(config: Config, study: str | None, budget: float) -> Proposal:
    """The first study on the ladder that costs at most `budget` processor-hours. Raises ConfigError with the least if none does."""
    name, names = study or config.study, experiments(config, study)
    left_out: list[str] = []
    least = float("inf")
    while names:
        raw = {each: _dump(config, each) for each in names}
        done: list[str] = []
        for cut in (None, *_LADDER):
            if cut is not None:
                for sections in raw.values():
                    cut.change(sections)
                done = [*done, cut.what]
            added = {each: sections for each, sections in raw.items() if sections != _dump(config, each)}
            proposed = _with(config, name, raw, added.keys(), budget)
            total = study_plan(proposed).total
            hours = total.hours
            least = min(least, hours)
            if hours <= budget:
                new = {_named(each, budget): sections for each, sections in added.items()}
                lines = _claims(config, names, proposed)
                return Proposal(name, budget, hours, total.worst_hours, done, left_out, lines, proposed, new)
        costs = {each: study_plan(config, each).total.hours for each in names}
        left_out.append(max(names, key=costs.__getitem__))
        names = [each for each in names if each not in left_out]
    raise ConfigError(f"plan --budget {budget:g}h: nothing of {name} fits; the least is {span(least, 'processor')}")


def _dump(config: Config, name: str) -> Raw:
    raw: Raw = config.experiments[name].model_dump(mode="json")
    # What is left out of the file must stay left out; only execution's stages have defaults besides whole sections.
    raw["execution"] = {stage: workers for stage, workers in raw["execution"].items() if workers is not None}
    return {key: value for key, value in raw.items() if value is not None}


def _named(name: str, budget: float) -> str:
    """`dit-imagenet-200h`: names have small letters, digits and hyphens."""
    return f"{name}-{budget:.10g}h".replace(".", "-").replace("+", "")


def _with(config: Config, study: str, raw: dict[str, Raw], changed: Collection[str], budget: float) -> Config:
    """The proposed study alone, validated: experiments of other names where they are changed, and a cap."""
    named = {_named(name, budget) if name in changed else name: sections for name, sections in raw.items()}
    own = _named(f"{study}-within", budget)  # a study and an experiment may not share a name
    whole = {
        "study": own,
        "studies": {own: list(named)},
        "experiments": named,
        "cluster": config.cluster.model_dump(mode="json") | {"cap_hours": budget},
    }
    return Config.model_validate_json(json.dumps(whole), strict=True)


def _claims(config: Config, names: list[str], proposed: Config) -> list[str]:
    """What each experiment of the proposal can test. `names`: of the whole ones, in the same order."""
    pairs = zip(names, proposed.experiments.items(), strict=True)
    return [f"{name}: {line}" for whole, (name, cut) in pairs for line in claims.claims(config.experiments[whole], cut)]


def _shorter(raw: Raw) -> None:
    """Half of all steps, and of what is counted in steps."""

    def half(section: Raw | None, *keys: str) -> None:
        for key in keys:
            if section is not None and isinstance(section.get(key), int):
                section[key] = max(1, section[key] // 2)

    sweep = raw.get("sweep") or {}
    for axis in ("widths", "batch_sizes", "output_mults", "tuned"):
        half(sweep.get(axis), "steps")
    if sweep.get("steps"):
        sweep["steps"]["steps"] = sorted({max(1 + place, steps // 2) for place, steps in enumerate(sweep["steps"]["steps"])})
    half(raw.get("transfer"), "proxy_steps")
    half(raw.get("search"), "steps")
    if raw.get("search"):
        raw["search"]["warmup_steps"]["high"] = max(
            raw["search"]["warmup_steps"]["low"] + 1, raw["search"]["warmup_steps"]["high"] // 2
        )
    half(raw.get("train"), "steps", "eval_every", "checkpoint_every", "keep_every")
    if raw.get("train"):
        halves = {step // 2 for step in raw["train"]["snapshots"]}
        raw["train"]["snapshots"] = sorted(step for step in halves if 0 < step < raw["train"]["steps"])
    if raw["optimizer"]["warmup_steps"]:
        raw["optimizer"]["warmup_steps"] //= 2


def _fewer_images(raw: Raw) -> None:
    if raw.get("sample"):
        raw["sample"]["images"] = min(raw["sample"]["images"], 5_000)
    if raw.get("evaluate"):
        raw["evaluate"]["kid_subset_size"] = min(raw["evaluate"]["kid_subset_size"], 500)
        raw["evaluate"]["protocol"] = "any"
    for benchmark in (raw.get("benchmarks") or {}).values():
        benchmark["protocol"] = "any"
        if benchmark["kind"] == "geneval":
            benchmark["images_per_prompt"] = 1
        else:
            benchmark["images"] = min(benchmark["images"], 5_000)


def _share(share: float, held_out: int) -> Callable[[Raw], None]:
    def change(raw: Raw) -> None:
        data = raw["data"]
        if data["source"]["kind"] in ("sklearn-digits", "emoji"):
            return  # small enough
        data["share"] = min(data["share"], share)
        data["validation_images"] = min(data["validation_images"], held_out)
        raw["validation"]["images"] = min(raw["validation"]["images"], data["validation_images"])
        if raw.get("evaluate") and raw["evaluate"]["reference"]["kind"] == "data":
            raw["evaluate"]["reference"]["images"] = None  # there may be fewer

    return change


def _no_axes(raw: Raw) -> None:
    if raw.get("sweep"):
        raw["sweep"] |= {"batch_sizes": None, "steps": None}


def _one_seed(raw: Raw) -> None:
    for section in ("sweep", "search"):
        if raw.get(section):
            raw[section]["seeds"] = raw[section]["seeds"][:1]


def _one_width(raw: Raw) -> None:
    if raw.get("sweep"):
        widths = raw["sweep"]["widths"]
        proxy = (raw.get("transfer") or {}).get("proxy_width", min(widths["width"]))
        widths["width"] = [proxy]


_HALF = Cut("half of the steps of everything", _shorter)
_TENTH = Cut("the data to a tenth", _share(0.1, 5_000))
_HUNDREDTH = Cut("the data to a hundredth", _share(0.01, 1_000))
_LADDER = (
    Cut("sampled images to 5,000", _fewer_images),
    *[_HALF] * 3,
    _TENTH,
    Cut("the sweeps over batch sizes and over steps, entirely", _no_axes),
    *[_HALF] * 3,
    _HUNDREDTH,
    Cut("seeds of sweeps and searches to one", _one_seed),
    Cut("widths of sweeps to one, the proxy's", _one_width),
    *[_HALF] * 4,
)
