//! Processes beside the bench: this program again, as one server or one piece of work.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;

use crate::{Outcome, cluster, documents, driver, execute, log, use_cases};

/// The first word of a command line that is not for people.
pub(crate) const WORD: &str = "--child";

/// A server in a process of its own, killed when dropped.
pub(crate) struct Served {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Served {
    /// Starts this program as a server.
    pub(crate) fn start(words: &[&str]) -> Outcome<Self> {
        Self::of(Command::new(std::env::current_exe()?).arg(WORD).args(words).stdin(Stdio::piped()))
    }

    /// Starts a program whose first line is its URL.
    pub(crate) fn of(command: &mut Command) -> Outcome<Self> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().ok_or("standard output is piped")?);
        let read = out.read_line(&mut line);
        let address = read.map_err(Into::into).and_then(|_| driver::address(&line));
        match address {
            Ok(address) => {
                // What else it prints must not fill the pipe.
                std::thread::spawn(move || out.read_to_end(&mut Vec::new()));
                Ok(Self { child, address })
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(format!("a server did not start: {error}").into())
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Does what a hidden command line says.
pub(crate) fn run(words: &[String]) -> Outcome<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["documents", replies] => served(documents::bare(Path::new(replies))),
        ["use-cases", folder] => served(use_cases::serve(Path::new(folder))),
        ["insert", folder, replies] => served(execute::bare(Path::new(folder), Path::new(replies))),
        ["capture", file, folder] => log::child(Path::new(file), Path::new(folder)),
        ["s3-capture", mib] => cluster::child(false, mib),
        ["s3-bare", mib] => cluster::child(true, mib),
        other => Err(format!("{other:?} is nothing that this program does").into()),
    }
}

/// Serves until standard input ends: then the bench is gone.
fn served(serving: impl Future<Output = Outcome<()>>) -> Outcome<()> {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    // The runtime that `vespiary serve` has.
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serving)
}

/// Serves a bare router.
pub(crate) async fn serve_bare(router: axum::Router) -> Outcome<()> {
    // As in the real server: small answers must not wait for an acknowledgement.
    let listener = listen().await?.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    Ok(axum::serve(listener, router).await?)
}

/// Listens, and prints the URL.
pub(crate) async fn listen() -> Outcome<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut out = std::io::stdout();
    writeln!(out, "http://{}", listener.local_addr()?)?;
    out.flush()?;
    Ok(listener)
}
