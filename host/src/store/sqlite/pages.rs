//! The job list on SQLite: binds what the shared plan needs.

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::failure::classify;
use crate::core::Timestamp;
use crate::store::StoreError;
use crate::store::list::{Bounds, Dialect, KEPT_BRANCHES, Plan, Source};

#[async_trait]
impl Source for SqliteConnection {
    type Row = SqliteRow;
    const DIALECT: Dialect = Dialect::Sqlite;

    async fn fetch(
        &mut self,
        plan: &Plan,
        sql: String,
        bounds: &Bounds,
        limit: u32,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        let (min, max) = plan.durations.unwrap_or((0, i64::MAX));
        let mut query = sqlx::query(AssertSqlSafe(sql))
            .bind(bounds.below.0)
            .bind(&bounds.below.1)
            .bind(bounds.from.0)
            .bind(&bounds.from.1)
            .bind(i64::from(limit))
            .bind(min)
            .bind(max)
            .bind(Timestamp::now().as_millis());
        for value in &plan.values {
            query = query.bind(value);
        }
        query.persistent(plan.branches.len() <= KEPT_BRANCHES).fetch_all(self).await.map_err(classify)
    }
}
