//! The fuzzer of the drive `initiator_stream`.

#![no_main]

#[path = "../drives/mod.rs"]
mod drives;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drives::initiator_stream(bytes));
