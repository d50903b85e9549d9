"""Sinks: the evidence in object storage."""
