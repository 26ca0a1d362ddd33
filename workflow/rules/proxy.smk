# The gate, then one job per sweep setting: all its learning rates and seeds share a process.
rule coordcheck:
    input:
        inputs("coordcheck"),
    output:
        touch("state/fresh/{experiment}/coordcheck"),
    log:
        "logs/coordcheck/{experiment}.log",
    benchmark:
        "logs/coordcheck/{experiment}.tsv"
    threads: 1
    message:
        "coordcheck {wildcards.experiment}"
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
    threads: 1
    message:
        "sweep {wildcards.experiment} {wildcards.key}"
    shell:
        mudit("sweep")
