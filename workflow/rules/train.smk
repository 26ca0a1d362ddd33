# One job per arm and seed of the target. It resumes from state/, which no rule declares.
rule train:
    input:
        inputs("train"),
    output:
        touch("state/fresh/{experiment}/train/{key}"),
    log:
        "logs/train/{experiment}/{key}.log",
    benchmark:
        "logs/train/{experiment}/{key}.tsv"
    priority: dearest_first("train")
    threads: threads("train")
    resources:
        **demands("train"),
    message:
        "train {wildcards.experiment} {wildcards.key}"
    shell:
        mudit("train")


# Checkpoints that `mudit import` brought in, for `sample` and `evaluate`.
rule imported:
    input:
        inputs("imported"),
    output:
        touch("state/fresh/{experiment}/imported/{key}"),
    log:
        "logs/imported/{experiment}/{key}.log",
    benchmark:
        "logs/imported/{experiment}/{key}.tsv"
    threads: threads("imported")
    resources:
        **demands("imported"),
    message:
        "imported {wildcards.experiment} {wildcards.key}"
    shell:
        mudit("imported")
