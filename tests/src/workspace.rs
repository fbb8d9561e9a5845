//! Where things are in the workspace.

use std::path::{Path, PathBuf};

/// The root of the workspace.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a member of the workspace").to_owned()
}

/// The program under test, built beside the test itself.
#[must_use]
pub fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let beside = test.parent().and_then(Path::parent).expect("tests are in target/PROFILE/deps");
    let program = [beside, test.parent().expect("a folder")]
        .iter()
        .map(|folder| folder.join("vespiary"))
        .find(|path| path.exists());
    program.unwrap_or_else(|| panic!("no vespiary beside {}: run `make test`", beside.display()))
}

/// A processor by the name of its crate.
#[must_use]
pub fn processor(name: &str) -> PathBuf {
    let path = root().join("target/wasm32-wasip2/plugin").join(format!("{}.wasm", name.replace('-', "_")));
    let dashed = root().join("target/wasm32-wasip2/plugin").join(format!("{name}.wasm"));
    [dashed, path]
        .into_iter()
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("no {name}.wasm: run `make plugins`"))
}
