"""ClickHouse as the query copy: schema, mapping, sink.

Two databases: ``audit`` (what the public record says: windows, messages) and
``audit_restricted`` (one table per event kind, and findings). Everything here
can be rebuilt from the evidence; nothing here proves anything.

``columns`` derives a table's columns from the kind's Avro schema, ``blocks``
turns a window into blocks of rows, ``sink`` inserts them exactly once,
``engine`` opens the embedded engine or a server, ``migrations`` applies the
numbered SQL files. Importing this package loads neither chdb nor pyarrow.
"""
