"""Sections of `config.yaml` that describe public text-to-image benchmarks. docs/text-benchmarks.md says what each figure is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from mudit.config.base import Count, PositiveInt, Section, Share
from mudit.sizes import JACKKNIFE_GROUPS

if TYPE_CHECKING:
    from mudit.config.schema import Experiment

FID_IMAGES = 30_000  # of the protocol `fid-30k`
INTERVAL_NEEDS = f"the interval of a Fréchet distance leaves out {JACKKNIFE_GROUPS} groups of images in turn"
GENEVAL_PROMPTS = 553  # of the protocol `geneval`
_INCEPTION = "inception-v3-compat"


class CocoPrompts(Section):
    """MS-COCO: one caption of each drawn image of an annotation file such as `captions_val2014.json`."""

    kind: Literal["coco"] = Field(description="where prompts and reference images come from")
    captions: str = Field(description="JSON of the captions, with `images` and `annotations`")
    images: str = Field(description="reference images: a folder, a .zip or a plain .tar")
    draw_seed: Count = Field(description="seed of which images are drawn, and which caption of each")


class MJHQPrompts(Section):
    """MJHQ-30K: `meta_data.json`, which maps an image's id to its category and prompt."""

    kind: Literal["mjhq"] = Field(description="where prompts and reference images come from")
    metadata: str = Field(description="JSON of ids, categories and prompts")
    images: str = Field(description="reference images, CATEGORY/ID.jpg: a folder, a .zip or a plain .tar")
    draw_seed: Count = Field(description="seed of their order, and of which are drawn if `images` asks for fewer")


class FidClipSection(Section):
    """Fréchet distance to the reference images, and CLIP score with the prompts."""

    kind: Literal["fid-clip"] = Field(description="what is measured")
    protocol: Literal["fid-30k", "any"] = Field(description="`fid-30k` insists on 30,000 images; `any` takes another number")
    prompts: CocoPrompts | MJHQPrompts = Field(discriminator="kind", description="prompts and reference images")
    images: PositiveInt = Field(description="prompts, with one generated and one reference image each")
    max_corrupt_share: Share = Field(description="share of missing or unreadable reference images above which preparation stops")
    clip: str = Field(description="local folder of a CLIP model of `transformers`, such as clip-vit-large-patch14")

    @property
    def images_per_prompt(self) -> int:
        """One."""
        return 1

    @model_validator(mode="after")
    def _as_published(self) -> Self:
        if self.protocol == "fid-30k" and self.images != FID_IMAGES:
            raise ValueError(f"images {self.images}: the protocol fid-30k has {FID_IMAGES}; set it, or protocol to any")
        return self


class DetectorSection(Section):
    """Mask2Former for instances, as `transformers` has it."""

    path: str = Field(description="local folder, such as mask2former-swin-small-coco-instance")
    short_side: PositiveInt = Field(description="images are enlarged to this shorter side, in pixels (published: 800)")
    long_side: PositiveInt = Field(description="or less, so that the longer one has at most this (published: 1333)")
    detections: PositiveInt = Field(description="most confident pairs of query and class that are looked at (published: 100)")


class GenEvalRules(Section):
    """Numbers of GenEval's rules (Ghosh et al. 2023)."""

    threshold: Share = Field(description="confidence above which an object counts (published: 0.3)")
    counting_threshold: Share = Field(description="the same where objects are counted (published: 0.9)")
    max_objects: PositiveInt = Field(description="objects of a class that are kept, the most confident (published: 16)")
    max_overlap: float = Field(
        gt=0, le=1, description="an object whose box overlaps a better one of its class by this IoU is dropped; 1: none (published)"
    )
    position_slack: float = Field(ge=0, description="offset that does not count, as a share of both boxes' sizes (published: 0.1)")


PUBLISHED_RULES = GenEvalRules(threshold=0.3, counting_threshold=0.9, max_objects=16, max_overlap=1.0, position_slack=0.1)
_PUBLISHED_PER_PROMPT = 4
_PUBLISHED_DETECTOR = {"short_side": 800, "long_side": 1333, "detections": 100}


class GenEvalSection(Section):
    """GenEval: does a detector find the objects, counts, colours and places that a prompt names?"""

    kind: Literal["geneval"] = Field(description="what is measured")
    protocol: Literal["geneval", "any"] = Field(
        description=f"`geneval` insists on the published rules and detector, {GENEVAL_PROMPTS} prompts and 4 images of each; "
        "`any` does not"
    )
    prompts: str = Field(description="`evaluation_metadata.jsonl` as published")
    images_per_prompt: PositiveInt = Field(description="published: 4")
    rules: GenEvalRules = Field(description="thresholds")
    detector: DetectorSection = Field(description="finds the objects")
    clip: str = Field(description="local folder of the CLIP model that names colours, such as clip-vit-large-patch14")

    @model_validator(mode="after")
    def _as_published(self) -> Self:
        if self.protocol == "any":
            return self
        if self.images_per_prompt != _PUBLISHED_PER_PROMPT:
            raise ValueError(
                f"images_per_prompt {self.images_per_prompt}: the protocol geneval has {_PUBLISHED_PER_PROMPT}; "
                "set it, or protocol to any"
            )
        published = [("rules", name, value) for name, value in PUBLISHED_RULES]
        published += [("detector", name, value) for name, value in _PUBLISHED_DETECTOR.items()]
        for part, name, value in published:
            given = getattr(getattr(self, part), name)
            if given != value:
                raise ValueError(f"{part}.{name} {given}: the protocol geneval has {value}; set it, or protocol to any")
        return self


AnyBenchmark = Annotated[FidClipSection | GenEvalSection, Field(discriminator="kind")]


def check_benchmarks(experiment: Experiment) -> None:
    """What benchmarks need of the rest of an experiment. Raises ValueError with one line that names the place."""
    if not experiment.has("benchmarks"):
        return
    if not experiment.has("sample"):
        raise ValueError("benchmarks: images are drawn as section sample says; add it")
    if experiment.model.conditioning != "text" or experiment.data.captions is None:
        raise ValueError("benchmarks: prompts are text, and this model reads none; leave the section out")
    for name, benchmark in experiment.benchmarks.items():
        if not isinstance(benchmark, FidClipSection):
            continue
        if not experiment.has("evaluate"):
            raise ValueError(f"benchmarks.{name}: its distance uses the extractor of section evaluate; add it")
        if benchmark.images < JACKKNIFE_GROUPS:
            raise ValueError(
                f"benchmarks.{name}.images: {benchmark.images}, but {INTERVAL_NEEDS}; make it {JACKKNIFE_GROUPS} or more"
            )
        if benchmark.protocol == "fid-30k" and experiment.evaluate.extractor != _INCEPTION:
            raise ValueError(
                f"benchmarks.{name}.protocol: fid-30k is of {_INCEPTION}, evaluate.extractor is {experiment.evaluate.extractor}; "
                "set the protocol to any"
            )


def prompt_count(benchmark: FidClipSection | GenEvalSection) -> int:
    """Prompts, without reading any file: those of the protocol where only a file says."""
    return benchmark.images if isinstance(benchmark, FidClipSection) else GENEVAL_PROMPTS
