//! What is generated from `wit/v1`: the records of the contract, the host's functions and the trait behind the exports.
//!
//! The only place with unsafe code: the canonical ABI passes pointers. Plugins use the names that the crate's root exports.
#![allow(unsafe_code, reason = "the generated code passes pointers as the canonical ABI wants it")]
#![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]

wit_bindgen::generate!({
    path: "../../wit/v1",
    world: "processor",
    additional_derives: [PartialEq],
    pub_export_macro: true,
    export_macro_name: "export_guest",
    default_bindings_module: "vespiary_processor::bindings",
});
