//! How the job list is read.

use sqlx::{AssertSqlSafe, Row};

use super::fixture::open;
use crate::core::JobFilter;
use crate::core::JobStatus::{Running, Successful};
use crate::store::JobStore;
use crate::store::list::{Dialect, Plan};

const FILL: &str = "\
insert into jobs (id, process_id, process_version, processor_digest, caller, status, created, started, finished, updated, \
    relaunchable, guarded, runner, response, requested_outputs, declared_outputs, inputs, plan) \
select lpad(to_hex(i), 8, '0') || '-0000-7000-8000-000000000000', 'p' || (i % 200), '1', '', 'c' || (i % 7), 'successful', i, i, \
    i + case i when 1 then 9000 else 10 end, i, 1, 0, 'local', 'raw', 'null', '{}', '{}', '{}' from generate_series(1, 40000) as i; \
analyze jobs";

/// Every shape of filter.
fn filters() -> Vec<JobFilter> {
    let mut all = Vec::new();
    for processes in [0, 1, 3, 40] {
        for statuses in [vec![], vec![Running], vec![Running, Successful]] {
            for caller in [None, Some("c1".to_owned())] {
                for min_duration_seconds in [None, Some(5)] {
                    let process_ids = (0..processes).map(|n| format!("p{n}").parse().unwrap()).collect();
                    let (statuses, caller) = (statuses.clone(), caller.clone());
                    all.push(JobFilter { process_ids, statuses, caller, min_duration_seconds, ..JobFilter::default() });
                }
            }
        }
    }
    all
}

/// The types of the parameters before the values of the filter.
const TYPES: &str = "bigint, text, bigint, text, bigint, bigint, bigint, bigint";

#[tokio::test]
async fn no_list_reads_without_an_index_or_sorts() {
    let Some((_store, database)) = open().await else { return };
    database.execute(FILL).await;
    let mut connection = database.connect().await;
    sqlx::raw_sql("set plan_cache_mode = force_generic_plan").execute(&mut connection).await.unwrap();
    for filter in filters() {
        let plan = Plan::of(&filter, Dialect::Postgres).unwrap().unwrap();
        for (sql, is_page) in [(plan.page_sql(11), true), (plan.boundary_sql(10), false)] {
            let types = format!("{TYPES}{}", ", text".repeat(plan.values.len()));
            let values = vec!["null"; 8 + plan.values.len()].join(", ");
            let prepared = format!("deallocate all; prepare p ({types}) as {sql}");
            sqlx::raw_sql(AssertSqlSafe(prepared)).execute(&mut connection).await.unwrap();
            let explain = AssertSqlSafe(format!("explain execute p({values})"));
            let found = sqlx::raw_sql(explain).fetch_all(&mut connection).await.unwrap();
            let steps: Vec<String> = found.iter().map(|row| row.get(0)).collect();
            let text = steps.join("\n");
            assert!(!text.contains("Seq Scan"), "{filter:?}\n{sql}\n{text}");
            // What no index answers is looked at in a stretch that was found before: how it is read is the planner's choice.
            let is_narrowed = filter.min_duration_seconds.is_some() || filter.process_ids.len() == 40;
            let is_ordered = !text.contains("Bitmap") && !text.contains("Sort  ");
            // A process's jobs of one caller are few here: sorting them is as good.
            let is_small = filter.caller.is_some() && !filter.process_ids.is_empty();
            assert!(is_ordered || (is_narrowed && is_page) || is_small, "{filter:?}\n{sql}\n{text}");
        }
    }
}

#[tokio::test]
async fn a_page_looks_at_a_bounded_stretch() {
    let Some((store, database)) = open().await else { return };
    database.execute(FILL).await;
    let long = JobFilter { min_duration_seconds: Some(9), ..JobFilter::default() };
    // More processes than branches, of which one exists: every 200th row.
    let loose = JobFilter {
        process_ids: (0..30).map(|n| format!("p{}", n * 200).parse().unwrap()).collect(),
        ..JobFilter::default()
    };
    for (filter, want, most) in [(long, 1, 24), (loose, 200, 100)] {
        let (mut pages, mut found, mut after) = (0, 0, None);
        loop {
            let page = store.list(&filter, after, 10).await.unwrap();
            pages += 1;
            found += page.jobs.len();
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, want);
        assert!(pages <= most && pages > 2, "{pages} pages");
    }
}
