"""Run in an environment of its own: `validate.py RELEASE CONTEXT`. Prints the issues that RO-Crate's validator finds, one a line.

The JSON-LD context comes from a file instead of the network, so that the answer depends on nothing else.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import requests
from rdflib.plugins.shared.jsonld import context as jsonld
from rocrate_validator import models, services
from rocrate_validator.utils.http import HttpRequester

release, document = sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
# The file is the context of RO-Crate 1.3; these terms have other addresses in that of 1.1, which the release names.
document["@context"] |= {term: f"https://bioschemas.org/{term}" for term in ("ComputationalWorkflow", "FormalParameter")}
text = json.dumps(document)


def offline_document(source: Any, *arguments: Any, **keywords: Any) -> Any:
    return (
        (json.loads(text), None)
        if isinstance(source, str) and source.startswith("https://")
        else read(source, *arguments, **keywords)
    )


def offline_get(self: Any, url: str, **keywords: Any) -> requests.Response:
    response = requests.Response()
    response.status_code, response._content, response.url = 200, text.encode(), url
    response.headers["Content-Type"] = "application/ld+json"
    return response


read, jsonld.source_to_json = jsonld.source_to_json, offline_document
HttpRequester.__getattr__ = lambda self, name: offline_get.__get__(self)
settings = services.ValidationSettings(
    rocrate_uri=release, profile_identifier="workflow-run-crate-0.5", requirement_severity=models.Severity.REQUIRED
)
for issue in services.validate(settings).get_issues():
    print(issue.check.identifier, issue.message)
