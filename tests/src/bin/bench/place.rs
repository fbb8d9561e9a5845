//! Where the bench keeps what is worth keeping, and folders that go when they are dropped.

use std::path::PathBuf;

use crate::Outcome;

/// `bench` in the folder of builds: on the same disk as everything else that is measured.
pub(crate) fn kept() -> Outcome<PathBuf> {
    let program = std::env::current_exe()?;
    let builds = program.ancestors().nth(2).ok_or("the program is not in a folder of builds")?;
    let folder = builds.join("bench");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// A new folder in there.
pub(crate) fn passing() -> Outcome<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix("run-").tempdir_in(kept()?)?)
}

/// The folder of the compiled code of processors, kept from run to run.
pub(crate) fn compiled() -> Outcome<PathBuf> {
    Ok(kept()?.join("compiled"))
}
