"""Where events begin: numbered at the source, batched, signed and made durable.

Never waits on the network, never changes what it observes.
"""
