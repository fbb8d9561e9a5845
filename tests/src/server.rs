//! A server process under test.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use vespiary::core::access::TokenTable;

use crate::{Client, Cluster, Folder, Namespace, workspace};

/// The token of servers that share a database.
const SHARED_TOKEN: &str = "the-token-that-all-servers-of-a-database-know";

fn is_shared(folder: &Folder) -> bool {
    folder.env().iter().any(|(name, _)| name == "VESPIARY_STORE_URL")
}

/// How a server is started.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// The configuration file's text.
    pub config: String,
    /// Variables beside the test's own.
    pub env: Vec<(String, String)>,
    /// Put in front of the program, as `prlimit --fsize=…` is.
    pub wrapper: Vec<String>,
}

impl ServerOptions {
    /// With this configuration.
    #[must_use]
    pub fn config(mut self, text: &str) -> Self {
        text.clone_into(&mut self.config);
        self
    }

    /// With this variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }
}

/// A running server, killed when dropped. Its data outlives it until the [`Folder`] is dropped.
pub struct Server {
    child: Child,
    folder: Arc<Folder>,
    options: ServerOptions,
    url: String,
    token: Option<String>,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// A server with nothing configured but a free port and a folder of its own.
    #[must_use]
    pub fn start() -> Self {
        Self::with(ServerOptions::default())
    }

    /// A server in a new folder.
    #[must_use]
    pub fn with(options: ServerOptions) -> Self {
        Self::launch(Folder::new(), options, None)
    }

    /// A replica in a new folder, with the backends of others.
    #[must_use]
    pub fn replica(cluster: &Arc<Cluster>, options: ServerOptions) -> Self {
        Self::launch(Folder::on(Arc::clone(cluster)), options, None)
    }

    fn launch(folder: Arc<Folder>, options: ServerOptions, token: Option<String>) -> Self {
        let started = Self::try_launch(Arc::clone(&folder), options, token);
        started.unwrap_or_else(|log| panic!("the server did not start:\n{log}"))
    }

    /// Starts a server in this folder; its log when it ends before it serves.
    pub fn try_launch(folder: Arc<Folder>, options: ServerOptions, token: Option<String>) -> Result<Self, String> {
        let config = folder.path().join("vespiary.yaml");
        std::fs::write(&config, &options.config).expect("a configuration file");
        let program = workspace::program();
        let mut words: Vec<String> = options.wrapper.clone();
        words.push(program.to_string_lossy().into_owned());
        let (first, rest) = words.split_first().expect("a program");
        let mut command = Command::new(first);
        command
            .args(rest)
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(&config)
            .arg("--data")
            .arg(folder.path().join("data"))
            .arg("--plugins")
            .arg(folder.path().join("plugins"))
            .env_remove("RUST_BACKTRACE")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for (name, value) in folder.env().iter().chain(&options.env) {
            command.env(name, value);
        }
        // Servers that share a database make none.
        let given = is_shared(&folder) && !options.config.contains("tokens:");
        if given {
            let hash = TokenTable::hash(SHARED_TOKEN);
            command.env("VESPIARY_ACCESS_TOKENS", format!("[{{name: generated, sha256: '{hash}', roles: [admin]}}]"));
        }
        let first_start = !is_shared(&folder)
            && !folder.path().join("data/token.sha256").exists()
            && !options.config.contains("tokens:");
        let mut child = command.spawn().expect("the program starts");
        let log = Arc::new(Mutex::new(String::new()));
        let mut errors = BufReader::new(child.stderr.take().expect("standard error is piped"));
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while errors.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                kept.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        let mut out = BufReader::new(child.stdout.take().expect("standard output is piped"));
        let mut url = String::new();
        let _ = out.read_line(&mut url);
        if !url.starts_with("http://") {
            let _ = child.kill();
            let _ = child.wait();
            std::thread::sleep(Duration::from_millis(50));
            return Err(log.lock().unwrap_or_else(PoisonError::into_inner).clone());
        }
        let mut made = given.then(|| SHARED_TOKEN.to_owned());
        if first_start {
            let mut line = String::new();
            let _ = out.read_line(&mut line);
            made = line.trim().strip_prefix("token ").map(str::to_owned);
        }
        std::thread::spawn(move || out.read_to_end(&mut Vec::new()));
        let url = url.trim().to_owned();
        Ok(Self { child, folder, options, url, token: token.or(made), log })
    }

    /// A client without a token.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(&self.url, None)
    }

    /// A client with the token that the server made at its first start, or was given, which may do everything.
    #[must_use]
    pub fn admin(&self) -> Client {
        Client::new(&self.url, self.token.clone())
    }

    /// The server's URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The folder of everything: `data`, `plugins`, `vespiary.yaml`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder itself, to keep it when the server goes.
    #[must_use]
    pub fn keep_folder(&self) -> Arc<Folder> {
        Arc::clone(&self.folder)
    }

    /// The watched folder.
    #[must_use]
    pub fn plugins(&self) -> PathBuf {
        self.folder().join("plugins")
    }

    /// The token that the server made or was given.
    #[must_use]
    pub fn token(&self) -> Option<String> {
        self.token.clone()
    }

    /// What the server wrote to standard error so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until it ends by itself.
    pub fn wait_dead(&mut self, at_most: Duration) {
        let end = Instant::now() + at_most;
        while self.child.try_wait().expect("a child can be waited for").is_none() {
            assert!(Instant::now() < end, "the server is still alive after {at_most:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asks it to stop and waits; whether it ended with exit code 0.
    pub fn stop(&mut self) -> bool {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        self.wait_dead(Duration::from_secs(30));
        self.child.wait().is_ok_and(|status| status.success())
    }

    /// Kills it if it still runs and starts it again in the same folder, without the variables of the first start.
    #[must_use]
    pub fn restart(mut self) -> Self {
        self.kill();
        let options = ServerOptions { env: Vec::new(), ..self.options.clone() };
        Self::launch(Arc::clone(&self.folder), options, Some(self.token.clone().unwrap_or_default()))
    }

    /// Runs `vespiary` with these arguments against this server: exit code, standard output, standard error.
    #[must_use]
    pub fn cli(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(workspace::program());
        command.args(args).env("VESPIARY_URL", &self.url).current_dir(self.folder());
        command.envs(self.folder.env());
        if let Some(token) = &self.token {
            command.env("VESPIARY_TOKEN", token);
        }
        let output = command.output().expect("the program runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    /// Key and size of the archive's objects whose keys begin so.
    #[must_use]
    pub fn archived(&self, beginning: &str) -> BTreeMap<String, u64> {
        self.folder.archived(beginning)
    }

    /// How many runs the runner still has; on a cluster, Jobs and pods that it still holds.
    #[must_use]
    pub fn runs_left(&self) -> usize {
        match self.folder.namespace() {
            Some(namespace) => namespace.held().len(),
            None => std::fs::read_dir(self.folder().join("data/runs")).expect("the runs' folder").count(),
        }
    }

    /// Where its Jobs are, with the Kubernetes runner.
    #[must_use]
    pub fn namespace(&self) -> Option<&Namespace> {
        self.folder.namespace()
    }

    /// Asks the history: an array of objects.
    #[must_use]
    pub fn sql(&self, statement: &str) -> Vec<serde_json::Value> {
        let data = self.folder().join("data");
        let (code, out, err) = self.cli(&["sql", "--data", &data.to_string_lossy(), "--json", statement]);
        assert_eq!(code, 0, "{statement}: {err}");
        serde_json::from_str(&out).expect("JSON")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- the server's log, its last lines ---");
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}
