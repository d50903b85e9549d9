"""The root of the error tree.

The class tells the caller what to do; fields carry the evidence; the message
says where, what was expected and what was found, and never holds event
contents (a prompt that leaks through an error cannot be erased).

The three outcomes of a check stay three types: nothing raised (checked and
fine), ``TamperError`` (checked and false), ``CouldNotCheckError`` (neither).
"""

from __future__ import annotations


class AuditTrailError(Exception):
    """Base of all errors raised on purpose by this project."""

    retriable = False


class ConfigError(AuditTrailError):
    """A setting or argument is wrong; the message says which one and what would be right."""


class TransportError(AuditTrailError):
    """The broker or store did not answer; trying again may help."""

    retriable = True


class FormatError(AuditTrailError):
    """Bytes from outside are not what the format says; trying again cannot help."""


class TamperError(AuditTrailError):
    """Stored data contradicts a commitment to it; trying again cannot help."""


class CouldNotCheckError(AuditTrailError):
    """There was nothing to check, or it could not be read: neither fine nor tampered."""
