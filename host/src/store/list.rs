//! The job list: any filter, in a bounded number of index rows; the SQL of both databases.
//!
//! A filter is split into branches, one a process and status. Each branch is a range of one index that stands in the
//! list's order already; the database merges them lazily, so that a page reads about as many index rows as it answers.
//! What an index cannot answer (durations, more processes than branches) is looked at row by row within a bounded stretch:
//! the stretch's last row is where the next page starts.

use std::cmp::Reverse;
use std::fmt::Write as _;

use async_trait::async_trait;

use super::rows::{self, Cells};
use crate::core::{Job, JobFilter, JobPage, JobStatus, PageKey, ProcessId, Timestamp};
use crate::store::StoreError;

/// Branches of one statement; a filter with more looks at processes row by row.
const MAX_BRANCHES: usize = 50;
/// Statements with more branches are not worth the memory to keep them prepared.
pub(super) const KEPT_BRANCHES: usize = 10;
/// Index rows that a page looks at when a duration is asked for.
const STRETCH: u32 = 2_000;
/// The same when many branches are merged, which costs more a row.
const MERGED_STRETCH: u32 = 1_000;
/// The same when each needs its table row too.
const SHORT_STRETCH: u32 = 500;
/// Rows of one page, whatever is asked for.
const MAX_PAGE: u32 = 10_000;

/// Where the databases' words differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

/// A connection that a page is read from.
#[async_trait]
pub(super) trait Source: Send {
    type Row: Cells + Send + Sync;
    const DIALECT: Dialect;

    /// The rows of a statement of this plan, with `limit` as its `$5`.
    async fn fetch(
        &mut self,
        plan: &Plan,
        sql: String,
        bounds: &Bounds,
        limit: u32,
    ) -> Result<Vec<Self::Row>, StoreError>;

    /// The jobs in the rows of [`Plan::page_sql`].
    fn jobs(rows: &[Self::Row]) -> Result<Vec<Job>, StoreError>;
}

/// What to read, before a position is known.
#[derive(Debug)]
pub(super) struct Plan {
    dialect: Dialect,
    index: &'static str,
    /// The equalities of each branch, with the expression of a duration in it.
    pub(super) branches: Vec<(String, &'static str)>,
    pub(super) durations: Option<(i64, i64)>,
    /// Values of `$9` and on.
    pub(super) values: Vec<String>,
    /// The parameter with the processes that no branch fixes, as a JSON array.
    loose: Option<usize>,
}

/// Parameters: $1, $2 the exclusive upper key; $3, $4 the inclusive lower key; $5 rows; $6, $7 durations; $8 now.
const FIRST_VALUE: usize = 9;

impl Plan {
    /// `None`: nothing can match.
    pub(super) fn of(filter: &JobFilter, dialect: Dialect) -> Result<Option<Self>, StoreError> {
        let durations = (filter.min_duration_seconds.is_some() || filter.max_duration_seconds.is_some()).then(|| {
            let millis = |seconds: u64| i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX);
            (filter.min_duration_seconds.map_or(0, millis), filter.max_duration_seconds.map_or(i64::MAX, millis))
        });
        let wanted = |status: &JobStatus| filter.statuses.is_empty() || filter.statuses.contains(status);
        // A job that has not started has no duration.
        let lasts = |status: &JobStatus| durations.is_none() || *status != JobStatus::Accepted;
        let statuses: Vec<_> = JobStatus::ALL.into_iter().filter(wanted).filter(lasts).collect();
        if statuses.is_empty() {
            return Ok(None);
        }

        let mut values = Vec::new();
        let mut fix = |column: &str, value: &str| {
            values.push(value.to_owned());
            format!("{column} = ${} and ", FIRST_VALUE + values.len() - 1)
        };
        let caller = filter.caller.as_deref().map(|caller| fix("caller", caller)).unwrap_or_default();
        let mut processes: Vec<&str> = filter.process_ids.iter().map(ProcessId::as_str).collect();
        processes.sort_unstable();
        processes.dedup();
        let is_loose = processes.len() * statuses.len() > MAX_BRANCHES;
        let heads: Vec<String> = if processes.is_empty() || is_loose {
            vec![caller]
        } else {
            processes.iter().map(|process| format!("{caller}{}", fix("process_id", process))).collect()
        };
        let index = match (filter.caller.is_some(), processes.is_empty() || is_loose) {
            (false, true) => "jobs_by_status",
            (false, false) => "jobs_by_process",
            (true, true) => "jobs_by_caller",
            (true, false) => "jobs_by_caller_process",
        };
        let loose = if is_loose {
            values.push(rows::json_text(&processes, "jobs.process_id")?);
            Some(FIRST_VALUE + values.len() - 1)
        } else {
            None
        };
        let branches = heads.iter().flat_map(|head| {
            statuses.iter().map(move |status| {
                let end = if *status == JobStatus::Running { "$8" } else { "finished" };
                (format!("{head}status = '{status}'"), end)
            })
        });
        Ok(Some(Self { dialect, index, branches: branches.collect(), durations, values, loose }))
    }

    /// Index rows that one page may look at; `None`: no more than it answers.
    fn stretch(&self) -> Option<u32> {
        match (self.loose, self.durations) {
            (Some(_), _) => Some(SHORT_STRETCH),
            (None, Some(_)) if self.branches.len() > KEPT_BRANCHES => Some(MERGED_STRETCH),
            (None, Some(_)) => Some(STRETCH),
            (None, None) => None,
        }
    }

