"""The model card of an exported folder: how to load it, what it is, where it comes from, and what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mudit import __version__
from mudit.provenance.verdict import Inspector
from mudit.report.claims import LEDGER_FILE
from mudit.stages import Artefact, parse

if TYPE_CHECKING:
    from mudit.interchange.export import Run
    from mudit.interchange.plain import Format

_LOADING = {
    "dit": """```python
from diffusers import DiTPipeline

pipe = DiTPipeline.from_pretrained("THIS FOLDER")
for block in pipe.transformer.transformer_blocks:
    block.norm1.emb.time_proj.downscale_freq_shift = 0
images = pipe(class_labels=[0, 1], num_inference_steps=50).images
```""",
    "pixart": """```python
import torch
from diffusers import PixArtAlphaPipeline
from safetensors.torch import load_file

pipe = PixArtAlphaPipeline.from_pretrained("THIS FOLDER")
null = load_file("THIS FOLDER/null_caption.safetensors")["tokens"][None]
images = pipe(
    prompt_embeds=captions,  # (1, {max_tokens}, {text_dim}), padded
    prompt_attention_mask=mask,
    negative_prompt=None,
    negative_prompt_embeds=null,
    negative_prompt_attention_mask=torch.ones(null.shape[:2]),
    use_resolution_binning=False,
).images
```""",
    "parts": """```python
from diffusers import {transformer}, {scheduler}

transformer = {transformer}.from_pretrained("THIS FOLDER", subfolder="transformer")
scheduler = {scheduler}.from_pretrained("THIS FOLDER", subfolder="scheduler")
```""",
    "plain": """```python
from safetensors.torch import load_file

weights = load_file("THIS FOLDER/model.safetensors")  # the names of the published {family}; the sizes are in model.json
```

`mudit import "THIS FOLDER" --as {family} --scheme sp` brings it back.""",
}


def write_card(run: Run, form: Format, notes: list[str], out: Path) -> None:
    """Writes `README.md` into `out`."""
    library = "diffusers" if form == "diffusers" else "safetensors"
    parts = [
        f"---\nlibrary_name: {library}\ntags: [mudit, {run.weights.model.family}, {run.scheme}]\n---",
        f"# {run.artefact.experiment} {run.artefact.key}",
        _what(run),
        "## Loading",
        _loading(run, form, out),
        *(["## To know", "\n".join(f"- {note[0].upper()}{note[1:]}." for note in notes)] if notes else []),
        "## Where it comes from",
        _provenance(run),
        "## What was measured",
        *_metrics(run),
        _ledger(run),
    ]
    (out / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _what(run: Run) -> str:
    total = sum(tensor.numel() for tensor in run.weights.state.values())
    weights = "the average of its weights" if run.weights.which == "ema" else "the weights of its last step"
    folded = "; muP's forward multipliers are folded in, so do not train on under muP" if run.scheme == "mup" else ""
    return (
        f"A {run.weights.model.family} of width {run.weights.width} with {total / 1e6:.2f}M parameters, trained under the scheme "
        f"`{run.scheme}`: {weights}{folded}. Exported by mudit {__version__}."
    )


def _loading(run: Run, form: Format, out: Path) -> str:
    model = run.weights.model
    if form == "safetensors":
        return _LOADING["plain"].format(family=model.family)
    if not (out / "model_index.json").exists():
        classes = {folder: _class(out / folder) for folder in ("transformer", "scheduler")}
        return _LOADING["parts"].format(**classes)
    text = _LOADING[model.family]
    for name in ("max_tokens", "text_dim"):
        text = text.replace(f"{{{name}}}", str(getattr(model, name, "")))
    return text


def _class(folder: Path) -> str:
    (config,) = folder.glob("*config.json")
    return str(json.loads(config.read_text(encoding="utf-8"))["_class_name"])


def _provenance(run: Run) -> str:
    manifest, git = run.manifest, run.manifest["git"]
    rows: dict[str, Any] = {
        "artefact": f"{run.artefact.id} ({run.verdict})",
        "content": manifest["content"],
        "digest of its parameters": manifest["digests"]["parameters"],
        "digest of its code": manifest["digests"]["code"],
        "git": git.get("commit") if isinstance(git, dict) else git,
        "environment": manifest["environment"].get("digest"),
        "made": manifest["run"]["ended"],
        "model FLOPs": manifest["run"]["flops"],
        **{name: value for name, value in run.outcome.items() if value is not None},
    }
    return _table(
        ["what", "value"], [[name, f"`{value if isinstance(value, str) else json.dumps(value)}`"] for name, value in rows.items()]
    )


def _metrics(run: Run) -> list[str]:
    """Figures of the very weights that leave, by their checksum: an evaluation may be of the average, or of an earlier training."""
    evaluation = parse(run.artefact.experiment, f"evaluate/{run.artefact.key}")
    path = evaluation.path / "metrics.json"
    records = json.loads(path.read_text(encoding="utf-8"))["records"] if path.is_file() else []
    records = [record for record in records if record["weights"]["sha256"] == run.sha256]
    if not records:
        return ["These weights were not evaluated."]
    cells = [
        [
            record["metric"],
            record.get("reason") if record["value"] is None else record["value"],
            record.get("interval") or "",
            record["n"],
        ]
        for record in records
    ]
    return [f"Of these weights, by {_described(run, evaluation)}:", _table(["metric", "value", "interval", "n"], cells)]


def _ledger(run: Run) -> str:
    report = parse(run.artefact.experiment, "report")
    path = report.path / LEDGER_FILE
    if not path.is_file():
        return f"There is no report of the experiment yet; `{report.command}` makes it."
    ledger = json.loads(path.read_text(encoding="utf-8"))
    rows = [[row["claim"], row["published"]["value"], row["ours"], row["verdict"]] for row in ledger["rows"]]
    about = f"Of the whole experiment, by {_described(run, report)}: {ledger['summary']}"
    return f"{about}\n\n" + _table(["claim", "paper", "here", "verdict"], rows)


def _described(run: Run, artefact: Artefact) -> str:
    """Name, and whether the present configuration and code would make the same."""
    return f"{artefact.id} ({Inspector(run.config, quick=True).verdict(artefact)})"


def _table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines)
