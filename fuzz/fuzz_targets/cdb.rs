//! The fuzzer of the drive `cdb`.

#![no_main]

#[path = "../drives/mod.rs"]
mod drives;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drives::cdb(bytes));
