"""Re-checks what the others wrote, from bytes and a public key alone.

Needs no running service, and shares no code with the roles that it judges
beyond the pure ledger and the stores.
"""
