# Images and metrics of the runs in sample.train_seeds.
rule sample:
    input:
        inputs("sample"),
    output:
        touch("state/fresh/{experiment}/sample/{key}"),
    log:
        "logs/sample/{experiment}/{key}.log",
    benchmark:
        "logs/sample/{experiment}/{key}.tsv"
    threads: 1
    message:
        "sample {wildcards.experiment} {wildcards.key}"
    shell:
        mudit("sample")


rule evaluate:
    input:
        inputs("evaluate"),
    output:
        touch("state/fresh/{experiment}/evaluate/{key}"),
    log:
        "logs/evaluate/{experiment}/{key}.log",
    benchmark:
        "logs/evaluate/{experiment}/{key}.tsv"
    threads: 1
    message:
        "evaluate {wildcards.experiment} {wildcards.key}"
    shell:
        mudit("evaluate")
