"""Avro files, codecs, the table of kinds and the root of the error tree.

Knows nothing of hashing, stores or networks. ``codec`` is the fast side
(events), ``strict_decoder``/``strict_encoder`` the exact side (envelopes).
"""
