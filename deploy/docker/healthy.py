"""Status 0 if the worker in this container turns: what HEALTHCHECK runs."""

import http.client
import os
import sys

connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("RLHF_AUDIT_METRICS_PORT", "9464")), timeout=4)
try:
    connection.request("GET", "/healthz")
    answer = connection.getresponse()
    sys.stdout.write(answer.read(200).decode("utf-8", "replace"))
    status = 0 if answer.status == 200 else 1
except OSError as error:
    sys.stdout.write(f"no answer: {error}\n")
    status = 1
sys.exit(status)
