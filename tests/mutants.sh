#!/usr/bin/env bash
# Plants bugs, one at a time, and sees to it that the test named for each finds it within a minute:
#
#     tests/mutants.sh                     all of tests/mutants/
#     tests/mutants.sh commit cleaning     those whose names begin so
#     tests/mutants.sh --check             only that all patches still apply
#
# A patch's first line names the test, its second says what the bug is. Bugs are planted in a copy of the
# tree, built in a target directory of its own: $LAPIDARY_MUTANTS, or lapidary-mutants in the directory
# for temporary files. It is kept, so that the next run builds less. Ends with an error if a bug is not found.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scratch="${LAPIDARY_MUTANTS:-${TMPDIR:-/tmp}/lapidary-mutants}"
limit_seconds=60
tree="$scratch/tree"

check=0
if [[ "${1:-}" == --check ]]; then
    check=1
    shift
fi
selected=()
for patch in tests/mutants/*.patch; do
    name="$(basename "$patch" .patch)"
    if (($# == 0)); then selected+=("$name"); fi
    for prefix in "$@"; do
        if [[ "$name" == "$prefix"* ]]; then selected+=("$name"); fi
    done
done
if ((${#selected[@]} == 0)); then
    echo "no such mutants; there are: $(basename -s .patch tests/mutants/*.patch | tr '\n' ' ')" >&2
    exit 2
fi

# Unchanged files keep their times, so that cargo does not build them again.
rm -rf "$tree"
mkdir -p "$tree"
git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- | tar --extract -C "$tree"

missed=()
for name in "${selected[@]}"; do
    patch="$PWD/tests/mutants/$name.patch"
    read -r -a test < <(sed -n '1s/^# caught by: //p' "$patch")
    file="$(sed -n 's/^+++ b\///p' "$patch")"
    if ! (cd "$tree" && patch --strip 1 --forward --silent --dry-run <"$patch" >/dev/null); then
        echo "$name: the patch does not apply to $file any more" >&2
        exit 1
    fi
    if ((check)); then continue; fi
    (cd "$tree" && patch --strip 1 --forward --silent --no-backup-if-mismatch <"$patch")
    # A time of its own: what cargo goes by.
    touch "$tree/$file"
    build=(cargo test --quiet --locked --manifest-path "$tree/Cargo.toml" --package lapidary-tests)
    export CARGO_TARGET_DIR="$scratch/target"
    if ! "${build[@]}" "${test[@]:0:2}" --no-run 2>"$scratch/build.log"; then
        tail -20 "$scratch/build.log" >&2
        echo "$name: does not build" >&2
        exit 1
    fi
    start=$SECONDS status=0
    # Random tests take fresh seeds until the time is up.
    LAPIDARY_SIM_SEEDS=1000000 LAPIDARY_SIM_CYCLES=100000000 RUST_BACKTRACE=0 timeout "$limit_seconds" "${build[@]}" "${test[@]}" \
        >"$scratch/run.log" 2>&1 || status=$?
    took=$((SECONDS - start))
    cp "$file" "$tree/$file"
    touch "$tree/$file"
    if ((status == 101)); then
        verdict=caught
    else
        verdict="NOT CAUGHT (status $status)"
        missed+=("$name")
    fi
    says="$(grep -A1 -m1 'panicked at' "$scratch/run.log" | tail -1 | cut -c1-110 || true)"
    printf '%-44s %-62s %3d s  %s  %s\n' "$name" "${test[*]:1}" "$took" "$verdict" "$says"
done
if ((check)); then
    echo "${#selected[@]} patches apply"
elif ((${#missed[@]})); then
    echo "not caught: ${missed[*]}" >&2
    exit 1
else
    echo "${#selected[@]} of ${#selected[@]} caught"
fi
