# The page and its figures, which Snakemake's own report shows too.
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
            directory("results/{experiment}/report/figures"),
            patterns=["{figure}.svg"],
            caption="../report/figures.rst",
            category="Figures",
            labels={"experiment": "{experiment}", "figure": "{figure}"},
        ),
    log:
        "logs/report/{experiment}.log",
    benchmark:
        "logs/report/{experiment}.tsv"
    threads: threads("report")
    resources:
        **demands("report"),
    message:
        "report {wildcards.experiment}"
    shell:
        mudit("report")
