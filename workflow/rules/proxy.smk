# The gate, one job per family; then one job per sweep setting, all its learning rates and seeds in a process, or one random search.
rule coordcheck:
    input:
        inputs("coordcheck"),
    output:
        touch("state/fresh/{experiment}/coordcheck/{key}"),
    log:
        "logs/coordcheck/{experiment}/{key}.log",
    benchmark:
        "logs/coordcheck/{experiment}/{key}.tsv"
    threads: threads("coordcheck")
    resources:
        **demands("coordcheck"),
    message:
        "coordcheck {wildcards.experiment} {wildcards.key}"
    shell:
        mudit("coordcheck")


rule sweep:
    input:
        inputs("sweep"),
    output:
        touch("state/fresh/{experiment}/sweep/{key}"),
    log:
        "logs/sweep/{experiment}/{key}.log",
    benchmark:
        "logs/sweep/{experiment}/{key}.tsv"
    priority: dearest_first("sweep")
    threads: threads("sweep")
    resources:
        **demands("sweep"),
    message:
        "sweep {wildcards.experiment} {wildcards.key}"
    shell:
        mudit("sweep")


rule search:
    input:
        inputs("search"),
    output:
        touch("state/fresh/{experiment}/search"),
    log:
        "logs/search/{experiment}.log",
    benchmark:
        "logs/search/{experiment}.tsv"
    priority: dearest_first("search")
    threads: threads("search")
    resources:
        **demands("search"),
    message:
        "search {wildcards.experiment}"
    shell:
        mudit("search")
