"""What the artefacts of each stage depend on: their keys, inputs and parameters. Imports no torch.

One function per question that the registry (`mudit.stages`) cannot answer in a line. Parameters are JSON values under the names of
the configuration's sections; what they leave out may change without making an artefact stale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mudit.runs import Benchmarked, Setting, Target

if TYPE_CHECKING:
    from mudit.config.base import Section
    from mudit.config.schema import Experiment

Parameters = dict[str, Any]


def sections(*names: str) -> Callable[[Experiment, str], Parameters]:
    """Parameters that are whole sections of the experiment."""
    return lambda experiment, key: dump(experiment, *names)


def dump(experiment: Experiment, *names: str) -> Parameters:
    """Whole sections."""
    return {name: getattr(experiment, name).model_dump(mode="json") for name in names}


def fields(section: Section, *names: str) -> Parameters:
    """Some fields of one section."""
    return section.model_dump(mode="json", include=set(names))


def published(experiment: Experiment, *switches: str) -> Parameters:
    """Those of a stage's switches that are on, with what they need; nothing where none is, as without the section `published`."""
    from mudit.config.published import per_process

    on = sorted(switch for switch in switches if experiment.as_published(switch))
    if not on:
        return {}
    needed: Parameters = {"switches": on}
    if per_process(on):
        needed["images_per_process"] = experiment.published.images_per_process
    return {"published": needed}


def inputs(*names: str) -> Callable[[Experiment, str], list[str]]:
    """Inputs that are the same for every key of a stage."""
    return lambda experiment, key: list(names)


def data_parameters(experiment: Experiment, key: str) -> Parameters:
    """Without how many images may be absent: that decides whether there will be a store, not what is in it."""
    return {"data": experiment.data.model_dump(mode="json", exclude={"max_corrupt_share"})}


def gate_keys(experiment: Experiment) -> list[str]:
    """Families that the gate looks at, the experiment's own first."""
    return [experiment.model.family, *(each.model.family for each in experiment.coordcheck.also)]


def own_gate(experiment: Experiment) -> list[str]:
    return [f"coordcheck/{experiment.model.family}"]


def gate_parameters(experiment: Experiment, key: str) -> Parameters:
    check = experiment.coordcheck.model_dump(mode="json", exclude={"also"})
    if key == experiment.model.family:
        return dump(experiment, "model", "diffusion", "optimizer") | {"coordcheck": check}
    also = [each.model_dump(mode="json") for each in experiment.coordcheck.also if each.model.family == key]
    return {"coordcheck": check | {"also": also}}


def sweep_keys(experiment: Experiment) -> list[str]:
    from mudit.sweep.settings import settings

    return [setting.name for setting in settings(experiment.sweep)]


def sweep_parameters(experiment: Experiment, key: str) -> Parameters:
    from mudit.sweep.settings import settings

    grid = fields(experiment.sweep, "log2_lr", "log2_lr_min", "log2_lr_max", "seeds", "divergence_factor")
    horizons = list(settings(experiment.sweep)[Setting.parse(key)])
    switches = published(experiment, "shared-draws", "scaled-warmup")
    return dump(experiment, "model", "diffusion", "optimizer", "validation") | {"sweep": grid | {"horizons": horizons}} | switches


def search_parameters(experiment: Experiment, key: str) -> Parameters:
    return dump(experiment, "model", "diffusion", "optimizer", "validation", "search") | published(experiment, "shared-draws")


def sweep_work(experiment: Experiment, key: str) -> float:
    setting = Setting.parse(key)
    steps: int = max(sweep_parameters(experiment, key)["sweep"]["horizons"])
    return setting.width**2 * setting.batch_size * steps * (len(experiment.sweep.log2_lr) + 3 * len(experiment.sweep.seeds))


def search_work(experiment: Experiment, key: str) -> float:
    search = experiment.search
    return search.width**2 * search.batch_size * search.steps * search.trials


def transfer_inputs(experiment: Experiment, key: str) -> list[str]:
    """Where the base hyperparameters come from: a sweep's certificate or a random search; nowhere if every arm states its own."""
    return [stage for stage in ("select", "search") if experiment.has(stage)]


def transfer_parameters(experiment: Experiment, key: str) -> Parameters:
    train = fields(experiment.train, "width", "batch_size", "steps")
    arm = experiment.train.arms[key].model_dump(mode="json")
    sections = [name for name in ("transfer", "search") if experiment.has(name)]
    switches = published(experiment, "scaled-warmup")
    return dump(experiment, *sections, "model", "diffusion", "optimizer") | {"train": train | {"arms": {key: arm}}} | switches


