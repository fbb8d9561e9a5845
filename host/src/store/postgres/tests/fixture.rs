//! A database for each test, and a way to the server that can be cut.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Once};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use url::Url;

use crate::core::JobId;
use crate::store::postgres::{PostgresStore, Settings};

/// A database of its own, dropped with this value.
pub(in crate::store) struct Database {
    server: Url,
    name: String,
}

impl Database {
    /// `None`: there is no server to try it on.
    pub(in crate::store) async fn create() -> Option<Self> {
        let Ok(server) = std::env::var("TEST_POSTGRES_URL") else {
            let must = std::env::var("VESPIARY_TEST_ALL").is_ok_and(|all| all == "1");
            assert!(!must, "VESPIARY_TEST_ALL is set, and TEST_POSTGRES_URL is not: PostgreSQL cannot be tried");
            static SAID: Once = Once::new();
            SAID.call_once(|| {
                let _ = writeln!(std::io::stderr(), "PostgreSQL is not tried: TEST_POSTGRES_URL is not set");
            });
            return None;
        };
        let database = Self { server: server.parse().unwrap(), name: format!("test_{}", JobId::new()) };
        database.on_server(format!("create database \"{}\"", database.name)).await;
        Some(database)
    }

    async fn on_server(&self, sql: String) {
        let mut connection = PgConnection::connect(self.server.as_str()).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    pub(in crate::store) fn url(&self) -> String {
        let mut url = self.server.clone();
        url.set_path(&self.name);
        url.to_string()
    }

    /// The same through another address.
    pub(in crate::store) fn url_by(&self, way: SocketAddr) -> String {
        let mut url: Url = self.url().parse().unwrap();
        url.set_ip_host(way.ip()).unwrap();
        url.set_port(Some(way.port())).unwrap();
        url.to_string()
    }

    pub(in crate::store) async fn open(&self) -> Arc<PostgresStore> {
        PostgresStore::open(&self.url(), &settings()).await.unwrap()
    }

    pub(in crate::store) async fn connect(&self) -> PgConnection {
        self.url().parse::<PgConnectOptions>().unwrap().connect().await.unwrap()
    }

    /// Statements of a test.
    pub(in crate::store) async fn execute(&self, sql: &str) {
        let mut connection = self.connect().await;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// Rows of text.
    pub(in crate::store) async fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        let found = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(&mut self.connect().await).await.unwrap();
        let text = |row: &PgRow, index| row.get::<Option<String>, _>(index).unwrap_or_else(|| "-".to_owned());
        found.iter().map(|row| (0..row.len()).map(|index| text(row, index)).collect()).collect()
    }

    pub(in crate::store) async fn proxy(&self) -> Proxy {
        let addresses = self.server.socket_addrs(|| Some(5432)).unwrap();
        Proxy::start(addresses[0]).await
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(self.on_server(format!("drop database \"{}\" with (force)", self.name)));
            });
        });
    }
}

/// Few connections: many tests share the server.
pub(in crate::store) fn settings() -> Settings {
    Settings { connections: 8, ..Settings::default() }
}

/// A store on a database of its own.
pub(super) async fn open() -> Option<(Arc<PostgresStore>, Database)> {
    let database = Database::create().await?;
    Some((database.open().await, database))
}

/// Waits for something, with a deadline.
pub(super) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// What lies between a store and its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Line {
    Open,
    /// Connections are ended, new ones are ended at once: a server that is down.
    Cut,
    /// Nothing arrives, nothing is refused: a network that is gone.
    Silent,
}

pub(in crate::store) struct Proxy {
    pub(in crate::store) address: SocketAddr,
    line: watch::Sender<Line>,
}

impl Proxy {
    async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (line, state) = watch::channel(Line::Open);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server, state.clone()));
            }
        });
        Self { address, line }
    }

    pub(in crate::store) fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

async fn carry(mut client: TcpStream, server: SocketAddr, mut state: watch::Receiver<Line>) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let (mut up, mut down) = (vec![0; 16_384], vec![0; 16_384]);
    loop {
        let line = *state.borrow_and_update();
        match line {
            Line::Cut => return,
            Line::Silent => {}
            Line::Open => {
                tokio::select! {
                    _ = state.changed() => continue,
                    read = client.read(&mut up) => match read {
                        Ok(count) if count > 0 && server.write_all(&up[..count]).await.is_ok() => continue,
                        _ => return,
                    },
                    read = server.read(&mut down) => match read {
                        Ok(count) if count > 0 && client.write_all(&down[..count]).await.is_ok() => continue,
                        _ => return,
                    },
                }
            }
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}
