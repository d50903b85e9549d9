"""Sealed records into stores: the evidence objects and the vault.

A sink writes, waits until the store has confirmed, and only then moves on.
"""