def train_keys(experiment: Experiment, seeds: list[int]) -> list[str]:
    return [Target(arm, seed).name for seed in seeds for arm in experiment.train.arms]


def train_parameters(experiment: Experiment, key: str) -> Parameters:
    left_out = {"arms", "seeds", "checkpoint_every", "keep_checkpoints", "keep_every"}
    train = experiment.train.model_dump(mode="json", exclude=left_out)
    switches = published(experiment, "shared-draws")
    return dump(experiment, "model", "diffusion", "optimizer", "validation") | {"train": train} | switches


def train_work(experiment: Experiment, key: str) -> float:
    return experiment.train.width**2 * experiment.train.batch_size * experiment.train.steps


def imported_parameters(experiment: Experiment, key: str) -> Parameters:
    return dump(experiment, "model") | {"imported": {key: experiment.imported[key].model_dump(mode="json")}}


def sampled_keys(experiment: Experiment) -> list[str]:
    """Target runs, then checkpoints from elsewhere."""
    runs = train_keys(experiment, experiment.sample.train_seeds) if experiment.has("train") else []
    return runs + (list(experiment.imported) if experiment.has("imported") else [])


def weights_of(experiment: Experiment, key: str) -> str:
    """The artefact whose weights are sampled under a key."""
    return f"imported/{key}" if experiment.has("imported") and key in experiment.imported else f"train/{key}"


def sample_parameters(experiment: Experiment, key: str) -> Parameters:
    sample = experiment.sample.model_dump(mode="json", exclude={"train_seeds"})
    return dump(experiment, "model", "diffusion") | {"sample": sample} | published(experiment, "random-labels", "raw-weights")


def evaluate_inputs(experiment: Experiment, key: str) -> list[str]:
    scorer = ["scorer"] if experiment.has("scorer") else []
    return ["data", "extractor", *scorer, weights_of(experiment, key), f"sample/{key}"]


def extractor_parameters(experiment: Experiment, key: str) -> Parameters:
    """Where weights lie is left out, here and below: they are known by their checksum, which the artefact records."""
    return {
        "evaluate": fields(experiment.evaluate, "extractor", "reference"),
        "model": fields(experiment.model, "num_classes"),
    }


def evaluate_parameters(experiment: Experiment, key: str) -> Parameters:
    scorer = ["scorer"] if experiment.has("scorer") else []
    sections = dump(experiment, "model", "diffusion", "validation", *scorer)
    evaluate = experiment.evaluate.model_dump(mode="json", exclude={"weights"})
    return sections | {"evaluate": evaluate} | published(experiment, "raw-weights")


def prompts_inputs(experiment: Experiment, key: str) -> list[str]:
    """The extractor where real images are to be embedded."""
    return ["extractor"] if experiment.benchmarks[key].kind == "fid-clip" else []


def prompts_parameters(experiment: Experiment, key: str) -> Parameters:
    data = fields(experiment.data, "captions", "image_size")
    return {"benchmarks": {key: experiment.benchmarks[key].model_dump(mode="json")}, "data": data} | _judged_by(experiment, key)


def benchmark_keys(experiment: Experiment) -> list[str]:
    """Every benchmark of every run that is sampled."""
    return [Benchmarked(run, benchmark).name for benchmark in experiment.benchmarks for run in sampled_keys(experiment)]


def benchmark_inputs(experiment: Experiment, key: str) -> list[str]:
    run, benchmark = Benchmarked.parse(key)
    return ["data", *prompts_inputs(experiment, benchmark), f"prompts/{benchmark}", weights_of(experiment, run)]


def benchmark_parameters(experiment: Experiment, key: str) -> Parameters:
    benchmark = Benchmarked.parse(key).benchmark
    sample = experiment.sample.model_dump(mode="json", exclude={"train_seeds", "images"})
    own = {"benchmarks": {benchmark: experiment.benchmarks[benchmark].model_dump(mode="json")}, "sample": sample}
    return dump(experiment, "model", "diffusion") | own | _judged_by(experiment, benchmark) | published(experiment, "raw-weights")


def _judged_by(experiment: Experiment, benchmark: str) -> Parameters:
    """The extractor of a benchmark's distance."""
    if experiment.benchmarks[benchmark].kind != "fid-clip":
        return {}
    return {"evaluate": fields(experiment.evaluate, "extractor")}
