//! `kubectl`, as an operator calls it.

use std::process::Command;

/// Runs it; what it printed, or what it complained of.
pub fn try_kubectl(words: &[&str]) -> Result<String, String> {
    let output = Command::new("kubectl").args(words).output().expect("kubectl is on the path");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Runs it: what it printed. It must succeed.
#[must_use]
pub fn kubectl(words: &[&str]) -> String {
    try_kubectl(words).unwrap_or_else(|complaint| panic!("kubectl {}: {complaint}", words.join(" ")))
}
