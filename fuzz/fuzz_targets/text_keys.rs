//! The fuzzer of the drive `text_keys`.

#![no_main]

#[path = "../drives/mod.rs"]
mod drives;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drives::text_keys(bytes));
