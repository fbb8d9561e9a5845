//! Processes that run a shell text, for the configuration of a server under test.

/// An entry of `processes:` that runs this text with `sh`. `outputs` is YAML in one line, `more` are further lines of the processor's
/// configuration.
#[must_use]
pub fn process(id: &str, outputs: &str, more: &str, script: &str) -> String {
    let indented =
        |text: &str, by: usize| text.lines().map(|line| format!("{:by$}{line}\n", "")).collect::<Vec<_>>().concat();
    format!(
        "  - processor: generic-image\n    config:\n      metadata: {{ id: {id}, version: 1.0.0, title: {id}, inputs: {{ text: {{ schema: {{ type: string }}, minOccurs: 0 }} }}, outputs: {outputs} }}\n      default_image: busybox:1.36\n      check_auth: false\n{}      command:\n        - sh\n        - -c\n        - |\n{}",
        indented(more, 6),
        indented(script, 10)
    )
}
