"""The demo: a real training on two ranks, recorded, queried, verified and forged; or its last chapters alone.

Everything a user would type is run as the command it is, and shown before it runs.
"""
