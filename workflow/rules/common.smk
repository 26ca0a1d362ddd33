# Checks the configuration, tells Snakemake which artefacts are fresh, and holds every helper that the rules use. No rules here.
#
# Rules declare *tokens* (state/fresh/<artefact>, empty files) instead of the results themselves, because file times and Snakemake's
# own records do not survive a clone, a pull or a copy, and because Snakemake deletes declared outputs before it runs a job. A token
# exists exactly if the artefact's manifest and content agree with the present configuration and code (mudit.provenance).
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.utils import validate

from mudit import stages
from mudit.config.load import load, read
from mudit.errors import MuditError
from mudit.provenance import tokens
from mudit.provenance.verdict import causes

CONFIG_FILE = Path("config.yaml")


def load_config():
    """The typed configuration. `--config` and `--configfile` may choose the study and nothing else: jobs read the file itself."""
    try:
        loaded = load(CONFIG_FILE)
        stages.known(config["study"], loaded.studies, "study")
    except MuditError as error:
        raise WorkflowError(str(error))
    if {**config, "study": loaded.study} != read(CONFIG_FILE):
        raise WorkflowError(
            f"only `study` can be overridden on the command line: jobs read {CONFIG_FILE}; edit that file or work in another folder"
        )
    return loaded


LOADED = load_config()
validate(config, "../schemas/config.schema.json")
STUDY = config["study"]
EXPERIMENTS = stages.experiments(LOADED, STUDY)

if workflow.is_main_process:
    for cause in causes(tokens.sync(LOADED, STUDY)):
        logger.info(cause)
    # Tokens are made in one step: whatever Snakemake marked as incomplete when it was killed is either there or not.
    for mark in Path(".snakemake/incomplete").glob("**/*"):
        if mark.is_file():
            mark.unlink(missing_ok=True)
    # Jobs find the `mudit` of this interpreter, activated or not.
    os.environ |= {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])}


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


def mudit(stage):
    """Shell command of a stage's rule. A failing job shows the end of its log."""
    key = " {wildcards.key}" if stages.STAGES[stage].keys else ""
    return f"mudit {stage} {{wildcards.experiment}}{key} > {{log}} 2>&1 || {{{{ tail -n 5 {{log}} >&2; exit 1; }}}}"


def collected(stage, experiments):
    """Tokens of all artefacts of a stage."""
    return [
        str(tokens.path(stages.Artefact(name, stages.STAGES[stage], key)))
        for name in experiments
        for key in stages.STAGES[stage].all_keys(LOADED.experiments[name])
    ]
