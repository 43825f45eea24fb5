# The same commands as CI: `.ci/run` holds them, each recipe here is one of its steps.

# Lists the recipes.
default:
    @just --list

# Every step, as CI does.
ci:
    .ci/run

# Formatting, checked.
fmt-check:
    .ci/run fmt

# Formatting, done.
fmt:
    cargo fmt --all

# Lints, warnings refused.
clippy:
    .ci/run clippy

# Documentation, warnings refused.
doc:
    .ci/run doc

# All tests.
test:
    .ci/run test

# The runnable examples.
examples:
    .ci/run examples

# The crates as they would be published, and the command installed.
packaging:
    .ci/run packaging

# The commands of the documents, in a fresh clone and an empty home: `just readme docs/TUTORIAL.md`.
readme *DOCUMENTS:
    tests/readme.sh {{DOCUMENTS}}

# The documents as a book, in target/book.
book:
    .ci/run book

# Instructions of the common things, against their limits.
instructions:
    .ci/run instructions

# rusqlite, sqlx and diesel on facets.
orm:
    .ci/run orm

# Buckets on a real S3 server.
s3:
    .ci/run s3

# SQLite's own test scripts on facets, for instance `just sqlite-tcl --jobs 4 'trans*'`.
sqlite-tcl *ARGUMENTS:
    tests/sqlite-tcl.sh {{ARGUMENTS}}

# The simulation with fresh seeds, more of them than CI has time for.
simulation SEEDS="200":
    LAPIDARY_SIM_SEEDS={{SEEDS}} .ci/run simulation

# The loadable extension, in the programs it is for.
extension:
    .ci/run extension

# Licences, duplicates and sources of dependencies.
deny:
    .ci/run deny

# The packing benchmark, for instance `just pack --facets 1000 --seconds 5`.
pack *ARGUMENTS:
    cargo run --release --bin pack -- {{ARGUMENTS}}

# The store benchmark, for instance `just store recovery --tail-mib 1024`.
store *ARGUMENTS:
    cargo run --release --bin store -- {{ARGUMENTS}}

# The read benchmark, for instance `just reads --scan-mib 64`.
reads *ARGUMENTS:
    cargo run --release --bin reads -- {{ARGUMENTS}}

# One fuzz target for so many seconds (needs cargo-fuzz and a nightly toolchain). What it finds on the way is kept in fuzz/target.
fuzz TARGET SECONDS="60":
    mkdir -p fuzz/target/corpus/{{TARGET}}
    cd fuzz && cargo +nightly fuzz run {{TARGET}} target/corpus/{{TARGET}} corpus/{{TARGET}} -- -timeout=60 -max_total_time={{SECONDS}}
