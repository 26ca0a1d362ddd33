# The certificate from all sweeps, and what follows from it for each arm of the target.
rule select:
    input:
        inputs("select"),
    output:
        touch("state/fresh/{experiment}/select"),
    log:
        "logs/select/{experiment}.log",
    benchmark:
        "logs/select/{experiment}.tsv"
    threads: threads("select")
    resources:
        **demands("select"),
    message:
        "select {wildcards.experiment}"
    shell:
        mudit("select")


rule transfer:
    input:
        inputs("transfer"),
    output:
        touch("state/fresh/{experiment}/transfer/{key}"),
    log:
        "logs/transfer/{experiment}/{key}.log",
    benchmark:
        "logs/transfer/{experiment}/{key}.tsv"
    threads: threads("transfer")
    resources:
        **demands("transfer"),
    message:
        "transfer {wildcards.experiment} {wildcards.key}"
    shell:
        mudit("transfer")
