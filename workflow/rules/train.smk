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
    threads: 1
    message:
        "train {wildcards.experiment} {wildcards.key}"
    shell:
        mudit("train")
