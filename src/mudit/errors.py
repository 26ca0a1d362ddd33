"""The project's exception tree. Each message is one line: what is wrong, where, and what to do.

The command line prints these without a traceback and exits with code 2; anything else is a bug in mudit and keeps its traceback.
"""


class MuditError(Exception):
    """Base of every error that a user can mend."""


class ConfigError(MuditError, ValueError):
    """`config.yaml` or a flag names something that cannot be."""


class DataError(MuditError, ValueError):
    """A data folder, image or store is missing, damaged or of the wrong shape."""


class CheckpointError(MuditError, ValueError):
    """A checkpoint is damaged, or belongs to another run."""


class ParametrizationError(MuditError, ValueError):
    """A parameter has no rule, or base, delta and target shapes do not fit together."""


class GateError(MuditError):
    """The coordinate check failed: what stands on it must not run."""


class GridEdgeError(MuditError, ValueError):
    """The best learning rate lies on the edge of the grid, so the optimum is unknown."""


class ProvenanceError(MuditError):
    """An artefact is missing, stale, foreign or damaged."""


class BusyError(MuditError):
    """Another process is making the artefact."""


class ResultsError(MuditError, OSError):
    """Results cannot be written: no permission, no space."""
