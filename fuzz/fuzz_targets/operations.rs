//! The fuzzer of the drive `operations`.

#![no_main]

#[path = "../drives/mod.rs"]
mod drives;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drives::operations(bytes));
