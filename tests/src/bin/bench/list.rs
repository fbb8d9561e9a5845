//! `GET /jobs` over a million rows: every filter, at every depth, one request after another on one connection.

use std::net::SocketAddr;
use std::time::Instant;

use serde_json::Value;
use tokio::runtime::Runtime;
use vespiary::core::Timestamp;

use crate::child::Served;
use crate::driver::{self, Connection};
use crate::rows::{self, FIRST_MILLIS, STEP_MILLIS};
use crate::sample::Sample;
use crate::table::{Row, Table};
use crate::{Options, Outcome};

const P99_MILLIS: f64 = 10.0;
/// How far a list is walked to find pages at every depth.
const LONGEST_WALK: usize = 400;

pub(crate) fn measure(options: &Options, runtime: &Runtime, table: &mut Table) -> Outcome<()> {
    runtime.block_on(async {
        let folder = rows::folder(options.rows).await?;
        let served = Served::start(&["use-cases", &folder.to_string_lossy()])?;
        let requests = options.pick(1000, 30);
        let mut worst: Option<(f64, String)> = None;
        let mut details = Vec::new();
        for (name, filter) in filters(options.rows) {
            let cursors = walk(served.address, &filter, options).await?;
            for limit in [10, 100, 1000] {
                let sample = sample(served.address, &filter, limit, &cursors, requests).await?;
                let (p50, p99) = (sample.micros(0.5) / 1000.0, sample.micros(0.99) / 1000.0);
                if worst.as_ref().is_none_or(|(most, _)| *most < p99) {
                    worst = Some((p99, format!("{name}, limit {limit}")));
                }
                details.push((name.clone(), limit, p50, p99, cursors.len()));
            }
        }
        let (p99, which) = worst.ok_or("nothing was asked")?;
        table.add(Row {
            figure: format!("GET /jobs, {} rows: the worst", options.rows),
            measured: format!("{p99:.1} ms p99: {which}"),
            reach: "<= 10 ms p99",
            reached: Some(p99 <= P99_MILLIS),
            runs: format!("{requests} requests each, 1 connection, pages at all depths in turn, after 1 turn"),
            ..Row::default()
        });
        for (name, limit, p50, p99, pages) in details {
            table.add(Row {
                figure: format!("  {name}, limit {limit}"),
                measured: format!("{p50:.1} ms p50, {p99:.1} ms p99"),
                reached: Some(p99 <= P99_MILLIS),
                reach: "<= 10 ms p99",
                runs: format!("{pages} depths"),
                ..Row::default()
            });
        }
        Ok(())
    })
}

/// Every filter alone, and those together that are most work.
fn filters(rows: u64) -> Vec<(String, String)> {
    let at = |share: i64| {
        let millis = FIRST_MILLIS + i64::try_from(rows).unwrap_or(i64::MAX) / 100 * share * STEP_MILLIS;
        Timestamp::from_millis(millis).to_string()
    };
    let processes = |count: usize| (0..count).map(|number| format!("p-{number:02}")).collect::<Vec<_>>().join(",");
    let (early, late) = (at(30), at(31));
    [
        ("all", String::new()),
        ("type", "type=process".to_owned()),
        ("status, common", "status=successful".to_owned()),
        ("status, rare", "status=running".to_owned()),
        ("status, two", "status=failed,dismissed".to_owned()),
        ("process, half of all", "processID=p-00".to_owned()),
        ("process, one in a hundred", "processID=p-07".to_owned()),
        ("processes, ten", format!("processID={}", processes(10))),
        ("processes, forty", format!("processID={}", processes(40))),
        ("process and status", "processID=p-07&status=failed".to_owned()),
        ("datetime, a hundredth", format!("datetime={early}/{late}")),
        ("datetime, open", format!("datetime=../{late}")),
        ("minDuration, rare", "minDuration=3000".to_owned()),
        ("minDuration, none", "minDuration=100000000".to_owned()),
        ("maxDuration, rare", "maxDuration=2".to_owned()),
        ("durations, common", "minDuration=60&maxDuration=300".to_owned()),
        (
            "all filters",
            format!(
                "type=process&processID={}&status=successful,failed&datetime={early}/..&minDuration=60&maxDuration=300",
                processes(10)
            ),
        ),
        (
            "all filters, forty processes",
            format!(
                "type=process&processID={}&status=successful,failed&datetime={early}/..&minDuration=60&maxDuration=300",
                processes(40)
            ),
        ),
    ]
    .map(|(name, filter)| (name.to_owned(), filter))
    .into()
}

fn request(address: SocketAddr, filter: &str, limit: u32, cursor: &str) -> Vec<u8> {
    let mut query = format!("/jobs?limit={limit}");
    for (name, value) in [("", filter), ("cursor=", cursor)].iter().filter(|(_, value)| !value.is_empty()) {
        query.push('&');
        query.push_str(name);
        query.push_str(value);
    }
    driver::get(address, &query)
}

/// The cursors of pages at all depths, the first page included: up to fifty of them.
async fn walk(address: SocketAddr, filter: &str, options: &Options) -> Outcome<Vec<String>> {
    let mut connection = Connection::open(address).await?;
    let mut cursors = vec![String::new()];
    for _ in 0..options.pick(LONGEST_WALK, 20) {
        let cursor = cursors.last().cloned().unwrap_or_default();
        let reply = connection.expect(&request(address, filter, 10_000, &cursor), 200).await?;
        let page: Value = serde_json::from_slice(&reply.body)?;
        match next(&page) {
            Some(next) => cursors.push(next),
            None => break,
        }
    }
    let step = cursors.len().div_ceil(50);
    Ok(cursors.into_iter().step_by(step).collect())
}

fn next(page: &Value) -> Option<String> {
    let links = page.get("links")?.as_array()?;
    let link = links.iter().find(|link| link.get("rel").is_some_and(|rel| rel == "next"))?;
    let (_, query) = link.get("href")?.as_str()?.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix("cursor=")).map(str::to_owned)
}

async fn sample(address: SocketAddr, filter: &str, limit: u32, cursors: &[String], requests: usize) -> Outcome<Sample> {
    let mut connection = Connection::open(address).await?;
    let texts: Vec<Vec<u8>> = cursors.iter().map(|cursor| request(address, filter, limit, cursor)).collect();
    for text in &texts {
        connection.expect(text, 200).await?;
    }
    let mut sample = Sample::default();
    for text in texts.iter().cycle().take(requests) {
        let begun = Instant::now();
        connection.expect(text, 200).await?;
        sample.add(begun);
    }
    Ok(sample)
}
