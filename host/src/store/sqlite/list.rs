//! The job list: any filter, in a bounded number of index rows.
//!
//! A filter is split into branches, one a process and status. Each branch is a range of one index that stands in the
//! list's order already; SQLite merges them lazily, so that a page reads about as many index rows as it answers.
//! What an index cannot answer (durations, more processes than branches) is looked at row by row within a bounded stretch:
//! the stretch's last row is where the next page starts.

use std::cmp::Reverse;
use std::fmt::Write as _;

use sqlx::AssertSqlSafe;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::failure::classify;
use super::rows;
use crate::core::{JobFilter, JobPage, JobStatus, PageKey, ProcessId, Timestamp};
use crate::store::StoreError;

/// Branches of one statement; a filter with more looks at processes row by row.
const MAX_BRANCHES: usize = 50;
/// Statements with more branches are not worth the memory to keep them prepared.
const KEPT_BRANCHES: usize = 10;
/// Index rows that a page looks at when a duration is asked for.
const STRETCH: u32 = 3_000;
/// The same when each needs its table row too.
const SHORT_STRETCH: u32 = 500;
/// Rows of one page, whatever is asked for.
const MAX_PAGE: u32 = 10_000;

/// What to read, before a position is known.
#[derive(Debug)]
pub(super) struct Plan {
    index: &'static str,
    /// The equalities of each branch, with the expression of a duration in it.
    branches: Vec<(String, &'static str)>,
    durations: Option<(i64, i64)>,
    /// Values of `?9` and on.
    values: Vec<String>,
    /// The parameter with the processes that no branch fixes, as a JSON array.
    loose: Option<usize>,
}

/// Parameters: ?1, ?2 the exclusive upper key; ?3, ?4 the inclusive lower key; ?5 rows; ?6, ?7 durations; ?8 now.
const FIRST_VALUE: usize = 9;

impl Plan {
    /// `None`: nothing can match.
    pub(super) fn of(filter: &JobFilter) -> Result<Option<Self>, StoreError> {
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
            format!("{column} = ?{} and ", FIRST_VALUE + values.len() - 1)
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
                let end = if *status == JobStatus::Running { "?8" } else { "finished" };
                (format!("{head}status = '{status}'"), end)
            })
        });
        Ok(Some(Self { index, branches: branches.collect(), durations, values, loose }))
    }

    /// Index rows that one page may look at; `None`: no more than it answers.
    fn stretch(&self) -> Option<u32> {
        match (self.loose, self.durations) {
            (Some(_), _) => Some(SHORT_STRETCH),
            (None, Some(_)) => Some(STRETCH),
            (None, None) => None,
        }
    }

    /// The rows of all branches, in the order of the list.
    fn merged(&self, columns: &str, is_narrowed: bool) -> String {
        let mut sql = String::with_capacity(self.branches.len() * 220);
        for (head, end) in &self.branches {
            if !sql.is_empty() {
                sql.push_str(" union all ");
            }
            // Writing to a text cannot fail.
            let _ = write!(
                sql,
                "select {columns} from jobs indexed by {} where {head} and removed is null \
                 and (created, id) < (?1, ?2) and (created, id) >= (?3, ?4)",
                self.index
            );
            if is_narrowed && self.durations.is_some() {
                // A clock that went back makes 0, as in `Timestamp::millis_since`.
                let _ = write!(sql, " and max({end} - started, 0) between ?6 and ?7");
            }
            if let Some(parameter) = self.loose.filter(|_| is_narrowed) {
                let _ = write!(sql, " and process_id in (select value from json_each(?{parameter}))");
            }
        }
        sql.push_str(" order by created desc, id desc limit ");
        sql
    }

    /// The page itself.
    pub(super) fn page_sql(&self) -> String {
        let keys = self.merged("rowid as place, created, id", true);
        let columns = rows::JOB.split(", ").map(|column| format!("j.{column}")).collect::<Vec<_>>().join(", ");
        format!("select {columns} from ({keys} ?5) as k cross join jobs as j on j.rowid = k.place")
    }

    /// The last row of the stretch, if there are as many.
    pub(super) fn boundary_sql(&self) -> String {
        self.merged("created, id", false) + "1 offset ?5"
    }

    async fn fetch(
        &self,
        connection: &mut SqliteConnection,
        sql: String,
        bounds: &Bounds,
        rows: u32,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        let (min, max) = self.durations.unwrap_or((0, i64::MAX));
        let mut query = sqlx::query(AssertSqlSafe(sql))
            .bind(bounds.below.0)
            .bind(&bounds.below.1)
            .bind(bounds.from.0)
            .bind(&bounds.from.1)
            .bind(i64::from(rows))
            .bind(min)
            .bind(max)
            .bind(Timestamp::now().as_millis());
        for value in &self.values {
            query = query.bind(value);
        }
        query.persistent(self.branches.len() <= KEPT_BRANCHES).fetch_all(connection).await.map_err(classify)
    }
}

/// The part of the list that is read.
struct Bounds {
    /// Exclusive.
    below: (i64, String),
    /// Inclusive.
    from: (i64, String),
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
pub(super) async fn page(
    connection: &mut SqliteConnection,
    filter: &JobFilter,
    after: Option<PageKey>,
    limit: u32,
) -> Result<JobPage, StoreError> {
    let empty = JobPage { jobs: Vec::new(), next: None };
    let Some(plan) = Plan::of(filter)? else { return Ok(empty) };
    let limit = limit.min(MAX_PAGE);
    let mut bounds = Bounds::new(filter, after);

    // The stretch's end is found first: a row that is inserted meanwhile is in front of it, so that nothing is skipped.
    let mut stretch_end = None;
    if let Some(stretch) = plan.stretch() {
        let found = plan.fetch(connection, plan.boundary_sql(), &bounds, stretch.saturating_sub(1)).await?;
        if let Some(row) = found.first() {
            let created = Timestamp::from_millis(rows::column(row, 0, "jobs.created")?);
            let key = PageKey { created, id: rows::parsed(row, 1, "jobs.id")? };
            bounds.from = (key.created.as_millis(), key.id.to_string());
            stretch_end = Some(key);
        }
    }

    let found = plan.fetch(connection, plan.page_sql(), &bounds, limit.saturating_add(1)).await?;
    let mut jobs = found.iter().map(rows::job).collect::<Result<Vec<_>, _>>()?;
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
