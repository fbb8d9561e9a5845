//! `GET /jobs` over a million rows: every filter, at every depth, one request after another on one connection.

use std::net::SocketAddr;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::runtime::Runtime;
use vespiary::core::Timestamp;

use crate::child::Served;
use crate::driver::{self, Connection};
use crate::rows::{self, FIRST_MILLIS, STEP_MILLIS};
use crate::sample::{Sample, grouped};
use crate::table::{Row, Table};
use crate::{Options, Outcome};

const P99_MILLIS: f64 = 10.0;
/// Entries on a page, and how many such pages are asked for: 10 is what a client gets that names no limit.
const LIMITS: [(u32, usize); 3] = [(10, 600), (100, 600), (1000, 200)];
/// Places at which pages start.
const DEPTHS: u64 = 50;

pub(crate) fn measure(options: &Options, runtime: &Runtime, table: &mut Table) -> Outcome<()> {
    runtime.block_on(async {
        let folder = rows::folder(options.rows).await?;
        let served = Served::start(&["use-cases", &folder.to_string_lossy()])?;
        let depths = depths(options.rows)?;
        let mut found: Vec<(String, Vec<Sample>)> = Vec::new();
        for (name, filter) in filters(options.rows) {
            let mut samples = Vec::new();
            for (limit, real) in LIMITS {
                samples.push(sample(served.address, &filter, limit, &depths, options.pick(real, 30)).await?);
            }
            found.push((name, samples));
        }
        for (place, (limit, requests)) in LIMITS.into_iter().enumerate() {
            let p99 = |samples: &[Sample]| samples.get(place).map_or(0.0, |sample| sample.micros(0.99) / 1000.0);
            let worst = found.iter().max_by(|(_, a), (_, b)| p99(a).total_cmp(&p99(b))).ok_or("nothing was asked")?;
            table.add(Row {
                figure: format!("GET /jobs?limit={limit}, {} rows", grouped(options.rows)),
                measured: format!("{:.1} ms p99 of the worst filter ({})", p99(&worst.1), worst.0),
                reach: "<= 10 ms p99",
                reached: Some(p99(&worst.1) <= P99_MILLIS),
                runs: format!(
                    "{} requests a filter, {} depths in turn, 1 connection",
                    options.pick(requests, 30),
                    depths.len()
                ),
                ..Row::default()
            });
        }
        for (name, samples) in found {
            let quoted = |share: f64| {
                let texts: Vec<String> =
                    samples.iter().map(|sample| format!("{:.1}", sample.micros(share) / 1000.0)).collect();
                texts.join(" / ")
            };
            table.add(Row {
                figure: format!("  {name}"),
                measured: format!("p50 {} ms, p99 {} ms", quoted(0.5), quoted(0.99)),
                runs: LIMITS.map(|(limit, _)| limit.to_string()).join(" / ") + " a page",
                ..Row::default()
            });
        }
        Ok(())
    })
}

/// Cursors of places all over the list, the front included.
fn depths(rows: u64) -> Outcome<Vec<String>> {
    let mut cursors = vec![String::new()];
    for part in 1..DEPTHS {
        let row = i64::try_from(rows / DEPTHS * (DEPTHS - part))?;
        // Any id will do: a page starts behind the place, whether there is such a row or not.
        let key = format!("{}:{}", FIRST_MILLIS + row * STEP_MILLIS, "00000000-0000-7000-8000-000000000000");
        cursors.push(URL_SAFE_NO_PAD.encode(key));
    }
    Ok(cursors)
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
