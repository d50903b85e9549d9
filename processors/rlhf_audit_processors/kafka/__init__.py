"""The seal step behind Faust: one worker process, its recovery from Kafka, its ticks.

Faust is a consumer and a scheduler here, and never a source of correctness:
its offsets are hints, the sealed topic is the state. No rule of the ledger
stands in this package; the loop is ``rlhf_audit_processors.seal_loop``.
"""
