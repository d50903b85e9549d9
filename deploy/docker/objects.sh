#!/bin/sh
# An S3 server over a folder: keys from files, a folder for each bucket, old versions kept apart.
set -eu
ROOT_ACCESS_KEY=$(cat "$ROOT_ACCESS_KEY_FILE")
ROOT_SECRET_KEY=$(cat "$ROOT_SECRET_KEY_FILE")
export ROOT_ACCESS_KEY ROOT_SECRET_KEY
root=${OBJECTS_ROOT:-/objects}
mkdir -p "$root/data" "$root/iam" "$root/old" # no name begins another: the server refuses that
for bucket in $BUCKETS; do mkdir -p "$root/data/$bucket"; done
exec versitygw --iam-dir "$root/iam" posix --versioning-dir "$root/old" "$root/data"
