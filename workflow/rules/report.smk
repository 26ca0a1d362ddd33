# The page and its transfer figures, which Snakemake's own report shows too.
rule report:
    input:
        inputs("report"),
    output:
        touch("state/fresh/{experiment}/report"),
        report(
            "results/{experiment}/report/report.html",
            caption="../report/page.rst",
            category="Report",
            labels={"experiment": "{experiment}"},
        ),
        report(
            expand("results/{{experiment}}/report/transfer-{axis}.svg", axis=["width", "batch-size", "steps"]),
            caption="../report/transfer.rst",
            category="Transfer",
        ),
    log:
        "logs/report/{experiment}.log",
    benchmark:
        "logs/report/{experiment}.tsv"
    threads: 1
    message:
        "report {wildcards.experiment}"
    shell:
        mudit("report")
