//! How much of requests and answers is kept in memory at once: whole bodies and whole documents, which clients make as large as they may.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::{OVERLOADED, Problem};
use super::settings::Settings;

/// So much of each is not counted, and small requests are taken whatever the large ones hold: `max_concurrent_requests` bounds them.
const FREE_BYTES: u64 = 64 * 1024;

/// What is counted.
const UNIT_BYTES: u64 = 1024;

/// The memory for bodies and documents.
#[derive(Debug)]
pub(super) struct Memory {
    units: Arc<Semaphore>,
    /// How long a document waits for room.
    patience: Duration,
}

/// Room in the memory, free again when dropped.
#[derive(Debug)]
pub(super) struct Room {
    units: Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
}

impl Memory {
    pub(super) fn new(settings: &Settings) -> Self {
        // The largest body and the largest document fit, whatever is configured.
        let bytes =
            settings.max_buffered_bytes().max(settings.max_body_bytes() as u64).max(settings.max_document_bytes());
        let units = usize::try_from(bytes / UNIT_BYTES).unwrap_or(usize::MAX).min(u32::MAX as usize);
        Self { units: Arc::new(Semaphore::new(units)), patience: settings.request_timeout() }
    }

    /// No room yet, for a body that grows while it comes.
    pub(super) fn none(&self) -> Room {
        Room { units: Arc::clone(&self.units), taken: None }
    }

    /// Room for a document. What is asked for is there already, so that a while is waited for it.
    pub(super) async fn room(&self, bytes: u64) -> Result<Room, Problem> {
        let units = Arc::clone(&self.units).acquire_many_owned(units(bytes));
        match tokio::time::timeout(self.patience, units).await {
            Ok(Ok(taken)) => Ok(Room { units: Arc::clone(&self.units), taken: Some(taken) }),
            Ok(Err(_)) | Err(_) => Err(full()),
        }
    }
}

impl Room {
    /// Makes room for so many bytes in all.
    pub(super) fn grow_to(&mut self, bytes: u64) -> Result<(), Problem> {
        let held = self.taken.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted = units(bytes).saturating_sub(u32::try_from(held).unwrap_or(u32::MAX));
        if wanted == 0 {
            return Ok(());
        }
        let more = Arc::clone(&self.units).try_acquire_many_owned(wanted).map_err(|_| full())?;
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }

    /// Bytes that keep their room for as long as anyone has them: until they are sent.
    pub(super) fn around(self, bytes: Vec<u8>) -> Bytes {
        struct Kept(Vec<u8>, #[expect(dead_code, reason = "held, not read")] Room);
        impl AsRef<[u8]> for Kept {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        Bytes::from_owner(Kept(bytes, self))
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.saturating_sub(FREE_BYTES).div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

fn full() -> Problem {
    Problem::new(OVERLOADED, "the server holds as many large requests and answers as it may")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn memory(mebibytes: u32) -> Memory {
        Memory::new(&Settings {
            max_buffered_mib: mebibytes,
            max_body_mib: 1,
            max_document_mib: 1,
            request_timeout_seconds: 1,
            ..Settings::default()
        })
    }

    #[tokio::test]
    async fn what_is_held_is_bounded_and_given_back() {
        let memory = memory(2);
        let (mut first, mut second) = (memory.none(), memory.none());
        for bytes in [1, FREE_BYTES, MIB / 2, MIB, MIB] {
            first.grow_to(bytes).unwrap();
        }
        second.grow_to(MIB).unwrap();
        let mut third = memory.none();
        assert_eq!(third.grow_to(MIB).unwrap_err().kind(), OVERLOADED);
        third.grow_to(FREE_BYTES).expect("a small one always fits");
        assert_eq!(memory.room(MIB).await.unwrap_err().kind(), OVERLOADED);
        drop(second);
        third.grow_to(MIB).unwrap();
    }

    #[tokio::test]
    async fn a_document_waits_for_room_and_keeps_it_until_it_is_sent() {
        let memory = memory(0);
        let bytes = memory.room(MIB).await.unwrap().around(b"document".to_vec());
        let copy = bytes.slice(2..4);
        drop(bytes);
        assert!(memory.none().grow_to(MIB).is_err(), "a part of it is still there");
        let (room, ()) = tokio::join!(memory.room(MIB), async {
            tokio::task::yield_now().await;
            drop(copy);
        });
        assert!(room.is_ok());
    }
}
