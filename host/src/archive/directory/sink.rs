//! The file of an object that grows: whole blocks, and past the page cache once the object is large.
//!
//! A large log is read once, if at all. By way of the page cache each of its bytes is copied once more, pushes out what others read, and
//! waits for the flush at the end; written directly it takes half the time and leaves the flush little to do. Where a file system cannot do
//! that, the page cache is used.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// Bytes of a block.
const BLOCK: usize = 1024 * 1024;

/// What file systems want direct writes aligned to, in memory and in the file.
const ALIGN: usize = 4096;

/// Objects up to this size go by way of the page cache: they are likely to be read soon. A multiple of [`BLOCK`].
const SMALL: u64 = 16 * 1024 * 1024;

/// A file that is written to its end. All calls block.
pub(super) struct Sink {
    file: File,
    /// The block that is filled, from `start` on: a vector has no alignment of its own.
    block: Vec<u8>,
    start: usize,
    written: u64,
    direct: bool,
    direct_from: u64,
}

impl Sink {
    pub(super) fn new(file: File) -> Self {
        let mut block: Vec<u8> = Vec::with_capacity(BLOCK + ALIGN);
        let start = match block.as_ptr().align_offset(ALIGN) {
            start if start < ALIGN => start,
            // Not aligned then, so that direct writes are refused and the page cache takes over.
            _ => 0,
        };
        block.resize(start, 0);
        Self { file, block, start, written: 0, direct: false, direct_from: SMALL }
    }

    /// Whether blocks go past the page cache now. Some file systems buffer them all the same.
    pub(super) fn is_direct(&self) -> bool {
        self.direct
    }

    /// The same file, for a thread that flushes it meanwhile.
    pub(super) fn flusher(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// The same with another file.
    #[cfg(test)]
    pub(super) fn with_file(self, file: File) -> Self {
        Self { file, ..self }
    }

    /// Appends bytes. After a failure the file must not be finished.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = BLOCK.saturating_sub(self.block.len() - self.start);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() - self.start >= BLOCK {
                self.write_block()?;
            }
        }
        Ok(())
    }

    /// Writes what is left and makes all of it durable.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if self.direct {
            // The rest is no whole block.
            self.set_direct(false)?;
        }
        self.write_block()?;
        self.file.sync_all()
    }

    fn write_block(&mut self) -> io::Result<()> {
        if self.written == self.direct_from {
            self.direct = self.set_direct(true).is_ok();
        }
        let block = self.block.get(self.start..).unwrap_or_default();
        let mut written = self.file.write_all_at(block, self.written);
        if self.direct && written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput) {
            // It wants another alignment. Written again as a whole: the same bytes at the same place.
            self.set_direct(false)?;
            self.direct = false;
            written = self.file.write_all_at(block, self.written);
        }
        written?;
        self.written += block.len() as u64;
        self.block.truncate(self.start);
        Ok(())
    }

    fn set_direct(&self, direct: bool) -> io::Result<()> {
        let mut flags = fcntl_getfl(&self.file)?;
        flags.set(OFlags::DIRECT, direct);
        Ok(fcntl_setfl(&self.file, flags)?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    /// What a file holds after these pieces, and whether any of it went past the page cache.
    fn written(pieces: &[usize], direct_from: u64) -> (Vec<u8>, Vec<u8>, bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object");
        let mut sink = Sink { direct_from, ..Sink::new(File::create_new(&path).unwrap()) };
        let mut wanted = Vec::new();
        for (number, size) in pieces.iter().enumerate() {
            let piece: Vec<u8> = (0..*size).map(|at| (at.wrapping_mul(31) ^ number) as u8).collect();
            sink.write(&piece).unwrap();
            wanted.extend(piece);
        }
        let direct = sink.is_direct();
        sink.finish().unwrap();
        (fs::read(&path).unwrap(), wanted, direct)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn every_byte_is_written_once(pieces in prop::collection::vec(0_usize..3 * BLOCK, 0..5), blocks in 0_u64..3) {
            let (found, wanted, _) = written(&pieces, blocks * BLOCK as u64);
            prop_assert!(found == wanted);
        }
    }

    #[test]
    fn small_objects_stay_in_the_page_cache() {
        assert!(!written(&[BLOCK * 3], SMALL).2);
        let (found, wanted, direct) = written(&[BLOCK, BLOCK, 5000], BLOCK as u64);
        assert!(found == wanted);
        // Where the file system can.
        let folder = tempfile::tempdir().unwrap();
        let file = File::create_new(folder.path().join("probe")).unwrap();
        assert_eq!(direct, Sink::new(file).set_direct(true).is_ok());
    }

    #[test]
    fn another_alignment_is_no_failure() {
        for before in [0, 2] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("object");
            let mut sink = Sink { direct_from: 0, ..Sink::new(File::create_new(&path).unwrap()) };
            sink.write(&vec![6; before * BLOCK]).unwrap();
            // As if the memory could not be aligned, or no longer.
            sink.start += 1;
            sink.block.resize(sink.start, 0);
            sink.write(&[7; 3 * BLOCK + 1]).unwrap();
            assert!(!sink.is_direct());
            sink.finish().unwrap();
            assert!(fs::read(&path).unwrap() == [vec![6; before * BLOCK], vec![7; 3 * BLOCK + 1]].concat());
        }
    }

    #[test]
    fn a_full_disk_is_told_whichever_way_is_written() {
        for direct_from in [0, SMALL] {
            let folder = tempfile::tempdir().unwrap();
            let file = File::create_new(folder.path().join("object")).unwrap();
            let mut sink = Sink { direct_from, ..Sink::new(file) };
            sink.write(&[7; BLOCK]).unwrap();
            let mut sink = sink.with_file(File::options().write(true).open("/dev/full").unwrap());
            assert_eq!(sink.write(&[7; BLOCK]).unwrap_err().kind(), io::ErrorKind::StorageFull);
        }
    }
}
