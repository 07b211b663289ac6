"""Errors that a user of `sfddm-train` sees. Each is one sentence that says what was wrong and what to do.

TrainingError
├── DataError        the data set is missing, empty or damaged
└── CheckpointError  a checkpoint is missing, damaged or belongs to another configuration
"""


class TrainingError(Exception):
    """Base class. The command prints the message and exits with status 1."""


class DataError(TrainingError):
    """The data set is missing, empty or damaged."""


class CheckpointError(TrainingError):
    """A checkpoint is missing, damaged or belongs to another configuration."""
