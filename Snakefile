# The workflow lives in workflow/. Snakemake restores the default target after an include, so it is set again here.
include: "workflow/Snakefile"


workflow.default_target = "all"
