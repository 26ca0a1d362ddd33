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
    threads: threads("sample")
    resources:
        **demands("sample"),
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
    threads: threads("evaluate")
    resources:
        **demands("evaluate"),
    message:
        "evaluate {wildcards.experiment} {wildcards.key}"
    shell:
        mudit("evaluate")


rule scorer:
    input:
        inputs("scorer"),
    output:
        touch("state/fresh/{experiment}/scorer"),
    log:
        "logs/scorer/{experiment}.log",
    benchmark:
        "logs/scorer/{experiment}.tsv"
    threads: threads("scorer")
    resources:
        **demands("scorer"),
    message:
        "scorer {wildcards.experiment}"
    shell:
        mudit("scorer")


# Prompts and reference images of public text-to-image benchmarks, then one job per run and benchmark.
rule prompts:
    input:
        inputs("prompts"),
    output:
        touch("state/fresh/{experiment}/prompts/{key}"),
    log:
        "logs/prompts/{experiment}/{key}.log",
    benchmark:
        "logs/prompts/{experiment}/{key}.tsv"
    threads: threads("prompts")
    resources:
        **demands("prompts"),
    message:
        "prompts {wildcards.experiment} {wildcards.key}"
    shell:
        mudit("prompts")


rule benchmark:
    input:
        inputs("benchmark"),
    output:
        touch("state/fresh/{experiment}/benchmark/{key}"),
    log:
        "logs/benchmark/{experiment}/{key}.log",
    benchmark:
        "logs/benchmark/{experiment}/{key}.tsv"
    threads: threads("benchmark")
    resources:
        **demands("benchmark"),
    message:
        "benchmark {wildcards.experiment} {wildcards.key}"
    shell:
        mudit("benchmark")
