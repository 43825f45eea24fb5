#!/usr/bin/env bash
# Does what a document says, as somebody who has just found the project does:
#
#     tests/readme.sh                                  README.md
#     tests/readme.sh --skip-long README.md docs/*.md  several, without what takes minutes
#
# A fresh clone of the repository this is in, an empty home directory, and the commands of each document, in
# order, in one shell that begins in the clone. Of a document count:
#
#     ```sh                    commands: each must succeed
#     ```console               `$ COMMAND`, and below it what it prints: shaped as shown, and a success, unless
#                              what is shown begins with `error:`. A line `…` stands for any further lines
#     <!-- sh                  lines up to `-->` that are run and not shown: what the reader has already
#     <!-- long -->            the next block takes minutes; --skip-long leaves it out
#     <!-- needs: PROGRAM -->  the next block is left out, with a note, where there is no such program
#     <!-- skip: REASON -->    the next block is not run
#
# Shapes: digits of hashes, sizes with a unit, times and durations may be others than shown, and so may the
# space between columns. Everything else is as shown.
#
# The home directory, with the clone in it, is in the system's directory for temporary files: below the
# repository, cargo would take a new package for a member of its workspace. It has the same name each time,
# and the clone builds in the build directory (target, or CARGO_TARGET_DIR), so that little is built again.
# Cargo's and rustup's own directories are the user's, but for what `cargo install` writes.
set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ "${1:-}" == --help || "${1:-}" == -h ]]; then
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
    exit 0
fi

skip_long=0 documents=()
for argument in "$@"; do
    case "$argument" in
        --skip-long) skip_long=1 ;;
        -*) echo "readme.sh: no option $argument; see --help" >&2; exit 2 ;;
        *) documents+=("$argument") ;;
    esac
done
if ((${#documents[@]} == 0)); then documents=(README.md); fi

build="${CARGO_TARGET_DIR:-$repository/target}"
mkdir -p "$build"
build="$(cd "$build" && pwd)"
export CARGO_HOME="${CARGO_HOME:-$HOME/.cargo}" RUSTUP_HOME="${RUSTUP_HOME:-$HOME/.rustup}"
place="${TMPDIR:-/tmp}/lapidary-readme-$(id -u)-$(cksum <<<"$repository" | cut -d' ' -f1)"
export HOME="$place/home" BUILD="$build"
export CARGO_INSTALL_ROOT="$HOME/.cargo" PATH="$HOME/.cargo/bin:$CARGO_HOME/bin:$PATH"
unset CARGO_TARGET_DIR XDG_STATE_HOME XDG_DATA_HOME XDG_CONFIG_HOME LAPIDARY_HISTORY LAPIDARY_STORE
rm -rf "$place"
# Not if it is somebody else's.
mkdir -m 700 "$place"
trap 'rm -rf "$place"' EXIT
mkdir "$HOME"
clone="$HOME/lapidary"
if [[ -n "$(git -C "$repository" status --porcelain)" ]]; then
    echo "note: what is not committed is not tried"
fi
git clone --quiet "$repository" "$clone"
mkdir -p "$build/extension" "$clone/vfs/extension"
ln -s "$build" "$clone/target"
ln -s "$build/extension" "$clone/vfs/extension/target"

# Prints `document` as a script: `at LINE` before each block, `shaped LINE` with what a command is to print.
script_of() {
    awk -v skip_long="$skip_long" -v document="$1" '
        function quote(text) { gsub(/\047/, "\047\\\047\047", text); return "\047" text "\047" }
        function leave_out(why) { printf "note %d %s\n", NR, quote(why) }
        function end_command() {
            if (!in_command) return
            print "__SHOWN__"
            in_command = 0
        }
        state == "hidden" { if ($0 ~ /^-->/) state = ""; else print; next }
        state == "skipped" { if ($0 ~ /^```/) state = ""; next }
        state == "sh" {
            if ($0 ~ /^```/) { state = ""; if (needs != "") print "fi"; needs = ""; next }
            print; next
        }
        state == "console" {
            if ($0 ~ /^```/) { end_command(); state = ""; if (needs != "") print "fi"; needs = ""; next }
            if ($0 ~ /^\$ /) {
                end_command()
                printf "at %d\nset +e\n{ %s\n} >\"$printed\" 2>&1\nstatus=$?\nset -e\n", NR, substr($0, 3)
                printf "shaped %d \"$status\" <<\047__SHOWN__\047\n", NR
                in_command = 1; next
            }
            if (in_command) print
            next
        }
        /^<!-- sh/ { printf "at %d\n", NR; state = "hidden"; next }
        /^<!-- long -->/ { if (skip_long) mark = "it takes minutes"; next }
        /^<!-- skip: / { mark = $0; sub(/^<!-- skip: /, "", mark); sub(/ -->.*/, "", mark); next }
        /^<!-- needs: / { needs = $3; next }
        /^```(sh|console)$/ {
            if (mark != "") { leave_out(mark); mark = ""; state = "skipped"; next }
            state = substr($0, 4)
            if (needs != "") printf "if ! has %d %s; then :; else\n", NR, quote(needs)
            if (state == "sh") printf "at %d\n", NR
            next
        }
        /^```./ { state = "skipped"; next }
    ' "$1"
}

prelude="$place/prelude.sh"
cat >"$prelude" <<'PRELUDE'
set -euo pipefail
at() {
    line=$1
    echo "--- $document:$line"
}
note() { echo "note: $document:$1 is left out: $2"; }
has() {
    if command -v "$2" >/dev/null; then return 0; fi
    note "$1" "there is no $2"
    return 1
}
shape() {
    sed -E -e 's/[0-9a-f]{64}/HASH/g' \
        -e 's/[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]+Z?/TIME/g' \
        -e 's/[0-9][0-9.,]* (B|[KMGT]iB)([^A-Za-z]|$)/SIZE\2/g' \
        -e 's/[0-9][0-9.,]* (s|ms|us)([^A-Za-z]|$)/DURATION\2/g' \
        -e 's/[[:space:]]+/ /g' -e 's/ $//' | sed -e :a -e '/^\n*$/{$d;N;ba' -e '}'
}
shaped() {
    local wanted found
    wanted="$(shape)"
    found="$(shape <"$printed")"
    cat "$printed"
    if [[ "$wanted" == *$'\n…' ]]; then
        wanted="${wanted%$'\n…'}"
        found="$(head -n "$(wc -l <<<"$wanted")" <<<"$found")"
    fi
    if [[ "$wanted" != "$found" ]]; then
        echo "$document:$1: it prints something else than shown:" >&2
        diff <(echo "$wanted") <(echo "$found") >&2 || true
        exit 1
    fi
    if (($2 != 0)) && [[ "$wanted" != error:* ]]; then
        echo "$document:$1: it fails with exit code $2" >&2
        exit 1
    fi
}
tell() {
    local status=$?
    if ((status != 0)); then echo "$document:$line: this block failed (exit code $status)" >&2; fi
}
trap tell EXIT
line=0
PRELUDE

for document in "${documents[@]}"; do
    echo "=== $document"
    # Only the first hour of the README begins without it.
    if [[ "$document" != README.md ]] && ! [[ -x "$HOME/.cargo/bin/lapidary" ]]; then
        (cd "$clone" && cargo install --quiet --locked --path runtime)
    fi
    script="$place/script.sh"
    { cat "$prelude"; (cd "$clone" && script_of "$document"); } >"$script"
    (cd "$clone" && document="$document" printed="$place/printed" bash "$script" </dev/null)
done
echo "all commands do what the documents say"
