//! `GET /processes/{id}` and `GET /processes`: a real server process, against a bare handler of the same library that answers the same
//! bytes.

use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::get;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use vespiary_tests::Server;

use crate::child::{self, Served};
use crate::driver::{self, Connection, Reply, Round};
use crate::sample::{Sample, grouped, median, ratio};
use crate::table::{Row, Table};
use crate::{Options, Outcome, place, proc_fs};

const CONNECTIONS: usize = 16;
const PATHS: [&str; 2] = ["/processes/hello-world", "/processes"];
/// Answers a second that are enough, whatever the bare handler does.
const ENOUGH: f64 = 20_000.0;
/// The share of the bare handler that is enough.
const SHARE: f64 = 0.7;

pub(crate) fn measure(options: &Options, runtime: &Runtime, table: &mut Table) -> Outcome<()> {
    let server = Server::start();
    let address = driver::address(server.url())?;
    let replies: Vec<(String, Reply)> = runtime.block_on(async {
        let mut connection = Connection::open(address).await?;
        let mut replies = Vec::new();
        for path in PATHS {
            replies.push((path.to_owned(), connection.expect(&driver::get(address, path), 200).await?));
        }
        Outcome::Ok(replies)
    })?;
    let folder = place::passing()?;
    let file = folder.path().join("replies.json");
    write(&file, &replies)?;
    let bare = Served::start(&["documents", &file.to_string_lossy()])?;

    for path in PATHS {
        let real = Side { address, pid: server.pid(), request: driver::get(address, path), status: 200 };
        let bare =
            Side { address: bare.address, pid: bare.pid(), request: driver::get(bare.address, path), status: 200 };
        let rounds = Rounds::take(options, runtime, &real, &bare, CONNECTIONS)?;
        let (rate, share) = (rounds.real.rate(), rounds.share());
        table.add(rounds.row(&format!("GET {path}"), ">= 20,000/s or >= 0.7", rate >= ENOUGH || share >= SHARE));
    }
    Ok(())
}

/// One of two servers under the same load.
pub(crate) struct Side {
    pub(crate) address: std::net::SocketAddr,
    pub(crate) pid: u32,
    pub(crate) request: Vec<u8>,
    pub(crate) status: u16,
}

/// What one side did in all rounds.
#[derive(Default)]
pub(crate) struct Done {
    rates: Vec<f64>,
    cpu_micros: Vec<f64>,
    sample: Sample,
}

impl Done {
    fn add(&mut self, round: &Round, cpu_seconds: f64) {
        self.rates.push(round.rate);
        #[allow(clippy::cast_precision_loss, reason = "a count of requests")]
        self.cpu_micros.push(ratio(cpu_seconds * 1_000_000.0, round.count as f64));
        self.sample.extend(&round.sample);
    }

    /// Answers a second.
    pub(crate) fn rate(&self) -> f64 {
        median(&self.rates)
    }

    fn shown(&self) -> String {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "shown, not counted with")]
        let (rate, cpu) = (grouped(self.rate().round() as u64), median(&self.cpu_micros));
        format!("{rate}/s, p99 {:.1} ms, cpu {cpu:.0} us", self.sample.micros(0.99) / 1000.0)
    }
}

/// Both sides in turns.
pub(crate) struct Rounds {
    pub(crate) real: Done,
    bare: Done,
    shares: Vec<f64>,
    runs: String,
}

impl Rounds {
    /// Loads one side and the other, several times.
    pub(crate) fn take(
        options: &Options,
        runtime: &Runtime,
        real: &Side,
        bare: &Side,
        connections: usize,
    ) -> Outcome<Self> {
        let (rounds, span) = (options.pick(9, 2), Duration::from_millis(options.pick(1500, 100)));
        let run = |side: &Side, span| -> Outcome<(Round, f64)> {
            let before = proc_fs::cpu_seconds(side.pid)?;
            let round = runtime.block_on(driver::load(side.address, &side.request, side.status, connections, span))?;
            Ok((round, proc_fs::cpu_seconds(side.pid)? - before))
        };
        run(real, span)?;
        run(bare, span)?;
        let runs = format!("{rounds} x {:.1} s, {connections} connections, after 1 round", span.as_secs_f64());
        let mut taken = Self { real: Done::default(), bare: Done::default(), shares: Vec::new(), runs };
        for _ in 0..rounds {
            let (a, cpu_of_a) = run(real, span)?;
            let (b, cpu_of_b) = run(bare, span)?;
            taken.shares.push(ratio(a.rate, b.rate));
            taken.real.add(&a, cpu_of_a);
            taken.bare.add(&b, cpu_of_b);
        }
        Ok(taken)
    }

    /// The real side's rate as a share of the bare one's: the median of neighbouring rounds.
    pub(crate) fn share(&self) -> f64 {
        median(&self.shares)
    }

    pub(crate) fn row(&self, figure: &str, reach: &'static str, reached: bool) -> Row {
        Row {
            figure: figure.to_owned(),
            measured: self.real.shown(),
            bare: self.bare.shown(),
            ratio: format!("{:.2}", self.share()),
            reach,
            reached: Some(reached),
            runs: self.runs.clone(),
        }
    }
}

/// Keeps answers for a bare server.
pub(crate) fn write(file: &Path, replies: &[(String, Reply)]) -> Outcome<()> {
    let kept: Vec<Value> = replies
        .iter()
        .map(|(path, reply)| {
            let body = String::from_utf8_lossy(&reply.body);
            json!({ "path": path, "status": reply.status, "headers": reply.headers, "body": body })
        })
        .collect();
    Ok(std::fs::write(file, serde_json::to_vec(&kept)?)?)
}

/// An answer that is always the same.
#[derive(Clone)]
pub(crate) struct Fixed {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Fixed {
    /// The answer itself.
    pub(crate) fn response(&self) -> Response {
        let mut response = Response::new(Body::from(self.body.clone()));
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers.iter().cloned());
        response
    }
}

/// Reads kept answers, by path.
pub(crate) fn read(file: &Path) -> Outcome<Vec<(String, Fixed)>> {
    let kept: Vec<Value> = serde_json::from_slice(&std::fs::read(file)?)?;
    let mut found = Vec::new();
    for reply in kept {
        let text = |name: &str| reply.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let pairs: Vec<(String, String)> = serde_json::from_value(reply.get("headers").cloned().unwrap_or_default())?;
        let mut headers = Vec::new();
        for (name, value) in pairs {
            headers.push((name.parse::<HeaderName>()?, value.parse::<HeaderValue>()?));
        }
        let status = reply.get("status").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
        let status = StatusCode::from_u16(status.unwrap_or_default())?;
        found.push((text("path"), Fixed { status, headers, body: text("body").into() }));
    }
    Ok(found)
}

/// The bare server: nothing but the library.
pub(crate) async fn bare(replies: &Path) -> Outcome<()> {
    let mut router = Router::new();
    for (path, fixed) in read(replies)? {
        router = router.route(&path, get(async move || fixed.response()));
    }
    child::serve_bare(router).await
}
