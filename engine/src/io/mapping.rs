//! A file's bytes as memory.

#![expect(unsafe_code, reason = "a mapped file is memory that others may change")]

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd as _};

use memmap2::{Mmap, MmapOptions};

/// The start of a file, mapped for reading. It outlives the descriptor that it was made with.
///
/// What cannot be read from the disk when it is touched is no error but a `SIGBUS`, which ends the
/// process.
#[derive(Debug)]
pub struct Mapping {
    bytes: Mmap,
}

impl Mapping {
    /// Maps the first `len` bytes of `file`.
    ///
    /// # Safety
    /// The file has so many bytes. While the mapping exists nobody changes them or shortens the
    /// file.
    ///
    /// # Errors
    /// As the operating system has them: no memory, too many mappings, a file that cannot be mapped.
    pub unsafe fn new(file: &impl AsFd, len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        // SAFETY: nobody changes the bytes or takes them away, as the caller says.
        let bytes = unsafe { MmapOptions::new().len(len).map(file.as_fd().as_raw_fd()) }?;
        Ok(Self { bytes })
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}
