# Named targets: `all`, `all_STAGE` (a stage of every experiment of the study) and `STAGE@EXPERIMENT` (as DVC names its stages).


rule all:
    default_target: True
    input:
        [token for stage in stages.STAGES for token in collected(stage, EXPERIMENTS)],


for stage in stages.STAGES:

    rule:
        name:
            f"all_{stage}"
        input:
            collected(stage, EXPERIMENTS),

    for experiment in EXPERIMENTS:

        rule:
            name:
                f"{stage}@{experiment}"
            input:
                collected(stage, [experiment]),