    /// The rows of all branches, in the order of the list; `needed`: of one branch at most.
    fn merged(&self, columns: &str, is_narrowed: bool, needed: u32) -> String {
        const ORDER: &str = " order by created desc, id desc limit ";
        let hint = match self.dialect {
            Dialect::Sqlite => format!(" indexed by {}", self.index),
            Dialect::Postgres => String::new(),
        };
        let mut sql = String::with_capacity(self.branches.len() * 220);
        for (head, end) in &self.branches {
            if !sql.is_empty() {
                sql.push_str(" union all ");
            }
            // PostgreSQL merges ordered branches, but does not see by itself that a few rows of each will do.
            let (open, close) = match self.dialect {
                Dialect::Postgres if self.branches.len() > 1 => ("(", format!("{ORDER}{needed})")),
                _ => ("", String::new()),
            };
            // Writing to a text cannot fail.
            let _ = write!(
                sql,
                "{open}select {columns} from jobs{hint} where {head} and removed is null \
                 and (created, id) < ($1, $2) and (created, id) >= ($3, $4)"
            );
            if is_narrowed && self.durations.is_some() {
                // A clock that went back makes 0, as in `Timestamp::millis_since`.
                let lasted = match self.dialect {
                    Dialect::Sqlite => format!("max({end} - started, 0)"),
                    // `greatest` passes over null: no start, no duration.
                    Dialect::Postgres => format!("started is not null and greatest({end} - started, 0)"),
                };
                let _ = write!(sql, " and {lasted} between $6 and $7");
            }
            if let Some(parameter) = self.loose.filter(|_| is_narrowed) {
                let each = match self.dialect {
                    Dialect::Sqlite => format!("select value from json_each(${parameter})"),
                    Dialect::Postgres => format!("select jsonb_array_elements_text(${parameter}::jsonb)"),
                };
                let _ = write!(sql, " and process_id in ({each})");
            }
            sql.push_str(&close);
        }
        sql.push_str(ORDER);
        sql
    }

    /// The number of rows. PostgreSQL plans once for all values of a parameter, and must know that a page is short.
    fn limit(&self, rows: u32) -> String {
        match self.dialect {
            Dialect::Sqlite => "$5".to_owned(),
            Dialect::Postgres => rows.to_string(),
        }
    }

    /// The page itself, of at most `rows` rows.
    pub(super) fn page_sql(&self, rows: u32) -> String {
        // `cross join` tells SQLite which table comes first.
        let (place, join) = match self.dialect {
            Dialect::Sqlite => ("rowid", "cross join"),
            Dialect::Postgres => ("id", "join"),
        };
        let keys = self.merged(&format!("{place} as place, created, id"), true, rows);
        let limit = self.limit(rows);
        let columns = rows::JOB.split(", ").map(|column| format!("j.{column}")).collect::<Vec<_>>().join(", ");
        // One text: a thousand rows of a dozen values each take SQLite's driver longer to hand over than SQLite to find.
        let columns = match self.dialect {
            Dialect::Sqlite => format!("json_group_array(json_array({columns}))"),
            Dialect::Postgres => columns,
        };
        format!("select {columns} from ({keys} {limit}) as k {join} jobs as j on j.{place} = k.place")
    }

    /// The row behind `rows` others, if there are as many.
    pub(super) fn boundary_sql(&self, rows: u32) -> String {
        self.merged("created, id", false, rows.saturating_add(1)) + "1 offset " + &self.limit(rows)
    }
}

/// The part of the list that is read.
pub(super) struct Bounds {
    /// Exclusive.
    pub(super) below: (i64, String),
    /// Inclusive.
    pub(super) from: (i64, String),
}

impl Bounds {
    fn new(filter: &JobFilter, after: Option<PageKey>) -> Self {
        let after = after.map_or((i64::MAX, String::new()), |key| (key.created.as_millis(), key.id.to_string()));
        let (start, end) = match &filter.created {
            Some(range) => (range.start().as_millis(), range.end().as_millis().saturating_add(1)),
            None => (i64::MIN, i64::MAX),
        };
        // No id is the empty text: `(end, "")` is in front of every row of that time.
        Self { below: after.min((end, String::new())), from: (start, String::new()) }
    }
}

/// Reads a page.
pub(super) async fn page<S: Source>(
    source: &mut S,
    filter: &JobFilter,
    after: Option<PageKey>,
    limit: u32,
) -> Result<JobPage, StoreError> {
    let empty = JobPage { jobs: Vec::new(), next: None };
    let Some(plan) = Plan::of(filter, S::DIALECT)? else { return Ok(empty) };
    let limit = limit.min(MAX_PAGE);
    let mut bounds = Bounds::new(filter, after);

    // The stretch's end is found first: a row that is inserted meanwhile is in front of it, so that nothing is skipped.
    let mut stretch_end = None;
    if let Some(stretch) = plan.stretch() {
        let behind = stretch.saturating_sub(1);
        let found = source.fetch(&plan, plan.boundary_sql(behind), &bounds, behind).await?;
        if let Some(row) = found.first() {
            let created = Timestamp::from_millis(row.integer(0, "jobs.created")?);
            let key = PageKey { created, id: rows::parsed(row, 1, "jobs.id")? };
            bounds.from = (key.created.as_millis(), key.id.to_string());
            stretch_end = Some(key);
        }
    }

    let rows = limit.saturating_add(1);
    let found = source.fetch(&plan, plan.page_sql(rows), &bounds, rows).await?;
    let mut jobs = S::jobs(&found)?;
    // They come in this order, but SQL does not promise it through a join.
    jobs.sort_unstable_by_key(|job| Reverse((job.created, job.id)));
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if jobs.len() > limit {
        jobs.truncate(limit);
        let next = jobs.last().map(|job| PageKey { created: job.created, id: job.id }).or(after);
        return Ok(JobPage { jobs, next });
    }
    Ok(JobPage { jobs, next: stretch_end })
}
