"""From source log to sealed log to global log: the seal loop and the sequencer.

The rules are pure steps in ``rlhf_audit_ledger``; here they are read, stepped and
written, in that order.
"""
