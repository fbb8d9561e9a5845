//! `generic-image`: runs any container image. One component, any number of processes: each is a configuration, and the configuration is a
//! process definition as pygeoapi's Kubernetes job processors know it. The `README.md` beside this crate lists the keys.
//!
//! Description and plan depend on the configuration alone; the inputs of a request reach the container in the variable that the host sets.

use serde_json::Value;
use vespiary_processor::{Caller, Plan, Processor, Rejection, Request};

mod metadata;
mod pod;
mod section;
mod text;

use section::{Errors, Section};

struct GenericImage {
    description: Value,
    plan: Plan,
    check_auth: bool,
}

impl Processor for GenericImage {
    /// Read by hand: all that is wrong is told at once.
    type Config = Value;

    fn new(config: Value) -> Result<Self, String> {
        let mut errors = Errors::default();
        let mut definition = Section::root(config, &mut errors);
        let check_auth = definition.flag("check_auth", &mut errors).unwrap_or(true);
        let (description, from_outputs) = metadata::read(&mut definition, check_auth, &mut errors);
        let media_type = definition.media_type("mimetype", &mut errors).or(from_outputs);
        let plan = pod::read(&mut definition, media_type, &mut errors);
        // The class that a definition of the original names.
        definition.ignore("name");
        for key in ["pod_security_context", "container_security_context"] {
            if definition.ignore(key) {
                errors.add(
                    key,
                    "is not supported: use 'security' for users, groups and seccomp, 'pod_patch' for the rest",
                );
            }
        }
        definition.end(&mut errors);
        errors.check()?;
        Ok(Self { description, plan, check_auth })
    }

    fn check_auth(&self) -> bool {
        self.check_auth
    }

    fn describe(&self) -> Result<Value, String> {
        Ok(self.description.clone())
    }

    fn shape(&self, _request: &Request, _caller: &Caller) -> Result<Plan, Rejection> {
        Ok(self.plan.clone())
    }
}

vespiary_processor::export!(GenericImage);

#[cfg(test)]
mod tests;
