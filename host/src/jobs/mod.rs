//! The use cases, and the only place that combines adapters.

pub mod capture;
