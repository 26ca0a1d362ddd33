# The page.
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
    log:
        "logs/report/{experiment}.log",
    benchmark:
        "logs/report/{experiment}.tsv"
    threads: 1
    message:
        "report {wildcards.experiment}"
    shell:
        mudit("report")
