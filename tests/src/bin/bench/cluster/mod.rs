//! `make bench-cluster`: what Kubernetes, PostgreSQL and S3 are worked with, each figure beside a bare loop on the same servers.
//!
//! Takes the servers from the variables that the end-to-end tests take them from. Works in namespaces, a database and a part of a bucket
//! of its own, which are gone at the end.

mod create;
mod memory;
mod readable;
mod reads;
mod seen;
mod site;
mod stream;
mod synchronous;

use crate::Measure;

pub(crate) use self::stream::child;

/// The figures, in the order of the table. That which leaves ten thousand Jobs to be deleted is the last.
pub(crate) const FIGURES: &[(&str, Measure)] = &[
    ("create", create::measure),
    ("readable", readable::measure),
    ("synchronous", synchronous::measure),
    ("reads", reads::measure),
    ("stream", stream::measure),
    ("memory", memory::measure),
];
