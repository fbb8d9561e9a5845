//! The load: HTTP/1.1 over kept connections, one request at a time on each, as little work for each as will do.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::Outcome;
use crate::sample::Sample;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection that is kept.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

/// One answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// As they were sent, without those that the server's library makes.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// What one round gave.
#[derive(Debug, Clone, Default)]
pub(crate) struct Round {
    /// Answers a second.
    pub(crate) rate: f64,
    /// What each took.
    pub(crate) sample: Sample,
    /// How many there were.
    pub(crate) count: usize,
}

/// The text of a GET.
pub(crate) fn get(address: SocketAddr, target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nhost: {address}\r\naccept: */*\r\n\r\n").into_bytes()
}

/// The text of a POST of JSON, with these headers more.
pub(crate) fn post(address: SocketAddr, target: &str, more: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {target} HTTP/1.1\r\nhost: {address}\r\naccept: */*\r\n{more}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// The address in `http://ADDRESS`.
pub(crate) fn address(url: &str) -> Outcome<SocketAddr> {
    Ok(url.trim().strip_prefix("http://").ok_or("not a URL")?.parse()?)
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Outcome<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 16 * 1024], filled: 0 })
    }

    /// Sends a request and reads its whole answer: status, and where the body begins and ends in the buffer.
    async fn exchange(&mut self, request: &[u8]) -> Outcome<(u16, usize, usize)> {
        self.stream.write_all(request).await?;
        self.filled = 0;
        let (mut head, mut end) = (0, usize::MAX);
        while self.filled < end {
            if self.filled == self.buffer.len() {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
            let count = self.stream.read(self.buffer.get_mut(self.filled..).unwrap_or_default()).await?;
            if count == 0 {
                return Err("the server closed the connection".into());
            }
            self.filled += count;
            if head == 0
                && let Some(found) = head_end(self.received())
            {
                head = found;
                end = head + length(self.received().get(..head).unwrap_or_default())?;
            }
        }
        let word = self.received().get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
        Ok((word.ok_or("not an answer")?.parse()?, head, end))
    }

    fn received(&self) -> &[u8] {
        self.buffer.get(..self.filled).unwrap_or_default()
    }

    /// Sends a request: all of its answer.
    pub(crate) async fn send(&mut self, request: &[u8]) -> Outcome<Reply> {
        let (status, head, end) = tokio::time::timeout(PATIENCE, self.exchange(request)).await??;
        let text = String::from_utf8_lossy(self.received().get(..head).unwrap_or_default()).into_owned();
        let own = ["content-length", "date", "connection", "x-request-id"];
        let headers = text.lines().skip(1).filter_map(|line| line.split_once(": "));
        let headers =
            headers.filter(|(name, _)| !own.contains(name)).map(|(name, value)| (name.to_owned(), value.to_owned()));
        Ok(Reply {
            status,
            headers: headers.collect(),
            body: self.received().get(head..end).unwrap_or_default().to_vec(),
        })
    }

    /// Sends a request and answers its body; an error for another status.
    pub(crate) async fn expect(&mut self, request: &[u8], status: u16) -> Outcome<Reply> {
        let reply = self.send(request).await?;
        if reply.status == status {
            return Ok(reply);
        }
        Err(format!("{} instead of {status}: {}", reply.status, String::from_utf8_lossy(&reply.body)).into())
    }

    async fn repeat(mut self, request: &[u8], status: u16, end: Instant) -> Outcome<Sample> {
        let mut sample = Sample::default();
        loop {
            let begun = Instant::now();
            if begun >= end {
                return Ok(sample);
            }
            let (found, _, _) = self.exchange(request).await?;
            if found != status {
                return Err(format!("status {found} instead of {status}").into());
            }
            sample.add(begun);
        }
    }
}

/// Sends the same request on so many connections for so long. Every answer must have this status.
pub(crate) async fn load(
    address: SocketAddr,
    request: &[u8],
    status: u16,
    connections: usize,
    span: Duration,
) -> Outcome<Round> {
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        open.push(Connection::open(address).await?);
    }
    let begun = Instant::now();
    let loops = open.into_iter().map(|connection| connection.repeat(request, status, begun + span));
    let samples = tokio::time::timeout(span + PATIENCE, futures::future::try_join_all(loops)).await??;
    let seconds = begun.elapsed().as_secs_f64();
    let mut round = Round::default();
    samples.iter().for_each(|sample| round.sample.extend(sample));
    round.count = round.sample.len();
    #[allow(clippy::cast_precision_loss, reason = "a count of requests")]
    let count = round.count as f64;
    round.rate = count / seconds;
    Ok(round)
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|place| place + 4)
}

fn length(head: &[u8]) -> Outcome<usize> {
    const NAME: &[u8] = b"content-length: ";
    let place = head.windows(NAME.len()).position(|part| part == NAME).ok_or("the answer has no Content-Length")?;
    let digits =
        head.get(place + NAME.len()..).unwrap_or_default().split(|byte| *byte == b'\r').next().unwrap_or_default();
    Ok(std::str::from_utf8(digits)?.parse()?)
}
