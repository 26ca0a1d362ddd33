"""The generated documents are those of the present schema."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import yaml

from mudit.config.export import REFERENCE_FILE, SCHEMA_FILE, documents, drifted, write
from mudit.config.published_page import PUBLISHED_FILE

REPOSITORY = Path(__file__).parents[3]


def test_committed_documents_have_not_drifted() -> None:
    assert drifted(REPOSITORY) == [], "run: mudit config fix"


def test_fix_writes_what_drifted_and_nothing_else(tmp_path: Path) -> None:
    assert write(tmp_path) == [SCHEMA_FILE, REFERENCE_FILE, PUBLISHED_FILE]
    (tmp_path / REFERENCE_FILE).write_text("edited")
    assert drifted(tmp_path) == [REFERENCE_FILE]
    assert write(tmp_path) == [REFERENCE_FILE]
    assert write(tmp_path) == []


def test_json_schema_agrees_with_the_typed_sections() -> None:
    schema = json.loads(documents()[SCHEMA_FILE])
    config = yaml.safe_load((REPOSITORY / "tests/smoke/config.yaml").read_text())
    jsonschema.validate(config, schema)
    config["experiments"]["smoke"]["model"]["dpeth"] = 1
    errors = list(jsonschema.Draft202012Validator(schema).iter_errors(config))
    (error,) = errors
    assert error.validator == "oneOf" and any(each.validator == "additionalProperties" for each in error.context)


def test_reference_lists_every_key_with_its_meaning() -> None:
    reference = documents()[REFERENCE_FILE]
    assert "## `experiments.NAME.train.arms.NAME`" in reference
    assert "## `experiments.NAME.model` with family `mmdit`" in reference and "## `experiments.NAME.model.alignment`" in reference
    assert "| `log2_lr` | number >= -40, <= 10 or `transferred` or `tuned` or section |" in reference
