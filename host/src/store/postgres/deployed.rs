//! Writes that concern no job: processors' bytes, the history of processes, the readiness probe.

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::Connection;
use sqlx::postgres::PgConnection;

use super::calls::Call;
use super::failure::classify;
use crate::core::{Digest, Timestamp};
use crate::store::rows::clean;
use crate::store::{ProcessRow, StoreError};

pub(super) struct PutProcessor {
    pub(super) digest: Digest,
    pub(super) bytes: Bytes,
}

#[async_trait]
impl Call for PutProcessor {
    type Answer = ();
    const WRITES: bool = true;

    async fn run(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        let digest = self.digest.to_string();
        // Megabytes that are there already need not travel.
        let known = sqlx::query("select 1 from processors where digest = $1").bind(&digest);
        if known.fetch_optional(&mut *connection).await.map_err(classify)?.is_some() {
            return Ok(());
        }
        sqlx::query(
            "insert into processors (digest, size, added, bytes) values ($1, $2, $3, $4) on conflict do nothing",
        )
        .bind(digest)
        .bind(i64::try_from(self.bytes.len()).unwrap_or(i64::MAX))
        .bind(Timestamp::now().as_millis())
        .bind(self.bytes.as_ref())
        .execute(connection)
        .await
        .map_err(classify)?;
        Ok(())
    }
}

/// What is offered from now on.
pub(super) struct RecordProcesses<'r> {
    pub(super) offered: &'r [ProcessRow],
    pub(super) at: Timestamp,
}

/// Several replicas record what they offer when they start: one after another.
const LOCK: &str = "lock table processes in share row exclusive mode";

/// Closes what is not offered in exactly this form; then a row that is still open is in this form, and the others are new.
const CLOSE: &str = "\
update processes set offered_until = $6 where offered_until is null and not exists ( \
    select 1 from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) \
        as form (id, version, digest, source, config_sha256) \
    where form.id = processes.id and form.version = processes.version and form.digest = processes.digest \
        and form.source = processes.source and form.config_sha256 = processes.config_sha256)";

const OPEN: &str = "\
insert into processes (id, version, digest, source, config_sha256, offered_from) \
    select form.*, $6 from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) \
        as form (id, version, digest, source, config_sha256) \
    where not exists (select 1 from processes where offered_until is null and processes.id = form.id) \
    on conflict do nothing";

#[async_trait]
impl Call for RecordProcesses<'_> {
    type Answer = ();
    const WRITES: bool = true;

    async fn run(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        let ids: Vec<_> = self.offered.iter().map(|row| row.id.as_str()).collect();
        let versions: Vec<_> = self.offered.iter().filter_map(|row| clean(Some(&row.version))).collect();
        let digests: Vec<_> = self.offered.iter().map(|row| row.digest.to_string()).collect();
        let sources: Vec<_> = self.offered.iter().map(|row| row.source).collect();
        let configs: Vec<_> = self.offered.iter().map(|row| row.config_sha256.as_str()).collect();
        let mut transaction = connection.begin().await.map_err(classify)?;
        sqlx::query(LOCK).execute(&mut *transaction).await.map_err(classify)?;
        for sql in [CLOSE, OPEN] {
            sqlx::query(sql)
                .bind(&ids)
                .bind(&versions)
                .bind(&digests)
                .bind(&sources)
                .bind(&configs)
                .bind(self.at.as_millis())
                .execute(&mut *transaction)
                .await
                .map_err(classify)?;
        }
        transaction.commit().await.map_err(classify)
    }
}

/// A write that changes nothing but shows whether writes succeed.
pub(super) struct Probe;

#[async_trait]
impl Call for Probe {
    type Answer = ();
    const WRITES: bool = true;

    async fn run(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        sqlx::query(
            "insert into write_probe (id, at, filler) values (1, $1, '') \
             on conflict (id) do update set at = excluded.at",
        )
        .bind(Timestamp::now().as_millis())
        .execute(connection)
        .await
        .map_err(classify)?;
        Ok(())
    }
}
