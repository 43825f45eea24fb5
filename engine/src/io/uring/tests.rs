#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests of files of the operating system"
)]

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use super::*;

const BYTES: &[u8] = b"0123456789";
const NOT_BEGUN: i32 = -Errno::CANCELED.raw_os_error();
const EIO: i32 = -Errno::IO.raw_os_error();
const EINTR: i32 = -Errno::INTR.raw_os_error();
const EAGAIN: i32 = -Errno::AGAIN.raw_os_error();

/// What was asked of POSIX calls: offset and length of writes, and syncs.
#[derive(Debug, Default)]
struct Asked(Mutex<Vec<Option<(u64, usize)>>>);

impl IoFile for Asked {
    fn len(&self) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().push(Some((offset, bytes.len())));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.lock().unwrap().push(None);
        Ok(())
    }
}

/// What came of [`BYTES`] at offset 100, and what was asked of the kernel, which answers `answers`.
fn run(answers: &[(i32, i32)]) -> (Result<(), String>, Vec<(u64, usize)>) {
    let mut answers = answers.iter();
    let mut asked = Vec::new();
    let file = Asked::default();
    let result = write_and_sync(&file, 100, BYTES, |offset, bytes| {
        assert!(BYTES.ends_with(bytes));
        asked.push((offset, bytes.len()));
        let &(write, sync) = answers.next().expect("no more is asked for than that");
        Ok(Pair { write, sync })
    });
    assert!(answers.next().is_none(), "the last answer was not enough");
    assert!(file.0.into_inner().unwrap().is_empty());
    (result.map_err(|error| error.to_string()), asked)
}

fn assert_durable(answers: &[(i32, i32)], asked: &[(u64, usize)]) {
    assert_eq!(run(answers), (Ok(()), asked.to_vec()), "{answers:?}");
}

fn assert_fails(answers: &[(i32, i32)], operation: &str, errno: Option<i32>) {
    let (result, _) = run(answers);
    let error = result.expect_err("nothing is durable");
    assert!(error.starts_with(operation), "{answers:?}: {error}");
    if let Some(errno) = errno {
        assert!(error.ends_with(&format!("(os error {})", -errno)), "{answers:?}: {error}");
    }
}

#[test]
fn only_a_sync_after_everything_was_written_makes_it_durable() {
    assert_durable(&[(10, 0)], &[(100, 10)]);
    // Short, and so the sync was cancelled; or run too early, which is as good as not at all.
    for sync in [NOT_BEGUN, 0] {
        assert_durable(&[(4, sync), (6, 0)], &[(100, 10), (104, 6)]);
        assert_durable(&[(4, sync), (5, sync), (1, 0)], &[(100, 10), (104, 6), (109, 1)]);
    }
    // Everything is written, and there was no sync.
    assert_durable(&[(10, NOT_BEGUN), (0, 0)], &[(100, 10), (110, 0)]);
    assert_durable(&[(10, EINTR), (0, EINTR), (0, 0)], &[(100, 10), (110, 0), (110, 0)]);
    assert_durable(
        &[(EINTR, NOT_BEGUN), (EAGAIN, NOT_BEGUN), (NOT_BEGUN, NOT_BEGUN), (10, 0)],
        &[(100, 10); 4],
    );
    assert_durable(&[(4, NOT_BEGUN), (EINTR, 0), (6, 0)], &[(100, 10), (104, 6), (104, 6)]);
}

#[test]
fn failures_name_the_half_that_failed() {
    assert_fails(&[(EIO, NOT_BEGUN)], "write", Some(EIO));
    assert_fails(&[(4, NOT_BEGUN), (EIO, NOT_BEGUN)], "write", Some(EIO));
    assert_fails(&[(10, EIO)], "sync", Some(EIO));
    assert_fails(&[(10, NOT_BEGUN), (0, EIO)], "sync", Some(EIO));
    // The kernel tells of a failed sync once: a later one that succeeds would prove nothing.
    assert_fails(&[(4, EIO)], "sync", Some(EIO));
    assert_fails(&[(EINTR, EIO)], "write", Some(EINTR));
    assert_fails(&[(10, EAGAIN)], "sync", Some(EAGAIN));
    // Nothing was written, or more than there is.
    for write in [0, 11] {
        assert_fails(&[(write, NOT_BEGUN)], "write", None);
        assert_fails(&[(write, 0)], "write", None);
    }
}

#[test]
fn a_kernel_that_does_nothing_is_not_asked_for_ever() {
    let rounds = IDLE_ROUNDS_MAX as usize;
    assert_fails(&vec![(EAGAIN, NOT_BEGUN); rounds], "write", Some(EAGAIN));
    let mut answers = vec![(10, NOT_BEGUN)];
    answers.resize(rounds + 1, (0, NOT_BEGUN));
    assert_fails(&answers, "sync", Some(NOT_BEGUN));
}

