//! Policy.
/// Bounds.
#[derive(Debug, Default)]
pub struct Policy {}
