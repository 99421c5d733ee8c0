//! The fuzzer of the drive `root_path`.

#![no_main]

#[path = "../drives/mod.rs"]
mod drives;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drives::root_path(bytes));
