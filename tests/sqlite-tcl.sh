#!/usr/bin/env bash
# SQLite's own test scripts, on facets.
set -euo pipefail

usage() {
    cat <<'END'
usage: tests/sqlite-tcl.sh [OPTION]... [SCRIPT]...

Runs SQLite's TCL test scripts with Lapidary's loadable extension as the default VFS, and compares what
comes out with tests/sqlite-tcl/list.txt. The scripts are those of Debian's source package of SQLite,
which is fetched with apt-get and built, once. Each script has a process and a store of its own.

  SCRIPT           a script by name (select1.test) or pattern ('select*'); default: all that the list has as `pass`
  --quick          those that the list marks as quick (CI runs them)
  --all            those that cannot apply as well; only to be read
  --stock          on SQLite's own VFS instead; only to be read
  --jobs N         so many at a time (default: one for each core)
  --timeout S      seconds for a script (default: 600)
  --extension FILE the extension (default: it is built)
  --fetch          fetch and build, run nothing
  --help           this

Ends with 0 if everything is as the list says, with 1 if not, with 2 on wrong use, and with 3 if the
package, its registry or a tool that is needed cannot be had. The logs of all scripts stay in
target/sqlite-tcl/logs.
END
}

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$here")"
cache="${CARGO_TARGET_DIR:-$root/target}/sqlite-tcl"
list="$here/sqlite-tcl/list.txt"
# Many scripts make thousands of commits, and none of them cuts the power.
stores="$([[ -w /dev/shm ]] && echo /dev/shm || echo "${TMPDIR:-/tmp}")"
jobs="$(nproc 2>/dev/null || echo 1)"
seconds=600
mode=listed
fetch_only=false
extension=""
patterns=()

unavailable() { echo "sqlite-tcl: $*" >&2; exit 3; }

# ----- what is needed: the package, tclsh, the test fixture, the extension -----

fetch_sources() {
    [[ -f "$cache/src/test/tester.tcl" ]] && return
    local apt="$cache/apt"
    command -v apt-get >/dev/null || unavailable "there is no apt-get"
    rm -rf "$apt" && mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/package"
    # A configuration of its own: the machine's has no source packages, as a rule, and the list is for the scripts
    # of one release.
    echo "deb-src ${LAPIDARY_DEBIAN_MIRROR:-http://deb.debian.org/debian} bookworm main" >"$apt/sources.list"
    cat >"$apt/apt.conf" <<END
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "$apt/lists";
Dir::Cache "$apt/cache";
APT::Sandbox::User "root";
END
    (
        export APT_CONFIG="$apt/apt.conf"
        cd "$apt/package"
        apt-get -qq update && apt-get -qq source --download-only sqlite3
    ) || unavailable "the source package sqlite3 cannot be fetched"
    rm -rf "$cache/src.new" && mkdir -p "$cache/src.new"
    tar -xf "$apt"/package/sqlite3_*.orig.tar.* -C "$cache/src.new" --strip-components=1
    [[ -f "$cache/src.new/test/tester.tcl" ]] || unavailable "the source package has no test scripts"
    rm -rf "$cache/src" && mv "$cache/src.new" "$cache/src" && rm -rf "$apt"
}

