//! How each figure is measured: here, in the page of `--report`, and nowhere else.

/// What all arms have in common, a paragraph each.
pub(crate) const COMMON: [&str; 3] = [
    "Every arm runs in processes of its own, restricted to the same CPUs, with the same SQLite build, \
     the same process-wide settings of SQLite (malloc statistics off, no page allocation ahead, small \
     lookaside), the same prepared statements and the same bodies from the same seed. A turn is one \
     transaction: insert a message of about 192 random bytes, upsert a row of state, in a facet chosen \
     at random. In the workload \"readers\" nine reads of the ten newest messages go with each turn; in \
     \"large\" every database begins with --size-mib of rows of 900 random bytes, and a turn gives one of \
     them, each as likely, another value.",
    "The stock arms and lapidary-vfs have one thread per CPU, pinned, each serving its share of the \
     facets one call at a time. In lapidary the host's threads are pinned, one per CPU, and as many \
     client threads keep --in-flight calls each outstanding: many agents, each awaiting its own reply. \
     lapidary-core is the same host with --batch turns in a call, of one facet, a commit each, and the \
     reply when the last is durable: what a turn costs without the way to the core and back, and with \
     a facet that is warm from the turn before. \
     Clients, flushes and checkpoints share the same CPUs. --in-flight 1 shows the host with one \
     patient caller per CPU.",
    "At the end a second process opens what the first left behind without closing it, and compares the \
     number of turns and the bytes of their bodies in every facet with what was acknowledged; of some, \
     SQLite checks the integrity. A difference fails the run, names the facet, and keeps the files.",
];

/// A figure, and what it is.
pub(crate) const FIGURES: [(&str, &str); 17] = [
    ("creates/s", "facets made, with tables and index, per second; as durable as the arm's turns"),
    ("turns/s, p50, p99", "transactions acknowledged per second; from request to acknowledgement"),
    ("turn CPU", "CPU time of the process, all threads, per turn of the timed phase"),
    (
        "p50, p99 at N %",
        "with --load: turns that come at N % of the turns/s the arm has reached, whether or not those \
         before are answered; from when a turn was due to its acknowledgement",
    ),
    ("reads/s between turns", "in the workload \"readers\": in the timed phase, beside its turns"),
    ("reads/s", "the ten newest messages of a random facet, each row looked at"),
    (
        "forks/s, deletes/s",
        "copies of up to 1,000 facets after the turns, and their deletion; as durable as turns. Stock: \
         SQLite's backup into a new file, and removing it",
    ),
    (
        "cold open + read",
        "one call at a time on a facet nobody has open; the kernel's page cache is warm",
    ),
    (
        "resident KiB per open facet",
        "growth of resident memory since before the store was opened, with all facets open after the \
         turns, divided by open connections; page images and the store itself included",
    ),
    ("descriptors per open facet", "growth of /proc/self/fd, divided likewise"),
    ("disk KiB per facet, created", "as in use, before the first turn"),
    (
        "disk KiB per facet, in use",
        "files with -wal and -shm while open; for Lapidary what the last checkpoint refers to, and the \
         log since. It grows with the turns an arm managed to do, which differ: compare arms with \
         \"turns found again, per facet\" in view",
    ),
    (
        "disk KiB per facet, allocated",
        "blocks the file system gave to all those files; for Lapidary all segment files",
    ),
    ("disk KiB per facet, closed", "as in use, after an orderly close"),
    (
        "bytes written per turn",
        "stock: bytes passed to write calls (wchar; the -shm mapping is not counted). Lapidary: bytes \
         written to the log with padding; filling segments ahead is filled_bytes_per_turn in --json",
    ),
    ("device_bytes_per_turn", "in --json only: write_bytes of the kernel, whole dirtied pages"),
    ("store open", "after a process that ended without closing: recovery included"),
];
