//! The data folder: one server at a time, readable by its owner alone.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::AppError;
use crate::core::access::{Settings, TokenTable};

/// The folder, locked for as long as this value lives.
pub(super) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the folder where it is missing and takes its lock.
    pub(super) fn open(path: PathBuf) -> Result<Self, AppError> {
        let failed = |what| {
            let path = path.clone();
            move |source| AppError::DataDir { path, what, source }
        };
        create_private(&path).map_err(failed("it cannot be made"))?;
        let path = path.canonicalize().map_err(failed("it cannot be found"))?;
        let failed = |what| {
            let path = path.clone();
            move |source| AppError::DataDir { path, what, source }
        };
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(failed("it cannot be written to"))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(AppError::InUse(path)),
            Err(error) => Err(failed("it cannot be locked")(error.into())),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A folder in it, made where it is missing.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf, AppError> {
        let folder = self.path.join(name);
        self.create(&folder)?;
        Ok(folder)
    }

    /// Makes a folder where it is missing.
    pub(super) fn create(&self, folder: &Path) -> Result<(), AppError> {
        create_private(folder).map_err(|source| AppError::DataDir {
            path: folder.to_owned(),
            what: "it cannot be made",
            source,
        })
    }

    /// Where the hash of the generated token is kept.
    pub(super) fn token_file(&self) -> PathBuf {
        self.path.join("token.sha256")
    }

    /// The tokens of the configuration, or one that is generated at the first start. The second part is that one, to be kept and shown
    /// once the server serves. None is generated where servers share their jobs: the others would not know it.
    pub(super) fn token_table(
        &self,
        settings: &Settings,
        is_shared: bool,
    ) -> Result<(TokenTable, Option<String>), AppError> {
        let refused = |wrong: Vec<String>| AppError::Part { part: "access", source: wrong.join("; ").into() };
        if !settings.tokens.is_empty() || is_shared {
            return TokenTable::new(settings).map(|table| (table, None)).map_err(refused);
        }
        let file = self.token_file();
        let failed =
            |source| AppError::DataDir { path: file.clone(), what: "the token's hash cannot be kept in it", source };
        let (hash, made) = match fs::read_to_string(&file) {
            Ok(text) => (text.trim().to_owned(), None),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // Two random UUIDs: 244 random bits.
                let token = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
                (TokenTable::hash(&token), Some(token))
            }
            Err(error) => return Err(failed(error)),
        };
        TokenTable::with_generated(settings, &hash).map(|table| (table, made)).map_err(refused)
    }
}

impl DataDir {
    /// Keeps the hash of the generated token: whole or not at all.
    pub(super) fn keep_token(&self, token: &str) -> Result<(), AppError> {
        let file = self.token_file();
        let made = file.with_extension("sha256.new");
        let keep = || {
            let mut kept = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&made)?;
            writeln!(kept, "{}", TokenTable::hash(token))?;
            kept.sync_all()?;
            fs::rename(&made, &file)?;
            File::open(&self.path)?.sync_all()
        };
        keep().map_err(|source| AppError::DataDir {
            path: self.path.clone(),
            what: "the token's hash cannot be kept in it",
            source,
        })
    }
}

fn create_private(path: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_generated_for_a_server_of_its_own_alone() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path().join("data")).unwrap();
        let (_, made) = data.token_table(&Settings::default(), true).unwrap();
        assert_eq!(made, None);
        let (table, made) = data.token_table(&Settings::default(), false).unwrap();
        assert!(table.find(&made.unwrap()).is_some());
    }
}