find_tcl() {
    local config
    for config in /usr/lib/*/tcl8.6/tclConfig.sh /usr/lib/tcl8.6/tclConfig.sh; do
        [[ -f "$config" ]] && dirname "$config" && return
    done
    return 1
}

build_fixture() {
    if ! command -v tclsh >/dev/null || ! find_tcl >/dev/null; then
        ((EUID == 0)) || unavailable "tclsh and the package tcl8.6-dev are needed"
        { apt-get -qq update && apt-get -qq install -y tcl8.6 tcl8.6-dev >/dev/null; } \
            || unavailable "tcl8.6-dev cannot be installed"
    fi
    local headers
    headers="$(. "$(find_tcl)/tclConfig.sh" && echo "$TCL_INCLUDE_SPEC")"
    if [[ ! -x "$cache/build/testfixture" ]]; then
        rm -rf "$cache/build" && mkdir -p "$cache/build"
        (
            cd "$cache/build"
            CFLAGS="-O2 -g0" ../src/configure --enable-all --disable-readline --with-tcl="$(find_tcl)" \
                && make -j "$jobs" testfixture
        ) >"$cache/build.log" 2>&1 || unavailable "the test fixture cannot be built, see $cache/build.log"
    fi
    # shellcheck disable=SC2086
    "${CC:-cc}" -O1 -Wall -Wextra -shared -fPIC $headers -I "$cache/build" -I "$cache/src/src" \
        -o "$cache/paths.so" "$here/sqlite-tcl/paths.c"
}

build_extension() {
    if [[ -n "$extension" ]]; then
        extension="$(realpath "$extension")"
        return
    fi
    local target="${CARGO_TARGET_DIR:-$root/target}/extension"
    cargo build --release --locked --manifest-path "$root/vfs/extension/Cargo.toml" --target-dir "$target"
    extension="$target/release/liblapidary_vfs.so"
}

# ----- one script -----

# Leaves its output in `logs/NAME`, and in `results/NAME` one line: seconds, then `pass CASES`, or `fail` with
# the count of cases and the names of those that failed, or `died` or `timeout` with the last case begun.
run_one() {
    local script="$1" name log start outcome status=0 totals
    name="$(basename "$script")"
    log="$cache/logs/$name"
    local directory="$cache/run/$name" store
    rm -rf "$directory" && mkdir -p "$directory" && cd "$directory"
    store="$(mktemp -d "$stores/sqlite-tcl.XXXXXX")"
    local command=("$cache/build/testfixture")
    if [[ "$mode" != stock ]]; then
        command+=("$here/sqlite-tcl/prologue.tcl")
        export LAPIDARY_EXTENSION="$extension" LAPIDARY_PATHS="$cache/paths.so"
        export LAPIDARY_DEFAULT_VFS=1 LAPIDARY_STORE="$store/store"
    fi
    start=$SECONDS
    timeout --kill-after=5 "$seconds" "${command[@]}" "$cache/src/$script" >"$log" 2>&1 </dev/null || status=$?
    totals="$(grep -aoE '^[0-9]+ errors out of [0-9]+ tests' "$log" | tail -n 1 | tr -cd '0-9 ' || true)"
    read -r errors cases <<<"$totals" || true
    if ((status == 124 || status == 137)); then
        outcome="timeout $(last_case "$log")"
    elif [[ -z "$totals" ]]; then
        outcome="died $(last_case "$log")"
    elif ((errors > 0)); then
        outcome="fail $cases $(grep -a '^!Failures on these tests:' "$log" | tail -n 1 | sed 's/^[^:]*: *//')"
    else
        outcome="pass $cases"
    fi
    echo "$((SECONDS - start)) $outcome" >"$cache/results/$name"
    printf '%-26s %4d s  %s\n' "$name" $((SECONDS - start)) "${outcome:0:90}"
    cd / && rm -rf "$directory" "$store"
}

last_case() { grep -aE '^[A-Za-z0-9_.-]+\.\.\.' "$1" | tail -n 1 | cut -d. -f1-8 | sed 's/\.\.\..*//' || true; }

if [[ "${1:-}" == --one ]]; then
    mode="$LAPIDARY_TCL_MODE" extension="$LAPIDARY_TCL_EXTENSION" seconds="$LAPIDARY_TCL_SECONDS"
    run_one "$2"
    exit 0
fi

# ----- options -----

while (($#)); do
    case "$1" in
        --help) usage; exit 0 ;;
        --quick) mode=quick ;;
        --all) mode=all ;;
        --stock) mode=stock ;;
        --fetch) fetch_only=true ;;
        --jobs) jobs="${2:?--jobs needs a number}"; shift ;;
        --timeout) seconds="${2:?--timeout needs seconds}"; shift ;;
        --extension) extension="${2:?--extension needs a file}"; shift ;;
        -*) echo "no option '$1'; see --help" >&2; exit 2 ;;
        *) patterns+=("$1") ;;
    esac
    shift
done

mkdir -p "$cache"
fetch_sources
build_fixture
if [[ "$mode" != stock ]]; then build_extension; fi
if "$fetch_only"; then exit 0; fi

mapfile -t scripts < <(tclsh "$here/sqlite-tcl/list.tcl" "$list" select "$mode" "$cache/src" "${patterns[@]}")
((${#scripts[@]})) || { echo "no such script" >&2; exit 2; }
mkdir -p "$cache/results" "$cache/logs" "$cache/run"
export LAPIDARY_TCL_MODE="$mode" LAPIDARY_TCL_EXTENSION="$extension" LAPIDARY_TCL_SECONDS="$seconds"
printf '%s\0' "${scripts[@]}" | xargs -0 -P "$jobs" -n 1 "${BASH_SOURCE[0]}" --one
tclsh "$here/sqlite-tcl/list.tcl" "$list" compare "$cache/results" "${scripts[@]}" || status=$?
if [[ "$mode" == all || "$mode" == stock ]]; then exit 0; fi
exit "${status:-0}"
