"""`mudit config`: check the configuration, regenerate what is made from its schema."""

from __future__ import annotations

from mudit.commands.options import DEFAULT_CONFIG, ConfigPath
from mudit.errors import ConfigError


def check(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Validate the configuration, and that its generated schema and reference are up to date."""
    from mudit.config.export import drifted
    from mudit.config.load import load
    from mudit.provenance.source import REPOSITORY

    loaded = load(config)
    if drift := drifted(REPOSITORY):
        raise ConfigError(f"{', '.join(drift)}: not what mudit.config.schema says; run: mudit config fix")
    print(f"{config}: valid; studies {', '.join(loaded.studies)}; experiments {', '.join(loaded.experiments)}")


def fix() -> None:
    """Regenerate the JSON schema and the reference from mudit.config.schema."""
    from mudit.config.export import write
    from mudit.provenance.source import REPOSITORY

    written = write(REPOSITORY)
    print(f"wrote {', '.join(written)}" if written else "nothing has drifted")
