//! The name of a data folder's runs, made once and kept in the folder: what runs here is seen from here alone.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

/// Made anew only with the folder: runs that another folder had are not ours.
const FILE: &str = "runner-id";

/// `local/` and the folder's own name. Blocks.
pub(super) fn of(data_dir: &Path) -> io::Result<String> {
    let file = data_dir.join(FILE);
    if let Some(scope) = read(&file)? {
        return Ok(scope);
    }
    let name = uuid::Uuid::now_v7().to_string();
    let new = file.with_extension("new");
    let mut written = File::create(&new)?;
    writeln!(written, "{name}")?;
    written.sync_all()?;
    fs::rename(&new, &file)?;
    File::open(data_dir)?.sync_all()?;
    Ok(format!("local/{name}"))
}

/// The same where it has been made. Blocks.
pub(super) fn known(data_dir: &Path) -> Option<String> {
    read(&data_dir.join(FILE)).ok().flatten()
}

fn read(file: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(file) {
        Ok(name) if uuid::Uuid::parse_str(name.trim()).is_ok() => Ok(Some(format!("local/{}", name.trim()))),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_with_the_folder() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = of(folder.path()).unwrap();
        assert!(first.starts_with("local/"), "{first}");
        assert_eq!(of(folder.path()).unwrap(), first);
        assert_ne!(of(other.path()).unwrap(), first);
    }
}
