# The latent store, and the feature extractor that is trained on it.
rule data:
    input:
        inputs("data"),
    output:
        touch("state/fresh/{experiment}/data"),
    log:
        "logs/data/{experiment}.log",
    benchmark:
        "logs/data/{experiment}.tsv"
    threads: threads("data")
    resources:
        **demands("data"),
    message:
        "data {wildcards.experiment}"
    shell:
        mudit("data")


rule extractor:
    input:
        inputs("extractor"),
    output:
        touch("state/fresh/{experiment}/extractor"),
    log:
        "logs/extractor/{experiment}.log",
    benchmark:
        "logs/extractor/{experiment}.tsv"
    threads: threads("extractor")
    resources:
        **demands("extractor"),
    message:
        "extractor {wildcards.experiment}"
    shell:
        mudit("extractor")
