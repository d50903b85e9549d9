"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# A time limit for an example would measure how busy the machine is.
settings.register_profile("here", deadline=None)
settings.load_profile("here")
