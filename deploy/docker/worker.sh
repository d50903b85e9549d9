#!/bin/sh
# Runs `rlhf-audit` with its arguments. The client of the object store reads its keys from the environment alone, so
# here they come out of files: AWS_SECRET_ACCESS_KEY_FILE=/run/secrets/... becomes AWS_SECRET_ACCESS_KEY.
set -eu
for name in AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN; do
  eval "file=\${${name}_FILE:-}"
  if [ -n "$file" ]; then
    value=$(cat "$file")
    export "$name=$value"
    unset "${name}_FILE"
  fi
done
exec rlhf-audit "$@"