#[test]
fn what_is_refused_goes_another_way() {
    let refuse = |_: u64, _: &[u8]| Err(Refused::Kernel(io::ErrorKind::OutOfMemory.into()));
    let file = Asked::default();
    write_and_sync(&file, 100, BYTES, refuse).unwrap();
    assert_eq!(file.0.into_inner().unwrap(), [Some((100, 10)), None]);

    let file = Asked::default();
    let begun = RefCell::new(false);
    let short_then_refused = |offset, bytes: &[u8]| {
        if begun.replace(true) {
            return refuse(offset, bytes);
        }
        Ok(Pair { write: 4, sync: NOT_BEGUN })
    };
    write_and_sync(&file, 100, BYTES, short_then_refused).unwrap();
    assert_eq!(file.0.into_inner().unwrap(), [Some((104, 6)), None]);

    // A child must not write to its parent's store, whatever the way.
    let file = Asked::default();
    let error = write_and_sync(&file, 100, BYTES, |_, _| Err(Refused::Forked)).unwrap_err();
    assert!(matches!(error, WriteSyncError::Write(_)), "{error}");
    assert!(file.0.into_inner().unwrap().is_empty());
}

#[test]
fn lengths_and_offsets_that_the_kernel_does_not_take() {
    let file = Asked::default();
    // Zeros that nobody looks at, so that no memory is used for them.
    let bytes = vec![0; WRITE_BYTES_MAX + 5];
    let mut asked = Vec::new();
    write_and_sync(&file, 100, &bytes, |offset, bytes| {
        asked.push((offset, bytes.len()));
        Ok(Pair { write: i32::try_from(bytes.len()).unwrap(), sync: 0 })
    })
    .unwrap();
    assert_eq!(file.0.into_inner().unwrap(), [Some((100, 5))]);
    assert_eq!(asked, [(105, WRITE_BYTES_MAX)]);

    let never = |_: u64, _: &[u8]| panic!("the kernel is not asked");
    for offset in [u64::MAX, i64::MAX as u64 - 3] {
        let error = write_and_sync(&Asked::default(), offset, BYTES, never).unwrap_err();
        assert!(matches!(error, WriteSyncError::Write(_)), "{error}");
    }
}

/// The ring, or a note that the tests of it are skipped.
fn ring() -> Option<Arc<Ring>> {
    match Ring::new() {
        Ok(ring) => Some(Arc::new(ring)),
        Err(error) => {
            // Past the capture of what tests print: who reads the results has to know.
            let note = format!("\nnote: no io_uring here ({error}): its tests are skipped\n");
            let _ = std::io::stderr().write_all(note.as_bytes());
            None
        }
    }
}

fn file(ring: &Arc<Ring>, file: File) -> UringFile {
    UringFile { posix: PosixFile { file }, ring: Arc::clone(ring) }
}

fn create(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).unwrap()
}

#[test]
fn real_files() {
    let Some(ring) = ring() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let file = file(&ring, create(&path));
    let mut expected = Vec::new();
    for (round, len) in (1..).zip([1, 10, 4096, 0, 100_000, 3 << 20, 0, 7]) {
        let bytes = vec![round; len];
        file.write_and_sync(expected.len() as u64, &bytes).unwrap();
        expected.extend(bytes);
    }
    file.write_and_sync(5, b"in the middle").unwrap();
    expected[5..18].copy_from_slice(b"in the middle");
    assert!(std::fs::read(&path).unwrap() == expected);
}

#[test]
fn threads_take_turns() {
    let Some(ring) = ring() else { return };
    let directory = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let file = file(&ring, create(&directory.path().join(thread.to_string())));
            scope.spawn(move || {
                let mut found = [0; 1000];
                for round in 0..50 {
                    file.write_and_sync(round * 1000, &[thread; 1000]).unwrap();
                    file.read_at(round * 1000, &mut found).unwrap();
                    assert_eq!(found, [thread; 1000]);
                }
            });
        }
    });
}

#[test]
fn errors_of_real_files() {
    let Some(ring) = ring() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, "as it was").unwrap();
    let expect = |file: File, operation: &str, errno: Errno| {
        let error = self::file(&ring, file).write_and_sync(0, BYTES).unwrap_err();
        let (failed, source) = error.into_parts();
        assert_eq!((failed, Errno::from_io_error(&source)), (operation, Some(errno)));
    };
    expect(File::open(&path).unwrap(), "write", Errno::BADF);
    assert_eq!(std::fs::read(&path).unwrap(), b"as it was");
    let device = |path| OpenOptions::new().write(true).open(path).unwrap();
    expect(device("/dev/full"), "write", Errno::NOSPC);
    // Takes all writes, and has nothing to sync.
    expect(device("/dev/null"), "sync", Errno::INVAL);
    // The ring is good for more.
    file(&ring, create(&path)).write_and_sync(0, BYTES).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), BYTES);
}

/// A write that fits in part: short at first, then refused. On a file system of its own, if this
/// process may mount one.
#[test]
fn a_disk_that_fills_up() {
    let Some(ring) = ring() else { return };
    let directory = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "lapidary-test"])
        .arg(directory.path())
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("no permission to mount a small file system: skipped");
        return;
    }
    let path = directory.path().join("file");
    let result = file(&ring, create(&path)).write_and_sync(0, &vec![7; 3 << 20]);
    let written = std::fs::read(&path).unwrap();
    let unmounted = Command::new("umount").arg("-l").arg(directory.path()).status();
    assert!(unmounted.unwrap().success(), "{} is still mounted", directory.path().display());
    let (operation, source) = result.unwrap_err().into_parts();
    assert_eq!((operation, source.kind()), ("write", io::ErrorKind::StorageFull));
    assert!(written.len() <= 1 << 20 && written.iter().all(|&byte| byte == 7));
    assert!(!written.is_empty(), "a part of it fits");
}
