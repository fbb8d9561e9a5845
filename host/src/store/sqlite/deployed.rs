//! Writes that concern no job: processors' bytes, the history of processes, the readiness probe.

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::json;
use sqlx::sqlite::SqliteConnection;

use super::failure::classify;
use super::rows::json_text;
use super::writer::Work;
use crate::core::{Digest, JobId, Timestamp};
use crate::store::{ProcessRow, StoreError};

pub(super) struct PutProcessor {
    pub(super) digest: Digest,
    pub(super) bytes: Bytes,
}

#[async_trait]
impl Work for PutProcessor {
    type Answer = ();

    async fn apply(&self, connection: &mut SqliteConnection, _changed: &mut Vec<JobId>) -> Result<(), StoreError> {
        sqlx::query(
            "insert into processors (digest, size, added, bytes) values (?1, ?2, ?3, ?4) on conflict do nothing",
        )
        .bind(self.digest.to_string())
        .bind(i64::try_from(self.bytes.len()).unwrap_or(i64::MAX))
        .bind(Timestamp::now().as_millis())
        .bind(self.bytes.as_ref())
        .execute(connection)
        .await
        .map_err(classify)?;
        Ok(())
    }
}

/// What is offered from now on, as a JSON array.
pub(super) struct RecordProcesses {
    offered: String,
    at: Timestamp,
}

impl RecordProcesses {
    pub(super) fn new(offered: &[ProcessRow], at: Timestamp) -> Result<Self, StoreError> {
        let forms: Vec<_> = offered
            .iter()
            .map(|row| {
                json!({
                    "id": row.id, "version": row.version, "digest": row.digest, "source": row.source,
                    "config": row.config_sha256,
                })
            })
            .collect();
        Ok(Self { offered: json_text(&forms, "processes")?, at })
    }
}

/// Closes what is not offered in exactly this form; then a row that is still open is in this form, and the others are new.
const RECORD: &str = "\
update processes set offered_until = ?2 where offered_until is null and not exists ( \
    select 1 from json_each(?1) as form where form.value ->> 'id' = processes.id \
        and form.value ->> 'version' = processes.version and form.value ->> 'digest' = processes.digest \
        and form.value ->> 'source' = processes.source and form.value ->> 'config' = processes.config_sha256); \
insert into processes (id, version, digest, source, config_sha256, offered_from) \
    select value ->> 'id', value ->> 'version', value ->> 'digest', value ->> 'source', value ->> 'config', ?2 \
    from json_each(?1) as form where not exists ( \
        select 1 from processes where offered_until is null and id = form.value ->> 'id') \
    on conflict do nothing";

#[async_trait]
impl Work for RecordProcesses {
    type Answer = ();

    async fn apply(&self, connection: &mut SqliteConnection, _changed: &mut Vec<JobId>) -> Result<(), StoreError> {
        sqlx::query(RECORD)
            .bind(&self.offered)
            .bind(self.at.as_millis())
            .execute(connection)
            .await
            .map_err(classify)?;
        Ok(())
    }
}

/// A write that changes nothing but shows whether writes succeed.
pub(super) struct Probe {
    /// Bytes that it needs room for: on a disk that is almost full, one small write may still succeed.
    pub(super) room: u32,
}

#[async_trait]
impl Work for Probe {
    type Answer = ();

    async fn apply(&self, connection: &mut SqliteConnection, _changed: &mut Vec<JobId>) -> Result<(), StoreError> {
        sqlx::query(
            "insert into write_probe (id, at, filler) values (1, ?1, zeroblob(?2)) \
             on conflict (id) do update set at = excluded.at, filler = excluded.filler",
        )
        .bind(Timestamp::now().as_millis())
        .bind(self.room)
        .execute(connection)
        .await
        .map_err(classify)?;
        Ok(())
    }
}
