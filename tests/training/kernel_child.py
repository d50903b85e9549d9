"""Runs the kernel for devices without one: Triton interprets it where TRITON_INTERPRET=1 is set before its import."""

from __future__ import annotations

import os
import sys
from unittest import mock

from rlhf_audit_producers.hooks import device_kernel, device_stats
from rlhf_audit_producers.hooks.gradient_stats import ask
from training.gradient_cases import cases, check

assert os.environ["TRITON_INTERPRET"] == "1"

gradients = cases("cpu")
with (
    mock.patch("rlhf_audit_producers.hooks.gradient_stats._MAIN_MEMORY", "elsewhere"),
    mock.patch.object(device_stats, "_kernel", return_value=device_kernel),
    mock.patch.object(device_stats, "_by_operations", None),
):
    check(ask(gradients).read(), gradients)
    check(ask(gradients[::-1]).read(), gradients[::-1])
    for number, gradient in enumerate(gradients):
        check(ask([gradient]).read(), [gradient])
        sys.stdout.write(f"case {number} holds\n")
