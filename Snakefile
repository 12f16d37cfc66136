# The sweep: notebooks x models x seeds, on this machine (`attribook sweep`, or `snakemake -j 2`)
# or on a cluster (`snakemake --executor slurm -j 200 --config device=cuda scale=paper`).
# What a notebook may be swept over stands in its front matter. A run is made again when what made
# it changed (`params`), whatever the times of the files say.
import json
from pathlib import Path

from attribook.report.notebooks import notebooks_of
from attribook.report.provenance import digest
from attribook.report.run import versions

NOTEBOOKS = notebooks_of(Path.cwd())
DEVICE, SCALE = config.get("device", "cpu"), config.get("scale", "default")


def sweep():
    """Every run but the references, which are committed."""
    runs = [
        notebook.output({"model": model, "seed": seed, "device": DEVICE, "scale": SCALE})
        for notebook in NOTEBOOKS.values()
        for model in notebook.models
        for seed in notebook.seeds
    ]
    return [str(run.relative_to(Path.cwd())) for run in runs if "runs" in run.parts]


def made_from(wildcards):
    """What a run is made from: the notebook's code, the library under it, versions."""
    now = NOTEBOOKS[f"{wildcards.paper}/{wildcards.name}"].made_from
    return digest(json.dumps([now["code"], now["library"], versions()], sort_keys=True))


rule all:
    default_target: True
    input:
        sweep(),


rule run:
    input:
        ancient("notebooks/{paper}/{name}.md"),
    output:
        "runs/{paper}/{name}/{model}-seed{seed}-{device}-{scale}.ipynb",
        "runs/{paper}/{name}/{model}-seed{seed}-{device}-{scale}.json",
    log:
        "runs/{paper}/{name}/{model}-seed{seed}-{device}-{scale}.log",
    params:
        made_from=made_from,
    wildcard_constraints:
        seed=r"\d+",
        device="cpu|cuda",
        scale="default|paper",
    threads: 1
    resources:
        mem_mb=3000,
        runtime=60,
        gpu=lambda wildcards: int(wildcards.device == "cuda"),
    shell:
        "attribook run {wildcards.paper}/{wildcards.name} --force -p model {wildcards.model}"
        " -p seed {wildcards.seed} -p device {wildcards.device} -p scale {wildcards.scale}"
        " > {log} 2>&1"
