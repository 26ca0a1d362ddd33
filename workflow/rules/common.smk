# Checks the configuration, tells Snakemake which artefacts are fresh, and holds every helper that the rules use. No rules here.
#
# Rules declare *tokens* (state/fresh/<artefact>, empty files) instead of the results themselves, because file times and Snakemake's
# own records do not survive a clone, a pull or a copy, and because Snakemake deletes declared outputs before it runs a job. A token
# exists exactly if the artefact's manifest and content agree with the present configuration and code (mudit.provenance).
import functools
import os
import signal
import sys
from pathlib import Path

from snakemake.logging import logger
from snakemake.settings.types import DeploymentMethod
from snakemake.utils import validate

from mudit.jobs import containers
from mudit.jobs import resources as cluster
from mudit import stages
from mudit.jobs import patience, slurm
from mudit.config.load import load, read
from mudit.errors import ConfigError, MuditError
from mudit.plan import estimate, preflight
from mudit.provenance import tokens
from mudit.provenance.verdict import causes, to_fetch

CONFIG_FILE = Path("config.yaml")


def load_config():
    """The typed configuration. `--config` and `--configfile` may choose the study and nothing else: jobs read the file itself."""
    loaded = load(CONFIG_FILE)
    stages.known(config["study"], loaded.studies, "study")
    if {**config, "study": loaded.study} != read(CONFIG_FILE):
        raise ConfigError(
            f"only `study` can be overridden on the command line: jobs read {CONFIG_FILE}; edit that file or work in another folder"
        )
    return loaded


def or_one_line(function, *arguments, **options):
    """What the function returns. A user's error is one line, and the end: Snakemake would wrap an exception in lines of this file."""
    try:
        return function(*arguments, **options)
    except MuditError as error:
        print(f"mudit: {error}", file=sys.stderr)
        sys.exit(1)


LOADED = or_one_line(load_config)
validate(config, "../schemas/config.schema.json")
STUDY = config["study"]
EXPERIMENTS = stages.experiments(LOADED, STUDY)

if workflow.is_main_process:
    verdicts = tokens.sync(LOADED, STUDY)
    for cause in causes(verdicts):
        logger.info(cause)
    if fetch := to_fetch(LOADED, verdicts):
        logger.info(f"jobs below read files that are not here; first: {fetch}")
    # Tokens are made in one step: whatever Snakemake marked as incomplete when it was killed is either there or not.
    for mark in Path(".snakemake/incomplete").glob("**/*"):
        if mark.is_file():
            mark.unlink(missing_ok=True)
    # Jobs find the `mudit` of this interpreter, activated or not.
    os.environ |= {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])}
else:
    # What `sbatch --signal=USR1@...` sends reaches every process of a job. `mudit launch` listens to it, all around it ignore it.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


# A profile for a cluster gives a default `runtime`; on one machine nobody asks for such resources, and nobody wants to read them.
CLUSTER = "runtime" in (workflow.resource_settings.default_resources or {})


SITE = or_one_line(cluster.read_site) if CLUSTER else None
PLANS = or_one_line(estimate.jobs, LOADED, STUDY) if CLUSTER else None

if CLUSTER:

    queue = functools.cache(slurm.partitions)
    if (executor := sys.modules.get("snakemake_executor_plugin_slurm")) is not None:
        patience.apply(executor)

    onstart:
        for line in or_one_line(preflight.check, LOADED, STUDY, verdicts, site=SITE, queue=queue()):
            logger.info(line)


# `--sdm apptainer`: `mudit launch` puts the stages into the image, so the rules declare no container (mudit.jobs.containers says why).
if DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method:
    or_one_line(containers.use, workflow.deployment_settings.apptainer_args)


wildcard_constraints:
    experiment="|".join(EXPERIMENTS),
    key=r"[a-z0-9_-]+",


def inputs(stage):
    """Input function of a stage's rule: the tokens of its inputs and gates. Their times say nothing, so they count as ancient."""

    def tokens_of_inputs(wildcards):
        made = artefact(stage, wildcards)
        experiment = LOADED.experiments[wildcards.experiment]
        first = stages.inputs(made, experiment) + stages.gates(made, experiment)
        return [ancient(str(tokens.path(each))) for each in first]

    return tokens_of_inputs


def dearest_first(stage):
    """Priority function of a stage's rule: long jobs start before short ones, so that no core idles at the end."""
    return lambda wildcards: artefact(stage, wildcards).stage.work(LOADED.experiments[wildcards.experiment], wildcards.get("key", ""))


def artefact(stage, wildcards):
    return stages.Artefact(wildcards.experiment, stages.STAGES[stage], wildcards.get("key", ""))


def threads(stage):
    """Threads function of a stage's rule: the cores of all its processes on one machine."""
    return lambda wildcards: cluster.threads(LOADED, SITE, wildcards.experiment, stage)


def demands(stage):
    """Resource functions of a stage's rule for a cluster; none on one machine."""
    if not CLUSTER:
        return {}

    def demand(name):
        def asked(wildcards, attempt):
            partitions = queue() if attempt > 1 else None
            return cluster.ask(LOADED, SITE, PLANS, artefact(stage, wildcards), attempt, partitions)[name]

        return asked

    return {name: demand(name) for name in cluster.NAMES}


def mudit(stage):
    """Shell command of a stage's rule. The shell outlives a signal that asks for a checkpoint.

    A failing job shows the end of its log. Snakemake clears a log before each attempt, so those of earlier ones are kept beside it.
    """
    key = " {wildcards.key}" if stages.STAGES[stage].keys else ""
    return (
        f"trap : TERM; mudit launch {stage} {{wildcards.experiment}}{key} > {{log}} 2>&1 "
        "|| {{ code=$?; tail -n 5 {log} >&2; cat {log} >> {log}.earlier; exit $code; }}"
    )


def collected(stage, experiments):
    """Tokens of all artefacts of a stage."""
    return [
        str(tokens.path(stages.Artefact(name, stages.STAGES[stage], key)))
        for name in experiments
        for key in stages.STAGES[stage].all_keys(LOADED.experiments[name])
    ]
